//! The 62-letter code of LiveKit's credentials: letters and digits alone, a bit longer than base64.
//!
//! The input is one number, read from its last byte on. A letter stands for six bits; where six bits would need more than 62
//! letters (their low five bits are 30 or 31), it stands for those five.

const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Letters of a text worth looking at; longer ones are no user name (RFC 8489 §14.3).
const TEXT_LEN_MAX: usize = 508;

/// Whether a letter of this value stands for five bits only.
const fn is_short(value: u32) -> bool {
    value & 0x1e == 0x1e
}

/// Writes bytes as text.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut held, mut bits) = (0_u32, 0_u32);
    let mut rest = bytes.iter().rev();
    loop {
        while bits < 6
            && let Some(byte) = rest.next()
        {
            held |= u32::from(*byte) << bits;
            bits += 8;
        }
        if bits == 0 {
            return text;
        }
        let six = held & 0x3f;
        let (value, taken) = if is_short(six) { (six & 0x1f, 5) } else { (six, 6) };
        text.extend(LETTERS.get(value as usize).map(|letter| char::from(*letter)));
        held >>= taken.min(bits);
        bits -= taken.min(bits);
    }
}

/// Reads what [`encode`] wrote. `None` for anything that it cannot have written, or longer than a user name.
pub(crate) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    if text.len() > TEXT_LEN_MAX {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len());
    let (mut held, mut bits) = (0_u32, 0_u32);
    for letter in text {
        let value = value_of(*letter)?;
        held |= value << bits;
        bits += if is_short(value) { 5 } else { 6 };
        if bits >= 8 {
            bytes.push(held as u8);
            held >>= 8;
            bits -= 8;
        }
    }
    // The last letter may stand for fewer bits than it could.
    if held != 0 {
        bytes.push(held as u8);
    }
    bytes.reverse();
    Some(bytes)
}

fn value_of(letter: u8) -> Option<u32> {
    match letter {
        b'A'..=b'Z' => Some(u32::from(letter - b'A')),
        b'a'..=b'z' => Some(u32::from(letter - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(letter - b'0') + 52),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn letters_stand_for_six_bits_or_five() {
        assert_eq!(encode(b""), "");
        assert_eq!(encode(&[0b0000_0001]), "BA");
        // 62 and 63 would be beyond the letters: 30 and 31 stand for their low five bits.
        assert_eq!(encode(&[0b0111_1110]), "eD");
        assert_eq!(encode(&[0xff]), "fH");
        assert_eq!(decode(b"fH"), Some(vec![0xff]));
        assert_eq!(decode(b"a-b"), None);
        assert_eq!(decode(&[b'A'; 509]), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(head in 1_u8.., rest in prop::collection::vec(any::<u8>(), 0..300)) {
            let bytes = [vec![head], rest].concat();
            let text = encode(&bytes);
            prop_assert!(text.bytes().all(|letter| letter.is_ascii_alphanumeric()));
            if text.len() <= TEXT_LEN_MAX {
                prop_assert_eq!(decode(text.as_bytes()), Some(bytes));
            }
        }
    }
}
