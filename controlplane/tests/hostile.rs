//! Bad tokens and hostile signalling, each beside a call that must not notice.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may fail as tests do")]

#[path = "common/desk.rs"]
mod desk;

use std::io::Write as _;
use std::sync::atomic::Ordering;

use auralink_controlplane::auth::{Claims, VideoGrant};
use auralink_controlplane::rooms::actor::unix_ms;
use auralink_livekit::prost::Message as _;
use auralink_livekit::{
    AddTrackRequest, DisconnectReason, JoinRequest, MuteTrackRequest, Ping, SessionDescription,
    SignalRequest, TrackSource, UpdateParticipantMetadata, UpdateSubscription, UpdateTrackSettings,
    WrappedJoinRequest, request_response::Reason, signal_request::Message as Ask,
    signal_response::Message as Told,
};
use base64::Engine as _;
use desk::{Client, Desk, offer_receiving, offer_sending};

/// A call that goes on whatever happens beside it.
struct Bystander {
    client: Client,
}

impl Bystander {
    async fn join(desk: &Desk) -> Self {
        let mut client = desk.join("room", "bystander", Some(offer_receiving(1))).await;
        client.answer().await;
        desk.connect_all().await;
        Self { client }
    }

    /// Its signalling answers, its negotiation works, its transport is as it was.
    async fn goes_on_unharmed(mut self, desk: &Desk) {
        self.client.ask(Ask::PingReq(Ping { timestamp: 77, rtt: 0 })).await;
        self.client.until(|told| matches!(told, Told::PongResp(p) if p.last_ping_timestamp == 77)).await;
        self.client.ask(Ask::Offer(offer_receiving(2))).await;
        assert_eq!(self.client.answer().await.id, 2);
        assert_eq!(desk.specs().await.len(), 1, "the bystander's transport alone is left");
    }
}

fn claims(desk_room: &str) -> Claims {
    Claims {
        iss: "devkey".into(),
        sub: "mallory".into(),
        exp: Some(unix_ms() as f64 / 1_000.0 + 60.0),
        video: Desk::grant(desk_room),
        ..Claims::default()
    }
}

fn sign(claims: &Claims, secret: &str) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
}

#[tokio::test]
async fn bad_tokens_are_refused_before_the_upgrade() {
    let desk = Desk::start().await;
    let bystander = Bystander::join(&desk).await;
    let good = claims("room");
    let now_s = unix_ms() as f64 / 1_000.0;
    let expired = Claims { exp: Some(now_s - 120.0), ..good.clone() };
    let endless = Claims { exp: None, ..good.clone() };
    let future = Claims { nbf: Some(now_s + 600.0), exp: Some(now_s + 900.0), ..good.clone() };
    let stranger = Claims { iss: "nobody".into(), ..good.clone() };
    let grantless =
        Claims { video: VideoGrant { room: "room".into(), ..VideoGrant::default() }, ..good.clone() };
    let nobody = Claims { sub: String::new(), ..good.clone() };
    let nowhere = Claims { video: Desk::grant(""), ..good.clone() };
    let long = Claims { sub: "x".repeat(257), ..good.clone() };
    let cases = [
        ("garbage".to_owned(), 401, "invalid authorization token"),
        (String::new(), 401, "invalid authorization token"),
        (sign(&good, "not the secret"), 401, "invalid authorization token"),
        (sign(&expired, "secret"), 401, "expired"),
        (sign(&endless, "secret"), 401, "exp"),
        (sign(&future, "secret"), 401, "not valid yet"),
        (sign(&stranger, "secret"), 401, "invalid API key"),
        (sign(&grantless, "secret"), 401, "permissions denied"),
        (sign(&nobody, "secret"), 400, "identity cannot be empty"),
        (sign(&nowhere, "secret"), 400, "no room name"),
        (sign(&long, "secret"), 400, "identity is longer than 256 bytes"),
    ];
    for (token, status, text) in cases {
        let refused = desk.open(&desk.url(&token, &Desk::join_request(None))).await.err().unwrap();
        assert_eq!(refused.0, status, "{refused:?}");
        assert!(refused.1.contains(text), "{refused:?} should say {text}");
    }
    bystander.goes_on_unharmed(&desk).await;
}

