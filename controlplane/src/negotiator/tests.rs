//! A model client against the negotiator: fixed cases, and random interleavings that must converge.

mod codecs;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use auralink_proto::{
    Candidate, Codec, DataChannels, DtlsRole, ExtensionUri, Fingerprint, MediaKind, RoomId, ShardId, TrackId,
    TransportId, TransportSpec,
};
use proptest::prelude::*;

use super::codec::{Enabled, Preference};
use super::offer::{OfferError, SECTIONS_MAX};
use super::{Action, Local, Negotiator, Publication, Random, Taken, Wanted};

/// Counts instead of drawing.
pub(super) struct Counted(pub(super) u32);

impl Random for Counted {
    fn bits(&mut self) -> u32 {
        self.0 += 1;
        self.0 * 7 + 1_000
    }

    fn word(&mut self, len: usize) -> String {
        self.0 += 1;
        format!("{:0>len$}", self.0)
    }
}

fn local() -> Local {
    Local {
        transport: TransportId::new(ShardId(0), 77),
        room: RoomId::new(ShardId(0), 5),
        fingerprint: Fingerprint([0xAB; 32]),
        candidates: vec![
            Candidate::udp("10.77.0.1:7882".parse().unwrap()),
            Candidate::tcp("10.77.0.1:7881".parse().unwrap()),
        ],
        codecs: Enabled::default(),
        peer_keys: Default::default(),
        offers_once: false,
    }
}

pub(super) fn track(n: u64) -> TrackId {
    TrackId::new(ShardId(0), n)
}

pub(super) fn wanted(n: u64, kind: MediaKind) -> Wanted {
    let codec = if kind == MediaKind::Audio { Codec::Opus } else { Codec::Vp8 };
    let (sid, publisher_sid) = (format!("TR_{n}"), format!("PA_{n}"));
    Wanted { track: track(n), kind, codec, encrypted: false, sid, publisher_sid }
}

fn publication(n: u64, kind: MediaKind) -> Publication {
    let cids = vec![format!("cid{n}")];
    let preference = Preference::default();
    Publication { track: track(n), kind, cids, muted: false, opus_extra: String::new(), preference }
}

const AUDIO: &str = "a=rtpmap:111 opus/48000/2\r\na=rtcp-fb:111 transport-cc\r\na=rtcp-fb:111 nack\r\n\
    a=fmtp:111 minptime=10;useinbandfec=1;stereo=1\r\na=rtpmap:9 G722/8000\r\n\
    a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\n\
    a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n\
    a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\n";
const VIDEO: &str = "a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 goog-remb\r\na=rtcp-fb:96 transport-cc\r\n\
    a=rtcp-fb:96 ccm fir\r\na=rtcp-fb:96 nack\r\na=rtcp-fb:96 nack pli\r\na=rtpmap:97 rtx/90000\r\n\
    a=fmtp:97 apt=96\r\na=rtpmap:98 VP9/90000\r\n\
    a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n\
    a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\n\
    a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\r\n\
    a=extmap:11 urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id\r\n";

#[derive(Clone, Debug)]
struct Line {
    kind: Option<MediaKind>,
    direction: &'static str,
    msid: Option<String>,
    extra: String,
}

impl Line {
    fn data() -> Self {
        Self { kind: None, direction: "", msid: None, extra: String::new() }
    }

    fn receiving(kind: MediaKind) -> Self {
        Self { kind: Some(kind), direction: "recvonly", msid: None, extra: String::new() }
    }

    fn sending(kind: MediaKind, cid: &str) -> Self {
        Self {
            kind: Some(kind),
            direction: "sendonly",
            msid: Some(format!("stream {cid}")),
            extra: String::new(),
        }
    }
}

