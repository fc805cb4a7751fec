//! RTCP compounds (RFC 3550 §6, RFC 4585): every packet and every list in it.
#![no_main]

use auralink_rtc::rtcp::{Rtcp, packets};

libfuzzer_sys::fuzz_target!(|compound: &[u8]| {
    let mut count = 0;
    for packet in packets(compound) {
        count += 1;
        let items = match packet {
            Rtcp::SenderReport { reports, .. } | Rtcp::ReceiverReport { reports, .. } => reports.count(),
            Rtcp::Sdes(chunks) => chunks.count(),
            Rtcp::Bye(ssrcs) | Rtcp::Remb { ssrcs, .. } => ssrcs.count(),
            Rtcp::Nack { lost, .. } => lost.count() / 17,
            Rtcp::Fir { targets, .. } => targets.count(),
            Rtcp::TransportFeedback(feedback) => feedback.statuses().count() / 65_536,
            _ => 0,
        };
        assert!(items <= compound.len());
    }
    assert!(count <= compound.len() / 4);
});
