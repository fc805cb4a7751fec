//! The AV1 aggregation header (RTP Payload Format For AV1 §4.4), the only clear octet of a payload.

use crate::picture::Picture;

/// What the aggregation header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// Z: the first OBU element goes on from the packet before.
    pub continues: bool,
    /// Y: the last OBU element goes on in the next packet.
    pub is_continued: bool,
    /// W: number of OBU elements, 0 when not told.
    pub elements: u8,
    /// N: first packet of a coded video sequence, which a key frame begins.
    pub keyframe_start: bool,
}

impl Descriptor {
    /// Reads the header of an AV1 RTP payload; `None` when nothing is behind it, or when it says that a sequence begins in
    /// the middle of an OBU.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let [header, _, ..] = payload else { return None };
        let descriptor = Self {
            continues: header & 0x80 != 0,
            is_continued: header & 0x40 != 0,
            elements: header >> 4 & 0x03,
            keyframe_start: header & 0x08 != 0,
        };
        (!(descriptor.continues && descriptor.keyframe_start)).then_some(descriptor)
    }

    /// What forwarding needs of it.
    pub const fn picture(&self) -> Picture {
        Picture::plain(self.keyframe_start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_every_field_of_the_first_packet_of_a_sequence() {
        // Y, two elements, N; a sequence header of 10 octets follows.
        let descriptor = Descriptor::parse(&[0x68, 0x0a, 0x0a]).unwrap();
        assert_eq!(
            descriptor,
            Descriptor { continues: false, is_continued: true, elements: 2, keyframe_start: true }
        );
        let rest = Descriptor::parse(&[0x90, 0x32]).unwrap();
        assert!(rest.continues && !rest.is_continued && !rest.keyframe_start && rest.elements == 1);
    }

    #[test]
    fn every_truncation_and_a_sequence_that_begins_within_an_obu_are_refused() {
        for cut in 0..2 {
            assert_eq!(Descriptor::parse(&[0x18, 0x0a][..cut]), None, "{cut}");
        }
        assert_eq!(Descriptor::parse(&[0x88, 0x0a]), None);
    }

    proptest! {
        #[test]
        fn never_panics(payload in proptest::collection::vec(any::<u8>(), 0..8)) {
            let parsed = Descriptor::parse(&payload);
            prop_assert!(parsed.is_none() || payload.len() > 1);
        }
    }
}
