//! The native load generator: clients whose media is sent and received by a few plain threads, the workloads, and the floor
//! they are compared with.

mod churn;
pub(crate) mod compare;
mod feedback;
pub(crate) mod floor;
pub(crate) mod floor_sender;
mod gaps;
mod join;
mod link;
mod memory;
mod options;
mod outgoing;
mod payload;
mod point;
mod process;
mod publisher;
mod receiver;
pub(crate) mod record;
pub(crate) mod run;
mod schedule;
mod session;
mod sink;
mod stage;
mod stream;
mod trace;
mod tracks;

use std::path::Path;

use anyhow::{Context as _, Result};

/// Signalling is all there is to do for the runtime.
fn on_runtime<T>(task: impl Future<Output = Result<T>>) -> Result<T> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().context("no runtime")?.block_on(task)
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
