//! What left when: transport-wide numbers with their send times, matched against the receiver's feedback
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01).

use std::time::Instant;

/// Numbers remembered at first, and at most: powers of two that divide 2^16.
const DEPARTURES_MIN: u16 = 256;
const DEPARTURES_MAX: u16 = 1_024;
const WORDS: usize = DEPARTURES_MAX as usize / 64;

/// What a receiver's feedback has told since the transport was created. Each number counts once, as last reported.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Delivery {
    pub received: u64,
    pub lost: u64,
}

/// Four octets a packet: a thousand subscribers' worth of these has to stay in cache.
#[derive(Debug)]
pub struct Departures {
    origin: Instant,
    /// Microseconds since `origin`, wrapping after 71 minutes. As many as two fifths of a second need ([`Self::fit`]): feedback
    /// comes a few times a second and a round trip later.
    sent_us: Box<[u32]>,
    /// Packets that left since the last [`Self::fit`].
    left: u32,
    received: [u64; WORDS],
    lost: [u64; WORDS],
    /// The number after the last one that left, and how many before it are remembered.
    next: u16,
    remembered: u16,
    delivery: Delivery,
}

impl Departures {
    pub fn new(now: Instant) -> Self {
        Self {
            origin: now,
            sent_us: vec![0; usize::from(DEPARTURES_MIN)].into_boxed_slice(),
            left: 0,
            received: [0; WORDS],
            lost: [0; WORDS],
            next: 0,
            remembered: 0,
            delivery: Delivery::default(),
        }
    }

    /// `count` packets from number `first` on went to the kernel at `now`. Numbers leave in order.
    pub fn on_flushed(&mut self, now: Instant, first: u16, count: u16) {
        let now_us = self.micros(now);
        let mask = self.sent_us.len() - 1;
        self.left += u32::from(count);
        if first != self.next {
            self.remembered = 0;
        }
        for number in (0..count).map(|offset| first.wrapping_add(offset)) {
            let (word, bit) = place(number);
            self.sent_us[usize::from(number) & mask] = now_us;
            self.received[word] &= !bit;
            self.lost[word] &= !bit;
        }
        self.next = first.wrapping_add(count);
        self.remembered = self.remembered.saturating_add(count).min(self.sent_us.len() as u16);
    }

    /// Once a second, away from the packet path: makes room for what leaves.
    pub fn fit(&mut self) {
        let wanted = (std::mem::take(&mut self.left) as usize * 2 / 5).next_power_of_two();
        let (len, wanted) = (self.sent_us.len(), wanted.min(usize::from(DEPARTURES_MAX)));
        if wanted <= len {
            return;
        }
        let mut roomier = vec![0; wanted].into_boxed_slice();
        for number in (1..=self.remembered).map(|age| self.next.wrapping_sub(age)) {
            roomier[usize::from(number) & (wanted - 1)] = self.sent_us[usize::from(number) & (len - 1)];
        }
        self.sent_us = roomier;
    }

    /// The receiver says of `number` whether it arrived; returns when it left, in microseconds on the clock of
    /// [`Self::micros`]. `None` for numbers that did not leave lately, and for what was said before. What was reported missing
    /// may still be reported received.
    pub fn on_feedback(&mut self, number: u16, received: bool) -> Option<u32> {
        let age = self.next.wrapping_sub(number);
        if age == 0 || age > self.remembered {
            return None;
        }
        let (word, bit) = place(number);
        let was_lost = self.lost[word] & bit != 0;
        if self.received[word] & bit != 0 || (was_lost && !received) {
            return None;
        }
        if received {
            self.received[word] |= bit;
            self.delivery.received += 1;
            self.delivery.lost -= u64::from(was_lost);
        } else {
            self.lost[word] |= bit;
            self.delivery.lost += 1;
        }
        Some(self.sent_us[usize::from(number) & (self.sent_us.len() - 1)])
    }

    pub fn delivery(&self) -> Delivery {
        self.delivery
    }

    /// `now` on this clock: differences of two of its times are right up to 71 minutes.
    pub fn micros(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.origin).as_micros() as u32
    }
}

fn place(number: u16) -> (usize, u64) {
    let index = usize::from(number % DEPARTURES_MAX);
    (index / 64, 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn feedback_finds_the_time_of_the_flush_once() {
        let start = Instant::now();
        let mut departures = Departures::new(start);
        departures.on_flushed(start + Duration::from_millis(5), 65_534, 4);
        assert_eq!(departures.on_feedback(65_535, true), Some(5_000));
        assert_eq!(departures.on_feedback(65_535, true), None);
        assert_eq!(departures.on_feedback(1, false), Some(5_000));
        assert_eq!(departures.on_feedback(1, false), None);
        assert_eq!(departures.on_feedback(2, true), None);
        assert_eq!(departures.delivery(), Delivery { received: 1, lost: 1 });
        assert_eq!(departures.on_feedback(1, true), Some(5_000));
        assert_eq!(departures.delivery(), Delivery { received: 2, lost: 0 });
    }

    #[test]
    fn a_second_of_many_packets_makes_room_and_forgets_nothing() {
        let start = Instant::now();
        let mut departures = Departures::new(start);
        let at = |ms| start + Duration::from_millis(ms);
        for step in 0..30_u16 {
            departures.on_flushed(at(u64::from(step)), step * 60, 60);
        }
        departures.fit();
        for step in 30..40_u16 {
            departures.on_flushed(at(u64::from(step)), step * 60, 60);
        }
        // What was remembered before there was room, and what left since.
        assert_eq!(departures.on_feedback(30 * 60 - DEPARTURES_MIN - 1, true), None);
        for number in 30 * 60 - DEPARTURES_MIN..40 * 60 {
            assert_eq!(
                departures.on_feedback(number, true),
                Some(u32::from(number / 60) * 1_000),
                "{number}"
            );
        }
        departures.fit();
        assert_eq!(departures.sent_us.len(), 1_024, "room stays");
    }

    #[test]
    fn old_numbers_are_forgotten_and_the_clock_may_wrap() {
        let start = Instant::now();
        let mut departures = Departures::new(start);
        departures.on_flushed(start, 0, 1);
        let late = start + Duration::from_secs(72 * 60);
        departures.on_flushed(late, 1, DEPARTURES_MIN);
        assert_eq!(departures.on_feedback(0, true), None);
        let left = departures.on_feedback(1, true).unwrap();
        assert_eq!(departures.micros(late + Duration::from_millis(7)).wrapping_sub(left), 7_000);
        departures.on_flushed(late, 9_000, 2);
        assert_eq!(departures.on_feedback(8_000, true), None);
    }
}
