//! `run --workload churn`: clients join and leave at a rate, and the server must be after it what it was before: what a join
//! and leave cost, and what memory, descriptors and threads became.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use auralink_rtc::dtls::Certificate;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::link::Milestones;
use super::outgoing::{OutStream, Publishing};
use super::payload::Kind;
use super::point::{Arrived, Quantiles};
use super::process::{Snapshot, Usage};
use super::publisher::Publisher;
use super::receiver::Receiver;
use super::run::{Run, streams_of};
use super::schedule::{Cursor, Schedule};
use super::session::{Session, SessionConfig};
use super::stage::is_set;
use super::tracks::Publish;
use crate::http::Http;
use crate::metrics::gauge;

const PROGRESS: Duration = Duration::from_secs(2);
/// Failures told one by one.
const DETAILS_MAX: usize = 10;
/// Until the server has forgotten everybody: its reports come four times a second.
const SETTLE: Duration = Duration::from_secs(2);

/// The server at one moment.
#[derive(Clone, Copy, Debug, Serialize)]
struct Moment {
    joins: usize,
    seconds: f64,
    cpu_seconds: f64,
    rss_bytes: u64,
    fds: usize,
    threads: usize,
    held: Held,
}

/// What the server says it holds; nothing where it has no such page.
#[derive(Clone, Copy, Default, Debug, Serialize)]
struct Held {
    heap_bytes: u64,
    tasks: u64,
    transports: u64,
    tracks: u64,
    tuples: u64,
    routes: u64,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    who: String,
    rooms: usize,
    room_size: usize,
    joins: usize,
    failed: usize,
    failures: Vec<String>,
    seconds: f64,
    /// Of one join and leave.
    cpu_ms: Option<f64>,
    /// Share of a core over the whole.
    server: Option<Usage>,
    /// From opening the WebSocket to the end of the handshake.
    connected_us: Quantiles,
    /// To the opening of the first data channel.
    channel_us: Quantiles,
    /// Before the first join; at intervals, people present; everybody gone.
    series: Vec<Moment>,
    /// Server's memory after the last join over that after a tenth of them, with the same number of people present.
    rss_growth: Option<f64>,
    generator_core_share: f64,
    arrived: Arrived,
}

/// What everybody needs.
struct Churn {
    run: Run,
    http: Http,
    receiver: Arc<Receiver>,
    publisher: Arc<Publisher>,
    certificate: Certificate,
    schedules: [Arc<Schedule>; 2],
}

/// What became of one client.
struct Lived {
    connected_us: u64,
    channel_us: u64,
}

pub(crate) async fn run(run: &Run) -> Result<()> {
    auralink_ring::client::raise_descriptor_limit(1 << 20);
    let churn = Arc::new(Churn {
        run: run.clone(),
        http: Http::new(&run.server.target.url)?,
        receiver: Arc::new(Receiver::start(run.common.settings())?),
        publisher: Arc::new(Publisher::start()?),
        certificate: Certificate::generate().context("cannot make a certificate")?,
        schedules: [Arc::new(Schedule::trickle(Kind::Audio)), Arc::new(Schedule::trickle(Kind::Video))],
    });
    let report = churn.all().await?;
    crate::output::print(&report.table())?;
    if let Some(path) = &run.common.json {
        super::write_json(path, &report)?;
    }
    if report.failed > 0 {
        bail!("{} of {} joins failed", report.failed, report.joins);
    }
    Ok(())
}

