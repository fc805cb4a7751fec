//! The names LiveKit's server gives its metrics, for dashboards made for it, beside our own: those of which the same thing is
//! counted here. The shards do not know what a track shows, so the label `source` of streams says that of the unknown.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use auralink_livekit::TrackInfo;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, exponential_buckets,
};

use super::Telemetry;

/// Upper bounds of a room's life, in seconds.
const ROOM_SECONDS: [f64; 10] = [5., 10., 60., 300., 600., 1_800., 3_600., 7_200., 18_000., 36_000.];
/// Every session shorter than this many milliseconds is in the first bucket of its histogram.
const SESSION_MS_MIN: f64 = 100.;
const START_MS_MAX: f64 = 10_000.;
const SESSION_MS_MAX: f64 = 4. * 3_600. * 1_000.;
const SESSION_BUCKETS: usize = 15;

/// Totals over all shards since start.
#[derive(Clone, Debug, Default)]
pub struct MediaTotals {
    pub received: Traffic,
    /// Packets of repair streams, not among the former.
    pub received_again: Traffic,
    pub sent: Traffic,
    /// Retransmissions, not among the former.
    pub sent_again: Traffic,
    pub nacks_sent: u64,
    pub plis_sent: u64,
    pub streams: Vec<StreamTotals>,
}

/// What reports tell of all streams of one kind in one direction.
#[derive(Clone, Debug, Default)]
pub struct StreamTotals {
    /// `incoming` or `outgoing`.
    pub direction: &'static str,
    /// `AUDIO` or `VIDEO`.
    pub kind: &'static str,
    /// Packets.
    pub lost: u64,
    pub loss_percent: Observed,
    pub jitter_us: Observed,
    pub round_trip_ms: Observed,
}

/// A histogram.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Upper bounds, and what was observed above the bound before.
    pub buckets: Vec<(f64, u64)>,
    /// Of all, those above the last bound included.
    pub count: u64,
    pub sum: f64,
}

impl MediaTotals {
    /// One number of each kind of traffic, by its labels.
    fn rows(&self, number: fn(&Traffic) -> u64) -> [(&'static str, u64); 4] {
        [
            ("direction=\"incoming\",transmission=\"initial\",country=\"\"", number(&self.received)),
            ("direction=\"incoming\",transmission=\"retransmit\",country=\"\"", number(&self.received_again)),
            ("direction=\"outgoing\",transmission=\"initial\",country=\"\"", number(&self.sent)),
            ("direction=\"outgoing\",transmission=\"retransmit\",country=\"\"", number(&self.sent_again)),
        ]
    }
}

/// Media packets, and the octets of the datagrams they came or went in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    pub packets: u64,
    pub octets: u64,
}

/// What rooms tell as it happens.
pub struct Calls {
    registry: Registry,
    published: IntGaugeVec,
    publications: IntCounterVec,
    subscribed: IntGaugeVec,
    subscriptions: IntCounterVec,
    room_seconds: Histogram,
    start_ms: HistogramVec,
    session_ms: HistogramVec,
}

impl Default for Calls {
    fn default() -> Self {
        Self::new("")
    }
}

impl Calls {
    /// For the node `node_sid`.
    pub fn new(node_sid: &str) -> Self {
        Self::registered(node_sid)
            .unwrap_or_else(|error| unreachable!("names and bounds are constants: {error}"))
    }

