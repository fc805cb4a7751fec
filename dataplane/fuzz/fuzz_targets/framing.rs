//! Datagrams on a stream (RFC 4571): wherever the stream is cut, the frames are those of the uncut one.
#![no_main]

use auralink_rtc::framing::{Deframer, FRAME_BYTES_MAX};

libfuzzer_sys::fuzz_target!(|input: (Vec<u8>, u8)| {
    let (stream, size) = input;
    let taken = |size: usize| {
        let (mut deframer, mut frames) = (Deframer::default(), Vec::new());
        let whole = stream.chunks(size.max(1)).try_for_each(|piece| {
            deframer.push(piece, &mut |frame| {
                assert!((1..=FRAME_BYTES_MAX).contains(&frame.len()));
                frames.push(frame.to_vec());
            })
        });
        (frames, whole)
    };
    assert_eq!(taken(usize::from(size)), taken(stream.len()));
});
