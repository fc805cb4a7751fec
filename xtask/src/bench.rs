//! `cargo xtask bench`: the measurements behind `bench/RESULTS.md`, each a named row. Two namespaces joined by a veth pair with
//! segmentation in software; the server has CPU 1, the generator CPU 0; servers and floor run in turns.

mod load;
mod net;
mod profile;
mod sittings;

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run;
use net::{GENERATOR_NS, KEY, Namespaces, SECRET, SERVER_NS, Server, address};

/// File and Debian package of what the rows need.
const PACKAGES: [(&str, &str); 2] = [("/sbin/ip", "iproute2"), ("/sbin/ethtool", "ethtool")];

/// What joins server and generator.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    Veth,
    Loopback,
}

/// One server under test.
struct Side {
    flags: &'static [&'static str],
    /// CPUs it may use.
    cpus: &'static str,
}

const URING: Side = Side { flags: &["--shards", "1", "--io-backend", "uring"], cpus: "1" };
const MMSG: Side = Side { flags: &["--shards", "1", "--io-backend", "mmsg"], cpus: "1" };
const TWO_SHARDS: Side =
    Side { flags: &["--shards", "2", "--spill", "forced", "--io-backend", "mmsg"], cpus: "0,1" };

/// With room for everybody of the row `idle`: as many as 20,000 descriptors let the generator be.
const WIDE: Side = Side {
    flags: &["--shards", "1", "--io-backend", "mmsg", "--config-body", "[node]\ntransports_max = 12000\n"],
    cpus: "1",
};

/// How often a row is measured, and against what.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Task {
    /// All sides in turns, round by round.
    Compare,
    /// The same, the floor among the sides.
    CompareWithFloor,
    /// Each round on a new server.
    Repeat,
    /// Once: it takes minutes, and what it looks at does not depend on the machine's mood.
    Once,
}

/// How many rooms there are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rooms {
    Exactly(u32),
    /// As many as load the first server to this percentage of a core, which is another number on every machine.
    Load(u32),
    /// The same, each server being held to half of its CPU afterwards: a generator with one CPU cannot load a whole one beyond
    /// what it can take.
    LoadOnHalf(u32),
}

struct Row {
    name: &'static str,
    wire: Wire,
    sides: &'static [Side],
    task: Task,
    rooms: Rooms,
    arguments: &'static str,
}

/// Half a core, by which forwarding is judged.
const HALF: Rooms = Rooms::Load(50);

const ROWS: [Row; 21] = [
    floor("burst", HALF, "--subscribers 100"),
    Row { wire: Wire::Loopback, ..floor("burst-loopback", HALF, "--subscribers 100") },
    floor("one-room", Rooms::Exactly(1), "--subscribers 100"),
    floor("paced", HALF, "--pattern paced --subscribers 100"),
    floor("trace", HALF, "--pattern trace --trace loadtest/media/chromium.trace --subscribers 100"),
    floor("fan-out-10", HALF, "--subscribers 10"),
    floor("fan-out-1000", Rooms::Exactly(1), "--subscribers 1000"),
    floor("latency-10", Rooms::Load(70), "--subscribers 10"),
    floor("latency-100", Rooms::Load(70), "--subscribers 100"),
    compare("load-85", BOTH, Rooms::Load(85), "--subscribers 100 --gaps-ppm 100"),
    compare("overload", BOTH, Rooms::LoadOnHalf(65), "--subscribers 100 --gaps-ppm 1000000"),
    compare("audio", BOTH, HALF, "--workload audio --subscribers 100"),
    compare("meeting", BOTH, HALF, "--workload meeting --subscribers 8"),
    compare("loss", BOTH, HALF, "--subscribers 100 --loss 2"),
    compare("two-shards", &[MMSG, TWO_SHARDS], Rooms::Exactly(1), "--subscribers 200"),
    alone(
        "join",
        Task::Repeat,
        Rooms::Exactly(1),
        "--workload join --count 60 --rate 2 --subscribers 9 --leave",
    ),
    alone(
        "join-1000",
        Task::Once,
        Rooms::Exactly(1),
        "--workload join --count 1000 --subscribers 20 --rate 0",
    ),
    alone(
        "churn",
        Task::Repeat,
        Rooms::Exactly(4),
        "--workload churn --subscribers 10 --count 2000 --rate 0",
    ),
    alone(
        "churn-100000",
        Task::Once,
        Rooms::Exactly(10),
        "--workload churn --subscribers 10 --count 100000 --rate 0",
    ),
    alone(
        "memory",
        Task::Once,
        Rooms::Exactly(1),
        "--workload memory --subscribers 200 --count 1000 --seconds 60",
    ),
    Row {
        sides: &[WIDE],
        ..alone(
            "idle",
            Task::Once,
            Rooms::Exactly(990),
            "--workload idle --subscribers 10 --seconds 30 --joining 16",
        )
    },
];

