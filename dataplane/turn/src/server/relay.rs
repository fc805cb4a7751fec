//! Data both ways: Send and Data indications (RFC 8656 §11), ChannelData (§12.4).

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use rand::RngExt as _;

use super::{Action, Server};
use crate::allocation::Allocation;
use crate::message::{Class, HEADER_LEN, MAGIC, Message, Method, TransactionId, kind, message_type};
use crate::stats::DropReason;
use crate::write::xor_address;
use crate::{Origin, RelayId};

/// What goes before the payload of ChannelData.
const CHANNEL_HEADER_LEN: usize = 4;

impl Server {
    /// A client sends on a channel. Its peer was judged when it was bound.
    pub(super) fn channel_data(&mut self, now: Instant, origin: &Origin, bytes: &[u8]) -> Action {
        let Some(([n0, n1, l0, l1], rest)) = bytes.split_first_chunk::<CHANNEL_HEADER_LEN>() else {
            return self.drop(DropReason::Malformed);
        };
        let len = usize::from(u16::from_be_bytes([*l0, *l1]));
        if len > rest.len() {
            return self.drop(DropReason::Malformed);
        }
        let Some((relay, allocation)) = self.open_relay(origin) else {
            return self.drop(DropReason::NoAllocation);
        };
        let Some(peer) = allocation.peer_of(now, u16::from_be_bytes([*n0, *n1])) else {
            return self.drop(DropReason::ChannelUnbound);
        };
        self.stats.to_peers.count(len);
        Action::Relay { relay, peer, payload: CHANNEL_HEADER_LEN..CHANNEL_HEADER_LEN + len }
    }

    /// A client sends to a peer it has a permission for.
    pub(super) fn send(&mut self, now: Instant, origin: &Origin, message: &Message<'_>) -> Action {
        let (Some(peer), Some(payload)) = (message.peers.first(), message.data.clone()) else {
            return self.drop(DropReason::Malformed);
        };
        if message.is_malformed || !message.unknown.is_empty() {
            return self.drop(DropReason::Malformed);
        }
        let Some((relay, allocation)) = self.open_relay(origin) else {
            return self.drop(DropReason::NoAllocation);
        };
        match allocation.permission(now, peer.ip()) {
            None => self.drop(DropReason::PeerNotPermitted),
            Some(true) if !self.config.peers.is_media(peer) => self.drop(DropReason::PeerRefused),
            Some(_) => {
                self.stats.to_peers.count(payload.len());
                Action::Relay { relay, peer, payload }
            }
        }
    }

    fn open_relay(&self, origin: &Origin) -> Option<(RelayId, &Allocation)> {
        let relay = self.table.of(origin)?;
        let allocation = self.table.get(relay).filter(|allocation| allocation.pending.is_none())?;
        Some((relay, allocation))
    }

    /// A datagram of a peer, at `payload` of `packet`, arrived at a relay. Writes what goes before and behind it and says which
    /// bytes the client is to be sent; `None` when it gets nothing. Needs [`super::HEADROOM`] and [`super::TAILROOM`].
    pub fn handle_peer(
        &mut self,
        now: Instant,
        relay: RelayId,
        peer: SocketAddr,
        packet: &mut [u8],
        payload: Range<usize>,
    ) -> Option<Range<usize>> {
        let allocation = self.table.get(relay).filter(|allocation| allocation.pending.is_none());
        let Some(allocation) = allocation else {
            self.stats.drop(DropReason::NoAllocation);
            return None;
        };
        let permitted = match allocation.permission(now, peer.ip()) {
            None => false,
            Some(media_only) => !media_only || self.config.peers.is_media(peer),
        };
        if !permitted {
            self.stats.drop(DropReason::StrangerAtRelay);
            return None;
        }
        let framed = match allocation.channel_of(now, peer) {
            Some(number) => frame_channel(number, allocation.origin.is_stream(), packet, &payload),
            None => frame_indication(peer, &self.random.random(), packet, &payload),
        };
        match &framed {
            Some(_) => self.stats.to_clients.count(payload.len()),
            None => self.stats.drop(DropReason::Oversized),
        }
        framed
    }
}

/// Makes ChannelData around a payload. Only in streams is it padded (RFC 8656 §12.5).
fn frame_channel(
    number: u16,
    in_stream: bool,
    packet: &mut [u8],
    payload: &Range<usize>,
) -> Option<Range<usize>> {
    let start = payload.start.checked_sub(CHANNEL_HEADER_LEN)?;
    let [n0, n1] = number.to_be_bytes();
    let [l0, l1] = u16::try_from(payload.len()).ok()?.to_be_bytes();
    packet.get_mut(start..payload.start)?.copy_from_slice(&[n0, n1, l0, l1]);
    let padding = if in_stream { payload.len().next_multiple_of(4) - payload.len() } else { 0 };
    let end = payload.end + padding;
    packet.get_mut(payload.end..end)?.fill(0);
    Some(start..end)
}

/// Makes a Data indication around a payload.
fn frame_indication(
    peer: SocketAddr,
    transaction: &TransactionId,
    packet: &mut [u8],
    payload: &Range<usize>,
) -> Option<Range<usize>> {
    let (address, address_len) = xor_address(peer, transaction);
    let address = address.get(..address_len)?;
    let end = payload.start + payload.len().next_multiple_of(4);
    let data_len = u16::try_from(payload.len()).ok()?;
    let head_len = HEADER_LEN + 4 + address_len + 4;
    let start = payload.start.checked_sub(head_len)?;
    let attributes_len = u16::try_from(end - start - HEADER_LEN).ok()?;
    let message_type = message_type(Class::Indication, Method::Data).to_be_bytes();
    let parts = message_type
        .into_iter()
        .chain(attributes_len.to_be_bytes())
        .chain(MAGIC)
        .chain(*transaction)
        .chain(kind::XOR_PEER_ADDRESS.to_be_bytes())
        .chain((address_len as u16).to_be_bytes())
        .chain(address.iter().copied())
        .chain(kind::DATA.to_be_bytes())
        .chain(data_len.to_be_bytes());
    packet.get_mut(start..payload.start)?.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
    packet.get_mut(payload.end..end)?.fill(0);
    Some(start..end)
}
