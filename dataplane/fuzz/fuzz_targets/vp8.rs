//! The VP8 payload descriptor (RFC 7741 §4.2): patching changes identifiers and nothing else.
#![no_main]

use auralink_codecs::vp8::Descriptor;

libfuzzer_sys::fuzz_target!(|input: (u16, u8, Vec<u8>)| {
    let (id, tl0, mut payload) = input;
    let Some(descriptor) = Descriptor::parse(&payload) else { return };
    let before = payload.clone();
    let id = descriptor.picture_id.map(|own| own.with(id));
    let tl0 = descriptor.tl0_picture_index.map(|_| tl0);
    assert!(descriptor.picture().patch(&mut payload, id, tl0));
    let again = Descriptor::parse(&payload).expect("a patched descriptor parses");
    assert_eq!(again, Descriptor { picture_id: id, tl0_picture_index: tl0, ..descriptor });
    assert_eq!(before[usize::from(descriptor.len)..], payload[usize::from(descriptor.len)..]);
});
