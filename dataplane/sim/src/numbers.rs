//! What a client negotiates: which codecs, and under which payload types. In a mixed room no two clients agree on a number.

use auralink_proto::{Codec, H264Profile, PayloadMap};

use crate::publish::{AUDIO_PT, RTX_PT, VIDEO_PT};

/// Video codecs of a mixed room, sent in turn.
pub const VIDEO: [Codec; 5] = [
    Codec::Vp8,
    Codec::Vp9 { profile: 0 },
    Codec::H264 { profile: H264Profile::ConstrainedBaseline, mode: 1 },
    Codec::Av1 { profile: 0, tier: 0 },
    Codec::H265 { profile: 1, tier: 0 },
];
/// Audio codecs of a mixed room, sent in turn.
pub const AUDIO: [Codec; 3] = [Codec::Red, Codec::Opus, Codec::Pcmu];
/// Dynamic payload types: 96 to 127.
const DYNAMIC: u16 = 32;

#[derive(Clone, Debug)]
pub struct Numbers {
    audio: Vec<PayloadMap>,
    video: Vec<PayloadMap>,
    /// What the client sends.
    pub sends_audio: Codec,
    pub sends_video: Codec,
    /// Whether video comes with dependency descriptors.
    pub dependency: bool,
}

fn audio(pt: u8, codec: Codec) -> PayloadMap {
    PayloadMap { pt, codec, rtx_pt: None, nack: true, pli: false, transport_cc: true }
}

fn video(pt: u8, codec: Codec, rtx_pt: u8) -> PayloadMap {
    PayloadMap { pt, codec, rtx_pt: Some(rtx_pt), nack: true, pli: true, transport_cc: true }
}

impl Numbers {
    /// Opus and VP8, under the same numbers for everyone.
    pub fn plain() -> Self {
        Self {
            audio: vec![audio(AUDIO_PT, Codec::Opus)],
            video: vec![video(VIDEO_PT, Codec::Vp8, RTX_PT)],
            sends_audio: Codec::Opus,
            sends_video: Codec::Vp8,
            dependency: false,
        }
    }

    /// Every codec under numbers of the client's own, except that one client in three does not know redundant audio.
    pub fn mixed(client: u16) -> Self {
        let number = |k: u16| 96 + ((k + client * 7) % DYNAMIC) as u8;
        let mut sounds = vec![audio(number(0), Codec::Opus), audio(0, Codec::Pcmu)];
        if client % 3 != 2 {
            sounds.push(audio(number(1), Codec::Red));
        }
        let pictures = (0..).zip(VIDEO).map(|(n, codec)| video(number(2 + 2 * n), codec, number(3 + 2 * n)));
        Self {
            audio: sounds,
            video: pictures.collect(),
            sends_audio: AUDIO[usize::from(client) % AUDIO.len()],
            sends_video: VIDEO[usize::from(client) % VIDEO.len()],
            dependency: true,
        }
    }

    /// The same sending one codec only.
    pub fn sending_video(self, codec: Codec) -> Self {
        Self { sends_video: codec, ..self }
    }

    /// Of what the client sends, in hertz.
    pub fn clock_rate(&self, video: bool) -> u32 {
        if video { self.sends_video.clock_rate() } else { self.sends_audio.clock_rate() }
    }

    pub fn payloads(&self, video: bool) -> &[PayloadMap] {
        if video { &self.video } else { &self.audio }
    }

    fn all(&self) -> impl Iterator<Item = &PayloadMap> {
        self.audio.iter().chain(&self.video)
    }

    /// The number of a codec.
    pub fn pt(&self, codec: Codec) -> Option<u8> {
        self.all().find(|map| map.codec == codec).map(|map| map.pt)
    }

    /// What repairs payload type `pt`.
    pub fn repair_of(&self, pt: u8) -> Option<u8> {
        self.all().find(|map| map.pt == pt)?.rtx_pt
    }

    /// The codec of a number, and whether it is being repaired.
    pub fn read(&self, pt: u8) -> Option<(Codec, bool)> {
        let map = self.all().find(|map| map.pt == pt || map.rtx_pt == Some(pt))?;
        Some((map.codec, map.pt != pt))
    }
}
