//! The media sockets: bound before any thread starts, so that a port in use is an error at start and not a log line later.
//!
//! One socket serves both families: it costs an IPv4 packet no system call, and what it says of addresses is made plain again
//! where it is read (`control`). Nothing above this crate ever sees an IPv4 address mapped into IPv6.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// How long a port may still be held by a process that has just been killed: the kernel takes its ring down later.
const BIND_PATIENCE: Duration = Duration::from_secs(1);
const BIND_RETRY: Duration = Duration::from_millis(20);
/// Connections that may wait to be accepted; the system caps it (net.core.somaxconn).
const LISTEN_BACKLOG: i32 = 1_024;

/// What a socket carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Families {
    V4,
    V6,
    Both,
}

impl Families {
    const fn of(address: SocketAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The socket itself, with what decides its families.
    fn open(self, kind: i32) -> io::Result<OwnedFd> {
        let domain = if self == Self::V4 { libc::AF_INET } else { libc::AF_INET6 };
        // SAFETY: socket takes no pointers; the result is checked before it is owned.
        let fd = unsafe { libc::socket(domain, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just created and belongs to nobody else.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        if self != Self::V4 {
            // Said either way: the system's default is the administrator's (net.ipv6.bindv6only).
            set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, i32::from(self == Self::V6))?;
        }
        Ok(owned)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// Kernel buffer asked for in each direction, in bytes.
    pub buffer_bytes: usize,
    /// Several sockets share the port (single-port mode).
    pub reuse_port: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("cannot bind UDP {address}: {source}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("cannot set {option} on UDP {address}: {source}")]
    Option { option: &'static str, address: SocketAddr, source: io::Error },
    #[error("cannot listen on TCP {address}: {source}; choose another rtc.tcp_port, or 0 for none")]
    Listen { address: SocketAddr, source: io::Error },
}

impl SocketError {
    /// Whether the host has no IPv6: switched off in the kernel, or without a single address of it.
    fn is_without_ipv6(&self) -> bool {
        let (Self::Bind { source, .. } | Self::Option { source, .. } | Self::Listen { source, .. }) = self;
        matches!(source.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
    }
}

/// A bound socket and what the kernel granted it.
#[derive(Debug)]
pub struct BoundSocket {
    pub socket: UdpSocket,
    /// Receive buffer the kernel granted, in bytes.
    pub receive_buffer_bytes: usize,
}

/// A non-blocking UDP socket of the address's own family alone, with everything both back ends need: packet info, receive
/// timestamps, GRO, the count of datagrams lost in the kernel, and "do not fragment, ignore path MTU" (an attacker's ICMP must
/// not shrink our datagrams).
///
/// # Errors
/// The operator's: the port is in use, or the address is none of this host's.
pub fn bind(address: SocketAddr, options: SocketOptions) -> Result<BoundSocket, SocketError> {
    bind_as(Families::of(address), address, options)
}

/// The same on every address of both families, or of IPv4 where the host has no IPv6: the socket's own address says which.
///
/// # Errors
/// As [`bind`].
pub fn bind_both(port: u16, options: SocketOptions) -> Result<BoundSocket, SocketError> {
    match bind_as(Families::Both, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), options) {
        Err(error) if error.is_without_ipv6() => bind(SocketAddr::from(([0, 0, 0, 0], port)), options),
        bound => bound,
    }
}

/// A non-blocking TCP listener of the address's own family alone.
///
/// # Errors
/// As [`bind`].
pub fn listen(address: SocketAddr) -> Result<TcpListener, SocketError> {
    listen_as(Families::of(address), address)
}

/// The same on every address of both families, or of IPv4 where the host has no IPv6.
///
/// # Errors
/// As [`bind`].
pub fn listen_both(port: u16) -> Result<TcpListener, SocketError> {
    match listen_as(Families::Both, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))) {
        Err(error) if error.is_without_ipv6() => listen(SocketAddr::from(([0, 0, 0, 0], port))),
        listening => listening,
    }
}

/// An address as its family writes it: a listener of both families gives IPv4 peers out mapped (RFC 4291 §2.5.5.2).
pub fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn bind_as(
    families: Families,
    address: SocketAddr,
    options: SocketOptions,
) -> Result<BoundSocket, SocketError> {
    let fail = |source| SocketError::Bind { address, source };
    let socket = UdpSocket::from(families.open(libc::SOCK_DGRAM).map_err(fail)?);
    let fd = socket.as_raw_fd();
    let set = |option, level, name, value| {
        set_option(fd, level, name, value).map_err(|source| SocketError::Option { option, address, source })
    };
    if options.reuse_port {
        set("SO_REUSEPORT", libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    if families == Families::V4 {
        set("IP_PKTINFO", libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    } else {
        // Tells of IPv4 datagrams too. IP_PKTINFO beside it would say the same a second time.
        set("IPV6_RECVPKTINFO", libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        let ignore = libc::IPV6_PMTUDISC_INTERFACE;
        set("IPV6_MTU_DISCOVER", libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, ignore)?;
    }
    if families != Families::V6 {
        set("IP_MTU_DISCOVER", libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_INTERFACE)?;
    }
    set("SO_TIMESTAMPNS", libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
    set("SO_RXQ_OVFL", libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
    set("UDP_GRO", libc::SOL_UDP, libc::UDP_GRO, 1)?;
    for (forced, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
    {
        let bytes = options.buffer_bytes.min(i32::MAX as usize) as i32;
        if set_option(fd, libc::SOL_SOCKET, forced, bytes).is_err() {
            set("SO_RCVBUF/SO_SNDBUF", libc::SOL_SOCKET, plain, bytes)?;
        }
    }
    bind_patiently(fd, address).map_err(fail)?;
    Ok(BoundSocket { receive_buffer_bytes: receive_buffer_bytes(fd), socket })
}

fn listen_as(families: Families, address: SocketAddr) -> Result<TcpListener, SocketError> {
    let fail = |source| SocketError::Listen { address, source };
    let listener = TcpListener::from(families.open(libc::SOCK_STREAM).map_err(fail)?);
    let fd = listener.as_raw_fd();
    // Connections of a process that has just ended must not keep the port from this one.
    set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1).map_err(fail)?;
    bind_patiently(fd, address).map_err(fail)?;
    // SAFETY: listen takes no pointers.
    if unsafe { libc::listen(fd, LISTEN_BACKLOG) } != 0 {
        return Err(fail(io::Error::last_os_error()));
    }
    Ok(listener)
}

fn bind_patiently(fd: RawFd, address: SocketAddr) -> io::Result<()> {
    let raw = crate::control::RawAddress::from(address);
    let deadline = Instant::now() + BIND_PATIENCE;
    loop {
        // SAFETY: `raw` is a live socket address of the length given.
        if unsafe { libc::bind(fd, raw.as_ptr(), raw.len()) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::AddrInUse || Instant::now() >= deadline {
            return Err(error);
        }
        std::thread::sleep(BIND_RETRY);
    }
}

pub(crate) fn set_option(fd: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the option value is a live i32 of the length given.
    let result = unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The kernel reports twice what it grants, the other half being its own bookkeeping (socket(7)).
fn receive_buffer_bytes(fd: RawFd) -> usize {
    let mut value = 0_i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` and `len` are live and of the sizes given.
    let result = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, (&raw mut value).cast(), &raw mut len)
    };
    if result == 0 { value.max(0) as usize / 2 } else { 0 }
}

/// The descriptor, for back ends.
pub(crate) fn raw(socket: &UdpSocket) -> RawFd {
    socket.as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, BackendKind, Outgoing, SendOutcome, Sizes};

    #[test]
    fn a_port_in_use_is_an_error_that_names_it() {
        let options = SocketOptions { buffer_bytes: 1 << 16, reuse_port: false };
        let first = bind("127.0.0.1:0".parse().unwrap(), options).unwrap();
        let address = first.socket.local_addr().unwrap();
        let error = bind(address, options).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("in use"), "{error}");
        assert!(first.receive_buffer_bytes >= 1 << 16);
    }

    #[test]
    fn reuse_port_lets_shards_share() {
        let options = SocketOptions { buffer_bytes: 1 << 16, reuse_port: true };
        let first = bind("127.0.0.1:0".parse().unwrap(), options).unwrap();
        bind(first.socket.local_addr().unwrap(), options).unwrap();
    }

    /// Sends to `to` and gives sender, own address and bytes as the back end hands them out, answered from there.
    fn cross(bound: BoundSocket, kind: BackendKind, to: SocketAddr) -> (SocketAddr, Received, SocketAddr) {
        let ip = if to.is_ipv4() { "127.0.0.1" } else { "::1" };
        let client = UdpSocket::bind((ip, 0)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.send_to(b"hello", to).unwrap();
        let wake = crate::WakeHandle::new().unwrap();
        let mut backend = Backend::new(kind, bound.socket, wake, Sizes::new(4, 8)).unwrap();
        let mut got = None;
        let deadline = Instant::now() + Duration::from_secs(5);
        while got.is_none() && Instant::now() < deadline {
            backend.wait(Duration::from_millis(50)).unwrap();
            backend
                .receive(8, &mut |message| {
                    assert_eq!(message.bytes, b"hello");
                    got = Some(Received { from: message.from, to: message.to });
                })
                .unwrap();
        }
        let got = got.expect("a datagram");
        // Three datagrams as one train, from the address that was written to.
        let buffer = vec![7; 250].into_boxed_slice();
        let train = Outgoing { to: got.from, from: got.to, segment: 100, len: 250, buffer };
        let sent = backend.submit(&mut vec![train]).next().unwrap();
        assert_eq!(sent.outcome, SendOutcome::Sent);
        let answers = [(); 3].map(|()| client.recv_from(&mut [0; 2_048]).unwrap());
        assert_eq!(answers.map(|(len, _)| len), [100, 100, 50]);
        (client.local_addr().unwrap(), got, answers[0].1)
    }

    struct Received {
        from: SocketAddr,
        to: Option<std::net::IpAddr>,
    }

    #[test]
    fn one_socket_serves_both_families_and_names_both_plainly() {
        for kind in [BackendKind::Uring, BackendKind::Mmsg] {
            for to in ["127.0.0.2", "::1"] {
                let options = SocketOptions { buffer_bytes: 1 << 18, reuse_port: false };
                let bound = bind_both(0, options).unwrap();
                let to = SocketAddr::new(to.parse().unwrap(), bound.socket.local_addr().unwrap().port());
                let (client, got, answered_from) = cross(bound, kind, to);
                assert_eq!((got.from, got.to, answered_from), (client, Some(to.ip()), to), "{kind:?}");
            }
        }
    }

    #[test]
    fn an_address_of_one_family_leaves_the_port_of_the_other_free() {
        let options = SocketOptions { buffer_bytes: 1 << 16, reuse_port: false };
        let v6 = bind("[::]:0".parse().unwrap(), options).unwrap();
        let port = v6.socket.local_addr().unwrap().port();
        bind(SocketAddr::from(([0, 0, 0, 0], port)), options).expect("IPv6 alone");
        let both = bind_both(0, options).unwrap().socket.local_addr().unwrap().port();
        let held = bind_both(both, options).unwrap();
        let error = bind(SocketAddr::from(([0, 0, 0, 0], both)), options).unwrap_err();
        assert!(error.to_string().contains("in use"), "{error}");
        drop(held);
        let v6 = listen("[::1]:0".parse().unwrap()).unwrap().local_addr().unwrap();
        assert!(listen("[::]:0".parse().unwrap()).unwrap().local_addr().unwrap().is_ipv6() && v6.is_ipv6());
    }

    #[test]
    fn a_host_without_ipv6_serves_ipv4() {
        let without = || {
            crate::seccomp::deny_ipv6().unwrap();
            let options = SocketOptions { buffer_bytes: 1 << 16, reuse_port: false };
            let udp = bind_both(0, options).unwrap().socket.local_addr().unwrap();
            let tcp = listen_both(0).unwrap().local_addr().unwrap();
            assert!(bind("[::1]:0".parse().unwrap(), options).is_err(), "the filter works");
            (udp.ip(), tcp.ip())
        };
        let any = std::net::IpAddr::from([0, 0, 0, 0]);
        assert_eq!(std::thread::spawn(without).join().unwrap(), (any, any));
    }

    #[test]
    fn a_listener_of_both_families_gives_peers_out_mapped_and_plain_undoes_that() {
        let listener = listen_both(0).unwrap();
        listener.set_nonblocking(false).unwrap();
        for ip in ["127.0.0.1", "::1"] {
            let port = listener.local_addr().unwrap().port();
            let client = std::net::TcpStream::connect((ip, port)).unwrap();
            let (_, remote) = listener.accept().unwrap();
            assert_eq!(plain(remote), client.local_addr().unwrap());
        }
    }
}