fn sdp(lines: &[Line], ufrag: &str) -> String {
    let mids: Vec<String> = (0..lines.len()).map(|i| i.to_string()).collect();
    let mut text = format!(
        "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\na=extmap-allow-mixed\r\n",
        mids.join(" ")
    );
    for (mid, line) in lines.iter().enumerate() {
        let head = match line.kind {
            None => "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
            Some(MediaKind::Audio) => "m=audio 9 UDP/TLS/RTP/SAVPF 111 9",
            Some(MediaKind::Video) => "m=video 9 UDP/TLS/RTP/SAVPF 96 97 98",
        };
        let fingerprint = ["0A"; 32].join(":");
        let _ = write!(
            text,
            "{head}\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\na=ice-ufrag:{ufrag}\r\na=ice-pwd:0123456789abcdefghijkl\r\n\
             a=fingerprint:sha-256 {fingerprint}\r\na=setup:actpass\r\n"
        );
        match line.kind {
            None => text.push_str("a=sctp-port:5000\r\na=max-message-size:262144\r\n"),
            Some(kind) => {
                let _ = write!(text, "a={}\r\na=rtcp-mux\r\na=rtcp-rsize\r\n", line.direction);
                text.push_str(if kind == MediaKind::Audio { AUDIO } else { VIDEO });
                if let Some(msid) = &line.msid {
                    let _ = write!(text, "a=msid:{msid}\r\n");
                }
                text.push_str(&line.extra);
            }
        }
    }
    text
}

/// A negotiator with its shard acknowledging at once.
struct Desk {
    negotiator: Negotiator,
    random: Counted,
    now: Instant,
    version: u32,
}

type Answered = (String, HashMap<String, String>, TransportSpec);

impl Desk {
    fn new() -> Self {
        let mut random = Counted(0);
        let negotiator = Negotiator::new(local(), &mut random);
        Self { negotiator, random, now: Instant::now(), version: 0 }
    }

    fn offer(&mut self, id: u32, lines: &[Line]) -> Answered {
        let mut out = Vec::new();
        let taken = self.negotiator.handle_offer(id, &sdp(lines, "abcd"), &mut self.random, &mut out);
        assert_eq!(taken, Ok(Taken::Accepted));
        self.applied(out)
    }

    /// The shard acknowledges what an offer has led to.
    fn applied(&mut self, mut out: Vec<Action>) -> Answered {
        let spec = out
            .iter()
            .find_map(|action| match action {
                Action::Apply(spec) => Some((**spec).clone()),
                _ => None,
            })
            .unwrap();
        assert!(
            !out.iter().any(|action| matches!(action, Action::Answer { .. })),
            "answered before the shard"
        );
        self.version = spec.version;
        self.negotiator.handle_applied(self.version, &mut out);
        let Some(Action::Answer { sdp, mid_to_track_id, .. }) = out.pop() else { panic!("no answer") };
        // The library's reader and writer agree with ours to the byte.
        let mut written = Vec::new();
        sdp_types::Session::parse(sdp.as_bytes()).unwrap().write(&mut written).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), sdp);
        (sdp, mid_to_track_id, spec)
    }

    /// What it says now and once it has waited long enough.
    fn poll(&mut self) -> Vec<Action> {
        let mut out = Vec::new();
        self.negotiator.poll(self.now, &mut out);
        while let Some(due) = self.negotiator.due() {
            self.now = due;
            self.negotiator.poll(self.now, &mut out);
        }
        out
    }
}

fn placeholders() -> Vec<Line> {
    vec![Line::data(), Line::receiving(MediaKind::Audio), Line::receiving(MediaKind::Video)]
}

#[test]
fn the_first_answer_already_binds_the_rooms_tracks() {
    let mut desk = Desk::new();
    desk.negotiator.want(wanted(1, MediaKind::Audio));
    desk.negotiator.want(wanted(2, MediaKind::Video));
    let (answer, map, spec) = desk.offer(1, &placeholders());
    assert_eq!(map.get("1").map(String::as_str), Some("TR_1"));
    assert_eq!(map.get("2").map(String::as_str), Some("TR_2"));
    assert!(answer.contains("a=msid:PA_2|TR_2 TR_2\r\n"));
    assert_eq!(spec.send.iter().filter_map(|s| s.track).collect::<Vec<_>>(), [track(1), track(2)]);
    assert_eq!(spec.data, DataChannels::Accepted);
    assert_eq!(desk.poll(), []);
}

