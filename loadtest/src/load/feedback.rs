//! RTCP of a sink, as browsers send it: transport-wide feedback ten times a second, receiver reports once, NACK for gaps, PLI
//! while no keyframe came.

use std::sync::Arc;

use auralink_rtc::rtcp::{ReportBlock, RtcpWriter};

use super::sink::{Sink, Tools};
use super::stream::{Incoming, Stream};

/// Our SSRC as a receiver.
const RECEIVER_SSRC: u32 = 1;
pub(crate) const FEEDBACK_INTERVAL_NS: u64 = 100_000_000;
/// Loss is asked for sooner.
const REPAIR_INTERVAL_NS: u64 = 20_000_000;
const REPORT_INTERVAL_NS: u64 = 1_000_000_000;
const PLI_INTERVAL_NS: u64 = 500_000_000;
/// Report blocks one packet may carry.
const BLOCKS_MAX: usize = 31;
/// Bytes of the largest compound written.
const COMPOUND_BYTES_MAX: usize = 1_100;

impl Sink {
    /// Sends what is due and says when the next is.
    pub(crate) fn on_feedback(&mut self, now_ns: u64, tools: &mut Tools) {
        if self.is_one_way {
            self.next_feedback_ns = u64::MAX;
            return;
        }
        let is_whole = self.streams.iter().all(|stream| stream.gaps.is_complete());
        let interval_ns = if is_whole { FEEDBACK_INTERVAL_NS } else { REPAIR_INTERVAL_NS };
        self.next_feedback_ns = now_ns + interval_ns;
        let mut blocks = [ReportBlock::default(); BLOCKS_MAX];
        let mut count = 0;
        if now_ns >= self.next_report_ns {
            self.next_report_ns = now_ns + REPORT_INTERVAL_NS;
            for (place, block) in blocks.iter_mut().zip(self.streams.iter().filter_map(|s| block(s, now_ns)))
            {
                *place = block;
                count += 1;
            }
        }
        let mut compound = [0; COMPOUND_BYTES_MAX];
        let mut writer = RtcpWriter::new(&mut compound);
        // What does not fit is sent the next time.
        let _ = writer.receiver_report(RECEIVER_SSRC, blocks.get(..count).unwrap_or_default());
        let empty = if count == 0 { writer.len() } else { 0 };
        for stream in &mut self.streams {
            if self.asks_again && !stream.gaps.is_complete() {
                tools.lost.clear();
                stream.gaps.poll_missing(now_ns, &mut tools.lost);
                if !tools.lost.is_empty()
                    && writer.nack(RECEIVER_SSRC, stream.ssrc, tools.lost.iter().copied())
                {
                    self.tally.nacks_sent += 1;
                }
            }
            let is_due = now_ns.saturating_sub(stream.last_pli_ns.max(stream.since_ns)) >= PLI_INTERVAL_NS;
            if stream.wants_keyframe() && is_due && writer.pli(RECEIVER_SSRC, stream.ssrc) {
                stream.last_pli_ns = now_ns;
                self.tally.plis_sent += 1;
            }
        }
        let media = self.streams.first().map_or(0, |stream| stream.ssrc);
        if self.twcc.is_pending() && self.twcc.write_feedback(RECEIVER_SSRC, media, &mut writer) {
            self.tally.feedback_sent += 1;
        }
        let len = writer.finish();
        if len > empty {
            self.send_rtcp(compound.get(..len).unwrap_or_default());
        }
    }

    fn send_rtcp(&self, compound: &[u8]) {
        let link = Arc::clone(&self.link);
        let mut keys = link.keys();
        let Some(seal) = keys.seal() else { return };
        let mut sealed = [0; COMPOUND_BYTES_MAX + 64];
        let len = compound.len() + seal.overhead_rtcp();
        let Some(place) = sealed.get_mut(..len) else { return };
        if seal.seal_rtcp(compound, place).is_ok() {
            // A datagram the socket does not take is lost, as on any network.
            let _ = link.socket.send(place);
        }
    }
}

fn block(stream: &Stream, now_ns: u64) -> Option<ReportBlock> {
    let highest = stream.gaps.highest().filter(|_| stream.kind != Incoming::Repair)?;
    let (lsr, since_ns) = stream.last_report.unwrap_or((0, now_ns));
    Some(ReportBlock {
        ssrc: stream.ssrc,
        fraction_lost: 0,
        cumulative_lost: stream.gaps.missing().min(0x7f_ffff) as i32,
        highest_seq: highest as u32,
        jitter: 0,
        lsr,
        // 1/65,536 s.
        dlsr: ((now_ns - since_ns) / 1_000 * 65_536 / 1_000_000) as u32,
    })
}
