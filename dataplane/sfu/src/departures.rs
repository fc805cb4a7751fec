//! What left when: transport-wide numbers with their send times, matched against the receiver's feedback
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01).

use std::time::Instant;

/// Numbers remembered; a power of two.
const DEPARTURES_MAX: usize = 1_024;

#[derive(Clone, Copy, Debug)]
struct Departure {
    number: u16,
    sent: Instant,
    settled: bool,
}

/// What a receiver's feedback has told since the transport was created.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Delivery {
    pub received: u64,
    pub lost: u64,
}

#[derive(Debug)]
pub struct Departures {
    ring: Box<[Option<Departure>]>,
    delivery: Delivery,
}

impl Default for Departures {
    fn default() -> Self {
        Self { ring: vec![None; DEPARTURES_MAX].into_boxed_slice(), delivery: Delivery::default() }
    }
}

impl Departures {
    /// `count` packets from number `first` on went to the kernel at `now`.
    pub fn on_flushed(&mut self, now: Instant, first: u16, count: u16) {
        for offset in 0..count {
            let number = first.wrapping_add(offset);
            self.ring[usize::from(number) % DEPARTURES_MAX] =
                Some(Departure { number, sent: now, settled: false });
        }
    }

    /// The receiver says of `number` whether it arrived. Each number counts once; unknown and repeated ones do not.
    pub fn on_feedback(&mut self, number: u16, received: bool) -> Option<Instant> {
        let departure = self.ring[usize::from(number) % DEPARTURES_MAX].as_mut()?;
        if departure.number != number || departure.settled {
            return None;
        }
        // A packet reported missing may still be reported received by a later feedback.
        departure.settled = received;
        if received {
            self.delivery.received += 1;
        } else {
            self.delivery.lost += 1;
        }
        Some(departure.sent)
    }

    pub fn delivery(&self) -> Delivery {
        self.delivery
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feedback_finds_the_time_of_the_flush_once() {
        let now = Instant::now();
        let mut departures = Departures::default();
        departures.on_flushed(now, 65_534, 4);
        assert_eq!(departures.on_feedback(65_535, true), Some(now));
        assert_eq!(departures.on_feedback(65_535, true), None);
        assert_eq!(departures.on_feedback(1, false), Some(now));
        assert_eq!(departures.on_feedback(2, true), None);
        assert_eq!(departures.delivery(), Delivery { received: 1, lost: 1 });
    }
}
