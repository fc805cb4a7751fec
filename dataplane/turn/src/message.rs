//! STUN messages as TURN uses them (RFC 8489 §5, RFC 8656 §18), read in place.
//!
//! Only attributes that MESSAGE-INTEGRITY covers count, and nothing of a request counts before [`Message::verify`] said yes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use aws_lc_rs::{constant_time, hmac};

use crate::crc;

pub(crate) const HEADER_LEN: usize = 20;
pub(crate) const MAGIC: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// What FINGERPRINT's checksum is combined with.
pub(crate) const FINGERPRINT_XOR: u32 = 0x5354_554e;
/// Attributes one message may have; clients send about ten.
const ATTRIBUTES_MAX: usize = 48;
/// Peers one CreatePermission may name.
pub(crate) const PEERS_MAX: usize = 16;
/// Attributes not understood that a response can name.
const UNKNOWN_MAX: usize = 8;

/// Attributes whose value has a shape; another one makes the message malformed.
const VALUED: [u16; 8] = [
    kind::CHANNEL_NUMBER,
    kind::LIFETIME,
    kind::XOR_PEER_ADDRESS,
    kind::REQUESTED_ADDRESS_FAMILY,
    kind::EVEN_PORT,
    kind::REQUESTED_TRANSPORT,
    kind::RESERVATION_TOKEN,
    kind::ADDITIONAL_ADDRESS_FAMILY,
];

pub(crate) mod kind {
    /// From here on attributes need not be understood.
    pub(crate) const OPTIONAL: u16 = 0x8000;
    pub(crate) const USERNAME: u16 = 0x0006;
    pub(crate) const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub(crate) const ERROR_CODE: u16 = 0x0009;
    pub(crate) const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
    pub(crate) const CHANNEL_NUMBER: u16 = 0x000c;
    pub(crate) const LIFETIME: u16 = 0x000d;
    pub(crate) const XOR_PEER_ADDRESS: u16 = 0x0012;
    pub(crate) const DATA: u16 = 0x0013;
    pub(crate) const REALM: u16 = 0x0014;
    pub(crate) const NONCE: u16 = 0x0015;
    pub(crate) const XOR_RELAYED_ADDRESS: u16 = 0x0016;
    pub(crate) const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
    pub(crate) const EVEN_PORT: u16 = 0x0018;
    pub(crate) const REQUESTED_TRANSPORT: u16 = 0x0019;
    pub(crate) const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    pub(crate) const RESERVATION_TOKEN: u16 = 0x0022;
    pub(crate) const PRIORITY: u16 = 0x0024;
    pub(crate) const USE_CANDIDATE: u16 = 0x0025;
    pub(crate) const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
    pub(crate) const ADDRESS_ERROR_CODE: u16 = 0x8001;
    pub(crate) const FINGERPRINT: u16 = 0x8028;
}

/// Identifies a request and its response.
pub(crate) type TransactionId = [u8; 12];

/// What kind of message it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    Request,
    Indication,
    Success,
    Failure,
}

/// What it is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Method {
    Binding,
    Allocate,
    Refresh,
    Send,
    Data,
    CreatePermission,
    ChannelBind,
}

impl Method {
    const ALL: [Self; 7] = [
        Self::Binding,
        Self::Allocate,
        Self::Refresh,
        Self::Send,
        Self::Data,
        Self::CreatePermission,
        Self::ChannelBind,
    ];

    const fn number(self) -> u16 {
        match self {
            Self::Binding => 1,
            Self::Allocate => 3,
            Self::Refresh => 4,
            Self::Send => 6,
            Self::Data => 7,
            Self::CreatePermission => 8,
            Self::ChannelBind => 9,
        }
    }
}

/// The first two bytes: method and class are woven into each other (RFC 8489 §5).
pub(crate) const fn message_type(class: Class, method: Method) -> u16 {
    let class = match class {
        Class::Request => 0,
        Class::Indication => 0x0010,
        Class::Success => 0x0100,
        Class::Failure => 0x0110,
    };
    // All our methods have four bits.
    class | method.number()
}

fn parse_type(number: u16) -> Option<(Class, Method)> {
    let class = match number & 0x0110 {
        0 => Class::Request,
        0x0010 => Class::Indication,
        0x0100 => Class::Success,
        _ => Class::Failure,
    };
    let method = Method::ALL.into_iter().find(|method| method.number() == number & !0x0110)?;
    Some((class, method))
}

