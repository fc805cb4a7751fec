//! The sending half of a client: the recording as Opus and VP8 streams, retransmissions (RFC 4588), sender reports
//! (RFC 3550 §6.4.1). Open loop: what the server says about bandwidth is not listened to.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use auralink_rtc::rtcp::{RtcpWriter, SenderInfo};
use auralink_rtc::rtp::{RtpFields, write_header};
use auralink_rtc::srtp::{SealStream, SrtpSeal};
use auralink_rtc::units::{NtpTime, SeqNo};

use crate::recording::{FRAME_RATE, Recording};
use crate::sdp::{LEVEL_ID, MID_ID, OPUS_PT, REPAIRED_RID_ID, RID_ID, RTX_PT, TWCC_ID, VP8_PT};
use crate::vp8;

pub(crate) const RIDS: [&str; 3] = ["q", "h", "f"];

const AUDIO_INTERVAL: Duration = Duration::from_millis(20);
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// What the tone's packets say of their loudness: voice, -20 dBov (RFC 6464).
const LOUDNESS: u8 = 0x80 | 20;
/// Packets kept for retransmission.
const KEPT: usize = 512;
/// Seconds between 1900 and 1970.
const NTP_OFFSET: u64 = 2_208_988_800;

/// Counters of what was sent.
#[derive(Clone, Copy, Default, Debug, serde::Serialize)]
pub(crate) struct Published {
    pub(crate) packets: u64,
    pub(crate) frames: u64,
    pub(crate) keyframe_requests: u64,
    pub(crate) resent: u64,
}

struct Stream {
    /// Layer of the recording; `None` for the tone.
    layer: Option<usize>,
    mid: String,
    rid: Option<&'static str>,
    ssrc: u32,
    repair_ssrc: u32,
    seq: SeqNo,
    repair_seq: SeqNo,
    timestamp_offset: u32,
    /// Place in the loop.
    position: usize,
    picture_id: u16,
    tl0: u8,
    wants_keyframe: bool,
    handles: Option<(SealStream, SealStream)>,
    kept: VecDeque<(RtpFields, Vec<u8>)>,
    sent: u32,
    octets: u32,
}

/// Where the streams of one client go.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) audio_mid: String,
    pub(crate) audio_ssrc: u32,
    pub(crate) video_mid: String,
    /// SSRC and repair SSRC of each layer sent, with its layer of the recording, lowest first.
    pub(crate) layers: Vec<(u32, u32, usize)>,
}

/// Everything one client publishes.
pub(crate) struct Publisher {
    recording: Arc<Recording>,
    streams: Vec<Stream>,
    origin: Option<Instant>,
    audio_frames: u64,
    video_frames: u64,
    next_report: Option<Instant>,
    twcc: u16,
    pub(crate) counters: Published,
}

impl Publisher {
    pub(crate) fn new(recording: Arc<Recording>, outgoing: &Outgoing) -> Self {
        let is_simulcast = outgoing.layers.len() > 1;
        let video = outgoing.layers.iter().enumerate().map(|(index, (ssrc, repair_ssrc, layer))| {
            let rid = RIDS.get(index).copied().filter(|_| is_simulcast);
            Stream::new(Some(*layer), &outgoing.video_mid, rid, *ssrc, *repair_ssrc)
        });
        let audio = Stream::new(None, &outgoing.audio_mid, None, outgoing.audio_ssrc, rand::random());
        Self {
            recording,
            streams: std::iter::once(audio).chain(video).collect(),
            origin: None,
            audio_frames: 0,
            video_frames: 0,
            next_report: None,
            twcc: rand::random(),
            counters: Published::default(),
        }
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        let origin = self.origin?;
        let due = [Some(self.audio_due(origin)), Some(self.video_due(origin)), self.next_report];
        due.into_iter().flatten().min()
    }

    fn audio_due(&self, origin: Instant) -> Instant {
        origin + AUDIO_INTERVAL * self.audio_frames as u32
    }

    fn video_due(&self, origin: Instant) -> Instant {
        origin + Duration::from_secs(1) * self.video_frames as u32 / FRAME_RATE
    }

