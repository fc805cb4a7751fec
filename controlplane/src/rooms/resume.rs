//! Coming back: a participant whose signalling broke continues with a new connection, its media untouched.

use auralink_livekit::{
    DisconnectReason, ReconnectResponse, RoomUpdate, SyncState, UpdateTrackSettings, leave_request,
    signal_response,
};
use auralink_proto::{Command, DataChannel};

use super::join::server_info;
use super::participant::{Participant, ParticipantKey, ResumeParams};
use super::room::{MISSED_MAX, Output, Room, Turn};
use super::simulate::Cut;
use super::updates::{chunks, update};
use crate::telemetry::count;

/// Tracks and senders one state may name.
const NAMED_MAX: usize = 1_024;

impl Room {
    /// Who a client says it is, if it is still here and can be told all that happened meanwhile.
    pub fn resumable(&self, params: &ResumeParams) -> Option<ParticipantKey> {
        let is_it = |p: &&Participant| {
            p.sid == params.participant_sid && p.identity == params.identity && p.missed.len() <= MISSED_MAX
        };
        self.participants.values().find(is_it).map(|participant| participant.key)
    }

    /// A participant has a new signalling connection.
    pub fn handle_resume(&mut self, key: ParticipantKey, params: ResumeParams, turn: &mut Turn<'_>) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let cut = participant.cut_on_resume.take();
        if cut == Some(Cut::BeforeMessages) {
            self.cut_signal(key, turn);
            return;
        }
        tracing::info!(room = %self.params.name, participant = %participant.sid, "participant resumed");
        count(&turn.telemetry.counters.resumes);
        participant.signal_closed = None;
        let mut participants = std::mem::take(&mut participant.missed);
        if let Some(downlink) = &mut participant.downlink {
            downlink.negotiator.restart_ice(turn.mint);
        }
        let last_message_seq = participant.last_sequence;
        let Some(participant) = self.participants.get(&key) else { return };
        let (ice_servers, client_configuration) = self.surroundings(participant, turn);
        let response = ReconnectResponse {
            ice_servers,
            client_configuration,
            server_info: Some(server_info(&self.params.region, &self.params.node_sid)),
            last_message_seq,
        };
        turn.signal(key, signal_response::Message::Reconnect(response));
        if cut == Some(Cut::AfterReconnect) {
            self.cut_signal(key, turn);
            return;
        }
        let shown = self.participants.values().filter(|p| p.key == key || p.is_visible());
        participants.extend(shown.map(Participant::info));
        for chunk in chunks(participants) {
            turn.signal(key, update(chunk));
        }
        let update = RoomUpdate { room: Some(self.info()) };
        turn.signal(key, signal_response::Message::RoomUpdate(update));
        self.refresh_token(key, turn);
        if let Some(state) = params.sync_state {
            self.handle_sync_state(key, &state, turn);
        }
        if let Some(offer) = params.offer {
            self.handle_offer(key, &offer, turn);
        }
        self.touched.insert(key);
        self.settle(turn);
    }

    /// What a client believes after it came back. Where it believes in a track that is not here, it has to join anew.
    pub(super) fn handle_sync_state(&mut self, key: ParticipantKey, state: &SyncState, turn: &mut Turn<'_>) {
        let Some(participant) = self.participants.get(&key) else { return };
        let published = state.publish_tracks.iter().filter_map(|published| published.track.as_ref());
        let data = state.publish_data_tracks.iter().filter_map(|published| published.info.as_ref());
        let known = published.take(NAMED_MAX).all(|t| participant.tracks.iter().any(|u| u.info.sid == t.sid))
            && data.take(NAMED_MAX).all(|t| participant.data_tracks.iter().any(|u| u.info.sid == t.sid));
        if !known {
            let action = leave_request::Action::Reconnect;
            self.remove(key, DisconnectReason::StateMismatch, action, turn);
            return;
        }
        if let Some(subscription) = &state.subscription {
            self.update_subscription(key, subscription, turn);
        }
        if let Some(subscription) = &state.data_subscription {
            self.update_data_subscription(key, subscription, turn);
        }
        let disabled = UpdateTrackSettings {
            track_sids: state.track_sids_disabled.clone(),
            disabled: true,
            ..UpdateTrackSettings::default()
        };
        self.update_track_settings(key, &disabled, turn);
        self.replay(key, state, turn);
    }

    /// Sends again the latest reliable messages the client does not have.
    fn replay(&self, key: ParticipantKey, state: &SyncState, turn: &mut Turn<'_>) {
        let Some(participant) = self.participants.get(&key) else { return };
        let (transport, connected) = participant.primary();
        if !connected || state.datachannel_receive_states.len() > NAMED_MAX {
            return;
        }
        let last_of = |sid: &str| {
            let state = state.datachannel_receive_states.iter().find(|state| state.publisher_sid == sid);
            state.map_or(0, |state| state.last_seq)
        };
        for payload in self.recent.missed(turn.now, key, last_of) {
            let (transports, channel) = (vec![transport], DataChannel::Reliable);
            let command = Command::SendData { transports, channel, payload: payload.clone() };
            turn.out.push(Output::Command(transport.shard(), command));
        }
    }

    /// Closes a participant's signalling connection and nothing else.
    pub(super) fn cut_signal(&mut self, key: ParticipantKey, turn: &mut Turn<'_>) {
        if let Some(participant) = self.participants.get_mut(&key) {
            participant.signal_closed = Some(turn.now);
            turn.out.push(Output::Close(key));
        }
    }
}
