//! What one connection publishes: its streams, sealed and sent; sender reports; retransmissions (RFC 4588).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use auralink_ring::client::{Message, send_batch};
use auralink_rtc::rtcp::{RtcpWriter, SenderInfo};
use auralink_rtc::rtp::{RtpFields, write_header};
use auralink_rtc::srtp::{SealStream, SrtpSeal};
use auralink_rtc::units::SeqNo;

use super::link::{Link, Wished};
use super::payload::{self, FrameNumbers, Kind, Stamp};
use super::schedule::{Cursor, Step};
use crate::publish::{ntp_now, seal_rtcp};
use crate::sdp::{LEVEL_ID, MID_ID, OPUS_PT, REPAIRED_RID_ID, RID_ID, RTX_PT, TWCC_ID, VP8_PT};

/// Packets that can be sent again.
const KEPT: usize = 1_024;
/// Header with MID, RID, level and transport-wide number.
const HEADER_LEN_MAX: usize = 64;
/// Voice, -20 dBov (RFC 6464).
const LOUDNESS: u8 = 0x80 | 20;
const REPORT_INTERVAL_NS: u64 = 1_000_000_000;

/// Which stream this is, as negotiated.
#[derive(Clone, Debug)]
pub(crate) struct StreamIdentity {
    pub(crate) mid: String,
    pub(crate) rid: Option<&'static str>,
    pub(crate) ssrc: u32,
    pub(crate) repair_ssrc: u32,
    /// What its packets' stamps say.
    pub(crate) publisher: u32,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    fields: RtpFields,
    stamp: Stamp,
    numbers: FrameNumbers,
}

pub(crate) struct OutStream {
    identity: StreamIdentity,
    kind: Kind,
    cursor: Cursor,
    seq: SeqNo,
    repair_seq: SeqNo,
    timestamp_offset: u32,
    timestamp: u32,
    numbers: FrameNumbers,
    index: u64,
    handles: Option<(SealStream, SealStream)>,
    kept: VecDeque<Kept>,
    wants_keyframe: bool,
    octets: u32,
    /// Frames met while publishing slowly.
    left_out: u32,
}

/// Of frames published slowly, one in so many is sent.
const SLOW_ONE_IN: u32 = 8;

/// What became of one call.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Sent {
    pub(crate) packets: u64,
    pub(crate) unsent: u64,
    pub(crate) forced_keyframes: u64,
}

/// Buffers used again and again.
#[derive(Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    ranges: Vec<Range<usize>>,
    payload: Vec<u8>,
    steps: Vec<(Step, u32)>,
}

/// Everything one connection publishes.
pub(crate) struct Publishing {
    link: Arc<Link>,
    pub(crate) streams: Vec<OutStream>,
    twcc: u16,
    next_report_ns: u64,
}

impl Publishing {
    pub(crate) fn new(link: Arc<Link>, streams: Vec<OutStream>) -> Self {
        Self { link, streams, twcc: rand::random(), next_report_ns: 0 }
    }

    /// Sends everything of one stream that is due; `slow` leaves out most frames that are not keyframes.
    pub(crate) fn publish(&mut self, at: usize, now_ns: u64, slow: bool, outbox: &mut Outbox) -> Sent {
        let mut sent = Sent::default();
        let Some(stream) = self.streams.get_mut(at) else { return sent };
        outbox.steps.clear();
        if stream.wants_keyframe && stream.cursor.is_at_delta_frame() {
            stream.wants_keyframe = false;
            sent.forced_keyframes = u64::from(stream.index > 0);
            outbox.steps.extend(stream.cursor.take_keyframe_instead());
        }
        while stream.cursor.due_ns() <= now_ns {
            if slow && stream.cursor.is_at_delta_frame() {
                stream.left_out += 1;
                if stream.left_out % SLOW_ONE_IN != 0 {
                    stream.cursor.skip_frame();
                    continue;
                }
            }
            outbox.steps.extend(stream.cursor.take());
        }
        let mut keys = self.link.keys();
        let Some(seal) = keys.seal() else { return sent };
        outbox.start();
        for at in 0..outbox.steps.len() {
            let Some((step, timestamp)) = outbox.steps.get(at).copied() else { break };
            self.twcc = self.twcc.wrapping_add(1);
            stream.seal_next(step, timestamp, now_ns, self.twcc, seal, outbox);
        }
        drop(keys);
        sent.packets = outbox.ranges.len() as u64;
        sent.unsent = outbox.send(&self.link);
        sent
    }

