//! Two peers who only want to talk, all the while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::JoinHandle;

use crate::client::{Client, JoinOptions, Shared};
use crate::meet::observe;
use crate::target::Target;

pub(super) struct Healthy {
    frames: Vec<Arc<AtomicU64>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Vec<String>>>,
}

impl Healthy {
    pub(super) async fn start(target: &Target, shared: &Shared) -> Result<Self> {
        let room = format!("{} healthy", target.room);
        let mut healthy = Self { frames: Vec::new(), stop: Arc::default(), tasks: Vec::new() };
        for identity in ["healthy-0", "healthy-1"] {
            let options = JoinOptions {
                url: target.url.clone(),
                token: target.token_for(identity, &room)?,
                layers: 3,
                subscribes: true,
            };
            let client = Client::join(&options, shared).await.context("healthy peer cannot join")?;
            let frames = Arc::new(AtomicU64::new(0));
            healthy.tasks.push(tokio::spawn(live(client, Arc::clone(&frames), Arc::clone(&healthy.stop))));
            healthy.frames.push(frames);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(healthy)
    }

    /// Frames and sounds received so far by the one who received fewer.
    pub(super) fn frames(&self) -> u64 {
        self.frames.iter().map(|frames| frames.load(Ordering::Relaxed)).min().unwrap_or_default()
    }

    /// What went wrong for them over the whole time.
    pub(super) async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut violations = Vec::new();
        for task in self.tasks {
            violations.extend(task.await.unwrap_or_else(|error| vec![format!("healthy peer: {error}")]));
        }
        violations
    }
}

async fn live(mut client: Client, frames: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Vec<String> {
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = client.run_until(Instant::now() + Duration::from_millis(50)).await {
            return vec![format!("{}: {error:#}", client.identity)];
        }
        if let Some(why) = &client.closed {
            return vec![format!("{} ended: {why}", client.identity)];
        }
        frames.store(client.received().map(|(_, _, line)| line.counters.frames).sum(), Ordering::Relaxed);
    }
    let report = observe(&client, 1);
    report.violations.into_iter().map(|violation| format!("{}: {violation}", report.identity)).collect()
}
