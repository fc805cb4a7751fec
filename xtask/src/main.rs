//! The project's chores: `cargo xtask ci` is everything CI runs, in order, with the time each stage takes.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its user")]

mod bench;
mod ci;
mod clients;
mod deny;
mod fuzz;
mod gates;
mod k6;
mod layering;
mod run;
mod source;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "AuraLink's chores")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Everything CI runs. Installs what the machine lacks; fails where something cannot run.
    Ci {
        /// Only what a change needs before it is committed: no browsers, no fuzzing, few seeds.
        #[arg(long)]
        fast: bool,
    },
    /// Replays one simulated room in full detail.
    Sim { seed: u64 },
    /// Simulates many seeds; prints those that break an invariant.
    Sweep {
        #[arg(default_value_t = 1)]
        first: u64,
        #[arg(default_value_t = 10_000)]
        count: u64,
    },
    /// Fuzzes one target, or every one, for so many seconds each.
    Fuzz {
        target: Option<String>,
        #[arg(long, default_value_t = 600)]
        seconds: u64,
    },
    /// The real-client suites alone, against the release binary.
    Clients {
        /// Only scenarios whose name contains this.
        filter: Option<String>,
        /// Only this suite.
        #[arg(long)]
        suite: Option<clients::Suite>,
    },
    /// Measures a row of `bench/RESULTS.md`, or every one. Wants a quiet machine and root.
    Bench {
        row: Option<String>,
        #[command(flatten)]
        how: bench::How,
    },
    /// Instructions, system calls and idle work per packet against their baselines.
    Gates {
        /// Takes what is measured as the new baseline.
        #[arg(long)]
        update: bool,
    },
    /// HTTP and signalling under load with k6.
    K6 { scenario: Option<String> },
    /// File sizes, function sizes, unfinished work.
    Tidy,
    /// Who may depend on whom.
    Layering,
    /// Licences, sources and advisories of the dependencies.
    Deny,
    /// Builds the web UI into `controlplane/web/dist`.
    Web,
}

fn main() -> Result<()> {
    let root = run::root()?;
    match Arguments::parse().chore {
        Chore::Ci { fast } => ci::run(&root, fast),
        Chore::Sim { seed } => ci::simulate(&root, &["replay", &seed.to_string()]),
        Chore::Sweep { first, count } => {
            ci::simulate(&root, &["sweep", &first.to_string(), &count.to_string()])
        }
        Chore::Fuzz { target, seconds } => fuzz::run(&root, target.as_deref(), seconds),
        Chore::Clients { filter, suite } => clients::run(&root, suite, filter.as_deref()),
        Chore::Bench { row, how } => bench::run(&root, row.as_deref(), &how),
        Chore::Gates { update } => gates::run(&root, update),
        Chore::K6 { scenario } => k6::run(&root, scenario.as_deref()),
        Chore::Tidy => tidy::check(&root),
        Chore::Layering => layering::check(&root),
        Chore::Deny => deny::check(&root),
        Chore::Web => clients::build_web(&root),
    }
}
