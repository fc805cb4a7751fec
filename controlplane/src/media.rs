//! The only door to the data plane: commands out, events in, each to the room it belongs to.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use auralink_node::{
    DropReason, Events, Handle, Histogram, IntakeLimit, IoBackend, JITTER_BOUNDS_US, LOSS_BOUNDS, NodeConfig,
    Ports, Quality, ROUND_TRIP_BOUNDS_MS, Reports, ShardGone, ShardReport, Spill, Steer, Streams, heap_bytes,
};
use auralink_proto::{Candidate, Command, Event, Fingerprint, RoomId, ShardId, TrackId, TransportId};
use tokio::sync::mpsc;

use crate::chance::Chance;
use crate::config::{self, Config};
use crate::negotiator::Random;
use crate::rooms::actor::Input;
use crate::rooms::room::Mint;
use crate::telemetry::livekit::{MediaTotals, Observed, StreamTotals, Traffic};
use crate::telemetry::{ShardReports, Telemetry, count, metric};

type Inbox = mpsc::WeakSender<Input>;

#[derive(Default)]
struct Routes {
    transports: HashMap<TransportId, Inbox>,
    tracks: HashMap<TrackId, Inbox>,
}

/// Control's door to the shards. Cheap to clone.
#[derive(Clone)]
pub struct Media {
    handle: Handle,
    routes: Arc<Mutex<Routes>>,
}

impl Media {
    pub fn new(handle: Handle) -> Self {
        Self { handle, routes: Arc::default() }
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Transports and tracks whose events go somewhere.
    fn routes_len(&self) -> (usize, usize) {
        let routes = self.routes();
        (routes.transports.len(), routes.tracks.len())
    }

    /// What the shards report of themselves, and how many of their transports and tracks control knows.
    pub fn reports(&self, reports: Reports) -> ShardReports {
        let (watched, counted, media) = (reports.clone(), reports.clone(), self.clone());
        ShardReports {
            page: Box::new(move || {
                let mut page = shard_page(&reports);
                let (transports, tracks) = media.routes_len();
                metric(&mut page, "auralink_transport_routes", "gauge", transports);
                metric(&mut page, "auralink_track_routes", "gauge", tracks);
                if let Some(bytes) = heap_bytes() {
                    metric(&mut page, "auralink_heap_bytes", "gauge", bytes);
                }
                page
            }),
            totals: Box::new(move || totals(&counted)),
            stalled: Box::new(move || watched.stalled(Instant::now())),
        }
    }

    /// Delivers a command, waiting while the shard's mailbox is full.
    ///
    /// # Errors
    /// The shard's thread has ended; the node is shutting down.
    pub async fn send(&self, shard: ShardId, command: Command) -> Result<(), ShardGone> {
        self.handle.send(shard, command).await
    }

    /// Names a new room.
    pub fn place_room(&self) -> RoomId {
        self.handle.place_room()
    }

    /// Sends a transport's events to a room, or with `None` nowhere.
    pub fn route_transport(&self, id: TransportId, inbox: Option<Inbox>) {
        match inbox {
            Some(inbox) => self.routes().transports.insert(id, inbox),
            None => self.routes().transports.remove(&id),
        };
    }

    /// Sends a track's events to a room, or with `None` nowhere.
    pub fn route_track(&self, id: TrackId, inbox: Option<Inbox>) {
        match inbox {
            Some(inbox) => self.routes().tracks.insert(id, inbox),
            None => self.routes().tracks.remove(&id),
        };
    }

    /// Takes off the table what belonged to rooms whose tasks are gone, and returns the transports among it.
    pub fn forget_orphans(&self) -> Vec<TransportId> {
        let lives = |inbox: &Inbox| inbox.upgrade().is_some_and(|inbox| !inbox.is_closed());
        let mut routes = self.routes();
        routes.tracks.retain(|_, inbox| lives(inbox));
        let mut orphans = Vec::new();
        routes.transports.retain(|id, inbox| {
            let keep = lives(inbox);
            if !keep {
                orphans.push(*id);
            }
            keep
        });
        orphans
    }

    /// Transports and tracks that events are routed for; for tests of leaks.
    pub fn routed(&self) -> (usize, usize) {
        let routes = self.routes();
        (routes.transports.len(), routes.tracks.len())
    }

    fn inbox_of(&self, event: &Event) -> Option<mpsc::Sender<Input>> {
        let routes = self.routes();
        let inbox = match event {
            Event::TransportApplied { transport, .. }
            | Event::TransportConnected { transport }
            | Event::TransportClosed { transport, .. }
            | Event::DataOpen { transport, .. }
            | Event::Data { transport, .. }
            | Event::Stats { transport, .. } => routes.transports.get(transport),
            Event::TrackLive { track, .. } => routes.tracks.get(track),
            // All levels of one event are of one room; a track may have ended meanwhile.
            Event::Levels { levels } => levels.iter().find_map(|level| routes.tracks.get(&level.track)),
        };
        inbox.and_then(mpsc::WeakSender::upgrade)
    }

    /// Passes events on until every shard has ended.
    pub async fn route(self, mut events: Events, telemetry: Arc<Telemetry>) {
        while let Some(event) = events.recv().await {
            let Some(inbox) = self.inbox_of(&event) else {
                count(&telemetry.counters.events_unrouted);
                continue;
            };
            let repeated = matches!(event, Event::Data { .. } | Event::Levels { .. } | Event::Stats { .. });
            match inbox.try_send(Input::Event(event)) {
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                Err(mpsc::error::TrySendError::Full(_)) if repeated => {
                    count(&telemetry.counters.events_dropped);
                }
                // A room never waits for this task, so waiting for the room ends.
                Err(mpsc::error::TrySendError::Full(input)) => drop(inbox.send(input).await),
            }
        }
    }
}

impl Random for Media {
    fn bits(&mut self) -> u32 {
        Chance.bits()
    }

