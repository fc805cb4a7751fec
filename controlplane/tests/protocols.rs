//! The ways a client may speak: two peer connections, coming back, compressed frames. Over real WebSockets, with a played shard.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests may fail as tests do"
)]

#[path = "common/desk.rs"]
mod desk;

use auralink_livekit::prost::Message as _;
use auralink_livekit::{
    JoinRequest, SessionDescription, SignalResponse, signal_request::Message as Ask,
    signal_response::Message as Told,
};
use desk::{Client, Desk, offer_receiving};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Opens `/rtc` with plain query parameters.
async fn open_v0(desk: &Desk, room: &str, identity: &str, query: &str) -> Client {
    let token = desk.token(identity, Desk::grant(room));
    desk.open(&format!("ws://{}/rtc?access_token={token}&{query}", desk.address)).await.unwrap()
}

#[tokio::test]
async fn a_client_with_two_connections_is_offered_the_one_it_receives_on() {
    let desk = Desk::start().await;
    let mut alice = open_v0(&desk, "room", "alice", "sdk=go&protocol=16&auto_subscribe=1").await;
    let Some(Told::Join(join)) = alice.next().await else { panic!() };
    assert!(join.subscriber_primary && join.fast_publish);
    let Told::Offer(offer) = alice.until(|told| matches!(told, Told::Offer(_))).await else { panic!() };
    assert_eq!((offer.r#type.as_str(), offer.id), ("offer", 1));
    let sdp = offer.sdp.replace("a=sendonly", "a=recvonly").replace("actpass", "active");
    alice.ask(Ask::Answer(SessionDescription { r#type: "answer".into(), sdp, ..offer })).await;
    alice.ask(Ask::Offer(offer_receiving(1))).await;
    alice.answer().await;
    assert_eq!(desk.specs().await.len(), 2, "two transports");
}

#[tokio::test]
async fn a_join_request_on_the_older_path_means_one_connection() {
    let desk = Desk::start().await;
    let url =
        desk.url(&desk.token("alice", Desk::grant("room")), &Desk::join_request(Some(offer_receiving(1))));
    let mut alice = desk.open(&url.replace("/rtc/v1", "/rtc")).await.unwrap();
    assert!(matches!(alice.next().await, Some(Told::Join(join)) if !join.subscriber_primary));
    alice.answer().await;
}

#[tokio::test]
async fn a_connection_that_only_publishes_has_a_name_of_its_own() {
    let desk = Desk::start().await;
    let mut screen = open_v0(&desk, "room", "alice", "sdk=ios&publish=screen").await;
    let Some(Told::Join(join)) = screen.next().await else { panic!() };
    let me = join.participant.unwrap();
    assert_eq!(me.identity, "alice#screen");
    assert!(!join.subscriber_primary && !me.permission.unwrap().can_subscribe);
}

async fn resume(desk: &Desk, identity: &str, sid: &str) -> Client {
    let request = JoinRequest { reconnect: true, participant_sid: sid.into(), ..JoinRequest::default() };
    desk.open(&desk.url(&desk.token(identity, Desk::grant("room")), &request)).await.unwrap()
}

#[tokio::test]
async fn a_participant_comes_back_with_a_new_socket_while_its_media_lives() {
    let desk = Desk::start().await;
    let mut alice = desk.join("room", "alice", Some(offer_receiving(1))).await;
    let sid = alice.join.take().unwrap().participant.unwrap().sid;
    alice.answer().await;
    let mut bob = desk.join("room", "bob", Some(offer_receiving(1))).await;
    bob.answer().await;
    desk.connect_all().await;
    alice.reset();
    let before = desk.specs().await.len();
    let mut alice = resume(&desk, "alice", &sid).await;
    assert!(matches!(alice.next().await, Some(Told::Reconnect(_))));
    let Some(Told::Update(update)) = alice.next().await else { panic!() };
    assert_eq!(update.participants.len(), 2);
    assert_eq!(desk.specs().await.len(), before);
    // The client restarts ICE on the connection it has.
    let mut offer = offer_receiving(2);
    offer.sdp = offer.sdp.replace("abcd", "efgh");
    alice.ask(Ask::Offer(offer)).await;
    assert_eq!(alice.answer().await.id, 2);
    let restarted = desk.specs().await.into_iter().filter(|spec| spec.remote_ice.ufrag == "efgh").count();
    assert_eq!(restarted, 1);
}

#[tokio::test]
async fn a_second_socket_takes_over_and_the_first_is_closed() {
    let desk = Desk::start().await;
    let mut first = desk.join("room", "alice", Some(offer_receiving(1))).await;
    let sid = first.join.take().unwrap().participant.unwrap().sid;
    first.answer().await;
    desk.connect_all().await;
    let mut second = resume(&desk, "alice", &sid).await;
    assert!(matches!(second.next().await, Some(Told::Reconnect(_))));
    first.closed().await;
    second.ask(Ask::Offer(offer_receiving(2))).await;
    assert_eq!(second.answer().await.id, 2, "the end of the first does not end the second");
}

#[tokio::test]
async fn frames_are_compressed_for_clients_that_offer_it_without_kept_context() {
    let desk = Desk::start().await;
    let url = desk.url(
        &desk.token(&"alice".repeat(40), Desk::grant(&"room".repeat(40))),
        &Desk::join_request(Some(offer_receiving(1))),
    );
    let path = url.split_once("127.0.0.1").unwrap().1.split_once('/').unwrap().1;
    let mut stream = TcpStream::connect(desk.address).await.unwrap();
    let request = format!(
        "GET /{path} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    for word in ["permessage-deflate", "server_no_context_takeover", "client_no_context_takeover"] {
        assert!(head.contains(word), "{word} missing in {head}");
    }
    // The join response is long enough to be compressed: FIN and RSV1 are set.
    assert_eq!(stream.read_u8().await.unwrap(), 0b1100_0010);
}

#[tokio::test]
async fn both_sides_may_compress_every_message() {
    let desk = Desk::start().await;
    let url =
        desk.url(&desk.token("alice", Desk::grant("room")), &Desk::join_request(Some(offer_receiving(1))));
    let options = yawc::Options::default().with_balanced_compression();
    let mut socket = yawc::WebSocket::connect(url.parse().unwrap()).with_options(options).await.unwrap();
    let mut answers = 0;
    for id in 2..5 {
        while answers < id - 1 {
            let frame = socket.next().await.unwrap();
            let told = SignalResponse::decode(frame.payload().clone()).unwrap().message;
            answers += u32::from(matches!(told, Some(Told::Answer(_))));
        }
        let request = auralink_livekit::SignalRequest { message: Some(Ask::Offer(offer_receiving(id))) };
        socket.send(yawc::Frame::binary(request.encode_to_vec())).await.unwrap();
    }
    assert_eq!(answers, 3);
}

#[tokio::test]
async fn a_connection_ended_from_here_is_closed_once() {
    let desk = Desk::start().await;
    let mut alice = resume(&desk, "alice", "PA_unknown").await;
    assert!(matches!(alice.next().await, Some(Told::Leave(_))));
    assert_eq!(alice.bytes_after_close().await, 0);
}
