//! A line: one m-line on which a client receives. It follows a track, chooses the layer, and turns each packet of it into a
//! packet of the line's own stream. The line's SSRCs stay while tracks come and go.

use std::time::Instant;

use auralink_proto::{Intent, MediaKind, Mid, PayloadMap, SendSection};
use auralink_rtc::egress::Egress;
use auralink_rtc::rtp::RtpFields;
use auralink_rtc::srtp::{SealStream, SrtpSeal};
use auralink_rtc::units::{Route, SeqNo};

use crate::account::Account;
use crate::formats::{Formats, Mapped, Outline, Redundant};
use crate::header::HeaderTemplate;
use crate::history::Packet;
use crate::lanes::LANE_BYTES_MAX;
use crate::publisher::Track;
use crate::quality::Listener;
use crate::resend::ResendLimit;
use crate::rewrite::{Rewriter, Rewritten};
use crate::stats::DropReason;

/// Packets that may have overtaken a keyframe and are sent after it.
const BACKLOG_MAX: u64 = 256;
/// Bytes of the original sequence number in front of a repaired payload (RFC 4588 §4).
const REPAIR_PREFIX: usize = 2;

/// The repair stream of a line (RFC 4588).
#[derive(Debug)]
struct Repair {
    ssrc: u32,
    stream: Option<SealStream>,
    next: SeqNo,
    limit: ResendLimit,
}

/// Where sealed packets of one transport go: its cipher, its train and its transport-wide numbers.
pub struct Sink<'a> {
    pub seal: &'a mut SrtpSeal,
    pub route: Route,
    pub egress: &'a mut Egress,
    /// Handle of the transport in the trains' [`auralink_rtc::egress::TwccRange`].
    pub owner: u32,
    pub next_twcc: &'a mut u16,
}

/// What became of a packet offered to a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forwarded {
    /// In a datagram of so many octets.
    Sent {
        octets: u16,
    },
    /// Not for this line: another layer, a paused line, from before the last switch.
    Filtered,
    /// No train buffer is free: flush and offer it again.
    Full,
    Dropped(DropReason),
}

#[derive(Debug)]
pub struct Line {
    pub mid: Mid,
    pub kind: MediaKind,
    pub ssrc: u32,
    stream: Option<SealStream>,
    repair: Option<Repair>,
    /// What the client negotiated, and what that makes of each format of the track followed.
    payloads: Vec<PayloadMap>,
    mapped: Vec<Option<Mapped>>,
    /// The entry of `mapped` for the format that came last, next to what else every packet needs.
    latest: (u8, Option<Mapped>),
    header: HeaderTemplate,
    /// Slot of the track followed.
    pub track: Option<u32>,
    pub intent: Intent,
    current: Option<u8>,
    target: Option<u8>,
    rewriter: Rewriter,
    /// After joining at a keyframe: packets behind it that had arrived before it, next and last.
    backlog: Option<(SeqNo, SeqNo)>,
    /// How many of the track's pending packets this line has dealt with in this egress.
    pub(crate) cursor: usize,
    pub counters: LineCounters,
    pub(crate) account: Account,
    pub(crate) listener: Listener,
}

/// Counters of one line, for sender reports and statistics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LineCounters {
    pub packets: u64,
    pub octets: u32,
    /// Left out on purpose: of another layer, not wanted, or before the client was there.
    pub filtered: u64,
    /// Dropped, under a name the shard counts.
    pub dropped: u64,
    pub resent: u64,
}

impl Line {
    /// `first_seq`: random start of both streams (RFC 3550 §5.1).
    pub fn new(now: Instant, section: &SendSection, first_seq: u16) -> Self {
        let repair = section.rtx_ssrc.map(|ssrc| Repair {
            ssrc,
            stream: None,
            next: SeqNo::first(first_seq ^ 0x2aaa),
            limit: ResendLimit::new(now),
        });
        let mut line = Self {
            mid: section.mid,
            kind: section.kind,
            ssrc: section.ssrc,
            stream: None,
            repair,
            payloads: Vec::new(),
            mapped: Vec::new(),
            latest: (0, None),
            header: HeaderTemplate::new(&section.mid, &section.extensions),
            track: None,
            intent: Intent::default(),
            current: None,
            target: None,
            rewriter: Rewriter::new(SeqNo::first(first_seq)),
            backlog: None,
            cursor: 0,
            counters: LineCounters::default(),
            account: Account::default(),
            listener: Listener::default(),
        };
        line.update(section);
        line
    }

