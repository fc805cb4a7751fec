//! Forwards frames through the sans-IO core and says what each part of it cost: `forward SUBSCRIBERS FRAMES`.
//!
//! By itself it prints nanoseconds per packet. Under callgrind it is the measured program of `gates instructions`: the same
//! frames are forwarded once for each [`Step`], with only that step run inside of [`collected`], and [`next_part`] between.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a command-line tool")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use auralink_bench::room::Media;
use auralink_bench::source::FrameShape;
use auralink_bench::stage::{Setting, Stage, Step};

/// The steps told apart, in the order of their parts.
const STEPS: [Step; 4] = [Step::Ingest, Step::Egress, Step::Feedback, Step::Timers];

/// Callgrind collects while this runs and only then.
#[inline(never)]
fn collected(work: &mut dyn FnMut()) {
    work();
    black_box(());
}

/// Callgrind writes a dump when this is entered.
#[inline(never)]
fn next_part() {
    black_box(());
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let (Some(Ok(subscribers)), Some(Ok(frames))) = (arguments.next(), arguments.next()) else {
        panic!("usage: forward SUBSCRIBERS FRAMES");
    };
    let media = Media::Frames(FrameShape::QUOTED);
    let mut stage = Stage::new(Setting { subscribers, shards: 1, media, opens_media: false });
    stage.connect();
    println!("subscribers {subscribers} frames {frames}");
    for step in STEPS {
        part(&mut stage, step, subscribers, frames);
    }
    next_part();
    let drops: Vec<String> =
        stage.drops().iter().map(|(reason, count)| format!("{reason}={count}")).collect();
    println!("drops {}", if drops.is_empty() { "none".to_owned() } else { drops.join(" ") });
}

/// Forwards `frames` frames, looking at one step of each.
fn part(stage: &mut Stage, step: Step, subscribers: usize, frames: usize) {
    let (forwarded, received) = (stage.forwarded(), stage.received());
    let mut of_frames = Vec::with_capacity(frames);
    next_part();
    for _ in 0..frames {
        let mut spent = Duration::ZERO;
        stage.frame(&mut |now, work| {
            if now == step {
                let start = Instant::now();
                collected(work);
                spent += start.elapsed();
            } else {
                work();
            }
        });
        of_frames.push(spent);
    }
    let (forwarded, received) = (stage.forwarded() - forwarded, stage.received() - received);
    assert_eq!(forwarded, received * subscribers as u64, "not everything was sent: {:?}", stage.drops());
    // The median frame: one during which the machine did something else does not count, nor one without feedback.
    of_frames.sort_unstable();
    let packets_per_frame = forwarded as f64 / frames as f64;
    let median = of_frames[frames / 2].as_nanos() as f64 / packets_per_frame;
    let mean = of_frames.iter().sum::<Duration>().as_nanos() as f64 / forwarded as f64;
    println!(
        "step {step:?} forwarded {forwarded} received {received} median_ns {median:.1} mean_ns {mean:.1}"
    );
}
