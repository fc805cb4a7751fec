//! Base against head: two builds of `forward`, run in turn on the same machine, so that whatever disturbs one disturbs both.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::instructions::number;

const STEPS: [&str; 4] = ["Ingest", "Egress", "Feedback", "Timers"];

/// Nanoseconds per packet of the four steps together, by round.
type Rounds = Vec<f64>;

pub(crate) fn run(base: &Path, head: &Path, rounds: usize, subscribers: usize, frames: usize) -> Result<()> {
    ensure!(rounds > 0 && subscribers > 0 && frames > 0, "nothing to measure");
    let (mut of_base, mut of_head, mut ratios) = (Rounds::new(), Rounds::new(), Rounds::new());
    // One run that does not count: the first after a build reads the program from the disk.
    once(base, subscribers, frames)?;
    for round in 0..rounds {
        // Who goes first changes: the second of a pair finds the machine warmer.
        let (b, h) = if round % 2 == 0 {
            let b = once(base, subscribers, frames)?;
            (b, once(head, subscribers, frames)?)
        } else {
            let h = once(head, subscribers, frames)?;
            (once(base, subscribers, frames)?, h)
        };
        println!("round {:>2}: base {b:>7.1}  head {h:>7.1}  head/base {:.3}", round + 1, h / b);
        of_base.push(b);
        of_head.push(h);
        ratios.push(h / b);
    }
    println!("\n{subscribers} subscribers, {frames} frames, {rounds} rounds; ns per forwarded packet");
    println!("{:<10}{:>9}{:>9}{:>9}", "", "min", "median", "max");
    for (name, values) in [("base", &mut of_base), ("head", &mut of_head)] {
        let (min, median, max) = spread(values);
        println!("{name:<10}{min:>9.1}{median:>9.1}{max:>9.1}");
    }
    let (min, median, max) = spread(&mut ratios);
    println!("{:<10}{min:>9.3}{median:>9.3}{max:>9.3}", "head/base");
    Ok(())
}

/// The steps' medians, added up. Feedback and timers do not run in every frame, so their means are taken.
fn once(program: &Path, subscribers: usize, frames: usize) -> Result<f64> {
    let output = Command::new(program)
        .args([subscribers.to_string(), frames.to_string()])
        .output()
        .with_context(|| format!("{} cannot be started", program.display()))?;
    ensure!(
        output.status.success(),
        "{} failed: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let printed = String::from_utf8(output.stdout)?;
    let mut sum = 0.0;
    for step in STEPS {
        let start = format!("step {step} ");
        let line = printed.lines().find(|line| line.starts_with(&start));
        let line = line.with_context(|| format!("{} printed no {step}", program.display()))?;
        let key = if matches!(step, "Ingest" | "Egress") { "median_ns" } else { "mean_ns" };
        sum += number(line, key)?;
    }
    Ok(sum)
}

fn spread(values: &mut [f64]) -> (f64, f64, f64) {
    values.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    (at(0), at(values.len() / 2), at(values.len() - 1))
}
