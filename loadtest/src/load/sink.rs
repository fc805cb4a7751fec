//! One subscriber as the receiving thread sees it: takes every datagram, keeps the books, gives feedback as a browser does.
//! Nothing is allocated per packet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use auralink_ring::client::Datagram;
use auralink_rtc::classify::{Kind as Class, classify};
use auralink_rtc::egress::Egress;
use auralink_rtc::peer::PeerEvent;
use auralink_rtc::rtcp::{Rtcp, packets};
use auralink_rtc::rtp::RtpHeader;
use auralink_rtc::sctp::Reliability;
use auralink_rtc::twcc::TwccRecorder;
use auralink_rtc::units::Route;
use hdrhistogram::Histogram;

use super::link::{Keys, Link};
use super::payload::Stamp;
use super::record::Recorder;
use super::stream::{Incoming, Sample, Stream, sample};
use crate::sdp::TWCC_ID;

/// Streams one connection may carry.
const STREAMS_MAX: usize = 1_024;

/// Counters of a sink since the last restart. Those of streams are added when asked for.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tally {
    pub(crate) datagrams: u64,
    /// Media packets, repairs left aside.
    pub(crate) media: u64,
    pub(crate) media_bytes: u64,
    pub(crate) repairs: u64,
    pub(crate) opened: u64,
    pub(crate) unopened: u64,
    pub(crate) mismatched: u64,
    pub(crate) foreign: u64,
    pub(crate) malformed: u64,
    /// Dropped by ourselves, as a lossy network would.
    pub(crate) dropped: u64,
    pub(crate) nacks_sent: u64,
    pub(crate) plis_sent: u64,
    pub(crate) sender_reports: u64,
    pub(crate) feedback_sent: u64,
}

/// A share of packets to drop on receipt, the same ones in every run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loss {
    state: u64,
    /// Of 2^32.
    threshold: u64,
}

impl Loss {
    pub(crate) fn new(percent: f64, seed: u64) -> Option<Self> {
        let threshold = (percent.clamp(0.0, 100.0) / 100.0 * 4_294_967_296.0) as u64;
        (threshold > 0).then_some(Self { state: seed | 1, threshold })
    }

    fn drops(&mut self) -> bool {
        // xorshift64*; the upper half is random enough.
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32 < self.threshold
    }
}

/// What every sink of a thread is given to work with.
pub(crate) struct Tools {
    pub(crate) egress: Egress,
    pub(crate) scratch: Vec<u8>,
    /// From the publisher's clock to the kernel's receive time, in microseconds.
    pub(crate) latency_us: Histogram<u64>,
    pub(crate) clock: Clock,
    pub(crate) sample_one_in: u32,
    pub(crate) lost: Vec<u16>,
}

/// Two readings of one clock, to convert: `Instant` is CLOCK_MONOTONIC, but does not tell its value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    base: Instant,
    base_ns: u64,
    /// CLOCK_REALTIME minus CLOCK_MONOTONIC, read once per batch.
    pub(crate) realtime_ahead_ns: u64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let mut clock = Self {
            base: Instant::now(),
            base_ns: auralink_ring::client::monotonic_ns(),
            realtime_ahead_ns: 0,
        };
        clock.adjust();
        clock
    }

    pub(crate) fn adjust(&mut self) {
        let realtime_ns = auralink_ring::client::realtime_ns();
        self.realtime_ahead_ns = realtime_ns.wrapping_sub(auralink_ring::client::monotonic_ns());
    }

    pub(crate) fn instant(&self, ns: u64) -> Instant {
        self.base + Duration::from_nanos(ns.saturating_sub(self.base_ns))
    }

    pub(crate) fn ns(&self, instant: Instant) -> u64 {
        self.base_ns + instant.saturating_duration_since(self.base).as_nanos() as u64
    }
}

pub(crate) struct Sink {
    pub(crate) link: Arc<Link>,
    pub(crate) streams: Vec<Stream>,
    pub(crate) twcc: TwccRecorder,
    pub(crate) tally: Tally,
    pub(crate) loss: Option<Loss>,
    /// Datagrams the kernel had dropped here, at the last look and at the last restart.
    pub(crate) overflow: (u32, u32),
    /// Repair SSRC and media SSRC.
    pub(crate) repairs: Vec<(u32, u32)>,
    pub(crate) next_feedback_ns: u64,
    pub(crate) next_report_ns: u64,
    /// Streams whose stamps name a publisher below or above are not of this room. Empty for who receives nothing.
    pub(crate) publishers: std::ops::Range<u32>,
    /// Whether gaps are asked for.
    pub(crate) asks_again: bool,
    /// Where every video packet is noted, for a trace.
    pub(crate) recorder: Option<Arc<Recorder>>,
    /// There is nobody who would listen to feedback.
    pub(crate) is_one_way: bool,
    last: usize,
}

