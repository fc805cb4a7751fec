//! The recorded media every publisher plays and every receiver compares with: VP8 in IVF files, Opus in an Ogg file
//! (RFC 3533, RFC 7845). How they were made: `media/README.md`.

use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};

const PICTURES: [&[u8]; 3] = [
    include_bytes!("../media/picture-180.ivf"),
    include_bytes!("../media/picture-360.ivf"),
    include_bytes!("../media/picture-720.ivf"),
];
const TONE: &[u8] = include_bytes!("../media/tone.ogg");

/// Frames per second of every picture.
pub(crate) const FRAME_RATE: u32 = 15;
/// Width and height of the layers, lowest first.
pub(crate) const SIZES: [(u32, u32); 3] = [(320, 180), (640, 360), (1_280, 720)];

const IVF_HEADER_LEN: usize = 32;
const IVF_FRAME_HEADER_LEN: usize = 12;
const OGG_HEADER_LEN: usize = 27;
/// Identification and comment header of Opus in Ogg.
const OGG_HEADER_PACKETS: usize = 2;

/// One frame of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: &'static [u8],
    pub(crate) is_keyframe: bool,
}

/// Which frame of which layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrameId {
    pub(crate) layer: usize,
    pub(crate) index: usize,
}

/// The whole recording.
#[derive(Debug)]
pub(crate) struct Recording {
    /// Lowest layer first.
    pub(crate) layers: Vec<Vec<Frame>>,
    pub(crate) tone: Vec<Vec<u8>>,
    by_bytes: HashMap<&'static [u8], FrameId>,
}

impl Recording {
    /// Reads the embedded files.
    pub(crate) fn load() -> Result<Self> {
        let layers = PICTURES.into_iter().map(read_ivf).collect::<Result<Vec<_>>>()?;
        let tone = read_ogg(TONE).context("the recorded tone")?;
        let mut by_bytes = HashMap::new();
        for (layer, frames) in layers.iter().enumerate() {
            for (index, frame) in frames.iter().enumerate() {
                by_bytes.insert(frame.bytes, FrameId { layer, index });
            }
        }
        Ok(Self { layers, tone, by_bytes })
    }

    /// Which frame has exactly these bytes.
    pub(crate) fn find(&self, bytes: &[u8]) -> Option<FrameId> {
        self.by_bytes.get(bytes).copied()
    }

    /// Whether a packet of the tone has exactly these bytes.
    pub(crate) fn has_sound(&self, bytes: &[u8]) -> bool {
        self.tone.iter().any(|packet| packet == bytes)
    }

    /// Whether `next` may be shown after `previous`: it follows in the loop, or needs nothing before it.
    pub(crate) fn may_follow(&self, previous: FrameId, next: FrameId) -> bool {
        let Some(frames) = self.layers.get(next.layer) else { return false };
        let is_next = previous.layer == next.layer && (previous.index + 1) % frames.len() == next.index;
        is_next || frames.get(next.index).is_some_and(|frame| frame.is_keyframe)
    }
}

fn read_ivf(file: &'static [u8]) -> Result<Vec<Frame>> {
    ensure!(file.starts_with(b"DKIF") && file.get(8..12) == Some(b"VP80"), "not VP8 in IVF");
    let mut rest = file.get(IVF_HEADER_LEN..).context("IVF header")?;
    let mut frames = Vec::new();
    while let Some((header, behind)) = rest.split_first_chunk::<IVF_FRAME_HEADER_LEN>() {
        let [l0, l1, l2, l3, ..] = *header;
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let (bytes, next) = behind.split_at_checked(len).context("IVF frame is cut short")?;
        let first = *bytes.first().context("IVF frame is empty")?;
        // The inverse key frame flag (RFC 6386 §9.1).
        frames.push(Frame { bytes, is_keyframe: first & 1 == 0 });
        rest = next;
    }
    ensure!(frames.first().is_some_and(|frame| frame.is_keyframe), "a loop starts with a keyframe");
    Ok(frames)
}

fn read_ogg(file: &[u8]) -> Result<Vec<Vec<u8>>> {
    let (mut packets, mut packet, mut rest) = (Vec::new(), Vec::new(), file);
    while !rest.is_empty() {
        let (header, behind) = rest.split_at_checked(OGG_HEADER_LEN).context("Ogg page is cut short")?;
        ensure!(header.starts_with(b"OggS"), "not an Ogg page");
        let segments = header.last().map_or(0, |count| usize::from(*count));
        let (lacing, mut body) = behind.split_at_checked(segments).context("Ogg lacing is cut short")?;
        for len in lacing {
            let (bytes, behind) =
                body.split_at_checked(usize::from(*len)).context("Ogg body is cut short")?;
            packet.extend_from_slice(bytes);
            body = behind;
            if *len < 255 {
                packets.push(std::mem::take(&mut packet));
            }
        }
        rest = body;
    }
    ensure!(packets.len() > OGG_HEADER_PACKETS, "no sound in the Ogg file");
    Ok(packets.split_off(OGG_HEADER_PACKETS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_is_found_by_its_bytes_and_by_no_others() {
        let recording = Recording::load().unwrap();
        for (layer, frames) in recording.layers.iter().enumerate() {
            assert_eq!(frames.len(), 4 * FRAME_RATE as usize);
            for (index, frame) in frames.iter().enumerate() {
                assert_eq!(recording.find(frame.bytes), Some(FrameId { layer, index }));
                assert_eq!(frame.is_keyframe, index % 30 == 0, "layer {layer} frame {index}");
                let mut changed = frame.bytes.to_vec();
                changed[frame.bytes.len() / 2] ^= 1;
                assert_eq!(recording.find(&changed), None);
            }
        }
        assert!((200..=202).contains(&recording.tone.len()));
        assert!(recording.has_sound(&recording.tone[7]) && !recording.has_sound(b"noise"));
    }

    #[test]
    fn frames_follow_in_order_or_with_a_keyframe() {
        let recording = Recording::load().unwrap();
        let at = |layer, index| FrameId { layer, index };
        assert!(recording.may_follow(at(1, 3), at(1, 4)) && recording.may_follow(at(1, 59), at(1, 0)));
        assert!(recording.may_follow(at(1, 3), at(2, 30)));
        assert!(!recording.may_follow(at(1, 3), at(1, 5)) && !recording.may_follow(at(1, 3), at(2, 4)));
    }
}
