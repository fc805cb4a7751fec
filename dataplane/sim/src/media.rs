//! What the simulated clients send: payloads that say which packet they are, so that a receiver can tell what it got.

use auralink_codecs::vp8;

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

/// Octets of [`Identity`] in a payload.
const IDENTITY_LEN: usize = 16;
/// A VP8 descriptor with 15-bit picture id and TL0PICIDX, and the payload header.
const DESCRIPTOR_LEN: usize = 6;

fn filler(identity: &Identity, index: usize) -> u8 {
    (identity.seq as u8).wrapping_mul(31).wrapping_add(index as u8)
}

/// A payload of `len` octets.
pub fn write(identity: &Identity, frame_start: bool, len: usize) -> Vec<u8> {
    let mut payload = Vec::with_capacity(len);
    if identity.video {
        let [high, low] = (identity.frame as u16 & 0x7fff | 0x8000).to_be_bytes();
        let start = if frame_start { 0x10 } else { 0 };
        let header = u8::from(!identity.keyframe_start);
        payload.extend([0x80 | start, 0xc0, high, low, identity.frame as u8, header]);
    }
    payload.extend(identity.client.to_be_bytes());
    payload.extend([u8::from(identity.video), identity.layer]);
    payload.extend(identity.frame.to_be_bytes());
    payload.extend((identity.seq << 1 | u64::from(identity.keyframe_start)).to_be_bytes());
    let from = payload.len();
    payload.extend((from..len.max(from)).map(|index| filler(identity, index)));
    payload
}

/// Reads a payload back; `None` when any octet is not what [`write`] wrote.
pub fn read(video: bool, payload: &[u8]) -> Option<(Identity, Option<vp8::Descriptor>)> {
    let descriptor = if video { Some(vp8::Descriptor::parse(payload)?) } else { None };
    let at = if video { DESCRIPTOR_LEN } else { 0 };
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
    (is_whole && identity.video == video).then_some((identity, descriptor))
}
