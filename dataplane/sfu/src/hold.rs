//! Waiting for the rest of a frame, where that saves more than it costs.
//!
//! A browser's pacer spreads the packets of a frame over about a millisecond. Sent on one by one to many subscribers each
//! costs a send of its own; together they are one train. So a track with many followers waits for the marker, but not long,
//! and not at all once waiting has been in vain for a while.

use std::time::{Duration, Instant};

/// Packets that wait at most.
const PACKETS_MAX: usize = 128;
/// Waits in vain before a track stops waiting.
const VAIN_MAX: u8 = 4;
/// Packets after which it tries again.
const RETRY_AFTER: u8 = 64;

/// When a track waits, and how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HoldConfig {
    /// Longest wait from the first packet that waits.
    pub wait: Duration,
    /// With fewer followers a send of its own is cheap and latency is worth more.
    pub followers_min: usize,
}

impl Default for HoldConfig {
    fn default() -> Self {
        Self { wait: Duration::from_millis(1), followers_min: 16 }
    }
}

/// What to do with what is pending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    Release,
    /// A wait begins; it ends then at the latest.
    WaitUntil(Instant),
    /// A wait goes on.
    Wait,
}

/// One track's waiting.
#[derive(Clone, Copy, Default, Debug)]
pub struct Hold {
    until: Option<Instant>,
    /// A bit for each layer in the middle of a frame.
    open_layers: u8,
    vain: u8,
    passed: u8,
}

impl Hold {
    /// A packet of `layer` became pending, now one of `pending`. `marker`: it is the last of its frame.
    pub fn on_packet(
        &mut self,
        now: Instant,
        layer: u8,
        marker: bool,
        pending: usize,
        followers: usize,
        config: &HoldConfig,
    ) -> Decision {
        let bit = 1_u8 << (layer & 7);
        self.open_layers = if marker { self.open_layers & !bit } else { self.open_layers | bit };
        if self.open_layers == 0 || followers < config.followers_min || pending >= PACKETS_MAX {
            return self.release(pending);
        }
        if self.until.is_some() {
            return Decision::Wait;
        }
        if self.vain >= VAIN_MAX {
            self.passed += 1;
            if self.passed >= RETRY_AFTER {
                (self.vain, self.passed) = (VAIN_MAX - 1, 0);
            }
            return Decision::Release;
        }
        let until = now + config.wait;
        self.until = Some(until);
        Decision::WaitUntil(until)
    }

    /// Whether the wait that was to end at `until` is still going on; it is over now.
    pub fn expire(&mut self, until: Instant, pending: usize) -> bool {
        let expired = self.until == Some(until);
        if expired {
            self.release(pending);
            // A frame whose end is lost or late must not keep the next ones from being complete.
            self.open_layers = 0;
        }
        expired
    }

    fn release(&mut self, pending: usize) -> Decision {
        if self.until.take().is_some() {
            self.vain = if pending > 1 { 0 } else { self.vain.saturating_add(1) };
        }
        Decision::Release
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: usize = 100;
    const CONFIG: HoldConfig = HoldConfig { wait: HOLD, followers_min: 16 };
    const HOLD: Duration = Duration::from_millis(1);

    #[test]
    fn a_frame_waits_for_its_marker() {
        let now = Instant::now();
        let mut hold = Hold::default();
        assert_eq!(hold.on_packet(now, 0, false, 1, MANY, &CONFIG), Decision::WaitUntil(now + HOLD));
        assert_eq!(hold.on_packet(now, 0, false, 2, MANY, &CONFIG), Decision::Wait);
        assert_eq!(hold.on_packet(now, 0, true, 3, MANY, &CONFIG), Decision::Release);
        assert!(!hold.expire(now + HOLD, 0));
    }

    #[test]
    fn layers_of_one_picture_wait_for_each_other() {
        let now = Instant::now();
        let mut hold = Hold::default();
        hold.on_packet(now, 0, false, 1, MANY, &CONFIG);
        hold.on_packet(now, 2, false, 2, MANY, &CONFIG);
        assert_eq!(hold.on_packet(now, 0, true, 3, MANY, &CONFIG), Decision::Wait);
        assert_eq!(hold.on_packet(now, 2, true, 4, MANY, &CONFIG), Decision::Release);
    }

    #[test]
    fn few_followers_and_whole_frames_do_not_wait() {
        let now = Instant::now();
        let mut hold = Hold::default();
        assert_eq!(hold.on_packet(now, 0, false, 1, CONFIG.followers_min - 1, &CONFIG), Decision::Release);
        assert_eq!(hold.on_packet(now, 0, true, 1, MANY, &CONFIG), Decision::Release);
        hold.on_packet(now, 0, false, 1, MANY, &CONFIG);
        assert_eq!(hold.on_packet(now, 0, false, PACKETS_MAX, MANY, &CONFIG), Decision::Release);
    }

    #[test]
    fn waiting_in_vain_ends_and_is_tried_again() {
        let mut now = Instant::now();
        let mut hold = Hold::default();
        let mut waits = 0;
        for _ in 0..200 {
            if let Decision::WaitUntil(until) = hold.on_packet(now, 0, false, 1, MANY, &CONFIG) {
                waits += 1;
                assert!(hold.expire(until, 1));
            }
            now += 2 * HOLD;
        }
        assert_eq!(waits, usize::from(VAIN_MAX) + 200 / usize::from(RETRY_AFTER));
        // A wait that pays is worth the next.
        let mut hold = Hold { vain: VAIN_MAX - 1, ..Hold::default() };
        let Decision::WaitUntil(until) = hold.on_packet(now, 0, false, 1, MANY, &CONFIG) else {
            panic!("should wait")
        };
        assert!(hold.expire(until, 5));
        assert_eq!(hold.vain, 0);
    }
}