const BOTH: &[Side] = &[URING, MMSG];

const fn floor(name: &'static str, rooms: Rooms, arguments: &'static str) -> Row {
    Row { name, wire: Wire::Veth, sides: BOTH, task: Task::CompareWithFloor, rooms, arguments }
}

const fn compare(name: &'static str, sides: &'static [Side], rooms: Rooms, arguments: &'static str) -> Row {
    Row { name, wire: Wire::Veth, sides, task: Task::Compare, rooms, arguments }
}

const fn alone(name: &'static str, task: Task, rooms: Rooms, arguments: &'static str) -> Row {
    Row { name, wire: Wire::Veth, sides: &[MMSG], task, rooms, arguments }
}

/// How a row is run.
#[derive(clap::Args)]
pub(crate) struct How {
    /// Rounds counted. Servers that are compared are started anew for the second half, in reverse: which one is first is not
    /// without effect. One more round goes before each half.
    #[arg(long, default_value_t = 6)]
    rounds: u32,
    /// Seconds measured in each.
    #[arg(long, default_value_t = 6)]
    seconds: u32,
    /// Prints where the server's time goes instead, by function.
    #[arg(long)]
    profile: bool,
}

/// Runs one row, or all of them.
pub(crate) fn run(root: &Path, row: Option<&str>, how: &How) -> Result<()> {
    let chosen: Vec<&Row> = ROWS.iter().filter(|held| row.is_none_or(|row| row == held.name)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        bail!("no such row; there are {}", names.join(", "));
    }
    run::debian(root, &PACKAGES)?;
    run::release(root)?;
    let out = root.join("artifacts/bench");
    std::fs::create_dir_all(&out)?;
    let mut failed = Vec::new();
    for row in chosen {
        println!("\n=== {}", row.name);
        let _namespaces = Namespaces::new(root)?;
        let bench = Bench { root, out: &out, row, how };
        if let Err(error) = if how.profile { profile::run(&bench) } else { bench.measure() } {
            println!("{}: {error:#}", row.name);
            failed.push(row.name);
        }
    }
    if !failed.is_empty() {
        bail!("rows that did not count: {}", failed.join(", "));
    }
    Ok(())
}

/// One row being measured.
struct Bench<'a> {
    root: &'a Path,
    out: &'a Path,
    row: &'a Row,
    how: &'a How,
}

impl Bench<'_> {
    fn measure(&self) -> Result<()> {
        match self.row.task {
            Task::Compare | Task::CompareWithFloor => sittings::compare(self),
            Task::Once => self.alone(0),
            // The first is a warm-up.
            Task::Repeat => (0..=self.how.rounds).try_for_each(|round| self.alone(round)),
        }
    }

    /// The row once, on a server of its own.
    fn alone(&self, round: u32) -> Result<()> {
        let Some(side) = self.row.sides.first() else { bail!("a row without a server") };
        let server = Server::start(self, 0, side)?;
        let rooms = load::rooms(self, std::slice::from_ref(&server))?;
        let mut command = self.generator("run", rooms);
        command.args(["--url", &server.url, "--server-pid", &server.pid()]);
        let suffix = if self.row.task == Task::Repeat { format!("-{round}") } else { String::new() };
        finish(command.arg("--json").arg(self.json(&suffix)))
    }

    /// The generator on its CPU and on its end of the wire, with the row's arguments.
    fn generator(&self, task: &str, rooms: u32) -> Command {
        let namespace = if self.row.wire == Wire::Veth { GENERATOR_NS } else { SERVER_NS };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(self.root.join("target/release/auralink-loadtest"));
        command.args([task, "--key", KEY, "--secret", SECRET, "--cpu", "0", "--warmup", "2"]);
        command.args(["--rooms", &rooms.to_string()]);
        command.args(self.row.arguments.split_whitespace());
        command.current_dir(self.root).stdin(Stdio::null());
        command
    }

    fn json(&self, suffix: &str) -> std::path::PathBuf {
        self.out.join(format!("{}{suffix}.json", self.row.name))
    }
}

fn finish(command: &mut Command) -> Result<()> {
    let status = command.status().context("cannot start the generator")?;
    if !status.success() {
        bail!("the generator says a point does not count, or a server was at fault: {status}");
    }
    Ok(())
}