#[tokio::test]
async fn bad_join_requests_are_refused_before_the_upgrade() {
    let desk = Desk::start().await;
    let bystander = Bystander::join(&desk).await;
    let token = desk.token("mallory", Desk::grant("room"));
    let encode = |bytes: &[u8]| base64::prelude::BASE64_URL_SAFE.encode(bytes);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&vec![0; 32 << 20]).unwrap();
    let bomb = WrappedJoinRequest { compression: 1, join_request: gzip.finish().unwrap() };
    let cases = [
        (String::new(), "join_request is required"),
        ("%21%21".to_owned(), "cannot base64 decode wrapped join request"),
        (encode(&[0xff; 8]), "cannot unmarshal"),
        (encode(&bomb.encode_to_vec()), "join request too large"),
    ];
    for (text, says) in cases {
        let url = format!("ws://{}/rtc/v1?access_token={token}&join_request={text}", desk.address);
        let refused = desk.open(&url).await.err().unwrap();
        assert_eq!(refused.0, 400, "{refused:?}");
        assert!(refused.1.contains(says), "{refused:?} should say {says}");
    }
    let metadata = JoinRequest { metadata: "mine".into(), ..JoinRequest::default() };
    let refused = desk.open(&desk.url(&token, &metadata)).await.err().unwrap();
    assert_eq!(refused.0, 401, "{refused:?}");
    bystander.goes_on_unharmed(&desk).await;
}

#[tokio::test]
async fn a_room_nobody_may_create_does_not_exist() {
    let desk = Desk::start_with(|config| config.room.auto_create = false).await;
    let url = desk.url(&desk.token("alice", Desk::grant("room")), &Desk::join_request(None));
    let refused = desk.open(&url).await.err().unwrap();
    assert_eq!(refused, (404, "requested room does not exist".to_owned()));
    let creator = VideoGrant { room_create: true, ..Desk::grant("room") };
    desk.join_with("bob", creator, Desk::join_request(None)).await;
    desk.join("room", "alice", None).await;
}

#[tokio::test]
async fn frames_that_make_no_sense_end_only_their_own_connection() {
    let desk = Desk::start().await;
    let bystander = Bystander::join(&desk).await;
    let mut mallory = desk.join("room", "mallory", None).await;
    for length in 1..=11_u8 {
        mallory.send_bytes(vec![0xff; length.into()]).await;
    }
    mallory.closed().await;
    assert_eq!(desk.telemetry.counters.signal_malformed.load(Ordering::Relaxed), 11);
    bystander.goes_on_unharmed(&desk).await;
}

