//! Gates that hold on a noisy machine: `gates instructions`, `gates compare A B`. Each prints its numbers and fails when they
//! are worse than they may be.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command-line tool")]

#[path = "gates/compare.rs"]
mod compare;
#[path = "gates/instructions.rs"]
mod instructions;

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
