//! The sending half of a client: audio and three layers of video, retransmissions, sender reports. A keyframe only when asked.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use auralink_proto::Codec;
use auralink_rtc::ext::Form;
use auralink_rtc::rtcp::{RtcpWriter, SenderInfo};
use auralink_rtc::rtp::{HeaderWriter, RtpFields};
use auralink_rtc::srtp::{SealStream, SrtpSeal};
use auralink_rtc::units::{NtpTime, SeqNo};

use crate::media::{self, Identity};
use crate::numbers::Numbers;

pub const AUDIO_PT: u8 = 111;
pub const VIDEO_PT: u8 = 96;
pub const RTX_PT: u8 = 97;
pub const MID: u8 = 1;
pub const RID: u8 = 2;
pub const REPAIRED_RID: u8 = 3;
pub const LEVEL: u8 = 4;
pub const TWCC: u8 = 5;
pub const DEPENDENCY: u8 = 6;
pub const RIDS: [&str; 3] = ["q", "h", "f"];

const AUDIO_INTERVAL: Duration = Duration::from_millis(40);
const VIDEO_INTERVAL: Duration = Duration::from_millis(125);
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Packets per frame of each layer; a keyframe has three times as many.
const PACKETS: [usize; 3] = [1, 2, 4];
const PAYLOAD_LEN: usize = 260;
/// A sender of redundant audio sends one packet in so many without.
const PLAIN_EVERY: u64 = 5;
/// Octets of the dependency descriptor that begins a key frame: more than the one-byte form takes.
const STRUCTURE_LEN: usize = 40;
/// Packets kept for retransmission.
const KEPT: usize = 400;

/// One stream of the client.
struct Stream {
    video: bool,
    layer: u8,
    ssrc: u32,
    repair_ssrc: u32,
    seq: SeqNo,
    repair_seq: SeqNo,
    timestamp_offset: u32,
    frame: u32,
    handles: Option<(SealStream, SealStream)>,
    kept: VecDeque<(Identity, RtpFields, Vec<u8>)>,
    sent: u32,
    wants_keyframe: bool,
}

/// Everything one client publishes.
pub struct Publisher {
    client: u16,
    numbers: Numbers,
    streams: Vec<Stream>,
    origin: Instant,
    next_audio: Instant,
    next_video: Instant,
    next_report: Instant,
    twcc: u16,
    pub muted: bool,
    /// Plant: keyframe requests are not heard.
    pub deaf: bool,
    pub keyframe_requests: u32,
}

/// A sealed packet and what is in it.
pub struct Sealed {
    pub bytes: Vec<u8>,
    /// `None` for RTCP.
    pub identity: Option<Identity>,
}

impl Publisher {
    /// `salt` sets initial numbers, near a wrap for some.
    pub fn new(now: Instant, client: u16, salt: u64, numbers: Numbers) -> Self {
        let base = u32::from(client) * 16 + 1;
        let stream = |index: u32, video, layer| Stream {
            video,
            layer,
            ssrc: base * 64 + index,
            repair_ssrc: base * 64 + index + 32,
            seq: SeqNo::first((salt >> (8 * (index % 4))) as u16 | 0xff00),
            repair_seq: SeqNo::first(7),
            timestamp_offset: (salt as u32).wrapping_mul(index + 3),
            frame: 0,
            handles: None,
            kept: VecDeque::with_capacity(KEPT),
            sent: 0,
            wants_keyframe: true,
        };
        let streams = vec![stream(0, false, 0), stream(1, true, 0), stream(2, true, 1), stream(3, true, 2)];
        Self {
            client,
            numbers,
            streams,
            origin: now,
            next_audio: now,
            next_video: now,
            next_report: now,
            twcc: 0,
            muted: false,
            deaf: false,
            keyframe_requests: 0,
        }
    }

    pub fn next_due(&self) -> Instant {
        self.next_audio.min(self.next_video).min(self.next_report)
    }

