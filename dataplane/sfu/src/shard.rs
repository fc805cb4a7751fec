//! The spine. A packet's path is [`Shard::ingest`] and, once the turn's packets are in, [`Shard::egress`].
//!
//! `ingest` classifies a datagram, opens SRTP out of place into the track's history and marks who follows the track.
//! `egress` goes subscriber by subscriber, so that a key and a train stay in cache, and seals everything pending for one
//! straight into its train. Nothing here reads a clock, waits or allocates per packet.

mod apply;
mod contain;
mod cross;
mod feedback;
mod payloads;
mod peers;
mod receive;
mod slow;
mod streams;
mod timers;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use auralink_proto::{Event, ShardId, TrackId, TransportId};
use auralink_rtc::classify::{Kind, classify};
use auralink_rtc::dtls::Certificate;
use auralink_rtc::egress::{Egress, TwccRange};
use auralink_rtc::stun;
use auralink_rtc::units::{Protocol, Route, SeqNo};

use crate::backlog::Backlog;
use crate::config::ShardConfig;
use crate::hold::Decision;
use crate::lanes::{LANE_BYTES_MAX, LaneBytes, LaneItem, Lanes};
use crate::publisher::Track;
use crate::slots::Slots;
use crate::stats::{DropReason, ShardStats};
use crate::subscriber::{Forwarded, Line, Sink};
use crate::timer::Wheel;
use crate::transport::Transport;
use contain::Strikes;
use slow::SlowLane;
use streams::Streams;

/// A received datagram.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    pub route: Route,
    /// When the kernel received it.
    pub arrival: Instant,
    pub bytes: &'a [u8],
}

/// Where a shard's output goes; borrowed for the length of a call.
pub struct Output<'a> {
    pub egress: &'a mut Egress,
    pub events: &'a mut Vec<Event>,
    pub lanes: &'a mut Lanes,
}

/// Who owns a tuple.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TupleOwner {
    Transport(u32),
    Shard(ShardId),
}

/// One shard: the transports that live here and the tracks they publish or follow.
pub struct Shard {
    id: ShardId,
    config: ShardConfig,
    certificate: Certificate,
    transports: Slots<Box<Transport>>,
    by_transport: HashMap<TransportId, u32>,
    tuples: HashMap<SocketAddr, TupleOwner>,
    /// Addresses that became ours, or no longer are, for whoever can steer datagrams to us.
    claims: Vec<(SocketAddr, bool)>,
    steered: usize,
    streams: Streams,
    tracks: Slots<Box<Track>>,
    by_track: HashMap<TrackId, u32>,
    /// Transports with packets to send, in the order in which they became so.
    dirty: Vec<u32>,
    /// Tracks whose pending packets go out with the next egress.
    pending: Vec<u32>,
    /// Tracks that wait for the rest of a frame, and until when; the earliest first.
    held: VecDeque<(u32, Instant)>,
    /// Where the next egress starts, so that no subscriber is always first.
    rotation: usize,
    egress_cursor: usize,
    /// When the turn began: all that egress knows of time.
    turn: Instant,
    wheel: Wheel,
    /// By track: layers that may have fallen silent, lanes that may not have answered.
    track_wheel: Wheel,
    next_speakers: Instant,
    slow: SlowLane,
    backlog: Backlog,
    /// The transport a call is about, should it panic.
    handling: Option<u32>,
    strikes: Strikes,
    #[cfg(feature = "plant")]
    planted_panic: Option<TransportId>,
    /// Tracks heard since the last look at who is speaking.
    heard: Vec<u32>,
    seed: u64,
    stats: ShardStats,
    /// Reused by control messages that list sequence numbers.
    scratch_seqs: Vec<u16>,
}

