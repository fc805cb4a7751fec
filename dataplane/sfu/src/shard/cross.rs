//! Lanes in: packets and signals from other shards.

use std::time::Instant;

use auralink_proto::{ShardId, TrackId};
use auralink_rtc::units::SeqNo;

use super::{Datagram, Output, Shard, TupleOwner};
use crate::history::Packet;
use crate::lanes::{Description, LaneBytes, LaneItem, LaneSignal};
use crate::publisher::{LaneFollower, Source};
use crate::stats::DropReason;

/// Items taken from one lane in one turn: other shards' bursts must not starve our own sockets, and one track's share of them
/// fits its pending list.
const ITEMS_PER_TURN: usize = 512;
/// Packets of a gap that are fetched again; a longer gap needs a keyframe.
const FETCH_MAX: u32 = 64;
/// Latest packets of each layer given to a shard that begins to follow: a keyframe that is just arriving must not lose the
/// part of it that came before the demand.
const PRELUDE: u64 = 64;

impl Shard {
    /// Takes in what other shards have sent, as far as one turn allows.
    pub fn handle_lanes(&mut self, now: Instant, out: &mut Output<'_>) {
        self.handling = None;
        for from in (0..out.lanes.shards()).map(|index| ShardId(index as u8)) {
            while let Some(signal) = out.lanes.poll_signal(from) {
                self.on_lane_signal(now, from, signal, out);
            }
            for _ in 0..ITEMS_PER_TURN {
                match out.lanes.poll_item(from) {
                    Some(LaneItem::Packet { track, layer, number, packet, bytes }) => {
                        self.on_lane_packet(now, track, layer, number, packet, &bytes, out);
                    }
                    Some(LaneItem::Datagram { route, arrival, bytes }) => {
                        self.ingest(now, &Datagram { route, arrival, bytes: bytes.as_slice() }, out);
                    }
                    None => break,
                }
            }
        }
    }

    /// Takes a packet of a followed track into its history here.
    #[expect(clippy::too_many_arguments, reason = "the fields of one lane item")]
    fn on_lane_packet(
        &mut self,
        now: Instant,
        id: TrackId,
        layer: u8,
        number: Option<u32>,
        packet: Packet,
        bytes: &LaneBytes,
        out: &mut Output<'_>,
    ) {
        let slot = self.by_track.get(&id).copied();
        let Some((slot, track)) = slot.and_then(|slot| Some((slot, self.tracks.get_mut(slot)?))) else {
            self.stats.drop(DropReason::LaneUnwanted);
            return;
        };
        self.stats.lane_received += 1;
        let Source::Lane { shard, next_number, .. } = &mut track.source else { return };
        let shard = *shard;
        let mut lost = None;
        if let Some(number) = number {
            let expected = next_number.replace(number.wrapping_add(1)).unwrap_or(number);
            lost = Some((expected, number.wrapping_sub(expected))).filter(|(_, count)| *count > 0);
        }
        let video = track.is_video();
        let Some(state) = track.layers.get_mut(usize::from(layer)) else { return };
        let Some((payload, passed)) = bytes.as_slice().split_at_checked(usize::from(packet.len)) else {
            return;
        };
        let reserved = payload.len() + passed.len();
        let Some(place) = state.history.reserve(reserved) else { return };
        if let Some(place) = place.get_mut(..payload.len()) {
            place.copy_from_slice(payload);
        }
        if !state.history.commit(reserved, 0, packet) {
            self.stats.drop(DropReason::Duplicate);
            return;
        }
        if let Some(place) = state.history.passed_mut(packet.seq).filter(|place| place.len() == passed.len())
        {
            place.copy_from_slice(passed);
        }
        let (_, came_alive) = track.on_packet(now, layer, &packet);
        self.mark(now, slot, layer, packet.marker);
        if came_alive {
            self.retarget_followers(now, slot, out);
        }
        if let Some((first, count)) = lost {
            self.stats.lane_lost += u64::from(count);
            let count = count.min(FETCH_MAX) as u16;
            let _ = out.lanes.signal(shard, LaneSignal::Fetch { track: id, first, count });
            if video {
                self.want_keyframe(now, slot, layer, out);
            }
        }
    }

