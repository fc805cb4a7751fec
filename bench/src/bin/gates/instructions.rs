//! Instructions per packet, counted by callgrind over the program `forward`.
//!
//! The cipher is left out by subtracting what the two functions of the crypto library through which every packet is sealed
//! and opened cost with all they call: the product runs as it is, with its real cipher, and what depends on the instruction
//! set of the machine (or of the one valgrind plays) is not in the number.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use auralink_bench::callgrind::Profile;
use serde::{Deserialize, Serialize};

use crate::{baseline, valgrind};

/// Subscribers of the rooms measured.
const ROOMS: [usize; 2] = [50, 200];
/// One second: each subscriber is sent one report in it.
const FRAMES: usize = 25;
/// Names of the parts, in the order in which `forward` runs them.
const STEPS: [&str; 4] = ["ingest", "egress", "feedback", "timers"];
/// Steps of which each packet passes the cipher.
const SEALED_STEPS: [&str; 2] = ["ingest", "egress"];
pub(crate) const CIPHER: [&str; 2] = ["EVP_AEAD_CTX_seal_scatter", "EVP_AEAD_CTX_open_gather"];
/// Less than this for a packet of 1.1 kB is not the cipher.
const CIPHER_INSTRUCTIONS_MIN: f64 = 500.0;
/// How much more one packet may cost in the larger room than in the smaller one.
const GROWTH_MAX: f64 = 1.05;
const BASELINE: &str = "instructions.json";
/// The C library picks its copying functions by the processor, which moves the numbers a little from machine to machine.
const TOLERANCE_PERCENT: f64 = 6.0;

#[derive(Serialize, Deserialize)]
struct Baseline {
    /// How much worse a step may be before the gate closes.
    tolerance_percent: f64,
    /// By subscribers, then by step; of ingest per packet received, of the others per packet forwarded.
    rooms: BTreeMap<usize, BTreeMap<String, f64>>,
}

pub(crate) fn run(update: bool) -> Result<()> {
    let mut rooms = BTreeMap::new();
    for subscribers in ROOMS {
        rooms.insert(subscribers, measure(subscribers)?);
    }
    if update {
        return baseline::write(BASELINE, &Baseline { tolerance_percent: TOLERANCE_PERCENT, rooms });
    }
    let baseline: Baseline = baseline::read(BASELINE)?;
    let mut faults = compare(&baseline, &rooms);
    faults.extend(growth(&rooms));
    if !faults.is_empty() {
        bail!("{}\n{}", faults.join("\n"), baseline::how_to_update("instructions"));
    }
    println!("instructions per packet are within {} % of the baseline", baseline.tolerance_percent);
    Ok(())
}

fn compare(baseline: &Baseline, rooms: &BTreeMap<usize, BTreeMap<String, f64>>) -> Vec<String> {
    let mut faults = Vec::new();
    println!("{:>11}  {:<9}{:>9}{:>10}{:>9}", "subscribers", "step", "baseline", "measured", "change");
    for (subscribers, steps) in rooms {
        for (step, measured) in steps {
            let Some(before) = baseline.rooms.get(subscribers).and_then(|steps| steps.get(step)) else {
                faults.push(format!("the baseline lacks {step} with {subscribers} subscribers"));
                continue;
            };
            let change = (measured / before - 1.0) * 100.0;
            println!("{subscribers:>11}  {step:<9}{before:>9.1}{measured:>10.1}{change:>+8.1}%");
            // A step of a handful of instructions moves by a whole percent when a hash differs.
            if change > baseline.tolerance_percent && measured - before > 2.0 {
                faults.push(format!(
                    "{step} with {subscribers} subscribers: {measured:.1} instructions per packet, {before:.1} before ({change:+.1} %)"
                ));
            }
            if change < -baseline.tolerance_percent {
                println!("{:>13}better than the baseline: --update keeps it so", "");
            }
        }
    }
    faults
}

/// Sending one packet must not cost more because others are sent it too.
fn growth(rooms: &BTreeMap<usize, BTreeMap<String, f64>>) -> Option<String> {
    let [small, large] = ROOMS.map(|room| rooms.get(&room).and_then(|steps| steps.get("egress")));
    let ratio = large? / small?;
    println!("egress, {} to {} subscribers: x {ratio:.3}, at most {GROWTH_MAX}", ROOMS[0], ROOMS[1]);
    (ratio > GROWTH_MAX).then(|| {
        format!(
            "sending a packet costs {ratio:.3} times as much with {} subscribers as with {}",
            ROOMS[1], ROOMS[0]
        )
    })
}

/// Instructions by step, the cipher left out.
fn measure(subscribers: usize) -> Result<BTreeMap<String, f64>> {
    println!("callgrind: {subscribers} subscribers, {FRAMES} frames");
    let arguments = [subscribers.to_string(), FRAMES.to_string()];
    let (printed, parts) = valgrind::collect("forward", &arguments)?;
    let lines: Vec<&str> = printed.lines().filter(|line| line.starts_with("step ")).collect();
    // The first part is of everything before the first step.
    ensure!(
        lines.len() == STEPS.len() && parts.len() > STEPS.len(),
        "forward did something else:\n{printed}"
    );
    let mut steps = BTreeMap::new();
    for ((step, line), profile) in STEPS.into_iter().zip(lines).zip(&parts[1..]) {
        let rest = without_cipher(step, line, profile)?;
        steps.insert(step.to_owned(), (rest * 10.0).round() / 10.0);
    }
    Ok(steps)
}

fn without_cipher(step: &str, line: &str, profile: &Profile) -> Result<f64> {
    ensure!(
        profile.total > 0,
        "nothing was collected of {step}: callgrind does not know the functions' names"
    );
    let packets = number(line, if step == "ingest" { "received" } else { "forwarded" })?;
    let cipher = profile.called(&CIPHER) as f64 / packets;
    let rest = profile.total as f64 / packets - cipher;
    ensure!(
        !SEALED_STEPS.contains(&step) || cipher > CIPHER_INSTRUCTIONS_MIN,
        "{step}: only {cipher:.0} instructions per packet in {CIPHER:?}: the crypto library names its functions otherwise"
    );
    println!("  {step:<9}{rest:>9.1} instructions per packet, and {cipher:.1} of the cipher");
    Ok(rest)
}

/// The number behind `key` in a line of keys and values.
pub(crate) fn number(line: &str, key: &str) -> Result<f64> {
    let mut words = line.split_whitespace();
    words.find(|word| *word == key).with_context(|| format!("no {key} in '{line}'"))?;
    words.next().context("a key without a value")?.parse().context("not a number")
}
