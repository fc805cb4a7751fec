//! Redundant audio (RFC 2198): earlier frames in front of the present one, each behind a header that names its payload type.

/// Earlier frames one packet may carry; libwebrtc sends two.
pub const BLOCKS_MAX: u8 = 16;
/// Octets of an earlier frame's header; the present one's has one.
const HEADER_LEN: usize = 4;

/// What the headers say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Redundancy {
    /// Earlier frames.
    pub blocks: u8,
    /// Payload type of all frames. Packets that mix several are refused: nobody sends them, and they could not be renumbered.
    pub pt: u8,
    /// Where the present frame begins; it reaches to the end.
    pub primary_at: u16,
}

impl Redundancy {
    /// Reads the headers; `None` when they are cut short, reach beyond the payload, or name more than one payload type.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (mut blocks, mut at, mut frames) = (0_u8, 0, 0);
        let mut common = None;
        loop {
            let first = *payload.get(at)?;
            let pt = first & 0x7f;
            if *common.get_or_insert(pt) != pt {
                return None;
            }
            if first & 0x80 == 0 {
                let primary_at = at + 1 + frames;
                payload.get(primary_at)?;
                return Some(Self { blocks, pt, primary_at: u16::try_from(primary_at).ok()? });
            }
            let [_, _, high, low] = payload.get(at..)?.first_chunk::<HEADER_LEN>()?;
            frames += usize::from(u16::from_be_bytes([high & 0x03, *low]));
            at += HEADER_LEN;
            blocks += 1;
            if blocks > BLOCKS_MAX {
                return None;
            }
        }
    }

    /// The present frame of the payload `self` was read from.
    pub fn primary<'a>(&self, payload: &'a [u8]) -> Option<&'a [u8]> {
        payload.get(usize::from(self.primary_at)..)
    }

    /// Writes another payload type into every header of the payload `self` was read from. False when it is another one, of
    /// which only bits that would be payload types may then have changed.
    pub fn renumber(&self, payload: &mut [u8], pt: u8) -> bool {
        for block in 0..=usize::from(self.blocks) {
            let Some(octet) = payload.get_mut(block * HEADER_LEN) else { return false };
            *octet = *octet & 0x80 | pt & 0x7f;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Two earlier frames of Opus (111) of 3 and 2 octets, 1,920 and 960 ticks ago, and the present one.
    const TWO: [u8; 16] = [0xef, 0x1e, 0x00, 0x03, 0xef, 0x0f, 0x00, 0x02, 0x6f, 1, 2, 3, 4, 5, 6, 7];

    #[test]
    fn the_present_frame_is_what_is_behind_the_earlier_ones() {
        let redundancy = Redundancy::parse(&TWO).unwrap();
        assert_eq!(redundancy, Redundancy { blocks: 2, pt: 111, primary_at: 14 });
        assert_eq!(redundancy.primary(&TWO), Some(&[6, 7][..]));
        let alone = Redundancy::parse(&[0x6f, 9]).unwrap();
        assert_eq!((alone.blocks, alone.primary(&[0x6f, 9])), (0, Some(&[9][..])));
    }

    #[test]
    fn a_length_takes_ten_bits() {
        let mut payload = vec![0xef, 0x0f, 0xfd, 0x02, 0x6f];
        payload.extend([7; 0x103]);
        assert_eq!(Redundancy::parse(&payload).unwrap().primary_at, 5 + 0x102);
    }

    #[test]
    fn every_truncation_is_refused() {
        for cut in 0..15 {
            assert_eq!(Redundancy::parse(&TWO[..cut]), None, "{cut}");
        }
        assert!(Redundancy::parse(&TWO[..15]).is_some());
    }

    #[test]
    fn mixed_payload_types_and_endless_headers_are_refused() {
        let mut mixed = TWO;
        mixed[4] = 0x80 | 13;
        assert_eq!(Redundancy::parse(&mixed), None);
        let mut endless = [0xef, 0, 0, 0].repeat(usize::from(BLOCKS_MAX) + 1);
        endless.extend([0x6f, 1]);
        assert_eq!(Redundancy::parse(&endless), None);
        assert!(Redundancy::parse(&endless[4..]).is_some());
    }

    #[test]
    fn renumbering_changes_payload_types_and_nothing_else() {
        let mut payload = TWO;
        assert!(Redundancy::parse(&TWO).unwrap().renumber(&mut payload, 96));
        let mut expected = TWO;
        (expected[0], expected[4], expected[8]) = (0xe0, 0xe0, 0x60);
        assert_eq!(payload, expected);
        assert!(!Redundancy::parse(&TWO).unwrap().renumber(&mut payload[..8], 96));
    }

    proptest! {
        #[test]
        fn never_panics_and_new_types_read_back(mut payload in proptest::collection::vec(any::<u8>(), 0..60), pt in 0_u8..128) {
            if let Some(redundancy) = Redundancy::parse(&payload) {
                prop_assert!(redundancy.primary(&payload).is_some_and(|frame| !frame.is_empty()));
                prop_assert!(redundancy.renumber(&mut payload, pt));
                prop_assert_eq!(Redundancy::parse(&payload), Some(Redundancy { pt, ..redundancy }));
            }
        }
    }
}
