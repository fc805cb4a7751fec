//! Rooms that must pass, and planted faults that must be found.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use auralink_sim::link::Quality;
use auralink_sim::scenario::{Plant, Scenario};
use auralink_sim::world::run;

#[track_caller]
fn passes(scenario: Scenario) -> auralink_sim::world::Outcome {
    let seed = scenario.seed;
    let outcome = run(scenario);
    assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
    outcome
}

#[test]
fn the_first_seeds_break_no_invariant() {
    // In the first of all, one of two leaves after three seconds and nobody comes.
    for seed in 2..=13 {
        let mut scenario = Scenario::from_seed(seed);
        scenario.duration = Duration::from_secs(20);
        let outcome = passes(scenario);
        assert!(outcome.media_received > 500, "seed {seed} moved {} packets", outcome.media_received);
    }
}

#[test]
fn one_seed_is_one_run() {
    let scenario = || Scenario { duration: Duration::from_secs(15), ..Scenario::from_seed(16) };
    assert_eq!(run(scenario()), run(scenario()));
}

#[test]
fn one_shard_and_several_agree() {
    let alone = passes(Scenario::calm(7, 1));
    for shards in [2, 3] {
        let spread = passes(Scenario::calm(7, shards));
        assert!(spread.lane_packets > 1_000, "lanes carried {}", spread.lane_packets);
        for (who, packets) in &alone.audio {
            // Joins differ by the few milliseconds a lane's demand takes; after that every packet arrives.
            let difference = packets.abs_diff(spread.audio[who]);
            assert!(difference <= 2, "{who:?}: {packets} alone, {} over {shards} shards", spread.audio[who]);
        }
    }
}

#[test]
fn nothing_is_lost_on_a_perfect_link() {
    let outcome = passes(Scenario::calm(3, 1));
    assert_eq!(outcome.lost, 0);
    assert_eq!(outcome.media_sent, outcome.media_received, "what was sent arrived once");
}

fn planted(plant: Plant, quality: Quality) -> Vec<String> {
    run(Scenario { plant, quality, duration: Duration::from_secs(40), ..Scenario::calm(5, 2) }).violations
}

#[test]
fn a_planted_nonce_reuse_is_found() {
    let violations = planted(Plant::NonceReuse, Quality::PERFECT);
    assert!(violations.iter().any(|text| text.contains("nonce reuse")), "{violations:#?}");
}

#[test]
fn a_planted_sequence_gap_is_found() {
    let violations = planted(Plant::SequenceGap, Quality::PERFECT);
    assert!(violations.iter().any(|text| text.contains("gap without loss")), "{violations:#?}");
}

#[test]
fn a_planted_lost_keyframe_request_is_found() {
    let violations = planted(Plant::LostKeyframeRequest, Quality { loss_permille: 100, ..Quality::PERFECT });
    assert!(violations.iter().any(|text| text.contains("keyframe request was lost")), "{violations:#?}");
}