    fn word(&mut self, len: usize) -> String {
        Chance.word(len)
    }
}

impl Mint for Media {
    fn transport(&mut self, room: RoomId, ordinal: usize) -> TransportId {
        self.handle.place_transport(room, ordinal)
    }

    fn track(&mut self, transport: TransportId) -> TrackId {
        self.handle.place_track(transport)
    }

    fn candidates(&self, shard: ShardId) -> Vec<Candidate> {
        self.handle.candidates(shard).to_vec()
    }

    fn fingerprint(&self) -> Fingerprint {
        self.handle.fingerprint()
    }
}

/// What one connection may send; 0 stands for no limit.
fn intake(limit: &config::Limit) -> IntakeLimit {
    let IntakeLimit { packets, bytes } = IntakeLimit::NONE;
    IntakeLimit {
        packets: NonZeroU32::new(limit.packets_per_second_max).map_or(packets, NonZeroU32::get),
        bytes: match limit.bits_per_second_max {
            0 => bytes,
            bits => u32::try_from(bits.div_ceil(8)).unwrap_or(bytes),
        },
    }
}

/// The data plane's share of the configuration.
pub fn node_config(config: &Config) -> NodeConfig {
    let ports = config.rtc.udp_port;
    NodeConfig {
        shards: config.node.shards,
        io_backend: match config.node.io_backend {
            config::IoBackend::Auto => IoBackend::Auto,
            config::IoBackend::Uring => IoBackend::Uring,
            config::IoBackend::Mmsg => IoBackend::Mmsg,
        },
        ports: if ports.first == ports.last {
            Ports::Single(ports.first)
        } else {
            Ports::PerShard { first: ports.first, last: ports.last }
        },
        tcp_port: Some(config.rtc.tcp_port).filter(|port| *port != 0),
        force_tcp: config.rtc.force_tcp,
        bind: config.rtc.bind,
        advertise: config.advertise(),
        spill: match config.node.spill {
            config::Spill::Home => Spill::Home,
            config::Spill::Forced => Spill::Forced,
        },
        steer: match config.node.steer {
            config::Steer::Auto => Steer::Auto,
            config::Steer::Lanes => Steer::Lanes,
        },
        transports_max: config.node.transports_max,
        intake: intake(&config.limit),
        socket_buffer_bytes: config.node.socket_buffer_bytes,
    }
}

fn totals(reports: &Reports) -> MediaTotals {
    let (mut totals, mut quality) = (MediaTotals::default(), Quality::default());
    for report in reports.latest().iter().flatten() {
        let stats = &report.stats;
        let mut add = |to: fn(&mut MediaTotals) -> &mut Traffic, packets: u64, octets: u64| {
            let traffic = to(&mut totals);
            traffic.packets += packets;
            traffic.octets += octets;
        };
        add(
            |totals| &mut totals.received,
            stats.packets_received - stats.repairs_received,
            stats.octets_received - stats.octets_of_repairs_received,
        );
        add(|totals| &mut totals.received_again, stats.repairs_received, stats.octets_of_repairs_received);
        add(|totals| &mut totals.sent, stats.packets_sent, stats.octets_sent);
        add(|totals| &mut totals.sent_again, stats.retransmitted, stats.octets_retransmitted);
        totals.nacks_sent += stats.nacks_sent;
        totals.plis_sent += stats.plis_sent;
        quality.add(&stats.quality);
    }
    totals.streams = [
        ("incoming", "AUDIO", &quality.incoming.audio),
        ("incoming", "VIDEO", &quality.incoming.video),
        ("outgoing", "AUDIO", &quality.outgoing.audio),
        ("outgoing", "VIDEO", &quality.outgoing.video),
    ]
    .map(|(direction, kind, streams)| stream_totals(direction, kind, streams))
    .into();
    totals
}

fn stream_totals(direction: &'static str, kind: &'static str, streams: &Streams) -> StreamTotals {
    StreamTotals {
        direction,
        kind,
        lost: streams.lost,
        loss_percent: observed(&streams.loss, &LOSS_BOUNDS, 1_000.0),
        jitter_us: observed(&streams.jitter_us, &JITTER_BOUNDS_US, 1.0),
        round_trip_ms: observed(&streams.round_trip_ms, &ROUND_TRIP_BOUNDS_MS, 1.0),
    }
}

/// What was observed is in `unit`ths of what it is told in.
fn observed<const N: usize>(histogram: &Histogram<N>, bounds: &[u32; N], unit: f64) -> Observed {
    let bounds = bounds.map(|bound| f64::from(bound) / unit);
    Observed {
        buckets: bounds.into_iter().zip(histogram.buckets).collect(),
        count: histogram.count,
        sum: histogram.sum as f64 / unit,
    }
}

/// The shards' reports as metrics.
fn shard_page(reports: &Reports) -> String {
    let accepts = reports.accepts();
    let reports = reports.latest();
    let shards: Vec<(usize, &ShardReport)> =
        reports.iter().enumerate().filter_map(|(i, report)| Some((i, report.as_ref()?))).collect();
    let mut page = String::from("# TYPE auralink_shard_info gauge\n");
    // Writing to a String cannot fail.
    for (shard, report) in &shards {
        let _ =
            writeln!(page, "auralink_shard_info{{shard=\"{shard}\",io_backend=\"{}\"}} 1", report.io_backend);
    }
    let mut family = |name: &str, kind: &str, value: fn(&ShardReport) -> u64| {
        let _ = writeln!(page, "# TYPE auralink_{name} {kind}");
        for (shard, report) in &shards {
            let _ = writeln!(page, "auralink_{name}{{shard=\"{shard}\"}} {}", value(report));
        }
    };
    family("shard_transports", "gauge", |r| r.transports as u64);
    family("shard_tracks", "gauge", |r| r.tracks as u64);
    family("shard_tuples", "gauge", |r| r.tuples as u64);
    family("shard_streams", "gauge", |r| r.streams as u64);
    family("shard_busy_permille", "gauge", |r| r.busy_permille as u64);
    family("shard_report_age_ms", "gauge", |r| r.written.elapsed().as_millis() as u64);
    family("shard_events_dropped_total", "counter", |r| r.events_dropped);
    family("packets_received_total", "counter", |r| r.stats.packets_received);
    family("octets_received_total", "counter", |r| r.stats.octets_received);
    family("octets_sent_total", "counter", |r| r.stats.octets_sent + r.stats.octets_retransmitted);
    family("packets_sent_total", "counter", |r| r.stats.packets_sent);
    family("packets_retransmitted_total", "counter", |r| r.stats.retransmitted);
    family("nacks_sent_total", "counter", |r| r.stats.nacks_sent);
    family("plis_sent_total", "counter", |r| r.stats.plis_sent);
    family("lane_packets_sent_total", "counter", |r| r.stats.lane_sent);
    family("lane_packets_received_total", "counter", |r| r.stats.lane_received);
    family("lane_packets_lost_total", "counter", |r| r.stats.lane_lost);
    family("datagrams_steered_total", "counter", |r| r.stats.steered);
    family("packets_unaccounted_total", "counter", |r| r.stats.unaccounted);
    family("syscalls_total", "counter", |r| r.ring.syscalls);
    family("messages_received_total", "counter", |r| r.ring.messages_received);
    family("shard_panics_total", "counter", |r| r.stats.panics);
    family("kernel_overflow_total", "counter", |r| r.ring.kernel_overflow);
    family("receive_pool_empty_total", "counter", |r| r.ring.pool_empty);
    family("peers_unsegmented_total", "counter", |r| r.ring.peers_unsegmented);
    family("trains_sent_total", "counter", |r| r.ring.trains_sent);
    family("trains_full_total", "counter", |r| r.ring.trains_full);
    family("trains_failed_total", "counter", |r| r.ring.trains_failed);
    let _ = writeln!(page, "# TYPE auralink_media_connections_total counter");
    for (outcome, count) in [
        ("accepted", &accepts.accepted),
        ("crowded", &accepts.crowded),
        ("silent", &accepts.silent),
        ("strange", &accepts.strange),
        ("overflowed", &accepts.overflowed),
    ] {
        let count = count.load(Ordering::Relaxed);
        let _ = writeln!(page, "auralink_media_connections_total{{outcome=\"{outcome}\"}} {count}");
    }
    let _ = writeln!(page, "# TYPE auralink_packets_dropped_total counter");
    for (shard, report) in &shards {
        for reason in DropReason::ALL {
            let (name, dropped) = (reason.as_str(), report.stats.dropped(reason));
            let _ = writeln!(
                page,
                "auralink_packets_dropped_total{{shard=\"{shard}\",reason=\"{name}\"}} {dropped}"
            );
        }
    }
    page
}
