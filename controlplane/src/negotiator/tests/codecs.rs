//! Codecs from offer to answer and specification, with the numbers Chromium offers.

use std::fmt::Write as _;

use auralink_proto::{Codec, Encoding, ExtensionUri, H264Profile, MediaKind, PayloadMap};

use super::{Desk, Line, placeholders, publication, track, wanted};
use crate::negotiator::codec::{Enabled, Preference};
use crate::negotiator::{Action, Negotiator};

/// Payload types of an `m=` line and its attributes.
struct Media {
    formats: String,
    lines: String,
}

impl Media {
    fn new() -> Self {
        Self { formats: String::new(), lines: String::new() }
    }

    fn with(mut self, pt: u8, rtpmap: &str, fmtp: &str) -> Self {
        let _ = write!(self.formats, " {pt}");
        let _ = write!(self.lines, "a=rtpmap:{pt} {rtpmap}\r\n");
        if !fmtp.is_empty() {
            let _ = write!(self.lines, "a=fmtp:{pt} {fmtp}\r\n");
        }
        self
    }

    /// A codec with what repairs it.
    fn video(self, pt: u8, rtpmap: &str, fmtp: &str) -> Self {
        let repair = pt + 1;
        let mut with = self.with(pt, rtpmap, fmtp).with(repair, "rtx/90000", &format!("apt={pt}"));
        for feedback in ["goog-remb", "transport-cc", "ccm fir", "nack", "nack pli"] {
            let _ = write!(with.lines, "a=rtcp-fb:{pt} {feedback}\r\n");
        }
        with
    }
}

fn audio() -> Media {
    Media::new()
        .with(111, "opus/48000/2", "minptime=10;useinbandfec=1")
        .with(63, "red/48000/2", "111/111")
        .with(9, "G722/8000", "")
        .with(0, "PCMU/8000", "")
        .with(8, "PCMA/8000", "")
        .with(13, "CN/8000", "")
        .with(110, "telephone-event/48000", "")
}

fn video() -> Media {
    let h264 =
        |mode, id| format!("level-asymmetry-allowed=1;packetization-mode={mode};profile-level-id={id}");
    Media::new()
        .video(96, "VP8/90000", "")
        .video(98, "VP9/90000", "profile-id=0")
        .video(100, "VP9/90000", "profile-id=2")
        .video(103, "H264/90000", &h264(1, "42001f"))
        .video(107, "H264/90000", &h264(0, "42e01f"))
        .video(109, "H264/90000", &h264(1, "42e01f"))
        .video(45, "AV1/90000", "level-idx=5;profile=0;tier=0")
        .video(49, "H265/90000", "level-id=93;profile-id=1;tier-flag=0;tx-mode=SRST")
        .with(123, "red/90000", "")
        .with(125, "ulpfec/90000", "")
}

fn replace(mut text: String, media: &Media, name: &str) -> String {
    let head = format!("m={name} 9 UDP/TLS/RTP/SAVPF");
    let starts: Vec<usize> = text.match_indices(&head).map(|(at, _)| at).collect();
    for start in starts.into_iter().rev() {
        let end = text[start + 1..].find("\r\nm=").map_or(text.len(), |at| start + at + 3);
        let section: String =
            text[start..end]
                .split_inclusive("\r\n")
                .filter(|line| !["a=rtpmap", "a=fmtp", "a=rtcp-fb"].iter().any(|name| line.starts_with(name)))
                .map(|line| {
                    if line.starts_with("m=") { format!("{head}{}\r\n", media.formats) } else { line.into() }
                })
                .collect();
        text.replace_range(start..end, &format!("{section}{}", media.lines));
    }
    text
}

/// The offer of [`super::sdp`] with these payload types.
fn sdp(lines: &[Line], audio: &Media, video: &Media) -> String {
    replace(replace(super::sdp(lines, "abcd"), audio, "audio"), video, "video")
}

fn take(desk: &mut Desk, id: u32, text: &str) -> super::Answered {
    let mut out = Vec::new();
    desk.negotiator.handle_offer(id, text, &mut desk.random, &mut out).unwrap();
    desk.applied(out)
}

/// Formats of the `n`th section of an answer.
fn formats(answer: &str, n: usize) -> Vec<&str> {
    let head = answer.lines().filter(|line| line.starts_with("m=")).nth(n).unwrap();
    head.split(' ').skip(3).collect()
}

fn pts(payloads: &[PayloadMap]) -> Vec<(u8, Option<u8>)> {
    payloads.iter().map(|map| (map.pt, map.rtx_pt)).collect()
}

