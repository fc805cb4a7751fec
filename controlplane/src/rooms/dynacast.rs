//! Dynacast: a publisher learns the best quality anybody wants of its video, so that it need not send more, and whether somebody
//! needs it in the backup codec. More is asked for at once, less only after a while, so that somebody who looks away for a moment
//! costs nothing.

use std::time::{Duration, Instant};

use auralink_livekit::{
    SubscribedCodec, SubscribedQuality, SubscribedQualityUpdate, VideoQuality, signal_response,
};
use auralink_proto::{MediaKind, TrackId};

use super::participant::Participant;
use super::room::{Room, Turn};
use super::track::{Track, is_permitted, wanted_quality};

/// A new track is left alone for this long: subscribers are only arriving.
const FIRST_AFTER: Duration = Duration::from_secs(10);
/// Nobody may have wanted a quality for this long before it is given up.
const LOWER_AFTER: Duration = Duration::from_secs(5);

const QUALITIES: [VideoQuality; 3] = [VideoQuality::Low, VideoQuality::Medium, VideoQuality::High];

/// How many of the qualities, from the lowest up, are wanted in the track's own codec and in its backup.
type Counts = [usize; 2];

/// What a publisher was told of a track.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    live: Option<Instant>,
    /// How many of the qualities were wanted.
    told: Option<Counts>,
    /// When less may be told.
    lower: Option<Instant>,
}

impl Demand {
    /// What the publisher is to be told now.
    fn due(&mut self, wanted: Counts, now: Instant) -> Option<Counts> {
        let first = *self.live.get_or_insert(now) + FIRST_AFTER;
        let [own, backup] = wanted;
        let counts = match self.told {
            None if now >= first => wanted,
            // Whoever needs the backup does not wait for others to arrive; the track's own codec is left alone all the same.
            None if backup > 0 => [QUALITIES.len(), backup],
            None => return None,
            Some([told_own, told_backup]) if own > told_own || backup > told_backup => {
                [own.max(told_own), backup.max(told_backup)]
            }
            Some(told) if told == wanted => {
                self.lower = None;
                return None;
            }
            Some(_) if now < *self.lower.get_or_insert(now + LOWER_AFTER) => return None,
            Some(_) => wanted,
        };
        (self.told, self.lower) = (Some(counts), None);
        Some(counts)
    }
}

impl Room {
    /// Who wants what of a track may have changed.
    pub(super) fn demand_changed(&mut self, id: TrackId) {
        self.demands_changed.insert(id);
    }

    /// Looks at the tracks whose demand may have changed.
    pub(super) fn review_demands(&mut self, turn: &mut Turn<'_>) {
        while let Some(id) = self.demands_changed.pop_first() {
            if self.review(id, turn) {
                self.demands_waiting.insert(id);
            }
        }
    }

    /// Time passes.
    pub(super) fn review_waiting_demands(&mut self, turn: &mut Turn<'_>) {
        self.demands_changed.append(&mut self.demands_waiting);
        self.review_demands(turn);
    }

    /// Tells a publisher what has changed for long enough; true when something has to wait.
    fn review(&mut self, id: TrackId, turn: &mut Turn<'_>) -> bool {
        let Some((publisher, track)) = self.find_track(id) else { return false };
        // What is muted is not sent anyway, and will be looked at again.
        if track.kind != MediaKind::Video || !track.live || track.info.muted {
            return false;
        }
        let (key, sid) = (publisher.key, track.info.sid.clone());
        let wanted = [false, true].map(|in_backup| self.qualities_wanted(publisher, track, in_backup));
        let codecs = track.info.codecs.iter().map(|codec| codec_name(&codec.mime_type)).collect();
        let participant = self.participants.get_mut(&key);
        let track = participant.and_then(|p| p.tracks.iter_mut().find(|t| t.id == id));
        let Some(demand) = track.map(|track| &mut track.demand) else { return false };
        let due = demand.due(wanted, turn.now);
        let waits = demand.told != Some(wanted);
        if let Some(counts) = due {
            let message = signal_response::Message::SubscribedQualityUpdate(update(sid, codecs, counts));
            turn.signal(key, message);
        }
        waits
    }

    /// How many of the qualities anybody wants, of those who can decode the track or, `in_backup`, of the others.
    fn qualities_wanted(&self, publisher: &Participant, track: &Track, in_backup: bool) -> usize {
        let sid = &track.info.sid;
        let receivers = self.participants.values().filter(|receiver| {
            let allowed = is_permitted(publisher.permission.as_ref(), &receiver.sid, &receiver.identity, sid);
            let lacks = track.backup.lacking.contains(&receiver.key);
            receiver.key != publisher.key && lacks == in_backup && receiver.wishes(sid) && allowed
        });
        let qualities = receivers.map(|receiver| {
            let adaptive = receiver.settings.adaptive_stream;
            let quality = wanted_quality(&track.info, receiver.track_settings.get(sid), adaptive);
            QUALITIES.iter().position(|known| *known == quality).map_or(0, |place| place + 1)
        });
        qualities.max().unwrap_or(0)
    }
}

/// `vp8` of `video/VP8`.
fn codec_name(mime: &str) -> String {
    mime.rsplit('/').next().unwrap_or_default().to_ascii_lowercase()
}

#[allow(deprecated, reason = "older clients read the deprecated fields")]
fn update(track_sid: String, codecs: Vec<String>, [own, backup]: Counts) -> SubscribedQualityUpdate {
    let qualities = |wanted: usize| -> Vec<SubscribedQuality> {
        let quality = |(place, quality): (usize, &VideoQuality)| SubscribedQuality {
            quality: (*quality).into(),
            enabled: place < wanted,
        };
        QUALITIES.iter().enumerate().map(quality).collect()
    };
    // Its own codec, the backup, and others it may have announced, which nobody needs.
    let wanted = [own, backup].into_iter().chain(std::iter::repeat(0));
    let codecs = codecs.into_iter().zip(wanted);
    SubscribedQualityUpdate {
        track_sid,
        subscribed_codecs: codecs
            .map(|(codec, wanted)| SubscribedCodec { codec, qualities: qualities(wanted) })
            .collect(),
        subscribed_qualities: qualities(own),
    }
}
