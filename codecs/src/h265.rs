//! The H.265 payload structures (RFC 7798 §4.4): single NAL units, aggregation packets and fragmentation units. The NAL unit
//! headers stay clear under end-to-end encryption.

use crate::picture::Picture;

/// NAL unit types (RFC 7798 §4.4, H.265 table 7-1).
const VIDEO_PARAMETERS: u8 = 32;
const AGGREGATE: u8 = 48;
const FRAGMENT: u8 = 49;
/// Octets of a NAL unit header.
const HEADER_LEN: usize = 2;

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
    /// Video parameters begin here: the first of what a decoder needs to start with a key frame.
    pub keyframe_start: bool,
}

/// Type in the first octet of a NAL unit header.
const fn unit_type(first: u8) -> u8 {
    first >> 1 & 0x3f
}

impl Descriptor {
    /// Reads the headers of an H.265 RTP payload without decoding order numbers, which are never negotiated; `None` when they
    /// are cut short or of another structure.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let ([first, _], rest) = payload.split_first_chunk::<HEADER_LEN>()?;
        match unit_type(*first) {
            AGGREGATE => aggregate(rest),
            FRAGMENT => {
                let [header, _, ..] = rest else { return None };
                let (start, end) = (header & 0x80 != 0, header & 0x40 != 0);
                let unit_type = header & 0x3f;
                let keyframe_start = start && unit_type == VIDEO_PARAMETERS;
                Some(Self { structure: Structure::Fragment { start, end }, unit_type, keyframe_start })
            }
            unit_type @ 0..AGGREGATE if !rest.is_empty() => {
                let keyframe_start = unit_type == VIDEO_PARAMETERS;
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
        let [first, _] = unit.first_chunk::<HEADER_LEN>()?;
        let unit_type = unit_type(*first);
        let descriptor = found.get_or_insert(Descriptor {
            structure: Structure::Aggregate,
            unit_type,
            keyframe_start: false,
        });
        descriptor.keyframe_start |= unit_type == VIDEO_PARAMETERS;
        rest = next;
    }
    found.filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Video, sequence and picture parameters in one packet.
    const PARAMETERS: [u8; 17] =
        [0x60, 0x01, 0, 3, 0x40, 0x01, 0x0c, 0, 3, 0x42, 0x01, 0x01, 0, 3, 0x44, 0x01, 0xc1];

    #[test]
    fn parameters_begin_a_key_frame_alone_together_and_cut() {
        let together = Descriptor::parse(&PARAMETERS).unwrap();
        assert_eq!((together.structure, together.unit_type), (Structure::Aggregate, 32));
        let alone = Descriptor::parse(&[0x40, 0x01, 0x0c]).unwrap();
        assert_eq!((alone.structure, alone.unit_type), (Structure::Single, 32));
        let cut = Descriptor::parse(&[0x62, 0x01, 0xa0, 0x0c]).unwrap();
        assert_eq!(cut.structure, Structure::Fragment { start: true, end: false });
        assert!(together.keyframe_start && alone.keyframe_start && cut.keyframe_start);
    }

    #[test]
    fn slices_other_parameters_and_the_rest_of_a_fragment_do_not() {
        // IDR whole and its first fragment, a trailing picture, sequence parameters, video parameters' last fragment.
        let payloads: [&[u8]; 5] = [
            &[0x26, 1, 0xaf],
            &[0x62, 1, 0x93, 0xaf],
            &[0x02, 1, 0xd0],
            &[0x42, 1, 1],
            &[0x62, 1, 0x60, 0x0c],
        ];
        for payload in payloads {
            assert!(!Descriptor::parse(payload).unwrap().keyframe_start, "{payload:02x?}");
        }
    }

    #[test]
    fn every_truncation_and_other_structures_are_refused() {
        let whole = [7, 12];
        for cut in (0..PARAMETERS.len()).filter(|cut| !whole.contains(cut)) {
            assert_eq!(Descriptor::parse(&PARAMETERS[..cut]), None, "{cut}");
        }
        for cut in 0..4 {
            assert_eq!(Descriptor::parse(&[0x62, 0x01, 0x93, 0xaf][..cut]), None, "{cut}");
        }
        assert_eq!((Descriptor::parse(&[0x40, 1]), Descriptor::parse(&[0x60, 1, 0, 1, 0x40])), (None, None));
        // PACI and what is reserved behind it.
        for unit_type in 50..64 {
            assert_eq!(Descriptor::parse(&[unit_type << 1, 1, 0, 0, 0x40, 1, 1]), None, "{unit_type}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(payload in proptest::collection::vec(any::<u8>(), 0..60)) {
            let parsed = Descriptor::parse(&payload);
            prop_assert!(parsed.is_none() || payload.len() > 2);
        }
    }
}