#[test]
fn everything_forwarded_is_accepted_under_the_offered_numbers() {
    let mut desk = Desk::new();
    let (answer, _, spec) = take(&mut desk, 1, &sdp(&placeholders(), &audio(), &video()));
    assert_eq!(formats(&answer, 1), ["111", "63", "0", "8"]);
    let expected = "96 97 98 99 100 101 103 104 107 108 109 110 45 46 49 50";
    assert_eq!(formats(&answer, 2).join(" "), expected);
    for line in [
        "a=rtpmap:63 red/48000/2",
        "a=fmtp:63 111/111",
        "a=rtpmap:0 PCMU/8000",
        "a=rtpmap:98 VP9/90000",
        "a=fmtp:100 profile-id=2",
        "a=fmtp:109 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
        "a=fmtp:110 apt=109",
        "a=fmtp:45 level-idx=5;profile=0;tier=0",
        "a=rtpmap:49 H265/90000",
        "a=rtcp-fb:49 nack pli",
        "a=rtcp-fb:45 transport-cc",
    ] {
        assert!(answer.lines().any(|l| l == line), "{line} missing in\n{answer}");
    }
    assert!(!answer.contains("ulpfec") && !answer.contains("a=fmtp:96") && !answer.contains("remb"));
    let codecs: Vec<Codec> = spec.send[1].payloads.iter().map(|map| map.codec).collect();
    let h264 = |profile, mode| Codec::H264 { profile, mode };
    assert_eq!(
        codecs,
        [
            Codec::Vp8,
            Codec::Vp9 { profile: 0 },
            Codec::Vp9 { profile: 2 },
            h264(H264Profile::Baseline, 1),
            h264(H264Profile::ConstrainedBaseline, 0),
            h264(H264Profile::ConstrainedBaseline, 1),
            Codec::Av1 { profile: 0, tier: 0 },
            Codec::H265 { profile: 1, tier: 0 },
        ]
    );
    assert!(spec.send[1].payloads.iter().all(|map| map.rtx_pt == Some(map.pt + 1)));
}

#[test]
fn static_payload_types_need_no_rtpmap() {
    let mut desk = Desk::new();
    let bare = Media { formats: " 0 8 9".into(), lines: String::new() };
    let (answer, _, spec) = take(&mut desk, 1, &sdp(&placeholders(), &bare, &video()));
    assert_eq!(formats(&answer, 1), ["0", "8"]);
    assert!(answer.contains("a=rtpmap:8 PCMA/8000\r\n"));
    assert_eq!(
        spec.send[0].payloads.iter().map(|map| map.codec).collect::<Vec<_>>(),
        [Codec::Pcmu, Codec::Pcma]
    );
}

/// The payload types of a publishing section, in the order of the answer.
fn published(kind: MediaKind, preference: Preference) -> (Vec<(u8, Option<u8>)>, bool) {
    let mut desk = Desk::new();
    desk.negotiator.publish(super::Publication { preference, ..publication(9, kind) });
    let mut lines = placeholders();
    lines.push(Line::sending(kind, "cid9"));
    let (answer, _, spec) = take(&mut desk, 1, &sdp(&lines, &audio(), &video()));
    let told: Vec<String> = pts(&spec.receive[0].payloads)
        .into_iter()
        .flat_map(|(pt, rtx)| std::iter::once(pt).chain(rtx))
        .map(|pt| pt.to_string())
        .collect();
    assert_eq!(formats(&answer, 3), told, "answer and specification agree");
    // What is received is not touched by what is published.
    assert_eq!((spec.send[0].payloads.len(), spec.send[1].payloads.len()), (4, 8));
    assert_eq!(spec.send[1].payloads[0].codec, Codec::Vp8);
    (pts(&spec.receive[0].payloads), spec.receive[0].encrypted)
}

#[test]
fn the_announced_codec_comes_first_where_it_is_published_and_none_is_missing() {
    let of = |codec| published(MediaKind::Video, Preference { codec, ..Preference::default() }).0;
    let offered = of(None);
    assert_eq!((offered[0], offered.len()), ((96, Some(97)), 8));
    let h264 = of(Some(Encoding::H264));
    assert_eq!(h264[..4], [(103, Some(104)), (107, Some(108)), (109, Some(110)), (96, Some(97))]);
    assert_eq!((of(Some(Encoding::Av1))[0], h264.len()), ((45, Some(46)), 8));
    assert_eq!(of(Some(Encoding::H265))[0], (49, Some(50)));
}

#[test]
fn redundant_audio_comes_first_where_it_is_welcome_and_last_or_never_elsewhere() {
    let of = |preference| {
        let (payloads, encrypted) = published(MediaKind::Audio, preference);
        (payloads.into_iter().map(|(pt, _)| pt).collect::<Vec<_>>(), encrypted)
    };
    let none = Preference::default();
    assert_eq!(of(Preference { red: true, ..none }), (vec![63, 111, 0, 8], false));
    assert_eq!(of(none), (vec![111, 0, 8, 63], false));
    assert_eq!(
        of(Preference { red: true, codec: Some(Encoding::Pcma), ..none }),
        (vec![8, 111, 0, 63], false)
    );
    assert_eq!(of(Preference { encrypted: true, ..none }), (vec![111, 0, 8], true));
}

