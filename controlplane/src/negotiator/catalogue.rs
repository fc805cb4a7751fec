//! What a server that offers says of its codecs: the payload types it proposes, each in the words of `a=rtpmap` and `a=fmtp`.

use auralink_proto::{MediaKind, PayloadMap};

use super::codec::{self, Enabled};
use super::offer::OfferedPayload;

/// Payload type, what repairs it, name and parameters. The most widely known first, since a client that answers chooses by
/// order.
type Entry = (u8, Option<u8>, &'static str, &'static str);

const AUDIO: [Entry; 4] = [
    (111, None, "opus/48000/2", "minptime=10;useinbandfec=1"),
    (63, None, "red/48000/2", "111/111"),
    (0, None, "PCMU/8000", ""),
    (8, None, "PCMA/8000", ""),
];

const VIDEO: [Entry; 10] = [
    (96, Some(97), "VP8/90000", ""),
    (98, Some(99), "VP9/90000", "profile-id=0"),
    (100, Some(101), "VP9/90000", "profile-id=2"),
    (102, Some(103), "H264/90000", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42001f"),
    (104, Some(105), "H264/90000", "level-asymmetry-allowed=1;packetization-mode=0;profile-level-id=42001f"),
    (106, Some(107), "H264/90000", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"),
    (108, Some(109), "H264/90000", "level-asymmetry-allowed=1;packetization-mode=0;profile-level-id=42e01f"),
    (112, Some(113), "H264/90000", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=64001f"),
    (45, Some(46), "AV1/90000", "level-idx=5;profile=0;tier=0"),
    (49, Some(50), "H265/90000", "level-id=93;profile-id=1;tier-flag=0;tx-mode=SRST"),
];

/// The payload types proposed for one kind of media, of the codecs enabled.
pub fn payloads(kind: MediaKind, enabled: &Enabled) -> Vec<OfferedPayload> {
    let (entries, is_video) = match kind {
        MediaKind::Audio => (&AUDIO[..], false),
        MediaKind::Video => (&VIDEO[..], true),
    };
    let payload = |(pt, rtx_pt, rtpmap, fmtp): &Entry| {
        let codec = codec::read(kind, rtpmap, fmtp)?;
        let map =
            PayloadMap { pt: *pt, codec, rtx_pt: *rtx_pt, nack: is_video, pli: is_video, transport_cc: true };
        let offered = OfferedPayload { map, fir: is_video, fmtp: (*fmtp).to_owned() };
        enabled.admits(codec.encoding()).then_some(offered)
    };
    entries.iter().filter_map(payload).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::negotiator::answer::{Text, payload_lines};
    use auralink_proto::Encoding;
    use std::collections::HashSet;

    #[test]
    fn every_entry_is_a_codec_and_no_number_is_used_twice() {
        let all = Enabled::default();
        let (audio, video) = (payloads(MediaKind::Audio, &all), payloads(MediaKind::Video, &all));
        assert_eq!((audio.len(), video.len()), (AUDIO.len(), VIDEO.len()));
        let numbers: Vec<u8> = audio
            .iter()
            .chain(&video)
            .flat_map(|payload| std::iter::once(payload.map.pt).chain(payload.map.rtx_pt))
            .collect();
        assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), numbers.len());
        // RFC 5761: 64 to 95 would look like RTCP.
        assert!(numbers.iter().all(|pt| *pt < 64 || (96..128).contains(pt)));
        let encodings: HashSet<Encoding> =
            audio.iter().chain(&video).map(|payload| payload.map.codec.encoding()).collect();
        assert_eq!(encodings.len(), Encoding::ALL.len());
    }

    #[test]
    fn what_is_offered_is_read_as_it_was_meant() {
        for kind in [MediaKind::Audio, MediaKind::Video] {
            let offered = payloads(kind, &Enabled::default());
            let mut text = Text(String::new());
            offered.iter().for_each(|payload| payload_lines(payload, kind, false, "", &mut text));
            let pts = offered.iter().flat_map(|p| std::iter::once(p.map.pt).chain(p.map.rtx_pt));
            let formats: String = pts.map(|pt| format!(" {pt}")).collect();
            let (name, body) = (if kind == MediaKind::Audio { "audio" } else { "video" }, text.0);
            let sdp = format!(
                "v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm={name} 9 UDP/TLS/RTP/SAVPF{formats}\r\n{body}"
            );
            let session = sdp_types::Session::parse(sdp.as_bytes()).unwrap();
            assert_eq!(codec::payloads(&session.medias[0], kind), offered);
        }
    }

    #[test]
    fn only_enabled_codecs_are_offered() {
        let enabled = Enabled::new(["video/vp9", "audio/opus"].into_iter());
        let count = |kind| payloads(kind, &enabled).len();
        assert_eq!((count(MediaKind::Audio), count(MediaKind::Video)), (1, 2));
    }
}
