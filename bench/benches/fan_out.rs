//! One publisher, many subscribers, through the sans-IO core: nanoseconds per forwarded packet, from the datagram that came in
//! to the trains that would go to the kernel. What clients do is outside of the time.
#![allow(missing_docs, reason = "criterion's macro")]

use std::time::{Duration, Instant};

use auralink_bench::room::Media;
use auralink_bench::source::FrameShape;
use auralink_bench::stage::{Setting, Stage, Step};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const SUBSCRIBERS: [usize; 3] = [10, 100, 1_000];
/// As libwebrtc splits a frame that does not divide evenly.
const UNEVEN: FrameShape = FrameShape { shorter: 4, ..FrameShape::QUOTED };

fn frames(stage: &mut Stage, count: u64) -> Duration {
    let forwarded = stage.forwarded();
    let mut spent = Duration::ZERO;
    for _ in 0..count {
        stage.frame(&mut |step, work| {
            let start = Instant::now();
            work();
            if matches!(step, Step::Ingest | Step::Egress) {
                spent += start.elapsed();
            }
        });
    }
    let subscribers = stage.room.clients.len() as u64 - 1;
    let due = count * subscribers * FrameShape::QUOTED.packets as u64;
    assert_eq!(stage.forwarded() - forwarded, due, "dropped: {:?}", stage.drops());
    spent
}

fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("fan_out");
    group.sample_size(10);
    for (name, shape) in [("even", FrameShape::QUOTED), ("uneven", UNEVEN)] {
        for subscribers in SUBSCRIBERS {
            let media = Media::Frames(shape);
            let mut stage = Stage::new(Setting { subscribers, shards: 1, media, opens_media: false });
            stage.connect();
            group.throughput(Throughput::Elements((subscribers * shape.packets) as u64));
            group.bench_function(format!("{name}/{subscribers}"), |b| {
                b.iter_custom(|count| frames(&mut stage, count));
            });
        }
    }
}

criterion_group!(benches, fan_out);
criterion_main!(benches);
