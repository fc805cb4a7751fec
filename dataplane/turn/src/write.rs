//! Writing STUN messages and ChannelData headers.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::hmac;

use crate::code::ErrorCode;
use crate::crc;
use crate::message::{
    Class, FINGERPRINT_XOR, HEADER_LEN, MAGIC, Message, Method, TransactionId, kind, message_type, xor_v6,
};

/// Appends attributes to a message in an empty buffer.
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    transaction: TransactionId,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(
        out: &'a mut Vec<u8>,
        class: Class,
        method: Method,
        transaction: TransactionId,
    ) -> Self {
        out.clear();
        out.extend_from_slice(&message_type(class, method).to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&transaction);
        Self { out, transaction }
    }

    /// The response to a request, of class success or failure.
    pub(crate) fn answer(out: &'a mut Vec<u8>, request: &Message<'_>, class: Class) -> Self {
        Self::new(out, class, request.method, request.transaction)
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.out.extend_from_slice(&kind.to_be_bytes());
        self.out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        self.out.extend_from_slice(value);
        let padding = value.len().next_multiple_of(4) - value.len();
        self.out.extend(std::iter::repeat_n(0, padding));
    }

    pub(crate) fn xor_address(&mut self, kind: u16, address: SocketAddr) {
        let (value, len) = xor_address(address, &self.transaction);
        self.attribute(kind, value.get(..len).unwrap_or_default());
    }

    pub(crate) fn error(&mut self, code: ErrorCode) {
        let number = code.number();
        let head = [0, 0, (number / 100) as u8, (number % 100) as u8];
        self.attribute(kind::ERROR_CODE, &[head.as_slice(), code.reason().as_bytes()].concat());
    }

    /// What stands for an address of a family there is none of (RFC 8656 §18.12).
    pub(crate) fn address_error(&mut self, family: u8, code: ErrorCode) {
        let number = code.number();
        let head = [family, 0, (number / 100) as u8, (number % 100) as u8];
        self.attribute(kind::ADDRESS_ERROR_CODE, &[head.as_slice(), code.reason().as_bytes()].concat());
    }

    /// Ends the message, with MESSAGE-INTEGRITY where there is a key, and FINGERPRINT where it is wanted.
    pub(crate) fn finish(mut self, integrity: Option<&hmac::Key>, fingerprint: bool) {
        if let Some(key) = integrity {
            self.set_len(24);
            let tag = hmac::sign(key, self.out.as_slice());
            self.attribute(kind::MESSAGE_INTEGRITY, tag.as_ref());
        }
        if fingerprint {
            self.set_len(8);
            let checksum = crc::checksum(&[self.out.as_slice()]) ^ FINGERPRINT_XOR;
            self.attribute(kind::FINGERPRINT, &checksum.to_be_bytes());
        }
        self.set_len(0);
    }

    /// Sets the length in the header to what there is and `more`.
    fn set_len(&mut self, more: usize) {
        let len = (self.out.len() - HEADER_LEN + more) as u16;
        if let Some(field) = self.out.get_mut(2..4) {
            field.copy_from_slice(&len.to_be_bytes());
        }
    }
}

/// An address as an XOR- attribute holds it, and how long that is.
pub(crate) fn xor_address(address: SocketAddr, transaction: &TransactionId) -> ([u8; 20], usize) {
    let [p0, p1] = address.port().to_be_bytes();
    let head = |family: u8| [0, family, p0 ^ MAGIC[0], p1 ^ MAGIC[1]];
    let mut value = [0; 20];
    let (start, ip) = value.split_at_mut(4);
    let len = match address.ip() {
        IpAddr::V4(v4) => {
            start.copy_from_slice(&head(1));
            let xored = u32::from(v4) ^ u32::from_be_bytes(MAGIC);
            ip.iter_mut().zip(xored.to_be_bytes()).for_each(|(to, from)| *to = from);
            8
        }
        IpAddr::V6(v6) => {
            start.copy_from_slice(&head(2));
            ip.copy_from_slice(&(u128::from(v6) ^ xor_v6(transaction)).to_be_bytes());
            20
        }
    };
    (value, len)
}
