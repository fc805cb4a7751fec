//! A planted fault: the run that finds nothing elsewhere must find this.
#![no_main]

use auralink_codecs::vp8::Descriptor;

libfuzzer_sys::fuzz_target!(|payload: &[u8]| {
    let descriptor = Descriptor::parse(payload);
    assert!(!descriptor.is_some_and(|d| d.picture_id.is_some_and(|id| id.long && id.value > 0x7000)), "planted");
});
