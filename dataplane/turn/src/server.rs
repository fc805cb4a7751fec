//! The server: what a client's message, a peer's datagram and the time do.
//!
//! The caller owns the sockets. It asks [`Server::handle_client`] and [`Server::handle_peer`] about everything that arrives,
//! carries out the [`Action`], answers [`Action::Open`] with [`Server::relay_opened`] or [`Server::relay_failed`], and closes the
//! relays that [`Server::next_closed`] names.

mod allocate;
mod relay;
mod request;
mod table;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::code::ErrorCode;
use crate::credentials::Authority;
use crate::message::{Class, Message, Method, kind};
use crate::nonce::Nonces;
use crate::policy::Policy;
use crate::stats::{DropReason, Stats};
use crate::write::Writer;
use crate::{Moment, Origin, RelayId};
use table::Table;

/// Bytes to leave free before a datagram of a peer, for what goes before it to the client.
pub const HEADROOM: usize = 48;
/// And behind it, for padding.
pub const TAILROOM: usize = 4;

/// What the server is told once.
#[derive(Clone)]
pub struct Config {
    pub realm: String,
    /// API key → secret.
    pub secrets: BTreeMap<String, String>,
    /// Relayed addresses, as clients are told them. A family without one is refused (440).
    pub relay_v4: Option<Ipv4Addr>,
    pub relay_v6: Option<Ipv6Addr>,
    pub relay_ports: RangeInclusive<u16>,
    pub peers: Policy,
    /// Allocations of one user name.
    pub per_user_max: u32,
    /// Allocations of everybody.
    pub allocations_max: usize,
}

/// What the caller is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    Nothing,
    /// Send the reply to the client.
    Reply,
    /// Send these bytes of the message to the peer, from the relay's socket.
    Relay {
        relay: RelayId,
        peer: SocketAddr,
        payload: Range<usize>,
    },
    /// Open the relay's UDP socket at this address.
    Open {
        relay: RelayId,
        address: SocketAddr,
    },
}

/// A TURN server.
pub struct Server {
    config: Config,
    authority: Authority,
    nonces: Nonces,
    random: StdRng,
    table: Table,
    stats: Stats,
}

impl Server {
    /// `seed` decides nonces, ports and transactions; outside of tests it has to be random.
    pub fn new(mut config: Config, seed: [u8; 32]) -> Self {
        let mut random = StdRng::from_seed(seed);
        let authority = Authority::new(config.realm.clone(), std::mem::take(&mut config.secrets));
        let table = Table::new(config.relay_ports.clone());
        Self {
            nonces: Nonces::new(&random.random()),
            config,
            authority,
            random,
            table,
            stats: Stats::default(),
        }
    }

    /// A message of a client: a datagram, or what [`crate::framing::next_message`] cut from a stream. Where the client is to be
    /// answered, `reply` holds what it is told.
    pub fn handle_client(&mut self, at: Moment, origin: Origin, bytes: &[u8], reply: &mut Vec<u8>) -> Action {
        match bytes.first().map(|first| first >> 6) {
            Some(1) => self.channel_data(at.now, &origin, bytes),
            Some(0) => match Message::parse(bytes) {
                Some(message) => self.message(at, &origin, &message, reply),
                None => self.drop(DropReason::Malformed),
            },
            _ => self.drop(DropReason::Malformed),
        }
    }

    fn message(&mut self, at: Moment, origin: &Origin, message: &Message<'_>, reply: &mut Vec<u8>) -> Action {
        match (message.class, message.method) {
            (Class::Request, Method::Binding) => self.binding(origin, message, reply),
            (Class::Request, Method::Send | Method::Data) => self.drop(DropReason::Malformed),
            (Class::Request, _) => self.request(at, origin, message, reply),
            (Class::Indication, Method::Send) => self.send(at.now, origin, message),
            // A keep-alive.
            (Class::Indication, Method::Binding) => Action::Nothing,
            _ => self.drop(DropReason::Malformed),
        }
    }

    /// Tells whoever asks what address it has.
    fn binding(&mut self, origin: &Origin, request: &Message<'_>, reply: &mut Vec<u8>) -> Action {
        if !request.unknown.is_empty() {
            self.refuse_unauthenticated(request, ErrorCode::UnknownAttribute, reply);
            return Action::Reply;
        }
        self.stats.bindings += 1;
        let mut writer = Writer::answer(reply, request, Class::Success);
        writer.xor_address(kind::XOR_MAPPED_ADDRESS, origin.remote());
        writer.finish(None, request.has_fingerprint);
        Action::Reply
    }

    /// The client's connection ended, and its allocation with it (RFC 8656 §7.2).
    pub fn origin_gone(&mut self, origin: &Origin) {
        if let Some(relay) = self.table.of(origin) {
            self.table.remove(relay);
        }
    }

    /// Ends allocations that were not refreshed in time.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(relay) = self.table.due(now) {
            self.table.remove(relay);
        }
    }

    /// When to call [`Self::handle_timeout`].
    pub fn next_timeout(&self) -> Option<Instant> {
        self.table.next_deadline()
    }

    /// A relay whose socket is to be closed; to be asked until there is none, after each call of another method.
    pub fn next_closed(&mut self) -> Option<RelayId> {
        self.table.next_closed()
    }

    /// Whether a client has an allocation.
    pub fn holds(&self, origin: &Origin) -> bool {
        self.table.of(origin).is_some()
    }

    pub fn stats(&self) -> Stats {
        let mut stats = self.stats;
        stats.allocations = self.table.len();
        stats
    }

    fn drop(&mut self, reason: DropReason) -> Action {
        self.stats.drop(reason);
        Action::Nothing
    }

    /// The relayed address of a family, as REQUESTED-ADDRESS-FAMILY names it.
    fn relay_ip(&self, family: u8) -> Option<IpAddr> {
        match family {
            1 => self.config.relay_v4.map(IpAddr::V4),
            2 => self.config.relay_v6.map(IpAddr::V6),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