    /// Seals everything due.
    pub(crate) fn poll(&mut self, now: Instant, seal: &mut SrtpSeal, out: &mut Vec<Vec<u8>>) {
        let origin = *self.origin.get_or_insert(now);
        while now >= self.audio_due(origin) {
            let sounds = self.recording.tone.len();
            let payload = self.recording.tone.get(self.audio_frames as usize % sounds).cloned();
            let timestamp = (self.audio_frames * 960) as u32;
            self.audio_frames += 1;
            if let Some(payload) = payload {
                self.send(0, timestamp, vec![payload], seal, out);
            }
        }
        while now >= self.video_due(origin) {
            let timestamp = (self.video_frames * 90_000 / u64::from(FRAME_RATE)) as u32;
            self.video_frames += 1;
            for index in 1..self.streams.len() {
                if let Some(payloads) = self.next_picture(index) {
                    self.counters.frames += 1;
                    self.send(index, timestamp, payloads, seal, out);
                }
            }
        }
        if self.next_report.is_none_or(|due| now >= due) {
            self.next_report = Some(now + REPORT_INTERVAL);
            self.send_reports(now, origin, seal, out);
        }
    }

    /// The next frame of the loop, or the keyframe that was asked for, with continued identifiers.
    fn next_picture(&mut self, index: usize) -> Option<Vec<Vec<u8>>> {
        let stream = self.streams.get_mut(index)?;
        let frames = self.recording.layers.get(stream.layer?)?;
        if std::mem::take(&mut stream.wants_keyframe) {
            let ahead = (0..frames.len()).map(|step| (stream.position + step) % frames.len());
            let keyframe = ahead.into_iter().find(|at| frames.get(*at).is_some_and(|f| f.is_keyframe));
            stream.position = keyframe.unwrap_or(0);
        }
        let frame = frames.get(stream.position)?;
        stream.position = (stream.position + 1) % frames.len();
        stream.picture_id = (stream.picture_id + 1) & 0x7fff;
        stream.tl0 = stream.tl0.wrapping_add(1);
        Some(vp8::packetize(frame.bytes, stream.picture_id, stream.tl0))
    }

    fn send(
        &mut self,
        index: usize,
        timestamp: u32,
        payloads: Vec<Vec<u8>>,
        seal: &mut SrtpSeal,
        out: &mut Vec<Vec<u8>>,
    ) {
        let count = payloads.len();
        for (part, payload) in payloads.into_iter().enumerate() {
            let Some(stream) = self.streams.get_mut(index) else { return };
            let is_video = stream.layer.is_some();
            let seq = stream.seq;
            stream.seq.0 += 1;
            let fields = RtpFields {
                marker: is_video && part + 1 == count,
                padding: false,
                pt: if is_video { VP8_PT } else { OPUS_PT },
                seq: seq.wire(),
                timestamp: stream.timestamp_offset.wrapping_add(timestamp),
                ssrc: stream.ssrc,
            };
            stream.sent += 1;
            stream.octets = stream.octets.wrapping_add(payload.len() as u32);
            self.twcc = self.twcc.wrapping_add(1);
            out.extend(stream.seal(false, seq, self.twcc, &fields, &payload, seal));
            if is_video {
                if stream.kept.len() == KEPT {
                    stream.kept.pop_front();
                }
                stream.kept.push_back((fields, payload));
            }
            self.counters.packets += 1;
        }
    }