    /// Does what the server asked for; gives the packets sent again.
    pub(crate) fn grant_wishes(&mut self, outbox: &mut Outbox) -> u64 {
        let Some(Wished { keyframes, packets }) = self.link.wishes.take() else { return 0 };
        for stream in &mut self.streams {
            stream.wants_keyframe |= stream.kind == Kind::Video && keyframes.contains(&stream.identity.ssrc);
        }
        let mut keys = self.link.keys();
        let Some(seal) = keys.seal() else { return 0 };
        outbox.start();
        for (ssrc, wire) in packets {
            if let Some(stream) = self.streams.iter_mut().find(|stream| stream.identity.ssrc == ssrc) {
                self.twcc = self.twcc.wrapping_add(1);
                stream.seal_again(wire, self.twcc, seal, outbox);
            }
        }
        drop(keys);
        let resent = outbox.ranges.len() as u64;
        outbox.send(&self.link);
        resent
    }

    /// Sender reports, once a second (RFC 3550 §6.4.1).
    pub(crate) fn report(&mut self, now_ns: u64) {
        if now_ns < self.next_report_ns {
            return;
        }
        self.next_report_ns = now_ns + REPORT_INTERVAL_NS;
        let ntp = ntp_now();
        let mut keys = self.link.keys();
        let Some(seal) = keys.seal() else { return };
        for stream in self.streams.iter().filter(|stream| stream.index > 0) {
            let info = SenderInfo {
                ssrc: stream.identity.ssrc,
                ntp,
                rtp_time: stream.timestamp,
                packets: stream.index as u32,
                octets: stream.octets,
            };
            let mut compound = [0; 128];
            let mut writer = RtcpWriter::new(&mut compound);
            if writer.sender_report(&info, &[]) && writer.sdes_cname(info.ssrc, "generator") {
                let len = writer.finish();
                if let Some(bytes) = compound.get(..len).and_then(|compound| seal_rtcp(compound, seal)) {
                    // A datagram the socket does not take is lost, as on any network.
                    let _ = self.link.socket.send(&bytes);
                }
            }
        }
    }
}

impl OutStream {
    pub(crate) fn new(identity: StreamIdentity, cursor: Cursor) -> Self {
        let kind = cursor.schedule.kind;
        Self {
            kind,
            identity,
            cursor,
            seq: SeqNo::first(rand::random()),
            repair_seq: SeqNo::first(rand::random()),
            timestamp_offset: rand::random(),
            timestamp: 0,
            numbers: FrameNumbers { picture_id: rand::random::<u16>() & 0x7fff, tl0: rand::random() },
            index: 0,
            handles: None,
            kept: VecDeque::with_capacity(KEPT),
            // It may start anywhere in its cycle.
            wants_keyframe: kind == Kind::Video,
            octets: 0,
            left_out: 0,
        }
    }

    pub(crate) fn due_ns(&self) -> u64 {
        self.cursor.due_ns()
    }

    fn seal_next(
        &mut self,
        step: Step,
        timestamp: u32,
        now_ns: u64,
        twcc: u16,
        seal: &mut SrtpSeal,
        outbox: &mut Outbox,
    ) {
        if step.frame_start {
            self.numbers.picture_id = (self.numbers.picture_id + 1) & 0x7fff;
            self.numbers.tl0 = self.numbers.tl0.wrapping_add(1);
        }
        let stamp = Stamp {
            publisher: self.identity.publisher,
            index: self.index,
            sent_ns: now_ns,
            len: step.len,
            keyframe: step.keyframe,
            frame_start: step.frame_start,
            marker: step.marker,
        };
        self.timestamp = self.timestamp_offset.wrapping_add(timestamp);
        let fields = RtpFields {
            marker: step.marker,
            padding: false,
            pt: if self.kind == Kind::Video { VP8_PT } else { OPUS_PT },
            seq: self.seq.wire(),
            timestamp: self.timestamp,
            ssrc: self.identity.ssrc,
        };
        outbox.payload.resize(usize::from(step.len), 0);
        payload::write(self.kind, &stamp, self.numbers, &mut outbox.payload);
        if self.seal(false, self.seq, twcc, &fields, seal, outbox).is_some() {
            if self.kept.len() == KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back(Kept { fields, stamp, numbers: self.numbers });
        }
        self.seq.0 += 1;
        self.index += 1;
        self.octets = self.octets.wrapping_add(u32::from(step.len));
    }

