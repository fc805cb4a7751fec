//! Randomness of the process, where none is passed in.

use crate::negotiator::Random;

/// The operating system's randomness, through a generator of each thread's own.
#[derive(Clone, Copy, Debug)]
pub struct Chance;

impl Random for Chance {
    fn bits(&mut self) -> u32 {
        rand::random()
    }

    fn word(&mut self, len: usize) -> String {
        use rand::RngExt as _;
        rand::rng().sample_iter(rand::distr::Alphanumeric).take(len).map(char::from).collect()
    }
}
