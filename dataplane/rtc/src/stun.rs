//! STUN binding messages of ICE (RFC 8489, RFC 8445 §7), read in place and written in place.
//!
//! [`username`] is what the demultiplexer calls before anything is known about a datagram. [`Binding`] reads a message whole;
//! only attributes that MESSAGE-INTEGRITY covers count, and nothing counts before [`Binding::verify`] said yes.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::{constant_time, hmac};

const HEADER_LEN: usize = 20;
const MAGIC: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// Attributes one message may have; browsers send about eight.
const ATTRIBUTES_MAX: usize = 32;

const REQUEST: u16 = 0x0001;
const INDICATION: u16 = 0x0011;
const SUCCESS: u16 = 0x0101;
const FAILURE: u16 = 0x0111;

const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const PRIORITY: u16 = 0x0024;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLED: u16 = 0x8029;
const ICE_CONTROLLING: u16 = 0x802a;

/// Identifies a request and its response.
pub type TransactionId = [u8; 12];

/// What kind of binding message it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    Request,
    Indication,
    Success,
    Failure,
}

/// The role the sender of a request believes to have (RFC 8445 §7.3.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    Controlling,
    Controlled,
}

/// A binding message.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    pub class: Class,
    pub transaction: TransactionId,
    /// The two halves of USERNAME: the receiver's user fragment and the sender's.
    pub username: Option<(&'a str, &'a str)>,
    pub priority: Option<u32>,
    pub use_candidate: bool,
    pub role: Option<Role>,
    covered: &'a [u8],
    integrity: Option<&'a [u8; 20]>,
}

impl<'a> Binding<'a> {
    /// Reads a datagram that [`crate::classify`] took for STUN. `None` when it is not a well-formed binding message.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (class, transaction, attributes) = header(datagram)?;
        let mut message = Self {
            class,
            transaction,
            username: None,
            priority: None,
            use_candidate: false,
            role: None,
            covered: &[],
            integrity: None,
        };
        for (offset, kind, value) in Attributes::new(attributes) {
            let value = value?;
            match kind {
                // Of an attribute that comes twice the first counts (RFC 8489 §14).
                USERNAME if message.username.is_none() => message.username = Some(split_username(value)?),
                PRIORITY if message.priority.is_none() => {
                    message.priority = Some(u32::from_be_bytes(value.try_into().ok()?));
                }
                USE_CANDIDATE => message.use_candidate = true,
                ICE_CONTROLLING => {
                    message.role.get_or_insert(Role::Controlling);
                }
                ICE_CONTROLLED => {
                    message.role.get_or_insert(Role::Controlled);
                }
                MESSAGE_INTEGRITY => {
                    message.integrity = Some(value.try_into().ok()?);
                    message.covered = datagram.get(..HEADER_LEN + offset)?;
                    // What follows is not covered, so it does not count (RFC 8489 §14.5).
                    break;
                }
                _ => {}
            }
        }
        Some(message)
    }

    /// Whether MESSAGE-INTEGRITY was made with `password` (short-term credentials). In constant time.
    pub fn verify(&self, password: &str) -> bool {
        let Some(integrity) = self.integrity else { return false };
        let Some((kind, rest)) = self.covered.split_first_chunk::<2>() else { return false };
        let Some((_, rest)) = rest.split_first_chunk::<2>() else { return false };
        // The length counts as if the message ended with this attribute.
        let len = (self.covered.len() - HEADER_LEN + 24) as u16;
        let expected = sha1_hmac(password.as_bytes(), &[kind, &len.to_be_bytes(), rest]);
        constant_time::verify_slices_are_equal(&expected, integrity).is_ok()
    }
}

/// The user fragments of a binding request: ours, then the peer's. Decides which peer a datagram is for before any state
/// exists; nothing is verified.
pub fn username(datagram: &[u8]) -> Option<(&str, &str)> {
    let (class, _, attributes) = header(datagram)?;
    if class != Class::Request {
        return None;
    }
    // As `Binding::parse` reads it: what follows MESSAGE-INTEGRITY does not count.
    let mut covered = Attributes::new(attributes).take_while(|(_, kind, _)| *kind != MESSAGE_INTEGRITY);
    let (_, _, value) = covered.find(|(_, kind, _)| *kind == USERNAME)?;
    split_username(value?)
}

