//! What forwarding needs of a video payload, whatever its codec: whether it can be joined here, and the identifiers that must
//! go on without a seam when the source changes.

/// A picture identifier as carried: 7 or 15 bits, of the same form in VP8 and VP9 (RFC 7741 §4.2, RFC 9628 §4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PictureId {
    pub value: u16,
    /// 15 bits in two octets when set, else 7 bits in one.
    pub long: bool,
}

impl PictureId {
    /// Reads the identifier at the start of `bytes`; `None` when it is cut short.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let high = *bytes.first()?;
        let long = high & 0x80 != 0;
        let value = u16::from(high & 0x7f);
        let value = if long { value << 8 | u16::from(*bytes.get(1)?) } else { value };
        Some(Self { value, long })
    }

    /// The same form carrying `value` modulo its width.
    pub const fn with(self, value: u16) -> Self {
        Self { value: value & if self.long { 0x7fff } else { 0x7f }, long: self.long }
    }

    /// Octets it takes.
    pub const fn octets(self) -> usize {
        if self.long { 2 } else { 1 }
    }
}

/// One payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Picture {
    /// First packet of a key frame.
    pub keyframe_start: bool,
    pub picture_id: Option<PictureId>,
    /// TL0PICIDX: running index of base temporal layer frames.
    pub tl0_picture_index: Option<u8>,
    /// Number in the dependency descriptor, if the packet has one that is passed on.
    pub frame_number: Option<u16>,
    /// Where in the payload the two identifiers stand, if they are there.
    pub picture_id_at: u8,
    pub tl0_at: u8,
}

impl Picture {
    /// A payload without identifiers.
    pub const fn plain(keyframe_start: bool) -> Self {
        Self {
            keyframe_start,
            picture_id: None,
            tl0_picture_index: None,
            frame_number: None,
            picture_id_at: 0,
            tl0_at: 0,
        }
    }

    /// Whether the payload carries identifiers that may have to be patched.
    #[inline]
    pub const fn has_identifiers(&self) -> bool {
        self.picture_id.is_some() || self.tl0_picture_index.is_some()
    }

    /// Writes other identifiers over those of `payload`, which must be the one `self` was read from. The length does not
    /// change. Returns false, touching nothing it should not, when `payload` is another one.
    pub fn patch(
        &self,
        payload: &mut [u8],
        picture_id: Option<PictureId>,
        tl0_picture_index: Option<u8>,
    ) -> bool {
        if let (Some(own), Some(new)) = (self.picture_id, picture_id) {
            let at = usize::from(self.picture_id_at);
            let Some(place) = payload.get_mut(at..at + own.octets()) else { return false };
            match place {
                [high, low] => [*high, *low] = (new.value | 0x8000).to_be_bytes(),
                [octet] => *octet = new.value as u8 & 0x7f,
                _ => return false,
            }
        }
        if let (Some(_), Some(new)) = (self.tl0_picture_index, tl0_picture_index) {
            let Some(octet) = payload.get_mut(usize::from(self.tl0_at)) else { return false };
            *octet = new;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_keep_their_form_and_wrap_in_it() {
        assert_eq!(PictureId::parse(&[0x92, 0x34]), Some(PictureId { value: 0x1234, long: true }));
        assert_eq!(PictureId::parse(&[0x12, 0x34]), Some(PictureId { value: 0x12, long: false }));
        assert_eq!((PictureId::parse(&[0x92]), PictureId::parse(&[])), (None, None));
        let (long, short) = (PictureId { value: 0, long: true }, PictureId { value: 0, long: false });
        assert_eq!((long.with(0x8001).value, short.with(0x181).value), (1, 1));
    }

    #[test]
    fn another_payload_is_left_alone() {
        let picture = Picture {
            picture_id: Some(PictureId { value: 1, long: true }),
            picture_id_at: 2,
            ..Picture::default()
        };
        let mut short = [1, 2, 3];
        assert!(!picture.patch(&mut short, picture.picture_id, None));
        assert_eq!(short, [1, 2, 3]);
        assert!(Picture::plain(true).patch(&mut short, picture.picture_id, Some(9)));
        assert_eq!(short, [1, 2, 3]);
    }
}
