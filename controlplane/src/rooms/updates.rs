//! Who is told when of a participant's changes.
//!
//! What somebody does is told at once. That a participant which publishes nothing came, is connected or left concerns nobody
//! that urgently, and in a room of a thousand listeners would cost a million messages: beyond a few at a time these are
//! gathered for three seconds and told together, as LiveKit gathers all of them.

use std::time::{Duration, Instant};

use auralink_livekit::prost::Message as _;
use auralink_livekit::{ParticipantInfo, ParticipantUpdate, signal_response};

use super::participant::{Participant, ParticipantKey};
use super::room::{Room, Turn};

/// How long changes are gathered; LiveKit's interval.
const GATHER: Duration = Duration::from_secs(3);
/// Comings and goings of listeners told at once before more of them within [`GATHER`] wait.
const PROMPT: usize = 16;
/// Octets of participants in one update.
const CHUNK_BYTES: usize = 128 * 1_024;

/// Comings and goings that wait to be told.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// When the present interval ends, and how many were told at once in it.
    ends: Option<Instant>,
    prompt: usize,
    waiting: Vec<Waiting>,
}

/// How soon others are to hear that a participant came, is connected or left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Urgency {
    Now,
    Soon,
}

#[derive(Debug)]
struct Waiting {
    key: ParticipantKey,
    identity: String,
    /// What is told of one that has left; of others what they are by then.
    left: Option<ParticipantInfo>,
}

impl Gathered {
    /// When [`Room::tell_gathered`] is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.ends.filter(|_| !self.waiting.is_empty())
    }

    /// Whether one more may be told at once.
    fn admits(&mut self, now: Instant) -> bool {
        if self.ends.is_none_or(|ends| ends <= now) && self.waiting.is_empty() {
            (self.ends, self.prompt) = (Some(now + GATHER), 0);
        }
        self.prompt += 1;
        self.waiting.is_empty() && self.prompt <= PROMPT
    }

    fn wait(&mut self, key: ParticipantKey, identity: &str, left: Option<ParticipantInfo>) {
        match self.waiting.iter_mut().find(|waiting| waiting.key == key) {
            Some(waiting) => waiting.left = left,
            None => self.waiting.push(Waiting { key, identity: identity.to_owned(), left }),
        }
    }

    /// What must be told before anything of `identity` is: that its earlier session has left.
    fn departures_of(&mut self, key: ParticipantKey, identity: &str) -> Vec<ParticipantInfo> {
        let before = self.waiting.extract_if(.., |waiting| waiting.identity == identity);
        before.filter(|waiting| waiting.key != key).filter_map(|waiting| waiting.left).collect()
    }
}

impl Participant {
    /// Those that publish are urgent.
    pub(super) fn urgency(&self) -> Urgency {
        let publishes = self.tracks.iter().any(|track| track.live) || !self.data_tracks.is_empty();
        if publishes { Urgency::Now } else { Urgency::Soon }
    }
}

impl Room {
    /// Tells everybody who may know, and the participant itself, what it is now; at once.
    pub(super) fn announce(&mut self, key: ParticipantKey, turn: &mut Turn<'_>) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        participant.version += 1;
        let info = participant.info();
        if !participant.is_visible() {
            turn.signal(key, update(vec![info]));
            return;
        }
        let mut infos = self.gathered.departures_of(key, &participant.identity);
        infos.push(info);
        turn.signal_all(self.participants.keys().copied().collect(), update(infos));
    }

    /// Tells the participant itself that its connection is up, and others when they are to know.
    pub(super) fn announce_active(&mut self, key: ParticipantKey, turn: &mut Turn<'_>) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if participant.urgency() == Urgency::Now {
            self.announce(key, turn);
            return;
        }
        participant.version += 1;
        turn.signal(key, update(vec![participant.info()]));
        self.announce_to_others(key, turn);
    }

    /// Tells the others that a participant is there.
    pub(super) fn announce_to_others(&mut self, key: ParticipantKey, turn: &mut Turn<'_>) {
        let Some(participant) = self.participants.get(&key).filter(|p| p.is_visible()) else { return };
        if participant.urgency() == Urgency::Soon && !self.gathered.admits(turn.now) {
            self.gathered.wait(key, &participant.identity, None);
            return;
        }
        let mut infos = self.gathered.departures_of(key, &participant.identity);
        infos.push(participant.info());
        turn.signal_all(self.others(key), update(infos));
    }

    /// Tells the others that a participant, no longer in the room, has left.
    pub(super) fn announce_left(
        &mut self,
        left: &Participant,
        info: ParticipantInfo,
        urgency: Urgency,
        turn: &mut Turn<'_>,
    ) {
        if urgency == Urgency::Soon && !self.gathered.admits(turn.now) {
            self.gathered.wait(left.key, &left.identity, Some(info));
            return;
        }
        let mut infos = self.gathered.departures_of(left.key, &left.identity);
        infos.push(info);
        turn.signal_all(self.others(left.key), update(infos));
    }

    /// Tells everybody what has been gathered, if it is time.
    pub(super) fn tell_gathered(&mut self, turn: &mut Turn<'_>) {
        if self.gathered.due().is_none_or(|due| due > turn.now) {
            return;
        }
        let waiting = std::mem::take(&mut self.gathered).waiting;
        let infos: Vec<ParticipantInfo> = waiting
            .into_iter()
            .filter_map(|waiting| {
                let present = || self.participants.get(&waiting.key).filter(|p| p.is_visible());
                waiting.left.or_else(|| present().map(Participant::info))
            })
            .collect();
        let everybody: Vec<ParticipantKey> = self.participants.keys().copied().collect();
        for chunk in chunks(infos) {
            turn.signal_all(everybody.clone(), update(chunk));
        }
    }
}

/// An update of these participants.
pub(super) fn update(participants: Vec<ParticipantInfo>) -> signal_response::Message {
    signal_response::Message::Update(ParticipantUpdate { participants })
}

/// Cuts a list so that no update is much longer than [`CHUNK_BYTES`].
pub(super) fn chunks(infos: Vec<ParticipantInfo>) -> Vec<Vec<ParticipantInfo>> {
    let mut chunks = Vec::new();
    let mut bytes = usize::MAX;
    for info in infos {
        let len = info.encoded_len();
        if bytes.saturating_add(len) > CHUNK_BYTES {
            chunks.push(Vec::new());
            bytes = 0;
        }
        bytes += len;
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(info);
        }
    }
    chunks
}
