//! RTP header extensions: the elements of a one- or two-byte block (RFC 8285 §4.2, §4.3).

/// "Defined by profile" of the one-byte form.
pub const ONE_BYTE_PROFILE: u16 = 0xbede;
/// "Defined by profile" of the two-byte form; the lower four bits are free for the application.
pub const TWO_BYTE_PROFILE: u16 = 0x1000;

/// Yields `(id, value)` for every element of an extension block; ends at the first malformed one.
#[derive(Clone, Debug)]
pub struct Extensions<'a> {
    rest: &'a [u8],
    form: Form,
}

/// How elements of one block are written (RFC 8285 §4.2, §4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Ids 1 to 14, values of 1 to 16 bytes.
    OneByte,
    /// Ids 1 to 255, values of 0 to 255 bytes.
    TwoByte,
}

impl Form {
    /// Bytes in front of each value.
    pub const fn head_len(self) -> usize {
        match self {
            Self::OneByte => 1,
            Self::TwoByte => 2,
        }
    }

    /// Whether an element can be written so.
    pub fn takes(self, id: u8, value_len: usize) -> bool {
        match self {
            Self::OneByte => (1..=14).contains(&id) && (1..=16).contains(&value_len),
            Self::TwoByte => id != 0 && value_len <= 255,
        }
    }

    /// "Defined by profile" of the block.
    pub const fn profile(self) -> u16 {
        match self {
            Self::OneByte => ONE_BYTE_PROFILE,
            Self::TwoByte => TWO_BYTE_PROFILE,
        }
    }
}

impl<'a> Extensions<'a> {
    /// The elements of `block` (behind its four-byte head). An unknown profile has none.
    pub fn new(profile: Option<u16>, block: &'a [u8]) -> Self {
        match profile {
            Some(ONE_BYTE_PROFILE) => Self { rest: block, form: Form::OneByte },
            Some(p) if p & 0xfff0 == TWO_BYTE_PROFILE => Self { rest: block, form: Form::TwoByte },
            _ => Self { rest: &[], form: Form::OneByte },
        }
    }

    fn stop(&mut self) -> Option<(u8, &'a [u8])> {
        self.rest = &[];
        None
    }
}

impl<'a> Iterator for Extensions<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (&head, rest) = self.rest.split_first()?;
            if head == 0 {
                self.rest = rest;
                continue;
            }
            let (id, len, rest) = match self.form {
                // Id 15 is reserved and id 0 has no length: processing stops there (RFC 8285 §4.2).
                Form::OneByte if matches!(head >> 4, 0 | 15) => return self.stop(),
                Form::OneByte => (head >> 4, usize::from(head & 0x0f) + 1, rest),
                Form::TwoByte => match rest.split_first() {
                    Some((&len, rest)) => (head, usize::from(len), rest),
                    None => return self.stop(),
                },
            };
            let Some((value, rest)) = rest.split_at_checked(len) else { return self.stop() };
            self.rest = rest;
            return Some((id, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn elements(profile: u16, block: &[u8]) -> Vec<(u8, Vec<u8>)> {
        Extensions::new(Some(profile), block).map(|(id, value)| (id, value.to_vec())).collect()
    }

    #[test]
    fn one_byte_elements_are_found_between_padding() {
        let block = [0x10, 7, 0, 0, 0x51, 1, 2, 0, 0xe0, 9, 0, 0];
        assert_eq!(elements(0xbede, &block), [(1, vec![7]), (5, vec![1, 2]), (14, vec![9])]);
    }

    #[test]
    fn two_byte_elements_may_be_empty_and_long() {
        let mut block = vec![1, 0, 0, 200, 2, 8, 9, 16, 17];
        block.extend([5; 17]);
        assert_eq!(elements(0x1000, &block), [(1, vec![]), (200, vec![8, 9]), (16, vec![5; 17])]);
        assert_eq!(elements(0x100f, &block).len(), 3);
    }

    #[test]
    fn reserved_ids_end_the_one_byte_form() {
        assert_eq!(elements(0xbede, &[0x10, 7, 0x01, 1, 2, 0x20, 2]), [(1, vec![7])]);
        assert_eq!(elements(0xbede, &[0x10, 7, 0xf0, 1, 0x20, 2]), [(1, vec![7])]);
    }

    #[test]
    fn an_element_longer_than_the_block_ends_it() {
        assert_eq!(elements(0xbede, &[0x10, 7, 0x2f, 1, 2]), [(1, vec![7])]);
        assert_eq!(elements(0x1000, &[1, 1, 7, 2, 9, 1]), [(1, vec![7])]);
        assert_eq!(elements(0x1000, &[1, 1, 7, 2]), [(1, vec![7])]);
    }

    #[test]
    fn unknown_profiles_have_no_elements() {
        assert!(elements(0x1234, &[0x10, 7, 0, 0]).is_empty());
        assert_eq!(Extensions::new(None, &[0x10, 7]).count(), 0);
    }

    proptest! {
        #[test]
        fn any_block_ends(profile in any::<u16>(), block in proptest::collection::vec(any::<u8>(), 0..300)) {
            for profile in [profile, 0xbede, 0x1000] {
                prop_assert!(Extensions::new(Some(profile), &block).count() <= block.len());
            }
        }
    }
}
