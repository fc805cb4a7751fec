//! What the generator's own media carries: who sent it, which packet it is and when, then bytes that follow from those, so that
//! a decrypted sample can be compared byte by byte with what was published.
//!
//! A video payload is a VP8 descriptor (RFC 7741), a frame header where a frame starts, the stamp and the filling; an audio
//! payload an Opus table-of-contents byte, the stamp and the filling.

use std::ops::Range;

use auralink_codecs::vp8::Descriptor;

/// X octet, extension octet, 15-bit picture id, TL0PICIDX, TID.
const DESCRIPTOR_LEN: usize = 6;
/// Frame tag, start code and size of a keyframe (RFC 6386 §9.1); in front of every frame, so that all packets look alike.
const FRAME_HEADER: [u8; 10] = [0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x00, 0x05, 0xd0, 0x02];
/// CELT, full band, 20 ms, stereo, one frame in the packet (RFC 6716 §3.1).
const OPUS_TOC: u8 = 0xfc;
const MAGIC: u32 = 0x4155_5241;
const STAMP_LEN: usize = 27;
const HEAD_LEN_MAX: usize = DESCRIPTOR_LEN + FRAME_HEADER.len();
/// Picture id and TL0PICIDX.
const NUMBERS: Range<usize> = 2..5;
const KEYFRAME: u8 = 1;
const FRAME_START: u8 = 2;
const MARKER: u8 = 4;

/// Bytes of the shortest payload that holds a stamp.
pub(crate) const PAYLOAD_LEN_MIN: usize = DESCRIPTOR_LEN + FRAME_HEADER.len() + STAMP_LEN;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) enum Kind {
    Video,
    Audio,
}

/// Which packet this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    /// The stream it belongs to, unique in a run.
    pub(crate) publisher: u32,
    /// Counts the stream's packets from zero.
    pub(crate) index: u64,
    /// CLOCK_MONOTONIC when it was given to the socket, in nanoseconds.
    pub(crate) sent_ns: u64,
    /// Bytes of the whole payload.
    pub(crate) len: u16,
    pub(crate) keyframe: bool,
    pub(crate) frame_start: bool,
    pub(crate) marker: bool,
}

/// Where a frame stands in its stream; forwarders number frames anew, so this is not compared.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct FrameNumbers {
    pub(crate) picture_id: u16,
    pub(crate) tl0: u8,
}

/// Why a sample is not what was published.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Mismatch {
    #[error("no stamp of this generator")]
    Foreign,
    #[error("the payload descriptor does not say what was published")]
    Descriptor,
    #[error("length differs from what was published")]
    Length,
    #[error("bytes differ from what was published")]
    Bytes,
}

/// Fills `out`, whose length is the payload's.
pub(crate) fn write(kind: Kind, stamp: &Stamp, numbers: FrameNumbers, out: &mut [u8]) {
    debug_assert!(out.len() >= PAYLOAD_LEN_MIN || kind == Kind::Audio);
    let head = head(kind, stamp, numbers);
    let (front, rest) = out.split_at_mut(head.1.min(out.len()));
    front.copy_from_slice(head.0.get(..front.len()).unwrap_or_default());
    let Some((place, filling)) = rest.split_first_chunk_mut::<STAMP_LEN>() else { return };
    *place = stamp.to_bytes();
    fill(stamp, filling);
}

/// Reads the stamp of an opened payload and compares all that follows from it.
pub(crate) fn verify(kind: Kind, payload: &[u8]) -> Result<Stamp, Mismatch> {
    let (stamp, head_len) = parse(kind, payload)?;
    if usize::from(stamp.len) != payload.len() {
        return Err(Mismatch::Length);
    }
    let head = head(kind, &stamp, FrameNumbers::default());
    let mut front = [0; HEAD_LEN_MAX];
    if let (Some(place), Some(came)) = (front.get_mut(..head_len), payload.get(..head_len)) {
        place.copy_from_slice(came);
    }
    if kind == Kind::Video {
        // Forwarders number frames anew.
        front[NUMBERS].copy_from_slice(&head.0[NUMBERS]);
    }
    if front != head.0 {
        return Err(Mismatch::Bytes);
    }
    let filling = payload.get(head_len + STAMP_LEN..).unwrap_or_default();
    if is_filling(&stamp, filling) { Ok(stamp) } else { Err(Mismatch::Bytes) }
}

