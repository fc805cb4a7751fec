//! AuraLink's own generator: native clients of any LiveKit-compatible server, and helpers of the tests.
#![forbid(unsafe_code)]

mod client;
mod hostile;
mod http;
mod load;
mod meet;
mod metrics;
mod output;
mod publish;
mod receive;
mod recording;
mod sdp;
mod signal;
mod target;
mod token;
mod vp8;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "auralink-loadtest")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Puts peers into a room, where they publish the recording and check what they receive.
    Meet(meet::Meet),
    /// Sends the server malformed, forged and too much of everything, and shows that others are not harmed.
    Hostile(hostile::Hostile),
    Run(load::run::Run),
    Floor(load::floor::Floor),
    Compare(load::compare::Compare),
    Record(load::record::Record),
    #[command(hide = true)]
    FloorSender(load::floor_sender::FloorSender),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With nobody to read it there is nothing left to do.
            let _ = output::complain(&format!("error: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    match Arguments::parse().task {
        Task::Meet(meet) => on_runtime(meet.run()),
        Task::Hostile(hostile) => on_runtime(hostile.run()),
        Task::Run(run) => run.run(),
        Task::Floor(floor) => floor.run(),
        Task::Compare(compare) => compare.run(),
        Task::Record(record) => record.run(),
        Task::FloorSender(sender) => sender.run(),
    }
}

fn on_runtime<F: Future<Output = Result<()>>>(task: F) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?.block_on(task)
}
