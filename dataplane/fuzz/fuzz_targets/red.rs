//! Redundant audio (RFC 2198): the present frame is there, and renumbering changes payload types and nothing else.
#![no_main]

use auralink_codecs::red::Redundancy;

libfuzzer_sys::fuzz_target!(|input: (u8, Vec<u8>)| {
    let (pt, mut payload) = input;
    let pt = pt & 0x7f;
    let Some(redundancy) = Redundancy::parse(&payload) else { return };
    let frame = redundancy.primary(&payload).expect("a present frame").to_vec();
    assert!(!frame.is_empty());
    assert!(redundancy.renumber(&mut payload, pt));
    assert_eq!(Redundancy::parse(&payload), Some(Redundancy { pt, ..redundancy }));
    assert_eq!(redundancy.primary(&payload), Some(&frame[..]));
});
