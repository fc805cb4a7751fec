//! Reliable messages that cannot be sent yet or may have to be sent again: those for a participant whose channel is not open,
//! and the room's last few, for participants that come back. Both bounded.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::participant::ParticipantKey;

/// Bytes kept for one participant until its channel opens.
const WAITING_BYTES_MAX: usize = 100_000;
/// How long, how many and how much a room keeps for replay.
const RECENT_FOR: Duration = Duration::from_secs(2);
const RECENT_MAX: usize = 1_000;
const RECENT_BYTES_MAX: usize = 1 << 20;

/// What waits for a participant's reliable channel.
#[derive(Debug, Default)]
pub struct Backlog {
    open: bool,
    waiting: Vec<Bytes>,
    bytes: usize,
}

/// What became of a message for one participant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queued {
    /// The channel is open: send it.
    No,
    Yes,
    /// There is no room for it.
    Dropped,
}

impl Backlog {
    /// The channel is open; what waited is to be sent, in order.
    pub fn open(&mut self) -> Vec<Bytes> {
        self.open = true;
        self.bytes = 0;
        std::mem::take(&mut self.waiting)
    }

    pub fn put(&mut self, message: &Bytes) -> Queued {
        if self.open {
            return Queued::No;
        }
        if self.bytes + message.len() > WAITING_BYTES_MAX {
            return Queued::Dropped;
        }
        self.bytes += message.len();
        self.waiting.push(message.clone());
        Queued::Yes
    }
}

#[derive(Debug)]
struct Sent {
    at: Instant,
    /// `PA_…` of the sender, and its number of the message.
    sender: String,
    sequence: u32,
    to: Vec<ParticipantKey>,
    message: Bytes,
}

/// Numbered reliable messages of the last two seconds.
#[derive(Debug, Default)]
pub struct Recent {
    sent: VecDeque<Sent>,
    bytes: usize,
}

impl Recent {
    pub fn put(
        &mut self,
        now: Instant,
        sender: &str,
        sequence: u32,
        to: Vec<ParticipantKey>,
        message: Bytes,
    ) {
        self.bytes += message.len();
        self.sent.push_back(Sent { at: now, sender: sender.to_owned(), sequence, to, message });
        let outdated = |sent: &Sent| now.duration_since(sent.at) > RECENT_FOR;
        while self.sent.len() > RECENT_MAX
            || self.bytes > RECENT_BYTES_MAX
            || self.sent.front().is_some_and(outdated)
        {
            let Some(gone) = self.sent.pop_front() else { return };
            self.bytes -= gone.message.len();
        }
    }

    /// Messages a participant missed, going by the last number it says it has of a sender.
    pub fn missed(
        &self,
        now: Instant,
        key: ParticipantKey,
        last_of: impl Fn(&str) -> u32,
    ) -> impl Iterator<Item = &Bytes> {
        self.sent
            .iter()
            .filter(move |sent| {
                now.duration_since(sent.at) <= RECENT_FOR
                    && sent.to.contains(&key)
                    && sent.sequence > last_of(&sent.sender)
            })
            .map(|sent| &sent.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_before_the_channel_waits_for_it_within_bounds() {
        let mut backlog = Backlog::default();
        let message = Bytes::from(vec![7; 60_000]);
        assert_eq!(backlog.put(&message), Queued::Yes);
        assert_eq!(backlog.put(&message), Queued::Dropped);
        assert_eq!(backlog.open(), std::slice::from_ref(&message));
        assert_eq!(backlog.put(&message), Queued::No);
    }

    #[test]
    fn a_participant_is_replayed_what_it_has_not_seen_and_nothing_old() {
        let (mut recent, start) = (Recent::default(), Instant::now());
        let (one, two) = (ParticipantKey(1), ParticipantKey(2));
        let message = |n: u8| Bytes::from(vec![n]);
        recent.put(start, "PA_a", 1, vec![one, two], message(1));
        recent.put(start + Duration::from_secs(1), "PA_a", 2, vec![one, two], message(2));
        recent.put(start + Duration::from_secs(1), "PA_a", 3, vec![two], message(3));
        let now = start + Duration::from_secs(2);
        let missed = |now, key, last: u32| recent.missed(now, key, |_| last).cloned().collect::<Vec<_>>();
        assert_eq!(missed(now, one, 0), [message(1), message(2)]);
        assert_eq!(missed(now, two, 2), [message(3)]);
        assert_eq!(missed(now + Duration::from_millis(1), one, 0), [message(2)]);
        assert_eq!(missed(now + Duration::from_secs(9), two, 0), [] as [Bytes; 0]);
    }

    #[test]
    fn memory_for_replay_is_bounded() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        for n in 0..100 {
            recent.put(now, "PA_a", n, vec![], Bytes::from(vec![0; 64_000]));
        }
        assert!(recent.bytes <= RECENT_BYTES_MAX && recent.sent.len() == RECENT_BYTES_MAX / 64_000);
        for n in 0..2_000 {
            recent.put(now, "PA_a", n, vec![], Bytes::new());
        }
        assert_eq!(recent.sent.len(), RECENT_MAX);
    }
}