/// The header of a binding message whose length is exactly the datagram's.
fn header(datagram: &[u8]) -> Option<(Class, TransactionId, &[u8])> {
    let ([t0, t1, l0, l1, magic @ ..], rest) = datagram.split_first_chunk::<8>()?;
    let (transaction, attributes) = rest.split_first_chunk::<12>()?;
    let class = match u16::from_be_bytes([*t0, *t1]) {
        REQUEST => Class::Request,
        INDICATION => Class::Indication,
        SUCCESS => Class::Success,
        FAILURE => Class::Failure,
        _ => return None,
    };
    let len = usize::from(u16::from_be_bytes([*l0, *l1]));
    (*magic == MAGIC && len == attributes.len() && len % 4 == 0).then_some((class, *transaction, attributes))
}

fn split_username(value: &[u8]) -> Option<(&str, &str)> {
    // 256 characters for each half (RFC 8839 §5.4) and the colon.
    let value = value.get(..value.len().min(514)).filter(|cut| cut.len() == value.len())?;
    std::str::from_utf8(value).ok()?.split_once(':')
}

/// Yields `(offset, type, value)`; the value is `None`, once, where the attributes are malformed.
struct Attributes<'a> {
    all: &'a [u8],
    offset: usize,
    left: usize,
}

impl<'a> Attributes<'a> {
    fn new(all: &'a [u8]) -> Self {
        Self { all, offset: 0, left: ATTRIBUTES_MAX }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (usize, u16, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.all.get(self.offset..).filter(|rest| !rest.is_empty())?;
        let offset = self.offset;
        let parsed = self.left.checked_sub(1).and_then(|left| {
            self.left = left;
            let ([k0, k1, l0, l1], rest) = rest.split_first_chunk::<4>()?;
            let len = usize::from(u16::from_be_bytes([*l0, *l1]));
            Some((u16::from_be_bytes([*k0, *k1]), rest.get(..len)?))
        });
        let Some((kind, value)) = parsed else {
            self.offset = self.all.len();
            return Some((offset, 0, None));
        };
        self.offset += 4 + value.len().next_multiple_of(4);
        Some((offset, kind, Some(value)))
    }
}

/// Bytes any message written here fits in.
pub const RESPONSE_LEN_MAX: usize = 96;

/// Writes a success response that tells the peer the address its request came from; gives its length.
pub fn write_success(
    out: &mut [u8; RESPONSE_LEN_MAX],
    transaction: TransactionId,
    mapped: SocketAddr,
    password: &str,
) -> usize {
    let mut writer = Writer::new(out, SUCCESS, transaction);
    writer.xor_mapped_address(mapped, transaction);
    writer.finish(password)
}

/// Writes the 487 that tells a peer to take the other role (RFC 8445 §7.3.1.1); gives its length.
pub fn write_role_conflict(
    out: &mut [u8; RESPONSE_LEN_MAX],
    transaction: TransactionId,
    password: &str,
) -> usize {
    let mut writer = Writer::new(out, FAILURE, transaction);
    writer.attribute(ERROR_CODE, [0, 0, 4, 87].into_iter().chain(*b"Role Conflict"));
    writer.finish(password)
}

/// Appends attributes to a message. Messages of this module are far shorter than the buffer.
struct Writer<'a> {
    out: &'a mut [u8; RESPONSE_LEN_MAX],
    len: usize,
}

impl<'a> Writer<'a> {
    fn new(out: &'a mut [u8; RESPONSE_LEN_MAX], kind: u16, transaction: TransactionId) -> Self {
        let mut writer = Self { out, len: 0 };
        writer.bytes(kind.to_be_bytes());
        writer.bytes([0, 0]);
        writer.bytes(MAGIC);
        writer.bytes(transaction);
        writer
    }

    fn bytes(&mut self, bytes: impl IntoIterator<Item = u8>) {
        for byte in bytes {
            if let Some(place) = self.out.get_mut(self.len) {
                *place = byte;
                self.len += 1;
            }
        }
    }

    fn attribute(&mut self, kind: u16, value: impl IntoIterator<Item = u8>) {
        self.bytes(kind.to_be_bytes());
        let head = self.len;
        self.bytes([0, 0]);
        self.bytes(value);
        let value_len = (self.len - head - 2) as u16;
        self.patch(head, value_len);
        let padding = value_len.next_multiple_of(4) - value_len;
        self.bytes((0..padding).map(|_| 0));
    }

