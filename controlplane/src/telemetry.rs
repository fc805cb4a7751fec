//! Logs and counters of the control plane. Counters are process-wide, named, and shown under `/metrics` in Prometheus' text.

pub mod livekit;
mod process;

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::config::Logging;

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident = $name:literal;)*) => {
        /// Things that happened, counted since start.
        #[derive(Default)]
        pub struct Counters {
            $($(#[$doc])* pub $field: AtomicU64,)*
        }

        impl Counters {
            /// Adds this set to a Prometheus text page.
            fn write(&self, page: &mut String) {
                $(
                    metric(page, concat!("auralink_", $name), "counter", self.$field.load(Ordering::Relaxed));
                )*
            }
        }
    };
}

counters! {
    /// Participants admitted.
    joins = "joins_total";
    /// Participants whose media came up.
    connected = "participants_connected_total";
    /// Joins refused for their token.
    joins_unauthenticated = "joins_unauthenticated_total";
    /// Joins refused for anything else.
    joins_refused = "joins_refused_total";
    /// Signalling messages that could not be decoded.
    signal_malformed = "signal_malformed_total";
    /// Signalling messages of a kind or at a moment that makes no sense.
    signal_unexpected = "signal_unexpected_total";
    /// Connections closed because the client did not read.
    signal_overflows = "signal_overflows_total";
    /// Connections closed because the client sent too much.
    signal_rate_exceeded = "signal_rate_exceeded_total";
    /// Connections closed because pings stopped.
    signal_ping_timeouts = "signal_ping_timeouts_total";
    /// Offers answered.
    offers = "offers_total";
    /// Offers refused as malformed, oversized or unusable.
    offers_refused = "offers_refused_total";
    /// Offers dropped because a newer one was already known.
    offers_stale = "offers_stale_total";
    /// Clients that never answered an offer.
    negotiations_stalled = "negotiations_stalled_total";
    /// Participants that came back with a new signalling connection.
    resumes = "resumes_total";
    /// Attempts to come back that were told to join anew.
    resumes_refused = "resumes_refused_total";
    /// Reliable data packets that came twice.
    data_duplicates = "data_packets_duplicate_total";
    /// Data packets passed on.
    data_packets = "data_packets_total";
    /// Data packets dropped: not decodable, not permitted or without a receiver.
    data_dropped = "data_packets_dropped_total";
    /// Events of the data plane that named nothing known.
    events_unrouted = "media_events_unrouted_total";
    /// Repeated events dropped because a room was behind.
    events_dropped = "media_events_dropped_total";
    /// Times a shard stopped turning.
    shard_stalls = "shard_stalls_total";
    /// Calls of server APIs.
    api_calls = "api_calls_total";
    /// Calls of server APIs answered by an error.
    api_failures = "api_failures_total";
    /// Webhooks a receiver accepted.
    webhooks_delivered = "webhooks_delivered_total";
    /// Webhooks sent once more after a failure.
    webhooks_retried = "webhooks_retried_total";
    /// Webhooks given up, or dropped because too many waited.
    webhooks_dropped = "webhooks_dropped_total";
    /// Jobs a worker of agents took.
    agent_jobs = "agent_jobs_total";
    /// Jobs that failed, or that no worker took.
    agent_jobs_failed = "agent_jobs_failed_total";
    /// Messages of workers that could not be decoded or registered.
    agent_malformed = "agent_malformed_total";
    /// Messages of workers at a moment that makes no sense.
    agent_unexpected = "agent_unexpected_total";
    /// Workers disconnected because they did not read.
    agent_overflows = "agent_overflows_total";
}

/// What control asks of the data plane's reports.
pub struct ShardReports {
    /// Writes the shards' part of `/metrics`.
    pub page: Box<dyn Fn() -> String + Send + Sync>,
    /// Adds up what LiveKit's names stand for.
    pub totals: Box<dyn Fn() -> livekit::MediaTotals + Send + Sync>,
    /// Shards that do not turn.
    pub stalled: Box<dyn Fn() -> Vec<usize> + Send + Sync>,
}

/// Between looks at whether every shard turns.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// Everything counted.
#[derive(Default)]
pub struct Telemetry {
    pub counters: Counters,
    /// What only LiveKit's names have.
    pub calls: livekit::Calls,
    pub shards: Option<ShardReports>,
    /// Writes the TURN server's part of `/metrics`, where there is one.
    pub turn: OnceLock<Box<dyn Fn() -> String + Send + Sync>>,
    /// `ND_…`
    pub node_sid: String,
    pub rooms: AtomicI64,
    pub participants: AtomicI64,
    pub sockets: AtomicI64,
    pub agent_workers: AtomicI64,
}

impl Telemetry {
    /// The whole page of `/metrics`.
    pub fn page(&self) -> String {
        let mut page = String::new();
        self.counters.write(&mut page);
        for (name, gauge) in [
            ("auralink_rooms", &self.rooms),
            ("auralink_participants", &self.participants),
            ("auralink_signal_sockets", &self.sockets),
            ("auralink_agent_workers", &self.agent_workers),
        ] {
            metric(&mut page, name, "gauge", gauge.load(Ordering::Relaxed));
        }
        process::write(&mut page);
        livekit::write(&mut page, self);
        if let Some(turn) = self.turn.get() {
            page.push_str(&turn());
        }
        if let Some(shards) = &self.shards {
            page.push_str(&(shards.page)());
        }
        page
    }

    /// Shards that do not turn.
    pub fn stalled_shards(&self) -> Vec<usize> {
        self.shards.as_ref().map(|shards| (shards.stalled)()).unwrap_or_default()
    }

    /// Watches the shards for as long as it is polled: one that stops turning is told once, and when it turns again.
    pub async fn watch_shards(&self) {
        let mut known = Vec::new();
        loop {
            tokio::time::sleep(WATCH_INTERVAL).await;
            let stalled = self.stalled_shards();
            for shard in stalled.iter().filter(|shard| !known.contains(*shard)) {
                count(&self.counters.shard_stalls);
                tracing::error!(
                    shard.id = shard,
                    "shard does not turn: its calls stand still, new ones are refused"
                );
            }
            for shard in known.iter().filter(|shard| !stalled.contains(shard)) {
                tracing::info!(shard.id = shard, "shard turns again");
            }
            known = stalled;
        }
    }
}

/// Adds one value of its own name to a Prometheus text page. `kind` is `counter` or `gauge`.
pub fn metric(page: &mut String, name: &str, kind: &str, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(page, "# TYPE {name} {kind}\n{name} {value}");
}

/// Counts one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Sends logs to standard error; `RUST_LOG` goes before the configured level. Only the first call of a process has an effect.
///
/// # Errors
/// The level or directives in `logging.level` cannot be read; the operator's fault.
pub fn start_logs(logging: &Logging) -> Result<(), String> {
    let level = std::env::var("RUST_LOG").unwrap_or_else(|_| logging.level.clone());
    let filter = EnvFilter::try_new(level).map_err(|error| format!("logging.level: {error}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let builder = builder.with_ansi(std::io::stderr().is_terminal());
    let _ = if logging.json { builder.json().try_init() } else { builder.try_init() };
    Ok(())
}

#[cfg(test)]
mod tests {
    use auralink_livekit::{TrackInfo, TrackSource, TrackType};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stalled_shard_is_counted_once_each_time() {
        let stalled = std::sync::Arc::new(std::sync::Mutex::new(vec![1]));
        let seen = std::sync::Arc::clone(&stalled);
        let shards = ShardReports {
            page: Box::new(String::new),
            totals: Box::new(livekit::MediaTotals::default),
            stalled: Box::new(move || seen.lock().map(|seen| seen.clone()).unwrap_or_default()),
        };
        let telemetry = Telemetry { shards: Some(shards), ..Telemetry::default() };
        let watched = async |seconds| {
            let _ = tokio::time::timeout(Duration::from_secs(seconds), telemetry.watch_shards()).await;
            telemetry.counters.shard_stalls.load(Ordering::Relaxed)
        };
        assert_eq!(watched(5).await, 1);
        stalled.lock().unwrap().clear();
        assert_eq!(watched(5).await, 1);
    }

    #[test]
    fn the_page_shows_counters_and_gauges() {
        let telemetry = Telemetry::default();
        count(&telemetry.counters.joins);
        telemetry.rooms.store(3, Ordering::Relaxed);
        let page = telemetry.page();
        assert!(page.contains("\nauralink_joins_total 1\n"));
        assert!(page.contains("\nauralink_rooms 3\n"));
    }

    /// Name, labels in whatever order, and value.
    fn series(line: &str) -> (&str, std::collections::BTreeSet<&str>, &str) {
        let (name, rest) = line.split_once('{').unwrap_or((line, "} "));
        let (labels, value) = rest.split_once("} ").unwrap_or_default();
        (name, labels.split(',').collect(), value)
    }

    #[test]
    fn livekits_names_stand_beside_ours() {
        let streams = vec![livekit::StreamTotals {
            direction: "outgoing",
            kind: "VIDEO",
            lost: 3,
            loss_percent: livekit::Observed { buckets: vec![(0.7, 1), (5.0, 2)], count: 4, sum: 101.5 },
            ..livekit::StreamTotals::default()
        }];
        let traffic = |packets| livekit::Traffic { packets, octets: 100 * packets };
        let totals = livekit::MediaTotals {
            received_again: traffic(1),
            sent: traffic(7),
            sent_again: traffic(2),
            streams,
            ..livekit::MediaTotals::default()
        };
        let shards = ShardReports {
            page: Box::new(String::new),
            totals: Box::new(move || totals.clone()),
            stalled: Box::new(Vec::<usize>::new),
        };
        let (calls, shards) = (livekit::Calls::new("ND_1"), Some(shards));
        let telemetry = Telemetry { shards, calls, node_sid: "ND_1".into(), ..Telemetry::default() };
        count(&telemetry.counters.joins);
        let mut track = TrackInfo { mime_type: "video/VP8".into(), ..TrackInfo::default() };
        track.set_type(TrackType::Video);
        track.set_source(TrackSource::Camera);
        telemetry.calls.announced(&track);
        telemetry.calls.published(&track);
        telemetry.calls.subscribing();
        telemetry.calls.subscribing();
        telemetry.calls.not_subscribed("SE_CODEC_UNSUPPORTED");
        drop(telemetry.calls.subscribed(&track));
        let _received = telemetry.calls.subscribed(&track);
        telemetry.calls.connected(16, Duration::from_millis(80));
        telemetry.calls.left(16, Duration::from_secs(3));
        telemetry.calls.room_ended(Duration::from_secs(90));
        telemetry.rooms.store(3, Ordering::Relaxed);
        let page = telemetry.page();
        for line in [
            r#"livekit_room_total{node_id="ND_1",node_type="SERVER",env=""} 3"#,
            r#"livekit_packet_total{node_id="ND_1",node_type="SERVER",env="",direction="outgoing",transmission="initial",country=""} 7"#,
            r#"livekit_packet_total{node_id="ND_1",node_type="SERVER",env="",direction="outgoing",transmission="retransmit",country=""} 2"#,
            r#"livekit_packet_bytes{node_id="ND_1",node_type="SERVER",env="",direction="incoming",transmission="retransmit",country=""} 100"#,
            r#"livekit_participant_join_total{node_id="ND_1",node_type="SERVER",env="",state="signal_connected"} 1"#,
            r#"livekit_track_publish_counter{kind="VIDEO",source="CAMERA",mimeType="video/VP8",state="success",env="",node_id="ND_1",node_type="SERVER"} 1"#,
            r#"livekit_track_published_total{kind="VIDEO",source="CAMERA",mimeType="video/VP8",env="",node_id="ND_1",node_type="SERVER"} 1"#,
            r#"livekit_track_subscribed_total{kind="VIDEO",source="CAMERA",mimeType="video/VP8",env="",node_id="ND_1",node_type="SERVER"} 1"#,
            r#"livekit_track_subscribe_counter{state="attempt",error="",env="",node_id="ND_1",node_type="SERVER"} 2"#,
            r#"livekit_track_subscribe_counter{state="success",error="",env="",node_id="ND_1",node_type="SERVER"} 2"#,
            r#"livekit_track_subscribe_counter{state="failure",error="SE_CODEC_UNSUPPORTED",env="",node_id="ND_1",node_type="SERVER"} 1"#,
            r#"livekit_packet_loss_total{node_id="ND_1",node_type="SERVER",env="",direction="outgoing",source="UNKNOWN",type="VIDEO",country=""} 3"#,
            r#"livekit_packet_loss_percent_bucket{node_id="ND_1",node_type="SERVER",env="",direction="outgoing",source="UNKNOWN",type="VIDEO",country="",le="0.7"} 1"#,
            r#"livekit_packet_loss_percent_bucket{node_id="ND_1",node_type="SERVER",env="",direction="outgoing",source="UNKNOWN",type="VIDEO",country="",le="5"} 3"#,
            r#"livekit_packet_loss_percent_bucket{node_id="ND_1",node_type="SERVER",env="",direction="outgoing",source="UNKNOWN",type="VIDEO",country="",le="+Inf"} 4"#,
            r#"livekit_packet_loss_percent_sum{node_id="ND_1",node_type="SERVER",env="",direction="outgoing",source="UNKNOWN",type="VIDEO",country=""} 101.5"#,
            r#"livekit_packet_loss_percent_count{node_id="ND_1",node_type="SERVER",env="",direction="outgoing",source="UNKNOWN",type="VIDEO",country=""} 4"#,
            r#"livekit_session_start_time_ms_bucket{protocol_version="16",env="",node_id="ND_1",node_type="SERVER",le="100"} 1"#,
            r#"livekit_session_duration_ms_sum{protocol_version="16",env="",node_id="ND_1",node_type="SERVER"} 3000"#,
            r#"livekit_room_duration_seconds_bucket{env="",node_id="ND_1",node_type="SERVER",le="60"} 0"#,
            r#"livekit_room_duration_seconds_bucket{env="",node_id="ND_1",node_type="SERVER",le="300"} 1"#,
        ] {
            assert!(page.lines().any(|known| series(known) == series(line)), "{line} is not in {page}");
        }
    }
}
