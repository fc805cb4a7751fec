//! A line: one m-line on which a client receives. It follows a track, chooses the layer, and turns each packet of it into a
//! packet of the line's own stream. The line's SSRCs stay while tracks come and go.

use std::time::{Duration, Instant};

use auralink_proto::{ExtensionMap, ExtensionUri, Intent, MediaKind, Mid, PayloadMap, SendSection};
use auralink_rtc::egress::Egress;
use auralink_rtc::rtp::{HeaderWriter, RtpFields};
use auralink_rtc::srtp::{SealStream, SrtpSeal};
use auralink_rtc::units::{Route, SeqNo};

use crate::history::Packet;
use crate::lanes::LANE_BYTES_MAX;
use crate::publisher::Track;
use crate::rewrite::{Rewriter, Rewritten};
use crate::stats::DropReason;

/// Packets a line remembers having sent; a power of two.
const SENT_MAX: usize = 512;
/// Times one packet is resent.
const RESENDS_MAX: u8 = 5;
/// Between two resends of one packet: a second request this soon is the same request.
const RESEND_INTERVAL: Duration = Duration::from_millis(20);
/// Packets that may have overtaken a keyframe and are sent after it.
const BACKLOG_MAX: u64 = 256;
/// Bytes of the largest header we write: fixed part, extension head, mid (17), transport-wide number (3), level (2), padding.
const HEADER_BYTES_MAX: usize = 12 + 4 + 17 + 3 + 2 + 2;

/// What a line sent, for retransmission.
#[derive(Clone, Copy, Debug)]
struct Sent {
    rewritten: Rewritten,
    layer: u8,
    source: SeqNo,
    resent: Option<Instant>,
    resends: u8,
}

/// The repair stream of a line (RFC 4588).
#[derive(Debug)]
struct Repair {
    ssrc: u32,
    stream: Option<SealStream>,
    next: SeqNo,
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
    Sent,
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
    payload: Option<PayloadMap>,
    extensions: ExtensionMap,
    /// Slot of the track followed.
    pub track: Option<u32>,
    pub intent: Intent,
    current: Option<u8>,
    target: Option<u8>,
    rewriter: Rewriter,
    /// After joining at a keyframe: packets behind it that had arrived before it, next and last.
    backlog: Option<(SeqNo, SeqNo)>,
    sent: Box<[Option<Sent>]>,
    /// How many of the track's pending packets this line has dealt with in this egress.
    pub(crate) cursor: usize,
    pub counters: LineCounters,
}

/// Counters of one line, for sender reports and statistics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LineCounters {
    pub packets: u32,
    pub octets: u32,
    pub filtered: u64,
    pub resent: u64,
}

impl Line {
    /// `first_seq`: random start of both streams (RFC 3550 §5.1).
    pub fn new(section: &SendSection, first_seq: u16) -> Self {
        let clock_rate = if section.kind == MediaKind::Video { 90_000 } else { 48_000 };
        let sent = if section.rtx_ssrc.is_some() { SENT_MAX } else { 0 };
        let mut line = Self {
            mid: section.mid,
            kind: section.kind,
            ssrc: section.ssrc,
            stream: None,
            repair: None,
            payload: None,
            extensions: section.extensions,
            track: None,
            intent: Intent::default(),
            current: None,
            target: None,
            rewriter: Rewriter::new(clock_rate, SeqNo::first(first_seq)),
            backlog: None,
            sent: vec![None; sent].into_boxed_slice(),
            cursor: 0,
            counters: LineCounters::default(),
        };
        line.repair = section.rtx_ssrc.map(|ssrc| Repair {
            ssrc,
            stream: None,
            next: SeqNo::first(first_seq ^ 0x2aaa),
        });
        line.update(section);
        line
    }

    /// Takes over what a newer description may change: payload types and extensions.
    pub fn update(&mut self, section: &SendSection) {
        self.payload = section.payloads.iter().find(|map| map.codec.kind() == section.kind).copied();
        self.extensions = section.extensions;
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
        self.current = None;
        self.target = None;
        self.backlog = None;
        self.cursor = 0;
    }