impl Shard {
    /// `seed` feeds initial sequence numbers; the same seed and input give the same output.
    pub fn new(id: ShardId, config: ShardConfig, certificate: Certificate, now: Instant, seed: u64) -> Self {
        Self {
            id,
            config,
            certificate,
            transports: Slots::new(config.transports_max),
            by_transport: HashMap::with_capacity(config.transports_max),
            tuples: HashMap::with_capacity(config.transports_max),
            claims: Vec::new(),
            steered: 0,
            streams: Streams::default(),
            tracks: Slots::new(config.tracks_max),
            by_track: HashMap::with_capacity(config.tracks_max),
            dirty: Vec::with_capacity(config.transports_max),
            pending: Vec::with_capacity(config.tracks_max),
            held: VecDeque::with_capacity(config.tracks_max),
            rotation: 0,
            egress_cursor: 0,
            turn: now,
            wheel: Wheel::new(now, config.transports_max),
            track_wheel: Wheel::new(now, config.tracks_max),
            next_speakers: now,
            slow: SlowLane::new(),
            backlog: Backlog::default(),
            handling: None,
            strikes: Strikes::default(),
            #[cfg(feature = "plant")]
            planted_panic: None,
            heard: Vec::with_capacity(config.tracks_max),
            seed,
            stats: ShardStats::default(),
            scratch_seqs: Vec::with_capacity(512),
        }
    }

    pub fn id(&self) -> ShardId {
        self.id
    }

    pub fn stats(&self) -> &ShardStats {
        &self.stats
    }

    pub fn transports_len(&self) -> usize {
        self.by_transport.len()
    }

    /// Tracks published or followed here.
    pub fn tracks_len(&self) -> usize {
        self.by_track.len()
    }

    /// Addresses known: those of peers here, and of other shards' peers that are steered.
    pub fn tuples_len(&self) -> usize {
        self.tuples.len()
    }

    /// Takes one datagram in. What it makes ready to forward waits for [`Self::egress`].
    pub fn ingest(&mut self, now: Instant, datagram: &Datagram<'_>, out: &mut Output<'_>) {
        self.handling = None;
        let kind = classify(datagram.bytes);
        if kind == Kind::Stun {
            // Always by user name fragment, even on a known tuple: the peer behind an address may have changed.
            self.ingest_stun(now, datagram, out);
            return;
        }
        let owner = match self.owner_of(&datagram.route) {
            Some(TupleOwner::Transport(slot)) => slot,
            Some(TupleOwner::Shard(shard)) => {
                self.steer(shard, datagram, out);
                return;
            }
            None => {
                self.stats.drop(DropReason::UnknownTuple);
                return;
            }
        };
        self.handling = Some(owner);
        #[cfg(feature = "plant")]
        self.panic_if_planted(owner);
        let result = match kind {
            Kind::Rtp => self.receive_rtp(now, owner, datagram, out),
            Kind::Rtcp => self.receive_rtcp(now, owner, datagram, out),
            Kind::Dtls => self.queue_dtls(owner, datagram),
            Kind::Stun | Kind::Other => Err(DropReason::Unclassified),
        };
        if let Err(reason) = result {
            self.stats.drop(reason);
        }
    }

    fn owner_of(&self, route: &Route) -> Option<TupleOwner> {
        match route.protocol {
            Protocol::Udp => self.tuples.get(&route.remote).copied(),
            Protocol::Tcp => self.streams.owner(route).map(TupleOwner::Transport),
        }
    }

    /// Sends what is pending. Returns false when the trains ran out of buffers before everything was sent: the caller gives
    /// the trains to the kernel and calls again.
    pub fn egress(&mut self, out: &mut Output<'_>) -> bool {
        while self.egress_cursor < self.dirty.len() {
            let at = (self.rotation + self.egress_cursor) % self.dirty.len();
            let slot = self.dirty[at];
            if !self.egress_transport(slot, out) {
                return false;
            }
            self.egress_cursor += 1;
        }
        self.rotation = self.rotation.wrapping_add(1) % self.config.transports_max.max(1);
        self.egress_cursor = 0;
        self.dirty.clear();
        for slot in self.pending.drain(..) {
            if let Some(track) = self.tracks.get_mut(slot) {
                track.pending.clear();
                track.released = false;
            }
        }
        true
    }

