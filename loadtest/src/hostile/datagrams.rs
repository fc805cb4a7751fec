//! Datagrams nobody should send.

/// Longest datagram tried.
pub(super) const LEN_MAX: usize = 1_500;
const STUN_MAGIC: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;

/// What a datagram pretends to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Likeness {
    Noise,
    Stun,
    Dtls,
    Rtp,
    Rtcp,
}

impl Likeness {
    pub(super) const ALL: [Self; 5] = [Self::Noise, Self::Stun, Self::Dtls, Self::Rtp, Self::Rtcp];
}

/// `len` random bytes behind as much of a plausible start as fits.
pub(super) fn garbage(likeness: Likeness, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rand::fill(&mut bytes[..]);
    let body = (len.saturating_sub(20) as u16).to_be_bytes();
    let record = (len.saturating_sub(13) as u16).to_be_bytes();
    let start: Vec<u8> = match likeness {
        Likeness::Noise => Vec::new(),
        Likeness::Stun => [&[0, 1], &body[..], &STUN_MAGIC].concat(),
        // A handshake record of DTLS 1.2, epoch 0.
        Likeness::Dtls => [&[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 1], &record[..]].concat(),
        Likeness::Rtp => vec![0x90, 96],
        Likeness::Rtcp => vec![0x80, 200],
    };
    bytes.iter_mut().zip(start).for_each(|(place, byte)| *place = byte);
    bytes
}

/// A binding request for `local:remote` with a MESSAGE-INTEGRITY nobody computed.
pub(super) fn binding_request(local: &str, remote: &str) -> Vec<u8> {
    let username = format!("{local}:{remote}");
    let mut attributes = Vec::new();
    attributes.extend(USERNAME.to_be_bytes());
    attributes.extend((username.len() as u16).to_be_bytes());
    attributes.extend(username.bytes());
    attributes.resize(attributes.len().next_multiple_of(4), 0);
    attributes.extend(MESSAGE_INTEGRITY.to_be_bytes());
    attributes.extend([0, 20]);
    attributes.extend(rand::random::<[u8; 20]>());
    let len = (attributes.len() as u16).to_be_bytes();
    let transaction: [u8; 12] = rand::random();
    [&[0, 1], &len[..], &STUN_MAGIC, &transaction, &attributes].concat()
}

/// A first ClientHello of DTLS 1.2 (RFC 6347 §4.2, RFC 5246 §7.4.1.2) with one cipher suite and no extensions.
pub(super) fn client_hello() -> Vec<u8> {
    let random: [u8; 32] = rand::random();
    let body = [&[0xfe, 0xfd], &random[..], &[0, 0, 0, 2, 0xc0, 0x2b, 1, 0]].concat();
    let len = (body.len() as u32).to_be_bytes();
    let handshake = [&[1], &len[1..], &[0, 0, 0, 0, 0], &len[1..], &body].concat();
    let record = (handshake.len() as u16).to_be_bytes();
    [&[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0], &record[..], &handshake].concat()
}

/// `len` bytes that start like an SCTP packet (RFC 9260 §3) with one chunk of the given type and random content.
pub(super) fn sctp_packet(chunk: u8, len: usize, has_checksum: bool) -> Vec<u8> {
    let mut bytes = garbage(Likeness::Noise, len);
    let chunk_len = (len.saturating_sub(12) as u16).to_be_bytes();
    // Ports 5000, verification tag 0 as for INIT, checksum, chunk head.
    let start = [0x13, 0x88, 0x13, 0x88, 0, 0, 0, 0, 0, 0, 0, 0, chunk, 0, chunk_len[0], chunk_len[1]];
    bytes.iter_mut().zip(start).for_each(|(place, byte)| *place = byte);
    if has_checksum {
        let sum = crc32c(&bytes).to_le_bytes();
        bytes.iter_mut().skip(8).zip(sum).for_each(|(place, byte)| *place = byte);
    }
    bytes
}

/// RFC 9260 appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;
    use auralink_rtc::classify::{Kind, classify};
    use auralink_rtc::stun;

    #[test]
    fn likenesses_are_taken_for_what_they_pretend_at_every_length() {
        for len in 2..=LEN_MAX {
            assert_eq!(classify(&garbage(Likeness::Stun, len)), Kind::Stun);
            assert_eq!(classify(&garbage(Likeness::Dtls, len)), Kind::Dtls);
            assert_eq!(classify(&garbage(Likeness::Rtp, len)), Kind::Rtp);
            assert_eq!(classify(&garbage(Likeness::Rtcp, len)), Kind::Rtcp);
            assert_eq!(garbage(Likeness::Noise, len).len(), len);
        }
        assert_eq!(classify(&client_hello()), Kind::Dtls);
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_binding_request_is_read_but_not_believed() {
        let request = binding_request("server", "client");
        assert_eq!(stun::username(&request), Some(("server", "client")));
        assert!(!stun::Binding::parse(&request).unwrap().verify("any password"));
    }
}