#[test]
fn the_answer_is_lite_passive_bundled_and_keeps_the_clients_numbers() {
    let mut desk = Desk::new();
    desk.negotiator.publish(publication(9, MediaKind::Video));
    desk.negotiator.want(wanted(2, MediaKind::Video));
    let mut lines = placeholders();
    let mut camera = Line::sending(MediaKind::Video, "cid9");
    camera.extra = "a=rid:q send\r\na=rid:h send\r\na=rid:f send\r\na=simulcast:send q;h;f\r\n".into();
    lines.push(camera);
    let (answer, _, spec) = desk.offer(1, &lines);
    for line in [
        "a=group:BUNDLE 0 1 2 3",
        "a=ice-lite",
        "a=setup:passive",
        "a=candidate:1 1 udp 2130706431 10.77.0.1 7882 typ host",
        "a=candidate:2 1 tcp 1520435199 10.77.0.1 7881 typ host tcptype passive",
        "a=end-of-candidates",
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
        "a=sctp-port:5000",
        "m=video 9 UDP/TLS/RTP/SAVPF 96 97 98",
        "a=rtcp-fb:96 nack pli",
        "a=fmtp:97 apt=96",
        "a=fmtp:111 minptime=10;useinbandfec=1",
        "a=rid:q recv",
        "a=simulcast:recv q;h;f",
        "a=extmap:11 urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id",
    ] {
        assert!(answer.lines().any(|l| l == line), "{line} missing in\n{answer}");
    }
    assert!(!answer.contains("goog-remb") && !answer.contains("G722") && !answer.contains("stereo"));
    assert_eq!(answer.matches("a=candidate").count(), 2);
    let receive = spec.receive.first().unwrap();
    assert_eq!(receive.rids.iter().map(|r| r.as_str()).collect::<Vec<_>>(), ["q", "h", "f"]);
    assert_eq!((receive.track, receive.mid.as_str()), (track(9), "3"));
    let send = spec.send.last().unwrap();
    let group = format!("a=ssrc-group:FID {} {}", send.ssrc, send.rtx_ssrc.unwrap());
    assert!(answer.lines().any(|l| l == group));
    assert!(spec.send.first().unwrap().payloads.iter().all(|p| !p.nack), "audio is not resent");
    let rid = "a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
    assert_eq!(
        answer.lines().filter(|l| *l == rid).count(),
        2,
        "what one section refuses is never offered again"
    );
    assert_eq!(send.extensions.id(ExtensionUri::Rid), None);
}

#[test]
fn no_line_of_an_offer_can_end_early() {
    for place in ["SAVPF 96", "a=mid:1", "a=rtpmap:111", "a=fmtp:111 minptime"] {
        let mut desk = Desk::new();
        let offer = sdp(&placeholders(), "abcd").replacen(place, &format!("{place}\ra=x:1"), 1);
        let taken = desk.negotiator.handle_offer(1, &offer, &mut desk.random, &mut Vec::new());
        assert!(taken.is_err(), "{place}");
    }
}

#[test]
fn rids_are_ordered_by_resolution_whatever_order_they_are_offered_in() {
    let mut desk = Desk::new();
    desk.negotiator.publish(publication(9, MediaKind::Video));
    let mut camera = Line::sending(MediaKind::Video, "cid9");
    camera.extra = "a=rid:h send\r\na=rid:q send\r\na=simulcast:send h;~q\r\n".into();
    let (_, _, spec) = desk.offer(1, &[camera]);
    let rids: Vec<&str> = spec.receive[0].rids.iter().map(|r| r.as_str()).collect();
    assert_eq!(rids, ["q", "h"]);
}

#[test]
fn stale_offers_are_dropped_and_id_zero_never_is() {
    let mut desk = Desk::new();
    desk.offer(4, &placeholders());
    let mut out = Vec::new();
    for id in [1, 4] {
        let taken =
            desk.negotiator.handle_offer(id, &sdp(&placeholders(), "abcd"), &mut desk.random, &mut out);
        assert_eq!(taken, Ok(Taken::Stale));
    }
    assert_eq!(out, []);
    desk.offer(0, &placeholders());
    desk.offer(0, &placeholders());
}

#[test]
fn missing_sections_are_demanded_once_and_outstanding_resets_with_the_next_offer() {
    let mut desk = Desk::new();
    desk.offer(1, &placeholders());
    for n in 1..=3 {
        desk.negotiator.want(wanted(n, MediaKind::Video));
    }
    assert_eq!(desk.poll(), [Action::Demand { audios: 0, videos: 2 }]);
    assert_eq!(desk.poll(), []);
    // An offer made before the demand arrived brings none of them.
    let (_, map, _) = desk.offer(2, &placeholders());
    assert_eq!(map.len(), 1);
    assert_eq!(desk.poll(), [Action::Demand { audios: 0, videos: 2 }]);
}

