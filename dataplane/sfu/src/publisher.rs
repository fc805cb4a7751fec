//! A track as this shard holds it: its layers with their histories, who follows it, and what has to be asked of its
//! publisher. A track whose publisher lives on another shard looks the same, fed by a lane.

use std::time::{Duration, Instant};

use auralink_proto::{MediaKind, ShardId, TrackId};
use auralink_rtc::units::SeqNo;

use crate::config::ShardConfig;
use crate::formats::Formats;
use crate::history::{History, PADDING_MAX, Packet};
use crate::hold::Hold;
use crate::lanes::Description;
use crate::nack::{Gap, NackGenerator};
use crate::reception::Reception;
use crate::rewrite::TimeMapping;
use crate::speaker::Loudness;

/// Most simulcast layers of a track.
pub const LAYERS_MAX: usize = 3;
/// A layer without packets for this long is not live: subscribers are moved off it.
const LAYER_SILENT: Duration = Duration::from_millis(1_500);
/// Packets of one track that may wait for one egress; a fuller turn is flushed first.
pub const PENDING_MAX: usize = 512;
/// Packets of a lane that can be fetched again.
const LANE_MEMORY: usize = 512;

/// Where a track's packets come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A transport of this shard.
    Local { transport: u32 },
    /// The lane from the publisher's shard; `described` once that shard answered.
    Lane { shard: ShardId, described: bool, next_number: Option<u32> },
}

/// A line that follows a track.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Follower {
    pub transport: u32,
    pub line: u16,
}

/// A keyframe wish: coalesced over subscribers, throttled, repeated until it is fulfilled.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyframeWish {
    wanted: bool,
    asked: Option<Instant>,
}

impl KeyframeWish {
    pub fn want(&mut self) {
        self.wanted = true;
    }

    pub fn fulfil(&mut self) {
        self.wanted = false;
    }

    /// When to ask (again), if at all.
    pub fn due(&self, interval: Duration) -> Option<Instant> {
        self.wanted.then(|| self.asked.map(|asked| asked + interval))?
    }

    /// Whether to ask now.
    pub fn poll(&mut self, now: Instant, interval: Duration) -> bool {
        let due = self.wanted && self.asked.is_none_or(|asked| now >= asked + interval);
        if due {
            self.asked = Some(now);
        }
        due
    }
}

#[derive(Debug)]
pub struct Layer {
    pub history: History,
    /// The publisher's SSRC, once a packet proved it.
    pub ssrc: Option<u32>,
    pub nack: NackGenerator,
    pub reception: Reception,
    pub mapping: Option<TimeMapping>,
    /// Of the latest packet, in hertz.
    pub clock_rate: u32,
    pub wish: KeyframeWish,
    last_packet: Option<Instant>,
}

/// One other shard that follows a local track.
#[derive(Debug)]
pub struct LaneFollower {
    pub shard: ShardId,
    next_number: u32,
    memory: Box<[(u8, SeqNo)]>,
}

impl LaneFollower {
    pub fn new(shard: ShardId) -> Self {
        Self { shard, next_number: 0, memory: vec![(0, SeqNo(0)); LANE_MEMORY].into_boxed_slice() }
    }

    /// Numbers the next packet of the lane.
    pub fn number(&mut self, layer: u8, seq: SeqNo) -> u32 {
        let number = self.next_number;
        self.memory[number as usize % LANE_MEMORY] = (layer, seq);
        self.next_number = number.wrapping_add(1);
        number
    }

    /// Which packet carried `number`, if that is remembered.
    pub fn packet(&self, number: u32) -> Option<(u8, SeqNo)> {
        let age = self.next_number.wrapping_sub(number);
        (1..=LANE_MEMORY as u32).contains(&age).then(|| self.memory[number as usize % LANE_MEMORY])
    }
}

