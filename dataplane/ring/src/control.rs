//! Socket addresses and control messages in the kernel's own layout (ip(7), udp(7), socket(7)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

/// Room for packet info, timestamp, GRO size and overflow count of one received message.
pub(crate) const RECEIVE_CONTROL_BYTES: usize = 192;
/// Room for packet info and segment size of one sent message.
pub(crate) const SEND_CONTROL_BYTES: usize = 96;

/// A socket address as the kernel reads it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct RawAddress {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl RawAddress {
    pub(crate) const fn empty() -> Self {
        // SAFETY: sockaddr_storage is plain integers; all zeroes is AF_UNSPEC.
        let storage = unsafe { std::mem::zeroed() };
        Self { storage, len: size_of::<libc::sockaddr_storage>() as libc::socklen_t }
    }

    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        (&raw mut self.storage).cast()
    }

    pub(crate) fn len(&self) -> libc::socklen_t {
        self.len
    }

    /// Reads what the kernel wrote; `None` for a family we do not use.
    pub(crate) fn parse(&self) -> Option<SocketAddr> {
        parse_address(as_bytes(&self.storage))
    }
}

fn as_bytes(storage: &libc::sockaddr_storage) -> &[u8] {
    // SAFETY: sockaddr_storage is plain integers without padding that matters; any byte of it may be read.
    unsafe { std::slice::from_raw_parts((&raw const *storage).cast(), size_of::<libc::sockaddr_storage>()) }
}

/// Reads a `sockaddr_in` or `sockaddr_in6` from the start of `bytes`. An IPv4 peer of a socket for both families comes mapped into
/// IPv6 and leaves as what it is.
pub(crate) fn parse_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk::<2>()?);
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match i32::from(family) {
        libc::AF_INET => {
            let ip: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(SocketAddr::V4(SocketAddrV4::new(ip.into(), port)))
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            Some(SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), port))
        }
        _ => None,
    }
}

impl From<SocketAddr> for RawAddress {
    fn from(address: SocketAddr) -> Self {
        let mut raw = Self::empty();
        match address {
            SocketAddr::V4(v4) => {
                let sin = libc::sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is at least as large and as aligned as sockaddr_in.
                unsafe { raw.as_mut_ptr().cast::<libc::sockaddr_in>().write(sin) };
                raw.len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
            SocketAddr::V6(v6) => {
                let sin6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: sockaddr_storage is at least as large and as aligned as sockaddr_in6.
                unsafe { raw.as_mut_ptr().cast::<libc::sockaddr_in6>().write(sin6) };
                raw.len = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            }
        }
        raw
    }
}

/// What the kernel said about a received message.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct ReceiveControl {
    pub(crate) to: Option<IpAddr>,
    /// Bytes of each datagram when several arrived as one (UDP_GRO).
    pub(crate) segment: Option<u16>,
    /// CLOCK_REALTIME of arrival, in nanoseconds.
    pub(crate) realtime_ns: Option<u64>,
    /// Datagrams this socket has lost so far because its buffer was full.
    pub(crate) overflow: Option<u32>,
}

/// Walks control messages. `bytes` is what the kernel filled, never more.
pub(crate) fn parse_control(mut bytes: &[u8]) -> ReceiveControl {
    let mut control = ReceiveControl::default();
    let header_len = size_of::<libc::cmsghdr>();
    while bytes.len() >= header_len {
        let len = usize::from_ne_bytes(bytes[..8].try_into().unwrap_or_default());
        let level = i32::from_ne_bytes(bytes[8..12].try_into().unwrap_or_default());
        let kind = i32::from_ne_bytes(bytes[12..16].try_into().unwrap_or_default());
        let Some(data) = bytes.get(header_len..len) else { break };
        read_control(&mut control, level, kind, data);
        let Some(rest) = bytes.get(len.next_multiple_of(size_of::<usize>())..) else { break };
        bytes = rest;
    }
    control
}