/// The stamp and where it starts.
fn parse(kind: Kind, payload: &[u8]) -> Result<(Stamp, usize), Mismatch> {
    let at = match kind {
        Kind::Audio => 1,
        Kind::Video => {
            let descriptor = Descriptor::parse(payload).ok_or(Mismatch::Descriptor)?;
            usize::from(descriptor.len) + FRAME_HEADER.len()
        }
    };
    let bytes = payload.get(at..).and_then(<[u8]>::first_chunk).ok_or(Mismatch::Foreign)?;
    let stamp = Stamp::from_bytes(bytes).ok_or(Mismatch::Foreign)?;
    if kind == Kind::Video {
        let descriptor = Descriptor::parse(payload).ok_or(Mismatch::Descriptor)?;
        let is_key_start = stamp.keyframe && stamp.frame_start;
        if descriptor.frame_start != stamp.frame_start
            || descriptor.keyframe_start != is_key_start
            || usize::from(descriptor.len) != DESCRIPTOR_LEN
        {
            return Err(Mismatch::Descriptor);
        }
    }
    Ok((stamp, at))
}

/// What stands in front of the stamp, and its length.
fn head(kind: Kind, stamp: &Stamp, numbers: FrameNumbers) -> ([u8; HEAD_LEN_MAX], usize) {
    let mut bytes = [0; HEAD_LEN_MAX];
    if kind == Kind::Audio {
        bytes[0] = OPUS_TOC;
        return (bytes, 1);
    }
    let [high, low] = (numbers.picture_id | 0x8000).to_be_bytes();
    let start = if stamp.frame_start { 0x10 } else { 0 };
    bytes[..DESCRIPTOR_LEN].copy_from_slice(&[0x80 | start, 0xe0, high, low, numbers.tl0, 0]);
    bytes[DESCRIPTOR_LEN..].copy_from_slice(&FRAME_HEADER);
    // Bit 0 of the frame tag is zero for a keyframe.
    bytes[DESCRIPTOR_LEN] |= u8::from(!stamp.keyframe);
    (bytes, bytes.len())
}

impl Stamp {
    fn to_bytes(self) -> [u8; STAMP_LEN] {
        let mut bytes = [0; STAMP_LEN];
        bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.publisher.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.index.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.sent_ns.to_be_bytes());
        bytes[24..26].copy_from_slice(&self.len.to_be_bytes());
        bytes[26] = self.flags();
        bytes
    }

    fn flags(&self) -> u8 {
        let flags = [(self.keyframe, KEYFRAME), (self.frame_start, FRAME_START), (self.marker, MARKER)];
        flags.iter().filter(|(is, _)| *is).map(|(_, flag)| flag).sum()
    }

    fn from_bytes(bytes: &[u8; STAMP_LEN]) -> Option<Self> {
        let [m0, m1, m2, m3, p0, p1, p2, p3, rest @ ..] = *bytes;
        let [i0, i1, i2, i3, i4, i5, i6, i7, s0, s1, s2, s3, s4, s5, s6, s7, l0, l1, flags] = rest;
        let is_ours =
            u32::from_be_bytes([m0, m1, m2, m3]) == MAGIC && flags <= KEYFRAME | FRAME_START | MARKER;
        is_ours.then(|| Self {
            publisher: u32::from_be_bytes([p0, p1, p2, p3]),
            index: u64::from_be_bytes([i0, i1, i2, i3, i4, i5, i6, i7]),
            sent_ns: u64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            len: u16::from_be_bytes([l0, l1]),
            keyframe: flags & KEYFRAME != 0,
            frame_start: flags & FRAME_START != 0,
            marker: flags & MARKER != 0,
        })
    }
}

