//! One incoming stream of a sink: what of it arrived, and the checks of a decrypted sample.

use auralink_rtc::rtp::{RtpHeader, padding_len};
use auralink_rtc::srtp::SrtpOpen;

use super::gaps::{Arrival, Gaps};
use super::payload::{self, Kind, Stamp};
use crate::sdp::{OPUS_PT, RTX_PT, VP8_PT};

/// Kinds of incoming streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Incoming {
    Media(Kind),
    Repair,
}

impl Incoming {
    pub(crate) fn of(pt: u8) -> Option<Self> {
        match pt {
            VP8_PT => Some(Self::Media(Kind::Video)),
            OPUS_PT => Some(Self::Media(Kind::Audio)),
            RTX_PT => Some(Self::Repair),
            _ => None,
        }
    }
}

/// How far the search for the first whole keyframe is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Keyframe {
    Waiting,
    /// Its next packet must have this number.
    Inside {
        next: u16,
    },
    Whole,
}

pub(crate) struct Stream {
    pub(crate) ssrc: u32,
    pub(crate) kind: Incoming,
    pub(crate) gaps: Gaps,
    /// Middle of the last sender report's NTP time, and when it came.
    pub(crate) last_report: Option<(u32, u64)>,
    pub(crate) last_pli_ns: u64,
    /// When the stream was first heard.
    pub(crate) since_ns: u64,
    keyframe: Keyframe,
    until_sample: u32,
}

/// What a decrypted sample says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sample {
    /// As published; the send time.
    Matches(Stamp),
    /// The key does not open it.
    Sealed,
    /// Opened, and not what was published.
    Mismatch(payload::Mismatch),
    /// Nothing in it, as servers send to probe the path.
    Padding,
}

impl Stream {
    /// `phase` is the first packet opened as a sample.
    pub(crate) fn new(ssrc: u32, kind: Incoming, now_ns: u64, phase: u32) -> Self {
        let keyframe = if kind == Incoming::Media(Kind::Video) { Keyframe::Waiting } else { Keyframe::Whole };
        Self {
            ssrc,
            kind,
            gaps: Gaps::default(),
            last_report: None,
            last_pli_ns: 0,
            since_ns: now_ns,
            keyframe,
            until_sample: phase,
        }
    }

    /// Whether this packet is to be opened: one in `one_in`, and all until a whole keyframe was seen.
    pub(crate) fn is_sample(&mut self, one_in: u32) -> bool {
        if self.until_sample == 0 {
            self.until_sample = one_in.saturating_sub(1);
            return true;
        }
        self.until_sample -= 1;
        self.keyframe != Keyframe::Whole || self.kind == Incoming::Repair
    }

    /// Takes the first keyframe for seen.
    pub(crate) fn needs_no_keyframe(mut self) -> Self {
        self.keyframe = Keyframe::Whole;
        self
    }

    pub(crate) fn wants_keyframe(&self) -> bool {
        self.keyframe != Keyframe::Whole
    }

    /// Follows the first keyframe; `true` with its last packet.
    pub(crate) fn follow_keyframe(&mut self, seq: u16, arrival: Arrival, stamp: &Stamp) -> bool {
        if self.keyframe == Keyframe::Whole {
            return false;
        }
        let is_start = stamp.keyframe && stamp.frame_start;
        let continues = self.keyframe == Keyframe::Inside { next: seq } && stamp.keyframe;
        self.keyframe = match arrival {
            Arrival::New if (is_start || continues) && stamp.marker => Keyframe::Whole,
            Arrival::New if is_start || continues => Keyframe::Inside { next: seq.wrapping_add(1) },
            _ => Keyframe::Waiting,
        };
        self.keyframe == Keyframe::Whole
    }
}

/// Opens `datagram` and compares it with what was published. For a repair also gives the number it repairs.
pub(crate) fn sample(
    open: &mut SrtpOpen,
    kind: Incoming,
    header: &RtpHeader,
    datagram: &[u8],
    scratch: &mut [u8],
) -> (Sample, Option<u16>) {
    let Ok((_, len)) = open.open_rtp(header, datagram, scratch) else { return (Sample::Sealed, None) };
    let mut payload = scratch.get(..len).unwrap_or_default();
    if header.padding {
        let padding = padding_len(payload).unwrap_or(payload.len());
        payload = payload.get(..payload.len() - padding).unwrap_or_default();
    }
    let (original, kind) = match kind {
        Incoming::Media(kind) => (None, kind),
        Incoming::Repair => {
            // The original number, then the original payload (RFC 4588 §4).
            let Some((number, rest)) = payload.split_first_chunk() else { return (Sample::Padding, None) };
            payload = rest;
            (Some(u16::from_be_bytes(*number)), Kind::Video)
        }
    };
    if payload.is_empty() {
        return (Sample::Padding, None);
    }
    match payload::verify(kind, payload) {
        Ok(stamp) => (Sample::Matches(stamp), original),
        Err(mismatch) => (Sample::Mismatch(mismatch), original),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(keyframe: bool, frame_start: bool, marker: bool) -> Stamp {
        Stamp { publisher: 1, index: 0, sent_ns: 0, len: 100, keyframe, frame_start, marker }
    }

    fn video() -> Stream {
        Stream::new(1, Incoming::Media(Kind::Video), 0, 0)
    }

    #[test]
    fn a_keyframe_counts_when_all_of_it_came_in_order() {
        let mut stream = video();
        assert!(!stream.follow_keyframe(1, Arrival::New, &stamp(false, true, true)));
        assert!(!stream.follow_keyframe(2, Arrival::New, &stamp(true, true, false)));
        assert!(!stream.follow_keyframe(3, Arrival::New, &stamp(true, false, false)));
        assert!(stream.follow_keyframe(4, Arrival::New, &stamp(true, false, true)));
        assert!(!stream.wants_keyframe());
    }

    #[test]
    fn a_keyframe_with_a_hole_does_not_count() {
        let mut stream = video();
        assert!(!stream.follow_keyframe(2, Arrival::New, &stamp(true, true, false)));
        assert!(!stream.follow_keyframe(4, Arrival::New, &stamp(true, false, true)));
        assert!(stream.wants_keyframe());
    }

    #[test]
    fn one_in_n_is_opened_once_a_keyframe_was_seen() {
        let mut stream = video();
        assert!((0..10).all(|_| stream.is_sample(5)));
        assert!(stream.follow_keyframe(1, Arrival::New, &stamp(true, true, true)));
        assert_eq!((0..20).filter(|_| stream.is_sample(5)).count(), 4);
    }
}
