//! What the data plane reports of participants' transports.

use auralink_livekit::{DisconnectReason, leave_request, participant_info};
use auralink_proto::{CloseReason, TransportId};

use super::notices::Happened;
use super::room::{Output, Room, Turn};
use crate::telemetry::count;

impl Room {
    /// A specification is in force: the answer that describes it may go out.
    pub(super) fn transport_applied(&mut self, transport: TransportId, version: u32, turn: &mut Turn<'_>) {
        let Some(key) = self.by_transport.get(&transport).copied() else { return };
        let mut actions = Vec::new();
        // Nobody waits for a connection the server offers.
        if let Some(participant) = self.participants.get_mut(&key).filter(|p| p.transport == transport) {
            participant.negotiator.handle_applied(version, &mut actions);
        }
        self.act(key, actions, turn);
        self.touched.insert(key);
    }

    pub(super) fn transport_connected(&mut self, transport: TransportId, turn: &mut Turn<'_>) {
        let Some(key) = self.by_transport.get(&transport).copied() else { return };
        let Some(participant) = self.participants.get_mut(&key) else { return };
        match &mut participant.downlink {
            Some(downlink) if downlink.transport == transport => downlink.connected = true,
            _ => participant.connected = true,
        }
        if participant.primary().1 && participant.state != participant_info::State::Active {
            participant.state = participant_info::State::Active;
            count(&turn.telemetry.counters.connected);
            let (protocol, joined) = (participant.client.protocol, participant.joined);
            turn.telemetry.calls.connected(protocol, turn.now.saturating_duration_since(joined));
            let info = participant.info();
            self.notice(Happened::Joined(info), turn);
            self.announce_active(key, turn);
        }
    }

    pub(super) fn transport_closed(
        &mut self,
        transport: TransportId,
        reason: CloseReason,
        turn: &mut Turn<'_>,
    ) {
        let Some(key) = self.by_transport.remove(&transport) else { return };
        let Some(participant) = self.participants.get_mut(&key) else { return };
        match &mut participant.downlink {
            Some(downlink) if downlink.transport == transport => downlink.connected = false,
            _ => participant.connected = false,
        }
        turn.out.push(Output::RouteTransport(transport, false));
        if participant.signal_closed.is_none() {
            // Its signalling lives: it shall come back with a new connection at once, unless that would end the same way.
            let action = match reason {
                CloseReason::SpecRefused => leave_request::Action::Disconnect,
                _ => leave_request::Action::Reconnect,
            };
            self.remove(key, DisconnectReason::MediaFailure, action, turn);
        }
    }
}
