//! Clients of one server, their threads, and a window of time in which everything is counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use auralink_ring::client::{monotonic_ns, process_cpu_ns};
use auralink_rtc::dtls::Certificate;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::link::Milestones;
use super::options::Common;
use super::outgoing::{OutStream, Publishing};
use super::point::{Generator, Point, Quantiles};
use super::process::Snapshot;
use super::publisher::Publisher;
use super::receiver::Receiver;
use super::schedule::{Cursor, Schedule, start_ns};
use super::session::{Session, SessionConfig};
use crate::http::Http;
use crate::metrics::{counters, risen};

/// Stragglers and repairs may still come.
const GRACE: Duration = Duration::from_millis(600);
const PROGRESS: Duration = Duration::from_secs(2);

/// When a client counts as ready: what was reached, and how many tracks it is offered.
pub(crate) type Ready = Arc<dyn Fn(&Milestones, usize) -> bool + Send + Sync>;

/// One client's part.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) config: SessionConfig,
    /// By stream, in the order of the offer.
    pub(crate) schedules: Vec<Arc<Schedule>>,
    /// Its place among all publishers.
    pub(crate) place: usize,
    pub(crate) ready: Ready,
}

pub(crate) struct Stage {
    pub(crate) receiver: Arc<Receiver>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) certificate: Arc<Certificate>,
    origin_ns: u64,
    tasks: JoinSet<Result<()>>,
    stop: watch::Sender<bool>,
    permits: Arc<Semaphore>,
    http: Option<Http>,
    pid: Option<u32>,
    is_pinned: bool,
}

/// Counters at one end of the window.
struct Mark {
    server: Option<Snapshot>,
    counters: BTreeMap<String, u64>,
    at_ns: u64,
    forwarded: u64,
    bytes: u64,
    datagrams: u64,
    published: u64,
    unsent: u64,
    forced: u64,
    resent: u64,
    cpu_ns: (u64, u64, u64),
}

impl Stage {
    pub(crate) fn new(common: &Common, http: Option<Http>, pid: Option<u32>) -> Result<Self> {
        auralink_ring::client::raise_descriptor_limit(1 << 20);
        Ok(Self {
            receiver: Arc::new(Receiver::start(common.settings())?),
            publisher: Arc::new(Publisher::start()?),
            certificate: Arc::new(Certificate::generate().context("cannot make a certificate")?),
            origin_ns: monotonic_ns(),
            tasks: JoinSet::new(),
            stop: watch::channel(false).0,
            permits: Arc::new(Semaphore::new(common.joining)),
            http,
            pid,
            is_pinned: common.cpu.is_some(),
        })
    }

    /// Lets clients join and waits until each is ready.
    ///
    /// # Errors
    /// When one of them is not, or another one ended.
    pub(crate) async fn enter(&mut self, parts: Vec<Part>) -> Result<()> {
        let count = parts.len();
        let (ready, mut readied) = mpsc::unbounded_channel();
        for part in parts {
            let (receiver, publisher) = (Arc::clone(&self.receiver), Arc::clone(&self.publisher));
            let (certificate, permits) = (Arc::clone(&self.certificate), Arc::clone(&self.permits));
            let (ready, stop, origin_ns) = (ready.clone(), self.stop.subscribe(), self.origin_ns);
            self.tasks.spawn(async move {
                let permit = permits.acquire_owned().await.context("nobody joins any more")?;
                let identity = part.config.id;
                let lived = async {
                    let mut session = Session::join(&part.config, &certificate, &receiver).await?;
                    session.wait_for("connection", |milestones, _| is_set(&milestones.connected_ns)).await?;
                    part.start(&session, &publisher, origin_ns);
                    drop(permit);
                    session.wait_for("media", |milestones, tracks| (part.ready)(milestones, tracks)).await?;
                    // Whoever waits for it may have given up.
                    let _ = ready.send(());
                    drop(ready);
                    let served = session.serve(stop).await;
                    publisher.remove(part.config.id);
                    served
                };
                lived.await.with_context(|| format!("client {identity}"))
            });
        }
        drop(ready);
        let mut left = count;
        let mut told = Instant::now();
        while left > 0 {
            tokio::select! {
                Some(()) = readied.recv() => left -= 1,
                Some(ended) = self.tasks.join_next() => {
                    ended.context("a client's task ended")??;
                    bail!("a client left before it was told to");
                }
            }
            if told.elapsed() > PROGRESS {
                told = Instant::now();
                crate::output::complain(&format!("{} of {count} clients are ready\n", count - left))?;
            }
        }
        Ok(())
    }

