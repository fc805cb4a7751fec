//! What a process and the machine cost, from /proc: proc_pid_stat(5), proc_pid_status(5), proc_stat(5), schedstat.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use auralink_ring::client::{monotonic_ns, process_cpu_ns};
use serde::{Deserialize, Serialize};

/// USER_HZ, fixed by the kernel's interface to user space on every architecture Linux runs on today.
const TICKS_PER_SECOND: u64 = 100;

/// One look at a process and the machine it runs on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) at_ns: u64,
    /// All threads, also ended ones, to the nanosecond.
    pub(crate) cpu_ns: u64,
    user_ticks: u64,
    system_ticks: u64,
    threads: BTreeMap<u32, Thread>,
    voluntary: u64,
    involuntary: u64,
    pub(crate) rss_bytes: u64,
    pub(crate) fds: usize,
    machine: Machine,
}

#[derive(Clone, Debug, Default)]
struct Thread {
    name: String,
    /// On a processor.
    ran_ns: u64,
    /// Able to run and waiting for a processor.
    waited_ns: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Machine {
    softirq_ticks: u64,
    total_ticks: u64,
    idle_ticks: u64,
    stolen_ticks: u64,
}

/// The difference between two looks.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) seconds: f64,
    /// User and system time of all threads.
    pub(crate) cpu_seconds: f64,
    /// The same as a share of one core.
    pub(crate) core_share: f64,
    pub(crate) user_share: f64,
    pub(crate) system_share: f64,
    /// Threads' own sum, which leaves out those that ended meanwhile.
    pub(crate) schedstat_seconds: f64,
    /// Share of the time in which one of its threads could run and did not get a core.
    pub(crate) waited_share: f64,
    pub(crate) threads: usize,
    /// Shares of a core by thread name, those of one name together.
    pub(crate) thread_shares: BTreeMap<String, f64>,
    pub(crate) fds: usize,
    pub(crate) voluntary_switches: u64,
    pub(crate) involuntary_switches: u64,
    pub(crate) rss_bytes: u64,
    /// Of all cores together.
    pub(crate) machine_softirq_share: f64,
    pub(crate) machine_busy_share: f64,
    pub(crate) machine_stolen_share: f64,
}

impl Snapshot {
    /// # Errors
    /// When there is no such process, or it may not be looked at.
    pub(crate) fn take(pid: u32) -> Result<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let read = |name: &str| {
            std::fs::read_to_string(folder.join(name)).with_context(|| format!("no process {pid}?"))
        };
        let (user_ticks, system_ticks) = parse_stat(&read("stat")?).context("unreadable /proc/PID/stat")?;
        let mut snapshot = Self {
            at_ns: monotonic_ns(),
            cpu_ns: process_cpu_ns(pid).with_context(|| format!("no clock of process {pid}"))?,
            user_ticks,
            system_ticks,
            rss_bytes: field(&read("status")?, "VmRSS:").unwrap_or_default() * 1_024,
            fds: std::fs::read_dir(folder.join("fd")).map(Iterator::count).unwrap_or_default(),
            machine: parse_machine(&std::fs::read_to_string("/proc/stat")?)
                .context("unreadable /proc/stat")?,
            ..Self::default()
        };
        for thread in std::fs::read_dir(folder.join("task"))?.flatten() {
            let Some(id) = thread.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A thread may end while we look.
            let Ok(status) = std::fs::read_to_string(thread.path().join("status")) else { continue };
            snapshot.voluntary += field(&status, "voluntary_ctxt_switches:").unwrap_or_default();
            snapshot.involuntary += field(&status, "nonvoluntary_ctxt_switches:").unwrap_or_default();
            let read = |name: &str| std::fs::read_to_string(thread.path().join(name)).unwrap_or_default();
            let (ran_ns, waited_ns) = parse_schedstat(&read("schedstat")).unwrap_or_default();
            let name = read("comm").trim().to_owned();
            snapshot.threads.insert(id, Thread { name, ran_ns, waited_ns });
        }
        Ok(snapshot)
    }

    /// What was used since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Usage {
        let seconds = (self.at_ns - earlier.at_ns).max(1) as f64 / 1e9;
        let cpu_seconds = (self.cpu_ns - earlier.cpu_ns) as f64 / 1e9;
        let ticks = |now: u64, then: u64| now.saturating_sub(then) as f64 / TICKS_PER_SECOND as f64 / seconds;
        let (mut ran_ns, mut waited_ns) = (0, 0);
        let mut thread_shares = BTreeMap::new();
        for (id, thread) in &self.threads {
            let before = earlier.threads.get(id).map_or((0, 0), |before| (before.ran_ns, before.waited_ns));
            let ran = thread.ran_ns.saturating_sub(before.0);
            ran_ns += ran;
            waited_ns += thread.waited_ns.saturating_sub(before.1);
            *thread_shares.entry(thread.name.clone()).or_default() += ran as f64 / 1e9 / seconds;
        }
        let machine_ticks = (self.machine.total_ticks - earlier.machine.total_ticks).max(1) as f64;
        let of_machine = |now: u64, then: u64| now.saturating_sub(then) as f64 / machine_ticks;
        Usage {
            seconds,
            cpu_seconds,
            core_share: cpu_seconds / seconds,
            user_share: ticks(self.user_ticks, earlier.user_ticks),
            system_share: ticks(self.system_ticks, earlier.system_ticks),
            schedstat_seconds: ran_ns as f64 / 1e9,
            waited_share: waited_ns as f64 / 1e9 / seconds,
            threads: self.threads.len(),
            thread_shares,
            fds: self.fds,
            voluntary_switches: self.voluntary.saturating_sub(earlier.voluntary),
            involuntary_switches: self.involuntary.saturating_sub(earlier.involuntary),
            rss_bytes: self.rss_bytes,
            machine_softirq_share: of_machine(self.machine.softirq_ticks, earlier.machine.softirq_ticks),
            machine_busy_share: 1.0 - of_machine(self.machine.idle_ticks, earlier.machine.idle_ticks),
            machine_stolen_share: of_machine(self.machine.stolen_ticks, earlier.machine.stolen_ticks),
        }
    }
}

