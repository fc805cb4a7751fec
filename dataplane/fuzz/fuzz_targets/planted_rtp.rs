//! A planted fault: the run that finds nothing elsewhere must find this.
#![no_main]

use auralink_rtc::rtp::RtpHeader;

libfuzzer_sys::fuzz_target!(|datagram: &[u8]| {
    let Some(header) = RtpHeader::parse(datagram) else { return };
    assert!(!(header.extension_len == 8 && header.padding && header.len > 24), "planted");
});