    /// Counts for `seconds` after `warmup`, and tells progress.
    ///
    /// # Errors
    /// When a client ends meanwhile, or the server cannot be looked at.
    pub(crate) async fn measure(&mut self, warmup: f64, seconds: f64) -> Result<Point> {
        self.publisher.publish_slowly(false);
        self.pass(warmup, "warming up").await?;
        self.receiver.restart()?;
        self.publisher.restart()?;
        let before = self.mark().await?;
        self.pass(seconds, "measuring").await?;
        let after = self.mark().await?;
        let lateness_us = Quantiles::from(&self.publisher.lateness_us()?);
        tokio::time::sleep(GRACE).await;
        let collected = self.receiver.collect()?;
        let seconds = (after.at_ns - before.at_ns) as f64 / 1e9;
        let share = |now: u64, then: u64| (now - then) as f64 / 1e9 / seconds;
        let datagrams = (after.datagrams - before.datagrams).max(1);
        Ok(Point {
            seconds,
            published: after.published - before.published,
            forwarded: after.forwarded - before.forwarded,
            forwarded_bytes: after.bytes - before.bytes,
            server: after
                .server
                .as_ref()
                .zip(before.server.as_ref())
                .map(|(after, before)| after.since(before)),
            counters: risen(&before.counters, &after.counters),
            arrived: collected.arrived,
            latency_us: Quantiles::from(&collected.latency_us),
            generator: Generator {
                is_pinned: self.is_pinned,
                receiving_share: share(after.cpu_ns.0, before.cpu_ns.0),
                publishing_share: share(after.cpu_ns.1, before.cpu_ns.1),
                process_share: share(after.cpu_ns.2, before.cpu_ns.2),
                receive_us: (after.cpu_ns.0 - before.cpu_ns.0) as f64 / 1e3 / datagrams as f64,
                lateness_us,
                unsent: after.unsent - before.unsent,
                forced_keyframes: after.forced - before.forced,
                resent: after.resent - before.resent,
            },
            ..Point::default()
        })
    }

    /// Lets time pass, unless a client ends.
    async fn pass(&mut self, seconds: f64, what: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs_f64(seconds);
        let mut before = self.receiver.live.media.load(Ordering::Relaxed);
        let mut told = Instant::now();
        loop {
            let next = deadline.min(told + PROGRESS);
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => {}
                Some(ended) = self.tasks.join_next() => {
                    ended.context("a client's task ended")??;
                    bail!("a client left before it was told to");
                }
            }
            let media = self.receiver.live.media.load(Ordering::Relaxed);
            let rate = (media - before) as f64 / told.elapsed().as_secs_f64();
            let left = deadline.saturating_duration_since(Instant::now()).as_secs_f64();
            crate::output::complain(&format!("{what}: {rate:.0} packets/s, {left:.0} s left\n"))?;
            if Instant::now() >= deadline {
                return Ok(());
            }
            (before, told) = (media, Instant::now());
        }
    }

    async fn mark(&self) -> Result<Mark> {
        // A server without such a page is measured from outside only.
        let page = match &self.http {
            Some(http) => http.metrics().await.unwrap_or_default(),
            None => String::new(),
        };
        let (received, sent) = (&self.receiver.live, &self.publisher.live);
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Ok(Mark {
            server: self.pid.map(Snapshot::take).transpose()?,
            counters: counters(&page),
            at_ns: monotonic_ns(),
            forwarded: read(&received.media),
            bytes: read(&received.media_bytes),
            datagrams: read(&received.datagrams),
            published: read(&sent.packets),
            unsent: read(&sent.unsent),
            forced: read(&sent.forced_keyframes),
            resent: read(&sent.resent),
            cpu_ns: (read(&received.cpu_ns), read(&sent.cpu_ns), process_cpu_ns(std::process::id())?),
        })
    }

    /// Lets everybody leave and ends the threads.
    ///
    /// # Errors
    /// When a client or a thread failed on the way.
    pub(crate) async fn leave(mut self) -> Result<()> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a client's task ended")??;
        }
        let Self { receiver, publisher, .. } = self;
        let receiver = Arc::into_inner(receiver).context("a client still uses the receiving thread")?;
        let publisher = Arc::into_inner(publisher).context("a client still uses the publishing thread")?;
        receiver.stop()?;
        publisher.stop()
    }
}

impl Part {
    /// Starts to publish, in step with everybody else.
    fn start(&self, session: &Session, publisher: &Publisher, origin_ns: u64) {
        let streams = session.streams.iter().zip(&self.schedules).map(|(identity, schedule)| {
            let start_ns = start_ns(origin_ns, schedule.cycle_ns, self.place);
            let mut cursor = Cursor::new(Arc::clone(schedule), start_ns);
            cursor.skip_until(monotonic_ns());
            OutStream::new(identity.clone(), cursor)
        });
        let streams: Vec<OutStream> = streams.collect();
        if !streams.is_empty() {
            publisher.add(session.id, Publishing::new(Arc::clone(&session.link), streams));
        }
    }
}

pub(crate) fn is_set(milestone: &std::sync::atomic::AtomicU64) -> bool {
    milestone.load(Ordering::Relaxed) > 0
}