#[test]
fn a_free_section_is_used_after_an_empty_demand() {
    let mut desk = Desk::new();
    desk.offer(1, &placeholders());
    desk.negotiator.want(wanted(1, MediaKind::Audio));
    assert_eq!(desk.poll(), [Action::Demand { audios: 0, videos: 0 }]);
    let (_, map, _) = desk.offer(2, &placeholders());
    assert_eq!(map.get("1").map(String::as_str), Some("TR_1"));
}

#[test]
fn a_departed_tracks_section_is_answered_inactive_before_it_is_reused() {
    let mut desk = Desk::new();
    desk.negotiator.want(wanted(1, MediaKind::Audio));
    let (_, _, before) = desk.offer(1, &placeholders());
    desk.negotiator.unwant(track(1));
    let actions = desk.poll();
    assert!(matches!(&actions[0], Action::Apply(spec) if spec.send.iter().all(|s| s.track.is_none())));
    assert_eq!(actions[1], Action::Demand { audios: 0, videos: 0 });
    desk.negotiator.want(wanted(2, MediaKind::Audio));
    assert_eq!(desk.poll(), [Action::Demand { audios: 1, videos: 0 }]);
    let mut lines = placeholders();
    lines.push(Line::receiving(MediaKind::Audio));
    let (_, map, after) = desk.offer(2, &lines);
    assert_eq!(map, HashMap::from([("3".to_owned(), "TR_2".to_owned())]));
    assert_eq!(before.send[0].ssrc, after.send[0].ssrc, "a section keeps its SSRC");
}

#[test]
fn a_section_the_client_takes_back_loses_its_track_first() {
    let mut desk = Desk::new();
    desk.negotiator.want(wanted(1, MediaKind::Audio));
    desk.offer(1, &placeholders());
    desk.negotiator.publish(publication(9, MediaKind::Audio));
    let mut lines = placeholders();
    lines[1] = Line::sending(MediaKind::Audio, "cid9");
    let (_, map, spec) = desk.offer(2, &lines);
    assert_eq!(map.len(), 0);
    assert_eq!(spec.receive[0].mid.as_str(), "1");
    assert_eq!(desk.poll(), [Action::Demand { audios: 1, videos: 0 }]);
}

#[test]
fn a_section_turned_inactive_ends_its_publication() {
    let mut desk = Desk::new();
    desk.negotiator.publish(publication(9, MediaKind::Audio));
    let mut lines = vec![Line::sending(MediaKind::Audio, "cid9")];
    desk.offer(1, &lines);
    lines[0].direction = "inactive";
    let mut out = Vec::new();
    desk.negotiator.handle_offer(2, &sdp(&lines, "abcd"), &mut desk.random, &mut out).unwrap();
    assert!(out.contains(&Action::Unbound { track: track(9) }));
}

#[test]
fn a_renamed_track_is_recognised_by_kind() {
    let mut desk = Desk::new();
    desk.negotiator.publish(publication(9, MediaKind::Audio));
    let (_, _, spec) = desk.offer(1, &[Line::sending(MediaKind::Audio, "something-else")]);
    assert_eq!(spec.receive[0].track, track(9));
}

#[test]
fn an_unannounced_track_is_answered_inactive() {
    let mut desk = Desk::new();
    let (answer, _, spec) = desk.offer(1, &[Line::sending(MediaKind::Audio, "cid9")]);
    assert!(answer.contains("a=inactive") && spec.receive.is_empty() && spec.send.is_empty());
}

#[test]
fn an_ice_restart_gets_a_new_password() {
    let mut desk = Desk::new();
    let (_, _, before) = desk.offer(1, &placeholders());
    let mut out = Vec::new();
    desk.negotiator.handle_offer(2, &sdp(&placeholders(), "efgh"), &mut desk.random, &mut out).unwrap();
    let Some(Action::Apply(after)) = out.first() else { panic!() };
    assert_ne!(before.local_ice.pwd, after.local_ice.pwd);
    assert_eq!(after.remote_ice.ufrag, "efgh");
}

#[test]
fn a_section_without_a_common_codec_is_rejected_in_place() {
    let text = sdp(&placeholders(), "abcd").replace("VP8/90000", "H263/90000").replace("VP9", "VP10");
    let mut desk = Desk::new();
    desk.negotiator.want(wanted(2, MediaKind::Video));
    let mut out = Vec::new();
    desk.negotiator.handle_offer(1, &text, &mut desk.random, &mut out).unwrap();
    desk.negotiator.handle_applied(1, &mut out);
    let Some(Action::Answer { sdp, .. }) = out.pop() else { panic!() };
    assert!(sdp.contains("m=video 0 UDP/TLS/RTP/SAVPF 96 97 98\r\n"));
    assert!(sdp.contains("a=group:BUNDLE 0 1\r\n"));
    assert_eq!(sdp.matches("m=").count(), 3);
    assert_eq!(desk.poll(), [], "no sections are demanded of a client that cannot decode");
}

