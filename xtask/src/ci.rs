//! `cargo xtask ci`: the stages, their order, and the time each takes.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::{clients, deny, fuzz, gates, layering, run, tidy};

/// The whole is budgeted at 45 minutes on two cores; say so before it is too late.
const WARN_AFTER: Duration = Duration::from_secs(35 * 60);
/// Seeds simulated: each is one minute of one room.
const SEEDS: u64 = 1_000;
const SEEDS_FAST: u64 = 50;
/// Fuzzing time per target, only to show that targets build, run and find planted faults.
const FUZZ_SECONDS: u64 = 5;

struct Stages {
    done: Vec<(&'static str, Duration)>,
}

impl Stages {
    fn stage(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("\n=== {name}");
        let start = Instant::now();
        let result = work().with_context(|| format!("stage '{name}' failed"));
        self.done.push((name, start.elapsed()));
        if result.is_err() {
            self.print();
        }
        result
    }

    fn print(&self) {
        let total: Duration = self.done.iter().map(|(_, time)| *time).sum();
        println!("\n{:<28}{:>9}", "stage", "seconds");
        for (name, time) in &self.done {
            println!("{name:<28}{:>9.1}", time.as_secs_f64());
        }
        println!("{:<28}{:>9.1}", "total", total.as_secs_f64());
        if total > WARN_AFTER {
            println!("warning: over {} minutes; the budget is 45", WARN_AFTER.as_secs() / 60);
        }
    }
}

pub(crate) fn run(root: &Path, fast: bool) -> Result<()> {
    let mut stages = Stages { done: Vec::new() };
    // Installing waits for networks and disks, while the first stages keep the processors busy.
    let equipping = (!fast).then(|| {
        let root = root.to_owned();
        std::thread::spawn(move || clients::equip_all(&root))
    });
    stages.stage("format", || run::run(root, "cargo", &["fmt", "--all", "--check"]))?;
    stages.stage("tidy", || tidy::check(root))?;
    stages.stage("layering", || layering::check(root))?;
    stages.stage("clippy", || {
        run::run(
            root,
            "cargo",
            &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
        )
    })?;
    stages.stage("tests", || run::run(root, "cargo", &["test", "--workspace", "--locked"]))?;
    let seeds = if fast { SEEDS_FAST } else { SEEDS };
    stages.stage("simulation", || simulate(root, &["sweep", "1", &seeds.to_string()]))?;
    if let Some(equipping) = equipping {
        stages.stage("packages of the clients", || {
            equipping.join().map_err(|_| anyhow!("the thread that installs them panicked"))?
        })?;
        stages.stage("licences, advisories", || deny::check(root))?;
        stages.stage("web UI is committed", || clients::check_web(root))?;
        stages.stage("release build", || run::run(root, "cargo", &["build", "--release", "--locked"]))?;
        stages.stage("gates", || gates::run(root, false))?;
        stages.stage("real clients", || clients::run(root, None, None))?;
        stages.stage("fuzz targets", || fuzz::run(root, None, FUZZ_SECONDS))?;
    }
    stages.print();
    println!("\neverything passed");
    Ok(())
}

/// The simulator runs optimised: a thousand room-minutes in debug would take longer than the rest of CI.
pub(crate) fn simulate(root: &Path, arguments: &[&str]) -> Result<()> {
    let mut all = vec!["run", "--release", "--locked", "--quiet", "--package", "auralink-sim", "--"];
    all.extend(arguments);
    run::run(root, "cargo", &all)
}
