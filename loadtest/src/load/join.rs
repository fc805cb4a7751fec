//! `run --workload join`: clients join a running room one after the other or many at a time; how long each needs from opening
//! the WebSocket to the first whole keyframe, what that costs the server, and whether those already there lose anything.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use auralink_rtc::dtls::Certificate;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::point::{Arrived, Point, Quantiles};
use super::process::{Snapshot, Usage};
use super::receiver::Receiver;
use super::run::{Run, part, streams_of};
use super::schedule::Schedule;
use super::session::{Session, SessionConfig};
use super::stage::{Ready, Stage, is_set};
use super::tracks::Publish;
use crate::http::Http;

/// Stragglers and repairs may still come.
const GRACE: Duration = Duration::from_secs(1);
const PROGRESS: Duration = Duration::from_secs(2);
/// One small packet a frame: a thousand receivers of it are no load that would slow joins down.
const FRAME_PACKETS: usize = 1;
const PAYLOAD_LEN: u16 = 500;

#[derive(Debug, Serialize)]
struct Report {
    who: String,
    watchers: usize,
    joins: usize,
    failures: Vec<String>,
    seconds: f64,
    connected_us: Quantiles,
    keyframe_us: Quantiles,
    /// Of one join, and leave where clients leave; media included.
    cpu_ms: Option<f64>,
    server: Option<Usage>,
    /// Everybody, those who were there before too.
    arrived: Arrived,
    wrong: Vec<String>,
}

/// Times of one join, in microseconds.
struct Joined {
    connected_us: u64,
    keyframe_us: u64,
}

pub(crate) async fn run(run: &Run) -> Result<()> {
    let http = Http::new(&run.server.target.url)?;
    let mut stage = Stage::new(&run.common, Some(http), run.server.server_pid)?;
    let schedule = Arc::new(Schedule::layer(FRAME_PACKETS, PAYLOAD_LEN));
    let range = streams_of(0..1);
    let ready: Ready = Arc::new(|milestones, _| is_set(&milestones.keyframe_ns));
    let publisher = run.config(0, 0, Publish::VIDEO, false, range.clone())?;
    stage.enter(vec![part(publisher, vec![schedule], Arc::new(|_, _| true))]).await?;
    let watchers = run.common.subscribers as u64;
    let watching = (1..=watchers).map(|id| {
        Ok(part(run.config(id, 0, Publish::NOTHING, true, range.clone())?, Vec::new(), Arc::clone(&ready)))
    });
    stage.enter(watching.collect::<Result<Vec<_>>>()?).await?;
    stage.receiver.restart()?;
    let mut report = joins(run, &stage, watchers + 1).await?;
    report.conclude();
    stage.leave().await?;
    crate::output::print(&report.table())?;
    if let Some(path) = &run.common.json {
        super::write_json(path, &report)?;
    }
    if !report.failures.is_empty() || !report.wrong.is_empty() {
        bail!("{} joins failed; {}", report.failures.len(), report.wrong.join(", "));
    }
    Ok(())
}

/// What one client needs.
struct Joiner {
    config: SessionConfig,
    certificate: Arc<Certificate>,
    receiver: Arc<Receiver>,
    leaves: bool,
    told: mpsc::UnboundedSender<Joined>,
    stop: watch::Receiver<bool>,
}

impl Joiner {
    async fn run(self, permit: OwnedSemaphorePermit) -> Result<()> {
        let mut session = Session::join(&self.config, &self.certificate, &self.receiver).await?;
        session.wait_for("keyframe", |milestones, _| is_set(&milestones.keyframe_ns)).await?;
        drop(permit);
        let milestones = &session.link.milestones;
        let since = |ns: u64| ns.saturating_sub(session.opened_ns) / 1_000;
        // Whoever listens may have given up.
        let _ = self.told.send(Joined {
            connected_us: since(milestones.connected_ns.load(Ordering::Relaxed)),
            keyframe_us: since(milestones.keyframe_ns.load(Ordering::Relaxed)),
        });
        drop(self.told);
        if self.leaves { session.leave().await } else { session.serve(self.stop).await }
    }
}

