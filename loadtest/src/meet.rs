//! `meet`: peers in one room publish the recording, subscribe to everybody, and check every packet they receive.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tokio::sync::Barrier;

use crate::client::{Client, JoinOptions, Shared, TransportCounters};
use crate::publish::Published;
use crate::receive::Received;
use crate::target::Target;

/// How often a peer looks whether it is over.
const LOOK: Duration = Duration::from_millis(100);

/// Puts peers into a room, where they publish the recording and check what they receive.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Meet {
    #[command(flatten)]
    target: Target,
    /// Peers to join with.
    #[arg(long, default_value_t = 3)]
    peers: usize,
    /// Seconds from the start to the end of the measurement; an interrupt (^C) ends it earlier.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Whether the peers publish, too.
    #[arg(long)]
    publish: bool,
    /// Layers of the video: 3 for simulcast, 1 for one stream.
    #[arg(long, default_value_t = 3, value_parser = parse_layers)]
    layers: usize,
    /// Start of the peers' identities.
    #[arg(long, default_value = "peer")]
    prefix: String,
    /// Other participants who publish, besides our peers: each must be received by every peer.
    #[arg(long, default_value_t = 0)]
    others: usize,
    /// Writes everything measured to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn parse_layers(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("1 or 3".into()),
    }
}

/// What one peer received on one line.
#[derive(Debug, Serialize)]
pub(crate) struct LineReport {
    pub(crate) from: String,
    pub(crate) track: String,
    pub(crate) is_video: bool,
    pub(crate) is_recording: bool,
    pub(crate) received: Received,
}

/// What one peer saw.
#[derive(Debug, Serialize)]
pub(crate) struct PeerReport {
    pub(crate) identity: String,
    pub(crate) connected_ms: Option<u64>,
    pub(crate) transport: TransportCounters,
    pub(crate) published: Published,
    pub(crate) lines: Vec<LineReport>,
    pub(crate) violations: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    peers: Vec<PeerReport>,
    violations: usize,
}

impl Meet {
    pub(crate) async fn run(self) -> Result<()> {
        let shared = Shared::new()?;
        let deadline = Instant::now() + Duration::from_secs(self.seconds);
        let barrier = Arc::new(Barrier::new(self.peers));
        let interrupted = Arc::new(AtomicBool::new(false));
        let watched = Arc::clone(&interrupted);
        tokio::spawn(async move {
            // Where signals cannot be had the deadline ends it.
            if tokio::signal::ctrl_c().await.is_ok() {
                watched.store(true, Ordering::Relaxed);
            }
        });
        let mut tasks = Vec::new();
        for index in 0..self.peers {
            let (shared, barrier, meet) = (shared.clone(), Arc::clone(&barrier), self.clone());
            let interrupted = Arc::clone(&interrupted);
            let is_over = move || interrupted.load(Ordering::Relaxed) || Instant::now() >= deadline;
            tasks.push(tokio::spawn(async move { meet.peer(index, &shared, is_over, &barrier).await }));
        }
        let mut peers = Vec::new();
        for task in tasks {
            peers.push(task.await.context("a peer's task ended")?);
        }
        let violations = peers.iter().map(|peer| peer.violations.len()).sum();
        let report = Report { peers, violations };
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(&report)?;
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        crate::output::print(&table(&report.peers))?;
        if violations > 0 {
            bail!("{violations} violations");
        }
        Ok(())
    }

    async fn peer(
        &self,
        index: usize,
        shared: &Shared,
        is_over: impl Fn() -> bool,
        barrier: &Barrier,
    ) -> PeerReport {
        let identity = format!("{}-{index}", self.prefix);
        let lived = async {
            let options = JoinOptions {
                url: self.target.url.clone(),
                token: self.target.token(&identity)?,
                layers: if self.publish { self.layers } else { 0 },
                subscribes: true,
            };
            let mut client = Client::join(&options, shared).await?;
            client.connect().await?;
            while !is_over() && client.closed.is_none() {
                client.run_until(Instant::now() + LOOK).await?;
            }
            Ok(client)
        };
        let lived: Result<Client> = lived.await;
        let publishers = if self.publish { self.peers - 1 } else { 0 } + self.others;
        let report = match &lived {
            Ok(client) => observe(client, publishers),
            Err(error) => failed(&identity, error),
        };
        // Nobody leaves before everybody has looked.
        barrier.wait().await;
        if let Ok(client) = lived {
            // The measurement is over; a good-bye that fails harms nothing.
            let _ = client.leave().await;
        }
        report
    }
}

