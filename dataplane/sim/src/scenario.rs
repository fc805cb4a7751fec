//! What happens in a run: drawn from its seed, or fixed for a test.

use std::time::Duration;

use auralink_proto::Codec;

use crate::link::Quality;
use crate::numbers::Numbers;
use crate::rng::Rng;

/// A fault put in on purpose, to see that the checks find it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plant {
    None,
    /// A sealed packet goes out twice with different bytes under one index.
    NonceReuse,
    /// A packet the node sent vanishes without the network having lost it.
    SequenceGap,
    /// Publishers do not hear keyframe requests.
    LostKeyframeRequest,
}

/// What clients send and can receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Codecs {
    /// Opus and VP8, under the same numbers for everyone.
    Plain,
    /// Everybody receives nearly everything and sends something else, under numbers of its own.
    Mixed,
    /// The same, but everyone sends this video codec.
    Only(Codec),
}

impl Codecs {
    pub fn numbers(self, client: u16) -> Numbers {
        match self {
            Self::Plain => Numbers::plain(),
            Self::Mixed => Numbers::mixed(client),
            Self::Only(codec) => Numbers::mixed(client).sending_video(codec),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub shards: usize,
    /// One port for all shards: datagrams arrive at any of them.
    pub single_port: bool,
    pub seats: usize,
    pub quality: Quality,
    pub duration: Duration,
    /// People come and go, mute, and change what they want.
    pub restless: bool,
    pub codecs: Codecs,
    pub plant: Plant,
}

impl Scenario {
    /// One minute of one room, drawn from `seed`.
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        Self {
            seed,
            shards: rng.pick(&[1, 1, 2, 3]),
            single_port: rng.chance(500),
            seats: 2 + rng.below(3) as usize,
            quality: Quality {
                delay_ms: rng.pick(&[1, 10, 40, 80]),
                jitter_ms: rng.pick(&[0, 2, 10, 30]),
                loss_permille: rng.pick(&[0, 10, 50, 100, 200]),
                duplicate_permille: rng.pick(&[0, 5, 20]),
            },
            duration: Duration::from_secs(60),
            restless: rng.chance(800),
            plant: Plant::None,
            codecs: if rng.chance(500) { Codecs::Mixed } else { Codecs::Plain },
        }
    }

    /// Everyone stays and nothing is lost.
    pub fn calm(seed: u64, shards: usize) -> Self {
        Self {
            seed,
            shards,
            single_port: false,
            seats: 3,
            quality: Quality::PERFECT,
            duration: Duration::from_secs(20),
            restless: false,
            codecs: Codecs::Plain,
            plant: Plant::None,
        }
    }
}