impl Sink {
    pub(crate) fn new(link: Arc<Link>, publishers: std::ops::Range<u32>, loss: Option<Loss>) -> Self {
        let is_one_way = matches!(*link.keys(), Keys::Fixed(_));
        Self {
            streams: Vec::new(),
            twcc: TwccRecorder::new(),
            tally: Tally::default(),
            loss,
            overflow: (0, 0),
            repairs: Vec::new(),
            next_feedback_ns: 0,
            next_report_ns: 0,
            publishers,
            asks_again: true,
            recorder: None,
            is_one_way,
            last: 0,
            link,
        }
    }

    /// Counts from zero again.
    pub(crate) fn restart(&mut self) {
        self.tally = Tally::default();
        self.overflow.1 = self.overflow.0;
        self.streams.iter_mut().for_each(|stream| stream.gaps.restart());
    }

    /// Takes one datagram. `true` when something other than media was in it.
    pub(crate) fn on_datagram(
        &mut self,
        now_ns: u64,
        keys: &mut Keys,
        datagram: &Datagram<'_>,
        tools: &mut Tools,
    ) -> bool {
        self.tally.datagrams += 1;
        if let Some(overflow) = datagram.overflow {
            self.overflow.0 = overflow;
        }
        match classify(datagram.bytes) {
            Class::Rtp => {
                let realtime_ns = datagram.realtime_ns.unwrap_or(now_ns + tools.clock.realtime_ahead_ns);
                let arrival_ns = realtime_ns.saturating_sub(tools.clock.realtime_ahead_ns);
                self.on_rtp(arrival_ns, keys, datagram.bytes, tools);
                return false;
            }
            Class::Rtcp => self.on_rtcp(now_ns, keys, datagram.bytes, &mut tools.scratch),
            Class::Stun | Class::Dtls => self.on_peer(now_ns, keys, datagram.bytes, tools),
            Class::Other => self.tally.malformed += 1,
        }
        true
    }

    fn on_rtp(&mut self, arrival_ns: u64, keys: &mut Keys, bytes: &[u8], tools: &mut Tools) {
        if self.loss.as_mut().is_some_and(Loss::drops) {
            self.tally.dropped += 1;
            return;
        }
        let Some(header) = RtpHeader::parse(bytes) else {
            self.tally.malformed += 1;
            return;
        };
        if let Some(number) = header.extension(bytes, TWCC_ID).and_then(|value| value.first_chunk::<2>()) {
            self.twcc.record(u16::from_be_bytes(*number), tools.clock.instant(arrival_ns));
        }
        let Some(at) = self.stream(header.ssrc, header.pt, arrival_ns) else {
            self.tally.malformed += 1;
            return;
        };
        let Some(stream) = self.streams.get_mut(at) else { return };
        let arrival = match stream.kind {
            Incoming::Media(_) => {
                self.tally.media += 1;
                self.tally.media_bytes += bytes.len() as u64;
                Some(stream.gaps.on_packet(arrival_ns, header.seq, false))
            }
            Incoming::Repair => {
                self.tally.repairs += 1;
                None
            }
        };
        if let Some(recorder) = &self.recorder {
            if let Some(open) = keys.open() {
                recorder.on_packet(open, stream.kind, arrival_ns, &header, bytes, &mut tools.scratch);
            }
            return;
        }
        if !stream.is_sample(tools.sample_one_in) {
            return;
        }
        let Some(open) = keys.open() else { return };
        let (sample, original) = sample(open, stream.kind, &header, bytes, &mut tools.scratch);
        match sample {
            Sample::Matches(stamp) => {
                self.tally.opened += 1;
                self.tally.foreign += u64::from(!self.publishers.contains(&stamp.publisher));
                tools.note_latency(arrival_ns, &stamp);
                if arrival.is_some_and(|arrival| stream.follow_keyframe(header.seq, arrival, &stamp)) {
                    self.link.milestones.reach(&self.link.milestones.keyframe_ns, arrival_ns);
                }
            }
            Sample::Sealed => self.tally.unopened += 1,
            Sample::Mismatch(_) => self.tally.mismatched += 1,
            Sample::Padding => {}
        }
        if let Some(original) = original {
            self.on_repair(arrival_ns, header.ssrc, original);
        }
    }

    fn on_repair(&mut self, arrival_ns: u64, ssrc: u32, original: u16) {
        let media = self.repairs.iter().find(|(repair, _)| *repair == ssrc).map(|(_, media)| *media);
        let stream = self.streams.iter_mut().find(|stream| Some(stream.ssrc) == media);
        if let Some(stream) = stream {
            stream.gaps.on_packet(arrival_ns, original, true);
        }
    }