    fn seal_again(&mut self, wire: u16, twcc: u16, seal: &mut SrtpSeal, outbox: &mut Outbox) {
        let Some(kept) = self.kept.iter().find(|kept| kept.fields.seq == wire).copied() else { return };
        outbox.payload.clear();
        outbox.payload.extend(wire.to_be_bytes());
        outbox.payload.resize(2 + usize::from(kept.stamp.len), 0);
        if let Some(place) = outbox.payload.get_mut(2..) {
            payload::write(self.kind, &kept.stamp, kept.numbers, place);
        }
        let seq = self.repair_seq;
        self.repair_seq.0 += 1;
        let fields =
            RtpFields { pt: RTX_PT, ssrc: self.identity.repair_ssrc, seq: seq.wire(), ..kept.fields };
        let _ = self.seal(true, seq, twcc, &fields, seal, outbox);
    }

    /// Seals `outbox.payload` behind a header into the outbox.
    fn seal(
        &mut self,
        is_repair: bool,
        seq: SeqNo,
        twcc: u16,
        fields: &RtpFields,
        seal: &mut SrtpSeal,
        outbox: &mut Outbox,
    ) -> Option<()> {
        if self.handles.is_none() {
            let identity = &self.identity;
            self.handles = Some((seal.stream(identity.ssrc).ok()?, seal.stream(identity.repair_ssrc).ok()?));
        }
        let (media, repair) = self.handles?;
        let twcc = twcc.to_be_bytes();
        let rid_id = if is_repair { REPAIRED_RID_ID } else { RID_ID };
        let empty: (u8, &[u8]) = (0, &[]);
        let mut extensions = [(MID_ID, self.identity.mid.as_bytes()), (TWCC_ID, &twcc[..]), empty];
        let mut count = 2;
        let last = match (self.identity.rid, self.kind) {
            (Some(rid), _) => Some((rid_id, rid.as_bytes())),
            (None, Kind::Audio) => Some((LEVEL_ID, &[LOUDNESS][..])),
            (None, Kind::Video) => None,
        };
        if let ([.., place], Some(last)) = (&mut extensions, last) {
            *place = last;
            count = 3;
        }
        let start = outbox.bytes.len();
        outbox.bytes.resize(start + HEADER_LEN_MAX, 0);
        let header_len = write_header(outbox.bytes.get_mut(start..)?, fields, extensions.get(..count)?)?;
        outbox.bytes.resize(start + header_len + outbox.payload.len() + seal.overhead_rtp(), 0);
        let place = outbox.bytes.get_mut(start..)?;
        let stream = if is_repair { repair } else { media };
        if seal.seal_rtp(stream, seq, header_len, &outbox.payload, place).is_err() {
            outbox.bytes.truncate(start);
            return None;
        }
        outbox.ranges.push(start..outbox.bytes.len());
        Some(())
    }
}

impl Outbox {
    fn start(&mut self) {
        self.bytes.clear();
        self.ranges.clear();
    }

    /// Sends all sealed packets at once; how many the socket did not take.
    fn send(&self, link: &Link) -> u64 {
        let message = |range: &Range<usize>| {
            let bytes = self.bytes.get(range.clone()).unwrap_or_default();
            Message { to: None, bytes, segment: None }
        };
        let messages: Vec<Message<'_>> = self.ranges.iter().map(message).collect();
        let taken = if messages.is_empty() { 0 } else { send_batch(&link.socket, &messages).unwrap_or(0) };
        (messages.len() - taken) as u64
    }
}
