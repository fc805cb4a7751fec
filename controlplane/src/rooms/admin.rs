//! What server APIs do to a room and to those in it.

use auralink_livekit::{
    DisconnectReason, MuteRoomTrackRequest, MuteTrackRequest, ParticipantInfo, ParticipantPermission,
    Room as RoomInfo, TrackInfo, TrackSource, TrackUnpublishedResponse, UpdateParticipantRequest,
    UpdateSubscription, UpdateSubscriptionsRequest, leave_request, participant_info, signal_response,
};
use auralink_proto::TrackId;

use super::participant::ParticipantKey;
use super::room::{Room, Turn};
use super::rpc::Rpcs;
use super::server_data::Nonces;
use super::updates::update;
use crate::auth::{NAME_BYTES_MAX, VideoGrant};

/// Why a server API did nothing. The caller's fault, all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AdminError {
    #[error("participant does not exist")]
    NoParticipant,
    #[error("track is not found")]
    NoTrack,
    #[error("remote unmute not enabled")]
    RemoteUnmute,
    /// Names what is too long.
    #[error("{0} exceeds limits")]
    TooLong(&'static str),
    #[error("data is longer than a data channel carries")]
    DataTooLong,
}

/// What a room remembers for server APIs.
#[derive(Debug, Default)]
pub(super) struct AdminState {
    pub(super) rpcs: Rpcs,
    pub(super) nonces: Nonces,
}

impl Room {
    pub(super) fn key_of(&self, identity: &str) -> Result<ParticipantKey, AdminError> {
        let found = self.participants.values().find(|p| p.identity == identity);
        found.map(|p| p.key).ok_or(AdminError::NoParticipant)
    }

    /// What is known of one participant.
    ///
    /// # Errors
    /// [`AdminError::NoParticipant`]
    pub fn participant_info(&self, identity: &str) -> Result<ParticipantInfo, AdminError> {
        let key = self.key_of(identity)?;
        self.participants.get(&key).map(|p| p.info()).ok_or(AdminError::NoParticipant)
    }

    /// `RemoveParticipant`: sends a participant away for good.
    ///
    /// # Errors
    /// [`AdminError::NoParticipant`]
    pub fn expel(&mut self, identity: &str, turn: &mut Turn<'_>) -> Result<(), AdminError> {
        let key = self.key_of(identity)?;
        self.remove(key, DisconnectReason::ParticipantRemoved, leave_request::Action::Disconnect, turn);
        self.settle(turn);
        Ok(())
    }

    /// `MutePublishedTrack`: mutes a track, or unmutes it where `may_unmute`, and tells its publisher to do the same.
    ///
    /// # Errors
    /// [`AdminError`]
    pub fn mute_remotely(
        &mut self,
        request: &MuteRoomTrackRequest,
        may_unmute: bool,
        turn: &mut Turn<'_>,
    ) -> Result<TrackInfo, AdminError> {
        let key = self.key_of(&request.identity)?;
        self.track_of(key, &request.track_sid)?;
        if !request.muted && !may_unmute {
            return Err(AdminError::RemoteUnmute);
        }
        let mute = MuteTrackRequest { sid: request.track_sid.clone(), muted: request.muted };
        // In this order: a client that learns by an update what it did not do itself sets it right again.
        turn.signal(key, signal_response::Message::Mute(mute.clone()));
        self.mute_track(key, &mute, turn);
        self.settle(turn);
        self.track_of(key, &request.track_sid)
    }

    fn track_of(&self, key: ParticipantKey, sid: &str) -> Result<TrackInfo, AdminError> {
        let publisher = self.participants.get(&key).ok_or(AdminError::NoParticipant)?;
        let track = publisher.tracks.iter().find(|track| track.info.sid == sid);
        track.map(|track| track.info.clone()).ok_or(AdminError::NoTrack)
    }

