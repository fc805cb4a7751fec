//! When a client is asked for another offer: soon, and once for what changes together. An offer and its answer are the dearest
//! part of somebody joining or leaving, and everybody in the room pays it.

use std::time::{Duration, Instant};

/// Tracks that come within this time are asked for together; a camera rarely comes without its microphone.
const TOGETHER: Duration = Duration::from_millis(20);
/// Nothing waits for a client to hear that a section fell idle: the shard has stopped sending and the participants are told.
const TIDY: Duration = Duration::from_millis(250);
/// Least time from one request to the next.
const SPACING: Duration = Duration::from_millis(150);

/// Remembers when it last asked and when it next shall.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
    due: Option<Instant>,
}

impl Pace {
    /// There is something to ask for, `urgent` when media waits for it: whether now is the time.
    pub(super) fn is_time(&mut self, urgent: bool, now: Instant) -> bool {
        let patience = if urgent { TOGETHER } else { TIDY };
        let spaced = self.last.map_or(now, |last| last + SPACING);
        let at = (now + patience).max(spaced);
        let due = self.due.map_or(at, |due| due.min(at));
        if now < due {
            self.due = Some(due);
            return false;
        }
        *self = Self { last: Some(now), due: None };
        true
    }

    /// There is nothing to ask for any more.
    pub(super) fn rest(&mut self) {
        self.due = None;
    }

    /// When to look again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_together_is_asked_for_once() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert!(!pace.is_time(true, start));
        assert!(!pace.is_time(true, start + TOGETHER / 2), "a second track does not put it off");
        assert_eq!(pace.due(), Some(start + TOGETHER));
        assert!(pace.is_time(true, start + TOGETHER));
        assert_eq!(pace.due(), None);
    }

    #[test]
    fn requests_keep_their_distance() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert!(!pace.is_time(true, start));
        assert!(pace.is_time(true, start + TOGETHER));
        assert!(!pace.is_time(true, start + TOGETHER * 2));
        assert_eq!(pace.due(), Some(start + TOGETHER + SPACING));
    }

    #[test]
    fn tidying_waits_longer_and_hurries_when_media_waits_too() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert!(!pace.is_time(false, start));
        assert_eq!(pace.due(), Some(start + TIDY));
        assert!(!pace.is_time(true, start));
        assert_eq!(pace.due(), Some(start + TOGETHER));
        pace.rest();
        assert_eq!(pace.due(), None);
    }
}
