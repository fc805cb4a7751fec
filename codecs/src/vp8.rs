//! The VP8 payload descriptor (RFC 7741 §4.2) and the one bit of the payload header that tells a key frame (§4.3).

/// A picture identifier as carried: 7 or 15 bits (RFC 7741 §4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PictureId {
    pub value: u16,
    /// 15 bits in two octets when set, else 7 bits in one.
    pub long: bool,
}

impl PictureId {
    /// The same form carrying `value` modulo its width.
    pub const fn with(self, value: u16) -> Self {
        Self { value: value & if self.long { 0x7fff } else { 0x7f }, long: self.long }
    }
}

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
                let high = *payload.get(at)?;
                at += 1;
                let mut value = u16::from(high & 0x7f);
                let long = high & 0x80 != 0;
                if long {
                    value = value << 8 | u16::from(*payload.get(at)?);
                    at += 1;
                }
                descriptor.picture_id = Some(PictureId { value, long });
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

    /// Writes other identifiers over those of `payload`, which must begin with the descriptor `self` was read from.
    /// The length does not change. Returns false, touching nothing it should not, when `payload` is another one.
    pub fn patch(
        &self,
        payload: &mut [u8],
        picture_id: Option<PictureId>,
        tl0_picture_index: Option<u8>,
    ) -> bool {
        let mut at = 2;
        if let (Some(own), Some(new)) = (self.picture_id, picture_id) {
            if own.long {
                let Some([high, low]) = payload.get_mut(at..at + 2) else { return false };
                *high = 0x80 | (new.value >> 8) as u8;
                *low = new.value as u8;
                at += 2;
            } else {
                let Some(octet) = payload.get_mut(at) else { return false };
                *octet = new.value as u8 & 0x7f;
                at += 1;
            }
        } else if let Some(own) = self.picture_id {
            at += if own.long { 2 } else { 1 };
        }
        if let (Some(_), Some(new)) = (self.tl0_picture_index, tl0_picture_index) {
            let Some(octet) = payload.get_mut(at) else { return false };
            *octet = new;
        }
        true
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
        assert!(descriptor.patch(&mut payload, Some(id), Some(9)));
        assert_eq!(payload, [0x90, 0xf0, 0xff, 0xff, 9, 0x60, 0x50, 0xaa]);
        let mut short = [0x80, 0x80, 0x05, 0x01];
        let descriptor = Descriptor::parse(&short).unwrap();
        assert!(descriptor.patch(&mut short, Some(descriptor.picture_id.unwrap().with(0x85)), Some(1)));
        assert_eq!(short, [0x80, 0x80, 0x05, 0x01]);
    }

    proptest! {
        #[test]
        fn never_panics_and_patches_read_back(mut payload in proptest::collection::vec(any::<u8>(), 0..40), id: u16, tl0: u8) {
            if let Some(descriptor) = Descriptor::parse(&payload) {
                let id = descriptor.picture_id.map(|own| own.with(id));
                let tl0 = descriptor.tl0_picture_index.map(|_| tl0);
                prop_assert!(descriptor.patch(&mut payload, id, tl0));
                let again = Descriptor::parse(&payload).unwrap();
                prop_assert_eq!(again, Descriptor { picture_id: id, tl0_picture_index: tl0, ..descriptor });
            }
        }
    }
}