    fn registered(node_sid: &str) -> prometheus::Result<Self> {
        let labels = labels(node_sid).map(|(name, value)| (name.to_owned(), value.to_owned()));
        let registry = Registry::new_custom(Some("livekit".into()), Some(labels.into()))?;
        let histogram = |name: &str, help: &str, buckets| HistogramOpts::new(name, help).buckets(buckets);
        let session = |longest: f64| {
            let factor = (longest / SESSION_MS_MIN).powf(1.0 / (SESSION_BUCKETS - 1) as f64);
            exponential_buckets(SESSION_MS_MIN, factor, SESSION_BUCKETS)
        };
        let calls = Self {
            published: IntGaugeVec::new(Opts::new("track_published_total", "Live tracks."), &TRACK)?,
            publications: IntCounterVec::new(
                Opts::new("track_publish_counter", "Tracks announced, and tracks whose media came."),
                &["kind", "source", "mimeType", "state"],
            )?,
            subscribed: IntGaugeVec::new(Opts::new("track_subscribed_total", "Tracks received."), &TRACK)?,
            subscriptions: IntCounterVec::new(
                Opts::new("track_subscribe_counter", "Tracks wanted, those received then, and those never."),
                &["state", "error"],
            )?,
            room_seconds: Histogram::with_opts(histogram(
                "room_duration_seconds",
                "How long rooms lived.",
                ROOM_SECONDS.into(),
            ))?,
            start_ms: HistogramVec::new(
                histogram("session_start_time_ms", "From joining to media.", session(START_MS_MAX)?),
                &["protocol_version"],
            )?,
            session_ms: HistogramVec::new(
                histogram("session_duration_ms", "From joining to leaving.", session(SESSION_MS_MAX)?),
                &["protocol_version"],
            )?,
            registry,
        };
        calls.registry.register(Box::new(calls.published.clone()))?;
        calls.registry.register(Box::new(calls.publications.clone()))?;
        calls.registry.register(Box::new(calls.subscribed.clone()))?;
        calls.registry.register(Box::new(calls.subscriptions.clone()))?;
        calls.registry.register(Box::new(calls.room_seconds.clone()))?;
        calls.registry.register(Box::new(calls.start_ms.clone()))?;
        calls.registry.register(Box::new(calls.session_ms.clone()))?;
        Ok(calls)
    }

    /// A client announces a track.
    pub fn announced(&self, track: &TrackInfo) {
        let [kind, source, mime] = described(track);
        self.publications.with_label_values(&[kind, source, mime, "attempt"]).inc();
    }

    /// The first media of a track came.
    pub fn published(&self, track: &TrackInfo) {
        let [kind, source, mime] = described(track);
        self.publications.with_label_values(&[kind, source, mime, "success"]).inc();
        self.published.with_label_values(&[kind, source, mime]).inc();
    }

    /// A track that was published is no more.
    pub fn unpublished(&self, track: &TrackInfo) {
        self.published.with_label_values(&described(track)).dec();
    }

    /// Somebody is to receive a track.
    pub fn subscribing(&self) {
        self.subscriptions.with_label_values(&["attempt", ""]).inc();
    }

    /// Its client will not; `error` is a `SubscriptionError`'s name.
    pub fn not_subscribed(&self, error: &str) {
        self.subscriptions.with_label_values(&["failure", error]).inc();
    }

    /// A section of its connection carries the track, until what this returns is dropped.
    pub fn subscribed(&self, track: &TrackInfo) -> Subscribed {
        self.subscriptions.with_label_values(&["success", ""]).inc();
        let gauge = self.subscribed.with_label_values(&described(track));
        gauge.inc();
        Subscribed(gauge)
    }

    pub fn room_ended(&self, lived: Duration) {
        self.room_seconds.observe(lived.as_secs_f64());
    }

    /// A participant's media is up, `after` it joined. `protocol` is the version its client speaks.
    pub fn connected(&self, protocol: i32, after: Duration) {
        observe_ms(&self.start_ms, protocol, after);
    }

    /// A participant left, `after` it joined.
    pub fn left(&self, protocol: i32, after: Duration) {
        observe_ms(&self.session_ms, protocol, after);
    }
}

/// A subscription, counted while it lasts.
#[derive(Debug)]
pub struct Subscribed(IntGauge);

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What tracks are told apart by. The MIME type is one of those the server names itself.
const TRACK: [&str; 3] = ["kind", "source", "mimeType"];

