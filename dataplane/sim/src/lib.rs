//! Whole rooms in virtual time over the real `rtc` and `sfu`: one seed, one run.
//!
//! A run places simulated clients behind bad links, lets them join, leave, mute and change their wishes at random, and holds
//! what crossed the wire against the invariants in [`check`].
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a simulator stops at its own mistakes")]

pub mod check;
pub mod client;
pub mod control;
pub mod link;
pub mod media;
pub mod numbers;
pub mod publish;
pub mod receive;
pub mod rng;
pub mod scenario;
pub mod world;
