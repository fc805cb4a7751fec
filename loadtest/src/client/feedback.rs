//! RTCP out: requests for lost packets and keyframes, arrival times, receiver reports.

use std::time::{Duration, Instant};

use auralink_rtc::rtcp::{ReportBlock, RtcpWriter};

use super::Client;
use crate::publish::seal_rtcp;

/// Our SSRC as a receiver.
const RECEIVER_SSRC: u32 = 1;
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Report blocks one packet may carry.
const BLOCKS_MAX: usize = 31;
/// Bytes of the largest compound written.
const COMPOUND_BYTES_MAX: usize = 1_100;

impl Client {
    pub(super) fn send_feedback(&mut self, now: Instant) {
        let mut blocks = Vec::new();
        if now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
            blocks.extend(self.lines.iter().filter_map(|(ssrc, line)| line.report_block(now, *ssrc)));
            blocks.truncate(BLOCKS_MAX);
        }
        let asks_keyframes = !blocks.is_empty();
        let mut compound = [0; COMPOUND_BYTES_MAX];
        let mut writer = RtcpWriter::new(&mut compound);
        // What does not fit is asked for again the next time.
        let _ = writer.receiver_report(RECEIVER_SSRC, &blocks);
        let empty = if blocks.is_empty() { writer.len() } else { 0 };
        for (ssrc, line) in &mut self.lines {
            let lost = line.poll_lost(now);
            if line.is_video && !lost.is_empty() && writer.nack(RECEIVER_SSRC, *ssrc, lost) {
                self.counters.nacks_sent += 1;
            }
            if line.wants_keyframe && asks_keyframes && writer.pli(RECEIVER_SSRC, *ssrc) {
                self.counters.plis_sent += 1;
            }
        }
        let media = self.lines.keys().next().copied().unwrap_or_default();
        if self.twcc.is_pending() {
            let _ = self.twcc.write_feedback(RECEIVER_SSRC, media, &mut writer);
        }
        let len = writer.finish();
        if len > empty
            && let Some(seal) = self.peer.srtp_seal()
        {
            self.sealed.extend(compound.get(..len).and_then(|compound| seal_rtcp(compound, seal)));
        }
    }
}

impl crate::receive::Line {
    fn report_block(&self, now: Instant, ssrc: u32) -> Option<ReportBlock> {
        let highest = self.highest?;
        let (_, lost) = self.loss();
        let (lsr, since) = self.last_report.unwrap_or((0, now));
        let delay = now.saturating_duration_since(since);
        Some(ReportBlock {
            ssrc,
            fraction_lost: 0,
            cumulative_lost: lost.min(0x7f_ffff) as i32,
            highest_seq: highest.0 as u32,
            jitter: 0,
            lsr,
            dlsr: (delay.as_micros() * 65_536 / 1_000_000) as u32,
        })
    }
}
