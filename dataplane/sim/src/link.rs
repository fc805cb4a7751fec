//! The network: every client has a link to the node that delays, loses, reorders and duplicates, each way.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::rng::Rng;

/// How bad a link is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quality {
    pub delay_ms: u64,
    /// Added at random; more than the distance between packets reorders them.
    pub jitter_ms: u64,
    pub loss_permille: u64,
    pub duplicate_permille: u64,
}

impl Quality {
    pub const PERFECT: Self = Self { delay_ms: 10, jitter_ms: 0, loss_permille: 0, duplicate_permille: 0 };
}

/// A datagram under way.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct InFlight {
    pub at: Instant,
    order: u64,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

/// What became of a datagram given to the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Delivered,
    Lost,
}

#[derive(Default)]
pub struct Network {
    queue: BinaryHeap<Reverse<InFlight>>,
    order: u64,
}

impl Network {
    pub fn send(
        &mut self,
        now: Instant,
        quality: Quality,
        rng: &mut Rng,
        from: SocketAddr,
        to: SocketAddr,
        bytes: &[u8],
    ) -> Fate {
        if rng.chance(quality.loss_permille) {
            return Fate::Lost;
        }
        let copies = if rng.chance(quality.duplicate_permille) { 2 } else { 1 };
        for _ in 0..copies {
            let delay_us = quality.delay_ms * 1_000 + rng.below(quality.jitter_ms * 1_000 + 1);
            self.order += 1;
            let at = now + Duration::from_micros(delay_us);
            self.queue.push(Reverse(InFlight { at, order: self.order, from, to, bytes: bytes.to_vec() }));
        }
        Fate::Delivered
    }

    pub fn next_arrival(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse(next)| next.at)
    }

    pub fn poll(&mut self, now: Instant) -> Option<InFlight> {
        if self.next_arrival()? > now {
            return None;
        }
        self.queue.pop().map(|Reverse(next)| next)
    }
}
