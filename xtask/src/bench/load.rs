//! How much load a row means on this machine.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use super::net::Server;
use super::{Bench, Rooms, finish};

/// Rooms measured first; the second measurement has as many as the first asks for, since more load costs less each.
const ROOMS_FIRST: u32 = 3;
const SECONDS: &str = "3";
/// A shared machine can keep the generator from its work for a moment; that says nothing of the server.
const ATTEMPTS: u32 = 4;

/// Rooms of the row, found out on the first server where the row says a load.
pub(super) fn rooms(bench: &Bench<'_>, servers: &[Server]) -> Result<u32> {
    let percent = match bench.row.rooms {
        Rooms::Exactly(rooms) => return Ok(rooms),
        Rooms::Load(percent) | Rooms::LoadOnHalf(percent) => f64::from(percent),
    };
    let Some(server) = servers.first() else { bail!("a row without a server") };
    let mut rooms = ROOMS_FIRST;
    for _ in 0..2 {
        let share = 100.0 * share(bench, server, rooms)?;
        println!("{rooms} rooms are {share:.1} % of a core");
        if share <= 0.0 {
            bail!("the server did nothing");
        }
        rooms = ((f64::from(rooms) * percent / share).round() as u32).max(1);
    }
    println!("{rooms} rooms for {percent} % of a core");
    Ok(rooms)
}

/// Share of a core that so many rooms take of a server.
fn share(bench: &Bench<'_>, server: &Server, rooms: u32) -> Result<f64> {
    let json = bench.json("-calibration");
    let mut measured = Ok(());
    for _ in 0..ATTEMPTS {
        let mut command = bench.generator("run", rooms);
        command.args(["--url", &server.url, "--server-pid", &server.pid(), "--seconds", SECONDS]);
        measured = finish(command.arg("--json").arg(&json).stdout(Stdio::null()));
        if measured.is_ok() {
            break;
        }
    }
    measured?;
    let text = std::fs::read_to_string(&json)?;
    let points: serde_json::Value = serde_json::from_str(&text)?;
    points
        .pointer("/0/server/core_share")
        .and_then(serde_json::Value::as_f64)
        .context("the generator says nothing of the server's share of a core")
}

/// Servers held to half of a CPU by the kernel, in slices short enough to look like a slower one.
pub(super) struct Half(PathBuf);

const PERIOD_US: u32 = 5_000;

impl Half {
    pub(super) fn hold(servers: &[Server]) -> Result<Self> {
        // The older hierarchy has a folder for each controller.
        let older = Path::new("/sys/fs/cgroup/cpu");
        let root = if older.is_dir() { older } else { Path::new("/sys/fs/cgroup") };
        let group = root.join("auralink-bench");
        std::fs::create_dir_all(&group).with_context(|| format!("cannot create {}", group.display()))?;
        let held = Self(group);
        let write = |file: &str, value: String| {
            let path = held.0.join(file);
            std::fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))
        };
        if older.is_dir() {
            write("cpu.cfs_period_us", PERIOD_US.to_string())?;
            write("cpu.cfs_quota_us", (PERIOD_US / 2).to_string())?;
        } else {
            std::fs::write(root.join("cgroup.subtree_control"), "+cpu").context("no cpu controller")?;
            write("cpu.max", format!("{} {PERIOD_US}", PERIOD_US / 2))?;
        }
        for server in servers {
            write("cgroup.procs", server.pid())?;
        }
        Ok(held)
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        // It can be removed once the servers are gone; an empty group costs nothing.
        let _ = std::fs::remove_dir(&self.0);
    }
}
