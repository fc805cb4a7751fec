//! What time brings: protocol timers, reports, feedback, repeated requests, speakers.

use std::time::{Duration, Instant};

use auralink_proto::{Event, Level, MediaKind, RoomId};
use auralink_rtc::rtcp::{RtcpWriter, SenderInfo};
use auralink_rtc::units::NtpTime;

use super::{Output, Shard};
use crate::lanes::LaneSignal;
use crate::publisher::Source;
use crate::stats::DropReason;
use crate::transport::{Due, Transport};

/// Timers handled between two receive drains: joins and reports must not stall media.
const TIMERS_PER_TURN: usize = 128;
/// Between two requests for a keyframe that did not come, and to a lane that did not answer.
pub(super) const TICK: Duration = Duration::from_millis(250);
/// Room for one compound.
const COMPOUND_MAX: usize = 1_100;

impl Shard {
    /// Does what is due. Call at [`Self::poll_timeout`] or later, and once per turn.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Output<'_>) {
        self.handling = None;
        self.turn = now;
        self.handle_slow(now, out);
        self.release_held(now);
        for _ in 0..TIMERS_PER_TURN {
            // What has no room now is due again as soon as the trains are with the kernel.
            let due = out.egress.has_room().then(|| self.wheel.poll(now)).flatten();
            let Some(slot) = due else { break };
            self.transport_timeout(now, slot, out);
        }
        for _ in 0..TIMERS_PER_TURN {
            let Some(slot) = self.track_wheel.poll(now) else { break };
            self.track_timeout(now, slot, out);
        }
        if now >= self.next_speakers {
            self.next_speakers = now + self.config.speaker_interval;
            self.look_at_speakers(out);
        }
    }

    /// Sets the wheel to the earliest thing due on a transport.
    pub(super) fn arm(&mut self, slot: u32) {
        let Some(transport) = self.transports.get_mut(slot) else { return };
        if let Some(at) = transport.peer.poll_timeout() {
            self.wheel.set_earlier(slot, at);
        }
        self.arm_due(slot);
    }

    /// The same for what media alone makes due: the peer's protocols need not be asked per packet.
    pub(super) fn arm_due(&mut self, slot: u32) {
        if let Some(at) = self.transports.get(slot).and_then(|transport| transport.due.earliest()) {
            self.wheel.set_earlier(slot, at);
        }
    }

    /// Transport `slot` was just sent media: a report becomes due, if none is. Silent transports cost no timer.
    pub(super) fn arm_reports(&mut self, slot: u32) {
        let Some(transport) = self.transports.get_mut(slot) else { return };
        if transport.due.reports.is_none() && transport.moved() != transport.reported {
            let at = self.turn + self.config.report_interval;
            transport.due.reports = Some(at);
            self.wheel.set_earlier(slot, at);
        }
    }

    fn transport_timeout(&mut self, now: Instant, slot: u32, out: &mut Output<'_>) {
        self.handling = Some(slot);
        let Some(transport) = self.transports.get_mut(slot) else { return };
        if transport.peer.poll_timeout().is_some_and(|at| at <= now) {
            transport.peer.handle_timeout(now, out.egress);
            self.drain_peer(now, slot, out);
        }
        self.send_rtcp(now, slot, out);
        self.arm(slot);
    }

    /// One compound with everything due: reports, then requests, then transport-wide feedback.
    fn send_rtcp(&mut self, now: Instant, slot: u32, out: &mut Output<'_>) {
        let Some(transport) = self.transports.get_mut(slot).filter(|transport| transport.connected) else {
            return;
        };
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let due = transport.due;
        if is_due(due.reports) {
            transport.due.reports = None;
            if transport.moved() != transport.reported {
                transport.reported = transport.moved();
                transport.due.reports = Some(now + self.config.report_interval);
                self.send_reports(now, slot, out);
            }
        }
        let mut bytes = [0; COMPOUND_MAX];
        let mut writer = RtcpWriter::new(&mut bytes);
        let Some(transport) = self.transports.get(slot) else { return };
        let own = transport.feedback_ssrc();
        let mut fits = writer.receiver_report(own, &[]);
        let empty_len = writer.len();
        if is_due(due.repair) {
            fits &= self.write_repair(now, slot, own, &mut writer);
        }
        if is_due(due.keyframes) {
            fits &= self.write_keyframe_requests(now, slot, own, &mut writer);
        }
        if is_due(due.twcc)
            && let Some(transport) = self.transports.get_mut(slot)
        {
            transport.due.twcc = None;
            let media = transport.bindings.first().map_or(0, |binding| binding.ssrc);
            while fits && transport.twcc.is_pending() {
                fits = transport.twcc.write_feedback(own, media, &mut writer);
            }
            if transport.twcc.is_pending() {
                transport.due.twcc = Some(now + Duration::from_millis(2));
            }
        }
        let len = writer.finish();
        if len > empty_len {
            self.send_compound(slot, &bytes[..len], out);
        }
    }

    /// Each packet that its track offered a line since the last report went somewhere; memory follows the rate.
    fn review(&mut self, slot: u32) {
        let Some(transport) = self.transports.get_mut(slot) else { return };
        transport.departures.fit();
        for line in &mut transport.lines {
            let Some(track) = line.track.and_then(|track| self.tracks.get(track)) else { continue };
            if track.pending.is_empty() {
                self.stats.unaccounted += line.audit(track);
            }
        }
    }

    /// Sender reports of every line that is sending, and one receiver report.
    fn send_reports(&mut self, now: Instant, slot: u32, out: &mut Output<'_>) {
        self.review(slot);
        let mut line_index = 0;
        let mut blocks_written = false;
        loop {
            let mut bytes = [0; COMPOUND_MAX];
            let mut writer = RtcpWriter::new(&mut bytes);
            let Some(transport) = self.transports.get_mut(slot) else { return };
            let own = transport.feedback_ssrc();
            if !blocks_written {
                blocks_written = true;
                self.write_receiver_report(now, slot, own, &mut writer);
            }
            let Some(transport) = self.transports.get_mut(slot) else { return };
            while let Some(line) = transport.lines.get_mut(line_index) {
                if writer.remaining() < 28 + 8 + 4 + transport.cname.len() + 8 {
                    break;
                }
                line_index += 1;
                let Some(track) = line.track.and_then(|track| self.tracks.get(track)) else { continue };
                let Some((ntp, rtp_time)) = line.report_time(now, track) else { continue };
                let (ntp, counters) = (NtpTime(ntp), line.counters);
                line.listener.on_sent(now, ntp);
                let info = SenderInfo {
                    ssrc: line.ssrc,
                    ntp,
                    rtp_time,
                    packets: counters.packets as u32,
                    octets: counters.octets,
                };
                let _ = writer.sender_report(&info, &[]) && writer.sdes_cname(line.ssrc, &transport.cname);
            }
            let is_done = line_index >= transport.lines.len();
            let len = writer.finish();
            if len > 0 {
                self.send_compound(slot, &bytes[..len], out);
            }
            if is_done {
                return;
            }
        }
    }

    fn write_receiver_report(&mut self, now: Instant, slot: u32, own: u32, writer: &mut RtcpWriter<'_>) {
        let Some(transport) = self.transports.get(slot) else { return };
        let mut blocks = [auralink_rtc::rtcp::ReportBlock::default(); 16];
        let mut count = 0;
        for uplink in &transport.uplinks {
            let Some(track) = self.tracks.get_mut(uplink.track) else { continue };
            for layer in &mut track.layers {
                let Some(ssrc) = layer.ssrc else { continue };
                let mapping = layer.mapping.as_ref();
                let Some((block, reported)) = layer.reception.report(now, ssrc, layer.clock_rate, mapping)
                else {
                    continue;
                };
                self.stats.quality.incoming.of(track.kind).observe(&reported);
                if let Some(place) = blocks.get_mut(count) {
                    *place = block;
                    count += 1;
                }
            }
        }
        let Some(transport) = self.transports.get(slot) else { return };
        let _ = writer.receiver_report(own, &blocks[..count]) && writer.sdes_cname(own, &transport.cname);
    }

    /// Requests for what is missing on the transport's own layers.
    fn write_repair(&mut self, now: Instant, slot: u32, own: u32, writer: &mut RtcpWriter<'_>) -> bool {
        // What was left out because there was no time for it is not asked for again.
        let has_time = self.backlog.has_time(now);
        let Some(transport) = self.transports.get_mut(slot) else { return false };
        let mut fits = true;
        let mut next = None;
        for uplink in &transport.uplinks {
            let Some(track) = self.tracks.get_mut(uplink.track) else { continue };
            let asks = has_time && uplink.section.payloads.iter().any(|map| map.nack);
            for layer in &mut track.layers {
                self.scratch_seqs.clear();
                let given_up = layer.nack.poll(now, &mut self.scratch_seqs);
                if given_up && track.kind == MediaKind::Video {
                    layer.wish.want();
                    Due::sooner(&mut transport.due.keyframes, now);
                }
                if let Some(media) = layer.ssrc.filter(|_| asks && !self.scratch_seqs.is_empty()) {
                    fits &= writer.nack(own, media, self.scratch_seqs.iter().copied());
                    self.stats.nacks_sent += self.scratch_seqs.len() as u64;
                    transport.stats.nacks_sent += self.scratch_seqs.len() as u64;
                }
                next = next.into_iter().chain(layer.nack.poll_timeout()).min();
            }
        }
        transport.due.repair = next;
        fits
    }

    /// Keyframe requests that are wanted and not too soon after the last.
    fn write_keyframe_requests(
        &mut self,
        now: Instant,
        slot: u32,
        own: u32,
        writer: &mut RtcpWriter<'_>,
    ) -> bool {
        let interval = self.config.keyframe_interval;
        let Some(transport) = self.transports.get_mut(slot) else { return false };
        let mut fits = true;
        let mut next = None;
        for uplink in &transport.uplinks {
            let Some(track) = self.tracks.get_mut(uplink.track) else { continue };
            for layer in &mut track.layers {
                if let Some(media) = layer.ssrc
                    && layer.wish.poll(now, interval)
                {
                    fits &= writer.pli(own, media);
                    self.stats.plis_sent += 1;
                    transport.stats.plis_sent += 1;
                }
                next = next.into_iter().chain(layer.wish.due(interval)).min();
            }
        }
        transport.due.keyframes = next;
        fits
    }

    /// Seals a compound into a train of its own transport.
    fn send_compound(&mut self, slot: u32, compound: &[u8], out: &mut Output<'_>) {
        let Some(transport) = self.transports.get_mut(slot) else { return };
        let Transport { peer, .. } = &mut **transport;
        let (Some(route), Some(seal)) = (peer.route(), peer.srtp_seal()) else { return };
        let len = compound.len() + seal.overhead_rtcp();
        let Some(place) = out.egress.reserve(&route, len) else {
            self.stats.drop(DropReason::EgressFull);
            return;
        };
        match seal.seal_rtcp(compound, place) {
            Ok(_) => out.egress.commit(),
            Err(_) => self.stats.drop(DropReason::SealRefused),
        }
    }

    /// A layer that fell silent loses its subscribers to others; a lane that did not answer is asked again.
    fn track_timeout(&mut self, now: Instant, slot: u32, out: &mut Output<'_>) {
        let Some(track) = self.tracks.get_mut(slot) else { return };
        if let Source::Lane { shard, described: false, .. } = track.source {
            let _ = out.lanes.signal(shard, LaneSignal::Demand { track: track.id, wanted: true });
            self.track_wheel.set_earlier(slot, now + TICK);
        }
        if track.is_video() && !track.followers.is_empty() {
            self.retarget_followers(now, slot, out);
        }
    }

    /// One event per room whose loudness changed, loudest track first.
    fn look_at_speakers(&mut self, out: &mut Output<'_>) {
        let Self { tracks, transports, heard, .. } = self;
        let mut changed: Vec<(RoomId, Level)> = Vec::new();
        heard.retain(|slot| {
            let Some(track) = tracks.get_mut(*slot) else { return false };
            let (level, is_quiet) = track.loudness.end_interval();
            if let (Some(level), Source::Local { transport }) = (level, track.source)
                && let Some(transport) = transports.get(transport)
            {
                changed.push((transport.room, Level { track: track.id, level, active: level > 0.0 }));
            }
            !is_quiet
        });
        changed.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.level.total_cmp(&a.1.level)));
        for room in changed.chunk_by(|a, b| a.0 == b.0) {
            out.events.push(Event::Levels { levels: room.iter().map(|(_, level)| *level).collect() });
        }
    }
}
