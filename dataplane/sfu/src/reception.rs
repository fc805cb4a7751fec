//! Reception statistics of one received stream, for receiver reports (RFC 3550 §6.4.1, A.3, A.8).

use std::time::Instant;

use auralink_rtc::rtcp::ReportBlock;
use auralink_rtc::units::SeqNo;

use crate::quality::{Reported, jitter_us};
use crate::rewrite::TimeMapping;

#[derive(Clone, Copy, Debug, Default)]
pub struct Reception {
    first: Option<SeqNo>,
    highest: SeqNo,
    received: u64,
    /// Interarrival jitter in timestamp units, times 16.
    jitter_scaled: u64,
    last_transit: Option<i64>,
    origin: Option<Instant>,
    expected_before: u64,
    received_before: u64,
}

impl Reception {
    pub fn on_packet(&mut self, arrival: Instant, seq: SeqNo, timestamp: u32, clock_rate: u32) {
        self.first.get_or_insert(seq);
        self.highest = self.highest.max(seq);
        self.received += 1;
        let origin = *self.origin.get_or_insert(arrival);
        let elapsed =
            arrival.saturating_duration_since(origin).as_micros() as i64 * i64::from(clock_rate) / 1_000_000;
        let transit = i64::from((elapsed as u32).wrapping_sub(timestamp) as i32);
        if let Some(last) = self.last_transit {
            // RFC 3550 A.8: J += (|D| - J) / 16, kept scaled. A jump of more than 10 s is a new time base, not jitter.
            let difference = transit.abs_diff(last);
            if difference < u64::from(clock_rate) * 10 {
                self.jitter_scaled = self.jitter_scaled + difference - self.jitter_scaled / 16;
            }
        }
        self.last_transit = Some(transit);
    }

    /// The report since the last call, for the publisher and for our counters; `None` when nothing ever arrived.
    pub fn report(
        &mut self,
        now: Instant,
        ssrc: u32,
        clock_rate: u32,
        mapping: Option<&TimeMapping>,
    ) -> Option<(ReportBlock, Reported)> {
        let expected = self.highest.0 - self.first?.0 + 1;
        let lost = expected as i64 - self.received as i64;
        let expected_interval = expected - self.expected_before;
        let received_interval = self.received - self.received_before;
        (self.expected_before, self.received_before) = (expected, self.received);
        let lost_interval = expected_interval.saturating_sub(received_interval);
        let fraction_lost = (lost_interval * 256).checked_div(expected_interval).unwrap_or(0).min(255) as u8;
        let delay = mapping.map_or(0, |mapping| {
            (now.saturating_duration_since(mapping.arrival).as_micros() * 65_536 / 1_000_000) as u32
        });
        let jitter = (self.jitter_scaled / 16).min(u64::from(u32::MAX)) as u32;
        // A layer that rests has no jitter to tell of.
        let jitter_us = if received_interval > 0 { jitter_us(jitter, clock_rate) } else { 0 };
        let reported =
            Reported { lost: lost_interval, expected: expected_interval, jitter_us, round_trip: None };
        let block = ReportBlock {
            ssrc,
            fraction_lost,
            cumulative_lost: lost.clamp(-0x80_0000, 0x7f_ffff) as i32,
            highest_seq: self.highest.0.wrapping_sub(0x1_0000) as u32,
            jitter,
            lsr: mapping.map_or(0, |mapping| mapping.ntp.middle()),
            dlsr: delay,
        };
        Some((block, reported))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn reports_loss_of_the_interval_and_of_all_time() {
        let start = Instant::now();
        let mut reception = Reception::default();
        assert!(reception.report(start, 1, 48_000, None).is_none());
        for seq in (0..100).filter(|seq| seq % 4 != 3) {
            let arrival = start + Duration::from_millis(20 * seq);
            reception.on_packet(arrival, SeqNo(0x1_0000 + seq), 960 * seq as u32, 48_000);
        }
        let (report, reported) = reception.report(start, 7, 48_000, None).unwrap();
        assert_eq!(reported, Reported { lost: 24, expected: 99, ..Reported::default() });
        assert_eq!((report.ssrc, report.cumulative_lost, report.highest_seq), (7, 24, 98));
        assert_eq!(report.fraction_lost, (24 * 256 / 99) as u8);
        assert_eq!(report.jitter, 0);
        reception.on_packet(start + Duration::from_millis(2_000), SeqNo(0x1_0000 + 99), 960 * 99, 48_000);
        let (report, reported) = reception.report(start, 7, 48_000, None).unwrap();
        assert_eq!((reported.lost, reported.expected), (0, 1));
        assert_eq!(reported.jitter_us, jitter_us(report.jitter, 48_000));
        assert_eq!((report.fraction_lost, report.cumulative_lost), (0, 24));
        assert!(report.jitter > 0);
    }
}