    /// Addresses that became this shard's own (true) or no longer are, since the last call; nothing with one shard.
    pub fn drain_claims(&mut self) -> impl Iterator<Item = (SocketAddr, bool)> {
        self.claims.drain(..)
    }

    /// The trains that carried these numbers went to the kernel now.
    pub fn handle_flushed(&mut self, now: Instant, range: TwccRange) {
        if let Some(transport) = self.transports.get_mut(range.owner) {
            transport.departures.on_flushed(now, range.first, range.count);
        }
    }

    /// Everything pending for one transport; false when buffers ran out.
    fn egress_transport(&mut self, slot: u32, out: &mut Output<'_>) -> bool {
        self.handling = Some(slot);
        let Some(transport) = self.transports.get_mut(slot) else { return true };
        let Transport { peer, lines, dirty, next_twcc, stats, .. } = &mut **transport;
        let (Some(route), Some(seal)) = (peer.route(), peer.srtp_seal()) else {
            // Its client is not there yet, or no longer.
            while let Some(index) = dirty.first() {
                let line = lines.get_mut(usize::from(index));
                let held = line.and_then(|line| Some((self.tracks.get(line.track?)?, line)));
                held.into_iter().for_each(|(track, line)| line.miss(track));
                dirty.remove(index);
            }
            transport.is_dirty = false;
            return true;
        };
        let mut sink = Sink { seal, route, egress: out.egress, owner: slot, next_twcc };
        while let Some(index) = dirty.first() {
            let Some(line) = lines.get_mut(usize::from(index)) else { break };
            if let Some(track) = line.track.and_then(|track| self.tracks.get(track)) {
                while let Some((layer, seq, is_backlog)) = next_packet(line, track) {
                    let held = track.layers.get(usize::from(layer)).and_then(|layer| layer.history.find(seq));
                    let forwarded = match held {
                        Some((packet, payload)) => line.forward(track, layer, packet, payload, &mut sink),
                        // A backlog has gaps: what is missing there is still being asked for.
                        None if is_backlog => Forwarded::Filtered,
                        None => {
                            line.counters.dropped += 1;
                            Forwarded::Dropped(DropReason::HistoryGone)
                        }
                    };
                    match forwarded {
                        Forwarded::Full => return false,
                        Forwarded::Filtered => {}
                        Forwarded::Dropped(reason) => self.stats.drop(reason),
                        Forwarded::Sent { octets } => {
                            self.stats.packets_sent += 1;
                            self.stats.octets_sent += u64::from(octets);
                            stats.packets_sent += 1;
                        }
                    }
                    if is_backlog {
                        line.advance_backlog(held.is_some());
                    } else {
                        line.cursor += 1;
                    }
                }
            }
            line.cursor = 0;
            dirty.remove(index);
        }
        transport.is_dirty = false;
        self.arm_reports(slot);
        true
    }

    /// Track `slot` has a packet more pending: it goes out now, or waits for the rest of its frame.
    fn mark(&mut self, now: Instant, slot: u32, layer: u8, marker: bool) {
        let Some(track) = self.tracks.get_mut(slot) else { return };
        if track.released {
            return;
        }
        let followers = if track.is_video() { track.followers.len() } else { 0 };
        let pending = track.pending.len();
        match track.hold.on_packet(now, layer, marker, pending, followers, &self.config.hold) {
            Decision::Release => self.release_track(slot),
            Decision::WaitUntil(_) if self.held.len() >= self.config.tracks_max => self.release_track(slot),
            Decision::WaitUntil(until) => self.held.push_back((slot, until)),
            Decision::Wait => {}
        }
    }

    /// Ends the waits that are over.
    fn release_held(&mut self, now: Instant) {
        while let Some((slot, until)) = self.held.front().copied().filter(|(_, until)| *until <= now) {
            self.held.pop_front();
            let track = self.tracks.get_mut(slot);
            if track.is_some_and(|track| track.hold.expire(until, track.pending.len())) {
                self.release_track(slot);
            }
        }
    }

