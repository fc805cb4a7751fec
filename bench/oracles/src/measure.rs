//! Server after server, round by round; CPU time from the kernel's scheduler, which counts nanoseconds.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum as _;

use crate::Kind;
use crate::load::{self, PATTERNS, Pattern, SOCKETS};

/// Before the load that counts.
const WARM_UP: Duration = Duration::from_millis(300);

/// A server in a process of its own, ended when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(kind: Kind) -> Result<Self> {
        let name = kind.to_possible_value().context("every kind has a name")?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", name.get_name()])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let out = child.stdout.take().context("a pipe was asked for")?;
        BufReader::new(out).read_line(&mut line)?;
        let Ok(port) = line.trim().parse::<u16>() else {
            let status = child.wait()?;
            bail!("{name:?} did not start: {status}");
        };
        Ok(Self { child, address: ([127, 0, 0, 1], port).into() })
    }

    /// CPU time of all its threads, user and system.
    fn cpu(&self) -> Result<Duration> {
        let mut total = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
            total += text.split_whitespace().next().context("schedstat is empty")?.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(total))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Sample {
    ns_per_echo: f64,
    echoed_share: f64,
}

pub fn run(rounds: usize, seconds: u64, kinds: &[Kind]) -> Result<()> {
    let kinds = if kinds.is_empty() { Kind::value_variants() } else { kinds };
    let mut samples: BTreeMap<(Pattern, Kind), Vec<Sample>> = BTreeMap::new();
    for round in 1..=rounds {
        for pattern in PATTERNS {
            for kind in kinds {
                let sample = once(*kind, pattern, Duration::from_secs(seconds))?;
                println!(
                    "round {round} {pattern:?} {kind:?}: {:.0} ns per echo, {:.2} % came back",
                    sample.ns_per_echo,
                    sample.echoed_share * 100.0
                );
                samples.entry((pattern, *kind)).or_default().push(sample);
            }
        }
    }
    println!(
        "\n{SOCKETS} sockets, {rounds} rounds of {seconds} s; CPU of the server in ns per datagram echoed"
    );
    println!("{:<17}{:<13}{:>8}{:>8}{:>8}{:>12}", "pattern", "server", "median", "min", "max", "came back %");
    for ((pattern, kind), mut samples) in samples {
        samples.sort_by(|a, b| a.ns_per_echo.total_cmp(&b.ns_per_echo));
        let median = samples[samples.len() / 2].ns_per_echo;
        let share = samples.iter().map(|sample| sample.echoed_share).fold(1.0, f64::min);
        let (pattern, kind) = (format!("{pattern:?}"), format!("{kind:?}"));
        println!(
            "{pattern:<17}{kind:<13}{median:>8.0}{:>8.0}{:>8.0}{:>12.2}",
            samples[0].ns_per_echo,
            samples[samples.len() - 1].ns_per_echo,
            share * 100.0
        );
    }
    Ok(())
}

fn once(kind: Kind, pattern: Pattern, time: Duration) -> Result<Sample> {
    let server = Server::start(kind)?;
    load::run(pattern, server.address, WARM_UP)?;
    let before = server.cpu()?;
    let outcome = load::run(pattern, server.address, time)?;
    let spent = server.cpu()? - before;
    ensure!(outcome.echoed * 10 > outcome.sent, "{kind:?} echoed {outcome:?}");
    Ok(Sample {
        ns_per_echo: spent.as_nanos() as f64 / outcome.echoed as f64,
        echoed_share: outcome.echoed as f64 / outcome.sent as f64,
    })
}
