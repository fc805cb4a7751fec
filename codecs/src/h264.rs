//! The H.264 payload structures of packetization modes 0 and 1 (RFC 6184 §5): single NAL units, STAP-A and FU-A. The NAL unit
//! headers stay clear under end-to-end encryption.

use crate::picture::Picture;

/// NAL unit types (RFC 6184 §5.4, H.264 table 7-1).
const SEQUENCE_PARAMETERS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// How a payload carries NAL units.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Structure {
    Single,
    /// Several small units.
    Aggregate,
    /// Part of a large one; whether it is the first and the last.
    Fragment {
        start: bool,
        end: bool,
    },
}

/// What the headers say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    pub structure: Structure,
    /// Type of the unit, of the first of several, or of the one that is cut.
    pub unit_type: u8,
    /// Sequence parameters begin here, as they do before every key frame a decoder may start with: WebRTC sends them in band
    /// (RFC 7742 §6.2), and a key frame's slice without them is of no use to a newcomer.
    pub keyframe_start: bool,
}

impl Descriptor {
    /// Reads the headers of an H.264 RTP payload; `None` when they are cut short, or are of a structure that modes 0 and 1 do
    /// not have.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let [first, rest @ ..] = payload else { return None };
        match first & 0x1f {
            STAP_A => aggregate(rest),
            FU_A => {
                let [header, _, ..] = rest else { return None };
                let (start, end) = (header & 0x80 != 0, header & 0x40 != 0);
                let unit_type = header & 0x1f;
                let keyframe_start = start && unit_type == SEQUENCE_PARAMETERS;
                Some(Self { structure: Structure::Fragment { start, end }, unit_type, keyframe_start })
            }
            unit_type @ 1..STAP_A if !rest.is_empty() => {
                let keyframe_start = unit_type == SEQUENCE_PARAMETERS;
                Some(Self { structure: Structure::Single, unit_type, keyframe_start })
            }
            _ => None,
        }
    }

    /// What forwarding needs of it.
    pub const fn picture(&self) -> Picture {
        Picture::plain(self.keyframe_start)
    }
}

/// Units, each behind its length in two octets.
fn aggregate(mut rest: &[u8]) -> Option<Descriptor> {
    let mut found: Option<Descriptor> = None;
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let (unit, next) = behind.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let unit_type = unit.first()? & 0x1f;
        let descriptor = found.get_or_insert(Descriptor {
            structure: Structure::Aggregate,
            unit_type,
            keyframe_start: false,
        });
        descriptor.keyframe_start |= unit_type == SEQUENCE_PARAMETERS;
        rest = next;
    }
    found.filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sequence and picture parameters in one packet, as libwebrtc sends them before a key frame.
    const PARAMETERS: [u8; 14] = [0x78, 0, 6, 0x67, 0x42, 0xe0, 0x1f, 0x8c, 0x8d, 0, 3, 0x68, 0xce, 0x3c];

    #[test]
    fn parameters_begin_a_key_frame_alone_together_and_cut() {
        let together = Descriptor::parse(&PARAMETERS).unwrap();
        assert_eq!((together.structure, together.unit_type), (Structure::Aggregate, 7));
        let alone = Descriptor::parse(&[0x67, 0x42, 0xe0]).unwrap();
        assert_eq!((alone.structure, alone.unit_type), (Structure::Single, 7));
        let cut = Descriptor::parse(&[0x7c, 0x87, 0x42]).unwrap();
        assert_eq!(cut.structure, Structure::Fragment { start: true, end: false });
        assert!(together.keyframe_start && alone.keyframe_start && cut.keyframe_start);
        let behind_a_delimiter = [0x78, 0, 2, 0x09, 0xf0, 0, 2, 0x67, 0x42];
        assert!(Descriptor::parse(&behind_a_delimiter).unwrap().keyframe_start);
    }

    #[test]
    fn slices_and_the_rest_of_a_fragment_do_not() {
        // A key frame's slice whole and its first fragment, a delta slice, parameters' later fragment, picture parameters.
        for payload in
            [&[0x65, 0x88][..], &[0x7c, 0x85, 0x88], &[0x61, 0x9a], &[0x7c, 0x47, 1], &[0x68, 0xce]]
        {
            assert!(!Descriptor::parse(payload).unwrap().keyframe_start, "{payload:02x?}");
        }
    }

    #[test]
    fn every_truncation_and_structures_of_other_modes_are_refused() {
        let whole = [9, 14];
        for cut in (0..PARAMETERS.len()).filter(|cut| !whole.contains(cut)) {
            assert_eq!(Descriptor::parse(&PARAMETERS[..cut]), None, "{cut}");
        }
        for cut in 0..3 {
            assert_eq!(Descriptor::parse(&[0x7c, 0x85, 0x88][..cut]), None, "{cut}");
        }
        assert_eq!((Descriptor::parse(&[0x67]), Descriptor::parse(&[0x78, 0, 0])), (None, None));
        // Reserved, STAP-B, MTAP16, MTAP24, FU-B.
        for unit_type in [0, 25, 26, 27, 29, 30, 31] {
            assert_eq!(Descriptor::parse(&[unit_type, 0, 0, 0, 1, 7, 7, 7]), None, "{unit_type}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(payload in proptest::collection::vec(any::<u8>(), 0..60)) {
            let parsed = Descriptor::parse(&payload);
            prop_assert!(parsed.is_none() || payload.len() > 1);
        }
    }
}
