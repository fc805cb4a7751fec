//! Lanes between shards: bounded, one producer and one consumer each, carrying values.
//!
//! A publisher's shard passes each packet at most once to each shard that has subscribers. What comes back is small and
//! coalesced: demand, keyframe wishes, packets to fetch again. The same seam will carry packets between nodes.

use std::net::SocketAddr;
use std::time::Instant;

use auralink_proto::{ShardId, TrackId};
use auralink_rtc::units::{Route, SeqNo};
use rtrb::{Consumer, Producer, RingBuffer};

use crate::formats::Formats;
use crate::history::{History, Packet};
use crate::rewrite::TimeMapping;

/// Packets and steered datagrams that may wait in one lane.
pub const LANE_ITEMS_MAX: usize = 2_048;
/// Signals that may wait in one lane.
pub const LANE_SIGNALS_MAX: usize = 4_096;
/// Largest datagram a lane carries: an Ethernet frame's.
pub const LANE_BYTES_MAX: usize = 1_472;

/// Payload or datagram bytes, inline.
#[derive(Clone)]
pub struct LaneBytes {
    len: u16,
    bytes: [u8; LANE_BYTES_MAX],
}

impl LaneBytes {
    /// `None` when `source` does not fit.
    pub fn new(source: &[u8]) -> Option<Self> {
        Self::joined(source, &[])
    }

    /// Two pieces, one behind the other.
    pub fn joined(first: &[u8], second: &[u8]) -> Option<Self> {
        let (mut bytes, len) = ([0; LANE_BYTES_MAX], first.len() + second.len());
        bytes.get_mut(..first.len())?.copy_from_slice(first);
        bytes.get_mut(first.len()..len)?.copy_from_slice(second);
        Some(Self { len: len as u16, bytes })
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// What flows with the media.
pub enum LaneItem {
    /// A decrypted packet of a track that the receiving shard follows.
    Packet {
        track: TrackId,
        layer: u8,
        /// Rises by one per packet of this track on this lane; `None` for one fetched again.
        number: Option<u32>,
        packet: Packet,
        /// The payload without padding, and behind it the elements passed on.
        bytes: LaneBytes,
    },
    /// A datagram that the kernel gave to the wrong shard.
    Datagram { route: Route, arrival: Instant, bytes: LaneBytes },
}

impl LaneItem {
    /// A packet of a layer's history. Its padding stays behind: the other shard pads for itself.
    pub fn held(
        track: TrackId,
        layer: u8,
        number: Option<u32>,
        history: &History,
        seq: SeqNo,
    ) -> Option<Self> {
        let (held, payload) = history.find(seq)?;
        let bytes = LaneBytes::joined(payload.get(..usize::from(held.len))?, history.passed(held))?;
        let mut packet = *held;
        packet.padding = 0;
        Some(Self::Packet { track, layer, number, packet, bytes })
    }
}

/// What another shard has to know of a track.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    pub track: TrackId,
    pub layers: u8,
    pub muted: bool,
    pub formats: Formats,
}

/// What is said about tracks and tuples. Latest values: each may be said again.
#[derive(Clone, PartialEq, Debug)]
pub enum LaneSignal {
    /// To the publisher's shard: send this track, or stop.
    Demand { track: TrackId, wanted: bool },
    /// To the publisher's shard: a subscriber cannot go on without a keyframe of this layer.
    Keyframe { track: TrackId, layer: u8 },
    /// To the publisher's shard: these packets of the lane were lost.
    Fetch { track: TrackId, first: u32, count: u16 },
    /// From the publisher's shard: the track exists and is like this. Said seldom, so that the signals said often stay small.
    Described(Box<Description>),
    /// From the publisher's shard: a layer's sender report.
    Report { track: TrackId, layer: u8, mapping: TimeMapping },
    /// From the publisher's shard: the track is over.
    Ended { track: TrackId },
    /// A tuple passed its connectivity check on the sending shard: its datagrams go there.
    Claimed { remote: SocketAddr },
    /// It no longer does.
    Released { remote: SocketAddr },
}

/// One shard's ends of its lanes to and from every other shard.
pub struct Lanes {
    own: ShardId,
    items_to: Vec<Option<Producer<LaneItem>>>,
    items_from: Vec<Option<Consumer<LaneItem>>>,
    signals_to: Vec<Option<Producer<LaneSignal>>>,
    signals_from: Vec<Option<Consumer<LaneSignal>>>,
    /// Shards that were sent something since [`Self::take_woken`].
    woken: u64,
}

/// Lanes for `shards` shards, every pair both ways.
pub fn mesh(shards: usize) -> Vec<Lanes> {
    let mut ends: Vec<Lanes> = (0..shards).map(|index| Lanes::empty(ShardId(index as u8), shards)).collect();
    for from in 0..shards {
        for to in (0..shards).filter(|to| *to != from) {
            let (producer, consumer) = RingBuffer::new(LANE_ITEMS_MAX);
            ends[from].items_to[to] = Some(producer);
            ends[to].items_from[from] = Some(consumer);
            let (producer, consumer) = RingBuffer::new(LANE_SIGNALS_MAX);
            ends[from].signals_to[to] = Some(producer);
            ends[to].signals_from[from] = Some(consumer);
        }
    }
    ends
}

impl Lanes {
    fn empty(own: ShardId, shards: usize) -> Self {
        fn none<T>(shards: usize) -> Vec<Option<T>> {
            (0..shards).map(|_| None).collect()
        }
        Self {
            own,
            items_to: none(shards),
            items_from: none(shards),
            signals_to: none(shards),
            signals_from: none(shards),
            woken: 0,
        }
    }

