//! Transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01).
#![no_main]

use auralink_rtc::twcc::TransportFeedback;

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    if let Some(feedback) = TransportFeedback::parse(1, 2, body) {
        let _ = feedback.reference_us();
        assert!(feedback.statuses().count() <= usize::from(feedback.status_count));
    }
});
