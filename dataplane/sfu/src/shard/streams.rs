//! Connections (ICE-TCP) that peers are reached over. The shard knows their ends only; sockets and framing are the node's.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use auralink_rtc::units::{Protocol, Route};

use super::{Output, Shard};
use crate::stats::DropReason;

/// Which transport each connection belongs to. A connection is brought to its peer's shard before its first frame is looked
/// at, so none is ever another shard's; and there are no more than tuples of peers.
#[derive(Default, Debug)]
pub(super) struct Streams {
    owners: HashMap<SocketAddr, u32>,
    /// Connections that no longer lead to a peer, for whoever holds the sockets.
    over: Vec<SocketAddr>,
}

impl Streams {
    pub(super) fn owner(&self, route: &Route) -> Option<u32> {
        self.owners.get(&route.remote).copied()
    }

    pub(super) fn claim(&mut self, route: Route, slot: u32) {
        self.owners.insert(route.remote, slot);
    }

    /// Unless another transport of the same client took the connection over meanwhile.
    pub(super) fn release(&mut self, route: &Route, slot: u32) {
        if self.owners.get(&route.remote) == Some(&slot) {
            self.owners.remove(&route.remote);
            self.over.push(route.remote);
        }
    }
}

impl Shard {
    /// Whether a check of a peer here came over this connection, and none since ended that.
    pub fn is_stream_known(&self, remote: SocketAddr) -> bool {
        self.streams.owners.contains_key(&remote)
    }

    /// Connections that are of no use any more since the last call.
    pub fn drain_streams_over(&mut self) -> impl Iterator<Item = SocketAddr> {
        self.streams.over.drain(..)
    }

    /// The peer closed its connection, or the kernel gave it up.
    pub fn handle_stream_end(&mut self, now: Instant, remote: SocketAddr, out: &mut Output<'_>) {
        let Some(slot) = self.streams.owners.get(&remote).copied() else { return };
        self.handling = Some(slot);
        let route = Route { remote, local: None, protocol: Protocol::Tcp };
        if let Some(transport) = self.transports.get_mut(slot) {
            transport.peer.forget_route(now, &route);
        }
        self.drain_peer(now, slot, out);
    }

    /// So many datagrams found no room on their connection: the client reads more slowly than it is sent to.
    pub fn note_stream_full(&mut self, datagrams: u64) {
        self.stats.drop_many(DropReason::StreamFull, datagrams);
    }
}
