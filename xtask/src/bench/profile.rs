//! Where a server's time goes under a row's load: samples of its call stacks by the kernel's clock, which every machine has.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::net::Server;
use super::{Bench, Task, finish, load};
use crate::run;

const PACKAGES: [(&str, &str); 1] = [("/usr/bin/perf", "linux-perf")];
/// Not in step with anything that happens a hundred times a second.
const SAMPLES_PER_SECOND: &str = "1999";
/// Until everybody has joined; where joining is what is looked at, until it is under way.
const SETTLE: Duration = Duration::from_secs(12);
const SETTLE_JOINING: Duration = Duration::from_secs(2);
/// Functions below this share are left out.
const PERCENT_MIN: &str = "0.4";

/// Runs the row's first side under load and prints what its threads spend their time in, by thread and by function.
pub(super) fn run(bench: &Bench<'_>) -> Result<()> {
    run::debian(bench.root, &PACKAGES)?;
    let Some(side) = bench.row.sides.first() else { bail!("a row without a server") };
    let server = Server::start(bench, 0, side)?;
    let settle = match bench.row.task {
        Task::Compare | Task::CompareWithFloor => SETTLE,
        Task::Repeat | Task::Once => SETTLE_JOINING,
    };
    let rooms = load::rooms(bench, std::slice::from_ref(&server))?;
    let mut generator = bench.generator("run", rooms);
    generator.args(["--url", &server.url, "--server-pid", &server.pid()]);
    if settle == SETTLE {
        generator.args(["--seconds", &(settle.as_secs() + u64::from(bench.how.seconds) + 4).to_string()]);
    }
    let mut load = generator.stdout(Stdio::null()).spawn().context("cannot start the generator")?;
    std::thread::sleep(settle);
    let data = bench.json("-profile").with_extension("perf");
    let mut perf = Command::new("perf");
    perf.args(["record", "-q", "-e", "cpu-clock", "-F", SAMPLES_PER_SECOND, "-g", "-p", &server.pid(), "-o"]);
    perf.arg(&data).args(["--", "sleep", &bench.how.seconds.to_string()]);
    let recorded = finish(&mut perf);
    let ended = load.wait().context("the generator was lost")?;
    recorded?;
    if !ended.success() {
        bail!("the generator says the point does not count: {ended}");
    }
    for sort in ["comm,dso", "comm,dso,symbol"] {
        let report =
            ["report", "--no-children", "-g", "none", "--percent-limit", PERCENT_MIN, "--stdio", "--sort"];
        finish(Command::new("perf").args(report).arg(sort).arg("-i").arg(&data))?;
    }
    Ok(())
}
