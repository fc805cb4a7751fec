//! What each shard last said of itself, for metrics and health. A latest value: the shard replaces it a few times a second
//! and never waits for a reader.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use auralink_ring::Counters;
use auralink_sfu::stats::ShardStats;

#[derive(Clone, Copy, Debug)]
pub struct ShardReport {
    pub stats: ShardStats,
    pub ring: Counters,
    /// `uring` or `mmsg`.
    pub io_backend: &'static str,
    pub transports: usize,
    /// Events lost because control was behind.
    pub events_dropped: u64,
    /// When the shard wrote this: an old report means a shard that does not turn.
    pub written: Instant,
}

/// The latest report of every shard.
#[derive(Clone, Debug)]
pub struct Reports(Arc<[Mutex<Option<ShardReport>>]>);

impl Reports {
    pub(crate) fn new(shards: usize) -> Self {
        Self((0..shards).map(|_| Mutex::new(None)).collect())
    }

    /// By shard; `None` for one that has not turned yet.
    pub fn latest(&self) -> Vec<Option<ShardReport>> {
        self.0.iter().map(|slot| *slot.lock().unwrap_or_else(PoisonError::into_inner)).collect()
    }

    /// Replaces one shard's report; skipped when a reader holds it just now.
    pub(crate) fn write(&self, shard: usize, report: ShardReport) {
        if let Some(Ok(mut slot)) = self.0.get(shard).map(Mutex::try_lock) {
            *slot = Some(report);
        }
    }
}