    /// The server asks for packets again.
    pub(crate) fn on_nack(
        &mut self,
        ssrc: u32,
        lost: impl Iterator<Item = u16>,
        seal: &mut SrtpSeal,
        out: &mut Vec<Vec<u8>>,
    ) {
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.ssrc == ssrc) else { return };
        for wire in lost {
            let Some((fields, payload)) = stream.kept.iter().find(|(fields, _)| fields.seq == wire).cloned()
            else {
                continue;
            };
            let mut repair = wire.to_be_bytes().to_vec();
            repair.extend_from_slice(&payload);
            let seq = stream.repair_seq;
            stream.repair_seq.0 += 1;
            let fields = RtpFields { pt: RTX_PT, ssrc: stream.repair_ssrc, seq: seq.wire(), ..fields };
            self.twcc = self.twcc.wrapping_add(1);
            out.extend(stream.seal(true, seq, self.twcc, &fields, &repair, seal));
            self.counters.resent += 1;
        }
    }

    pub(crate) fn on_keyframe_request(&mut self, ssrc: u32) {
        self.counters.keyframe_requests += 1;
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.ssrc == ssrc) {
            stream.wants_keyframe = true;
        }
    }

    fn send_reports(&self, now: Instant, origin: Instant, seal: &mut SrtpSeal, out: &mut Vec<Vec<u8>>) {
        let ntp = ntp_now();
        let elapsed_us = now.saturating_duration_since(origin).as_micros() as u64;
        for stream in self.streams.iter().filter(|stream| stream.sent > 0) {
            let rate_khz = if stream.layer.is_some() { 90 } else { 48 };
            let info = SenderInfo {
                ssrc: stream.ssrc,
                ntp,
                rtp_time: stream.timestamp_offset.wrapping_add((elapsed_us * rate_khz / 1_000) as u32),
                packets: stream.sent,
                octets: stream.octets,
            };
            let mut compound = [0; 128];
            let mut writer = RtcpWriter::new(&mut compound);
            if writer.sender_report(&info, &[]) && writer.sdes_cname(stream.ssrc, "generator") {
                let len = writer.finish();
                out.extend(compound.get(..len).and_then(|compound| seal_rtcp(compound, seal)));
            }
        }
    }
}

impl Stream {
    fn new(layer: Option<usize>, mid: &str, rid: Option<&'static str>, ssrc: u32, repair_ssrc: u32) -> Self {
        Self {
            layer,
            mid: mid.to_owned(),
            rid,
            ssrc,
            repair_ssrc,
            seq: SeqNo::first(rand::random()),
            repair_seq: SeqNo::first(rand::random()),
            timestamp_offset: rand::random(),
            position: 0,
            picture_id: rand::random::<u16>() & 0x7fff,
            tl0: rand::random(),
            wants_keyframe: false,
            handles: None,
            kept: VecDeque::with_capacity(KEPT),
            sent: 0,
            octets: 0,
        }
    }

    fn seal(
        &mut self,
        is_repair: bool,
        seq: SeqNo,
        twcc: u16,
        fields: &RtpFields,
        payload: &[u8],
        seal: &mut SrtpSeal,
    ) -> Option<Vec<u8>> {
        if self.handles.is_none() {
            self.handles = Some((seal.stream(self.ssrc).ok()?, seal.stream(self.repair_ssrc).ok()?));
        }
        let (media, repair) = self.handles?;
        let twcc = twcc.to_be_bytes();
        let rid_id = if is_repair { REPAIRED_RID_ID } else { RID_ID };
        let mut extensions = vec![(MID_ID, self.mid.as_bytes()), (TWCC_ID, &twcc[..])];
        extensions.extend(self.rid.map(|rid| (rid_id, rid.as_bytes())));
        if self.layer.is_none() {
            extensions.push((LEVEL_ID, &[LOUDNESS]));
        }
        let mut place = vec![0; 64];
        let header_len = write_header(&mut place, fields, &extensions)?;
        place.resize(header_len + payload.len() + seal.overhead_rtp(), 0);
        seal.seal_rtp(if is_repair { repair } else { media }, seq, header_len, payload, &mut place).ok()?;
        Some(place)
    }
}

/// Seals one compound.
pub(crate) fn seal_rtcp(compound: &[u8], seal: &mut SrtpSeal) -> Option<Vec<u8>> {
    let mut bytes = vec![0; compound.len() + seal.overhead_rtcp()];
    seal.seal_rtcp(compound, &mut bytes).ok()?;
    Some(bytes)
}

/// The wall clock.
pub(crate) fn ntp_now() -> NtpTime {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let fraction = (u64::from(now.subsec_nanos()) << 32) / 1_000_000_000;
    NtpTime(((now.as_secs() + NTP_OFFSET) << 32) + fraction)
}
