//! Gates that hold on a noisy machine, and base against head. Each prints its numbers and fails when they are worse than they
//! may be.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command-line tool")]

#[path = "gates/baseline.rs"]
mod baseline;
#[path = "gates/compare.rs"]
mod compare;
#[path = "gates/idle.rs"]
mod idle;
#[path = "gates/instructions.rs"]
mod instructions;
#[path = "gates/refusal.rs"]
mod refusal;
#[path = "gates/syscalls.rs"]
mod syscalls;
#[path = "gates/valgrind.rs"]
mod valgrind;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    gate: Gate,
}

#[derive(Subcommand)]
enum Gate {
    /// Instructions per packet of each step, the cipher left out, against `bench/baselines/instructions.json`.
    Instructions {
        /// Takes what was measured as the new baseline.
        #[arg(long)]
        update: bool,
    },
    /// What one second of doing nothing costs for each transport that is connected, against `bench/baselines/idle.json`.
    Idle {
        #[arg(long)]
        update: bool,
    },
    /// Instructions of refusing a message, wherever its tag is wrong: always the same.
    Refusal,
    /// System calls per packet of a node on loopback, with each back end, against `bench/baselines/syscalls.json`.
    Syscalls {
        #[arg(long)]
        update: bool,
    },
    /// Two builds of `forward`, run in turn: nanoseconds per packet of each and their ratio.
    Compare {
        base: PathBuf,
        head: PathBuf,
        #[arg(long, default_value_t = 9)]
        rounds: usize,
        #[arg(long, default_value_t = 100)]
        subscribers: usize,
        #[arg(long, default_value_t = 100)]
        frames: usize,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().gate {
        Gate::Instructions { update } => instructions::run(update),
        Gate::Idle { update } => idle::run(update),
        Gate::Refusal => refusal::run(),
        Gate::Syscalls { update } => syscalls::run(update),
        Gate::Compare { base, head, rounds, subscribers, frames } => {
            compare::run(&base, &head, rounds, subscribers, frames)
        }
    }
}

/// A program built beside this one.
fn sibling(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    path.exists().then_some(path).with_context(|| format!("{name} is not built: build this package's --bins"))
}