#[tokio::test]
async fn every_truncation_of_a_request_is_survived() {
    let desk = Desk::start_with(|config| config.limit.signal_rate_max = 1_000).await;
    let bystander = Bystander::join(&desk).await;
    let request =
        AddTrackRequest { cid: "c".into(), name: "n".into(), r#type: 1, ..AddTrackRequest::default() };
    let whole = SignalRequest { message: Some(Ask::AddTrack(request)) }.encode_to_vec();
    for cut in 0..whole.len() {
        let mut mallory = desk.join("room", "mallory", None).await;
        mallory.send_bytes(whole[..cut].to_vec()).await;
        mallory.ask(Ask::PingReq(Ping { timestamp: 1, rtt: 0 })).await;
        mallory.until(|told| matches!(told, Told::PongResp(_))).await;
        mallory.ask(Ask::Leave(Default::default())).await;
        mallory.closed().await;
    }
    bystander.goes_on_unharmed(&desk).await;
}

#[tokio::test]
async fn a_message_past_the_limit_ends_its_connection() {
    let desk = Desk::start().await;
    let bystander = Bystander::join(&desk).await;
    let mut mallory = desk.join("room", "mallory", None).await;
    mallory.send_bytes(vec![0; (2 << 20) + 1]).await;
    mallory.closed().await;
    bystander.goes_on_unharmed(&desk).await;
}

#[tokio::test]
async fn messages_at_the_wrong_moment_are_ignored() {
    let desk = Desk::start().await;
    let bystander = Bystander::join(&desk).await;
    let mut mallory = desk.join("room", "mallory", None).await;
    let sid = "TR_nothing".to_owned();
    let answer = SessionDescription { r#type: "answer".into(), sdp: "v=0".into(), ..Default::default() };
    let strange = [
        Ask::Answer(answer),
        Ask::Trickle(Default::default()),
        Ask::Mute(MuteTrackRequest { sid: sid.clone(), muted: true }),
        Ask::Subscription(UpdateSubscription {
            track_sids: vec![sid.clone(); 5_000],
            subscribe: true,
            ..Default::default()
        }),
        Ask::TrackSetting(UpdateTrackSettings { track_sids: vec![sid; 5_000], ..Default::default() }),
        Ask::SyncState(Default::default()),
        Ask::Simulate(Default::default()),
    ];
    for message in strange {
        mallory.ask(message).await;
    }
    mallory.send_bytes(SignalRequest { message: None }.encode_to_vec()).await;
    mallory.ask(Ask::Offer(offer_receiving(5))).await;
    assert_eq!(mallory.answer().await.id, 5);
    mallory.ask(Ask::Offer(offer_receiving(4))).await;
    mallory.ask(Ask::Offer(offer_receiving(6))).await;
    assert_eq!(mallory.answer().await.id, 6, "the stale offer got no answer");
    mallory.ask(Ask::Leave(Default::default())).await;
    mallory.closed().await;
    bystander.goes_on_unharmed(&desk).await;
}

/// The reason of the leave that ends a connection.
async fn dismissed(client: &mut Client) -> i32 {
    let Told::Leave(leave) = client.until(|told| matches!(told, Told::Leave(_))).await else {
        unreachable!()
    };
    client.closed().await;
    leave.reason
}

fn monsters() -> [SessionDescription; 3] {
    let good = offer_receiving(1);
    let with = |sdp: String| SessionDescription { sdp, ..good.clone() };
    [
        with(format!("{}a=x:{}\r\n", good.sdp, "y".repeat(1 << 20))),
        with(format!("{}{}", good.sdp, "a=x\r\n".repeat(10_000))),
        with(format!("{}{}", good.sdp, "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n".repeat(300))),
    ]
}

#[tokio::test]
async fn monstrous_offers_end_their_own_session() {
    let desk = Desk::start().await;
    let bystander = Bystander::join(&desk).await;
    for (index, monster) in monsters().into_iter().enumerate() {
        let mut mallory = desk.join("room", &format!("mallory{index}"), None).await;
        mallory.ask(Ask::Offer(monster)).await;
        assert_eq!(dismissed(&mut mallory).await, DisconnectReason::JoinFailure as i32);
    }
    assert_eq!(desk.telemetry.counters.offers_refused.load(Ordering::Relaxed), 3);
    bystander.goes_on_unharmed(&desk).await;
}

#[tokio::test]
async fn an_offer_after_a_good_one_may_not_rearrange_sections() {
    let desk = Desk::start().await;
    let bystander = Bystander::join(&desk).await;
    let mut mallory = desk.join("room", "mallory", Some(offer_sending(1, &["a", "b"]))).await;
    mallory.answer().await;
    mallory.ask(Ask::Offer(offer_receiving(2))).await;
    assert_eq!(dismissed(&mut mallory).await, DisconnectReason::JoinFailure as i32);
    bystander.goes_on_unharmed(&desk).await;
}

#[tokio::test]
async fn more_messages_than_the_rate_end_their_connection() {
    let desk = Desk::start_with(|config| config.limit.signal_rate_max = 20).await;
    let bystander = Bystander::join(&desk).await;
    let mut mallory = desk.join("room", "mallory", None).await;
    for _ in 0..200 {
        mallory.ask(Ask::PingReq(Ping::default())).await;
    }
    mallory.closed().await;
    assert_eq!(desk.telemetry.counters.signal_rate_exceeded.load(Ordering::Relaxed), 1);
    bystander.goes_on_unharmed(&desk).await;
}

#[tokio::test]
async fn announcements_past_the_limit_are_refused_one_by_one() {
    let desk = Desk::start().await;
    let bystander = Bystander::join(&desk).await;
    let mut mallory = desk.join("room", "mallory", None).await;
    for n in 0..25 {
        let request = AddTrackRequest { cid: format!("c{n}"), ..AddTrackRequest::default() };
        mallory.ask(Ask::AddTrack(request)).await;
    }
    let (mut published, mut refused) = (0, 0);
    while published + refused < 25 {
        match mallory.next().await.unwrap() {
            Told::TrackPublished(_) => published += 1,
            Told::RequestResponse(response) => {
                assert_eq!(response.reason, Reason::LimitExceeded as i32);
                refused += 1;
            }
            _ => {}
        }
    }
    assert_eq!((published, refused), (20, 5));
    mallory.ask(Ask::Leave(Default::default())).await;
    mallory.closed().await;
    bystander.goes_on_unharmed(&desk).await;
}

#[tokio::test]
async fn what_a_token_does_not_grant_is_refused() {
    let desk = Desk::start().await;
    let bystander = Bystander::join(&desk).await;
    let grant = VideoGrant { can_publish_sources: vec!["camera".into()], ..Desk::grant("room") };
    let mut mallory = desk.join_with("mallory", grant, Desk::join_request(None)).await;
    let microphone = AddTrackRequest {
        cid: "m".into(),
        source: TrackSource::Microphone.into(),
        ..AddTrackRequest::default()
    };
    mallory.ask(Ask::AddTrack(microphone)).await;
    let update = UpdateParticipantMetadata { metadata: "x".into(), request_id: 9, ..Default::default() };
    mallory.ask(Ask::UpdateMetadata(update)).await;
    for _ in 0..2 {
        let told = mallory.until(|told| matches!(told, Told::RequestResponse(_))).await;
        let Told::RequestResponse(response) = told else { unreachable!() };
        assert_eq!(response.reason, Reason::NotAllowed as i32);
    }
    mallory.ask(Ask::Leave(Default::default())).await;
    mallory.closed().await;
    bystander.goes_on_unharmed(&desk).await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_closed_and_others_go_on() {
    let desk = Desk::start_with(|config| config.limit.signal_queue_max = 8).await;
    let bystander = Bystander::join(&desk).await;
    let _deaf = desk.join("flood", "deaf", None).await;
    let grant = VideoGrant { can_update_own_metadata: Some(true), ..Desk::grant("flood") };
    let mut mallory = desk.join_with("mallory", grant, Desk::join_request(None)).await;
    for n in 0..60 {
        let metadata = format!("{n}{}", "x".repeat(500_000));
        mallory.ask(Ask::UpdateMetadata(UpdateParticipantMetadata { metadata, ..Default::default() })).await;
        mallory.until(|told| matches!(told, Told::RequestResponse(_))).await;
    }
    assert!(desk.telemetry.counters.signal_overflows.load(Ordering::Relaxed) >= 1);
    mallory.ask(Ask::Leave(Default::default())).await;
    mallory.closed().await;
    bystander.goes_on_unharmed(&desk).await;
}

#[tokio::test]
async fn a_client_that_vanishes_while_joining_leaves_nothing_behind() {
    let desk = Desk::start().await;
    let bystander = Bystander::join(&desk).await;
    for n in 0..20 {
        drop(desk.join("room", &format!("mallory{n}"), Some(offer_sending(1, &["x"]))).await);
    }
    desk.calm().await;
    bystander.goes_on_unharmed(&desk).await;
    assert_eq!(desk.media.routed(), (1, 0));
}
