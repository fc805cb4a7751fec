//! What is measured and how: the options every workload shares.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use super::receiver::Settings;
use super::schedule::Schedule;
use super::trace;
use crate::target::Target;

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Workload {
    /// One publisher a room, everybody else receives its video.
    Video,
    /// Several publishers a room, everybody else receives their Opus.
    Audio,
    /// Everybody publishes audio and simulcast video and receives everybody else.
    Meeting,
    /// Clients join and leave.
    Churn,
    /// From opening the WebSocket to the first whole keyframe.
    Join,
    /// Connected, and nothing is published.
    Idle,
    /// What each further subscriber of an audio and a video track adds to the server's memory.
    Memory,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Pattern {
    /// A frame's packets at once.
    Burst,
    /// A packet each 1 to 3 ms.
    Paced,
    /// As recorded in a file.
    Trace,
}

/// How the generator works and what it looks at.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Common {
    /// Rooms.
    #[arg(long, default_value_t = 1)]
    pub(crate) rooms: usize,
    /// Receivers of each room; of a meeting, its participants.
    #[arg(long, default_value_t = 100)]
    pub(crate) subscribers: usize,
    /// Publishers of each room; 1 for video and 10 for audio if not given.
    #[arg(long)]
    pub(crate) publishers: Option<usize>,
    /// Seconds measured.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) seconds: f64,
    /// Seconds between the last join and the measurement.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) warmup: f64,
    /// How video packets follow each other.
    #[arg(long, value_enum, default_value = "burst")]
    pub(crate) pattern: Pattern,
    /// Frames a second of the pattern burst.
    #[arg(long, default_value_t = 30)]
    pub(crate) fps: u64,
    /// The recorded trace, for the pattern of that name.
    #[arg(long)]
    pub(crate) trace: Option<PathBuf>,
    /// Percentage of packets the sinks drop on receipt and ask for again.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) loss: f64,
    /// Packets in a million that may be missing at the sinks before the point fails.
    #[arg(long, default_value_t = 0)]
    pub(crate) gaps_ppm: u32,
    /// Does not ask for lost packets again, so that they stay gaps.
    #[arg(long)]
    pub(crate) no_nack: bool,
    /// Writes everything measured to this file.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Keeps the generator on this CPU.
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
    /// One received media packet in this many is decrypted and compared.
    #[arg(long, default_value_t = 64)]
    pub(crate) sample: u32,
    /// Microseconds the receiving thread rests between two rounds: until it looks again, no arriving packet has to wake it, as
    /// with clients on other machines. 0 blocks for each.
    #[arg(long, default_value_t = 500)]
    pub(crate) nap_us: u64,
    /// Clients joining at the same time.
    #[arg(long, default_value_t = 8)]
    pub(crate) joining: usize,
}

/// A server to measure.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Server {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Process whose processor time is measured.
    #[arg(long)]
    pub(crate) server_pid: Option<u32>,
}

/// How clients come and go, for the workloads churn, join and memory.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Turnover {
    /// Clients that join.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) count: usize,
    /// Joins a second; 0 for as fast as --joining at a time allow.
    #[arg(long, default_value_t = 20.0)]
    pub(crate) rate: f64,
    /// Churn: clients publish nothing and receive the two tracks of one publisher that stays in each room.
    #[arg(long)]
    pub(crate) listen: bool,
    /// Join: clients leave once they saw a keyframe, instead of staying.
    #[arg(long)]
    pub(crate) leave: bool,
}

impl Default for Turnover {
    fn default() -> Self {
        Self { count: 1_000, rate: 20.0, listen: false, leave: false }
    }
}

impl Common {
    pub(crate) fn settings(&self) -> Settings {
        Settings { sample_one_in: self.sample, nap: Duration::from_micros(self.nap_us) }
    }

    pub(crate) fn publishers(&self, workload: Workload) -> usize {
        self.publishers.unwrap_or(if workload == Workload::Audio { 10 } else { 1 })
    }

    /// What each publisher of single streams sends.
    ///
    /// # Errors
    /// When the trace is missing or cannot be played.
    pub(crate) fn schedule(&self, workload: Workload) -> Result<Arc<Schedule>> {
        let schedule = match (workload, self.pattern) {
            (Workload::Audio, _) => Schedule::audio(),
            (_, Pattern::Burst) => Schedule::burst().at_frame_rate(self.fps),
            (_, Pattern::Paced) => Schedule::paced(),
            (_, Pattern::Trace) => {
                let path = self.trace.as_ref().context("--pattern trace needs --trace FILE")?;
                trace::read(path)?
            }
        };
        schedule.check()?;
        Ok(Arc::new(schedule))
    }

    /// # Errors
    /// Naming the option that makes no sense.
    pub(crate) fn check(&self) -> Result<()> {
        if self.rooms == 0 || self.subscribers == 0 || self.joining == 0 || self.sample == 0 {
            bail!("--rooms, --subscribers, --joining and --sample are at least 1");
        }
        if !(1..=120).contains(&self.fps) {
            bail!("--fps is between 1 and 120");
        }
        if !(self.seconds > 0.0 && self.warmup >= 0.0 && (0.0..100.0).contains(&self.loss)) {
            bail!("--seconds is above 0, --warmup not below, --loss a percentage below 100");
        }
        Ok(())
    }

    /// Puts this thread, and all it starts from now on, where the options say.
    pub(crate) fn pin(&self) -> Result<()> {
        match self.cpu {
            Some(cpu) => auralink_ring::pin_to(cpu).with_context(|| format!("cannot use CPU {cpu}")),
            None => Ok(()),
        }
    }
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Video => "video",
            Self::Audio => "audio",
            Self::Meeting => "meeting",
            Self::Churn => "churn",
            Self::Join => "join",
            Self::Idle => "idle",
            Self::Memory => "memory",
        })
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Burst => "burst",
            Self::Paced => "paced",
            Self::Trace => "trace",
        })
    }
}