    /// The place of a stream, made when its first packet comes.
    fn stream(&mut self, ssrc: u32, pt: u8, now_ns: u64) -> Option<usize> {
        if self.streams.get(self.last).is_some_and(|stream| stream.ssrc == ssrc) {
            return Some(self.last);
        }
        let at = match self.streams.binary_search_by_key(&ssrc, |stream| stream.ssrc) {
            Ok(at) => at,
            Err(at) => {
                let kind = Incoming::of(pt).filter(|_| self.streams.len() < STREAMS_MAX)?;
                self.link.milestones.reach(&self.link.milestones.media_ns, now_ns);
                // Any spread will do, so that not all streams are opened at the same packet of a frame.
                let mut stream = Stream::new(ssrc, kind, now_ns, ssrc % 61);
                if self.is_one_way {
                    stream = stream.needs_no_keyframe();
                }
                self.streams.insert(at, stream);
                at
            }
        };
        self.last = at;
        Some(at)
    }

    fn on_rtcp(&mut self, now_ns: u64, keys: &mut Keys, bytes: &[u8], scratch: &mut [u8]) {
        let Some(open) = keys.open() else { return };
        let Ok(len) = open.open_rtcp(bytes, scratch) else {
            self.tally.unopened += 1;
            return;
        };
        for packet in packets(scratch.get(..len).unwrap_or_default()) {
            match packet {
                Rtcp::Nack { media, lost, .. } => self.link.wishes.want_again(media, lost),
                Rtcp::Pli { media, .. } => self.link.wishes.want_keyframe(media),
                Rtcp::Fir { targets, .. } => {
                    targets.for_each(|(media, _)| self.link.wishes.want_keyframe(media));
                }
                Rtcp::SenderReport { ssrc, ntp, .. } => {
                    self.tally.sender_reports += 1;
                    if let Some(stream) = self.streams.iter_mut().find(|stream| stream.ssrc == ssrc) {
                        stream.last_report = Some((ntp.middle(), now_ns));
                    }
                }
                Rtcp::Malformed { .. } => self.tally.malformed += 1,
                _ => {}
            }
        }
    }

    fn on_peer(&self, now_ns: u64, keys: &mut Keys, bytes: &[u8], tools: &mut Tools) {
        let Keys::Peer(peer) = keys else { return };
        let now = tools.clock.instant(now_ns);
        let route = Route::udp(self.link.server, Some(self.link.local.ip()));
        // What the peer refuses (checks of another session, alerts after a close) is refused as it should be.
        let _ = match classify(bytes) {
            Class::Stun => peer.handle_stun(now, &route, bytes, &mut tools.egress),
            _ => peer.handle_dtls(now, &route, bytes, &mut tools.egress),
        };
        self.follow_peer(now_ns, keys, tools);
    }

    /// Lets a peer do what is due.
    pub(crate) fn on_timeout(&self, now_ns: u64, tools: &mut Tools) {
        let link = Arc::clone(&self.link);
        let mut keys = link.keys();
        if let Keys::Peer(peer) = &mut *keys {
            peer.handle_timeout(tools.clock.instant(now_ns), &mut tools.egress);
        }
        self.follow_peer(now_ns, &mut keys, tools);
    }

    fn follow_peer(&self, now_ns: u64, keys: &mut Keys, tools: &mut Tools) {
        let Keys::Peer(peer) = keys else { return };
        let milestones = &self.link.milestones;
        while let Some(event) = peer.poll_event() {
            match event {
                PeerEvent::Connected { .. } => {
                    milestones.reach(&milestones.connected_ns, now_ns);
                    // Refused only when data was not negotiated.
                    let now = tools.clock.instant(now_ns);
                    let _ = peer.open_channel(now, "_reliable", true, Reliability::Reliable);
                    let _ = peer.open_channel(now, "_lossy", false, Reliability::Retransmits(0));
                }
                PeerEvent::ChannelOpen { .. } => milestones.reach(&milestones.channel_open_ns, now_ns),
                PeerEvent::Closed(_) => milestones.close(),
                _ => {}
            }
        }
        self.link.flush(&mut tools.egress);
    }

    /// When [`Self::on_timeout`] is wanted next.
    pub(crate) fn timeout_ns(&self, keys: &mut Keys, clock: &Clock) -> u64 {
        let Keys::Peer(peer) = keys else { return u64::MAX };
        peer.poll_timeout().map_or(u64::MAX, |at| clock.ns(at))
    }

    /// Whether media comes, which wants feedback.
    pub(crate) fn hears(&self) -> bool {
        !self.streams.is_empty()
    }
}

impl Tools {
    pub(crate) fn new(sample_one_in: u32) -> Result<Self, hdrhistogram::CreationError> {
        Ok(Self {
            egress: Egress::new(64),
            scratch: vec![0; 2_048],
            latency_us: Histogram::new_with_bounds(1, 60_000_000, 3)?,
            clock: Clock::new(),
            sample_one_in: sample_one_in.max(1),
            lost: Vec::with_capacity(512),
        })
    }

    fn note_latency(&mut self, arrival_ns: u64, stamp: &Stamp) {
        let latency_us = arrival_ns.saturating_sub(stamp.sent_ns) / 1_000;
        self.latency_us.saturating_record(latency_us.max(1));
    }
}
