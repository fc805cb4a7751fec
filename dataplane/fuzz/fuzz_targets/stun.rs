//! STUN (RFC 8489): what the demultiplexer reads before any state exists, and a whole binding message.
#![no_main]

use auralink_rtc::stun::{Binding, Class, username};

libfuzzer_sys::fuzz_target!(|datagram: &[u8]| {
    let named = username(datagram);
    if let Some(binding) = Binding::parse(datagram) {
        let is_request = binding.class == Class::Request;
        assert!(!is_request || binding.username == named);
        let _ = binding.verify("a-password-of-some-length");
    }
});