    /// Takes over what a newer description may change: payload types and extensions. Whether the former did, so that
    /// [`Self::map`] is due.
    pub fn update(&mut self, section: &SendSection) -> bool {
        self.header = HeaderTemplate::new(&section.mid, &section.extensions);
        let is_new = self.payloads != section.payloads;
        if is_new {
            self.payloads.clone_from(&section.payloads);
        }
        is_new
    }

    /// Decides what becomes of each format of the track followed.
    pub fn map(&mut self, formats: &Formats) {
        self.mapped = formats.map(&self.payloads);
        self.latest = (0, self.mapped.first().copied().flatten());
    }

    /// What becomes of format `index`; `None` when the client cannot take it.
    #[inline]
    fn mapped(&mut self, index: u8) -> Option<Mapped> {
        if self.latest.0 != index {
            self.latest = (index, self.mapped.get(usize::from(index)).copied().flatten());
        }
        self.latest.1
    }

    /// Registers the line's SSRCs with the cipher, once keys exist.
    pub fn register(&mut self, seal: &mut SrtpSeal) {
        if self.stream.is_none() {
            self.stream = seal.stream(self.ssrc).ok();
        }
        if let Some(repair) = self.repair.as_mut().filter(|repair| repair.stream.is_none()) {
            repair.stream = seal.stream(repair.ssrc).ok();
        }
    }

    pub fn repair_ssrc(&self) -> Option<u32> {
        self.repair.as_ref().map(|repair| repair.ssrc)
    }

    /// Follows another track, or none. The stream goes on where it was.
    pub fn follow(&mut self, track: Option<u32>) {
        self.track = track;
        self.mapped.clear();
        self.latest = (0, None);
        self.current = None;
        self.target = None;
        self.backlog = None;
        self.cursor = 0;
        self.account.open();
        self.rewriter.forget_sources();
    }

    /// Forgets having joined `layer`: its packets start anew.
    pub fn leave(&mut self, layer: u8) {
        self.rewriter.forget_layer(layer);
        if self.current == Some(layer) {
            self.current = None;
        }
    }

    /// Chooses the layer anew; returns the layer to ask a keyframe of, if the line waits for one.
    pub fn retarget(&mut self, now: Instant, track: &Track) -> Option<u8> {
        if self.is_stopped(track) {
            (self.current, self.target) = (None, None);
            return None;
        }
        // A track that sends nothing at the moment keeps its target: a still screen is no reason to ask for keyframes.
        self.target = track.best_layer(now, self.intent.layer_max).or(self.target);
        self.waits_for(track)
    }

    /// The layer this line needs a keyframe of.
    pub fn waits_for(&self, track: &Track) -> Option<u8> {
        self.target.filter(|target| track.is_video() && self.current != Some(*target))
    }

    /// The layer being sent.
    pub fn current(&self) -> Option<u8> {
        self.current
    }

    fn is_stopped(&self, track: &Track) -> bool {
        track.muted || self.intent.paused
    }

    /// Sends one packet of the track followed, if it is one for this line. `payload` includes the packet's padding.
    pub fn forward(
        &mut self,
        track: &Track,
        layer: u8,
        packet: &Packet,
        payload: &[u8],
        sink: &mut Sink<'_>,
    ) -> Forwarded {
        let Some(stream) = self.stream else {
            self.counters.dropped += 1;
            return Forwarded::Dropped(DropReason::NoKeys);
        };
        if !self.admits(track, layer, packet) {
            self.counters.filtered += 1;
            return Forwarded::Filtered;
        }
        let Some(map) = self.mapped(packet.format) else {
            self.counters.dropped += 1;
            return Forwarded::Dropped(DropReason::CodecUnsupported);
        };
        let body = self.body(track, layer, packet, payload, map);
        // Nothing may change before there is a place for the packet: it will be offered again.
        if !sink.egress.has_room_for(&sink.route, body.sealed_len(sink)) {
            return Forwarded::Full;
        }
        self.switch_if_due(track, layer, packet);
        let rewritten = self.rewriter.rewrite(packet);
        let rewritten = rewritten.filter(|rewritten| !sink.seal.has_sealed(stream, rewritten.seq));
        let Some(rewritten) = rewritten else {
            self.counters.filtered += 1;
            return Forwarded::Filtered;
        };
        let fields = RtpFields {
            marker: packet.marker,
            padding: packet.padding > 0,
            pt: map.pt,
            seq: rewritten.seq.wire(),
            timestamp: rewritten.timestamp,
            ssrc: self.ssrc,
        };
        let seal = Seal { stream, seq: rewritten.seq, repaired: None };
        let result = self.write(&fields, packet, &rewritten, &body, seal, sink);
        if matches!(result, Forwarded::Sent { .. }) {
            let octets = body.payload.len() as u32 - u32::from(packet.padding);
            self.counters.packets += 1;
            self.counters.octets = self.counters.octets.wrapping_add(octets);
        } else if matches!(result, Forwarded::Dropped(_)) {
            self.counters.dropped += 1;
        }
        result
    }

