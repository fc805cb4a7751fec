//! H.264 payload structures (RFC 6184 §5): what is read is never more than what is there.
#![no_main]

use auralink_codecs::h264::{Descriptor, Structure};

libfuzzer_sys::fuzz_target!(|payload: &[u8]| {
    let Some(descriptor) = Descriptor::parse(payload) else { return };
    let least = match descriptor.structure {
        Structure::Single => 2,
        Structure::Aggregate => 4,
        Structure::Fragment { .. } => 3,
    };
    assert!(payload.len() >= least);
    assert!(!descriptor.keyframe_start || payload.iter().any(|octet| octet & 0x1f == 7));
});
