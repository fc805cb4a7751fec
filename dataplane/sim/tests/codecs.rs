//! Rooms in which everyone sends another codec and no two clients agree on a payload type.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use auralink_proto::Codec;
use auralink_sim::numbers::VIDEO;
use auralink_sim::scenario::{Codecs, Scenario};
use auralink_sim::world::{Outcome, run};

#[track_caller]
fn passes(scenario: Scenario) -> Outcome {
    let seed = scenario.seed;
    let outcome = run(scenario);
    assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
    assert_eq!(outcome.drops.get("codec_unsupported"), None, "seed {seed}");
    outcome
}

#[test]
fn mixed_rooms_break_no_invariant() {
    for seed in 20..=27 {
        let scenario = Scenario::from_seed(seed);
        let duration = Duration::from_secs(20);
        let outcome = passes(Scenario { codecs: Codecs::Mixed, duration, ..scenario });
        assert!(outcome.media_received > 300, "seed {seed} moved {} packets", outcome.media_received);
    }
}

#[test]
fn redundant_audio_reaches_those_who_know_it_and_those_who_do_not() {
    for shards in [1, 2] {
        let outcome = passes(Scenario { codecs: Codecs::Mixed, ..Scenario::calm(7, shards) });
        // Client 0 sends it, under another number than client 1 knows it by; client 2 knows only what is inside.
        for receiver in [1, 2] {
            let received = outcome.audio[&(receiver, 0)];
            assert!(received > 400, "client {receiver} received {received} packets over {shards} shards");
        }
    }
}

/// A room of one video codec in which viewers keep changing their minds about layers.
fn switches(codec: Codec, shards: usize) -> u64 {
    let scenario = Scenario {
        codecs: Codecs::Only(codec),
        duration: Duration::from_secs(30),
        restless: true,
        ..Scenario::calm(31, shards)
    };
    passes(scenario).switches
}

#[test]
fn every_codec_switches_simulcast_layers_at_key_frames_without_a_seam() {
    // Sequence numbers, media time, picture identifiers and frame numbers are what the run checks.
    for codec in VIDEO {
        for shards in [1, 2] {
            let switches = switches(codec, shards);
            assert!(switches > 5, "{codec:?} switched {switches} times over {shards} shards");
        }
    }
}
