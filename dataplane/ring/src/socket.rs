//! The media socket: bound before any thread starts, so that a port in use is an error at start and not a log line later.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// How long a port may still be held by a process that has just been killed: the kernel takes its ring down later.
const BIND_PATIENCE: Duration = Duration::from_secs(1);
const BIND_RETRY: Duration = Duration::from_millis(20);

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
    #[error("media on {0}: only IPv4 is supported")]
    Family(SocketAddr),
}

/// A bound socket and what the kernel granted it.
#[derive(Debug)]
pub struct BoundSocket {
    pub socket: UdpSocket,
    /// Receive buffer the kernel granted, in bytes.
    pub receive_buffer_bytes: usize,
}

/// Binds a non-blocking UDP socket with everything both back ends need: packet info, receive timestamps, GRO, the count of
/// datagrams lost in the kernel, and "do not fragment, ignore path MTU" (an attacker's ICMP must not shrink our datagrams).
pub fn bind(address: SocketAddr, options: SocketOptions) -> Result<BoundSocket, SocketError> {
    let SocketAddr::V4(v4) = address else { return Err(SocketError::Family(address)) };
    let fail = |source| SocketError::Bind { address, source };
    // SAFETY: socket takes no pointers; the result is checked before it is owned.
    let fd = unsafe {
        libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0)
    };
    if fd < 0 {
        return Err(fail(io::Error::last_os_error()));
    }
    // SAFETY: `fd` was just created and belongs to nobody else.
    let socket = UdpSocket::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let set = |option, level, name, value| {
        set_option(fd, level, name, value).map_err(|source| SocketError::Option { option, address, source })
    };
    if options.reuse_port {
        set("SO_REUSEPORT", libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    set("IP_PKTINFO", libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    set("IP_MTU_DISCOVER", libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_INTERFACE)?;
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
    let deadline = Instant::now() + BIND_PATIENCE;
    while let Err(error) = bind_v4(fd, v4) {
        if error.kind() != io::ErrorKind::AddrInUse || Instant::now() >= deadline {
            return Err(fail(error));
        }
        std::thread::sleep(BIND_RETRY);
    }
    Ok(BoundSocket { receive_buffer_bytes: receive_buffer_bytes(fd), socket })
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

fn bind_v4(fd: RawFd, address: SocketAddrV4) -> io::Result<()> {
    let raw = crate::control::RawAddress::from(SocketAddr::V4(address));
    // SAFETY: `raw` is a live socket address of the length given.
    let result = unsafe { libc::bind(fd, raw.as_ptr(), raw.len()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The descriptor, for back ends.
pub(crate) fn raw(socket: &UdpSocket) -> RawFd {
    socket.as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
