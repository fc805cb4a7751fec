//! What one client may send. Its packets are multiplied by those who receive it, so what it sends beyond any encoder's need is
//! not taken in, and, like loss on the way, not reported as received: its congestion control slows down by itself.

use std::time::{Duration, Instant};

/// The length of the window that is counted in.
const WINDOW: Duration = Duration::from_secs(1);

/// Most that is taken in from one transport in a second, SRTP and SRTCP together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IntakeLimit {
    pub packets: u32,
    /// Octets of UDP payload.
    pub bytes: u32,
}

impl IntakeLimit {
    pub const NONE: Self = Self { packets: u32::MAX, bytes: u32::MAX };
}

impl Default for IntakeLimit {
    /// More than a camera in 4K with three layers and a screen beside it come to.
    fn default() -> Self {
        Self { packets: 12_000, bytes: 100_000_000 / 8 }
    }
}

/// What a transport has sent in the present second. Only what is authentic counts, lest others use up its share.
#[derive(Clone, Copy, Default, Debug)]
pub struct Intake {
    ends: Option<Instant>,
    packets: u32,
    bytes: u32,
}

impl Intake {
    /// Whether a packet of `len` octets is within the limit; it counts if it is.
    #[inline]
    pub fn admits(&mut self, now: Instant, len: usize, limit: &IntakeLimit) -> bool {
        if self.ends.is_none_or(|ends| ends <= now) {
            *self = Self { ends: Some(now + WINDOW), packets: 0, bytes: 0 };
        }
        let bytes = self.bytes.saturating_add(len as u32);
        if self.packets >= limit.packets || bytes > limit.bytes {
            return false;
        }
        self.packets += 1;
        self.bytes = bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_admits_what_the_limit_says_and_the_next_one_again() {
        let (start, limit) = (Instant::now(), IntakeLimit { packets: 3, bytes: 1_000 });
        let mut intake = Intake::default();
        let admitted = |intake: &mut Intake, ms, len| {
            let now = start + Duration::from_millis(ms);
            (0..10).filter(|_| intake.admits(now, len, &limit)).count()
        };
        assert_eq!(admitted(&mut intake, 0, 100), 3, "packets");
        assert_eq!(admitted(&mut intake, 999, 100), 0);
        assert_eq!(admitted(&mut intake, 1_000, 400), 2, "octets");
        assert_eq!(admitted(&mut intake, 1_999, 100), 1, "a short one still fits");
        assert!((0..1_000_000).all(|_| intake.admits(start, 1_500, &IntakeLimit::NONE)));
    }
}