    fn xor_mapped_address(&mut self, mapped: SocketAddr, transaction: TransactionId) {
        let [m0, m1, ..] = MAGIC;
        let port = mapped.port() ^ u16::from_be_bytes([m0, m1]);
        let mask = MAGIC.into_iter().chain(transaction);
        let head = |family| [0, family].into_iter().chain(port.to_be_bytes());
        match mapped.ip() {
            IpAddr::V4(ip) => {
                let ip = ip.octets().into_iter().zip(mask).map(|(byte, mask)| byte ^ mask);
                self.attribute(XOR_MAPPED_ADDRESS, head(1).chain(ip));
            }
            IpAddr::V6(ip) => {
                let ip = ip.octets().into_iter().zip(mask).map(|(byte, mask)| byte ^ mask);
                self.attribute(XOR_MAPPED_ADDRESS, head(2).chain(ip));
            }
        }
    }

    fn patch(&mut self, at: usize, value: u16) {
        if let Some(place) = self.out.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            *place = value.to_be_bytes();
        }
    }

    fn written(&self) -> &[u8] {
        self.out.get(..self.len).unwrap_or_default()
    }

    /// Appends MESSAGE-INTEGRITY and FINGERPRINT, each computed with the length it ends the message at.
    fn finish(mut self, password: &str) -> usize {
        self.patch(2, (self.len - HEADER_LEN + 24) as u16);
        let integrity = sha1_hmac(password.as_bytes(), &[self.written()]);
        self.attribute(MESSAGE_INTEGRITY, integrity);
        self.patch(2, (self.len - HEADER_LEN + 8) as u16);
        let fingerprint = crc32(self.written()) ^ 0x5354_554e;
        self.attribute(FINGERPRINT, fingerprint.to_be_bytes());
        self.len
    }
}

/// HMAC-SHA1 over several pieces.
pub(crate) fn sha1_hmac(key: &[u8], pieces: &[&[u8]]) -> [u8; 20] {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key);
    let mut context = hmac::Context::with_key(&key);
    pieces.iter().for_each(|piece| context.update(piece));
    context.sign().as_ref().first_chunk().copied().unwrap_or_default()
}

/// CRC-32 of ISO 3309, bit by bit: responses are under 100 bytes.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            let low = crc & 1;
            (crc >> 1) ^ (0xedb8_8320 * low)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use is::stun::{StunMessage, TransId};
    use proptest::prelude::*;

    /// RFC 5769 §2.1.
    const REQUEST_VECTOR: &[u8] = b"\x00\x01\x00\x58\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
