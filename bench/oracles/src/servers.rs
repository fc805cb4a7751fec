//! The servers: each binds a port of loopback, prints it, and echoes.

mod glommio;
mod monoio;
mod ours;
mod tokio;

use std::io::Write as _;
use std::net::UdpSocket;

use anyhow::{Context as _, Result};
use auralink_ring::{BackendKind, SocketOptions, bind};

use crate::Kind;

/// Largest datagram echoed.
const DATAGRAM_MAX: usize = 2_048;
/// Echoes under way at once, where a server is made of tasks.
const TASKS: usize = 8;
/// Of receive and send buffer: what the kernel gives a socket that asks for nothing, as the others do; it doubles it.
const BUFFER_BYTES: usize = 106_496;

pub fn run(kind: Kind) -> Result<()> {
    match kind {
        Kind::Uring => ours::run(BackendKind::Uring, true),
        Kind::UringSingle => ours::run(BackendKind::Uring, false),
        Kind::Mmsg => ours::run(BackendKind::Mmsg, true),
        Kind::MmsgSingle => ours::run(BackendKind::Mmsg, false),
        Kind::Tokio => tokio::run(),
        Kind::Monoio => monoio::run(),
        Kind::Glommio => glommio::run(),
    }
}

/// Tells the port to whoever started this.
fn announce(port: u16) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{port}").and_then(|()| out.flush()).context("nobody reads the port")
}

/// A socket as the runtimes expect it; they cannot read control messages.
fn plain_socket() -> Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    announce(socket.local_addr()?.port())?;
    Ok(socket)
}

/// The socket our back ends ask for: packet info, arrival times, GRO.
fn our_socket() -> Result<UdpSocket> {
    let options = SocketOptions { buffer_bytes: BUFFER_BYTES, reuse_port: false };
    let socket = bind("127.0.0.1:0".parse()?, options)?.socket;
    announce(socket.local_addr()?.port())?;
    Ok(socket)
}
