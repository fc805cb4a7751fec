//! `cargo xtask bench`: the measurements behind `bench/RESULTS.md`, each a named row. Two namespaces joined by a veth pair with
//! segmentation in software; the server has CPU 1, the generator CPU 0; servers and floor run in turns.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::run;

const KEY: &str = "benchkey";
const SECRET: &str = "a-secret-of-the-benchmark-only-0123456789";
/// Namespaces of the server and of the generator.
const SERVER_NS: &str = "auralink-bench-s";
const GENERATOR_NS: &str = "auralink-bench-g";
/// File and Debian package of what the rows need.
const PACKAGES: [(&str, &str); 2] = [("/sbin/ip", "iproute2"), ("/sbin/ethtool", "ethtool")];
/// File descriptors of a server with a thousand WebSockets and of its clients.
const START_PATIENCE: Duration = Duration::from_secs(10);

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
const TWO_SHARDS: Side = Side { flags: &["--shards", "2", "--spill", "forced"], cpus: "0,1" };

struct Row {
    name: &'static str,
    wire: Wire,
    sides: &'static [Side],
    /// `compare` with the floor beside, or `run`.
    task: &'static str,
    arguments: &'static [&'static str],
}

const BOTH: &[Side] = &[URING, MMSG];

const ROWS: [Row; 13] = [
    compare("burst", Wire::Veth, BOTH, &["--floor", "--rooms", "6", "--subscribers", "100"]),
    compare("burst-loopback", Wire::Loopback, BOTH, &["--floor", "--rooms", "6", "--subscribers", "100"]),
    compare("one-room", Wire::Veth, BOTH, &["--floor", "--rooms", "1", "--subscribers", "100"]),
    compare(
        "paced",
        Wire::Veth,
        BOTH,
        &["--floor", "--pattern", "paced", "--rooms", "3", "--subscribers", "100"],
    ),
    compare(
        "trace",
        Wire::Veth,
        BOTH,
        &[
            "--floor",
            "--pattern",
            "trace",
            "--trace",
            "loadtest/media/chromium.trace",
            "--rooms",
            "6",
            "--subscribers",
            "100",
        ],
    ),
    compare("fan-out-10", Wire::Veth, BOTH, &["--floor", "--rooms", "45", "--subscribers", "10"]),
    compare(
        "fan-out-1000",
        Wire::Veth,
        BOTH,
        &["--floor", "--rooms", "1", "--subscribers", "1000", "--seconds", "6"],
    ),
    compare("audio", Wire::Veth, BOTH, &["--workload", "audio", "--rooms", "1", "--subscribers", "100"]),
    compare("meeting", Wire::Veth, BOTH, &["--workload", "meeting", "--rooms", "4", "--subscribers", "8"]),
    compare("loss", Wire::Veth, BOTH, &["--rooms", "3", "--subscribers", "100", "--loss", "2"]),
    compare("two-shards", Wire::Veth, &[URING, TWO_SHARDS], &["--rooms", "1", "--subscribers", "200"]),
    single("join", &["--workload", "join", "--count", "200", "--rooms", "1", "--leave"]),
    single("churn", &["--workload", "churn", "--rooms", "4", "--subscribers", "10", "--count", "2000"]),
];

const fn compare(
    name: &'static str,
    wire: Wire,
    sides: &'static [Side],
    arguments: &'static [&'static str],
) -> Row {
    Row { name, wire, sides, task: "compare", arguments }
}

