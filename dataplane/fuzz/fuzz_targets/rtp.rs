//! The RTP header (RFC 3550 §5.1): what is read lies inside the datagram, and reads back when written.
#![no_main]

use auralink_rtc::rtp::{RtpFields, RtpHeader, padding_len, write_header};

libfuzzer_sys::fuzz_target!(|datagram: &[u8]| {
    let Some(header) = RtpHeader::parse(datagram) else { return };
    assert!(header.len <= datagram.len() && header.extension_len < header.len);
    let padding = padding_len(&datagram[header.len..]);
    assert!(padding.is_none_or(|padding| padding <= datagram.len() - header.len));
    let RtpHeader { marker, padding, pt, seq, timestamp, ssrc, .. } = header;
    let fields = RtpFields { marker, padding, pt, seq, timestamp, ssrc };
    let elements: Vec<_> = header.extensions(datagram).collect();
    let mut out = [0; 2_048];
    if let Some(len) = write_header(&mut out, &fields, &elements) {
        let again = RtpHeader::parse(&out[..len]).expect("what we write parses");
        assert_eq!((again.seq, again.ssrc, again.pt, again.marker), (seq, ssrc, pt, marker));
        assert!(again.extensions(&out[..len]).eq(elements));
    }
});
