//! Offers (RFC 8866, RFC 9429) as a client may send them.
#![no_main]

use auralink_controlplane::negotiator::offer::Offer;

libfuzzer_sys::fuzz_target!(|sdp: &str| {
    let _ = Offer::parse(sdp);
});