impl Churn {
    async fn all(self: Arc<Self>) -> Result<Report> {
        let run = &self.run;
        let (rooms, size, count) = (run.common.rooms, run.common.subscribers, run.turnover.count);
        let pid = run.server.server_pid;
        let residents = self.residents().await?;
        let begun = Instant::now();
        let (before, own_before) =
            (pid.map(Snapshot::take).transpose()?, Snapshot::take(std::process::id())?);
        let permits = Arc::new(Semaphore::new(run.common.joining));
        let mut clients: JoinSet<Result<Lived>> = JoinSet::new();
        let mut present: Vec<VecDeque<watch::Sender<bool>>> = (0..rooms).map(|_| VecDeque::new()).collect();
        let mut report =
            Report { who: run.server.target.url.clone(), rooms, room_size: size, ..Report::default() };
        let mut times = [Histogram::new(3)?, Histogram::new(3)?];
        let mut told = Instant::now();
        report.series.extend(self.moment(before.as_ref(), 0, begun).await?);
        for index in 0..count {
            if run.turnover.rate > 0.0 {
                let due = begun + Duration::from_secs_f64(index as f64 / run.turnover.rate);
                tokio::time::sleep_until(due.into()).await;
            }
            let permit = Arc::clone(&permits).acquire_owned().await?;
            let room = index % rooms;
            let (stop, stopped) = watch::channel(false);
            clients.spawn(Arc::clone(&self).client(index, room, stopped, permit));
            if let Some(present) = present.get_mut(room) {
                present.push_back(stop);
                if present.len() > size {
                    // Dropping it tells the client to leave.
                    present.pop_front();
                }
            }
            while let Some(ended) = clients.try_join_next() {
                report.note(ended.context("a client's task ended")?, &mut times)?;
            }
            let joins = index + 1;
            if joins % (count / 20).max(1) == 0
                || joins == count / 10
                || joins == count
                || told.elapsed() > PROGRESS
            {
                let moment = self.moment(before.as_ref(), joins, begun).await?;
                report.series.extend(moment);
                if told.elapsed() > PROGRESS {
                    told = Instant::now();
                    let rss = moment.map_or(0.0, |moment| moment.rss_bytes as f64 / 1e6);
                    crate::output::complain(&format!("{joins} of {count} joins, server RSS {rss:.1} MB\n"))?;
                }
            }
        }
        drop(present);
        while let Some(ended) = clients.join_next().await {
            report.note(ended.context("a client's task ended")?, &mut times)?;
        }
        tokio::time::sleep(SETTLE).await;
        report.series.extend(self.moment(before.as_ref(), count, begun).await?);
        let after = pid.map(Snapshot::take).transpose()?;
        report.server = after.zip(before).map(|(after, before)| after.since(&before));
        report.generator_core_share = Snapshot::take(std::process::id())?.since(&own_before).core_share;
        report.arrived = self.receiver.collect()?.arrived;
        report.conclude(count, begun, &times);
        residents.end().await?;
        Ok(report)
    }

    /// The server as it is now.
    async fn moment(
        &self,
        before: Option<&Snapshot>,
        joins: usize,
        begun: Instant,
    ) -> Result<Option<Moment>> {
        let (Some(pid), Some(before)) = (self.run.server.server_pid, before) else { return Ok(None) };
        let usage = Snapshot::take(pid)?.since(before);
        // A server without such a page is measured from outside only.
        let page = self.http.metrics().await.unwrap_or_default();
        let gauge = |name: &str| gauge(&page, name);
        Ok(Some(Moment {
            joins,
            seconds: begun.elapsed().as_secs_f64(),
            cpu_seconds: usage.cpu_seconds,
            rss_bytes: usage.rss_bytes,
            fds: usage.fds,
            threads: usage.threads,
            held: Held {
                heap_bytes: gauge("auralink_heap_bytes"),
                tasks: gauge("auralink_tasks"),
                transports: gauge("auralink_shard_transports"),
                tracks: gauge("auralink_shard_tracks"),
                tuples: gauge("auralink_shard_tuples"),
                routes: gauge("auralink_transport_routes") + gauge("auralink_track_routes"),
            },
        }))
    }

    /// One client's whole life.
    async fn client(
        self: Arc<Self>,
        index: usize,
        room: usize,
        stopped: watch::Receiver<bool>,
        permit: tokio::sync::OwnedSemaphorePermit,
    ) -> Result<Lived> {
        let is_listening = self.run.turnover.listen;
        let publish = if is_listening { Publish::NOTHING } else { Publish::BOTH };
        let id = (self.run.common.rooms + index) as u64;
        let mut session =
            Session::join(&self.config(id, room, publish)?, &self.certificate, &self.receiver).await?;
        let lived = async {
            session.wait_for("channel", |m, _| is_set(&m.channel_open_ns)).await?;
            self.publish(&session);
            if is_listening {
                session.wait_for("keyframe", |m, tracks| tracks >= 2 && is_set(&m.keyframe_ns)).await?;
            }
            let milestones: &Milestones = &session.link.milestones;
            let since = |ns: u64| ns.saturating_sub(session.opened_ns) / 1_000;
            Ok(Lived {
                connected_us: since(milestones.connected_ns.load(Ordering::Relaxed)),
                channel_us: since(milestones.channel_open_ns.load(Ordering::Relaxed)),
            })
        };
        let lived = lived.await;
        drop(permit);
        let lived = match lived {
            Ok(lived) => session.serve(stopped).await.map(|()| lived),
            Err(error) => {
                // It failed already; whether its good-bye arrives changes nothing.
                let _ = session.leave().await;
                Err(error)
            }
        };
        self.publisher.remove(id);
        self.receiver.remove(id);
        lived.with_context(|| format!("client {index}"))
    }