fn failed(identity: &str, error: &anyhow::Error) -> PeerReport {
    PeerReport {
        identity: identity.to_owned(),
        connected_ms: None,
        transport: TransportCounters::default(),
        published: Published::default(),
        lines: Vec::new(),
        violations: vec![format!("{error:#}")],
    }
}

/// What a client saw up to now, and what of it must not be.
pub(crate) fn observe(client: &Client, publishers: usize) -> PeerReport {
    let mut violations: Vec<String> = client.closed.iter().map(|why| format!("ended early: {why}")).collect();
    let counters = client.counters;
    let own = [
        ("decrypt failures", counters.decrypt_failures),
        ("duplicates", counters.duplicates),
        ("packets of unnamed streams", client.unnamed()),
        ("malformed datagrams", counters.malformed),
    ];
    violations.extend(own.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}")));
    let mut lines = Vec::new();
    for (sid, track, line) in client.received() {
        let from = track.map(|track| track.identity.clone()).unwrap_or_default();
        let faults = line.counters.violations();
        let faults =
            faults.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{from} {sid}: {n} {what}"));
        violations.extend(faults);
        if let (Some(last), false) = (violations.last_mut(), line.counters.details.is_empty()) {
            let _ = write!(last, " ({})", line.counters.details.join("; "));
        }
        lines.push(LineReport {
            from,
            track: sid.to_owned(),
            is_video: line.is_video,
            is_recording: line.is_recording,
            received: line.counters.clone(),
        });
    }
    for (sid, track) in client.tracks().filter(|(_, track)| !track.is_gone) {
        let heard = lines.iter().any(|line| line.track == *sid && line.received.frames > 0);
        if !heard {
            violations.push(format!("{} {sid}: nothing received", track.identity));
        }
    }
    for is_video in [true, false] {
        let heard = lines.iter().filter(|line| line.is_video == is_video && line.received.frames > 0).count();
        if heard < publishers {
            let kind = if is_video { "video" } else { "audio" };
            violations.push(format!("{kind} of {heard} participants, not of {publishers}"));
        }
    }
    PeerReport {
        identity: client.identity.clone(),
        connected_ms: client.connected_ms,
        transport: counters,
        published: client.published(),
        lines,
        violations,
    }
}

fn table(peers: &[PeerReport]) -> String {
    let mut text = format!(
        "{:<12} {:<12} {:<6} {:>8} {:>7} {:>8} {:>5} {:>8} {:>9} {:>9}\n",
        "peer", "from", "kind", "packets", "frames", "matched", "keys", "repaired", "reordered", "first ms"
    );
    // Writing to a String cannot fail.
    for peer in peers {
        for line in &peer.lines {
            let received = &line.received;
            let first = received.first_ms.map_or_else(|| "never".into(), |ms| ms.to_string());
            let matched = if line.is_recording { received.matched.to_string() } else { "-".into() };
            let _ = writeln!(
                text,
                "{:<12} {:<12} {:<6} {:>8} {:>7} {:>8} {:>5} {:>8} {:>9} {:>9}",
                peer.identity,
                line.from,
                if line.is_video { "video" } else { "audio" },
                received.packets,
                received.frames,
                matched,
                received.keyframes,
                received.repaired,
                received.reordered,
                first
            );
        }
        let _ = writeln!(
            text,
            "{:<12} connected in {} ms, published {} packets, resent {}, keyframes asked of it {}",
            peer.identity,
            peer.connected_ms.map_or_else(|| "never".into(), |ms| ms.to_string()),
            peer.published.packets,
            peer.published.resent,
            peer.published.keyframe_requests
        );
        for violation in &peer.violations {
            let _ = writeln!(text, "VIOLATION {}: {violation}", peer.identity);
        }
    }
    let violations: usize = peers.iter().map(|peer| peer.violations.len()).sum();
    let _ = writeln!(text, "{} peers, {violations} violations", peers.len());
    text
}
