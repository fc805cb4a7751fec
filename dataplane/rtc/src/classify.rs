//! Tells apart what shares one UDP port: STUN, DTLS, RTP and RTCP (RFC 7983, RFC 5761 §4).

/// What a datagram claims to be. Nothing is verified yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    Stun,
    Dtls,
    Rtp,
    Rtcp,
    /// ZRTP, TURN channels, QUIC, noise: nothing we speak.
    Other,
}

/// Looks at the first two bytes only.
pub fn classify(datagram: &[u8]) -> Kind {
    match datagram {
        [0..=3, ..] => Kind::Stun,
        [20..=63, ..] => Kind::Dtls,
        // RFC 5761 §4: RTCP types 192..=223 are the payload types 64..=95 with the marker set, which RTP leaves free.
        [128..=191, 192..=223, ..] => Kind::Rtcp,
        [128..=191, _, ..] => Kind::Rtp,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_byte_has_its_kind() {
        for first in 0..=255u8 {
            let kind = match first {
                0..=3 => Kind::Stun,
                20..=63 => Kind::Dtls,
                128..=191 => Kind::Rtp,
                _ => Kind::Other,
            };
            assert_eq!(classify(&[first, 96, 0, 0]), kind, "first byte {first}");
        }
    }

    #[test]
    fn the_second_byte_separates_rtcp_from_rtp() {
        for second in 0..=255u8 {
            let kind = if (192..=223).contains(&second) { Kind::Rtcp } else { Kind::Rtp };
            assert_eq!(classify(&[0x80, second]), kind, "second byte {second}");
        }
    }

    #[test]
    fn nothing_and_almost_nothing_are_classified() {
        assert_eq!(classify(&[]), Kind::Other);
        assert_eq!(classify(&[0x80]), Kind::Other);
        assert_eq!(classify(&[0]), Kind::Stun);
    }
}
