//! What this process holds, under the names Prometheus' own clients give it, from proc_pid_status(5) and proc_pid_stat(5).

use std::fs;

use super::metric;

/// USER_HZ, fixed by the kernel's interface to user space on every architecture Linux runs on today.
const TICKS_PER_SECOND: f64 = 100.0;

/// Adds the process's gauges to a page of Prometheus text. What cannot be read is left out.
pub(super) fn write(page: &mut String) {
    let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let (status, stat, limits) = (read("status"), read("stat"), read("limits"));
    let mut known = |name: &str, kind: &str, value: Option<f64>| {
        if let Some(value) = value {
            metric(page, name, kind, value);
        }
    };
    known("process_resident_memory_bytes", "gauge", kilobytes(&status, "VmRSS:"));
    known("process_virtual_memory_bytes", "gauge", kilobytes(&status, "VmSize:"));
    known("process_threads", "gauge", number_after(&status, "Threads:"));
    known("process_cpu_seconds_total", "counter", cpu_seconds(&stat));
    known("process_open_fds", "gauge", fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as f64));
    known("process_max_fds", "gauge", number_after(&limits, "Max open files"));
    let tasks = tokio::runtime::Handle::try_current().ok().map(|runtime| runtime.metrics().num_alive_tasks());
    known("auralink_tasks", "gauge", tasks.map(|tasks| tasks as f64));
}

fn number_after(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn kilobytes(status: &str, name: &str) -> Option<f64> {
    number_after(status, name).map(|kb| kb * 1_024.0)
}

/// User and system time. The program's name may hold anything, so counting starts behind its closing parenthesis.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut words = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn every_gauge_is_there() {
        let mut page = String::new();
        super::write(&mut page);
        let value = |name: &str| {
            let line = page.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim().parse::<f64>().ok())
        };
        for name in
            ["process_resident_memory_bytes", "process_open_fds", "process_max_fds", "process_threads"]
        {
            assert!(value(name).is_some_and(|value| value >= 1.0), "{name} in {page}");
        }
        assert!(value("process_cpu_seconds_total").is_some() && value("auralink_tasks").is_some(), "{page}");
    }
}
