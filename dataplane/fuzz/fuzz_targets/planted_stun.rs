//! A planted fault: the run that finds nothing elsewhere must find this.
#![no_main]

use auralink_rtc::stun::username;

libfuzzer_sys::fuzz_target!(|datagram: &[u8]| {
    assert!(!username(datagram).is_some_and(|(local, _)| local.len() == 3), "planted");
});
