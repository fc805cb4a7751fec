//! A TURN server (RFC 8656) without I/O: messages, datagrams of peers and the time come in, replies and sockets to open go out.
//!
//! This crate reads no clock, owns no socket and never waits; random numbers come from the seed it is given. Everything from the
//! network is hostile: every table is bounded, every refusal counted, nothing panics. A stranger costs no state: nonces are
//! recomputed, not remembered, and an allocation exists only after MESSAGE-INTEGRITY.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod allocation;
mod base62;
mod code;
mod crc;
pub mod credentials;
pub mod framing;
mod message;
mod nonce;
pub mod policy;
pub mod server;
pub mod stats;
mod write;

use std::net::SocketAddr;
use std::time::Instant;

/// A moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// For lifetimes.
    pub now: Instant,
    /// For what was signed elsewhere: seconds since 1970.
    pub unix_s: u64,
}

/// Where a client's messages come from: its 5-tuple, as far as it can differ.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Origin {
    /// By UDP, at one of our sockets.
    Datagram { socket: u16, remote: SocketAddr },
    /// By TCP or TLS. Numbers of connections are never used again.
    Stream { connection: u64, remote: SocketAddr },
}

impl Origin {
    /// The client's address as we see it.
    pub const fn remote(&self) -> SocketAddr {
        match self {
            Self::Datagram { remote, .. } | Self::Stream { remote, .. } => *remote,
        }
    }

    pub(crate) const fn is_stream(&self) -> bool {
        matches!(self, Self::Stream { .. })
    }
}

/// Names an allocation, and so the socket at its relayed address. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelayId {
    slot: u32,
    generation: u32,
}
