//! Subscribing: who receives which track, in what quality, and who may.

use auralink_livekit::{
    SubscriptionError, SubscriptionPermission, SubscriptionPermissionUpdate, SubscriptionResponse,
    UpdateSubscription, UpdateTrackSettings, signal_response,
};
use auralink_proto::{Command, TrackId};

use super::participant::ParticipantKey;
use super::room::{Output, Room, Turn};
use super::track::{intent, is_permitted};
use crate::negotiator::Wanted;

/// Track sids one message may name.
const NAMED_MAX: usize = 1_024;
/// Wishes and settings kept per participant; they name tracks that may not exist yet.
const KEPT_MAX: usize = 4_096;

impl Room {
    /// Brings one subscriber's wish for one track in line with rules and wishes.
    pub(super) fn reconcile(&mut self, subscriber: ParticipantKey, id: TrackId, turn: &Turn<'_>) {
        let Some((publisher, track)) = self.find_track(id) else { return };
        let Some(receiver) = self.participants.get(&subscriber) else { return };
        if track.codec.is_none() {
            return;
        }
        let followed = track.encoding_for(subscriber);
        let wants = publisher.key != subscriber
            && track.live
            && receiver.wishes(&track.info.sid)
            && is_permitted(
                publisher.permission.as_ref(),
                &receiver.sid,
                &receiver.identity,
                &track.info.sid,
            );
        let wanted = followed.filter(|_| wants).map(|(track_id, codec)| Wanted {
            track: track_id,
            kind: track.kind,
            codec,
            encrypted: track.is_encrypted(),
            sid: track.info.sid.clone(),
            publisher_sid: publisher.sid.clone(),
        });
        let (id, ids) = (track.id, track.ids());
        if let Some(receiver) = self.participants.get_mut(&subscriber) {
            let kept = wanted.as_ref().map(|wanted| wanted.track);
            ids.filter(|id| Some(*id) != kept).for_each(|id| receiver.unwant(id));
            if wanted.is_some_and(|wanted| receiver.want(wanted)) {
                turn.telemetry.calls.subscribing();
            }
            self.touched.insert(subscriber);
        }
        self.demand_changed(id);
    }

    /// The client has no codec for a track it would have received: it waits for a backup codec where
    /// there may be one, else it is told, and may not expect media.
    pub(super) fn track_unsupported(&mut self, key: ParticipantKey, id: TrackId, turn: &mut Turn<'_>) {
        if self.falls_back(key, id, turn) {
            return;
        }
        let Some((_, track)) = self.find_track(id) else { return };
        tracing::debug!(room = %self.params.name, track = %track.info.sid, "a subscriber lacks the codec");
        let err = SubscriptionError::SeCodecUnsupported;
        turn.telemetry.calls.not_subscribed(err.as_str_name());
        let response = SubscriptionResponse { track_sid: track.info.sid.clone(), err: err.into() };
        turn.signal(key, signal_response::Message::SubscriptionResponse(response));
    }

    fn live_tracks(&self) -> Vec<TrackId> {
        self.participants.values().flat_map(|p| p.tracks.iter()).filter(|t| t.live).map(|t| t.id).collect()
    }

    /// A newcomer gets what is there.
    pub(super) fn subscribe_to_all(&mut self, key: ParticipantKey, turn: &Turn<'_>) {
        for id in self.live_tracks() {
            self.reconcile(key, id, turn);
        }
    }

    /// Everybody gets what is new.
    pub(super) fn offer_track_to_all(&mut self, publisher: ParticipantKey, id: TrackId, turn: &Turn<'_>) {
        for key in self.others(publisher) {
            self.reconcile(key, id, turn);
        }
    }

    /// `subscription`
    pub(super) fn update_subscription(
        &mut self,
        key: ParticipantKey,
        update: &UpdateSubscription,
        turn: &Turn<'_>,
    ) {
        let grouped = update.participant_tracks.iter().flat_map(|tracks| tracks.track_sids.iter());
        let sids: Vec<&String> = update.track_sids.iter().chain(grouped).take(NAMED_MAX).collect();
        for sid in sids {
            let Some(participant) = self.participants.get_mut(&key) else { return };
            if participant.subscriptions.len() < KEPT_MAX {
                participant.subscriptions.insert(sid.clone(), update.subscribe);
            }
            if let Some(id) = self.find_track_sid(sid).map(|(_, track)| track.id) {
                self.reconcile(key, id, turn);
            }
        }
    }

    /// `track_setting`
    pub(super) fn update_track_settings(
        &mut self,
        key: ParticipantKey,
        update: &UpdateTrackSettings,
        turn: &mut Turn<'_>,
    ) {
        for sid in update.track_sids.iter().take(NAMED_MAX) {
            let Some(participant) = self.participants.get_mut(&key) else { return };
            if participant.track_settings.len() < KEPT_MAX {
                participant
                    .track_settings
                    .insert(sid.clone(), UpdateTrackSettings { track_sids: Vec::new(), ..update.clone() });
            }
            let Some(id) = self.find_track_sid(sid).map(|(_, track)| track.id) else { continue };
            self.demand_changed(id);
            let Some(participant) = self.participants.get(&key) else { return };
            let Some((_, track)) = self.find_track(id) else { continue };
            let Some(mid) = track.ids().find_map(|id| participant.mid_of(id)) else { continue };
            let intent = intent(
                &track.info,
                participant.track_settings.get(sid),
                participant.settings.adaptive_stream,
            );
            let transport = participant.receiving_transport();
            turn.out.push(Output::Command(transport.shard(), Command::SetIntent { transport, mid, intent }));
        }
    }

    /// `subscription_permission`
    pub(super) fn update_permission(
        &mut self,
        key: ParticipantKey,
        mut permission: SubscriptionPermission,
        turn: &mut Turn<'_>,
    ) {
        permission.track_permissions.truncate(NAMED_MAX);
        let Some(publisher) = self.participants.get_mut(&key) else { return };
        let before = publisher.permission.replace(permission);
        let after = publisher.permission.clone();
        let publisher_sid = publisher.sid.clone();
        let tracks: Vec<(TrackId, String)> =
            publisher.tracks.iter().filter(|t| t.live).map(|t| (t.id, t.info.sid.clone())).collect();
        for other in self.others(key) {
            for (id, track_sid) in &tracks {
                let Some(receiver) = self.participants.get(&other) else { continue };
                let allowed = |permission: Option<&SubscriptionPermission>| {
                    is_permitted(permission, &receiver.sid, &receiver.identity, track_sid)
                };
                let (was, is) = (allowed(before.as_ref()), allowed(after.as_ref()));
                if was == is {
                    continue;
                }
                let update = SubscriptionPermissionUpdate {
                    participant_sid: publisher_sid.clone(),
                    track_sid: track_sid.clone(),
                    allowed: is,
                };
                turn.signal(other, signal_response::Message::SubscriptionPermissionUpdate(update));
                self.reconcile(other, *id, turn);
            }
        }
    }
}
