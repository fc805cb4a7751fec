//! H.265 payload structures (RFC 7798 §4.4): what is read is never more than what is there.
#![no_main]

use auralink_codecs::h265::{Descriptor, Structure};

libfuzzer_sys::fuzz_target!(|payload: &[u8]| {
    let Some(descriptor) = Descriptor::parse(payload) else { return };
    let least = match descriptor.structure {
        Structure::Single => 3,
        Structure::Aggregate => 6,
        Structure::Fragment { .. } => 4,
    };
    assert!(payload.len() >= least);
});
