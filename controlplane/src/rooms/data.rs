//! Data packets from one participant to the others, stamped with who sent them.

use std::collections::BTreeMap;

use auralink_livekit::prost::Message as _;
use auralink_livekit::{DataPacket, data_packet, participant_info};
use auralink_proto::{Command, DataChannel, ShardId, TransportId};
use bytes::Bytes;

use super::backlog::Queued;
use super::participant::{Participant, ParticipantKey};
use super::room::{Output, Room, Turn};
use crate::telemetry::count;

impl Room {
    /// One message on a data channel. Whom it reaches and what it claims about its sender is decided here, never by the sender.
    pub(super) fn route_data(
        &mut self,
        transport: TransportId,
        channel: DataChannel,
        payload: &Bytes,
        turn: &mut Turn<'_>,
    ) {
        let key = self.by_transport.get(&transport).copied();
        let sender = key.and_then(|key| self.participants.get_mut(&key));
        let Some(sender) = sender.filter(|sender| sender.grant.may_publish_data()) else {
            count(&turn.telemetry.counters.data_dropped);
            return;
        };
        if channel == DataChannel::Track {
            let key = sender.key;
            self.route_data_frame(key, payload, turn);
            return;
        }
        let Ok(mut packet) = DataPacket::decode(payload.clone()) else {
            count(&turn.telemetry.counters.data_dropped);
            return;
        };
        let agent = sender.kind == participant_info::Kind::Agent;
        if matches!(packet.value, Some(data_packet::Value::Transcription(_))) && !agent {
            count(&turn.telemetry.counters.data_dropped);
            return;
        }
        let numbered = channel == DataChannel::Reliable && packet.sequence > 0;
        if numbered {
            // A client that came back sends again what it does not know to have arrived.
            if packet.sequence <= sender.last_sequence {
                count(&turn.telemetry.counters.data_duplicates);
                return;
            }
            sender.last_sequence = packet.sequence;
        }
        stamp(&mut packet, sender, channel);
        let (key, sid, sequence) = (sender.key, sender.sid.clone(), packet.sequence);
        let targets = self.targets(key, &packet);
        if targets.is_empty() {
            count(&turn.telemetry.counters.data_dropped);
            return;
        }
        count(&turn.telemetry.counters.data_packets);
        // One encoding serves all receivers.
        let payload = Bytes::from(packet.encode_to_vec());
        self.deliver(&targets, channel, &payload, turn);
        if numbered {
            self.recent.put(turn.now, &sid, sequence, targets, payload);
        }
    }

    #[allow(deprecated, reason = "older clients address by the deprecated fields")]
    fn targets(&self, sender: ParticipantKey, packet: &DataPacket) -> Vec<ParticipantKey> {
        let user = match &packet.value {
            Some(data_packet::Value::User(user)) => Some(user),
            _ => None,
        };
        let sids: &[String] = user.map_or(&[], |user| &user.destination_sids);
        let broadcast = packet.destination_identities.is_empty() && sids.is_empty();
        let metrics = matches!(packet.value, Some(data_packet::Value::Metrics(_)));
        let addressed = |participant: &&Participant| {
            let named = broadcast
                || packet.destination_identities.contains(&participant.identity)
                || sids.contains(&participant.sid);
            let entitled = !metrics || participant.grant.can_subscribe_metrics == Some(true);
            participant.key != sender && named && entitled
        };
        self.participants.values().filter(addressed).map(|participant| participant.key).collect()
    }

    /// Sends one message to participants. A reliable one waits for those whose channel is not open yet; the others are for
    /// those who are there.
    pub(super) fn deliver(
        &mut self,
        to: &[ParticipantKey],
        channel: DataChannel,
        payload: &Bytes,
        turn: &mut Turn<'_>,
    ) {
        let mut shards: BTreeMap<ShardId, Vec<TransportId>> = BTreeMap::new();
        for key in to {
            let Some(participant) = self.participants.get_mut(key) else { continue };
            let (transport, connected) = participant.primary();
            let goes = match channel {
                DataChannel::Reliable => match participant.backlog.put(payload) {
                    Queued::No => true,
                    Queued::Yes => false,
                    Queued::Dropped => {
                        count(&turn.telemetry.counters.data_dropped);
                        false
                    }
                },
                DataChannel::Lossy | DataChannel::Track => connected,
            };
            if goes {
                shards.entry(transport.shard()).or_default().push(transport);
            }
        }
        for (shard, transports) in shards {
            let command = Command::SendData { transports, channel, payload: payload.clone() };
            turn.out.push(Output::Command(shard, command));
        }
    }

    /// A channel is open both ways: what waited for it goes out.
    pub(super) fn data_open(&mut self, transport: TransportId, channel: DataChannel, turn: &mut Turn<'_>) {
        let key = self.by_transport.get(&transport).copied();
        let Some(participant) = key.and_then(|key| self.participants.get_mut(&key)) else { return };
        if channel != DataChannel::Reliable || participant.primary().0 != transport {
            return;
        }
        for payload in participant.backlog.open() {
            let command = Command::SendData { transports: vec![transport], channel, payload };
            turn.out.push(Output::Command(transport.shard(), command));
        }
    }
}

/// Writes who sent a packet over whatever it claims; fills the deprecated fields for clients that still read them.
#[allow(deprecated, reason = "older clients read the deprecated fields")]
fn stamp(packet: &mut DataPacket, sender: &Participant, channel: DataChannel) {
    packet.kind = match channel {
        DataChannel::Reliable => data_packet::Kind::Reliable.into(),
        DataChannel::Lossy | DataChannel::Track => data_packet::Kind::Lossy.into(),
    };
    packet.participant_sid.clone_from(&sender.sid);
    packet.participant_identity.clone_from(&sender.identity);
    if let Some(data_packet::Value::User(user)) = &mut packet.value {
        user.participant_sid.clone_from(&sender.sid);
        user.participant_identity.clone_from(&sender.identity);
        if packet.destination_identities.is_empty() {
            packet.destination_identities.clone_from(&user.destination_identities);
        } else {
            user.destination_identities.clone_from(&packet.destination_identities);
        }
    }
}