    fn config(&self, id: u64, room: usize, publish: Publish) -> Result<SessionConfig> {
        // Whoever is in the room changes all the time; any of this run's media may come.
        let publishers = streams_of(0..(self.run.common.rooms + self.run.turnover.count) as u64);
        self.run.config(id, room, publish, true, publishers)
    }

    fn publish(&self, session: &Session) {
        let streams = session.streams.iter().zip(&self.schedules).map(|(identity, schedule)| {
            let now_ns = auralink_ring::client::monotonic_ns();
            OutStream::new(identity.clone(), Cursor::new(Arc::clone(schedule), now_ns))
        });
        let streams: Vec<OutStream> = streams.collect();
        if !streams.is_empty() {
            self.publisher.add(session.id, Publishing::new(Arc::clone(&session.link), streams));
        }
    }

    /// One publisher in each room, when clients only listen.
    async fn residents(&self) -> Result<Residents> {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let rooms = if self.run.turnover.listen { self.run.common.rooms } else { 0 };
        for room in 0..rooms {
            let config = self.config(room as u64, room, Publish::BOTH)?;
            let mut session = Session::join(&config, &self.certificate, &self.receiver).await?;
            session.wait_for("connection", |m, _| is_set(&m.connected_ns)).await?;
            self.publish(&session);
            tasks.spawn(session.serve(stopped.clone()));
        }
        Ok(Residents { stop, tasks })
    }
}

struct Residents {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<()>>,
}

impl Residents {
    async fn end(mut self) -> Result<()> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a publisher's task ended")??;
        }
        Ok(())
    }
}

impl Report {
    fn note(&mut self, ended: Result<Lived>, times: &mut [Histogram<u64>; 2]) -> Result<()> {
        match ended {
            Ok(lived) => {
                let [connected, channel] = times;
                connected.record(lived.connected_us)?;
                channel.record(lived.channel_us)?;
            }
            Err(error) => {
                self.failed += 1;
                if self.failures.len() < DETAILS_MAX {
                    self.failures.push(format!("{error:#}"));
                }
            }
        }
        Ok(())
    }

    fn conclude(&mut self, joins: usize, begun: Instant, times: &[Histogram<u64>; 2]) {
        self.joins = joins;
        self.seconds = begun.elapsed().as_secs_f64();
        self.cpu_ms = self.server.as_ref().map(|usage| usage.cpu_seconds * 1e3 / joins.max(1) as f64);
        let [connected, channel] = times;
        (self.connected_us, self.channel_us) = (connected.into(), channel.into());
        let at = |least: usize| self.series.iter().find(|moment| moment.joins >= least);
        let growth = at(joins / 10).zip(at(joins));
        self.rss_growth = growth.map(|(early, last)| last.rss_bytes as f64 / early.rss_bytes.max(1) as f64);
    }

    fn table(&self) -> String {
        let mut text = format!(
            "{}: churn, {} rooms of {}\n  {} joins and leaves in {:.1} s, {} failed\n",
            self.who, self.rooms, self.room_size, self.joins, self.seconds, self.failed
        );
        let mut line = |words: String| text.push_str(&format!("  {words}\n"));
        if let Some(cpu_ms) = self.cpu_ms {
            line(format!("server CPU per join and leave {cpu_ms:.3} ms"));
        }
        for (name, q) in [("connected", &self.connected_us), ("channel open", &self.channel_us)] {
            line(format!("{name:<14} p50 {} p99 {} max {} µs", q.p50, q.p99, q.max));
        }
        for moment in &self.series {
            line(format!(
                "{:>8} joins {:>8.1} s  RSS {:>8.1} MB  descriptors {:>6}  threads {:>3}  CPU {:>8.2} s  \
                 heap {:>8.1} MB  tasks {:>5}  transports {:>4}  tracks {:>4}  tuples {:>4}  routes {:>4}",
                moment.joins,
                moment.seconds,
                moment.rss_bytes as f64 / 1e6,
                moment.fds,
                moment.threads,
                moment.cpu_seconds,
                moment.held.heap_bytes as f64 / 1e6,
                moment.held.tasks,
                moment.held.transports,
                moment.held.tracks,
                moment.held.tuples,
                moment.held.routes
            ));
        }
        if let Some(growth) = self.rss_growth {
            line(format!("RSS after the last join over that after a tenth of them: {growth:.3}"));
        }
        line(format!("generator {:.1} % of a core", self.generator_core_share * 100.0));
        self.failures.iter().for_each(|failure| line(format!("FAILED {failure}")));
        text
    }
}
