//! The VP8 payload descriptor (RFC 7741 §4.2) and the one bit of the payload header that tells a key frame (§4.3).

use crate::picture::{Picture, PictureId};

/// What the descriptor says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Descriptor {
    /// Octets of the descriptor.
    pub len: u8,
    pub picture_id: Option<PictureId>,
    /// TL0PICIDX: running index of base temporal layer frames.
    pub tl0_picture_index: Option<u8>,
    /// TID: temporal layer, 0 to 3.
    pub temporal_layer: Option<u8>,
    /// First packet of a frame: S set and PID 0.
    pub frame_start: bool,
    /// First packet of a key frame.
    pub keyframe_start: bool,
}

impl Descriptor {
    /// Reads the descriptor at the start of a VP8 RTP payload; `None` when it is cut short.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let first = *payload.first()?;
        let mut descriptor = Self { frame_start: first & 0x10 != 0 && first & 0x07 == 0, ..Self::default() };
        let mut at = 1;
        if first & 0x80 != 0 {
            let extension = *payload.get(at)?;
            at += 1;
            if extension & 0x80 != 0 {
                let id = PictureId::parse(payload.get(at..)?)?;
                descriptor.picture_id = Some(id);
                at += id.octets();
            }
            if extension & 0x40 != 0 {
                descriptor.tl0_picture_index = Some(*payload.get(at)?);
                at += 1;
            }
            if extension & 0x30 != 0 {
                let octet = *payload.get(at)?;
                descriptor.temporal_layer = (extension & 0x20 != 0).then_some(octet >> 6);
                at += 1;
            }
        }
        descriptor.len = at as u8;
        // P, the inverse key frame flag, is bit 0 of the payload header of a frame's first packet.
        let header = *payload.get(at)?;
        descriptor.keyframe_start = descriptor.frame_start && header & 0x01 == 0;
        Some(descriptor)
    }

    /// What forwarding needs of it.
    pub fn picture(&self) -> Picture {
        Picture {
            keyframe_start: self.keyframe_start,
            picture_id: self.picture_id,
            tl0_picture_index: self.tl0_picture_index,
            frame_number: None,
            // Behind the two octets that say what follows.
            picture_id_at: 2,
            tl0_at: 2 + self.picture_id.map_or(0, PictureId::octets) as u8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_every_field_as_chromium_writes_them() {
        // X S, I L T K, 15-bit picture id 0x1234, TL0PICIDX 7, TID 1 Y, key frame header.
        let payload = [0x90, 0xf0, 0x92, 0x34, 7, 0x60, 0x50, 0xff];
        let descriptor = Descriptor::parse(&payload).unwrap();
        assert_eq!(descriptor.len, 6);
        assert_eq!(descriptor.picture_id, Some(PictureId { value: 0x1234, long: true }));
        assert_eq!((descriptor.tl0_picture_index, descriptor.temporal_layer), (Some(7), Some(1)));
        assert!(descriptor.frame_start && descriptor.keyframe_start);
    }

    #[test]
    fn a_delta_frame_and_a_continuation_are_no_key_frame() {
        let delta = Descriptor::parse(&[0x10, 0x01]).unwrap();
        assert!(delta.frame_start && !delta.keyframe_start);
        let continuation = Descriptor::parse(&[0x00, 0x00]).unwrap();
        assert!(!continuation.frame_start && !continuation.keyframe_start);
        let second_partition = Descriptor::parse(&[0x11, 0x00]).unwrap();
        assert!(!second_partition.keyframe_start);
    }

    #[test]
    fn every_truncation_is_refused() {
        let payload = [0x90, 0xf0, 0x92, 0x34, 7, 0x60, 0x50];
        for cut in 0..payload.len() {
            assert_eq!(Descriptor::parse(&payload[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn patch_changes_the_identifiers_and_nothing_else() {
        let mut payload = [0x90, 0xf0, 0x92, 0x34, 7, 0x60, 0x50, 0xaa];
        let descriptor = Descriptor::parse(&payload).unwrap();
        let id = descriptor.picture_id.unwrap().with(0xffff);
        assert!(descriptor.picture().patch(&mut payload, Some(id), Some(9)));
        assert_eq!(payload, [0x90, 0xf0, 0xff, 0xff, 9, 0x60, 0x50, 0xaa]);
        let mut short = [0x80, 0x80, 0x05, 0x01];
        let descriptor = Descriptor::parse(&short).unwrap();
        let id = descriptor.picture_id.unwrap().with(0x85);
        assert!(descriptor.picture().patch(&mut short, Some(id), Some(1)));
        assert_eq!(short, [0x80, 0x80, 0x05, 0x01]);
    }

    proptest! {
        #[test]
        fn never_panics_and_patches_read_back(mut payload in proptest::collection::vec(any::<u8>(), 0..40), id: u16, tl0: u8) {
            if let Some(descriptor) = Descriptor::parse(&payload) {
                let id = descriptor.picture_id.map(|own| own.with(id));
                let tl0 = descriptor.tl0_picture_index.map(|_| tl0);
                prop_assert!(descriptor.picture().patch(&mut payload, id, tl0));
                let again = Descriptor::parse(&payload).unwrap();
                prop_assert_eq!(again, Descriptor { picture_id: id, tl0_picture_index: tl0, ..descriptor });
            }
        }
    }
}