    /// Marks everyone who follows track `slot`: what it has pending goes out with the next egress.
    fn release_track(&mut self, slot: u32) {
        let Some(track) = self.tracks.get_mut(slot) else { return };
        track.released = true;
        track.equalise();
        self.pending.push(slot);
        for follower in &track.followers {
            let Some(transport) = self.transports.get_mut(follower.transport) else { continue };
            transport.dirty.insert(follower.line);
            if !std::mem::replace(&mut transport.is_dirty, true) {
                self.dirty.push(follower.transport);
            }
        }
    }

    /// STUN names its transport by user name fragment; one that names another shard crosses a lane, any other is dropped
    /// before it costs anything.
    fn ingest_stun(&mut self, now: Instant, datagram: &Datagram<'_>, out: &mut Output<'_>) {
        let named =
            stun::username(datagram.bytes).and_then(|(local, _)| TransportId::from_ufrag(local.as_bytes()));
        let Some(id) = named else {
            self.stats.drop(DropReason::StunRefused);
            return;
        };
        if id.shard() != self.id && datagram.route.protocol == Protocol::Tcp {
            // A connection does not move: its client named this shard when it came.
            self.stats.drop(DropReason::UnknownUfrag);
            return;
        }
        if id.shard() != self.id {
            self.steer(id.shard(), datagram, out);
            return;
        }
        match self.by_transport.get(&id).copied() {
            Some(slot) => {
                self.handling = Some(slot);
                self.receive_stun(now, slot, datagram, out);
            }
            None => self.stats.drop(DropReason::UnknownUfrag),
        }
    }

    /// Passes a datagram to the shard it belongs to.
    fn steer(&mut self, shard: ShardId, datagram: &Datagram<'_>, out: &mut Output<'_>) {
        if usize::from(shard.0) >= out.lanes.shards() {
            self.stats.drop(DropReason::UnknownUfrag);
            return;
        }
        let Some(bytes) = LaneBytes::new(datagram.bytes) else {
            debug_assert!(datagram.bytes.len() > LANE_BYTES_MAX);
            self.stats.drop(DropReason::TooLarge);
            return;
        };
        self.stats.steered += 1;
        let item = LaneItem::Datagram { route: datagram.route, arrival: datagram.arrival, bytes };
        if !out.lanes.send(shard, item) {
            self.stats.drop(DropReason::LaneFull);
        }
    }

    /// The next datagram of this transport makes the shard panic. Only with the feature `plant`: for the test that shows what
    /// a panic costs.
    #[cfg(feature = "plant")]
    pub fn plant_panic(&mut self, transport: TransportId) {
        self.planted_panic = Some(transport);
    }

    #[cfg(feature = "plant")]
    #[expect(clippy::panic, reason = "the fault that is planted")]
    fn panic_if_planted(&mut self, slot: u32) {
        let id = self.transports.get(slot).map(|transport| transport.id);
        if id.is_some() && self.planted_panic == id {
            self.planted_panic = None;
            panic!("planted");
        }
    }

    /// When [`Self::handle_timeout`] has something to do, at most `horizon` away.
    pub fn poll_timeout(&self, now: Instant, horizon: Duration) -> Instant {
        if !self.slow.is_empty() {
            return now;
        }
        let speakers = if self.heard.is_empty() { now + horizon } else { self.next_speakers };
        let held = self.held.front().map_or(speakers, |(_, until)| *until);
        let timers = self.wheel.next_deadline(now, horizon).min(self.track_wheel.next_deadline(now, horizon));
        timers.min(speakers).min(held)
    }
}

/// What a line is offered next: what overtook the keyframe it has just joined at, then what is pending.
fn next_packet(line: &mut Line, track: &Track) -> Option<(u8, SeqNo, bool)> {
    if let Some((layer, seq)) = line.next_backlog() {
        return Some((layer, seq, true));
    }
    track.pending.get(line.cursor).map(|(layer, seq)| (*layer, *seq, false))
}