fn described(track: &TrackInfo) -> [&str; 3] {
    [track.r#type().as_str_name(), track.source().as_str_name(), &track.mime_type]
}

/// Above this, versions are a client's invention; each is a series of its own.
const PROTOCOL_MAX: i32 = 64;

fn observe_ms(histograms: &HistogramVec, protocol: i32, lasted: Duration) {
    let protocol = protocol.clamp(0, PROTOCOL_MAX).to_string();
    histograms.with_label_values(&[protocol]).observe(lasted.as_secs_f64() * 1_000.0);
}

/// What every one of these metrics carries.
fn labels(node_sid: &str) -> [(&'static str, &str); 3] {
    [("node_id", node_sid), ("node_type", "SERVER"), ("env", "")]
}

/// What reports tell of streams: loss, jitter and round trips.
fn write_streams(page: &mut String, labels: &str, streams: &[StreamTotals]) {
    let labelled = |streams: &StreamTotals| {
        let (direction, kind) = (streams.direction, streams.kind);
        format!("{labels},direction=\"{direction}\",source=\"UNKNOWN\",type=\"{kind}\",country=\"\"")
    };
    let streams: Vec<_> = streams.iter().map(|streams| (labelled(streams), streams)).collect();
    // Writing to a String cannot fail.
    let _ = writeln!(page, "# TYPE livekit_packet_loss_total counter");
    for (labels, streams) in &streams {
        let _ = writeln!(page, "livekit_packet_loss_total{{{labels}}} {}", streams.lost);
    }
    write_histogram(page, "livekit_packet_loss_percent", &streams, |streams| &streams.loss_percent);
    write_histogram(page, "livekit_jitter_us", &streams, |streams| &streams.jitter_us);
    write_histogram(page, "livekit_rtt_ms", &streams, |streams| &streams.round_trip_ms);
}

fn write_histogram(
    page: &mut String,
    name: &str,
    streams: &[(String, &StreamTotals)],
    observed: fn(&StreamTotals) -> &Observed,
) {
    let _ = writeln!(page, "# TYPE {name} histogram");
    for (labels, streams) in streams {
        let observed = observed(streams);
        let mut below = 0;
        for (bound, count) in &observed.buckets {
            below += count;
            let _ = writeln!(page, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(page, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", observed.count);
        let _ = writeln!(page, "{name}_sum{{{labels}}} {}", observed.sum);
        let _ = writeln!(page, "{name}_count{{{labels}}} {}", observed.count);
    }
}

/// Adds them to a page of Prometheus text.
pub(super) fn write(page: &mut String, telemetry: &Telemetry) {
    let labels = labels(&telemetry.node_sid).map(|(name, value)| format!("{name}=\"{value}\"")).join(",");
    for (name, gauge) in
        [("livekit_room_total", &telemetry.rooms), ("livekit_participant_total", &telemetry.participants)]
    {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "# TYPE {name} gauge\n{name}{{{labels}}} {}", gauge.load(Ordering::Relaxed));
    }
    let mut family = |name: &str, rows: &[(&str, u64)]| {
        let _ = writeln!(page, "# TYPE {name} counter");
        for (row, value) in rows {
            let _ = writeln!(page, "{name}{{{labels},{row}}} {value}");
        }
    };
    let counters = &telemetry.counters;
    let [joins, unauthenticated, refused, connected] =
        [&counters.joins, &counters.joins_unauthenticated, &counters.joins_refused, &counters.connected]
            .map(|counter| counter.load(Ordering::Relaxed));
    family(
        "livekit_participant_join_total",
        &[
            ("state=\"signal_connected\"", joins),
            ("state=\"signal_failed\"", unauthenticated + refused),
            ("state=\"rtc_init\"", joins),
            ("state=\"rtc_connected\"", connected),
        ],
    );
    if let Some(shards) = &telemetry.shards {
        let totals = (shards.totals)();
        family("livekit_packet_total", &totals.rows(|traffic| traffic.packets));
        family("livekit_packet_bytes", &totals.rows(|traffic| traffic.octets));
        family("livekit_nack_total", &[("direction=\"outgoing\",country=\"\"", totals.nacks_sent)]);
        family("livekit_pli_total", &[("direction=\"outgoing\",country=\"\"", totals.plis_sent)]);
        write_streams(page, &labels, &totals.streams);
    }
    // A registry of ours alone encodes; were it not to, the page lacks this part.
    let _ = TextEncoder::new().encode_utf8(&telemetry.calls.registry.gather(), page);
}
