//! Mishaps a client may ask for, to see how it copes.

use std::time::Duration;

use auralink_livekit::simulate_scenario::Scenario;
use auralink_livekit::{
    CandidateProtocol, ClientConfigSetting, ClientConfiguration, DisconnectReason, IceServer,
    SimulateScenario, SpeakerInfo, SpeakersChanged, leave_request, signal_response,
};
use auralink_proto::{Candidate, Protocol};

use super::ice_servers::For;
use super::participant::{Participant, ParticipantKey};
use super::room::{Room, Turn};
use crate::telemetry::count;

/// Longest pretended speech.
const SPEECH_S_MAX: u32 = 60;

/// Identities of one room that may ask for a detour.
const DETOURS_MAX: usize = 1_024;

/// The one way a client asked to be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detour {
    /// The node's own TCP port.
    Tcp,
    /// A relay it reaches by TLS.
    Tls,
}

/// When a client that comes back loses its signalling again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    BeforeMessages,
    AfterReconnect,
}

impl Room {
    pub(super) fn simulate(&mut self, key: ParticipantKey, scenario: &SimulateScenario, turn: &mut Turn<'_>) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        match scenario.scenario {
            Some(Scenario::SpeakerUpdate(seconds)) => {
                let seconds = seconds.clamp(0, SPEECH_S_MAX as i32) as u64;
                participant.pretends_until = Some(turn.now + Duration::from_secs(seconds));
                self.tell_pretended(key, true, turn);
            }
            Some(Scenario::NodeFailure(true) | Scenario::Migration(true)) => {
                // Who is lost with its node is told nothing; coming back, it finds that nobody knows it.
                participant.signal_closed = Some(turn.now);
                let action = leave_request::Action::Disconnect;
                self.remove(key, DisconnectReason::Migration, action, turn);
            }
            Some(Scenario::ServerLeave(true)) => {
                let action = leave_request::Action::Disconnect;
                self.remove(key, DisconnectReason::ServerShutdown, action, turn);
            }
            Some(Scenario::LeaveRequestFullReconnect(true)) => {
                let action = leave_request::Action::Reconnect;
                self.remove(key, DisconnectReason::UnknownReason, action, turn);
            }
            Some(Scenario::DisconnectSignalOnResume(true)) => {
                participant.cut_on_resume = Some(Cut::AfterReconnect);
                self.cut_signal(key, turn);
            }
            Some(Scenario::DisconnectSignalOnResumeNoMessages(true)) => {
                participant.cut_on_resume = Some(Cut::BeforeMessages);
                self.cut_signal(key, turn);
            }
            Some(Scenario::SwitchCandidateProtocol(protocol)) => {
                let identity = participant.identity.clone();
                self.switch_protocol(identity, protocol, turn);
            }
            _ => count(&turn.telemetry.counters.signal_unexpected),
        }
    }

    /// The client itself comes back at once, as a new participant; its identity is what is remembered until the room ends.
    fn switch_protocol(&mut self, identity: String, protocol: i32, turn: &Turn<'_>) {
        let detour = match CandidateProtocol::try_from(protocol) {
            Ok(CandidateProtocol::Udp) => {
                self.detours.remove(&identity);
                return;
            }
            Ok(CandidateProtocol::Tcp) => Some(Detour::Tcp),
            Ok(CandidateProtocol::Tls) => self.params.ice_servers.has_tls().then_some(Detour::Tls),
            Err(_) => None,
        };
        let has_room = self.detours.len() < DETOURS_MAX || self.detours.contains_key(&identity);
        match detour.filter(|_| has_room) {
            Some(detour) => {
                self.detours.insert(identity, detour);
            }
            None => count(&turn.telemetry.counters.signal_unexpected),
        }
    }

    /// Of a shard's candidates, those `identity` is offered: all, unless it asked for TCP and there is any.
    pub(super) fn candidates_for(&self, identity: &str, mut all: Vec<Candidate>) -> Vec<Candidate> {
        let is_tcp = |candidate: &Candidate| candidate.protocol == Protocol::Tcp;
        if self.detours.get(identity) == Some(&Detour::Tcp) && all.iter().any(is_tcp) {
            all.retain(is_tcp);
        }
        all
    }

    /// The servers a participant is told of. Who asked for TLS is told of nothing else, and to use it.
    pub(super) fn surroundings(
        &self,
        participant: &Participant,
        turn: &Turn<'_>,
    ) -> (Vec<IceServer>, Option<ClientConfiguration>) {
        let tls_only = self.detours.get(&participant.identity) == Some(&Detour::Tls);
        let to = For {
            api_key: &participant.api_key,
            participant_sid: &participant.sid,
            unix_s: u64::try_from(turn.unix_ms / 1_000).unwrap_or_default(),
            tls_only,
        };
        let force = ClientConfiguration {
            force_relay: ClientConfigSetting::Enabled.into(),
            ..ClientConfiguration::default()
        };
        (self.params.ice_servers.tell(&self.params.keys, to), tls_only.then_some(force))
    }

    /// Ends pretended speech whose time is over.
    pub(super) fn end_pretended(&mut self, turn: &mut Turn<'_>) {
        let over = |until: Option<std::time::Instant>| until.is_some_and(|until| until <= turn.now);
        let keys: Vec<ParticipantKey> =
            self.participants.values().filter(|p| over(p.pretends_until)).map(|p| p.key).collect();
        for key in keys {
            if let Some(participant) = self.participants.get_mut(&key) {
                participant.pretends_until = None;
            }
            self.tell_pretended(key, false, turn);
        }
    }

    fn tell_pretended(&self, key: ParticipantKey, active: bool, turn: &mut Turn<'_>) {
        let Some(participant) = self.participants.get(&key) else { return };
        let level = if active { 0.875 } else { 0.0 };
        let speakers = vec![SpeakerInfo { sid: participant.sid.clone(), level, active }];
        let message = signal_response::Message::SpeakersChanged(SpeakersChanged { speakers });
        turn.signal_all(self.participants.keys().copied().collect(), message);
    }
}
