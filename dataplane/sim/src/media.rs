//! What the simulated clients send: payloads that say which packet they are, so that a receiver can tell what it got.

use auralink_codecs::{red, vp8, vp9};
use auralink_proto::Codec;

/// Identity of one published packet, written into its payload.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Identity {
    /// Which client, counted over the whole run.
    pub client: u16,
    pub video: bool,
    pub layer: u8,
    /// Extended sequence number of the publisher's stream.
    pub seq: u64,
    pub frame: u32,
    /// First packet of a key frame.
    pub keyframe_start: bool,
}

/// What identifies a picture beside its packets' sequence numbers: each has to go on without a seam.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Ids {
    /// 15 bits.
    pub picture: Option<u16>,
    /// Of the dependency descriptor.
    pub frame: Option<u16>,
}

/// Octets of [`Identity`] in a payload.
const IDENTITY_LEN: usize = 16;

fn filler(identity: &Identity, index: usize) -> u8 {
    (identity.seq as u8).wrapping_mul(31).wrapping_add(index as u8)
}

/// The clear octets in front of a video payload.
fn descriptor(codec: Codec, identity: &Identity, frame_start: bool) -> Vec<u8> {
    let [high, low] = (identity.frame as u16 & 0x7fff | 0x8000).to_be_bytes();
    let is_key = identity.keyframe_start;
    match codec {
        Codec::Vp8 => {
            let start = if frame_start { 0x10 } else { 0 };
            vec![0x80 | start, 0xc0, high, low, identity.frame as u8, u8::from(!is_key)]
        }
        Codec::Vp9 { .. } => {
            let start = if frame_start { 0x08 } else { 0 };
            let predicted = if is_key { 0 } else { 0x40 };
            vec![0xa0 | predicted | start, high, low, 0, identity.frame as u8]
        }
        // Parameters, else part of a slice.
        Codec::H264 { .. } => vec![if is_key { 0x67 } else { 0x61 }],
        Codec::H265 { .. } => vec![if is_key { 0x40 } else { 0x02 }, 1],
        Codec::Av1 { .. } => vec![if is_key { 0x18 } else { 0x10 }],
        Codec::Opus | Codec::Red | Codec::Pcmu | Codec::Pcma => Vec::new(),
    }
}

/// A payload of `len` octets, as VP8 or Opus.
pub fn write(identity: &Identity, frame_start: bool, len: usize) -> Vec<u8> {
    let codec = if identity.video { Codec::Vp8 } else { Codec::Opus };
    write_as(codec, identity, frame_start, len)
}

/// A payload of `len` octets.
pub fn write_as(codec: Codec, identity: &Identity, frame_start: bool, len: usize) -> Vec<u8> {
    let mut payload = descriptor(codec, identity, frame_start);
    payload.extend(identity.client.to_be_bytes());
    payload.extend([u8::from(identity.video), identity.layer]);
    payload.extend(identity.frame.to_be_bytes());
    payload.extend((identity.seq << 1 | u64::from(identity.keyframe_start)).to_be_bytes());
    let from = payload.len();
    payload.extend((from..len.max(from)).map(|index| filler(identity, index)));
    payload
}

/// An Opus payload behind two earlier frames, `opus_pt` in front of each.
pub fn redundant(opus_pt: u8, payload: &[u8]) -> Vec<u8> {
    let earlier = |ticks: u16, len: u8| [0x80 | opus_pt, (ticks >> 6) as u8, (ticks << 2) as u8, len];
    let mut whole = [earlier(3_840, 7), earlier(1_920, 5)].concat();
    whole.push(opus_pt);
    whole.extend([0x77; 12]);
    whole.extend(payload);
    whole
}

/// The payload of redundant audio, if all of it names `opus_pt`.
pub fn present(opus_pt: u8, payload: &[u8]) -> Option<&[u8]> {
    let read = red::Redundancy::parse(payload).filter(|read| (read.blocks, read.pt) == (2, opus_pt))?;
    read.primary(payload)
}

/// Reads a payload back; `None` when any octet is not what [`write_as`] wrote, identifiers aside.
pub fn read(codec: Codec, video: bool, payload: &[u8]) -> Option<(Identity, Ids)> {
    let mut ids = Ids::default();
    let at = match codec {
        Codec::Vp8 => {
            let read = vp8::Descriptor::parse(payload)?;
            ids.picture = read.picture_id.map(|id| id.value);
            // The payload header counts too.
            usize::from(read.len) + 1
        }
        Codec::Vp9 { .. } => {
            let read = vp9::Descriptor::parse(payload)?;
            ids.picture = read.picture_id.map(|id| id.value);
            usize::from(read.len)
        }
        Codec::H265 { .. } => 2,
        Codec::H264 { .. } | Codec::Av1 { .. } => 1,
        Codec::Opus | Codec::Red | Codec::Pcmu | Codec::Pcma => 0,
    };
    let body: [u8; IDENTITY_LEN] = payload.get(at..at + IDENTITY_LEN)?.try_into().ok()?;
    let last = u64::from_be_bytes(body[8..].try_into().ok()?);
    let identity = Identity {
        client: u16::from_be_bytes([body[0], body[1]]),
        video: body[2] == 1,
        layer: body[3],
        frame: u32::from_be_bytes([body[4], body[5], body[6], body[7]]),
        seq: last >> 1,
        keyframe_start: last & 1 == 1,
    };
    let from = at + IDENTITY_LEN;
    let is_whole = payload[from..].iter().zip(from..).all(|(byte, index)| *byte == filler(&identity, index));
    let is_same = matches!(codec, Codec::Vp8 | Codec::Vp9 { .. })
        || payload[..at] == descriptor(codec, &identity, false)[..];
    (is_whole && is_same && identity.video == video).then_some((identity, ids))
}