/// A few values of which there may be too many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Few<T, const N: usize> {
    values: [Option<T>; N],
    len: usize,
}

impl<T: Copy, const N: usize> Few<T, N> {
    const fn new() -> Self {
        Self { values: [None; N], len: 0 }
    }

    fn push(&mut self, value: T) {
        if let Some(slot) = self.values.get_mut(self.len) {
            *slot = Some(value);
        }
        self.len += 1;
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = T> + '_ {
        self.values.iter().flatten().copied()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether more came than are kept.
    pub(crate) const fn is_overfull(&self) -> bool {
        self.len > N
    }

    pub(crate) fn first(&self) -> Option<T> {
        self.values.first().copied().flatten()
    }
}

/// A message.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) class: Class,
    pub(crate) method: Method,
    pub(crate) transaction: TransactionId,
    pub(crate) username: Option<&'a [u8]>,
    pub(crate) realm: Option<&'a [u8]>,
    pub(crate) nonce: Option<&'a [u8]>,
    /// Seconds.
    pub(crate) lifetime_s: Option<u32>,
    /// IANA's number of the transport of the relayed address.
    pub(crate) requested_transport: Option<u8>,
    pub(crate) requested_family: Option<u8>,
    pub(crate) additional_family: Option<u8>,
    /// With whether the next port is to be reserved.
    pub(crate) even_port: Option<bool>,
    pub(crate) has_reservation_token: bool,
    pub(crate) channel: Option<u16>,
    pub(crate) peers: Few<SocketAddr, PEERS_MAX>,
    /// Where DATA lies in the message.
    pub(crate) data: Option<Range<usize>>,
    pub(crate) has_fingerprint: bool,
    /// An attribute has a value it cannot have.
    pub(crate) is_malformed: bool,
    /// Attributes that had to be understood and were not.
    pub(crate) unknown: Few<u16, UNKNOWN_MAX>,
    integrity: Option<&'a [u8; 20]>,
    covered: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads a message that fills `bytes`. `None` when it is not well formed, of no method of ours, or its FINGERPRINT is wrong.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let ([t0, t1, l0, l1, magic @ ..], rest) = bytes.split_first_chunk::<8>()?;
        let (transaction, attributes) = rest.split_first_chunk::<12>()?;
        let (class, method) = parse_type(u16::from_be_bytes([*t0, *t1]))?;
        let len = usize::from(u16::from_be_bytes([*l0, *l1]));
        if *magic != MAGIC || len != attributes.len() {
            return None;
        }
        let mut message = Self::empty(class, method, *transaction);
        let mut offset = HEADER_LEN;
        for _ in 0..ATTRIBUTES_MAX {
            let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) else {
                return Some(message);
            };
            let ([k0, k1, l0, l1], rest) = rest.split_first_chunk::<4>()?;
            let (number, len) = (u16::from_be_bytes([*k0, *k1]), usize::from(u16::from_be_bytes([*l0, *l1])));
            let value = rest.get(..len)?;
            let padded = rest.get(..len.next_multiple_of(4))?;
            message.take(bytes, offset, number, value)?;
            offset += 4 + padded.len();
        }
        None
    }

    const fn empty(class: Class, method: Method, transaction: TransactionId) -> Self {
        Self {
            class,
            method,
            transaction,
            username: None,
            realm: None,
            nonce: None,
            lifetime_s: None,
            requested_transport: None,
            requested_family: None,
            additional_family: None,
            even_port: None,
            has_reservation_token: false,
            channel: None,
            peers: Few::new(),
            data: None,
            has_fingerprint: false,
            is_malformed: false,
            unknown: Few::new(),
            integrity: None,
            covered: &[],
        }
    }

    /// Takes the attribute that starts at `offset`. `None` ends the message as malformed.
    fn take(&mut self, bytes: &'a [u8], offset: usize, number: u16, value: &'a [u8]) -> Option<()> {
        if number == kind::FINGERPRINT {
            // Covers the message as it stands, this attribute's length included (RFC 8489 §14.7).
            let expected = crc::checksum(&[bytes.get(..offset)?]) ^ FINGERPRINT_XOR;
            let is_right = value == expected.to_be_bytes() && bytes.len() == offset + 8;
            self.has_fingerprint = true;
            return is_right.then_some(());
        }
        if self.integrity.is_some() {
            // Not covered, so it does not count (RFC 8489 §14.5).
            return Some(());
        }
        match number {
            kind::MESSAGE_INTEGRITY => {
                self.integrity = Some(value.try_into().ok()?);
                self.covered = bytes.get(..offset)?;
            }
            kind::USERNAME => self.username = self.username.or(Some(value)),
            kind::REALM => self.realm = self.realm.or(Some(value)),
            kind::NONCE => self.nonce = self.nonce.or(Some(value)),
            kind::DATA if self.data.is_none() => self.data = Some(offset + 4..offset + 4 + value.len()),
            kind::DATA | kind::PRIORITY | kind::USE_CANDIDATE => {}
            _ => self.take_value(number, value),
        }
        Some(())
    }

    /// Of an attribute that comes twice the first counts (RFC 8489 §14).
    fn take_value(&mut self, number: u16, value: &[u8]) {
        let taken = match (number, value) {
            (kind::LIFETIME, [a, b, c, d]) => {
                self.lifetime_s.get_or_insert(u32::from_be_bytes([*a, *b, *c, *d]));
                true
            }
            (kind::REQUESTED_TRANSPORT, [protocol, _, _, _]) => {
                self.requested_transport.get_or_insert(*protocol);
                true
            }
            (kind::REQUESTED_ADDRESS_FAMILY, [family, _, _, _]) => {
                self.requested_family.get_or_insert(*family);
                true
            }
            (kind::ADDITIONAL_ADDRESS_FAMILY, [family, _, _, _]) => {
                self.additional_family.get_or_insert(*family);
                true
            }
            (kind::EVEN_PORT, [flags]) => {
                self.even_port.get_or_insert(flags & 0x80 != 0);
                true
            }
            (kind::RESERVATION_TOKEN, [_, _, _, _, _, _, _, _]) => {
                self.has_reservation_token = true;
                true
            }
            (kind::CHANNEL_NUMBER, [high, low, _, _]) => {
                self.channel.get_or_insert(u16::from_be_bytes([*high, *low]));
                true
            }
            (kind::XOR_PEER_ADDRESS, _) => {
                let peer = xor_address(value, &self.transaction);
                peer.map(|peer| self.peers.push(peer)).is_some()
            }
            _ if VALUED.contains(&number) => false,
            _ => {
                if number < kind::OPTIONAL {
                    self.unknown.push(number);
                }
                true
            }
        };
        self.is_malformed |= !taken;
    }

    /// Whether there is MESSAGE-INTEGRITY at all.
    pub(crate) const fn has_integrity(&self) -> bool {
        self.integrity.is_some()
    }

    /// Whether MESSAGE-INTEGRITY was made with `key` (RFC 8489 §14.5). In constant time.
    pub(crate) fn verify(&self, key: &hmac::Key) -> bool {
        let Some(integrity) = self.integrity else { return false };
        let Some(([t0, t1, _, _], rest)) = self.covered.split_first_chunk::<4>() else { return false };
        // The length counts as if the message ended with this attribute.
        let [l0, l1] = ((self.covered.len() - HEADER_LEN + 24) as u16).to_be_bytes();
        let mut context = hmac::Context::with_key(key);
        context.update(&[*t0, *t1, l0, l1]);
        context.update(rest);
        constant_time::verify_slices_are_equal(context.sign().as_ref(), integrity).is_ok()
    }
}

/// Reads an address that is combined with the cookie and the transaction (RFC 8489 §14.2).
fn xor_address(value: &[u8], transaction: &TransactionId) -> Option<SocketAddr> {
    let ([_, family, p0, p1], ip) = value.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([*p0 ^ MAGIC[0], *p1 ^ MAGIC[1]]);
    let ip: IpAddr = match family {
        1 => Ipv4Addr::from(u32::from_be_bytes(ip.try_into().ok()?) ^ u32::from_be_bytes(MAGIC)).into(),
        2 => Ipv6Addr::from(u128::from_be_bytes(ip.try_into().ok()?) ^ xor_v6(transaction)).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// What an IPv6 address is combined with.
pub(crate) fn xor_v6(transaction: &TransactionId) -> u128 {
    let mut all = [0; 16];
    let (magic, rest) = all.split_at_mut(4);
    magic.copy_from_slice(&MAGIC);
    rest.copy_from_slice(transaction);
    u128::from_be_bytes(all)
}
