//! What a connected transport costs while nothing happens, in instructions per second, and ten thousand of them in time.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::instructions::{CIPHER, number};
use crate::{baseline, sibling, valgrind};

/// Two populations: what the second costs more is what its transports cost.
const POPULATIONS: [usize; 2] = [100, 300];
/// For the time, which is reported and not held.
const LARGE: usize = 10_000;
const BASELINE: &str = "idle.json";

#[derive(Serialize, Deserialize)]
struct Baseline {
    tolerance_percent: f64,
    /// Of one connected transport that does nothing, the cipher of its reports left out.
    instructions_per_transport_second: f64,
}

pub(crate) fn run(update: bool) -> Result<()> {
    let small = measure(POPULATIONS[0])?;
    let large = measure(POPULATIONS[1])?;
    let each = (large - small) / (POPULATIONS[1] - POPULATIONS[0]) as f64;
    let each = each.max(0.0).round();
    println!("each idle transport: {each} instructions a second");
    in_time()?;
    if update {
        let baseline = Baseline { tolerance_percent: 3.0, instructions_per_transport_second: each };
        return baseline::write(BASELINE, &baseline);
    }
    let baseline: Baseline = baseline::read(BASELINE)?;
    let before = baseline.instructions_per_transport_second;
    let most = before * (1.0 + baseline.tolerance_percent / 100.0);
    println!("baseline {before}, at most {most:.0}");
    if each > most {
        bail!(
            "each idle transport costs {each} instructions a second, {before} before\n{}",
            baseline::how_to_update("idle")
        );
    }
    Ok(())
}

/// Instructions of one second of turns.
fn measure(transports: usize) -> Result<f64> {
    let (printed, parts) = valgrind::collect("idle", &[transports.to_string()])?;
    let line = printed.lines().find(|line| line.starts_with("idle ")).context("idle printed nothing")?;
    let profile = parts.last().context("callgrind wrote no profile")?;
    ensure!(profile.total > 0, "nothing was collected: callgrind does not know the functions' names");
    let seconds = number(line, "virtual_seconds")?;
    let rest = (profile.total - profile.called(&CIPHER)) as f64 / seconds;
    println!("callgrind: {transports} transports, {rest:.0} instructions a second, the cipher left out");
    Ok(rest)
}

/// What ten thousand cost as a share of a core. Sends to the kernel are not in it.
fn in_time() -> Result<()> {
    let output = Command::new(sibling("idle")?).arg(LARGE.to_string()).output()?;
    ensure!(output.status.success(), "idle failed: {}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout)?;
    let line = printed.lines().find(|line| line.starts_with("idle ")).context("idle printed nothing")?;
    let share = number(line, "microseconds")? / number(line, "virtual_seconds")? / 10_000.0;
    println!("{LARGE} transports: {share:.2} % of a core, system calls left out; {}", drops(&printed));
    Ok(())
}

fn drops(printed: &str) -> &str {
    printed.lines().find(|line| line.starts_with("drops ")).unwrap_or("drops unknown")
}