#[test]
fn hostile_offers_are_refused_by_name_and_change_nothing() {
    let good = sdp(&placeholders(), "abcd");
    let long = format!("{good}{}", "a=x:".to_owned() + &"y".repeat(1 << 20) + "\r\n");
    let lines = format!("{good}{}", "a=x\r\n".repeat(10_000));
    let many = "m=audio 9 RTP/AVP 0\r\n".repeat(SECTIONS_MAX + 1);
    let many = format!("v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n{many}");
    let sha1 = good.replace("sha-256", "sha-1");
    let cases = [
        (long, "bytes"),
        (lines, "lines"),
        (many, "257 media sections"),
        (String::new(), "SDP"),
        ("v=0\r\n".into(), "offer"),
        (good.replace("a=mid:1", "a=mid:0"), "a=mid 0 occurs twice"),
        (good.replace("a=mid:1\r\n", ""), "media section 1 has no a=mid"),
        (good.replace("a=ice-pwd:0123456789abcdefghijkl", "a=ice-pwd:short"), "ice-pwd"),
        (sha1, "a=fingerprint"),
        (good.replace("actpass", "holdconn"), "a=setup:holdconn"),
    ];
    let mut desk = Desk::new();
    for (text, names) in cases {
        let mut out = Vec::new();
        let error = desk.negotiator.handle_offer(1, &text, &mut desk.random, &mut out).unwrap_err();
        assert!(error.to_string().contains(names), "{error} does not name {names}");
        assert_eq!(out, []);
    }
    desk.offer(1, &placeholders());
    let fewer =
        desk.negotiator.handle_offer(2, &sdp(&[Line::data()], "abcd"), &mut desk.random, &mut Vec::new());
    assert_eq!(fewer, Err(OfferError::SectionChanged(1)));
}

#[test]
fn a_client_that_offers_once_gets_later_tracks_where_it_is_free() {
    let mut desk = Desk::new();
    desk.negotiator.local.offers_once = true;
    desk.negotiator.want(wanted(1, MediaKind::Video));
    let lines = [Line::receiving(MediaKind::Video), Line::receiving(MediaKind::Video)];
    let (answer, map, _) = desk.offer(1, &lines);
    assert_eq!((answer.matches("a=sendonly").count(), map.len()), (2, 1));
    assert!(answer.contains("a=msid:later later-1\r\n"));
    let mut passed = |act: &mut dyn FnMut(&mut Negotiator)| {
        act(&mut desk.negotiator);
        let actions = desk.poll();
        assert!(
            !actions.iter().any(|action| matches!(action, Action::Demand { .. })),
            "nothing is asked of it"
        );
        let specs = actions.into_iter().filter_map(|action| match action {
            Action::Apply(spec) => Some(spec.send.iter().map(|send| send.track).collect::<Vec<_>>()),
            _ => None,
        });
        specs.collect::<Vec<_>>().pop()
    };
    assert_eq!(
        passed(&mut |n| assert!(n.want(wanted(2, MediaKind::Video)))),
        Some(vec![Some(track(1)), Some(track(2))])
    );
    let without_section = passed(&mut |n| assert!(n.want(wanted(3, MediaKind::Video))));
    assert_eq!(without_section, None, "there is no section for it");
    let next = Some(vec![Some(track(3)), Some(track(2))]);
    assert_eq!(passed(&mut |n| n.unwant(track(1))), next, "until one is free");
    assert_eq!(passed(&mut |n| n.unwant(track(2))), Some(vec![Some(track(3)), None]));
}

