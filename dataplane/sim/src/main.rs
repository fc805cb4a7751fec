//! `replay SEED` prints one run; `sweep FIRST COUNT` runs many and ends with status 1 if any breaks an invariant.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command-line tool talks to its user")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use auralink_sim::scenario::Scenario;
use auralink_sim::world::{Outcome, run};

fn replay(seed: u64) -> bool {
    let scenario = Scenario::from_seed(seed);
    println!("{scenario:#?}");
    let outcome = run(scenario);
    println!("{outcome:#?}");
    outcome.violations.is_empty()
}

fn sweep(first: u64, count: u64) -> bool {
    let next = AtomicU64::new(first);
    let work = || {
        let mut sum = Outcome::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return sum;
            }
            let outcome = run(Scenario::from_seed(seed));
            sum.media_sent += outcome.media_sent;
            sum.media_received += outcome.media_received;
            sum.switches += outcome.switches;
            sum.joins += outcome.joins;
            sum.lost += outcome.lost;
            sum.lane_packets += outcome.lane_packets;
            sum.violations.extend(outcome.violations.iter().map(|text| format!("seed {seed}: {text}")));
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let sums: Vec<Outcome> = thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let total = |field: fn(&Outcome) -> u64| sums.iter().map(field).sum::<u64>();
    let violations: Vec<&String> = sums.iter().flat_map(|sum| &sum.violations).collect();
    println!(
        "{count} room-minutes: {} packets sent, {} received, {} lost on links, {} over lanes, {} switches, {} joins",
        total(|o| o.media_sent),
        total(|o| o.media_received),
        total(|o| o.lost),
        total(|o| o.lane_packets),
        total(|o| o.switches),
        total(|o| o.joins)
    );
    violations.iter().take(40).for_each(|violation| println!("{violation}"));
    println!("{} violations", violations.len());
    violations.is_empty() && sums.len() == workers
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok());
    let passed = match (arguments.first().map(String::as_str), number(1), number(2)) {
        (Some("replay"), Some(seed), None) => replay(seed),
        (Some("sweep"), Some(first), Some(count)) => sweep(first, count),
        _ => {
            println!("usage: auralink-sim replay SEED | sweep FIRST COUNT");
            false
        }
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
