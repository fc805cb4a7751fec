//! SDP fragments (RFC 8840) as a WHIP client may send them, and the offers they make of the one that is there.
#![no_main]

use auralink_controlplane::negotiator::offer::Offer;
use auralink_controlplane::whip::fragment::Fragment;

const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=sendonly\r\na=rtcp-mux\r\n\
    a=ice-ufrag:abcd\r\na=ice-pwd:0123456789abcdefghijkl\r\na=setup:actpass\r\n\
    a=fingerprint:sha-256 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F\r\n\
    a=rtpmap:111 opus/48000/2\r\n";

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(fragment) = Fragment::parse(text) else { return };
    if let Some(offer) = fragment.restarts(OFFER) {
        let ice = Offer::parse(&offer).expect("only the credentials differ").ice;
        assert_eq!(Some((ice.ufrag, ice.pwd)), fragment.credentials);
    }
});
