//! The data plane as it runs: pinned shard threads, the clock, mailboxes, placement and lanes.
//!
//! Control starts it with [`Node::start`] and reaches it through [`Handle`] alone.
#![forbid(unsafe_code)]

mod acceptor;
pub mod config;
pub mod mailbox;
mod park;
mod report;
mod start;
mod worker;

pub use acceptor::AcceptCounters;
pub use auralink_ring::heap_bytes;
pub use auralink_sfu::intake::IntakeLimit;
pub use auralink_sfu::quality::{
    Histogram, JITTER_BOUNDS_US, LOSS_BOUNDS, Quality, ROUND_TRIP_BOUNDS_MS, Streams,
};
pub use auralink_sfu::stats::DropReason;
pub use config::{IoBackend, NodeConfig, Ports, Spill, Steer};
pub use mailbox::{Events, Handle, ShardGone, ShardMailbox};
pub use report::{Reports, ShardReport};
pub use start::{Node, StartError};
