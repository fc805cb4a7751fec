//! Knowing that more arrives than can be sent, and what is left out then.
//!
//! A queue that comes and goes is a burst, or a machine that was elsewhere for a moment: late media is better than none. One
//! that stands only makes everything late, and one that comes back stands sooner. Then video that waited is dropped before it costs anything, until what arrives is
//! fresh again; sound, which costs little and is missed most, only when that does not help.

use std::time::{Duration, Instant};

use auralink_proto::MediaKind;

/// Waiting longer than this is a queue.
const QUEUED: Duration = Duration::from_millis(50);
/// A queue that has been there for this long stands: longer than processors are usually taken away by others.
const STANDING: Duration = Duration::from_secs(2);
/// The same where one stood in the last `RECENT`: too much arrives.
const STANDING_AGAIN: Duration = Duration::from_millis(500);
const RECENT: Duration = Duration::from_secs(10);
/// Sound that waited this long is left out too.
const AUDIO_LATE: Duration = Duration::from_millis(200);
/// After a queue that stood, nothing is asked for again for so long: what was left out, times everybody who receives it, would
/// be the next queue.
const REST: Duration = Duration::from_secs(1);

/// Watches how long media waited before it was looked at.
#[derive(Default, Debug)]
pub struct Backlog {
    /// Since when nothing was fresh.
    since: Option<Instant>,
    /// When a queue that stood was last seen.
    stood: Option<Instant>,
}

impl Backlog {
    /// Whether a packet that arrived at `arrival` shall be left out.
    pub fn sheds(&mut self, now: Instant, arrival: Instant, kind: MediaKind) -> bool {
        let waited = now.saturating_duration_since(arrival);
        if waited <= QUEUED {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now);
        let stood = self.stood.is_some_and(|stood| now.saturating_duration_since(stood) < RECENT);
        if now.saturating_duration_since(since) < if stood { STANDING_AGAIN } else { STANDING } {
            return false;
        }
        self.stood = Some(now);
        kind == MediaKind::Video || waited > AUDIO_LATE
    }

    /// Whether there is time for what was lost before: no queue stands or stood just now.
    pub fn has_time(&self, now: Instant) -> bool {
        self.stood.is_none_or(|stood| now.saturating_duration_since(stood) >= REST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_queue_that_comes_and_goes_costs_nothing() {
        let (mut backlog, start) = (Backlog::default(), Instant::now());
        for at in 0..1_900 {
            assert!(!backlog.sheds(start + MS * at, start, MediaKind::Video));
        }
        assert!(!backlog.sheds(start + MS * 1_900, start + MS * 1_899, MediaKind::Video));
        assert!(!backlog.sheds(start + MS * 3_000, start + MS * 2_000, MediaKind::Video));
    }

    #[test]
    fn a_queue_that_stands_costs_video_first_and_ends_with_the_first_fresh_packet() {
        let (mut backlog, start) = (Backlog::default(), Instant::now());
        let late = |backlog: &mut Backlog, at: u32, waited: u32, kind| {
            backlog.sheds(start + MS * at, start + MS * (at - waited), kind)
        };
        assert!(!late(&mut backlog, 1_000, 60, MediaKind::Video));
        assert!(!late(&mut backlog, 2_999, 60, MediaKind::Video));
        assert!(late(&mut backlog, 3_000, 60, MediaKind::Video));
        assert!(!late(&mut backlog, 3_000, 60, MediaKind::Audio));
        assert!(late(&mut backlog, 3_000, 201, MediaKind::Audio));
        assert!(!backlog.has_time(start + MS * 3_000));
        assert!(!late(&mut backlog, 3_100, 50, MediaKind::Video));
        assert!(!late(&mut backlog, 3_101, 60, MediaKind::Video));
        assert!(!backlog.has_time(start + MS * 3_999) && backlog.has_time(start + MS * 4_000));
        assert!(!late(&mut backlog, 3_600, 60, MediaKind::Video));
        assert!(late(&mut backlog, 3_601, 60, MediaKind::Video), "it came back");
        assert!(!late(&mut backlog, 13_601, 50, MediaKind::Video));
        assert!(!late(&mut backlog, 13_602, 60, MediaKind::Video));
        assert!(!late(&mut backlog, 15_601, 60, MediaKind::Video), "the last one is forgotten");
    }
}