    /// `UpdateParticipant`: what is empty stays as it is, an attribute with an empty value is deleted.
    ///
    /// # Errors
    /// [`AdminError`]; nothing has changed then.
    pub fn update_participant(
        &mut self,
        request: UpdateParticipantRequest,
        turn: &mut Turn<'_>,
    ) -> Result<ParticipantInfo, AdminError> {
        let key = self.key_of(&request.identity)?;
        let limit = &self.params.limit;
        let (metadata_max, attributes_max) = (limit.metadata_bytes_max, limit.attributes_bytes_max);
        let participant = self.participants.get_mut(&key).ok_or(AdminError::NoParticipant)?;
        let mut attributes = participant.attributes.clone();
        attributes.extend(request.attributes);
        attributes.retain(|_, value| !value.is_empty());
        let attribute_bytes: usize = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
        if request.metadata.len() > metadata_max {
            return Err(AdminError::TooLong("metadata size"));
        }
        if request.name.len() > NAME_BYTES_MAX {
            return Err(AdminError::TooLong("name length"));
        }
        if attribute_bytes > attributes_max {
            return Err(AdminError::TooLong("attribute size"));
        }
        participant.attributes = attributes;
        if !request.metadata.is_empty() {
            participant.metadata = request.metadata;
        }
        if !request.name.is_empty() {
            participant.name = request.name;
        }
        if let Some(permission) = &request.permission {
            self.permit(key, permission, turn);
        }
        self.announce(key, turn);
        self.refresh_token(key, turn);
        self.settle(turn);
        self.participant_info(&request.identity)
    }

    /// Puts new permissions in force: what is no longer allowed ends now.
    fn permit(&mut self, key: ParticipantKey, permission: &ParticipantPermission, turn: &mut Turn<'_>) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let before = participant.grant.clone();
        grant_from(&mut participant.grant, permission);
        let after = participant.grant.clone();
        let barred = |source: TrackSource| !after.may_publish_source(source);
        let ended: Vec<(TrackId, String)> = participant
            .tracks
            .iter()
            .filter(|track| barred(track.info.source()))
            .map(|track| (track.id, track.info.sid.clone()))
            .collect();
        for (id, track_sid) in ended {
            let told = TrackUnpublishedResponse { track_sid };
            turn.signal(key, signal_response::Message::TrackUnpublished(told));
            self.drop_track(key, id, turn);
        }
        if !after.may_publish_data() {
            self.end_data_tracks(key, turn);
        }
        if before.may_subscribe() != after.may_subscribe() {
            self.subscribe_to_all(key, turn);
        }
        if after.hidden && !before.hidden {
            self.vanish(key, turn);
        }
    }

    /// To the others a participant that hides has left.
    fn vanish(&mut self, key: ParticipantKey, turn: &mut Turn<'_>) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        participant.version += 1;
        let mut info = participant.info();
        info.state = participant_info::State::Disconnected.into();
        info.tracks.clear();
        turn.signal_all(self.others(key), update(vec![info]));
    }

    /// `UpdateSubscriptions`: as if the participant had asked for it.
    ///
    /// # Errors
    /// [`AdminError::NoParticipant`]
    pub fn update_subscriptions_of(
        &mut self,
        request: UpdateSubscriptionsRequest,
        turn: &mut Turn<'_>,
    ) -> Result<(), AdminError> {
        let key = self.key_of(&request.identity)?;
        let update = UpdateSubscription {
            track_sids: request.track_sids,
            subscribe: request.subscribe,
            participant_tracks: request.participant_tracks,
        };
        self.update_subscription(key, &update, turn);
        self.settle(turn);
        Ok(())
    }

    /// `UpdateRoomMetadata`, told to everybody at once.
    pub fn update_room(&mut self, metadata: String, turn: &mut Turn<'_>) -> RoomInfo {
        self.params.metadata = metadata;
        self.tell_room(turn);
        self.info()
    }
}

/// Overlays a token's grant with permissions given later.
pub(crate) fn grant_from(grant: &mut VideoGrant, permission: &ParticipantPermission) {
    grant.can_subscribe = Some(permission.can_subscribe);
    grant.can_publish = Some(permission.can_publish);
    grant.can_publish_data = Some(permission.can_publish_data);
    grant.can_publish_sources = permission
        .can_publish_sources
        .iter()
        .filter_map(|source| TrackSource::try_from(*source).ok())
        .map(|source| source.as_str_name().to_ascii_lowercase())
        .collect();
    grant.hidden = permission.hidden;
    grant.can_update_own_metadata = Some(permission.can_update_metadata);
    grant.can_subscribe_metrics = Some(permission.can_subscribe_metrics);
}