/// The `n`-th eight bytes of a packet's filling (the finaliser of splitmix64).
fn word(stamp: &Stamp, n: u64) -> [u8; 8] {
    let stream =
        (u64::from(stamp.publisher) << 3 | u64::from(stamp.flags())).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let packet = stamp.index.wrapping_mul(0xa076_1d64_78bd_642f);
    let mut z = (stream ^ packet).wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).to_le_bytes()
}

fn fill(stamp: &Stamp, out: &mut [u8]) {
    for (n, place) in out.chunks_mut(8).enumerate() {
        let word = word(stamp, n as u64);
        place.copy_from_slice(word.get(..place.len()).unwrap_or_default());
    }
}

fn is_filling(stamp: &Stamp, bytes: &[u8]) -> bool {
    bytes.chunks(8).enumerate().all(|(n, part)| word(stamp, n as u64).get(..part.len()) == Some(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        publisher: 0x0102_0304,
        index: 77,
        sent_ns: 1 << 50,
        len: 1_100,
        keyframe: true,
        frame_start: true,
        marker: false,
    };

    fn written(kind: Kind, stamp: Stamp) -> Vec<u8> {
        let mut payload = vec![0; usize::from(stamp.len)];
        write(kind, &stamp, FrameNumbers { picture_id: 0x1234, tl0: 9 }, &mut payload);
        payload
    }

    #[test]
    fn what_was_written_is_verified_and_the_stamp_comes_back() {
        assert_eq!(verify(Kind::Video, &written(Kind::Video, STAMP)), Ok(STAMP));
        let delta = Stamp { keyframe: false, frame_start: false, marker: true, ..STAMP };
        assert_eq!(verify(Kind::Video, &written(Kind::Video, delta)), Ok(delta));
        let audio = Stamp { len: 83, ..STAMP };
        assert_eq!(verify(Kind::Audio, &written(Kind::Audio, audio)), Ok(audio));
    }

    #[test]
    fn renumbered_frames_are_still_what_was_published() {
        let mut payload = written(Kind::Video, STAMP);
        payload[2..5].copy_from_slice(&[0x80, 1, 200]);
        assert_eq!(verify(Kind::Video, &payload), Ok(STAMP));
    }

    #[test]
    fn every_flipped_bit_that_forwarders_must_not_touch_is_seen() {
        let payload = written(Kind::Video, STAMP);
        // The send time is the one thing nothing else follows from.
        let sent_ns = HEAD_LEN_MAX + 16..HEAD_LEN_MAX + 24;
        for at in (0..payload.len()).filter(|at| !NUMBERS.contains(at) && !sent_ns.contains(at)) {
            for bit in 0..8 {
                let mut changed = payload.clone();
                changed[at] ^= 1 << bit;
                assert!(verify(Kind::Video, &changed).is_err(), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn a_cut_payload_is_not_what_was_published() {
        let payload = written(Kind::Video, STAMP);
        assert_eq!(verify(Kind::Video, &payload[..1_099]), Err(Mismatch::Length));
        assert!(verify(Kind::Video, &payload[..20]).is_err());
        assert!(verify(Kind::Audio, &[]).is_err());
    }

    #[test]
    fn an_sfu_finds_the_keyframe() {
        let descriptor = Descriptor::parse(&written(Kind::Video, STAMP)).unwrap();
        assert!(descriptor.keyframe_start && descriptor.frame_start);
        let descriptor =
            Descriptor::parse(&written(Kind::Video, Stamp { keyframe: false, ..STAMP })).unwrap();
        assert!(!descriptor.keyframe_start && descriptor.frame_start);
    }
}
