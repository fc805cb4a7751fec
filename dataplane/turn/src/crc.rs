//! The checksum of FINGERPRINT: CRC-32 of ITU-T V.42 (RFC 8489 §14.7).

const POLYNOMIAL: u32 = 0xedb8_8320;

const TABLE: [u32; 256] = table();

#[allow(clippy::indexing_slicing, reason = "computed while compiling, where a wrong index is an error")]
const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut value, mut bit) = (byte as u32, 0);
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
}

/// The checksum of parts that follow each other.
pub(crate) fn checksum(parts: &[&[u8]]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        let index = usize::from(crc as u8 ^ *byte);
        (crc >> 8) ^ TABLE.get(index).copied().unwrap_or_default()
    };
    !parts.iter().flat_map(|part| part.iter()).fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_catalogue_comes_out() {
        assert_eq!(checksum(&[b"1234", b"56789"]), 0xcbf4_3926);
    }
}
