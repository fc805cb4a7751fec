//! What the TURN server says of itself under `/metrics`.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use auralink_turn::stats::{DropReason, ErrorCode};

use super::Shared;
use crate::telemetry::{count, metric};

/// What became of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Accepted,
    /// There were as many as there may be.
    Crowded,
    /// TLS was not agreed on, or not in time.
    Handshake,
    /// No allocation for too long.
    Idle,
    /// It spoke something else.
    Strange,
    /// It did not read.
    Slow,
}

impl Outcome {
    const ALL: [Self; 6] =
        [Self::Accepted, Self::Crowded, Self::Handshake, Self::Idle, Self::Strange, Self::Slow];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Crowded => "crowded",
            Self::Handshake => "handshake",
            Self::Idle => "idle",
            Self::Strange => "strange",
            Self::Slow => "slow",
        }
    }
}

/// What only the sockets know.
#[derive(Default)]
pub(super) struct Traffic {
    pub(super) connections: AtomicI64,
    outcomes: [AtomicU64; Outcome::ALL.len()],
    unsent_to_peer: AtomicU64,
    unsent_to_client: AtomicU64,
    stream_full: AtomicU64,
}

impl Traffic {
    pub(super) fn ended(&self, outcome: Outcome) {
        self.outcomes.get(outcome as usize).into_iter().for_each(count);
    }

    pub(super) fn sent_to_peer(&self, sent: bool) {
        count_unless(sent, &self.unsent_to_peer);
    }

    pub(super) fn sent_to_client(&self, sent: bool) {
        count_unless(sent, &self.unsent_to_client);
    }

    pub(super) fn sent_to_stream(&self, sent: bool) {
        count_unless(sent, &self.stream_full);
    }
}

fn count_unless(sent: bool, counter: &AtomicU64) {
    if !sent {
        count(counter);
    }
}

/// The page's part.
pub(super) fn page(shared: &Shared) -> String {
    let stats = shared.state().server.stats();
    let traffic = &shared.traffic;
    let mut page = String::new();
    metric(&mut page, "auralink_turn_allocations", "gauge", stats.allocations);
    metric(&mut page, "auralink_turn_allocations_total", "counter", stats.allocated);
    metric(&mut page, "auralink_turn_bindings_total", "counter", stats.bindings);
    metric(&mut page, "auralink_turn_connections", "gauge", traffic.connections.load(Ordering::Relaxed));
    let both = |of: fn(&auralink_turn::stats::Relayed) -> u64| {
        [("to_peer", of(&stats.to_peers)), ("to_client", of(&stats.to_clients))]
    };
    family(&mut page, "packets_total", "direction", both(|relayed| relayed.packets));
    family(&mut page, "bytes_total", "direction", both(|relayed| relayed.bytes));
    let refused = ErrorCode::ALL.map(|code| (code.as_str(), stats.refused(code)));
    family(&mut page, "refused_total", "reason", refused);
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let unsent = [
        ("unsent_to_peer", load(&traffic.unsent_to_peer)),
        ("unsent_to_client", load(&traffic.unsent_to_client)),
        ("stream_full", load(&traffic.stream_full)),
    ];
    let dropped = DropReason::ALL.map(|reason| (reason.as_str(), stats.dropped(reason)));
    family(&mut page, "dropped_total", "reason", dropped.into_iter().chain(unsent));
    let outcomes = Outcome::ALL.into_iter().map(Outcome::as_str);
    family(&mut page, "connections_total", "outcome", outcomes.zip(traffic.outcomes.iter().map(load)));
    page
}

fn family(page: &mut String, name: &str, label: &str, values: impl IntoIterator<Item = (&'static str, u64)>) {
    // Writing to a String cannot fail.
    let _ = writeln!(page, "# TYPE auralink_turn_{name} counter");
    for (value, count) in values {
        let _ = writeln!(page, "auralink_turn_{name}{{{label}=\"{value}\"}} {count}");
    }
}
