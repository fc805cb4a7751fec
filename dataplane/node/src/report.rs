//! What each shard last said of itself, for metrics and health. A latest value: the shard replaces it a few times a second
//! and never waits for a reader.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use auralink_ring::Counters;
use auralink_sfu::stats::ShardStats;

use crate::acceptor::AcceptCounters;

#[derive(Clone, Copy, Debug)]
pub struct ShardReport {
    pub stats: ShardStats,
    pub ring: Counters,
    /// `uring` or `mmsg`.
    pub io_backend: &'static str,
    pub transports: usize,
    pub tracks: usize,
    /// Addresses known: of peers here, and of other shards' peers that are steered.
    pub tuples: usize,
    /// Connections (ICE-TCP) held.
    pub streams: usize,
    /// Thousandths of the last report's interval in which the shard did not sleep.
    pub busy_permille: usize,
    /// Events lost because control was behind.
    pub events_dropped: u64,
    /// When the shard wrote this: an old report means a shard that does not turn.
    pub written: Instant,
}

/// The latest report of every shard.
#[derive(Clone, Debug)]
pub struct Reports {
    shards: Arc<[Mutex<Option<ShardReport>>]>,
    accepts: Arc<AcceptCounters>,
}

/// A shard that has not reported for this long does not turn: it reports four times a second, asleep or not.
const STALLED_AFTER: Duration = Duration::from_secs(2);

impl Reports {
    pub(crate) fn new(shards: usize) -> Self {
        Self { shards: (0..shards).map(|_| Mutex::new(None)).collect(), accepts: Arc::default() }
    }

    /// What became of connections for media.
    pub fn accepts(&self) -> &Arc<AcceptCounters> {
        &self.accepts
    }

    /// By shard; `None` for one that has not turned yet.
    pub fn latest(&self) -> Vec<Option<ShardReport>> {
        self.shards.iter().map(|slot| *slot.lock().unwrap_or_else(PoisonError::into_inner)).collect()
    }

    /// Shards that have turned once and do not any more.
    pub fn stalled(&self, now: Instant) -> Vec<usize> {
        let is_stalled = |report: &Option<ShardReport>| {
            report.is_some_and(|report| now.saturating_duration_since(report.written) > STALLED_AFTER)
        };
        self.latest()
            .iter()
            .enumerate()
            .filter(|(_, report)| is_stalled(report))
            .map(|(index, _)| index)
            .collect()
    }

    /// Replaces one shard's report; skipped when a reader holds it just now.
    pub(crate) fn write(&self, shard: usize, report: ShardReport) {
        if let Some(Ok(mut slot)) = self.shards.get(shard).map(Mutex::try_lock) {
            *slot = Some(report);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_stopped_reporting_is_stalled() {
        let start = Instant::now();
        let reports = Reports::new(3);
        for shard in 0..2 {
            reports.write(
                shard,
                ShardReport {
                    stats: ShardStats::default(),
                    ring: Counters::default(),
                    io_backend: "mmsg",
                    transports: 0,
                    tracks: 0,
                    tuples: 0,
                    streams: 0,
                    busy_permille: 0,
                    events_dropped: 0,
                    written: start + STALLED_AFTER * shard as u32,
                },
            );
        }
        assert_eq!(reports.stalled(start + STALLED_AFTER), [0_usize; 0]);
        assert_eq!(reports.stalled(start + STALLED_AFTER + Duration::from_millis(1)), [0]);
    }
}