    pub fn own(&self) -> ShardId {
        self.own
    }

    /// False when the lane is full or there is no such shard.
    #[must_use]
    pub fn send(&mut self, to: ShardId, item: LaneItem) -> bool {
        let lane = self.items_to.get_mut(usize::from(to.0)).and_then(Option::as_mut);
        let sent = lane.is_some_and(|lane| lane.push(item).is_ok());
        self.woken |= u64::from(sent) << (to.0 & 63);
        sent
    }

    /// False when the lane is full or there is no such shard.
    #[must_use]
    pub fn signal(&mut self, to: ShardId, signal: LaneSignal) -> bool {
        let lane = self.signals_to.get_mut(usize::from(to.0)).and_then(Option::as_mut);
        let sent = lane.is_some_and(|lane| lane.push(signal).is_ok());
        self.woken |= u64::from(sent) << (to.0 & 63);
        sent
    }

    /// Says it to every other shard, as far as there is room.
    pub fn broadcast(&mut self, signal: &LaneSignal) {
        for shard in 0..self.signals_to.len() {
            let _ = self.signal(ShardId(shard as u8), signal.clone());
        }
    }

    /// The next item from shard `from`.
    pub fn poll_item(&mut self, from: ShardId) -> Option<LaneItem> {
        self.items_from.get_mut(usize::from(from.0))?.as_mut()?.pop().ok()
    }

    /// The next signal from shard `from`.
    pub fn poll_signal(&mut self, from: ShardId) -> Option<LaneSignal> {
        self.signals_from.get_mut(usize::from(from.0))?.as_mut()?.pop().ok()
    }

    pub fn shards(&self) -> usize {
        self.items_to.len()
    }

    /// Whether anything waits to be polled.
    pub fn has_input(&self) -> bool {
        self.items_from.iter().flatten().any(|lane| !lane.is_empty())
            || self.signals_from.iter().flatten().any(|lane| !lane.is_empty())
    }

    /// The shards to wake, as a bit set, once.
    pub fn take_woken(&mut self) -> u64 {
        std::mem::take(&mut self.woken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_has_a_lane_each_way_and_none_to_itself() {
        let mut ends = mesh(3);
        let track = TrackId::new(ShardId(0), 1);
        assert!(ends[0].signal(ShardId(2), LaneSignal::Ended { track }));
        assert!(!ends[0].signal(ShardId(0), LaneSignal::Ended { track }));
        assert!(!ends[0].signal(ShardId(9), LaneSignal::Ended { track }));
        assert_eq!(ends[0].take_woken(), 0b100);
        assert_eq!(ends[0].take_woken(), 0);
        assert!(ends[2].has_input() && !ends[1].has_input());
        assert_eq!(ends[2].poll_signal(ShardId(0)), Some(LaneSignal::Ended { track }));
        assert_eq!(ends[2].poll_signal(ShardId(0)), None);
    }

    #[test]
    fn a_full_lane_refuses() {
        let mut ends = mesh(2);
        let datagram = || LaneItem::Datagram {
            route: Route::udp(([127, 0, 0, 1], 1).into(), None),
            arrival: Instant::now(),
            bytes: LaneBytes::new(&[1; 100]).unwrap(),
        };
        for _ in 0..LANE_ITEMS_MAX {
            assert!(ends[0].send(ShardId(1), datagram()));
        }
        assert!(!ends[0].send(ShardId(1), datagram()));
        assert!(LaneBytes::new(&[0; LANE_BYTES_MAX + 1]).is_none());
    }
}
