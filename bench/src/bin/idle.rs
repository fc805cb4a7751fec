//! What a population that does nothing costs its shard in one second: `idle TRANSPORTS`.
//!
//! Everyone is connected, could publish and follows somebody who is silent. Under callgrind this is the measured program of
//! `gates idle`; by itself it prints time.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a command-line tool")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use auralink_bench::room::Media;
use auralink_bench::stage::{Setting, Stage};

/// Of virtual time; a multiple of every interval of the shard's timers.
const MEASURED: Duration = Duration::from_secs(2);

/// Callgrind collects while this runs and only then.
#[inline(never)]
fn collected(work: &mut dyn FnMut()) {
    work();
    black_box(());
}

fn main() {
    let transports: usize = match std::env::args().nth(1).map(|argument| argument.parse()) {
        Some(Ok(transports)) if transports > 1 => transports,
        _ => panic!("usage: idle TRANSPORTS"),
    };
    let setting =
        Setting { subscribers: transports - 1, shards: 1, media: Media::Silence, opens_media: false };
    let mut stage = Stage::new(setting);
    stage.connect();
    let mut spent = Duration::ZERO;
    let turns = stage.idle(MEASURED, &mut |_, work| {
        let start = Instant::now();
        collected(work);
        spent += start.elapsed();
    });
    println!(
        "idle transports {transports} virtual_seconds {} turns {turns} microseconds {:.1}",
        MEASURED.as_secs(),
        spent.as_nanos() as f64 / 1_000.0
    );
    let drops: Vec<String> =
        stage.drops().iter().map(|(reason, count)| format!("{reason}={count}")).collect();
    println!("drops {}", if drops.is_empty() { "none".to_owned() } else { drops.join(" ") });
}
