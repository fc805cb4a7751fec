//! What the server counts.

pub use crate::code::ErrorCode;

/// Why something was dropped without an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropReason {
    /// Neither a message of ours nor ChannelData.
    Malformed,
    /// The client has no allocation.
    NoAllocation,
    /// A client sends to a peer that it has no permission for.
    PeerNotPermitted,
    /// A client sends to a port that is not the node's media, at an address where nothing else may be reached.
    PeerRefused,
    /// A client sends to a channel that is not bound.
    ChannelUnbound,
    /// A stranger sends to a relayed address.
    StrangerAtRelay,
    /// What a peer sent has no room in a message.
    Oversized,
}

impl DropReason {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 7] = [
        Self::Malformed,
        Self::NoAllocation,
        Self::PeerNotPermitted,
        Self::PeerRefused,
        Self::ChannelUnbound,
        Self::StrangerAtRelay,
        Self::Oversized,
    ];

    /// A name for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoAllocation => "no_allocation",
            Self::PeerNotPermitted => "peer_not_permitted",
            Self::PeerRefused => "peer_refused",
            Self::ChannelUnbound => "channel_unbound",
            Self::StrangerAtRelay => "stranger_at_relay",
            Self::Oversized => "oversized",
        }
    }
}

/// Packets and their payloads' bytes, in one direction.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Relayed {
    pub packets: u64,
    pub bytes: u64,
}

impl Relayed {
    pub(crate) const fn count(&mut self, len: usize) {
        self.packets += 1;
        self.bytes += len as u64;
    }
}

/// Counters since start.
#[derive(Clone, Copy, Default, Debug)]
pub struct Stats {
    /// Allocations there are.
    pub allocations: usize,
    /// Allocations there have been.
    pub allocated: u64,
    /// Binding requests answered.
    pub bindings: u64,
    pub to_peers: Relayed,
    pub to_clients: Relayed,
    refused: [u64; ErrorCode::ALL.len()],
    dropped: [u64; DropReason::ALL.len()],
}

impl Stats {
    pub(crate) fn refuse(&mut self, code: ErrorCode) {
        self.refused.get_mut(code as usize).into_iter().for_each(|count| *count += 1);
    }

    pub(crate) fn drop(&mut self, reason: DropReason) {
        self.dropped.get_mut(reason as usize).into_iter().for_each(|count| *count += 1);
    }

    /// Requests answered with this error.
    pub fn refused(&self, code: ErrorCode) -> u64 {
        self.refused.get(code as usize).copied().unwrap_or_default()
    }

    /// Messages and datagrams dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped.get(reason as usize).copied().unwrap_or_default()
    }
}
