//! Asking a publisher again for what is missing on one layer (RFC 4585 §6.2.1).

use std::time::{Duration, Instant};

use auralink_rtc::units::SeqNo;

/// Packets that may be missing at once; more means a break, for which only a keyframe helps.
const MISSING_MAX: usize = 256;
/// Times one packet is asked for.
const TRIES_MAX: u8 = 10;
/// Reordering that is not yet loss.
const FIRST_DELAY: Duration = Duration::from_millis(5);
/// Between tries; doubles with the tries up to eight times this.
const RETRY: Duration = Duration::from_millis(40);
/// Older gaps are given up: no player waits for them.
const AGE_MAX: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct Missing {
    seq: SeqNo,
    since: Instant,
    due: Instant,
    tries: u8,
}

/// What the arrival of a packet means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gap {
    None,
    /// New packets are missing.
    Opened,
    /// More is missing than can be repaired.
    Broken,
}

#[derive(Debug)]
pub struct NackGenerator {
    missing: Vec<Missing>,
    highest: Option<SeqNo>,
}

impl Default for NackGenerator {
    fn default() -> Self {
        Self { missing: Vec::with_capacity(MISSING_MAX), highest: None }
    }
}

impl NackGenerator {
    /// Notes an arrived packet.
    pub fn on_packet(&mut self, now: Instant, seq: SeqNo) -> Gap {
        let Some(highest) = self.highest else {
            self.highest = Some(seq);
            return Gap::None;
        };
        if seq <= highest {
            self.missing.retain(|missing| missing.seq != seq);
            return Gap::None;
        }
        self.highest = Some(seq);
        let gap = seq.0 - highest.0 - 1;
        if gap == 0 {
            return Gap::None;
        }
        if gap as usize + self.missing.len() > MISSING_MAX {
            self.missing.clear();
            return Gap::Broken;
        }
        let due = now + FIRST_DELAY;
        self.missing.extend((highest.0 + 1..seq.0).map(|seq| Missing {
            seq: SeqNo(seq),
            since: now,
            due,
            tries: 0,
        }));
        Gap::Opened
    }

    /// The highest number that arrived.
    pub fn highest(&self) -> Option<SeqNo> {
        self.highest
    }

    /// A keyframe began at `seq`: nothing before it is needed any more.
    pub fn on_keyframe(&mut self, seq: SeqNo) {
        self.missing.retain(|missing| missing.seq > seq);
    }

    /// Packets to ask for now, lowest first, into `out`; returns whether any was given up for good.
    pub fn poll(&mut self, now: Instant, out: &mut Vec<u16>) -> bool {
        let before = self.missing.len();
        self.missing.retain(|missing| missing.tries < TRIES_MAX && now < missing.since + AGE_MAX);
        let given_up = self.missing.len() < before;
        for missing in self.missing.iter_mut().filter(|missing| missing.due <= now) {
            missing.due = now + RETRY * (1 << missing.tries.min(3));
            missing.tries += 1;
            out.push(missing.seq.wire());
        }
        given_up
    }

    /// When [`Self::poll`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.missing.iter().map(|missing| missing.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(nack: &mut NackGenerator, now: Instant) -> Vec<u16> {
        let mut out = Vec::new();
        nack.poll(now, &mut out);
        out
    }

    #[test]
    fn asks_for_a_gap_after_the_reordering_delay_and_again_until_it_is_filled() {
        let start = Instant::now();
        let mut nack = NackGenerator::default();
        nack.on_packet(start, SeqNo(65_534));
        assert_eq!(nack.on_packet(start, SeqNo(65_538)), Gap::Opened);
        assert!(asked(&mut nack, start).is_empty());
        assert_eq!(asked(&mut nack, start + FIRST_DELAY), [65_535, 0, 1]);
        assert!(asked(&mut nack, start + FIRST_DELAY * 2).is_empty());
        nack.on_packet(start, SeqNo(65_536));
        assert_eq!(asked(&mut nack, start + Duration::from_millis(50)), [65_535, 1]);
        nack.on_keyframe(SeqNo(65_535));
        assert_eq!(asked(&mut nack, start + Duration::from_millis(200)), [1]);
    }

    #[test]
    fn gives_up_after_a_second_and_on_a_break() {
        let start = Instant::now();
        let mut nack = NackGenerator::default();
        nack.on_packet(start, SeqNo(1));
        nack.on_packet(start, SeqNo(3));
        assert!(nack.poll(start + AGE_MAX, &mut Vec::new()));
        assert_eq!(nack.poll_timeout(), None);
        assert_eq!(nack.on_packet(start, SeqNo(1_000)), Gap::Broken);
        assert_eq!(nack.poll_timeout(), None);
    }

    #[test]
    fn late_packets_open_no_gap() {
        let start = Instant::now();
        let mut nack = NackGenerator::default();
        nack.on_packet(start, SeqNo(10));
        assert_eq!(nack.on_packet(start, SeqNo(8)), Gap::None);
        assert_eq!(nack.on_packet(start, SeqNo(11)), Gap::None);
    }
}