#[derive(Debug)]
pub struct Track {
    pub id: TrackId,
    pub kind: MediaKind,
    pub source: Source,
    /// What its publisher may send.
    pub formats: Formats,
    pub layers: Vec<Layer>,
    /// Packets that arrived since the last egress, in order of arrival.
    pub pending: Vec<(u8, SeqNo)>,
    /// Packets that were ever pending: what each line has to account for.
    pub offered: u64,
    /// Whether what is pending goes out with the next egress.
    pub released: bool,
    pub hold: Hold,
    pub followers: Vec<Follower>,
    pub lane_followers: Vec<LaneFollower>,
    pub muted: bool,
    /// A first authentic packet has arrived and control was told.
    pub live: bool,
    pub loudness: Loudness,
}

impl Track {
    pub fn new(id: TrackId, kind: MediaKind, source: Source, layers: usize, config: &ShardConfig) -> Self {
        let mut track = Self {
            id,
            kind,
            source,
            formats: Formats::default(),
            layers: Vec::with_capacity(LAYERS_MAX),
            pending: Vec::with_capacity(PENDING_MAX),
            offered: 0,
            released: false,
            hold: Hold::default(),
            followers: Vec::new(),
            lane_followers: Vec::new(),
            muted: false,
            live: false,
            loudness: Loudness::default(),
        };
        track.grow(layers, config);
        track
    }

    /// Makes room for `layers` layers, the largest history for the highest.
    pub fn grow(&mut self, layers: usize, config: &ShardConfig) {
        let layers = layers.clamp(1, LAYERS_MAX);
        for index in self.layers.len()..layers {
            let history = History::new(config.history(self.kind, index, layers));
            self.layers.push(Layer {
                history,
                ssrc: None,
                nack: NackGenerator::default(),
                reception: Reception::default(),
                mapping: None,
                clock_rate: 90_000,
                wish: KeyframeWish::default(),
                last_packet: None,
            });
        }
    }

    pub fn is_video(&self) -> bool {
        self.kind == MediaKind::Video
    }

    /// Notes a packet just committed to `layer`'s history. Whether the layer has just come alive.
    pub fn on_packet(&mut self, now: Instant, layer: u8, packet: &Packet) -> (Gap, bool) {
        let (is_video, clock_rate) = (self.is_video(), self.formats.clock_rate(packet.format));
        let Some(state) = self.layers.get_mut(usize::from(layer)) else { return (Gap::None, false) };
        let was_live = state.is_live(now);
        state.last_packet = Some(now);
        state.clock_rate = clock_rate;
        state.reception.on_packet(packet.arrival, packet.seq, packet.timestamp, clock_rate);
        let gap = state.nack.on_packet(now, packet.seq);
        if is_video && packet.is_entry_point(true) {
            state.nack.on_keyframe(packet.seq);
            state.wish.fulfil();
        }
        if gap == Gap::Broken && is_video {
            state.wish.want();
        }
        self.pending.push((layer, packet.seq));
        self.offered += 1;
        (gap, !was_live)
    }