/// User and system ticks. The program's name may hold anything, so counting starts behind its closing parenthesis.
fn parse_stat(text: &str) -> Option<(u64, u64)> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut words = rest.split_whitespace().skip(11);
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// Nanoseconds on a processor, and waiting for one.
fn parse_schedstat(text: &str) -> Option<(u64, u64)> {
    let mut words = text.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The line of all processors: user nice system idle iowait irq softirq steal.
fn parse_machine(text: &str) -> Option<Machine> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let words: Option<Vec<u64>> = line.split_whitespace().take(8).map(|word| word.parse().ok()).collect();
    let words = words?;
    let [_, _, _, idle, iowait, _, softirq, stolen] = *words.as_slice() else { return None };
    Some(Machine {
        softirq_ticks: softirq,
        total_ticks: words.iter().sum(),
        idle_ticks: idle + iowait,
        stolen_ticks: stolen,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_the_name_whatever_it_is() {
        let text = "42 (a) b) c) S 1 42 42 0 -1 4194560 1 2 3 4 170 31 0 0 20 0 9 0 100 1 1";
        assert_eq!(parse_stat(text), Some((170, 31)));
        assert_eq!(parse_stat("42 (a) S 1"), None);
    }

    #[test]
    fn schedstat_status_and_machine_are_read() {
        assert_eq!(parse_schedstat("1234 56 7\n"), Some((1234, 56)));
        assert_eq!(parse_schedstat("1234"), None);
        let status =
            "Name:\tx\nVmRSS:\t  5120 kB\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t3\n";
        assert_eq!(field(status, "VmRSS:"), Some(5_120));
        assert_eq!(field(status, "voluntary_ctxt_switches:"), Some(7));
        assert_eq!(field(status, "nonvoluntary_ctxt_switches:"), Some(3));
        let machine = parse_machine("cpu  10 1 5 100 4 0 6 2 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n");
        let expected = Machine { softirq_ticks: 6, total_ticks: 128, idle_ticks: 104, stolen_ticks: 2 };
        assert_eq!(machine, Some(expected));
    }

    #[test]
    fn our_own_work_is_seen() {
        let before = Snapshot::take(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while monotonic_ns() < before.at_ns + 50_000_000 {
            sum = sum.wrapping_add(monotonic_ns());
        }
        std::hint::black_box(sum);
        let usage = Snapshot::take(std::process::id()).unwrap().since(&before);
        assert!(usage.cpu_seconds > 0.01 && usage.seconds >= 0.05, "{usage:?}");
        assert!(usage.rss_bytes > 1 << 20 && usage.threads >= 1 && usage.fds > 2, "{usage:?}");
        assert!(Snapshot::take(u32::MAX >> 4).is_err());
    }
}
