//! `SendData`: data packets a server sends, which no participant is the sender of.

use std::collections::{BTreeSet, VecDeque};

use auralink_livekit::prost::Message as _;
use auralink_livekit::{DataPacket, SendDataRequest, UserPacket, data_packet};
use auralink_proto::DataChannel;

use super::admin::AdminError;
use super::participant::{Participant, ParticipantKey};
use super::room::{Room, Turn};
use crate::telemetry::count;

/// Bytes of one message on a data channel: what clients announce as SCTP's largest message.
const PACKET_BYTES_MAX: usize = 65_535;
/// Nonces remembered per room; a repetition comes within seconds, from a caller that got no answer.
const NONCES_MAX: usize = 1_024;

/// The nonces of the latest packets.
#[derive(Debug, Default)]
pub(super) struct Nonces {
    known: BTreeSet<[u8; 16]>,
    order: VecDeque<[u8; 16]>,
}

impl Nonces {
    /// False when this nonce was seen already. What is not 16 bytes long is none.
    fn is_new(&mut self, nonce: &[u8]) -> bool {
        let Ok(nonce) = <[u8; 16]>::try_from(nonce) else { return true };
        if !self.known.insert(nonce) {
            return false;
        }
        self.order.push_back(nonce);
        if self.order.len() > NONCES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

impl Room {
    /// Sends to the participants named, or to all. A packet whose nonce was seen already is dropped in silence.
    ///
    /// # Errors
    /// [`AdminError::DataTooLong`]
    #[allow(deprecated, reason = "older servers address, and older clients read, by the deprecated fields")]
    pub fn send_data(&mut self, request: SendDataRequest, turn: &mut Turn<'_>) -> Result<(), AdminError> {
        let channel = match request.kind() {
            data_packet::Kind::Reliable => DataChannel::Reliable,
            data_packet::Kind::Lossy => DataChannel::Lossy,
        };
        let packet = DataPacket {
            kind: request.kind,
            destination_identities: request.destination_identities.clone(),
            value: Some(data_packet::Value::User(UserPacket {
                payload: request.data,
                destination_sids: request.destination_sids,
                destination_identities: request.destination_identities,
                topic: request.topic,
                nonce: request.nonce.clone(),
                ..UserPacket::default()
            })),
            ..DataPacket::default()
        };
        if packet.encoded_len() > PACKET_BYTES_MAX {
            return Err(AdminError::DataTooLong);
        }
        if !self.admin.nonces.is_new(&request.nonce) {
            return Ok(());
        }
        let sids: &[String] = match &packet.value {
            Some(data_packet::Value::User(user)) => &user.destination_sids,
            _ => &[],
        };
        let everybody = packet.destination_identities.is_empty() && sids.is_empty();
        let addressed = |p: &Participant| {
            everybody || packet.destination_identities.contains(&p.identity) || sids.contains(&p.sid)
        };
        self.send_packet(&packet, channel, addressed, turn);
        Ok(())
    }

    /// Sends one packet of the server to every participant it is addressed to.
    pub(super) fn send_packet(
        &mut self,
        packet: &DataPacket,
        channel: DataChannel,
        addressed: impl Fn(&Participant) -> bool,
        turn: &mut Turn<'_>,
    ) {
        let to: Vec<ParticipantKey> =
            self.participants.values().filter(|p| addressed(p)).map(|p| p.key).collect();
        let counters = &turn.telemetry.counters;
        count(if to.is_empty() { &counters.data_dropped } else { &counters.data_packets });
        self.deliver(&to, channel, &packet.encode_to_vec().into(), turn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_are_known_again_until_a_thousand_others_came() {
        let mut nonces = Nonces::default();
        let nonce = |n: u16| {
            let mut bytes = [0; 16];
            bytes[..2].copy_from_slice(&n.to_be_bytes());
            bytes
        };
        assert!(nonces.is_new(&nonce(0)) && !nonces.is_new(&nonce(0)));
        assert!(nonces.is_new(b"short") && nonces.is_new(b"short"), "only sixteen bytes are a nonce");
        for n in 1..NONCES_MAX as u16 {
            assert!(nonces.is_new(&nonce(n)));
        }
        assert!(!nonces.is_new(&nonce(0)));
        assert!(nonces.is_new(&nonce(9_999)));
        assert!(nonces.is_new(&nonce(0)), "the oldest is forgotten");
        assert_eq!((nonces.known.len(), nonces.order.len()), (NONCES_MAX, NONCES_MAX));
    }
}