async fn joins(run: &Run, stage: &Stage, first_id: u64) -> Result<Report> {
    let pid = run.server.server_pid;
    let begun = Instant::now();
    let before = pid.map(Snapshot::take).transpose()?;
    let permits = Arc::new(Semaphore::new(run.common.joining));
    let mut clients: JoinSet<Result<()>> = JoinSet::new();
    let (stop, stopped) = watch::channel(false);
    let (told, mut heard) = mpsc::unbounded_channel();
    let mut last_progress = Instant::now();
    let (count, rate) = (run.turnover.count, run.turnover.rate);
    for index in 0..count {
        if rate > 0.0 {
            let due = begun + Duration::from_secs_f64(index as f64 / rate);
            tokio::time::sleep_until(due.into()).await;
        }
        let permit = Arc::clone(&permits).acquire_owned().await?;
        let joiner = Joiner {
            config: run.config(first_id + index as u64, 0, Publish::NOTHING, true, streams_of(0..1))?,
            certificate: Arc::clone(&stage.certificate),
            receiver: Arc::clone(&stage.receiver),
            leaves: run.turnover.leave,
            told: told.clone(),
            stop: stopped.clone(),
        };
        clients.spawn(joiner.run(permit));
        if last_progress.elapsed() > PROGRESS {
            last_progress = Instant::now();
            crate::output::complain(&format!("{index} of {count} joins begun\n"))?;
        }
    }
    drop(told);
    let (mut connected_us, mut keyframe_us) = (Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?);
    // Ends once every client joined or failed.
    while let Some(joined) = heard.recv().await {
        connected_us.record(joined.connected_us)?;
        keyframe_us.record(joined.keyframe_us)?;
    }
    let after = pid.map(Snapshot::take).transpose()?;
    let seconds = begun.elapsed().as_secs_f64();
    tokio::time::sleep(GRACE).await;
    let arrived = stage.receiver.collect()?.arrived;
    stop.send_replace(true);
    let mut failures = Vec::new();
    while let Some(ended) = clients.join_next().await {
        failures.extend(ended.context("a client's task ended")?.err().map(|error| format!("{error:#}")));
    }
    Ok(Report {
        who: run.server.target.url.clone(),
        watchers: run.common.subscribers,
        joins: count,
        failures,
        seconds,
        connected_us: (&connected_us).into(),
        keyframe_us: (&keyframe_us).into(),
        cpu_ms: None,
        server: after.zip(before).map(|(after, before)| after.since(&before)),
        arrived,
        wrong: Vec::new(),
    })
}

impl Report {
    fn conclude(&mut self) {
        self.cpu_ms = self.server.as_ref().map(|usage| usage.cpu_seconds * 1e3 / self.joins.max(1) as f64);
        let mut point = Point { arrived: self.arrived.clone(), ..Point::default() };
        point.conclude(true);
        self.wrong = point.failures;
        self.wrong.extend(point.invalid);
    }

    fn table(&self) -> String {
        let mut text = format!(
            "{}: {} joins into a room of {} in {:.1} s, {} failed\n",
            self.who,
            self.joins,
            self.watchers,
            self.seconds,
            self.failures.len()
        );
        for (name, q) in [("connected", &self.connected_us), ("first keyframe", &self.keyframe_us)] {
            text.push_str(&format!(
                "  {name:<16} p50 {:.1} p99 {:.1} max {:.1} ms\n",
                q.p50 as f64 / 1e3,
                q.p99 as f64 / 1e3,
                q.max as f64 / 1e3
            ));
        }
        if let Some(cpu_ms) = self.cpu_ms {
            text.push_str(&format!("  server CPU per join, media included: {cpu_ms:.3} ms\n"));
        }
        let a = &self.arrived;
        text.push_str(&format!(
            "  packets {} gaps {} duplicates {} repaired {} compared {} unlike {}\n",
            a.packets, a.gaps, a.duplicates, a.repaired, a.compared, a.mismatched
        ));
        self.wrong
            .iter()
            .chain(self.failures.iter().take(10))
            .for_each(|what| text.push_str(&format!("  FAILED {what}\n")));
        text
    }
}