    /// Forgets having joined `layer`: its packets start anew.
    pub fn leave(&mut self, layer: u8) {
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

    /// Sends one packet of the track followed, if it is one for this line.
    pub fn forward(
        &mut self,
        track: &Track,
        layer: u8,
        packet: &Packet,
        payload: &[u8],
        sink: &mut Sink<'_>,
    ) -> Forwarded {
        let Some(map) = self.payload else { return Forwarded::Dropped(DropReason::UnknownPayloadType) };
        let Some(stream) = self.stream else { return Forwarded::Dropped(DropReason::NoKeys) };
        if !self.admits(track, layer, packet) {
            self.counters.filtered += 1;
            return Forwarded::Filtered;
        }
        if !sink.egress.has_room()
            && sink.egress.reserve(&sink.route, payload.len() + HEADER_BYTES_MAX + 16).is_none()
        {
            return Forwarded::Full;
        }
        self.switch_if_due(track, layer, packet);
        let rewritten = self.rewriter.rewrite(packet).filter(|rewritten| !self.has_sent(rewritten.seq));
        let Some(rewritten) = rewritten else {
            self.counters.filtered += 1;
            return Forwarded::Filtered;
        };
        let fields = RtpFields {
            marker: packet.marker,
            padding: false,
            pt: map.pt,
            seq: rewritten.seq.wire(),
            timestamp: rewritten.timestamp,
            ssrc: self.ssrc,
        };
        let seal = Seal { stream, seq: rewritten.seq, repaired: None };
        let result = self.write(&fields, packet, &rewritten, payload, seal, sink);
        if result == Forwarded::Sent {
            self.counters.packets = self.counters.packets.wrapping_add(1);
            self.counters.octets = self.counters.octets.wrapping_add(payload.len() as u32);
            self.remember(layer, packet.seq, rewritten);
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
        let pt = self.payload?.rtx_pt?;
        let seq = self.rewriter.highest()?.nearest(wire);
        let was_sent = self.has_sent(seq);
        let (layer, source) = self.recall(now, seq)?;
        let history = &track.layers.get(usize::from(layer))?.history;
        let Some((packet, payload)) = history.find(source) else {
            // What never reached us is being asked for upstream; only what we had and lost is a drop.
            return was_sent.then_some(Forwarded::Dropped(DropReason::HistoryGone));
        };
        let rewritten = match self.sent.get(seq.0 as usize & (SENT_MAX - 1)).copied().flatten() {
            Some(sent) if sent.rewritten.seq == seq => sent.rewritten,
            _ => self.rewriter.rewrite(packet)?,
        };
        let repair = self.repair.as_mut()?;
        let seal = Seal { stream: repair.stream?, seq: repair.next, repaired: Some(rewritten.seq.wire()) };
        let fields = RtpFields {
            marker: packet.marker,
            padding: false,
            pt,
            seq: repair.next.wire(),
            timestamp: rewritten.timestamp,
            ssrc: repair.ssrc,
        };
        let result = self.write(&fields, packet, &rewritten, payload, seal, sink);
        if result == Forwarded::Sent {
            self.counters.resent += 1;
            if let Some(repair) = &mut self.repair {
                repair.next.0 += 1;
            }
        }
        Some(result)
    }

    /// A time mapping of the layer being sent, in the line's own media time, for its sender report.
    pub fn report_time(&self, now: Instant, track: &Track) -> Option<(u64, u32)> {
        let mapping = track.layers.get(usize::from(self.current?))?.mapping?;
        let elapsed = now.saturating_duration_since(mapping.arrival);
        let ntp = mapping.ntp.0.wrapping_add(((elapsed.as_nanos() << 32) / 1_000_000_000) as u64);
        let ticks = elapsed.as_micros() as u64 * u64::from(track.codec().clock_rate()) / 1_000_000;
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
        self.rewriter.switch_to(packet, mappings);
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

    /// Goes on to the next packet of the backlog.
    pub fn advance_backlog(&mut self) {
        if let Some((next, _)) = &mut self.backlog {
            next.0 += 1;
        }
    }

    fn has_sent(&self, seq: SeqNo) -> bool {
        let slot = self.sent.get(seq.0 as usize & (SENT_MAX - 1)).copied().flatten();
        slot.is_some_and(|sent| sent.rewritten.seq == seq)
    }

    fn remember(&mut self, layer: u8, source: SeqNo, rewritten: Rewritten) {
        if let Some(slot) = self.sent.get_mut(rewritten.seq.0 as usize & (SENT_MAX - 1)) {
            *slot = Some(Sent { rewritten, layer, source, resent: None, resends: 0 });
        }
    }

    /// Which source packet line packet `seq` was or would have been, unless it was resent too often or just now.
    fn recall(&mut self, now: Instant, seq: SeqNo) -> Option<(u8, SeqNo)> {
        let slot = self.sent.get_mut(seq.0 as usize & (SENT_MAX - 1))?;
        match slot {
            Some(sent) if sent.rewritten.seq == seq => {
                let too_soon = sent.resent.is_some_and(|last| now < last + RESEND_INTERVAL);
                if too_soon || sent.resends >= RESENDS_MAX {
                    return None;
                }
                sent.resent = Some(now);
                sent.resends += 1;
                Some((sent.layer, sent.source))
            }
            // Never sent: it arrived before the keyframe it belongs to, or has been recovered since.
            _ => Some((self.current?, self.rewriter.source_of(seq)?)),
        }
    }

    /// Writes and seals one packet straight into the train.
    fn write(
        &self,
        fields: &RtpFields,
        packet: &Packet,
        rewritten: &Rewritten,
        payload: &[u8],
        seal: Seal,
        sink: &mut Sink<'_>,
    ) -> Forwarded {
        let mut header = [0; HEADER_BYTES_MAX];
        let twcc = *sink.next_twcc;
        let Some((header_len, has_twcc)) = self.write_header(&mut header, fields, packet, twcc) else {
            return Forwarded::Dropped(DropReason::TooLarge);
        };
        let prefix_len = if seal.repaired.is_some() { 2 } else { 0 };
        let len = header_len + prefix_len + payload.len() + sink.seal.overhead_rtp();
        if len > LANE_BYTES_MAX {
            return Forwarded::Dropped(DropReason::TooLarge);
        }
        let Some(place) = sink.egress.reserve(&sink.route, len) else { return Forwarded::Full };
        place[..header_len].copy_from_slice(&header[..header_len]);
        let is_patched = packet.vp8.is_some_and(|vp8| {
            vp8.picture_id != rewritten.picture_id || vp8.tl0_picture_index != rewritten.tl0_picture_index
        });
        let sealed = if prefix_len == 0 && !is_patched {
            sink.seal.seal_rtp(seal.stream, seal.seq, header_len, payload, place)
        } else {
            // The shared plaintext is never patched: the copy in the train is.
            let body = &mut place[header_len..header_len + prefix_len + payload.len()];
            if let Some(original) = seal.repaired {
                body[..2].copy_from_slice(&original.to_be_bytes());
            }
            body[prefix_len..].copy_from_slice(payload);
            if let Some(vp8) = packet.vp8.filter(|_| is_patched) {
                vp8.patch(&mut body[prefix_len..], rewritten.picture_id, rewritten.tl0_picture_index);
            }
            sink.seal.seal_rtp_in_place(seal.stream, seal.seq, header_len, place)
        };
        if sealed.is_err() {
            return Forwarded::Dropped(DropReason::SealRefused);
        }
        sink.egress.commit();
        if has_twcc {
            sink.egress.note_twcc(sink.owner, twcc);
            *sink.next_twcc = twcc.wrapping_add(1);
        }
        Forwarded::Sent
    }

    /// The same set of elements for every packet of a line, so that packets of a frame stay of one size.
    fn write_header(
        &self,
        out: &mut [u8; HEADER_BYTES_MAX],
        fields: &RtpFields,
        packet: &Packet,
        twcc: u16,
    ) -> Option<(usize, bool)> {
        let mut writer = HeaderWriter::new(out, fields)?;
        if let Some(id) = self.extensions.id(ExtensionUri::Mid) {
            let _ = writer.extension(id, self.mid.as_bytes());
        }
        if let Some((id, level)) = self.extensions.id(ExtensionUri::AudioLevel).zip(packet.audio_level) {
            let _ = writer.extension(id, &[level]);
        }
        let twcc_id = self.extensions.id(ExtensionUri::TransportCc);
        let has_twcc = twcc_id.is_some_and(|id| writer.extension(id, &twcc.to_be_bytes()));
        Some((writer.finish(), has_twcc))
    }
}

/// How one packet is sealed: on which stream, under which number, and what it repairs.
#[derive(Clone, Copy)]
struct Seal {
    stream: SealStream,
    seq: SeqNo,
    repaired: Option<u16>,
}
