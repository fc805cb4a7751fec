//! What the generator's clients publish, as sections of the offer, as track requests, and as streams.

use auralink_livekit::{AddTrackRequest, SimulcastCodec, TrackSource, TrackType, VideoLayer};

use super::outgoing::StreamIdentity;
use super::schedule::Schedule;
use crate::client::negotiate::RECEIVE_SECTIONS;
use crate::publish::RIDS;
use crate::sdp::{Offer, Section};

const AUDIO_CID: &str = "load-audio";
const VIDEO_CID: &str = "load-video";
/// Width, height, packets a frame, bytes a payload: what browsers send for 180p, 360p and 720p, rounded.
const LAYERS: [(u32, u32, usize, u16); 3] =
    [(320, 180, 1, 500), (640, 360, 2, 1_000), (1_280, 720, 6, 1_050)];
/// Stream numbers a client may use.
pub(crate) const STREAMS_PER_CLIENT: u64 = 4;

/// What a client publishes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Publish {
    pub(crate) audio: bool,
    /// 0 for no video, 1 for one stream without rid, 3 for simulcast.
    pub(crate) layers: usize,
}

impl Publish {
    pub(crate) const NOTHING: Self = Self { audio: false, layers: 0 };
    pub(crate) const VIDEO: Self = Self { audio: false, layers: 1 };
    pub(crate) const AUDIO: Self = Self { audio: true, layers: 0 };
    pub(crate) const BOTH: Self = Self { audio: true, layers: 1 };
    pub(crate) const MEETING: Self = Self { audio: true, layers: 3 };
}

/// The schedule of one layer of simulcast.
pub(crate) fn layer_schedule(layer: usize) -> Schedule {
    let (_, _, packets, len) = LAYERS.get(layer).copied().unwrap_or((0, 0, 1, 500));
    Schedule::layer(packets, len)
}

/// The first offer's sections.
pub(crate) fn sections(publish: Publish, subscribes: bool) -> Vec<Section> {
    let mut sections = vec![Section::Data];
    if publish.audio {
        sections.push(Section::SendAudio { cid: AUDIO_CID.into(), ssrc: rand::random() });
    }
    if publish.layers > 0 {
        let rids = if publish.layers > 1 { RIDS.to_vec() } else { Vec::new() };
        let (ssrc, repair_ssrc) = (rand::random(), rand::random());
        sections.push(Section::SendVideo { cid: VIDEO_CID.into(), rids, ssrc, repair_ssrc });
    }
    if subscribes {
        sections.extend(std::iter::repeat_n(Section::ReceiveAudio, RECEIVE_SECTIONS));
        sections.extend(std::iter::repeat_n(Section::ReceiveVideo, RECEIVE_SECTIONS));
    }
    sections
}

/// The streams of an offer's sending sections: audio first, then layers from the lowest.
pub(crate) fn outgoing(offer: &Offer, client: u64) -> Vec<StreamIdentity> {
    let mut streams = Vec::new();
    let mut push = |mid: usize, rid, ssrc, repair_ssrc| {
        let publisher = (client * STREAMS_PER_CLIENT) as u32 + streams.len() as u32;
        streams.push(StreamIdentity { mid: mid.to_string(), rid, ssrc, repair_ssrc, publisher });
    };
    for (mid, section) in offer.sections.iter().enumerate() {
        match section {
            Section::SendAudio { ssrc, .. } => push(mid, None, *ssrc, rand::random()),
            Section::SendVideo { rids, ssrc, repair_ssrc, .. } if rids.is_empty() => {
                push(mid, None, *ssrc, *repair_ssrc);
            }
            Section::SendVideo { rids, .. } => {
                rids.iter().for_each(|rid| push(mid, Some(*rid), rand::random(), rand::random()));
            }
            _ => {}
        }
    }
    streams
}

/// What is announced to the server.
pub(crate) fn track_requests(publish: Publish) -> Vec<AddTrackRequest> {
    let audio = publish.audio.then(|| AddTrackRequest {
        cid: AUDIO_CID.into(),
        name: "load: audio".into(),
        r#type: TrackType::Audio.into(),
        source: TrackSource::Microphone.into(),
        disable_red: true,
        ..Default::default()
    });
    let video = (publish.layers > 0).then(|| {
        let is_simulcast = publish.layers > 1;
        // Alone, the largest goes out.
        let layers = if is_simulcast { &LAYERS[..] } else { &LAYERS[2..] };
        let described: Vec<VideoLayer> =
            layers.iter().enumerate().map(|(at, l)| describe(at, *l, is_simulcast)).collect();
        let (width, height) = layers.last().map(|(width, height, ..)| (*width, *height)).unwrap_or_default();
        let codec = SimulcastCodec {
            codec: "vp8".into(),
            cid: VIDEO_CID.into(),
            layers: described.clone(),
            ..Default::default()
        };
        AddTrackRequest {
            cid: VIDEO_CID.into(),
            name: "load: video".into(),
            r#type: TrackType::Video.into(),
            source: TrackSource::Camera.into(),
            width,
            height,
            layers: described,
            simulcast_codecs: vec![codec],
            ..Default::default()
        }
    });
    audio.into_iter().chain(video).collect()
}

fn describe(at: usize, layer: (u32, u32, usize, u16), is_simulcast: bool) -> VideoLayer {
    let (width, height, packets, len) = layer;
    VideoLayer {
        // A single stream is the high quality.
        quality: if is_simulcast { at as i32 } else { 2 },
        width,
        height,
        bitrate: packets as u32 * u32::from(len) * 8 * 30,
        spatial_layer: at as i32,
        rid: RIDS.get(at).filter(|_| is_simulcast).map(|rid| (*rid).to_owned()).unwrap_or_default(),
        ..Default::default()
    }
}
