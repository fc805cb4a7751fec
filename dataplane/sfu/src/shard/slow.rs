//! The slow lane: handshakes, data channels, and messages to many. Each step may cost as much as a hundred packets, so only a
//! few are taken between two receive drains, and media never waits for a join.

use std::collections::VecDeque;
use std::time::Instant;

use auralink_proto::{DataChannel, TransportId};
use auralink_rtc::units::Route;
use bytes::Bytes;

use super::{Datagram, Output, Shard};
use crate::lanes::LaneBytes;
use crate::stats::DropReason;
use crate::transport::Transport;

/// DTLS datagrams that may wait: a flight of each of several hundred joining clients.
const DATAGRAMS_MAX: usize = 2_048;
/// Messages to many that may wait before no more commands are taken.
const MESSAGES_MAX: usize = 64;
/// Datagrams or sends taken at once: a handshake's largest step costs about 150 us.
const STEPS: usize = 4;

struct SlowDatagram {
    transport: TransportId,
    route: Route,
    bytes: LaneBytes,
}

struct Message {
    transports: Vec<TransportId>,
    /// How many of them have been served.
    served: usize,
    channel: DataChannel,
    payload: Bytes,
}

/// What waits for its turn.
pub(super) struct SlowLane {
    datagrams: VecDeque<SlowDatagram>,
    messages: VecDeque<Message>,
}

impl SlowLane {
    pub(super) fn new() -> Self {
        Self {
            datagrams: VecDeque::with_capacity(DATAGRAMS_MAX),
            messages: VecDeque::with_capacity(MESSAGES_MAX),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.datagrams.is_empty() && self.messages.is_empty()
    }
}

impl Shard {
    /// Whether there is room for another command's work.
    pub fn takes_commands(&self) -> bool {
        self.slow.messages.len() < MESSAGES_MAX
    }

    /// Takes a few steps of what waits; whether any did. Call between two receive drains.
    pub fn handle_slow(&mut self, now: Instant, out: &mut Output<'_>) -> bool {
        self.handling = None;
        let worked = !self.slow.is_empty();
        for _ in 0..STEPS {
            let Some(datagram) = self.slow.datagrams.pop_front() else { break };
            if let Err(reason) = self.receive_dtls(now, &datagram, out) {
                self.stats.drop(reason);
            }
        }
        for _ in 0..STEPS {
            let Some(message) = self.slow.messages.front_mut() else { break };
            let Some(id) = message.transports.get(message.served).copied() else {
                self.slow.messages.pop_front();
                continue;
            };
            message.served += 1;
            let (channel, payload) = (message.channel, message.payload.clone());
            self.send_data(now, id, channel, &payload, out);
        }
        worked
    }

    pub(super) fn queue_dtls(&mut self, slot: u32, datagram: &Datagram<'_>) -> Result<(), DropReason> {
        let transport = self.transports.get(slot).ok_or(DropReason::UnknownTuple)?.id;
        if self.slow.datagrams.len() >= DATAGRAMS_MAX {
            return Err(DropReason::SlowLaneFull);
        }
        let bytes = LaneBytes::new(datagram.bytes).ok_or(DropReason::TooLarge)?;
        self.slow.datagrams.push_back(SlowDatagram { transport, route: datagram.route, bytes });
        Ok(())
    }

    /// Each transport listed will be sent the message, in the order of the commands.
    pub(super) fn queue_data(&mut self, transports: Vec<TransportId>, channel: DataChannel, payload: Bytes) {
        self.slow.messages.push_back(Message { transports, served: 0, channel, payload });
    }

    fn receive_dtls(
        &mut self,
        now: Instant,
        datagram: &SlowDatagram,
        out: &mut Output<'_>,
    ) -> Result<(), DropReason> {
        let slot = *self.by_transport.get(&datagram.transport).ok_or(DropReason::UnknownTuple)?;
        self.handling = Some(slot);
        let transport = self.transports.get_mut(slot).ok_or(DropReason::UnknownTuple)?;
        let bytes = datagram.bytes.as_slice();
        let result = transport.peer.handle_dtls(now, &datagram.route, bytes, out.egress);
        self.drain_peer(now, slot, out);
        self.arm(slot);
        result.map_err(|_| DropReason::DtlsRefused)
    }

    /// Sends one message to a transport that has the channel open.
    fn send_data(
        &mut self,
        now: Instant,
        id: TransportId,
        channel: DataChannel,
        payload: &[u8],
        out: &mut Output<'_>,
    ) {
        let Some(slot) = self.by_transport.get(&id).copied() else { return };
        self.handling = Some(slot);
        let Some(transport) = self.transports.get_mut(slot) else { return };
        let Some(stream) = transport.channels[Transport::channel_slot(channel)] else {
            self.stats.drop(DropReason::ChannelClosed);
            return;
        };
        if transport.peer.send(now, stream, true, payload, out.egress).is_err() {
            self.stats.drop(DropReason::ChannelFull);
        }
        self.drain_peer(now, slot, out);
        self.arm(slot);
    }
}