\x80\x22\x00\x10STUN test client\x00\x24\x00\x04\x6e\x00\x01\xff\x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36\
\x00\x06\x00\x09\x65\x76\x74\x6a\x3a\x68\x36\x76\x59\x20\x20\x20\x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\
\x78\x1e\xf2\xb5\xb2\xd3\xf2\x49\xc1\xb5\x71\xa2\x80\x28\x00\x04\xe5\x7a\x3b\xcf";
    const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";

    fn request(use_candidate: bool) -> Vec<u8> {
        let mut out = vec![0; 200];
        let message =
            StunMessage::binding_request("server:client", TransId::new(), true, 7, 99, use_candidate);
        let len = message.to_bytes(Some(b"secret"), &mut out, sha1_hmac).unwrap();
        out.truncate(len);
        out
    }

    #[test]
    fn the_rfc_5769_request_is_read_and_verified() {
        let message = Binding::parse(REQUEST_VECTOR).unwrap();
        assert_eq!(message.class, Class::Request);
        assert_eq!(message.username, Some(("evtj", "h6vY")));
        assert_eq!(message.priority, Some(0x6e00_01ff));
        assert_eq!(message.role, Some(Role::Controlled));
        assert!(message.verify(PASSWORD));
        assert!(!message.verify("VOkJxbRl1RmTxUk/WvJxBT"));
        assert_eq!(username(REQUEST_VECTOR), Some(("evtj", "h6vY")));
    }

    #[test]
    fn another_implementations_request_is_read() {
        let bytes = request(true);
        let message = Binding::parse(&bytes).unwrap();
        assert!(message.verify("secret") && message.use_candidate);
        assert_eq!((message.role, message.priority), (Some(Role::Controlling), Some(99)));
        assert_eq!(username(&bytes), Some(("server", "client")));
        assert!(!Binding::parse(&request(false)).unwrap().use_candidate);
    }

    #[test]
    fn another_implementation_reads_our_responses() {
        let mut out = [0; RESPONSE_LEN_MAX];
        for mapped in ["192.0.2.1:32853", "[2001:db8::1]:9"] {
            let mapped: SocketAddr = mapped.parse().unwrap();
            let len = write_success(&mut out, [7; 12], mapped, "secret");
            let message = StunMessage::parse(&out[..len]).unwrap();
            assert!(message.is_successful_binding_response());
            assert_eq!(message.mapped_address(), Some(mapped));
            assert!(message.verify(b"secret", sha1_hmac));
            assert!(Binding::parse(&out[..len]).unwrap().verify("secret"));
        }
        let len = write_role_conflict(&mut out, [7; 12], "secret");
        let message = StunMessage::parse(&out[..len]).unwrap();
        assert_eq!(message.error_code(), Some((487, "Role Conflict")));
        assert!(message.verify(b"secret", sha1_hmac));
    }

    #[test]
    fn a_fingerprint_is_the_one_of_rfc_5769() {
        let covered = &REQUEST_VECTOR[..REQUEST_VECTOR.len() - 8];
        assert_eq!(crc32(covered) ^ 0x5354_554e, 0xe57a_3bcf);
    }

    #[test]
    fn what_integrity_does_not_cover_does_not_count() {
        let mut bytes = request(false);
        bytes.extend([0x00, 0x25, 0, 0]);
        let len = (bytes.len() - 20) as u16;
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        let message = Binding::parse(&bytes).unwrap();
        assert!(message.verify("secret"));
        assert!(!message.use_candidate);
    }

    /// A binding request of these attributes, whose values are of whole words.
    fn made_of(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, value) in attributes {
            body.extend(kind.to_be_bytes());
            body.extend((value.len() as u16).to_be_bytes());
            body.extend(*value);
        }
        let mut bytes = vec![0, 1];
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(MAGIC);
        bytes.extend([7; 12]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn the_demultiplexer_and_the_peer_read_the_same_name() {
        let first = (USERNAME, b"ab:c".as_slice());
        let other = (USERNAME, b"xy:z".as_slice());
        let twice = made_of(&[first, other]);
        assert_eq!(Binding::parse(&twice).unwrap().username, Some(("ab", "c")));
        assert_eq!(username(&twice), Some(("ab", "c")));
        let uncovered = made_of(&[(MESSAGE_INTEGRITY, &[0; 20]), first]);
        assert_eq!((Binding::parse(&uncovered).unwrap().username, username(&uncovered)), (None, None));
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_noticed() {
        for len in 0..REQUEST_VECTOR.len() {
            assert!(Binding::parse(&REQUEST_VECTOR[..len]).is_none(), "{len} bytes");
            assert!(username(&REQUEST_VECTOR[..len]).is_none());
        }
        for at in 0..(REQUEST_VECTOR.len() - 8) * 8 {
            let mut bytes = REQUEST_VECTOR.to_vec();
            bytes[at / 8] ^= 1 << (at % 8);
            // Bits of the message length are not covered themselves but decide whether it parses.
            assert!(!Binding::parse(&bytes).is_some_and(|message| message.verify(PASSWORD)), "bit {at}");
        }
    }

    #[test]
    fn attributes_are_bounded() {
        let mut bytes = request(false)[..20].to_vec();
        bytes.extend([0, 1, 0, 0].repeat(ATTRIBUTES_MAX + 1));
        let len = (bytes.len() - 20) as u16;
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        assert!(Binding::parse(&bytes).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            kind in 0u16..0x200, body in proptest::collection::vec(any::<u8>(), 0..30)
        ) {
            let mut bytes = vec![];
            bytes.extend(kind.to_be_bytes());
            bytes.extend(((body.len() * 4) as u16).to_be_bytes());
            bytes.extend(MAGIC);
            bytes.extend([1; 12]);
            bytes.extend(body.iter().flat_map(|byte| [0, *byte & 0x2f, 0, byte >> 4]));
            if let Some(message) = Binding::parse(&bytes) {
                prop_assert!(!message.verify("secret"));
            }
            username(&bytes);
        }
    }
}