    /// Answers a request for `wire` on the repair stream. `None` when there is nothing to do.
    pub fn resend(
        &mut self,
        now: Instant,
        wire: u16,
        track: &Track,
        sink: &mut Sink<'_>,
    ) -> Option<Forwarded> {
        let seq = self.rewriter.highest()?.nearest(wire);
        let (layer, source) = self.rewriter.source_of(seq)?;
        let was_sent = sink.seal.has_sealed(self.stream?, seq);
        if !self.repair.as_mut()?.limit.admits(now, seq.0) {
            return None;
        }
        let history = &track.layers.get(usize::from(layer))?.history;
        let Some((packet, payload)) = history.find(source) else {
            // What never reached us is being asked for upstream; only what we had and lost is a drop.
            return was_sent.then_some(Forwarded::Dropped(DropReason::HistoryGone));
        };
        let rewritten = self.rewriter.rewrite_again(seq, packet)?;
        let map = self.mapped(packet.format)?;
        let (pt, repair) = (map.rtx_pt?, self.repair.as_ref()?);
        let seal = Seal { stream: repair.stream?, seq: repair.next, repaired: Some(rewritten.seq.wire()) };
        // Padding is not repaired (RFC 4588 §4).
        let body = self.body(track, layer, packet, &payload[..usize::from(packet.len)], map);
        let fields = RtpFields {
            marker: packet.marker,
            padding: false,
            pt,
            seq: repair.next.wire(),
            timestamp: rewritten.timestamp,
            ssrc: repair.ssrc,
        };
        let result = self.write(&fields, packet, &rewritten, &body, seal, sink);
        if matches!(result, Forwarded::Sent { .. }) {
            self.counters.resent += 1;
            if let Some(repair) = &mut self.repair {
                repair.next.0 += 1;
            }
        }
        Some(result)
    }

    /// A time mapping of the layer being sent, in the line's own media time, for its sender report.
    pub fn report_time(&self, now: Instant, track: &Track) -> Option<(u64, u32)> {
        let layer = track.layers.get(usize::from(self.current?))?;
        let mapping = layer.mapping?;
        let elapsed = now.saturating_duration_since(mapping.arrival);
        let ntp = mapping.ntp.0.wrapping_add(((elapsed.as_nanos() << 32) / 1_000_000_000) as u64);
        let ticks = elapsed.as_micros() as u64 * u64::from(layer.clock_rate) / 1_000_000;
        Some((ntp, self.rewriter.timestamp(mapping.timestamp.wrapping_add(ticks as u32))))
    }

    fn admits(&self, track: &Track, layer: u8, packet: &Packet) -> bool {
        if self.is_stopped(track) {
            return false;
        }
        let enters = self.target == Some(layer) && packet.is_entry_point(track.is_video());
        self.current == Some(layer) || enters
    }

    /// Joins the target layer where it can be joined.
    fn switch_if_due(&mut self, track: &Track, layer: u8, packet: &Packet) {
        if self.current == Some(layer) {
            return;
        }
        let mappings = self.current.and_then(|old| track.mappings(old, layer));
        self.rewriter.switch_to(layer, packet, track.formats.clock_rate(packet.format), mappings);
        self.current = Some(layer);
        let highest = track.layers.get(usize::from(layer)).and_then(|layer| layer.nack.highest());
        self.backlog = highest
            .filter(|highest| {
                track.is_video() && *highest > packet.seq && highest.0 - packet.seq.0 <= BACKLOG_MAX
            })
            .map(|highest| (SeqNo(packet.seq.0 + 1), highest));
    }

    /// The next packet that overtook the keyframe just joined at: it was not for this line then, and is now.
    pub fn next_backlog(&mut self) -> Option<(u8, SeqNo)> {
        let (next, last) = self.backlog?;
        let layer = self.current.filter(|_| next <= last);
        if layer.is_none() {
            self.backlog = None;
        }
        Some((layer?, next))
    }

    /// Goes on to the next packet of the backlog. `had`: the last one was there.
    pub fn advance_backlog(&mut self, had: bool) {
        if had {
            self.account.repeat();
        }
        if let Some((next, _)) = &mut self.backlog {
            next.0 += 1;
        }
    }

