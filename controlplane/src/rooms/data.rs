//! Data packets from one participant to the others, stamped with who sent them.

use std::collections::BTreeMap;

use auralink_livekit::prost::Message as _;
use auralink_livekit::{DataPacket, data_packet, participant_info};
use auralink_proto::{Command, DataChannel, ShardId, TransportId};
use bytes::Bytes;

use super::participant::Participant;
use super::room::{Output, Room, Turn};
use crate::telemetry::count;

impl Room {
    /// One message on a data channel. Whom it reaches and what it claims about its sender is decided here, never by the sender.
    pub(super) fn route_data(
        &self,
        transport: TransportId,
        channel: DataChannel,
        payload: &Bytes,
        turn: &mut Turn<'_>,
    ) {
        let sender = self.by_transport.get(&transport).and_then(|key| self.participants.get(key));
        let permitted = sender.filter(|sender| sender.grant.may_publish_data());
        let packet = DataPacket::decode(payload.clone()).ok();
        let (Some(sender), Some(mut packet)) = (permitted, packet) else {
            count(&turn.telemetry.counters.data_dropped);
            return;
        };
        let agent = sender.kind == participant_info::Kind::Agent;
        if matches!(packet.value, Some(data_packet::Value::Transcription(_))) && !agent {
            count(&turn.telemetry.counters.data_dropped);
            return;
        }
        stamp(&mut packet, sender, channel);
        let targets = self.targets(sender, &packet);
        if targets.is_empty() {
            count(&turn.telemetry.counters.data_dropped);
            return;
        }
        count(&turn.telemetry.counters.data_packets);
        // One encoding serves all receivers.
        let payload = Bytes::from(packet.encode_to_vec());
        for (shard, transports) in targets {
            let command = Command::SendData { transports, channel, payload: payload.clone() };
            turn.out.push(Output::Command(shard, command));
        }
    }

    #[allow(deprecated, reason = "older clients address by the deprecated fields")]
    fn targets(&self, sender: &Participant, packet: &DataPacket) -> BTreeMap<ShardId, Vec<TransportId>> {
        let user = match &packet.value {
            Some(data_packet::Value::User(user)) => Some(user),
            _ => None,
        };
        let sids: &[String] = user.map_or(&[], |user| &user.destination_sids);
        let broadcast = packet.destination_identities.is_empty() && sids.is_empty();
        let metrics = matches!(packet.value, Some(data_packet::Value::Metrics(_)));
        let mut targets: BTreeMap<ShardId, Vec<TransportId>> = BTreeMap::new();
        for participant in self.participants.values() {
            let addressed = broadcast
                || packet.destination_identities.contains(&participant.identity)
                || sids.contains(&participant.sid);
            let entitled = !metrics || participant.grant.can_subscribe_metrics == Some(true);
            if participant.key != sender.key && participant.connected && addressed && entitled {
                targets.entry(participant.transport.shard()).or_default().push(participant.transport);
            }
        }
        targets
    }
}

/// Writes who sent a packet over whatever it claims; fills the deprecated fields for clients that still read them.
#[allow(deprecated, reason = "older clients read the deprecated fields")]
fn stamp(packet: &mut DataPacket, sender: &Participant, channel: DataChannel) {
    packet.kind = match channel {
        DataChannel::Reliable => data_packet::Kind::Reliable.into(),
        DataChannel::Lossy => data_packet::Kind::Lossy.into(),
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
