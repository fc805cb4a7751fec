//! Header extension elements, one- and two-byte form (RFC 8285).
#![no_main]

use auralink_rtc::ext::Extensions;

libfuzzer_sys::fuzz_target!(|input: (u16, &[u8])| {
    let (profile, block) = input;
    for profile in [None, Some(0xbede), Some(0x1000 | profile & 0x0f), Some(profile)] {
        let total: usize = Extensions::new(profile, block).map(|(_, value)| value.len()).sum();
        assert!(total <= block.len());
    }
});