fn read_control(control: &mut ReceiveControl, level: i32, kind: i32, data: &[u8]) {
    let int = |at: usize| data.get(at..at + 4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    let long = |at: usize| data.get(at..at + 8).and_then(|b| b.try_into().ok()).map(i64::from_ne_bytes);
    match (level, kind) {
        // in_pktinfo { ifindex, spec_dst, addr }: `addr` is the header's destination.
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            control.to = int(8).map(|addr| IpAddr::V4(Ipv4Addr::from(addr.to_ne_bytes())));
        }
        // in6_pktinfo { addr, ifindex }: the header's destination, of IPv4 too.
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            control.to = data.first_chunk::<16>().map(|addr| Ipv6Addr::from(*addr).to_canonical());
        }
        (libc::SOL_UDP, libc::UDP_GRO) => control.segment = int(0).and_then(|v| u16::try_from(v).ok()),
        (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
            control.realtime_ns =
                long(0).zip(long(8)).map(|(s, ns)| (s.max(0) as u64) * 1_000_000_000 + ns.max(0) as u64);
        }
        (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => control.overflow = int(0).map(|v| v as u32),
        _ => {}
    }
}

/// Writes packet info (source address) and segment size; returns the bytes used.
pub(crate) fn write_control(
    out: &mut [u8; SEND_CONTROL_BYTES],
    from: Option<IpAddr>,
    segment: Option<u16>,
) -> usize {
    let mut at = match from {
        Some(IpAddr::V4(ip)) => {
            let mut info = [0_u8; 12];
            info[4..8].copy_from_slice(&ip.octets());
            write_message(out, libc::IPPROTO_IP, libc::IP_PKTINFO, &info)
        }
        Some(IpAddr::V6(ip)) => {
            let mut info = [0_u8; 20];
            info[..16].copy_from_slice(&ip.octets());
            write_message(out, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info)
        }
        None => 0,
    };
    if let Some(segment) = segment {
        at += write_message(&mut out[at..], libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    at
}

fn write_message(out: &mut [u8], level: i32, kind: i32, data: &[u8]) -> usize {
    let header_len = size_of::<libc::cmsghdr>();
    let len = header_len + data.len();
    let space = len.next_multiple_of(size_of::<usize>());
    out[..space].fill(0);
    out[..8].copy_from_slice(&len.to_ne_bytes());
    out[8..12].copy_from_slice(&level.to_ne_bytes());
    out[12..16].copy_from_slice(&kind.to_ne_bytes());
    out[header_len..len].copy_from_slice(data);
    space
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in ["127.0.0.1:7882", "[2001:db8::1]:443"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddress::from(address).parse(), Some(address));
        }
        assert_eq!(RawAddress::empty().parse(), None);
        let mapped: SocketAddr = "[::ffff:10.77.0.1]:9".parse().unwrap();
        assert_eq!(RawAddress::from(mapped).parse(), Some("10.77.0.1:9".parse().unwrap()));
    }

    #[test]
    fn control_messages_round_trip() {
        let mut bytes = [0; SEND_CONTROL_BYTES];
        let from = IpAddr::from([10, 77, 0, 1]);
        let len = write_control(&mut bytes, Some(from), Some(1_100));
        assert_eq!(len, 32 + 24);
        // A packet info written as `spec_dst` reads back as nothing in `addr`: the two directions differ.
        assert_eq!(parse_control(&bytes[..len]).to, Some(IpAddr::from([0, 0, 0, 0])));
        for (ip, read) in [("2001:db8::7", "2001:db8::7"), ("::ffff:10.77.0.1", "10.77.0.1")] {
            let len = write_control(&mut bytes, Some(ip.parse().unwrap()), Some(1_100));
            assert_eq!(len, 40 + 24);
            assert_eq!(parse_control(&bytes[..len]).to, Some(read.parse().unwrap()));
        }
    }

    #[test]
    fn truncated_control_never_panics() {
        let mut bytes = [0; SEND_CONTROL_BYTES];
        for from in [IpAddr::from([1, 2, 3, 4]), IpAddr::from([7_u8; 16])] {
            let len = write_control(&mut bytes, Some(from), Some(9));
            for cut in 0..len {
                parse_control(&bytes[..cut]);
            }
        }
        let mut absurd = [0xff; 64];
        parse_control(&absurd);
        absurd[..8].copy_from_slice(&0_usize.to_ne_bytes());
        parse_control(&absurd);
    }
}