#[test]
fn redundant_audio_of_anything_but_offered_opus_is_not_taken() {
    for inside in ["111/111/111", "0/0", "111/0", "", "111/999", "96/96"] {
        let mut desk = Desk::new();
        let audio = Media::new().with(111, "opus/48000/2", "").with(63, "red/48000/2", inside).with(
            0,
            "PCMU/8000",
            "",
        );
        let (answer, _, _) = take(&mut desk, 1, &sdp(&placeholders(), &audio, &video()));
        let expected: &[&str] = if inside == "111/111/111" { &["111", "63", "0"] } else { &["111", "0"] };
        assert_eq!(formats(&answer, 1), expected, "{inside}");
    }
}

#[test]
fn only_enabled_codecs_are_negotiated() {
    let enabled = Enabled::new(["video/H264", "audio/opus"].into_iter());
    let mut desk = Desk::new();
    let local = crate::negotiator::Local { codecs: enabled, ..super::local() };
    desk.negotiator = Negotiator::new(local, &mut desk.random);
    let (answer, _, _) = take(&mut desk, 1, &sdp(&placeholders(), &audio(), &video()));
    assert_eq!((formats(&answer, 1), formats(&answer, 2).len()), (vec!["111"], 6));
    let only_vp8 = Media::new().video(96, "VP8/90000", "");
    let (answer, _, spec) = take(&mut desk, 2, &sdp(&placeholders(), &audio(), &only_vp8));
    assert!(answer.contains("m=video 0 UDP/TLS/RTP/SAVPF 96 97\r\n"), "{answer}");
    assert_eq!(spec.send.len(), 1);
}

#[test]
fn a_track_goes_only_where_the_client_can_decode_it() {
    let only_vp8 = Media::new().video(96, "VP8/90000", "");
    let mut desk = Desk::new();
    desk.negotiator.want(super::Wanted { codec: Codec::Vp9 { profile: 0 }, ..wanted(1, MediaKind::Video) });
    desk.negotiator.want(wanted(2, MediaKind::Video));
    let text = sdp(&placeholders(), &audio(), &only_vp8);
    let (_, map, _) = take(&mut desk, 1, &text);
    assert_eq!(map.get("2").map(String::as_str), Some("TR_2"));
    assert_eq!(desk.poll(), [Action::Unsupported { track: track(1) }]);
    assert_eq!(desk.poll(), []);
    // Before anything to receive on was offered, nobody knows.
    let mut desk = Desk::new();
    desk.negotiator.want(super::Wanted { codec: Codec::Vp9 { profile: 0 }, ..wanted(1, MediaKind::Video) });
    take(&mut desk, 1, &sdp(&[Line::data()], &audio(), &only_vp8));
    assert_eq!(desk.poll(), [Action::Demand { audios: 0, videos: 1 }]);
}

#[test]
fn redundant_audio_reaches_who_knows_only_opus_unless_it_is_encrypted() {
    let opus = Media::new().with(111, "opus/48000/2", "");
    for (encrypted, told) in [(false, vec![]), (true, vec![Action::Unsupported { track: track(1) }])] {
        let mut desk = Desk::new();
        desk.negotiator.want(super::Wanted { codec: Codec::Red, encrypted, ..wanted(1, MediaKind::Audio) });
        let (_, map, _) = take(&mut desk, 1, &sdp(&placeholders(), &opus, &video()));
        assert_eq!((map.len(), desk.poll()), (usize::from(!encrypted), told));
    }
}

#[test]
fn the_dependency_descriptor_needs_both_forms_of_extensions() {
    let uri = ExtensionUri::DependencyDescriptor.as_str();
    let delay = ExtensionUri::PlayoutDelay.as_str();
    let text = sdp(&placeholders(), &audio(), &video())
        .replace("a=rtpmap:96 ", &format!("a=extmap:15 {uri}\r\na=extmap:16 {delay}\r\na=rtpmap:96 "));
    let (answer, _, spec) = take(&mut Desk::new(), 1, &text);
    assert!(answer.contains(&format!("a=extmap:15 {uri}\r\n")) && !answer.contains(delay));
    assert!(answer[..answer.find("m=").unwrap()].contains("a=extmap-allow-mixed\r\n"));
    assert_eq!(spec.send[1].extensions.id(ExtensionUri::DependencyDescriptor), Some(15));
    let apart = text.replace("a=extmap-allow-mixed\r\n", "");
    let (answer, _, spec) = take(&mut Desk::new(), 1, &apart);
    assert!(!answer.contains(uri) && !answer.contains("mixed"));
    assert_eq!(spec.send[1].extensions.id(ExtensionUri::DependencyDescriptor), None);
}

#[test]
fn an_answer_read_as_an_offer_means_the_same() {
    // What is written of a codec is what is read of it: a server's own offer says it in the same words.
    let mut desk = Desk::new();
    let (answer, _, spec) = take(&mut desk, 1, &sdp(&placeholders(), &audio(), &video()));
    let again =
        crate::negotiator::offer::Offer::parse(&answer.replace("setup:passive", "setup:actpass")).unwrap();
    for (section, sent) in again.sections[1..].iter().zip(&spec.send) {
        let read: Vec<_> = section.payloads.iter().map(|payload| payload.map).collect();
        assert_eq!(read, sent.payloads);
    }
}