    fn on_lane_signal(&mut self, now: Instant, from: ShardId, signal: LaneSignal, out: &mut Output<'_>) {
        match signal {
            LaneSignal::Demand { track, wanted } => self.on_demand(now, from, track, wanted, out),
            LaneSignal::Keyframe { track, layer } => {
                if let Some(slot) = self.by_track.get(&track).copied() {
                    self.want_keyframe(now, slot, layer, out);
                }
            }
            LaneSignal::Fetch { track, first, count } => self.on_fetch(from, track, first, count, out),
            LaneSignal::Described(description) => self.on_described(now, *description, out),
            LaneSignal::Report { track, layer, mapping } => {
                let track = self.by_track.get(&track).and_then(|slot| self.tracks.get_mut(*slot));
                if let Some(layer) = track.and_then(|track| track.layers.get_mut(usize::from(layer))) {
                    layer.mapping = Some(mapping);
                }
            }
            LaneSignal::Ended { track } => {
                if let Some(slot) = self.by_track.get(&track).copied() {
                    self.remove_track(slot, out);
                }
            }
            LaneSignal::Claimed { remote } => {
                let is_room = self.steered < self.config.steered_max || self.tuples.contains_key(&remote);
                if is_room && self.tuples.insert(remote, TupleOwner::Shard(from)).is_none() {
                    self.steered += 1;
                }
            }
            LaneSignal::Released { remote } => {
                if self.tuples.get(&remote) == Some(&TupleOwner::Shard(from)) {
                    self.tuples.remove(&remote);
                    self.steered -= 1;
                }
            }
        }
    }

    /// Another shard follows one of our tracks, or no longer does.
    fn on_demand(&mut self, now: Instant, from: ShardId, id: TrackId, wanted: bool, out: &mut Output<'_>) {
        let Some(slot) = self.by_track.get(&id).copied() else { return };
        let Some(track) = self.tracks.get_mut(slot) else { return };
        let at = track.lane_followers.iter().position(|follower| follower.shard == from);
        match (at, wanted) {
            (None, true) => track.lane_followers.push(LaneFollower::new(from)),
            (Some(at), false) => {
                track.lane_followers.swap_remove(at);
            }
            (Some(_), true) | (None, false) => {}
        }
        if !wanted {
            return;
        }
        let is_new = at.is_none();
        let layers = track.layers.len() as u8;
        // Lost on a full lane, it is asked for again with the next demand.
        let _ = out.lanes.signal(from, LaneSignal::Described(Box::new(track.describe())));
        for layer in 0..layers {
            let mapping =
                self.tracks.get(slot).and_then(|track| track.layers.get(usize::from(layer))?.mapping);
            if let Some(mapping) = mapping {
                let _ = out.lanes.signal(from, LaneSignal::Report { track: id, layer, mapping });
            }
            if is_new {
                self.send_prelude(from, slot, layer, out);
            }
            self.want_keyframe(now, slot, layer, out);
        }
    }

    /// Gives a new follower the latest packets of a layer.
    fn send_prelude(&mut self, to: ShardId, slot: u32, layer: u8, out: &mut Output<'_>) {
        let Some(track) = self.tracks.get(slot) else { return };
        let Some(state) = track.layers.get(usize::from(layer)) else { return };
        let Some(highest) = state.nack.highest() else { return };
        for seq in highest.0.saturating_sub(PRELUDE - 1)..=highest.0 {
            let Some(item) = LaneItem::held(track.id, layer, None, &state.history, SeqNo(seq)) else {
                continue;
            };
            if out.lanes.send(to, item) {
                self.stats.lane_sent += 1;
            } else {
                self.stats.drop(DropReason::LaneFull);
            }
        }
    }

    /// Sends packets of a lane again, out of the history.
    fn on_fetch(&mut self, from: ShardId, id: TrackId, first: u32, count: u16, out: &mut Output<'_>) {
        let Some(track) = self.by_track.get(&id).and_then(|slot| self.tracks.get(*slot)) else { return };
        let Some(follower) = track.lane_followers.iter().find(|follower| follower.shard == from) else {
            return;
        };
        for offset in 0..u32::from(count).min(FETCH_MAX) {
            let Some((layer, seq)) = follower.packet(first.wrapping_add(offset)) else { continue };
            let state = track.layers.get(usize::from(layer));
            let Some(item) = state.and_then(|state| LaneItem::held(id, layer, None, &state.history, seq))
            else {
                self.stats.drop(DropReason::HistoryGone);
                continue;
            };
            if out.lanes.send(from, item) {
                self.stats.lane_sent += 1;
            } else {
                self.stats.drop(DropReason::LaneFull);
            }
        }
    }

    fn on_described(&mut self, now: Instant, description: Description, out: &mut Output<'_>) {
        let Some(slot) = self.by_track.get(&description.track).copied() else { return };
        let Some(track) = self.tracks.get_mut(slot) else { return };
        if let Source::Lane { described, .. } = &mut track.source {
            *described = true;
            track.grow(usize::from(description.layers), &self.config);
            track.muted = description.muted;
            if track.formats != description.formats {
                track.formats = description.formats;
                self.map_followers(slot);
            }
            self.retarget_followers(now, slot, out);
        }
    }
}
