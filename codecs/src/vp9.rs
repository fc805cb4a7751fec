//! The VP9 payload descriptor (RFC 9628 §4.2). It alone tells a key frame, so that nothing behind it need be readable.

use crate::picture::{Picture, PictureId};

/// References a flexible mode packet may name, and those of one picture of a group.
const REFERENCES_MAX: usize = 3;

/// What the descriptor says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Descriptor {
    /// Octets of the descriptor.
    pub len: u16,
    pub picture_id: Option<PictureId>,
    /// TL0PICIDX, which only the non-flexible mode has.
    pub tl0_picture_index: Option<u8>,
    /// TID and SID, when layers are told.
    pub temporal_layer: Option<u8>,
    pub spatial_layer: Option<u8>,
    /// B: first packet of a frame, which is one spatial layer of a picture.
    pub frame_start: bool,
    /// E: last packet of a frame.
    pub frame_end: bool,
    /// First packet of a key picture.
    pub keyframe_start: bool,
}

impl Descriptor {
    /// Reads the descriptor at the start of a VP9 RTP payload; `None` when it is cut short or nothing is behind it.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let first = *payload.first()?;
        let [has_id, predicted, has_layers, flexible, begins, ends, has_structure] =
            [0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02].map(|bit| first & bit != 0);
        let mut descriptor = Self { frame_start: begins, frame_end: ends, ..Self::default() };
        let mut at = 1;
        if has_id {
            let id = PictureId::parse(payload.get(at..)?)?;
            descriptor.picture_id = Some(id);
            at += id.octets();
        }
        if has_layers {
            let layers = *payload.get(at)?;
            descriptor.temporal_layer = Some(layers >> 5);
            descriptor.spatial_layer = Some(layers >> 1 & 0x07);
            at += 1;
            if !flexible {
                descriptor.tl0_picture_index = Some(*payload.get(at)?);
                at += 1;
            }
        }
        if flexible && predicted {
            at += references(payload.get(at..)?)?;
        }
        if has_structure {
            at += structure(payload.get(at..)?)?;
        }
        payload.get(at)?;
        descriptor.len = at as u16;
        // P is clear also in the upper spatial layers of a key picture: they are predicted from the layer below only.
        descriptor.keyframe_start = begins && !predicted && descriptor.spatial_layer.unwrap_or(0) == 0;
        Some(descriptor)
    }

    /// What forwarding needs of it.
    pub fn picture(&self) -> Picture {
        let id_len = self.picture_id.map_or(0, PictureId::octets) as u8;
        Picture {
            keyframe_start: self.keyframe_start,
            picture_id: self.picture_id,
            tl0_picture_index: self.tl0_picture_index,
            frame_number: None,
            picture_id_at: 1,
            // Behind the octet of the layer indices.
            tl0_at: 1 + id_len + 1,
        }
    }
}

/// Octets of the reference indices: up to three, each saying by N whether another follows.
fn references(bytes: &[u8]) -> Option<usize> {
    for index in 0..REFERENCES_MAX {
        if *bytes.get(index)? & 0x01 == 0 {
            return Some(index + 1);
        }
    }
    // A fourth reference is not a descriptor.
    None
}

/// Octets of the scalability structure.
fn structure(bytes: &[u8]) -> Option<usize> {
    let head = *bytes.first()?;
    let mut at = 1;
    if head & 0x10 != 0 {
        // Width and height of each spatial layer.
        at += (usize::from(head >> 5) + 1) * 4;
    }
    if head & 0x08 != 0 {
        let pictures = *bytes.get(at)?;
        at += 1;
        for _ in 0..pictures {
            at += 1 + usize::from(*bytes.get(at)? >> 2 & 0x03);
        }
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The first packet of a key picture of three spatial layers, non-flexible: I L B V, 15-bit id, TID 0 SID 0, TL0PICIDX,
    /// a structure of three sizes and a group of two pictures with one and two references, then payload.
    const KEY: [u8; 26] = [
        0xaa, 0x92, 0x34, 0x00, 7, 0x58, 1, 64, 0, 180, 2, 128, 1, 104, 5, 0, 2, 208, 2, 0x04, 1, 0x28, 1, 2,
        0x82, 0x49,
    ];

    #[test]
    fn reads_every_field_of_a_key_picture() {
        let descriptor = Descriptor::parse(&KEY).unwrap();
        assert_eq!(descriptor.len, 24);
        assert_eq!(descriptor.picture_id, Some(PictureId { value: 0x1234, long: true }));
        assert_eq!(descriptor.tl0_picture_index, Some(7));
        assert_eq!((descriptor.temporal_layer, descriptor.spatial_layer), (Some(0), Some(0)));
        assert!(descriptor.frame_start && !descriptor.frame_end && descriptor.keyframe_start);
    }

    #[test]
    fn only_the_base_layers_first_packet_of_an_unpredicted_picture_is_a_key_frames_start() {
        // I L B: spatial layer 1 of a key picture (D set), the same of a predicted one, a continuation of layer 0.
        for (first, layers) in [(0xa8, 0x03), (0xe8, 0x01), (0xa0, 0x00), (0xe8, 0x00)] {
            let descriptor = Descriptor::parse(&[first, 5, layers, 1, 0xff]).unwrap();
            assert!(!descriptor.keyframe_start, "{first:02x} {layers:02x}");
        }
        assert!(Descriptor::parse(&[0x88, 5, 0xff]).unwrap().keyframe_start, "no layers told");
    }

    #[test]
    fn flexible_mode_has_references_and_no_tl0() {
        // I P L F B E: 7-bit id, TID 2 SID 1, references 1 and 2.
        let descriptor = Descriptor::parse(&[0xfc, 0x11, 0x42, 0x03, 0x04, 0xff]).unwrap();
        assert_eq!((descriptor.len, descriptor.tl0_picture_index), (5, None));
        assert_eq!((descriptor.temporal_layer, descriptor.spatial_layer), (Some(2), Some(1)));
        assert!(descriptor.frame_end && !descriptor.keyframe_start);
        assert_eq!(Descriptor::parse(&[0xfc, 0x11, 0x42, 3, 3, 3, 3, 3]), None, "a fourth reference");
    }

    #[test]
    fn every_truncation_is_refused() {
        for cut in 0..25 {
            assert_eq!(Descriptor::parse(&KEY[..cut]), None, "{cut}");
        }
        assert!(Descriptor::parse(&KEY[..25]).is_some());
    }

    #[test]
    fn patch_changes_the_identifiers_and_nothing_else() {
        let mut payload = KEY;
        let picture = Descriptor::parse(&payload).unwrap().picture();
        assert!(picture.patch(&mut payload, Some(picture.picture_id.unwrap().with(0xffff)), Some(9)));
        let mut expected = KEY;
        (expected[1], expected[2], expected[4]) = (0xff, 0xff, 9);
        assert_eq!(payload, expected);
    }

    proptest! {
        #[test]
        fn never_panics_and_patches_read_back(mut payload in proptest::collection::vec(any::<u8>(), 0..60), id: u16, tl0: u8) {
            if let Some(descriptor) = Descriptor::parse(&payload) {
                prop_assert!(usize::from(descriptor.len) < payload.len());
                let id = descriptor.picture_id.map(|own| own.with(id));
                let tl0 = descriptor.tl0_picture_index.map(|_| tl0);
                prop_assert!(descriptor.picture().patch(&mut payload, id, tl0));
                let again = Descriptor::parse(&payload).unwrap();
                prop_assert_eq!(again, Descriptor { picture_id: id, tl0_picture_index: tl0, ..descriptor });
            }
        }
    }
}
