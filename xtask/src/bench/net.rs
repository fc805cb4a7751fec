//! Servers under test, and the wire between them and the generator.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Bench, Side, Wire};
use crate::run;

pub(super) const KEY: &str = "benchkey";
pub(super) const SECRET: &str = "a-secret-of-the-benchmark-only-0123456789";
/// Namespaces of the server and of the generator.
pub(super) const SERVER_NS: &str = "auralink-bench-s";
pub(super) const GENERATOR_NS: &str = "auralink-bench-g";
const START_PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn address(wire: Wire, index: usize) -> String {
    match wire {
        Wire::Veth => format!("10.77.0.{}", index + 1),
        Wire::Loopback => format!("127.0.0.{}", index + 1),
    }
}

pub(super) struct Server {
    child: Child,
    pub(super) url: String,
}

impl Server {
    pub(super) fn start(bench: &Bench<'_>, index: usize, side: &Side) -> Result<Self> {
        let Bench { root, out, row, .. } = bench;
        let ip = address(row.wire, index);
        let log = std::fs::File::create(out.join(format!("{}-server-{index}.log", row.name)))?;
        let media = (7_882 + 10 * index).to_string();
        let mut child = Command::new("taskset")
            .args(["-c", side.cpus, "ip", "netns", "exec", SERVER_NS])
            .arg(root.join("target/release/auralink"))
            .args(["serve", "--keys", &format!("{KEY}: {SECRET}"), "--node-ip", &ip, "--bind", &ip])
            .args(["--udp-port", &media, "--tcp-port", "0"])
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

    pub(super) fn pid(&self) -> String {
        self.child.id().to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two namespaces and the wire between them; gone when dropped.
pub(super) struct Namespaces {
    root: PathBuf,
}

impl Namespaces {
    pub(super) fn new(root: &Path) -> Result<Self> {
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
