//! The dependency descriptor header extension (RTP Payload Format For AV1, appendix A): the fields every packet has, and
//! whether a structure follows them. The structure itself concerns receivers only.

/// Octets of the fields every packet has.
const MANDATORY_LEN: usize = 3;

/// What the descriptor says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DependencyDescriptor {
    pub start_of_frame: bool,
    pub end_of_frame: bool,
    pub template_id: u8,
    /// Rises by one with every frame of the stream, whatever its layer.
    pub frame_number: u16,
    /// A template dependency structure follows: a key frame begins here.
    pub has_structure: bool,
}

impl DependencyDescriptor {
    /// Reads an extension's value; `None` when it is cut short.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let ([flags, high, low], rest) = value.split_first_chunk::<MANDATORY_LEN>()?;
        Some(Self {
            start_of_frame: flags & 0x80 != 0,
            end_of_frame: flags & 0x40 != 0,
            template_id: flags & 0x3f,
            frame_number: u16::from_be_bytes([*high, *low]),
            has_structure: rest.first().is_some_and(|extended| extended & 0x80 != 0),
        })
    }

    /// Writes another frame number into an extension's value. False, touching nothing, when it is none.
    pub fn renumber(value: &mut [u8], frame_number: u16) -> bool {
        let Some([_, high, low]) = value.first_chunk_mut::<MANDATORY_LEN>() else { return false };
        [*high, *low] = frame_number.to_be_bytes();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_every_field_of_a_key_frames_first_packet() {
        // Start, template 5, number 0x1234, a structure.
        let descriptor = DependencyDescriptor::parse(&[0x85, 0x12, 0x34, 0x80, 0x03]).unwrap();
        let expected = DependencyDescriptor {
            start_of_frame: true,
            end_of_frame: false,
            template_id: 5,
            frame_number: 0x1234,
            has_structure: true,
        };
        assert_eq!(descriptor, expected);
        let short = DependencyDescriptor::parse(&[0x45, 0x12, 0x34]).unwrap();
        assert!(short.end_of_frame && !short.start_of_frame && !short.has_structure);
        assert!(!DependencyDescriptor::parse(&[0x85, 0, 0, 0x40]).unwrap().has_structure);
    }

    #[test]
    fn every_truncation_is_refused() {
        for cut in 0..MANDATORY_LEN {
            let mut value = [0x85, 0x12, 0x34];
            assert_eq!(DependencyDescriptor::parse(&value[..cut]), None, "{cut}");
            assert!(!DependencyDescriptor::renumber(&mut value[..cut], 7));
            assert_eq!(value, [0x85, 0x12, 0x34]);
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_a_new_number_reads_back(mut value in proptest::collection::vec(any::<u8>(), 0..9), number: u16) {
            if let Some(before) = DependencyDescriptor::parse(&value) {
                prop_assert!(DependencyDescriptor::renumber(&mut value, number));
                let expected = DependencyDescriptor { frame_number: number, ..before };
                prop_assert_eq!(DependencyDescriptor::parse(&value), Some(expected));
            }
        }
    }
}
