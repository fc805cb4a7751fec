//! The AV1 aggregation header, and the dependency descriptor with its frame number changed.
#![no_main]

use auralink_codecs::av1::Descriptor;
use auralink_codecs::dependency::DependencyDescriptor;

libfuzzer_sys::fuzz_target!(|input: (u16, Vec<u8>, &[u8])| {
    let (frame_number, mut value, payload) = input;
    if let Some(descriptor) = Descriptor::parse(payload) {
        assert!(payload.len() > 1 && !(descriptor.continues && descriptor.keyframe_start));
    }
    let Some(before) = DependencyDescriptor::parse(&value) else { return };
    let rest = value[3..].to_vec();
    assert!(DependencyDescriptor::renumber(&mut value, frame_number));
    assert_eq!(DependencyDescriptor::parse(&value), Some(DependencyDescriptor { frame_number, ..before }));
    assert_eq!(value[3..], rest);
});