const fn single(name: &'static str, arguments: &'static [&'static str]) -> Row {
    Row { name, wire: Wire::Veth, sides: &[URING], task: "run", arguments }
}

/// Runs one row, or all of them. `rounds` are counted, one more goes before them.
pub(crate) fn run(root: &Path, row: Option<&str>, rounds: u32, seconds: u32) -> Result<()> {
    let chosen: Vec<&Row> = ROWS.iter().filter(|held| row.is_none_or(|row| row == held.name)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        bail!("no such row; there are {}", names.join(", "));
    }
    run::debian(root, &PACKAGES)?;
    let packages =
        ["build", "--release", "--locked", "-p", "auralink-controlplane", "-p", "auralink-loadtest"];
    run::run(root, "cargo", &packages)?;
    let out = root.join("artifacts/bench");
    std::fs::create_dir_all(&out)?;
    let mut failed = Vec::new();
    for row in chosen {
        println!("\n=== {}", row.name);
        let _namespaces = Namespaces::new(root)?;
        if let Err(error) = measure(root, &out, row, rounds, seconds) {
            println!("{}: {error:#}", row.name);
            failed.push(row.name);
        }
    }
    if !failed.is_empty() {
        bail!("rows that did not count: {}", failed.join(", "));
    }
    Ok(())
}

fn measure(root: &Path, out: &Path, row: &Row, rounds: u32, seconds: u32) -> Result<()> {
    let generator = if row.wire == Wire::Veth { GENERATOR_NS } else { SERVER_NS };
    let mut servers = Vec::new();
    for (index, side) in row.sides.iter().enumerate() {
        servers.push(Server::start(root, out, row, index, side)?);
    }
    let binary = root.join("target/release/auralink-loadtest");
    let mut command = Command::new("ip");
    command.args(["netns", "exec", generator]).arg(binary).arg(row.task);
    command.args(["--key", KEY, "--secret", SECRET, "--cpu", "0"]);
    for server in &servers {
        match row.task {
            "compare" => command.arg(&server.url),
            _ => command.args(["--url", &server.url]),
        };
        command.args(["--server-pid", &server.child.id().to_string()]);
    }
    if row.task == "compare" {
        command.args(["--rounds", &rounds.to_string(), "--seconds", &seconds.to_string()]);
    }
    if row.arguments.contains(&"--floor") {
        let prefix = format!("ip netns exec {SERVER_NS}");
        command.args(["--floor-ip", &address(row.wire, 0), "--floor-cpu", "1", "--floor-prefix", &prefix]);
    }
    command.arg("--json").arg(out.join(format!("{}.json", row.name)));
    command.args(row.arguments).current_dir(root).stdin(Stdio::null());
    let status = command.status().context("cannot start the generator")?;
    if !status.success() {
        bail!("the generator says a point does not count, or a server was at fault: {status}");
    }
    Ok(())
}

fn address(wire: Wire, index: usize) -> String {
    match wire {
        Wire::Veth => format!("10.77.0.{}", index + 1),
        Wire::Loopback => format!("127.0.0.{}", index + 1),
    }
}

struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(root: &Path, out: &Path, row: &Row, index: usize, side: &Side) -> Result<Self> {
        let ip = address(row.wire, index);
        let log = std::fs::File::create(out.join(format!("{}-server-{index}.log", row.name)))?;
        let media = (7_882 + 10 * index).to_string();
        let mut child = Command::new("taskset")
            .args(["-c", side.cpus, "ip", "netns", "exec", SERVER_NS])
            .arg(root.join("target/release/auralink"))
            .args(["serve", "--keys", &format!("{KEY}: {SECRET}"), "--node-ip", &ip, "--bind", &ip])
            .args(["--udp-port", &media])
            .args(side.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start the server")?;
        let deadline = Instant::now() + START_PATIENCE;
        let probe = format!("exec 3<>/dev/tcp/{ip}/7880");
        while run::output(root, "ip", &["netns", "exec", SERVER_NS, "bash", "-c", &probe]).is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("the server ended at start: {status}");
            }
            if Instant::now() > deadline {
                bail!("the server does not listen on {ip}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(Self { child, url: format!("http://{ip}:7880") })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two namespaces and the wire between them; gone when dropped.
struct Namespaces {
    root: PathBuf,
}

impl Namespaces {
    fn new(root: &Path) -> Result<Self> {
        let made = Self { root: root.to_owned() };
        made.remove();
        let ip = |arguments: &str| {
            let words: Vec<&str> = arguments.split_whitespace().collect();
            run::run(root, "ip", &words)
        };
        for name in [SERVER_NS, GENERATOR_NS] {
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        ip(&format!("link add vs netns {SERVER_NS} type veth peer name vg netns {GENERATOR_NS}"))?;
        for own in 1..=2 {
            ip(&format!("-n {SERVER_NS} addr add 10.77.0.{own}/16 dev vs"))?;
        }
        ip(&format!("-n {GENERATOR_NS} addr add 10.77.1.1/16 dev vg"))?;
        ip(&format!("-n {SERVER_NS} link set vs up"))?;
        ip(&format!("-n {GENERATOR_NS} link set vg up"))?;
        let ethtool = ["netns", "exec", SERVER_NS, "ethtool", "-K", "vs", "tx-udp-segmentation", "off"];
        run::output(root, "ip", &ethtool)?;
        Ok(made)
    }

    fn remove(&self) {
        for name in [SERVER_NS, GENERATOR_NS] {
            // What is not there need not be removed.
            let _ = run::output(&self.root, "ip", &["netns", "del", name]);
        }
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.remove();
    }
}
