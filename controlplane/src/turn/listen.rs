//! Opening sockets, and what to say when that fails.

use std::io::{Error, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use socket2::SockRef;
use tokio::net::UdpSocket;

/// Kernel buffers asked for where all clients send to, and at one client's relay, in bytes. The kernel gives what it may.
pub(super) const BUFFER_BYTES: usize = 4 << 20;
pub(super) const RELAY_BUFFER_BYTES: usize = 512 << 10;

/// Why the TURN server does not start; the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    #[error("{protocol} port {} on {} is in use: stop the other program, or choose another with {key}", .address.port(), .address.ip())]
    PortInUse { protocol: &'static str, key: &'static str, address: SocketAddr },
    #[error("{protocol} port {} on {} may not be opened by this user: choose another with {key}", .address.port(), .address.ip())]
    Forbidden { protocol: &'static str, key: &'static str, address: SocketAddr },
    #[error("turn.bind_addresses: {0} is not an address of this host")]
    NoSuchAddress(IpAddr),
    #[error("{protocol} port {} on {} cannot be opened: {error}", .address.port(), .address.ip())]
    Listen { protocol: &'static str, address: SocketAddr, error: Error },
    #[error("turn.cert_file: {path} holds no certificate in PEM: {error}")]
    Certificate { path: String, error: rustls::pki_types::pem::Error },
    #[error("turn.key_file: {path} holds no private key in PEM: {error}")]
    Key { path: String, error: rustls::pki_types::pem::Error },
    #[error("turn.cert_file and turn.key_file cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

impl TurnError {
    pub(super) fn of(protocol: &'static str, key: &'static str, address: SocketAddr, error: Error) -> Self {
        match error.kind() {
            ErrorKind::AddrInUse => Self::PortInUse { protocol, key, address },
            ErrorKind::PermissionDenied => Self::Forbidden { protocol, key, address },
            ErrorKind::AddrNotAvailable => Self::NoSuchAddress(address.ip()),
            _ => Self::Listen { protocol, address, error },
        }
    }
}

/// A bound UDP socket of the runtime.
pub(super) fn udp(address: SocketAddr, buffer_bytes: usize) -> std::io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    // Less than was asked for is still a socket.
    let _ = SockRef::from(&socket).set_recv_buffer_size(buffer_bytes);
    let _ = SockRef::from(&socket).set_send_buffer_size(buffer_bytes);
    UdpSocket::from_std(socket)
}

/// Whether this host has no such address, as behind a NAT.
pub(super) fn is_foreign(ip: IpAddr) -> bool {
    let bound = std::net::UdpSocket::bind(SocketAddr::new(ip, 0));
    bound.is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable)
}
