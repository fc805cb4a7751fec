//! Backup codecs: a publisher sends the same picture once more, in a codec that everybody has, while somebody cannot decode the
//! first. To the room it is one track with one sid; to the data plane two, and each subscriber follows one of them.

use std::collections::BTreeSet;

use auralink_livekit::{AddTrackRequest, TrackPublishedResponse, request_response::Reason, signal_response};
use auralink_proto::{Codec, MediaKind, TrackId};

use super::participant::ParticipantKey;
use super::room::{Output, Room, Turn};
use super::track::{Track, preference};
use crate::negotiator::Publication;
use crate::negotiator::codec::encoding;

/// The second encoding of a track.
#[derive(Clone, Debug, Default)]
pub struct Backup {
    /// Of the data plane, once the publisher has announced it.
    pub id: Option<TrackId>,
    /// What its media is, once there is any.
    pub codec: Option<Codec>,
    /// Who cannot decode the first encoding.
    pub lacking: BTreeSet<ParticipantKey>,
}

impl Track {
    /// The data plane's tracks behind it.
    pub fn ids(&self) -> impl Iterator<Item = TrackId> + use<> {
        std::iter::once(self.id).chain(self.backup.id)
    }

    /// Whether the data plane knows it, or its second encoding, by this identifier.
    pub fn is(&self, id: TrackId) -> bool {
        self.id == id || self.backup.id == Some(id)
    }

    /// Whether its publisher is ready to send a second encoding.
    pub fn offers_backup(&self) -> bool {
        self.kind == MediaKind::Video && self.info.codecs.len() > 1
    }

    /// What a subscriber is to follow; `None` while there is nothing it could decode.
    pub fn encoding_for(&self, subscriber: ParticipantKey) -> Option<(TrackId, Codec)> {
        if self.backup.lacking.contains(&subscriber) {
            self.backup.id.zip(self.backup.codec)
        } else {
            self.codec.map(|codec| (self.id, codec))
        }
    }
}

impl Room {
    /// A publisher announces the second encoding of a track it has.
    pub(super) fn add_backup(
        &mut self,
        key: ParticipantKey,
        request: &AddTrackRequest,
        turn: &mut Turn<'_>,
    ) -> Result<(), Reason> {
        let participant = self.participants.get_mut(&key).ok_or(Reason::NotFound)?;
        let transport = participant.transport;
        let track = participant.tracks.iter_mut().find(|track| track.info.sid == request.sid);
        let track = track.ok_or(Reason::NotFound)?;
        let announced = request.simulcast_codecs.first().ok_or(Reason::UnsupportedType)?;
        let mime = encoding(&announced.codec).map(|encoding| encoding.mime()).unwrap_or_default();
        // The first encoding is the one the track is known by.
        let known = track.info.codecs.iter_mut().skip(1).find(|codec| codec.mime_type == mime);
        let known = known.ok_or(Reason::UnsupportedType)?;
        if track.backup.id.is_some() {
            return Err(Reason::LimitExceeded);
        }
        known.cid.clone_from(&announced.cid);
        let id = turn.mint.track(transport);
        track.backup.id = Some(id);
        let info = track.info.clone();
        let publication = Publication {
            track: id,
            kind: track.kind,
            cids: vec![request.cid.clone(), announced.cid.clone()],
            muted: info.muted,
            opus_extra: String::new(),
            preference: preference(track.kind, request),
        };
        tracing::debug!(room = %self.params.name, participant = %participant.sid, track = %info.sid, mime, "backup codec announced");
        participant.negotiator.publish(publication);
        turn.out.push(Output::RouteTrack(id, true));
        let published = TrackPublishedResponse { cid: request.cid.clone(), track: Some(info) };
        turn.signal(key, signal_response::Message::TrackPublished(published));
        Ok(())
    }

    /// First media of a second encoding: who waits for it gets it.
    pub(super) fn backup_live(&mut self, key: ParticipantKey, id: TrackId, codec: Codec, turn: &Turn<'_>) {
        let participant = self.participants.get_mut(&key);
        let track = participant.and_then(|p| p.tracks.iter_mut().find(|track| track.backup.id == Some(id)));
        let Some(track) = track else { return };
        track.backup.codec = Some(codec);
        tracing::debug!(room = %self.params.name, track = %track.info.sid, mime = codec.encoding().mime(), "backup codec live");
        self.offer_track_to_all(key, id, turn);
    }

    /// The publisher stopped sending a second encoding; it may announce it again.
    pub(super) fn drop_backup(&mut self, key: ParticipantKey, id: TrackId, turn: &mut Turn<'_>) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let Some(track) = participant.tracks.iter_mut().find(|track| track.backup.id == Some(id)) else {
            return;
        };
        (track.backup.id, track.backup.codec) = (None, None);
        participant.negotiator.unpublish(id);
        turn.out.push(Output::RouteTrack(id, false));
        for other in self.participants.values_mut() {
            other.unwant(id);
            self.touched.insert(other.key);
        }
    }

    /// A subscriber cannot decode the first encoding of a track that may have a second. False when there is none.
    pub(super) fn falls_back(&mut self, subscriber: ParticipantKey, id: TrackId, turn: &Turn<'_>) -> bool {
        let publisher = self.find_track(id).map(|(publisher, _)| publisher.key);
        let participant = publisher.and_then(|key| self.participants.get_mut(&key));
        let track = participant.and_then(|p| p.tracks.iter_mut().find(|track| track.id == id));
        let Some(track) = track.filter(|track| track.offers_backup()) else { return false };
        track.backup.lacking.insert(subscriber);
        self.reconcile(subscriber, id, turn);
        true
    }

    /// A subscriber is gone: nobody is kept waiting for what it could not decode.
    pub(super) fn forget_lacking(&mut self, subscriber: ParticipantKey) {
        for participant in self.participants.values_mut() {
            for track in &mut participant.tracks {
                track.backup.lacking.remove(&subscriber);
            }
        }
    }
}
