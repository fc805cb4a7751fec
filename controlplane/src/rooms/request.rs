//! What a client asks over signalling, one arm a request.

use auralink_livekit::request_response::Reason;
use auralink_livekit::{
    DisconnectReason, RequestResponse, SignalRequest, UpdateParticipantMetadata, leave_request,
    request_response, signal_request::Message, signal_response,
};

use super::participant::ParticipantKey;
use super::room::{Room, Turn};
use crate::auth::NAME_BYTES_MAX;
use crate::telemetry::count;

/// Blobs beside data tracks are not kept here.
fn refuse_blob(key: ParticipantKey, request_id: u32, turn: &mut Turn<'_>) {
    let response = RequestResponse {
        request_id,
        reason: Reason::NotAllowed.into(),
        message: "data blobs are not enabled on this server".into(),
        request: None,
    };
    turn.signal(key, signal_response::Message::RequestResponse(response));
}

impl Room {
    #[allow(deprecated, reason = "older clients send the deprecated requests")]
    /// One request of a participant. Pings are answered before they come here.
    pub fn handle_request(&mut self, key: ParticipantKey, request: SignalRequest, turn: &mut Turn<'_>) {
        if !self.participants.contains_key(&key) {
            return;
        }
        let Some(message) = request.message else {
            count(&turn.telemetry.counters.signal_unexpected);
            return;
        };
        match message {
            Message::Offer(offer) => self.handle_offer(key, &offer, turn),
            Message::AddTrack(request) => self.add_track(key, request, turn),
            Message::Mute(request) => self.mute_track(key, &request, turn),
            Message::Subscription(update) => self.update_subscription(key, &update, turn),
            Message::TrackSetting(update) => self.update_track_settings(key, &update, turn),
            Message::SubscriptionPermission(update) => self.update_permission(key, update, turn),
            Message::UpdateMetadata(update) => self.update_metadata(key, update, turn),
            Message::UpdateAudioTrack(update) => self.update_audio_track(key, update, turn),
            Message::UpdateVideoTrack(update) => self.update_video_track(key, &update, turn),
            Message::Leave(leave) => {
                let reason = DisconnectReason::try_from(leave.reason).ok();
                let reason = reason.filter(|reason| *reason != DisconnectReason::UnknownReason);
                let reason = reason.unwrap_or(DisconnectReason::ClientInitiated);
                if let Some(participant) = self.participants.get_mut(&key) {
                    // Who leaves is not told to leave.
                    participant.signal_closed = Some(turn.now);
                }
                self.remove(key, reason, leave_request::Action::Disconnect, turn);
            }
            Message::Answer(answer) => self.handle_answer(key, &answer, turn),
            Message::SyncState(state) => self.handle_sync_state(key, &state, turn),
            Message::Simulate(scenario) => self.simulate(key, &scenario, turn),
            Message::PublishDataTrackRequest(request) => self.publish_data_track(key, request, turn),
            Message::UnpublishDataTrackRequest(request) => self.unpublish_data_track(key, request, turn),
            Message::UpdateDataSubscription(update) => self.update_data_subscription(key, &update, turn),
            Message::StoreDataBlobRequest(request) => refuse_blob(key, request.request_id, turn),
            Message::GetDataBlobRequest(request) => refuse_blob(key, request.request_id, turn),
            // An ICE-lite server learns addresses from connectivity checks, and layers from what arrives.
            Message::Trickle(_) | Message::UpdateLayers(_) => {}
            _ => count(&turn.telemetry.counters.signal_unexpected),
        }
        self.settle(turn);
    }

    fn update_metadata(
        &mut self,
        key: ParticipantKey,
        update: UpdateParticipantMetadata,
        turn: &mut Turn<'_>,
    ) {
        let limit = self.params.limit.clone();
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let mut attributes = participant.attributes.clone();
        for (name, value) in &update.attributes {
            if value.is_empty() {
                attributes.remove(name);
            } else {
                attributes.insert(name.clone(), value.clone());
            }
        }
        let attribute_bytes: usize = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
        let (reason, message) = if !participant.grant.may_update_own_metadata() {
            (Reason::NotAllowed, "does not have permission to update own metadata")
        } else if update.metadata.len() > limit.metadata_bytes_max
            || attribute_bytes > limit.attributes_bytes_max
            || update.name.len() > NAME_BYTES_MAX
        {
            (Reason::LimitExceeded, "metadata, attributes or name are too long")
        } else {
            (Reason::Ok, "")
        };
        let request_id = update.request_id;
        if reason == Reason::Ok {
            if !update.metadata.is_empty() {
                participant.metadata.clone_from(&update.metadata);
            }
            if !update.name.is_empty() {
                participant.name.clone_from(&update.name);
            }
            participant.attributes = attributes;
            self.announce(key, turn);
            self.refresh_token(key, turn);
        }
        let response = RequestResponse {
            request_id,
            reason: reason.into(),
            message: message.into(),
            request: Some(request_response::Request::UpdateMetadata(update)),
        };
        turn.signal(key, signal_response::Message::RequestResponse(response));
    }
}
