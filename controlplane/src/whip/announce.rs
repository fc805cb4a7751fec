//! What an offer alone says of the tracks it carries; SDK clients announce theirs before.

use auralink_livekit::{AddTrackRequest, TrackSource, TrackType, VideoLayer, VideoQuality};
use auralink_proto::MediaKind;

use crate::negotiator::offer::{Direction, Offer, OfferedSection, SectionKind};

/// Qualities by place, the lowest layer first.
const QUALITIES: [VideoQuality; 3] = [VideoQuality::Low, VideoQuality::Medium, VideoQuality::High];

/// The tracks that a client sends, as it would announce them.
pub fn tracks(offer: &Offer) -> Vec<AddTrackRequest> {
    let sending = offer.sections.iter().filter(|section| {
        section.usable && matches!(section.direction, Direction::SendOnly | Direction::SendRecv)
    });
    sending.filter_map(track).collect()
}

/// Whether a client could receive anything.
pub fn receives(offer: &Offer) -> bool {
    offer.sections.iter().any(|section| {
        section.usable
            && matches!(section.kind, SectionKind::Media(_))
            && matches!(section.direction, Direction::RecvOnly | Direction::SendRecv)
    })
}

fn track(section: &OfferedSection) -> Option<AddTrackRequest> {
    let SectionKind::Media(kind) = section.kind else { return None };
    let (r#type, source) = match kind {
        MediaKind::Audio => (TrackType::Audio, TrackSource::Microphone),
        MediaKind::Video => (TrackType::Video, TrackSource::Camera),
    };
    let layers = section.rids.iter().zip(QUALITIES).map(|(rid, quality)| VideoLayer {
        quality: quality.into(),
        rid: rid.as_str().to_owned(),
        ..VideoLayer::default()
    });
    Some(AddTrackRequest {
        // Where tracks have no names, the negotiator tells them by kind and order.
        cid: section.msid_track.clone().unwrap_or_else(|| section.mid.as_str().to_owned()),
        r#type: r#type.into(),
        source: source.into(),
        layers: layers.collect(),
        ..AddTrackRequest::default()
    })
}
