//! Nonces without memory: each says when it expires, and carries a code that only we can make.

use std::net::IpAddr;

use aws_lc_rs::{constant_time, hmac};

use crate::Origin;

/// Says that RFC 8489 is spoken and none of its security features is wanted (§9.2).
const COOKIE: &[u8; 13] = b"obMatJos2AAAA";
/// Hexadecimal digits of the expiry and of the code.
const EXPIRY_LEN: usize = 8;
const CODE_LEN: usize = 16;
pub(crate) const NONCE_LEN: usize = COOKIE.len() + EXPIRY_LEN + CODE_LEN;
/// Seconds a nonce is good for; an hour at most (RFC 8656 §5).
pub(crate) const LIFETIME_S: u64 = 3_600;

const HEX: &[u8; 16] = b"0123456789abcdef";

pub(crate) struct Nonces {
    key: hmac::Key,
}

impl Nonces {
    /// `secret` is 32 random bytes.
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    /// A nonce for one client.
    pub(crate) fn mint(&self, unix_s: u64, origin: &Origin) -> [u8; NONCE_LEN] {
        self.write((unix_s + LIFETIME_S) as u32, origin)
    }

    /// Whether we gave this client that nonce, not too long ago.
    pub(crate) fn is_valid(&self, nonce: &[u8], unix_s: u64, origin: &Origin) -> bool {
        let expiry = nonce
            .get(COOKIE.len()..COOKIE.len() + EXPIRY_LEN)
            .and_then(|hex| std::str::from_utf8(hex).ok().and_then(|hex| u32::from_str_radix(hex, 16).ok()));
        let Some(expiry) = expiry.filter(|expiry| u64::from(*expiry) > unix_s) else { return false };
        constant_time::verify_slices_are_equal(&self.write(expiry, origin), nonce).is_ok()
    }

    fn write(&self, expiry: u32, origin: &Origin) -> [u8; NONCE_LEN] {
        let mut input = [0; 31];
        let (start, rest) = input.split_at_mut(4);
        start.copy_from_slice(&expiry.to_be_bytes());
        rest.copy_from_slice(&identity(origin));
        let tag = hmac::sign(&self.key, &input);
        let digits = |bytes: &[u8]| -> Vec<u8> {
            let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or_default();
            bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
        };
        let mut nonce = [0; NONCE_LEN];
        let text = [COOKIE.as_slice(), &digits(&expiry.to_be_bytes()), &digits(tag.as_ref())].concat();
        nonce.iter_mut().zip(text).for_each(|(to, from)| *to = from);
        nonce
    }
}

/// An origin as bytes of one length.
fn identity(origin: &Origin) -> [u8; 27] {
    let (number, remote) = match origin {
        Origin::Datagram { socket, remote } => (u64::from(*socket), remote),
        Origin::Stream { connection, remote } => (connection | 1 << 63, remote),
    };
    let ip = match remote.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; 27];
    let parts =
        [0].into_iter().chain(number.to_be_bytes()).chain(ip.octets()).chain(remote.port().to_be_bytes());
    bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_good_for_its_client_for_an_hour() {
        let nonces = Nonces::new(&[7; 32]);
        let client = Origin::Datagram { socket: 0, remote: "192.0.2.1:5000".parse().unwrap() };
        let other = Origin::Datagram { socket: 0, remote: "192.0.2.1:5001".parse().unwrap() };
        let nonce = nonces.mint(1_000_000, &client);
        assert!(nonces.is_valid(&nonce, 1_000_000, &client));
        assert!(nonces.is_valid(&nonce, 1_003_599, &client));
        assert!(!nonces.is_valid(&nonce, 1_003_600, &client), "after an hour");
        assert!(!nonces.is_valid(&nonce, 1_000_000, &other), "another client's");
        assert!(!Nonces::new(&[8; 32]).is_valid(&nonce, 1_000_000, &client), "another server's");
        let mut forged = nonce;
        forged[COOKIE.len()] = b'f';
        assert!(!nonces.is_valid(&forged, 1_000_000, &client), "a later expiry");
        assert!(!nonces.is_valid(b"short", 1_000_000, &client));
    }
}
