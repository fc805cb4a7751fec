//! A hashed timing wheel with one deadline per transport slot. Setting, moving and expiring cost the same however many
//! transports there are; idle ones cost nothing.

use std::time::{Duration, Instant};

/// Width of one bucket: no deadline fires earlier than it should, or later than one tick after.
const TICK: Duration = Duration::from_millis(2);
/// Buckets, a power of two. Deadlines beyond 8 s come by again and are put back.
const BUCKETS: usize = 4_096;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry {
    deadline_tick: u64,
    next: u32,
    previous: u32,
    armed: bool,
}

const IDLE: Entry = Entry { deadline_tick: 0, next: NONE, previous: NONE, armed: false };

#[derive(Debug)]
pub struct Wheel {
    origin: Instant,
    /// The tick up to which everything has expired.
    current: u64,
    buckets: Box<[u32]>,
    entries: Vec<Entry>,
    armed: usize,
}

impl Wheel {
    /// `keys_max`: keys are 0 to `keys_max` − 1.
    pub fn new(origin: Instant, keys_max: usize) -> Self {
        Self {
            origin,
            current: 0,
            buckets: vec![NONE; BUCKETS].into_boxed_slice(),
            entries: vec![IDLE; keys_max],
            armed: 0,
        }
    }

    /// Sets `key`'s deadline, replacing an earlier setting.
    pub fn set(&mut self, key: u32, deadline: Instant) {
        self.clear(key);
        let tick = self.tick_after(deadline).max(self.current + 1);
        let Some(entry) = self.entries.get_mut(key as usize) else { return };
        let bucket = tick as usize & (BUCKETS - 1);
        *entry = Entry { deadline_tick: tick, next: self.buckets[bucket], previous: NONE, armed: true };
        let next = entry.next;
        if let Some(next) = self.entries.get_mut(next as usize) {
            next.previous = key;
        }
        self.buckets[bucket] = key;
        self.armed += 1;
    }

    /// Moves `key`'s deadline to `deadline` unless an earlier one is set.
    pub fn set_earlier(&mut self, key: u32, deadline: Instant) {
        let tick = self.tick_after(deadline);
        if self.entries.get(key as usize).is_some_and(|entry| entry.armed && entry.deadline_tick <= tick) {
            return;
        }
        self.set(key, deadline);
    }

    pub fn clear(&mut self, key: u32) {
        let Some(entry) = self.entries.get(key as usize).copied().filter(|entry| entry.armed) else { return };
        if entry.previous == NONE {
            self.buckets[entry.deadline_tick as usize & (BUCKETS - 1)] = entry.next;
        } else if let Some(previous) = self.entries.get_mut(entry.previous as usize) {
            previous.next = entry.next;
        }
        if let Some(next) = self.entries.get_mut(entry.next as usize) {
            next.previous = entry.previous;
        }
        self.entries[key as usize] = IDLE;
        self.armed -= 1;
    }

    /// The next key whose deadline has passed; it is cleared. Call until `None`.
    pub fn poll(&mut self, now: Instant) -> Option<u32> {
        let target = now.saturating_duration_since(self.origin).as_millis() as u64 / TICK.as_millis() as u64;
        loop {
            let mut key = self.buckets[self.current as usize & (BUCKETS - 1)];
            while let Some(entry) = self.entries.get(key as usize) {
                if entry.deadline_tick <= self.current {
                    self.clear(key);
                    return Some(key);
                }
                key = entry.next;
            }
            if self.current >= target {
                return None;
            }
            // Nothing armed: no bucket has to be looked at.
            self.current = if self.armed == 0 { target } else { self.current + 1 };
        }
    }

    /// A time at which to call [`Self::poll`] again: at most `horizon` away, and not after the next deadline.
    pub fn next_deadline(&self, now: Instant, horizon: Duration) -> Instant {
        if self.armed == 0 {
            return now + horizon;
        }
        let ticks = (horizon.as_millis() / TICK.as_millis()) as u64;
        let due = (self.current..=self.current + ticks).find(|tick| {
            let mut key = self.buckets[*tick as usize & (BUCKETS - 1)];
            while let Some(entry) = self.entries.get(key as usize) {
                if entry.deadline_tick <= *tick {
                    return true;
                }
                key = entry.next;
            }
            false
        });
        due.map_or(now + horizon, |tick| self.origin + TICK * tick as u32)
    }

    /// The first tick that begins at or after `deadline`.
    fn tick_after(&self, deadline: Instant) -> u64 {
        deadline.saturating_duration_since(self.origin).as_nanos().div_ceil(TICK.as_nanos()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(origin: Instant, ms: u64) -> Instant {
        origin + Duration::from_millis(ms)
    }

    fn expired(wheel: &mut Wheel, now: Instant) -> Vec<u32> {
        let mut keys: Vec<_> = std::iter::from_fn(|| wheel.poll(now)).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn fires_after_the_deadline_and_within_a_tick() {
        let origin = Instant::now();
        let mut wheel = Wheel::new(origin, 4);
        wheel.set(0, at(origin, 10));
        wheel.set(1, at(origin, 11));
        assert_eq!(expired(&mut wheel, at(origin, 9)), [0_u32; 0]);
        assert_eq!(expired(&mut wheel, at(origin, 10)), [0]);
        assert_eq!(expired(&mut wheel, at(origin, 12)), [1]);
        assert_eq!(expired(&mut wheel, at(origin, 100_000)), [0_u32; 0]);
    }

    #[test]
    fn moving_replaces_and_earlier_wins() {
        let origin = Instant::now();
        let mut wheel = Wheel::new(origin, 4);
        wheel.set(2, at(origin, 50));
        wheel.set_earlier(2, at(origin, 80));
        assert_eq!(expired(&mut wheel, at(origin, 60)), [2]);
        wheel.set(2, at(origin, 90));
        wheel.set_earlier(2, at(origin, 70));
        assert_eq!(expired(&mut wheel, at(origin, 72)), [2]);
        wheel.set(3, at(origin, 100));
        wheel.clear(3);
        assert_eq!(expired(&mut wheel, at(origin, 200)), [0_u32; 0]);
    }

    #[test]
    fn deadlines_beyond_one_turn_of_the_wheel_come_by_again() {
        let origin = Instant::now();
        let mut wheel = Wheel::new(origin, 2);
        wheel.set(0, at(origin, 20_000));
        assert_eq!(expired(&mut wheel, at(origin, 19_990)), [0_u32; 0]);
        assert_eq!(expired(&mut wheel, at(origin, 20_002)), [0]);
    }

    #[test]
    fn the_next_deadline_is_never_after_a_key_is_due() {
        let origin = Instant::now();
        let mut wheel = Wheel::new(origin, 8);
        let horizon = Duration::from_millis(500);
        assert_eq!(wheel.next_deadline(origin, horizon), at(origin, 500));
        for (key, ms) in [(0, 7), (1, 30), (2, 9_000)] {
            wheel.set(key, at(origin, ms));
        }
        assert_eq!(wheel.next_deadline(origin, horizon), at(origin, 8));
        assert_eq!(expired(&mut wheel, at(origin, 8)), [0]);
        assert_eq!(wheel.next_deadline(at(origin, 8), horizon), at(origin, 30));
    }

    #[test]
    fn keys_of_one_bucket_all_fire() {
        let origin = Instant::now();
        let mut wheel = Wheel::new(origin, 100);
        for key in 0..100 {
            wheel.set(key, at(origin, 40));
        }
        wheel.clear(50);
        assert_eq!(expired(&mut wheel, at(origin, 40)).len(), 99);
    }
}