    /// Seals everything due.
    pub fn poll(&mut self, now: Instant, seal: &mut SrtpSeal, out: &mut Vec<Sealed>) {
        if now >= self.next_audio {
            self.next_audio = now + AUDIO_INTERVAL;
            if !self.muted {
                self.send_frame(now, 0, seal, out);
            }
        }
        if now >= self.next_video {
            self.next_video = now + VIDEO_INTERVAL;
            let first_video = if self.muted { self.streams.len() } else { 1 };
            for index in first_video..self.streams.len() {
                self.send_frame(now, index, seal, out);
            }
        }
        if now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
            self.send_reports(now, seal, out);
        }
    }

    /// The node asks for packets again.
    pub fn on_nack(
        &mut self,
        ssrc: u32,
        lost: impl Iterator<Item = u16>,
        seal: &mut SrtpSeal,
        out: &mut Vec<Sealed>,
    ) {
        let Some(index) = self.streams.iter().position(|stream| stream.ssrc == ssrc) else { return };
        for wire in lost {
            let kept = self.streams[index].kept.iter().find(|(_, fields, _)| fields.seq == wire).cloned();
            let Some((identity, fields, payload)) = kept else { continue };
            let stream = &mut self.streams[index];
            if !stream.video {
                // libwebrtc resends audio as it was. The sealed bytes were the same; sealing again is refused, so the
                // simulated client lets audio go.
                continue;
            }
            let mut repair = wire.to_be_bytes().to_vec();
            repair.extend_from_slice(&payload);
            let seq = stream.repair_seq;
            stream.repair_seq.0 += 1;
            let Some(pt) = self.numbers.repair_of(fields.pt) else { continue };
            let fields = RtpFields { pt, ssrc: stream.repair_ssrc, seq: seq.wire(), ..fields };
            let bytes = self.seal(index, &identity, true, (seq, &fields), &repair, seal);
            out.extend(bytes.map(|bytes| Sealed { bytes, identity: Some(identity) }));
        }
    }

    /// A packet on the repair stream of the highest layer with this payload, whatever it is.
    pub fn seal_repair(&mut self, payload: &[u8], seal: &mut SrtpSeal) -> Option<Vec<u8>> {
        let index = self.streams.len() - 1;
        let stream = &mut self.streams[index];
        let (identity, fields, _) = stream.kept.back().cloned()?;
        let seq = stream.repair_seq;
        stream.repair_seq.0 += 1;
        let pt = self.numbers.repair_of(fields.pt)?;
        let fields = RtpFields { pt, ssrc: stream.repair_ssrc, seq: seq.wire(), ..fields };
        self.seal(index, &identity, true, (seq, &fields), payload, seal)
    }

    pub fn on_keyframe_request(&mut self, ssrc: u32) {
        self.keyframe_requests += 1;
        if self.deaf {
            return;
        }
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.ssrc == ssrc) {
            stream.wants_keyframe = true;
        }
    }

    fn send_frame(&mut self, now: Instant, index: usize, seal: &mut SrtpSeal, out: &mut Vec<Sealed>) {
        let elapsed_us = now.saturating_duration_since(self.origin).as_micros() as u64;
        let stream = &mut self.streams[index];
        let is_keyframe = stream.video && std::mem::take(&mut stream.wants_keyframe);
        let rate = u64::from(self.numbers.clock_rate(stream.video)) / 1_000;
        let timestamp = stream.timestamp_offset.wrapping_add((elapsed_us * rate / 1_000) as u32);
        let usual = if stream.video { PACKETS[usize::from(stream.layer)] } else { 1 };
        let packets = if is_keyframe { usual * 3 } else { usual };
        stream.frame += 1;
        for packet in 0..packets {
            let stream = &mut self.streams[index];
            let identity = Identity {
                client: self.client,
                video: stream.video,
                layer: stream.layer,
                seq: stream.seq.0,
                frame: stream.frame,
                keyframe_start: is_keyframe && packet == 0,
            };
            let (pt, payload) = compose(&self.numbers, &identity, packet == 0);
            let fields = RtpFields {
                marker: packet + 1 == packets,
                padding: false,
                pt,
                seq: stream.seq.wire(),
                timestamp,
                ssrc: stream.ssrc,
            };
            let seq = stream.seq;
            stream.seq.0 += 1;
            stream.sent += 1;
            if stream.kept.len() == KEPT {
                stream.kept.pop_front();
            }
            stream.kept.push_back((identity, fields, payload.clone()));
            let bytes = self.seal(index, &identity, false, (seq, &fields), &payload, seal);
            out.extend(bytes.map(|bytes| Sealed { bytes, identity: Some(identity) }));
        }
    }

    fn seal(
        &mut self,
        index: usize,
        identity: &Identity,
        is_repair: bool,
        (seq, fields): (SeqNo, &RtpFields),
        payload: &[u8],
        seal: &mut SrtpSeal,
    ) -> Option<Vec<u8>> {
        let stream = &mut self.streams[index];
        if stream.handles.is_none() {
            stream.handles = Some((seal.stream(stream.ssrc).ok()?, seal.stream(stream.repair_ssrc).ok()?));
        }
        let (media, repair) = stream.handles?;
        let rid = RIDS[usize::from(stream.layer)].as_bytes();
        let twcc = self.twcc.to_be_bytes();
        self.twcc = self.twcc.wrapping_add(1);
        let rid_id = if is_repair { REPAIRED_RID } else { RID };
        let dependency = dependency(identity);
        let video = [(MID, &b"1"[..]), (rid_id, rid), (TWCC, &twcc[..]), (DEPENDENCY, &dependency[..])];
        let audio = [(MID, &b"0"[..]), (LEVEL, &[0x80 | 20][..]), (TWCC, &twcc[..])];
        let video = if self.numbers.dependency { &video[..] } else { &video[..3] };
        let elements = if stream.video { video } else { &audio[..] };
        let is_long = elements.iter().any(|(_, value)| value.len() > 16);
        let form = if is_long { Form::TwoByte } else { Form::OneByte };
        let mut place = vec![0; 128];
        let mut writer = HeaderWriter::with_form(&mut place, fields, form)?;
        let is_whole = elements.iter().all(|(id, value)| writer.extension(*id, value));
        let header_len = is_whole.then(|| writer.finish())?;
        place.truncate(header_len);
        place.resize(header_len + payload.len() + seal.overhead_rtp(), 0);
        seal.seal_rtp(if is_repair { repair } else { media }, seq, header_len, payload, &mut place).ok()?;
        Some(place)
    }

    fn send_reports(&self, now: Instant, seal: &mut SrtpSeal, out: &mut Vec<Sealed>) {
        let elapsed = now.saturating_duration_since(self.origin);
        let ntp = NtpTime((1_000 << 32) + ((elapsed.as_nanos() << 32) / 1_000_000_000) as u64);
        for stream in self.streams.iter().filter(|stream| stream.sent > 0) {
            let mut compound = [0; 128];
            let mut writer = RtcpWriter::new(&mut compound);
            let rate = u64::from(self.numbers.clock_rate(stream.video)) / 1_000;
            let ticks = elapsed.as_micros() as u64 * rate / 1_000;
            let rtp_time = stream.timestamp_offset.wrapping_add(ticks as u32);
            let info = SenderInfo { ssrc: stream.ssrc, ntp, rtp_time, packets: stream.sent, octets: 0 };
            if writer.sender_report(&info, &[]) {
                let len = writer.finish();
                let mut bytes = vec![0; len + seal.overhead_rtcp()];
                if seal.seal_rtcp(&compound[..len], &mut bytes).is_ok() {
                    out.push(Sealed { bytes, identity: None });
                }
            }
        }
    }
}

/// A packet's dependency descriptor: sent whatever the codec.
fn dependency(identity: &Identity) -> Vec<u8> {
    let [high, low] = (identity.frame as u16).to_be_bytes();
    let mut value = vec![identity.frame as u8 & 0x3f, high, low];
    if identity.keyframe_start {
        value[0] |= 0x80;
        value.resize(STRUCTURE_LEN, 0x80);
    }
    value
}

/// One packet's payload type and payload.
fn compose(numbers: &Numbers, identity: &Identity, frame_start: bool) -> (u8, Vec<u8>) {
    let codec = if identity.video { numbers.sends_video } else { numbers.sends_audio };
    // A sender may go over to what is inside its redundant audio, and back, without a word.
    let codec =
        if codec == Codec::Red && identity.seq.is_multiple_of(PLAIN_EVERY) { Codec::Opus } else { codec };
    let payload = media::write_as(codec, identity, frame_start, PAYLOAD_LEN);
    let pt = numbers.pt(codec).expect("what is sent was negotiated");
    match (codec, numbers.pt(Codec::Opus)) {
        (Codec::Red, Some(opus)) => (pt, media::redundant(opus, &payload)),
        _ => (pt, payload),
    }
}
