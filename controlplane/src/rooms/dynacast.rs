//! Dynacast: a publisher learns the best quality anybody wants of its video, so that it need not send more. More is asked for at
//! once, less only after a while, so that somebody who looks away for a moment costs nothing.

use std::time::{Duration, Instant};

use auralink_livekit::{
    SubscribedCodec, SubscribedQuality, SubscribedQualityUpdate, VideoQuality, signal_response,
};
use auralink_proto::{MediaKind, TrackId};

use super::participant::Participant;
use super::room::{Room, Turn};
use super::track::{Track, is_permitted, wanted_quality};

/// A new track is left alone for this long: subscribers are only arriving.
const FIRST_AFTER: Duration = Duration::from_secs(10);
/// Nobody may have wanted a quality for this long before it is given up.
const LOWER_AFTER: Duration = Duration::from_secs(5);

const QUALITIES: [VideoQuality; 3] = [VideoQuality::Low, VideoQuality::Medium, VideoQuality::High];

/// What a publisher was told of a track.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    live: Option<Instant>,
    /// How many of the qualities were wanted.
    told: Option<usize>,
    /// When less may be told.
    lower: Option<Instant>,
}

impl Room {
    /// Who wants what of a track may have changed.
    pub(super) fn demand_changed(&mut self, id: TrackId) {
        self.demands_changed.insert(id);
    }

    /// Looks at the tracks whose demand may have changed.
    pub(super) fn review_demands(&mut self, turn: &mut Turn<'_>) {
        while let Some(id) = self.demands_changed.pop_first() {
            if self.review(id, turn) {
                self.demands_waiting.insert(id);
            }
        }
    }

    /// Time passes.
    pub(super) fn review_waiting_demands(&mut self, turn: &mut Turn<'_>) {
        self.demands_changed.append(&mut self.demands_waiting);
        self.review_demands(turn);
    }

    /// Tells a publisher what has changed for long enough; true when something has to wait.
    fn review(&mut self, id: TrackId, turn: &mut Turn<'_>) -> bool {
        let Some((publisher, track)) = self.find_track(id) else { return false };
        // What is muted is not sent anyway, and will be looked at again.
        if track.kind != MediaKind::Video || !track.live || track.info.muted {
            return false;
        }
        let (key, sid, wanted) =
            (publisher.key, track.info.sid.clone(), self.qualities_wanted(publisher, track));
        let codecs = track.info.codecs.iter().map(|codec| codec_name(&codec.mime_type)).collect();
        let participant = self.participants.get_mut(&key);
        let track = participant.and_then(|p| p.tracks.iter_mut().find(|t| t.id == id));
        let Some(demand) = track.map(|track| &mut track.demand) else { return false };
        let at = match demand.told {
            None => *demand.live.get_or_insert(turn.now) + FIRST_AFTER,
            Some(told) if wanted > told => turn.now,
            Some(told) if wanted < told => *demand.lower.get_or_insert(turn.now + LOWER_AFTER),
            Some(_) => {
                demand.lower = None;
                return false;
            }
        };
        if turn.now < at {
            return true;
        }
        (demand.told, demand.lower) = (Some(wanted), None);
        let message = signal_response::Message::SubscribedQualityUpdate(update(sid, codecs, wanted));
        turn.signal(key, message);
        false
    }

    /// How many of the qualities, from the lowest up, anybody wants.
    fn qualities_wanted(&self, publisher: &Participant, track: &Track) -> usize {
        let sid = &track.info.sid;
        let receivers = self.participants.values().filter(|receiver| {
            let allowed = is_permitted(publisher.permission.as_ref(), &receiver.sid, &receiver.identity, sid);
            receiver.key != publisher.key && receiver.wishes(sid) && allowed
        });
        let qualities = receivers.map(|receiver| {
            let adaptive = receiver.settings.adaptive_stream;
            let quality = wanted_quality(&track.info, receiver.track_settings.get(sid), adaptive);
            QUALITIES.iter().position(|known| *known == quality).map_or(0, |place| place + 1)
        });
        qualities.max().unwrap_or(0)
    }
}

/// `vp8` of `video/VP8`.
fn codec_name(mime: &str) -> String {
    mime.rsplit('/').next().unwrap_or_default().to_ascii_lowercase()
}

#[allow(deprecated, reason = "older clients read the deprecated fields")]
fn update(track_sid: String, codecs: Vec<String>, wanted: usize) -> SubscribedQualityUpdate {
    let qualities: Vec<SubscribedQuality> = QUALITIES
        .iter()
        .enumerate()
        .map(|(place, quality)| SubscribedQuality { quality: (*quality).into(), enabled: place < wanted })
        .collect();
    let codecs = codecs.into_iter().map(|codec| SubscribedCodec { codec, qualities: qualities.clone() });
    SubscribedQualityUpdate {
        track_sid,
        subscribed_codecs: codecs.collect(),
        subscribed_qualities: qualities,
    }
}