    /// What of a packet goes out here.
    #[inline]
    fn body<'a>(
        &self,
        track: &'a Track,
        layer: u8,
        packet: &Packet,
        payload: &'a [u8],
        map: Mapped,
    ) -> Body<'a> {
        let mut body = Body {
            payload,
            passed: &[],
            header_len: self.header.len(packet.audio_level.is_some()),
            redundancy: map.redundancy,
        };
        if packet.passed_len > 0 && self.header.passes() {
            let layer = track.layers.get(usize::from(layer));
            body.passed = layer.map_or(&[], |layer| layer.history.passed(packet));
            body.header_len = self.header.len_passing(packet.audio_level.is_some(), body.passed);
        }
        if map.redundancy == Redundant::Strip
            && let Outline::Redundant(redundancy) = &packet.outline
        {
            body.payload = redundancy.primary(payload).unwrap_or_default();
        }
        body
    }

    /// Writes and seals one packet straight into the train.
    fn write(
        &self,
        fields: &RtpFields,
        packet: &Packet,
        rewritten: &Rewritten,
        body: &Body<'_>,
        seal: Seal,
        sink: &mut Sink<'_>,
    ) -> Forwarded {
        let prefix_len = if seal.repaired.is_some() { REPAIR_PREFIX } else { 0 };
        let len = body.sealed_len(sink) + prefix_len;
        if len > LANE_BYTES_MAX {
            return Forwarded::Dropped(DropReason::TooLarge);
        }
        let (twcc, level) = (*sink.next_twcc, packet.audio_level);
        let Some(place) = sink.egress.reserve(&sink.route, len) else { return Forwarded::Full };
        let header_len = if body.passed.is_empty() {
            self.header.write(place, fields, level, twcc)
        } else {
            self.header.write_passing(place, fields, level, twcc, body.passed, rewritten.frame_number)
        };
        let payload = body.payload;
        let is_patched = body.is_patched(packet, rewritten);
        let sealed = if prefix_len == 0 && !is_patched {
            sink.seal.seal_rtp(seal.stream, seal.seq, header_len, payload, place)
        } else {
            // The shared plaintext is never patched: the copy in the train is.
            let copy = &mut place[header_len..header_len + prefix_len + payload.len()];
            if let Some(original) = seal.repaired {
                copy[..REPAIR_PREFIX].copy_from_slice(&original.to_be_bytes());
            }
            copy[prefix_len..].copy_from_slice(payload);
            if is_patched {
                body.patch(packet, rewritten, &mut copy[prefix_len..]);
            }
            sink.seal.seal_rtp_in_place(seal.stream, seal.seq, header_len, place)
        };
        if sealed.is_err() {
            return Forwarded::Dropped(DropReason::SealRefused);
        }
        sink.egress.commit();
        if self.header.has_twcc() {
            sink.egress.note_twcc(sink.owner, twcc);
            *sink.next_twcc = twcc.wrapping_add(1);
        }
        Forwarded::Sent { octets: len as u16 }
    }
}

/// What of one packet goes out on one line.
#[derive(Clone, Copy)]
struct Body<'a> {
    payload: &'a [u8],
    /// Header extension elements as the history keeps them.
    passed: &'a [u8],
    header_len: usize,
    redundancy: Redundant,
}

impl Body<'_> {
    /// Bytes of the datagram, unrepaired.
    #[inline]
    fn sealed_len(&self, sink: &Sink<'_>) -> usize {
        self.header_len + self.payload.len() + sink.seal.overhead_rtp()
    }

    /// Whether the payload goes out other than it is kept.
    #[inline]
    fn is_patched(&self, packet: &Packet, rewritten: &Rewritten) -> bool {
        match &packet.outline {
            Outline::Picture(picture) => rewritten.is_moved && picture.has_identifiers(),
            Outline::Redundant(_) => matches!(self.redundancy, Redundant::Renumber(_)),
            Outline::Opaque => false,
        }
    }

    fn patch(&self, packet: &Packet, rewritten: &Rewritten, copy: &mut [u8]) {
        match (&packet.outline, self.redundancy) {
            (Outline::Picture(picture), _) => {
                picture.patch(copy, rewritten.picture_id, rewritten.tl0_picture_index);
            }
            (Outline::Redundant(redundancy), Redundant::Renumber(pt)) => {
                redundancy.renumber(copy, pt);
            }
            _ => {}
        }
    }
}

/// How one packet is sealed: on which stream, under which number, and what it repairs.
#[derive(Clone, Copy)]
struct Seal {
    stream: SealStream,
    seq: SeqNo,
    repaired: Option<u16>,
}