    /// Pads the pending packets of each frame to the size of its largest, if they differ by a few octets: equal sizes are one
    /// train. Once for all subscribers, before any of them is sent anything.
    pub fn equalise(&mut self) {
        if !self.is_video() || self.pending.len() < 2 {
            return;
        }
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let of_layer = self.pending.iter().filter(|(layer, _)| usize::from(*layer) == index);
            let mut frame: Option<(u32, u16)> = None;
            let mut first = 0;
            // Frames follow each other within a layer: each is padded when the next begins.
            for (at, (_, seq)) in of_layer.clone().enumerate() {
                let Some((packet, _)) = layer.history.find(*seq) else { continue };
                match &mut frame {
                    Some((timestamp, len_max)) if *timestamp == packet.timestamp => {
                        *len_max = packet.len.max(*len_max);
                    }
                    _ => {
                        let next = (packet.timestamp, packet.len);
                        let ended = frame.replace(next);
                        pad(&mut layer.history, ended, of_layer.clone().skip(first).take(at - first));
                        first = at;
                    }
                }
            }
            pad(&mut layer.history, frame, of_layer.skip(first));
        }
    }

    /// The layer to send to someone who wants no more than `layer_max`: the highest live one not above it, else the lowest
    /// live one.
    pub fn best_layer(&self, now: Instant, layer_max: u8) -> Option<u8> {
        let mut live =
            (0..self.layers.len() as u8).filter(|index| self.layers[usize::from(*index)].is_live(now));
        let lowest = live.clone().next();
        live.rfind(|index| *index <= layer_max).or(lowest)
    }

    /// When a live layer that somebody follows will have fallen silent, if nothing more arrives.
    pub fn silence_due(&self, now: Instant) -> Option<Instant> {
        let is_watched = self.is_video() && !self.followers.is_empty();
        let live = self.layers.iter().filter(|layer| is_watched && layer.is_live(now));
        live.filter_map(|layer| layer.last_packet).min().map(|last| last + LAYER_SILENT)
    }

    /// Both sides' time mappings for a switch between layers.
    pub fn mappings(&self, old: u8, new: u8) -> Option<(TimeMapping, TimeMapping)> {
        let mapping = |index: u8| self.layers.get(usize::from(index)).and_then(|layer| layer.mapping);
        mapping(old).zip(mapping(new))
    }

    /// What other shards have to know of it.
    pub fn describe(&self) -> Description {
        Description {
            track: self.id,
            layers: self.layers.len() as u8,
            muted: self.muted,
            formats: self.formats.clone(),
        }
    }

    /// The shard at the other end of the lane, for a track that is not published here.
    pub fn lane_source(&self) -> Option<ShardId> {
        match self.source {
            Source::Lane { shard, .. } => Some(shard),
            Source::Local { .. } => None,
        }
    }
}

/// Pads packets of one frame, given its timestamp and the length of its longest.
fn pad<'a>(history: &mut History, frame: Option<(u32, u16)>, packets: impl Iterator<Item = &'a (u8, SeqNo)>) {
    let Some((_, len_max)) = frame else { return };
    for (_, seq) in packets {
        let missing = history.find(*seq).map_or(0, |(packet, _)| len_max.saturating_sub(packet.len));
        if (1..=u16::from(PADDING_MAX)).contains(&missing) {
            history.pad(*seq, missing as u8);
        }
    }
}

impl Layer {
    pub fn is_live(&self, now: Instant) -> bool {
        self.last_packet.is_some_and(|last| now < last + LAYER_SILENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_asked_once_per_interval_until_fulfilled() {
        let start = Instant::now();
        let interval = Duration::from_millis(500);
        let mut wish = KeyframeWish::default();
        assert!(!wish.poll(start, interval));
        wish.want();
        assert!(wish.poll(start, interval));
        wish.want();
        assert!(!wish.poll(start + interval / 2, interval));
        assert_eq!(wish.due(interval), Some(start + interval));
        assert!(wish.poll(start + interval, interval));
        wish.fulfil();
        assert!(!wish.poll(start + interval * 9, interval));
    }

    #[test]
    fn the_best_layer_is_the_highest_live_one_wanted() {
        let now = Instant::now();
        let id = TrackId::new(ShardId(0), 1);
        let source = Source::Local { transport: 0 };
        let mut track = Track::new(id, MediaKind::Video, source, 3, &ShardConfig::default());
        assert_eq!(track.best_layer(now, 2), None);
        track.layers[1].last_packet = Some(now);
        assert_eq!((track.best_layer(now, 0), track.best_layer(now, 2)), (Some(1), Some(1)));
        track.layers[0].last_packet = Some(now);
        track.layers[2].last_packet = Some(now);
        assert_eq!((track.best_layer(now, 0), track.best_layer(now, 9)), (Some(0), Some(2)));
        assert_eq!(track.best_layer(now + LAYER_SILENT, 2), None);
    }

    #[test]
    fn a_lane_remembers_its_latest_packets() {
        let mut lane = LaneFollower::new(ShardId(1));
        for seq in 0..1_000 {
            assert_eq!(lane.number(1, SeqNo(seq)), seq as u32);
        }
        assert_eq!(lane.packet(999), Some((1, SeqNo(999))));
        assert_eq!(lane.packet(488), Some((1, SeqNo(488))));
        assert_eq!((lane.packet(487), lane.packet(1_000)), (None, None));
    }
}
