//! `run --workload memory`: what each further subscriber of one publisher's audio and video adds to the server's memory.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::point::{Arrived, Point};
use super::process::Snapshot;
use super::run::{Run, part, streams_of};
use super::schedule::Schedule;
use super::stage::{Part, Ready, Stage, is_set};
use super::tracks::Publish;
use crate::http::Http;

/// One small packet a frame: memory is looked at, not load.
const FRAME_PACKETS: usize = 1;
const PAYLOAD_LEN: u16 = 500;

/// The server with so many subscribers.
#[derive(Clone, Copy, Debug, Serialize)]
struct Moment {
    subscribers: usize,
    rss_bytes: u64,
    fds: usize,
}

#[derive(Debug, Serialize)]
struct Report {
    who: String,
    moments: [Moment; 2],
    /// Of RSS, per subscriber between the two.
    slope_bytes: f64,
    arrived: Arrived,
    wrong: Vec<String>,
}

/// `--subscribers` first, then `--count` more; `--seconds` pass before each look.
pub(crate) async fn run(run: &Run) -> Result<()> {
    let pid = run.server.server_pid.context("the workload memory needs --server-pid")?;
    let http = Http::new(&run.server.target.url)?;
    let mut stage = Stage::new(&run.common, Some(http), Some(pid))?;
    let schedules = vec![Arc::new(Schedule::audio()), Arc::new(Schedule::layer(FRAME_PACKETS, PAYLOAD_LEN))];
    let publisher = run.config(0, 0, Publish::BOTH, false, streams_of(0..1))?;
    stage.enter(vec![part(publisher, schedules, Arc::new(|_, _| true))]).await?;
    let (first, more) = (run.common.subscribers, run.turnover.count);
    stage.enter(subscribers(run, 1..=first)?).await?;
    let before = moment(run, pid, first).await?;
    stage.enter(subscribers(run, first + 1..=first + more)?).await?;
    let after = moment(run, pid, first + more).await?;
    let arrived = stage.receiver.collect()?.arrived;
    stage.leave().await?;
    let mut point = Point { arrived: arrived.clone(), ..Point::default() };
    point.conclude(true);
    let grown = after.rss_bytes as f64 - before.rss_bytes as f64;
    let report = Report {
        who: run.server.target.url.clone(),
        moments: [before, after],
        slope_bytes: grown / more.max(1) as f64,
        arrived,
        wrong: point.failures.into_iter().chain(point.invalid).collect(),
    };
    crate::output::print(&report.table())?;
    if let Some(path) = &run.common.json {
        super::write_json(path, &report)?;
    }
    if report.wrong.is_empty() { Ok(()) } else { bail!("{}", report.wrong.join(", ")) }
}

fn subscribers(run: &Run, ids: impl Iterator<Item = usize>) -> Result<Vec<Part>> {
    let ready: Ready = Arc::new(|milestones, tracks| tracks >= 2 && is_set(&milestones.keyframe_ns));
    ids.map(|id| {
        let config = run.config(id as u64, 0, Publish::NOTHING, true, streams_of(0..1))?;
        Ok(part(config, Vec::new(), Arc::clone(&ready)))
    })
    .collect()
}

async fn moment(run: &Run, pid: u32, subscribers: usize) -> Result<Moment> {
    tokio::time::sleep(Duration::from_secs_f64(run.common.seconds)).await;
    let Snapshot { rss_bytes, fds, .. } = Snapshot::take(pid)?;
    Ok(Moment { subscribers, rss_bytes, fds })
}

impl Report {
    fn table(&self) -> String {
        let mut text = format!("{}: memory\n", self.who);
        for moment in &self.moments {
            text.push_str(&format!(
                "  {:>6} subscribers  RSS {:.1} MB  descriptors {}\n",
                moment.subscribers,
                moment.rss_bytes as f64 / 1e6,
                moment.fds
            ));
        }
        text.push_str(&format!("  {:.1} kB for each further subscriber\n", self.slope_bytes / 1e3));
        text.push_str(&format!("  packets {} gaps {}\n", self.arrived.packets, self.arrived.gaps));
        self.wrong.iter().for_each(|what| text.push_str(&format!("  FAILED {what}\n")));
        text
    }
}
