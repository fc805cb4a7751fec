//! The data channel establishment protocol: opening and acknowledging a channel in band (RFC 8832 §5).

use sctp_proto::ReliabilityType;

const OPEN: u8 = 0x03;
/// A whole acknowledgement.
pub(super) const ACK: [u8; 1] = [0x02];
const UNORDERED: u8 = 0x80;
/// Message type to protocol length.
const HEAD_LEN: usize = 12;

/// How hard a channel tries to deliver a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reliability {
    Reliable,
    /// Gives up after this many retransmissions.
    Retransmits(u32),
    /// Gives up after this many milliseconds.
    LifetimeMs(u32),
}

impl Reliability {
    pub(super) fn params(self) -> (ReliabilityType, u32) {
        match self {
            Self::Reliable => (ReliabilityType::Reliable, 0),
            Self::Retransmits(count) => (ReliabilityType::Rexmit, count),
            Self::LifetimeMs(ms) => (ReliabilityType::Timed, ms),
        }
    }
}

/// A DATA_CHANNEL_OPEN. The sub-protocol and priority are not used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Open {
    pub(super) label: String,
    pub(super) ordered: bool,
    pub(super) reliability: Reliability,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Dcep {
    Open(Open),
    Ack,
}

/// Reads a message whose label and protocol are at most `text_bytes_max` each.
pub(super) fn parse(bytes: &[u8], text_bytes_max: usize) -> Option<Dcep> {
    match bytes {
        [0x02, ..] => Some(Dcep::Ack),
        [OPEN, kind, _, _, r0, r1, r2, r3, l0, l1, p0, p1, text @ ..] => {
            let parameter = u32::from_be_bytes([*r0, *r1, *r2, *r3]);
            let reliability = match kind & !UNORDERED {
                0 => Reliability::Reliable,
                1 => Reliability::Retransmits(parameter),
                2 => Reliability::LifetimeMs(parameter),
                _ => return None,
            };
            let label_len = usize::from(u16::from_be_bytes([*l0, *l1]));
            let protocol_len = usize::from(u16::from_be_bytes([*p0, *p1]));
            if label_len > text_bytes_max || protocol_len > text_bytes_max {
                return None;
            }
            let (label, protocol) = text.split_at_checked(label_len)?;
            if protocol.len() != protocol_len {
                return None;
            }
            let label = std::str::from_utf8(label).ok()?.to_owned();
            Some(Dcep::Open(Open { label, ordered: kind & UNORDERED == 0, reliability }))
        }
        _ => None,
    }
}

/// Writes an open message without sub-protocol and with normal priority.
pub(super) fn write_open(label: &str, ordered: bool, reliability: Reliability) -> Vec<u8> {
    let (kind, parameter) = match reliability {
        Reliability::Reliable => (0, 0),
        Reliability::Retransmits(count) => (1, count),
        Reliability::LifetimeMs(ms) => (2, ms),
    };
    let kind = if ordered { kind } else { kind | UNORDERED };
    let mut out = Vec::with_capacity(HEAD_LEN + label.len());
    out.extend([OPEN, kind, 1, 0]);
    out.extend(parameter.to_be_bytes());
    out.extend((label.len() as u16).to_be_bytes());
    out.extend([0, 0]);
    out.extend(label.bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: [Reliability; 3] =
        [Reliability::Reliable, Reliability::Retransmits(0), Reliability::LifetimeMs(250)];

    #[test]
    fn golden_bytes_of_an_open() {
        let golden = [3, 0x81, 1, 0, 0, 0, 0, 3, 0, 2, 0, 0, b'h', b'i'];
        assert_eq!(write_open("hi", false, Reliability::Retransmits(3)), golden);
    }

    #[test]
    fn what_is_written_is_read_and_every_truncation_refused() {
        for reliability in KINDS {
            for ordered in [true, false] {
                let bytes = write_open("a label", ordered, reliability);
                let open = Open { label: "a label".into(), ordered, reliability };
                assert_eq!(parse(&bytes, 16), Some(Dcep::Open(open)));
                for len in 0..bytes.len() {
                    assert_eq!(parse(&bytes[..len], 16), None);
                }
            }
        }
        assert_eq!(parse(&ACK, 16), Some(Dcep::Ack));
    }

    #[test]
    fn long_and_broken_texts_are_refused() {
        assert_eq!(parse(&write_open("12345", true, Reliability::Reliable), 4), None);
        let mut broken = write_open("hi", true, Reliability::Reliable);
        broken[13] = 0xff;
        assert_eq!(parse(&broken, 16), None);
        assert_eq!(parse(&[3, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 16), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40), open in any::<bool>()) {
            let mut bytes = bytes;
            if let (true, Some(first)) = (open, bytes.first_mut()) {
                *first = OPEN;
            }
            parse(&bytes, 16);
        }
    }
}
