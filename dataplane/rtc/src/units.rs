//! The units of the packet path. `u16` sequence numbers and `u32` timestamps exist only on the wire.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// A sequence number extended over all its wraps (RFC 3550 A.1). Starts at the first packet's own number plus one cycle, so
/// that packets older than the first one have a number too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SeqNo(pub u64);

impl SeqNo {
    /// The number with which a stream whose first packet says `wire` starts.
    pub const fn first(wire: u16) -> Self {
        Self(0x1_0000 + wire as u64)
    }

    /// What stands in the RTP header.
    pub const fn wire(self) -> u16 {
        self.0 as u16
    }

    /// The extended number nearest to `self` that ends in `wire` (within ±2^15).
    pub const fn nearest(self, wire: u16) -> Self {
        let forward = wire.wrapping_sub(self.0 as u16) as i16;
        Self(self.0.wrapping_add_signed(forward as i64))
    }
}

impl fmt::Debug for SeqNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A 64-bit NTP timestamp: seconds since 1900 in the upper half, fraction in the lower (RFC 5905 §6).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct NtpTime(pub u64);

impl NtpTime {
    /// The middle 32 bits, as in LSR and DLSR of RTCP reports (RFC 3550 §6.4.1), unit 1/65,536 s.
    pub const fn middle(self) -> u32 {
        (self.0 >> 16) as u32
    }
}

/// What carries a peer's datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protocol {
    Udp,
    /// A connection that the peer opened, each datagram framed on it (RFC 6544, RFC 4571).
    Tcp,
}

/// Where a datagram goes, over what, and from which of our addresses (the one the peer's check arrived at).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Route {
    pub remote: SocketAddr,
    pub local: Option<IpAddr>,
    pub protocol: Protocol,
}

impl Route {
    pub const fn udp(remote: SocketAddr, local: Option<IpAddr>) -> Self {
        Self { remote, local, protocol: Protocol::Udp }
    }

    pub const fn tcp(remote: SocketAddr, local: Option<IpAddr>) -> Self {
        Self { remote, local, protocol: Protocol::Tcp }
    }

    /// Whether both lead to the same end of the peer, whatever our own address.
    pub fn is_to(&self, other: &Self) -> bool {
        self.remote == other.remote && self.protocol == other.protocol
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_crosses_the_wrap_both_ways() {
        let at = SeqNo(0x1_ffff);
        assert_eq!(at.nearest(0), SeqNo(0x2_0000));
        assert_eq!(at.nearest(0xfffe), SeqNo(0x1_fffe));
        assert_eq!(SeqNo(0x2_0000).nearest(0xffff), SeqNo(0x1_ffff));
        assert_eq!(SeqNo::first(5).nearest(0xffff), SeqNo(0xffff));
    }
}
