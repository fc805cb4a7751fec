//! Connectivity checks, and what a peer's state machine reports.

use std::time::Instant;

use auralink_proto::{CloseReason, DataChannel, DataChannels, Event};
use auralink_rtc::peer::{PeerClose, PeerEvent};
use auralink_rtc::sctp::Reliability;
use auralink_rtc::units::{Protocol, Route};

use super::{Datagram, Output, Shard, TupleOwner};
use crate::lanes::LaneSignal;
use crate::stats::DropReason;
use crate::transport::Transport;

impl Shard {
    pub(super) fn receive_stun(
        &mut self,
        now: Instant,
        slot: u32,
        datagram: &Datagram<'_>,
        out: &mut Output<'_>,
    ) {
        let Some(transport) = self.transports.get_mut(slot) else { return };
        if transport.peer.handle_stun(now, &datagram.route, datagram.bytes, out.egress).is_err() {
            self.stats.drop(DropReason::StunRefused);
        }
        self.drain_peer(now, slot, out);
        self.arm(slot);
    }

    /// Acts on everything the peer reports. The transport may be gone afterwards.
    pub(super) fn drain_peer(&mut self, now: Instant, slot: u32, out: &mut Output<'_>) {
        while let Some(transport) = self.transports.get_mut(slot) {
            let Some(event) = transport.peer.poll_event() else { return };
            let id = transport.id;
            match event {
                PeerEvent::Validated(route) => self.claim(slot, route, out),
                PeerEvent::Evicted(route) => self.release(slot, route, out),
                PeerEvent::Nominated(_) => {}
                PeerEvent::Connected { .. } => self.on_connected(now, slot, out),
                PeerEvent::ChannelOpen { id: stream, label, .. } => {
                    if let Some(channel) = DataChannel::ALL.into_iter().find(|known| known.label() == label) {
                        transport.channels[Transport::channel_slot(channel)] = Some(stream);
                        out.events.push(Event::DataOpen { transport: id, channel });
                    }
                }
                PeerEvent::Message { id: stream, bytes, .. } => match transport.channel_of(stream) {
                    Some(channel) => out.events.push(Event::Data { transport: id, channel, payload: bytes }),
                    None => self.stats.drop(DropReason::ChannelClosed),
                },
                PeerEvent::ChannelClosed { id: stream } => {
                    if let Some(channel) = transport.channel_of(stream) {
                        transport.channels[Transport::channel_slot(channel)] = None;
                    }
                }
                PeerEvent::DataLost => transport.channels = Default::default(),
                PeerEvent::Closed(reason) => {
                    self.remove_transport(now, slot, out);
                    out.events.push(Event::TransportClosed { transport: id, reason: close_reason(reason) });
                    return;
                }
            }
        }
    }

    /// The tuple passed a check: its datagrams are this transport's, on whatever shard they arrive.
    fn claim(&mut self, slot: u32, route: Route, out: &mut Output<'_>) {
        let Route { remote, protocol, .. } = route;
        if let Some(transport) = self.transports.get_mut(slot) {
            transport.remotes.push(route);
        }
        if protocol == Protocol::Tcp {
            self.streams.claim(route, slot);
            return;
        }
        if let Some(TupleOwner::Shard(_)) = self.tuples.insert(remote, TupleOwner::Transport(slot)) {
            self.steered -= 1;
        }
        if out.lanes.shards() > 1 {
            self.claims.push((remote, true));
            out.lanes.broadcast(&LaneSignal::Claimed { remote });
        }
    }

    /// The tuple is this transport's no longer.
    pub(super) fn release(&mut self, slot: u32, route: Route, out: &mut Output<'_>) {
        let Route { remote, protocol, .. } = route;
        if let Some(transport) = self.transports.get_mut(slot) {
            transport.remotes.retain(|held| !held.is_to(&route));
        }
        if protocol == Protocol::Tcp {
            self.streams.release(&route, slot);
            return;
        }
        if self.tuples.get(&remote) == Some(&TupleOwner::Transport(slot)) {
            self.tuples.remove(&remote);
            if out.lanes.shards() > 1 {
                self.claims.push((remote, false));
                out.lanes.broadcast(&LaneSignal::Released { remote });
            }
        }
    }

    fn on_connected(&mut self, now: Instant, slot: u32, out: &mut Output<'_>) {
        let Some(transport) = self.transports.get_mut(slot) else { return };
        transport.connected = true;
        if let Some(seal) = transport.peer.srtp_seal() {
            for line in &mut transport.lines {
                line.register(seal);
            }
        }
        if transport.data == DataChannels::Opened {
            for channel in DataChannel::ALL {
                let reliable = channel == DataChannel::Reliable;
                let reliability = if reliable { Reliability::Reliable } else { Reliability::Retransmits(0) };
                // There is room for three channels at the start of an association.
                let _ = transport.peer.open_channel(now, channel.label(), reliable, reliability);
            }
        }
        out.events.push(Event::TransportConnected { transport: transport.id });
        let tracks: Vec<u32> = transport.lines.iter().filter_map(|line| line.track).collect();
        for track in tracks {
            self.retarget_followers(now, track, out);
        }
        self.arm(slot);
    }
}

fn close_reason(reason: PeerClose) -> CloseReason {
    match reason {
        PeerClose::ConsentExpired => CloseReason::ConsentExpired,
        PeerClose::PeerClosed | PeerClose::Local => CloseReason::PeerClosed,
        PeerClose::DtlsFailed(_) => CloseReason::DtlsFailed,
    }
}