#[test]
fn a_passive_client_is_called_and_roles_stay() {
    let good = sdp(&placeholders(), "abcd");
    let offer = |desk: &mut Desk, id, setup: &str| {
        let mut out = Vec::new();
        let text = good.replace("actpass", setup);
        desk.negotiator.handle_offer(id, &text, &mut desk.random, &mut out)?;
        desk.negotiator.handle_applied(id, &mut out);
        let Some(Action::Answer { sdp, .. }) = out.pop() else { panic!("no answer") };
        let Some(Action::Apply(spec)) = out.into_iter().next() else { panic!("no specification") };
        let setup = sdp.lines().find_map(|line| line.strip_prefix("a=setup:")).unwrap().to_owned();
        Ok((setup, spec.dtls_role))
    };
    let mut desk = Desk::new();
    assert_eq!(offer(&mut desk, 1, "passive"), Ok(("active".into(), DtlsRole::Client)));
    assert_eq!(offer(&mut desk, 2, "actpass"), Ok(("active".into(), DtlsRole::Client)));
    assert_eq!(offer(&mut desk, 3, "active"), Err(OfferError::SetupChanged("active")));
    let mut desk = Desk::new();
    assert_eq!(offer(&mut desk, 1, "active"), Ok(("passive".into(), DtlsRole::Server)));
    assert_eq!(offer(&mut desk, 2, "passive"), Err(OfferError::SetupChanged("passive")));
    assert_eq!(offer(&mut desk, 3, "actpass"), Ok(("passive".into(), DtlsRole::Server)));
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(mut text in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..2_000) {
        let good = sdp(&placeholders(), "abcd");
        let mut bytes = good.as_bytes()[..cut.min(good.len())].to_vec();
        bytes.append(&mut text);
        let _ = super::offer::Offer::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn random_interleavings_converge(steps in prop::collection::vec((0_u8..9, 0_u8..5), 1..80)) {
        let mut world = World::new();
        for (step, n) in steps {
            world.step(step, u64::from(n));
        }
        world.settle();
        world.check();
    }
}

/// A client, a shard and the wires between, each able to be late.
struct World {
    negotiator: Negotiator,
    random: Counted,
    now: Instant,
    lines: Vec<Line>,
    ufrag: u32,
    offers: u32,
    /// An offer is under way and unanswered.
    waiting: bool,
    renegotiate: bool,
    /// Versions sent to the shard, oldest first.
    applying: VecDeque<TransportSpec>,
    applied: Option<TransportSpec>,
    to_client: VecDeque<Action>,
    wanted: BTreeMap<u64, MediaKind>,
    published: BTreeMap<u64, usize>,
    tracks: u64,
    mapping: HashMap<String, String>,
    /// Section → SSRC, for the life of the transport.
    ssrcs: HashMap<String, u32>,
}

fn kind_of(n: u64) -> MediaKind {
    if n.is_multiple_of(2) { MediaKind::Audio } else { MediaKind::Video }
}

impl World {
    fn new() -> Self {
        let mut random = Counted(0);
        let negotiator = Negotiator::new(local(), &mut random);
        Self {
            negotiator,
            random,
            now: Instant::now(),
            lines: placeholders(),
            ufrag: 1_000,
            offers: 0,
            waiting: false,
            renegotiate: true,
            applying: VecDeque::new(),
            applied: None,
            to_client: VecDeque::new(),
            wanted: BTreeMap::new(),
            published: BTreeMap::new(),
            tracks: 100,
            mapping: HashMap::new(),
            ssrcs: HashMap::new(),
        }
    }

    fn step(&mut self, step: u8, n: u64) {
        let mut out = Vec::new();
        match step {
            0 => {
                self.wanted.insert(n, kind_of(n));
                self.negotiator.want(wanted(n, kind_of(n)));
            }
            1 => {
                self.wanted.remove(&n);
                self.negotiator.unwant(track(n));
            }
            2 if !self.published.contains_key(&n) => {
                self.tracks += 1;
                self.negotiator.publish(publication(self.tracks, kind_of(n)));
                self.lines.push(Line::sending(kind_of(n), &format!("cid{}", self.tracks)));
                self.published.insert(n, self.lines.len() - 1);
                self.renegotiate = true;
            }
            3 => {
                if let Some(line) = self.published.remove(&n) {
                    self.lines[line].direction = "inactive";
                    self.renegotiate = true;
                }
            }
            4 => self.offer(),
            5 => self.acknowledge(),
            6 => self.deliver(),
            7 => {
                self.ufrag += 1;
                self.renegotiate = true;
            }
            _ => {
                // The client takes a receiving section back for its own use, once.
                let free = self.lines.iter().position(|l| l.direction == "recvonly");
                if let (Some(line), false) = (free, self.published.contains_key(&(50 + n))) {
                    self.tracks += 1;
                    self.negotiator.publish(publication(self.tracks, self.lines[line].kind.unwrap()));
                    self.lines[line] =
                        Line::sending(self.lines[line].kind.unwrap(), &format!("cid{}", self.tracks));
                    self.published.insert(50 + n, line);
                    self.renegotiate = true;
                }
            }
        }
        self.negotiator.poll(self.now, &mut out);
        self.take(out);
    }

    fn offer(&mut self) {
        if self.waiting || !self.renegotiate {
            return;
        }
        (self.waiting, self.renegotiate) = (true, false);
        self.offers += 1;
        let text = sdp(&self.lines, &self.ufrag.to_string());
        let mut out = Vec::new();
        let taken = self.negotiator.handle_offer(self.offers, &text, &mut self.random, &mut out);
        assert_eq!(taken, Ok(Taken::Accepted));
        self.take(out);
    }

    fn acknowledge(&mut self) {
        if let Some(spec) = self.applying.pop_front() {
            let mut out = Vec::new();
            self.negotiator.handle_applied(spec.version, &mut out);
            self.applied = Some(spec);
            self.take(out);
        }
    }

    fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Apply(spec) => {
                    for section in &spec.send {
                        let mid = section.mid.as_str().to_owned();
                        let first = *self.ssrcs.entry(mid).or_insert(section.ssrc);
                        assert_eq!(first, section.ssrc, "a section changed its SSRC");
                    }
                    let distinct: HashSet<_> = self.ssrcs.values().collect();
                    assert_eq!(distinct.len(), self.ssrcs.len(), "an SSRC was used twice");
                    self.applying.push_back(*spec);
                }
                Action::Answer { ref mid_to_track_id, .. } => {
                    // Whatever an answer promises, the shard has in force.
                    let applied = self.applied_or_front();
                    for (mid, sid) in mid_to_track_id {
                        let section = applied.send.iter().find(|s| s.mid.as_str() == mid).unwrap();
                        let told = section.track.map(|t| format!("TR_{}", t.as_u64()));
                        assert_eq!(told.as_ref(), Some(sid), "answered before acknowledged");
                    }
                    self.to_client.push_back(action);
                }
                Action::Demand { .. } => self.to_client.push_back(action),
                _ => {}
            }
        }
    }

    /// The specification acknowledged last; while an acknowledgement is handled, that one.
    fn applied_or_front(&self) -> TransportSpec {
        self.applied.clone().unwrap()
    }

    fn deliver(&mut self) {
        match self.to_client.pop_front() {
            Some(Action::Answer { id, mid_to_track_id, .. }) => {
                assert_eq!(id, self.offers);
                self.waiting = false;
                self.mapping = mid_to_track_id;
            }
            Some(Action::Demand { audios, videos }) => {
                for _ in 0..audios {
                    self.lines.push(Line::receiving(MediaKind::Audio));
                }
                for _ in 0..videos {
                    self.lines.push(Line::receiving(MediaKind::Video));
                }
                self.renegotiate = true;
            }
            _ => {}
        }
    }

    fn settle(&mut self) {
        for _ in 0..400 {
            self.offer();
            self.acknowledge();
            self.deliver();
            let mut out = Vec::new();
            self.negotiator.poll(self.now, &mut out);
            let quiet = out.is_empty()
                && self.negotiator.due().is_none()
                && self.applying.is_empty()
                && self.to_client.is_empty()
                && !self.waiting
                && !self.renegotiate;
            self.take(out);
            if quiet {
                return;
            }
            self.now += Duration::from_millis(10);
        }
        panic!("no rest after 400 rounds");
    }

    fn check(&self) {
        let mut told: Vec<&String> = self.mapping.values().collect();
        told.sort();
        let mut wished: Vec<String> = self.wanted.keys().map(|n| format!("TR_{n}")).collect();
        wished.sort();
        assert_eq!(told, wished.iter().collect::<Vec<_>>(), "each wanted track on exactly one section");
        let applied = self.applied.as_ref().unwrap();
        for section in &applied.send {
            let told = self.mapping.get(section.mid.as_str());
            let sent = section.track.map(|t| format!("TR_{}", t.as_u64()));
            assert_eq!(told, sent.as_ref(), "shard and client agree on section {:?}", section.mid);
        }
        assert_eq!(applied.receive.len(), self.published.len(), "each published track arrives");
    }
}
