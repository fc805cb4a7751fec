//! RTCP in: sender reports of publishers; reports, requests and feedback of subscribers.

use std::time::Instant;

use auralink_rtc::rtcp::{self, Reports, Rtcp};

use super::{Datagram, Output, Shard};
use crate::lanes::LaneSignal;
use crate::rewrite::TimeMapping;
use crate::stats::DropReason;
use crate::subscriber::{Forwarded, Sink};
use crate::transport::Transport;

/// Largest compound we open; libwebrtc's stay below its packet size.
const COMPOUND_MAX: usize = 1_500;
/// Packets one compound may ask to be resent; the rest will be asked for again.
const RESENDS_PER_COMPOUND: usize = 128;

impl Shard {
    pub(super) fn receive_rtcp(
        &mut self,
        now: Instant,
        slot: u32,
        datagram: &Datagram<'_>,
        out: &mut Output<'_>,
    ) -> Result<(), DropReason> {
        let mut compound = [0; COMPOUND_MAX];
        let transport = self.transports.get_mut(slot).ok_or(DropReason::UnknownTuple)?;
        let open = transport.peer.srtp_open().ok_or(DropReason::NoKeys)?;
        let len = open.open_rtcp(datagram.bytes, &mut compound).map_err(|error| match error {
            auralink_rtc::srtp::SrtpError::Replayed => DropReason::Replayed,
            auralink_rtc::srtp::SrtpError::Authentication => DropReason::Forged,
            _ => DropReason::Malformed,
        })?;
        if !transport.intake.admits(now, datagram.bytes.len(), &self.config.intake) {
            return Err(DropReason::OverLimit);
        }
        let mut resends_left = RESENDS_PER_COMPOUND;
        for packet in rtcp::packets(&compound[..len]) {
            match packet {
                Rtcp::SenderReport { ssrc, ntp, rtp_time, reports, .. } => {
                    let mapping = TimeMapping { ntp, timestamp: rtp_time, arrival: datagram.arrival };
                    self.on_sender_report(slot, ssrc, mapping, out);
                    self.on_reception_reports(now, slot, reports);
                }
                Rtcp::ReceiverReport { reports, .. } => self.on_reception_reports(now, slot, reports),
                Rtcp::Nack { media, lost, .. } => {
                    self.scratch_seqs.clear();
                    self.scratch_seqs.extend(lost.take(resends_left));
                    resends_left -= self.scratch_seqs.len();
                    self.on_nack(now, slot, media, out);
                }
                Rtcp::Pli { media, .. } => self.on_keyframe_request(now, slot, media, out),
                Rtcp::Fir { targets, .. } => {
                    for target in targets.take(8) {
                        self.on_keyframe_request(now, slot, target.0, out);
                    }
                }
                Rtcp::TransportFeedback(feedback) => {
                    let Some(transport) = self.transports.get_mut(slot) else { break };
                    for (number, received) in feedback.statuses() {
                        transport.departures.on_feedback(number, received.is_some());
                    }
                }
                Rtcp::Malformed { .. } => self.stats.drop(DropReason::Malformed),
                // Descriptions and farewells change nothing here: a stream ends when signalling says so.
                Rtcp::Sdes(_) | Rtcp::Bye(_) | Rtcp::Remb { .. } | Rtcp::Other { .. } => {}
            }
        }
        Ok(())
    }

    fn on_sender_report(&mut self, slot: u32, ssrc: u32, mapping: TimeMapping, out: &mut Output<'_>) {
        let Some(transport) = self.transports.get(slot) else { return };
        let Some(binding) = transport.binding(ssrc).filter(|binding| !binding.is_repair) else { return };
        let Some(uplink) = transport.uplinks.get(usize::from(binding.section)) else { return };
        let Some(track) = self.tracks.get_mut(uplink.track) else { return };
        if let Some(layer) = track.layers.get_mut(usize::from(binding.layer)) {
            layer.mapping = Some(mapping);
        }
        for follower in &track.lane_followers {
            let signal = LaneSignal::Report { track: track.id, layer: binding.layer, mapping };
            // A report lost on a full lane is repeated by the publisher within seconds.
            let _ = out.lanes.signal(follower.shard, signal);
        }
    }

    /// Counts what a receiver says of our streams. Nothing follows from it: what was lost is asked for, and known from the
    /// transport-wide feedback.
    fn on_reception_reports(&mut self, now: Instant, slot: u32, reports: Reports<'_>) {
        let Some(transport) = self.transports.get_mut(slot) else { return };
        for block in reports {
            let index = transport.line_of(block.ssrc);
            let line = index.and_then(|index| transport.lines.get_mut(usize::from(index.0)));
            // Of the repair stream alone loss and jitter mean nothing.
            let Some(line) = line.filter(|line| line.ssrc == block.ssrc) else { continue };
            let track = line.track.and_then(|track| self.tracks.get(track));
            let layer = track.zip(line.current()).and_then(|(track, at)| track.layers.get(usize::from(at)));
            let Some(layer) = layer else { continue };
            let reported = line.listener.on_report(now, &block, layer.clock_rate);
            self.stats.quality.outgoing.of(line.kind).observe(&reported);
        }
    }

    /// Resends what `self.scratch_seqs` lists of the line with media SSRC `media`.
    fn on_nack(&mut self, now: Instant, slot: u32, media: u32, out: &mut Output<'_>) {
        let Some(transport) = self.transports.get_mut(slot) else { return };
        let Some(index) = transport.line_of(media) else { return };
        let Transport { peer, lines, next_twcc, stats, .. } = &mut **transport;
        let (Some(route), Some(seal)) = (peer.route(), peer.srtp_seal()) else { return };
        let Some(line) = lines.get_mut(usize::from(index.0)) else { return };
        let Some(track) = line.track.and_then(|track| self.tracks.get(track)) else { return };
        let mut sink = Sink { seal, route, egress: out.egress, owner: slot, next_twcc };
        for wire in &self.scratch_seqs {
            match line.resend(now, *wire, track, &mut sink) {
                Some(Forwarded::Sent { octets }) => {
                    self.stats.retransmitted += 1;
                    self.stats.octets_retransmitted += u64::from(octets);
                    stats.retransmitted += 1;
                }
                Some(Forwarded::Full) => self.stats.drop(DropReason::EgressFull),
                Some(Forwarded::Dropped(reason)) => self.stats.drop(reason),
                Some(Forwarded::Filtered) | None => {}
            }
        }
    }

    /// The client cannot go on with the line `media`: its layer needs a keyframe.
    fn on_keyframe_request(&mut self, now: Instant, slot: u32, media: u32, out: &mut Output<'_>) {
        let Some(transport) = self.transports.get(slot) else { return };
        let Some(line) = transport.line_of(media).and_then(|index| transport.lines.get(usize::from(index.0)))
        else {
            return;
        };
        let Some((track_slot, track)) = line.track.and_then(|slot| Some((slot, self.tracks.get(slot)?)))
        else {
            return;
        };
        if let Some(layer) = line.waits_for(track).or_else(|| line.current()) {
            self.want_keyframe(now, track_slot, layer, out);
        }
    }
}
