//! The HTTP surface: RoomService over Twirp, validation, health, and what clients probe for.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may fail as tests do")]

#[path = "common/desk.rs"]
mod desk;

use auralink_controlplane::auth::VideoGrant;
use auralink_livekit::prost::Message as _;
use auralink_livekit::{
    AddTrackRequest, CreateRoomRequest, DataPacket, DisconnectReason, ListParticipantsResponse, Room, RpcAck,
    RpcError, RpcResponse, data_packet, rpc_response, signal_request::Message as Ask,
    signal_response::Message as Told,
};
use auralink_proto::{Command, DataChannel, Event, TransportId};
use desk::{Client, Desk, Reply, offer_receiving, offer_sending};
use serde_json::{Value, json};

fn creator() -> VideoGrant {
    VideoGrant { room_create: true, room_list: true, ..VideoGrant::default() }
}

fn admin(room: &str) -> VideoGrant {
    VideoGrant { room_admin: true, room: room.into(), ..VideoGrant::default() }
}

#[tokio::test]
async fn rooms_are_created_once_listed_and_deleted() {
    let desk = Desk::start().await;
    let made =
        desk.api(creator(), "CreateRoom", r#"{"name":"r","empty_timeout":7,"maxParticipants":3}"#).await;
    assert_eq!(made.status, 200, "{}", made.text());
    let room = made.json();
    assert_eq!((room["name"].as_str(), room["empty_timeout"].as_u64()), (Some("r"), Some(7)));
    assert_eq!((room["max_participants"].as_u64(), room["departure_timeout"].as_u64()), (Some(3), Some(20)));
    assert_eq!(room["num_participants"], 0, "defaults are written");
    assert!(room["creation_time"].as_str().unwrap().parse::<u64>().unwrap() > 1_700_000_000);
    let again = desk.api(creator(), "CreateRoom", r#"{"name":"r"}"#).await.json();
    assert_eq!(again["sid"], room["sid"]);
    desk.api(creator(), "CreateRoom", r#"{"name":"s"}"#).await;
    let names = |list: Value| {
        let rooms = list["rooms"].as_array().unwrap().clone();
        rooms.iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(desk.api(creator(), "ListRooms", "{}").await.json()), ["r", "s"]);
    assert_eq!(names(desk.api(creator(), "ListRooms", r#"{"names":["s"]}"#).await.json()), ["s"]);
    assert_eq!(desk.api(creator(), "DeleteRoom", r#"{"room":"r"}"#).await.status, 200);
    assert_eq!(names(desk.api(creator(), "ListRooms", "").await.json()), ["s"]);
    let gone = desk.api(creator(), "DeleteRoom", r#"{"room":"r"}"#).await;
    assert_eq!((gone.status, gone.json()["code"].as_str()), (404, Some("not_found")));
    assert_eq!(gone.json()["msg"], "requested room does not exist");
}

#[tokio::test]
async fn protobuf_is_spoken_as_well() {
    let desk = Desk::start().await;
    let bearer = format!("Bearer {}", desk.token("", creator()));
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/protobuf")];
    let request = CreateRoomRequest { name: "r".into(), ..CreateRoomRequest::default() }.encode_to_vec();
    let reply = desk.http("POST", "/twirp/livekit.RoomService/CreateRoom", &headers, &request).await;
    assert!(reply.head.contains("content-type: application/protobuf"));
    assert_eq!(Room::decode(reply.body.as_slice()).unwrap().name, "r");
    desk.join("r", "alice", None).await;
    let bearer = format!("Bearer {}", desk.token("", admin("r")));
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/protobuf")];
    let body = auralink_livekit::ListParticipantsRequest { room: "r".into() }.encode_to_vec();
    let reply = desk.http("POST", "/twirp/livekit.RoomService/ListParticipants", &headers, &body).await;
    let list = ListParticipantsResponse::decode(reply.body.as_slice()).unwrap();
    assert!(list.participants.len() <= 1);
}

#[tokio::test]
async fn participants_are_listed_to_the_rooms_admin_alone() {
    let desk = Desk::start().await;
    let _alice = desk.join("r", "alice", None).await;
    let list = desk.api(admin("r"), "ListParticipants", r#"{"room":"r"}"#).await;
    assert_eq!(list.status, 200);
    let participant = list.json()["participants"][0].clone();
    assert_eq!(
        (participant["identity"].as_str(), participant["state"].as_str()),
        (Some("alice"), Some("JOINED"))
    );
    assert_eq!(participant["permission"]["can_publish"], true);
    for grant in [creator(), admin("other"), VideoGrant::default()] {
        let refused = desk.api(grant, "ListParticipants", r#"{"room":"r"}"#).await;
        assert_eq!(refused.status, 401);
        assert_eq!(refused.json()["code"], "unauthenticated");
        assert_eq!(refused.json()["msg"], "permissions denied");
    }
}

#[tokio::test]
async fn deleting_a_room_tells_whoever_is_in_it() {
    let desk = Desk::start().await;
    let mut alice = desk.join("r", "alice", None).await;
    assert_eq!(desk.api(creator(), "DeleteRoom", r#"{"room":"r"}"#).await.status, 200);
    let Told::Leave(leave) = alice.until(|told| matches!(told, Told::Leave(_))).await else { unreachable!() };
    assert_eq!(leave.reason, DisconnectReason::RoomDeleted as i32);
    alice.closed().await;
}

#[tokio::test]
async fn wrong_calls_are_named_by_twirps_codes() {
    let desk = Desk::start().await;
    let calls = [
        ("Nothing", "{}", 404, "bad_route"),
        ("CreateRoom", "{", 400, "malformed"),
        ("CreateRoom", "{}", 400, "invalid_argument"),
    ];
    for (method, body, status, code) in calls {
        let reply = desk.api(creator(), method, body).await;
        assert_eq!((reply.status, reply.json()["code"].as_str()), (status, Some(code)));
    }
    let path = "/twirp/livekit.RoomService/ListRooms";
    let no_token = desk.http("POST", path, &[("content-type", "application/json")], b"{}").await;
    assert_eq!((no_token.status, no_token.json()["code"].as_str()), (401, Some("unauthenticated")));
    let denied = desk.api(VideoGrant::default(), "ListRooms", "{}").await;
    assert_eq!(denied.status, 401);
    let huge = desk.api(creator(), "CreateRoom", &"x".repeat((10 << 20) + 1)).await;
    assert_eq!(huge.status, 413);
}

#[tokio::test]
async fn clients_find_what_they_probe_for() {
    let desk = Desk::start().await;
    for method in ["GET", "HEAD"] {
        assert_eq!(desk.http(method, "/", &[], b"").await.status, 200);
    }
    assert_eq!(desk.http("GET", "/", &[], b"").await.text(), "OK");
    for path in ["/rtc", "/rtc/v1", "/settings/regions", "/nothing"] {
        let reply = desk.http("GET", path, &[], b"").await;
        assert_eq!((reply.status, reply.body.len()), (404, 0), "{path}");
    }
    for path in ["/health/live", "/health/ready", "/health/startup"] {
        assert_eq!(desk.http("GET", path, &[], b"").await.status, 200);
    }
    assert!(desk.http("GET", "/metrics", &[], b"").await.text().contains("auralink_joins_total 0"));
}

#[tokio::test]
async fn validation_says_what_a_join_would_say() {
    let desk = Desk::start().await;
    let url = desk.url(&desk.token("alice", Desk::grant("r")), &Desk::join_request(None));
    let query = url.split_once('?').unwrap().1;
    for path in [format!("/rtc/v1/validate?{query}"), format!("//rtc/v1/validate?{query}")] {
        let reply = desk.http("GET", &path, &[("origin", "https://example.org")], b"").await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "success"));
        assert!(reply.head.contains("access-control-allow-origin: *"));
    }
    let long = format!("/rtc/v1/validate?pad={}&{query}", "x".repeat(16_000));
    assert_eq!(desk.http("GET", &long, &[], b"").await.status, 200, "long request lines are usual");
    let reply = desk.http("GET", "/rtc/validate?access_token=x", &[], b"").await;
    assert_eq!(reply.status, 401);
    assert!(reply.text().starts_with("invalid authorization token"));
    let bearer = format!("Bearer {}", desk.token("alice", Desk::grant("r")));
    let reply = desk.http("GET", "/rtc/validate", &[("authorization", &bearer)], b"").await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn every_origin_and_header_is_allowed() {
    let desk = Desk::start().await;
    let preflight = [
        ("origin", "https://example.org"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,x-anything"),
    ];
    let reply = desk.http("OPTIONS", "/twirp/livekit.RoomService/ListRooms", &preflight, b"").await;
    assert_eq!(reply.status, 200);
    for line in [
        "access-control-allow-origin: *",
        "access-control-allow-headers: authorization,x-anything",
        "access-control-max-age: 86400",
    ] {
        assert!(reply.head.contains(line), "{line} missing in {}", reply.head);
    }
    assert!(reply.head.contains("patch") && reply.head.contains("delete"));
}

/// A participant of room `r` that is connected and publishes a microphone. Gives the track's sid.
async fn publisher(desk: &Desk, identity: &str) -> (Client, String) {
    let mut client = desk.join("r", identity, Some(offer_receiving(1))).await;
    client.answer().await;
    let request = AddTrackRequest { cid: "mic".into(), source: 2, ..AddTrackRequest::default() };
    client.ask(Ask::AddTrack(request)).await;
    let told = client.until(|told| matches!(told, Told::TrackPublished(_))).await;
    let Told::TrackPublished(published) = told else { unreachable!() };
    client.ask(Ask::Offer(offer_sending(2, &["mic"]))).await;
    client.answer().await;
    desk.connect_all().await;
    desk.all_tracks_live().await;
    (client, published.track.unwrap().sid)
}

/// What a refusal is told by.
fn refusal(reply: &Reply) -> (u16, String, String) {
    let json = reply.json();
    let text = |name: &str| json[name].as_str().unwrap().to_owned();
    (reply.status, text("code"), text("msg"))
}

fn refused(status: u16, code: &str, message: &str) -> (u16, String, String) {
    (status, code.into(), message.into())
}

/// A method's argument about one participant of room `r`, with more fields.
fn about(identity: &str, more: Value) -> String {
    let mut body = json!({"room": "r", "identity": identity});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

#[tokio::test]
async fn absent_participants_are_named_by_every_method_that_wants_one() {
    let desk = Desk::start().await;
    let methods = [
        "GetParticipant",
        "RemoveParticipant",
        "MutePublishedTrack",
        "UpdateParticipant",
        "UpdateSubscriptions",
    ];
    for room_exists in [false, true] {
        for method in methods {
            let reply = desk.api(admin("r"), method, &about("zoe", json!({}))).await;
            assert_eq!(refusal(&reply), refused(404, "not_found", "participant does not exist"), "{method}");
            let reply = desk.api(admin("r"), method, &about("", json!({}))).await;
            assert_eq!(refusal(&reply), refused(400, "invalid_argument", "identity cannot be empty"));
            for grant in [creator(), admin("other")] {
                let reply = desk.api(grant, method, &about("zoe", json!({}))).await;
                assert_eq!(refusal(&reply), refused(401, "unauthenticated", "permissions denied"));
            }
        }
        if !room_exists {
            desk.api(creator(), "CreateRoom", r#"{"name":"r"}"#).await;
        }
    }
    for method in ["SendData", "UpdateRoomMetadata"] {
        let reply = desk.api(admin("x"), method, r#"{"room":"x"}"#).await;
        assert_eq!(refusal(&reply), refused(404, "not_found", "requested room does not exist"), "{method}");
    }
}

#[tokio::test]
async fn a_participant_is_fetched_changed_and_removed() {
    let desk = Desk::start().await;
    let (mut alice, sid) = publisher(&desk, "alice").await;
    let found = desk.api(admin("r"), "GetParticipant", &about("alice", json!({}))).await.json();
    assert_eq!((found["state"].as_str(), found["tracks"][0]["sid"].as_str()), (Some("ACTIVE"), Some(&*sid)));
    let update = json!({"metadata": "m", "name": "Alice", "attributes": {"a": "1"},
        "permission": {"can_subscribe": true, "canPublish": false}});
    let updated = desk.api(admin("r"), "UpdateParticipant", &about("alice", update)).await.json();
    assert_eq!((updated["metadata"].as_str(), updated["attributes"]["a"].as_str()), (Some("m"), Some("1")));
    assert_eq!((&updated["permission"]["can_publish"], &updated["tracks"]), (&json!(false), &json!([])));
    alice.until(|told| matches!(told, Told::TrackUnpublished(u) if u.track_sid == sid)).await;
    let receiving = desk.specs().await.iter().map(|spec| spec.receive.len()).sum::<usize>();
    assert_eq!(receiving, 0, "the shard takes the track no more");
    let long = json!({"metadata": "x".repeat(600_000)});
    let reply = desk.api(admin("r"), "UpdateParticipant", &about("alice", long)).await;
    assert_eq!(refusal(&reply), refused(400, "invalid_argument", "metadata size exceeds limits"));
    assert_eq!(desk.api(admin("r"), "RemoveParticipant", &about("alice", json!({}))).await.status, 200);
    let told = alice.until(|told| matches!(told, Told::Leave(_))).await;
    let Told::Leave(leave) = told else { unreachable!() };
    assert_eq!(leave.reason, DisconnectReason::ParticipantRemoved as i32);
    alice.closed().await;
    assert_eq!(desk.api(admin("r"), "GetParticipant", &about("alice", json!({}))).await.status, 404);
}

#[tokio::test]
async fn a_track_is_muted_remotely_and_unmuted_only_where_that_is_configured() {
    for may_unmute in [false, true] {
        let desk = Desk::start_with(|config| config.room.enable_remote_unmute = may_unmute).await;
        let (mut alice, sid) = publisher(&desk, "alice").await;
        let mute = |muted: bool| about("alice", json!({"track_sid": &sid, "muted": muted}));
        let muted = desk.api(admin("r"), "MutePublishedTrack", &mute(true)).await.json();
        assert_eq!((&muted["track"]["sid"], &muted["track"]["muted"]), (&json!(sid), &json!(true)));
        alice.until(|told| matches!(told, Told::Mute(m) if m.sid == sid && m.muted)).await;
        let unmuted = desk.api(admin("r"), "MutePublishedTrack", &mute(false)).await;
        if may_unmute {
            assert_eq!(unmuted.json()["track"]["muted"], false);
            alice.until(|told| matches!(told, Told::Mute(m) if m.sid == sid && !m.muted)).await;
        } else {
            let expected = refused(412, "failed_precondition", "remote unmute not enabled");
            assert_eq!(refusal(&unmuted), expected);
        }
        let unknown = about("alice", json!({"trackSid": "TR_x", "muted": true}));
        let reply = desk.api(admin("r"), "MutePublishedTrack", &unknown).await;
        assert_eq!(refusal(&reply), refused(404, "not_found", "track is not found"));
    }
}

#[tokio::test]
async fn subscriptions_are_changed_from_outside() {
    let desk = Desk::start().await;
    let (_alice, sid) = publisher(&desk, "alice").await;
    let mut bob = desk.join("r", "bob", Some(offer_receiving(1))).await;
    assert_eq!(bob.answer().await.mid_to_track_id.len(), 1);
    let passed =
        async || desk.specs().await.iter().flat_map(|s| &s.send).filter(|s| s.track.is_some()).count();
    assert_eq!(passed().await, 1);
    let off = about("bob", json!({"track_sids": [&sid], "subscribe": false}));
    assert_eq!(desk.api(admin("r"), "UpdateSubscriptions", &off).await.status, 200);
    assert_eq!(passed().await, 0);
}

#[tokio::test]
async fn room_metadata_is_told_at_once_and_bounded() {
    let desk = Desk::start().await;
    let mut alice = desk.join("r", "alice", None).await;
    let reply = desk.api(admin("r"), "UpdateRoomMetadata", r#"{"room":"r","metadata":"new"}"#).await;
    assert_eq!(reply.json()["metadata"], "new");
    let is_new =
        |told: &Told| matches!(told, Told::RoomUpdate(u) if u.room.as_ref().unwrap().metadata == "new");
    alice.until(is_new).await;
    let long = json!({"room": "r", "metadata": "x".repeat(600_000)}).to_string();
    let reply = desk.api(admin("r"), "UpdateRoomMetadata", &long).await;
    assert_eq!(refusal(&reply), refused(400, "invalid_argument", "metadata size exceeds limits"));
}

/// Packets sent on data channels so far, with whom they were sent to.
async fn packets(desk: &Desk) -> Vec<(Vec<TransportId>, DataPacket)> {
    let sent = desk.commands(|command| matches!(command, Command::SendData { .. })).await;
    let packet = |command| match command {
        Command::SendData { transports, payload, .. } => (transports, DataPacket::decode(payload).unwrap()),
        _ => unreachable!(),
    };
    sent.into_iter().map(packet).collect()
}

#[tokio::test]
async fn data_is_sent_to_data_channels_once_for_each_nonce() {
    let desk = Desk::start().await;
    let mut clients = Vec::new();
    for identity in ["carol", "dave"] {
        let mut client = desk.join("r", identity, Some(offer_receiving(1))).await;
        client.answer().await;
        clients.push(client);
    }
    desk.connect_all().await;
    // "hi", and sixteen bytes of nonce.
    let body = r#"{"room":"r","data":"aGk=","kind":"LOSSY","topic":"t","destinationIdentities":["dave"],
        "nonce":"AAECAwQFBgcICQoLDA0ODw=="}"#;
    for _ in 0..2 {
        assert_eq!(desk.api(admin("r"), "SendData", body).await.status, 200);
    }
    let sent = packets(&desk).await;
    assert_eq!((sent.len(), sent[0].0.len()), (1, 1));
    let Some(data_packet::Value::User(user)) = &sent[0].1.value else { panic!("{:?}", sent[0].1) };
    assert_eq!(
        (user.payload.as_slice(), user.topic.as_deref(), user.nonce.len()),
        (&b"hi"[..], Some("t"), 16)
    );
    assert_eq!((sent[0].1.participant_identity.as_str(), sent[0].1.participant_sid.as_str()), ("", ""));
}

#[tokio::test]
async fn a_participants_method_is_called_and_its_answer_or_error_returned() {
    let desk = Desk::start().await;
    let mut alice = desk.join("r", "alice", Some(offer_receiving(1))).await;
    alice.answer().await;
    desk.connect_all().await;
    let outcomes = [
        rpc_response::Value::Payload("good day".into()),
        rpc_response::Value::Error(RpcError {
            code: 1400,
            message: "no such method".into(),
            data: "x".into(),
        }),
        rpc_response::Value::Error(RpcError { code: 7, message: "busy".into(), data: String::new() }),
    ];
    let body = r#"{"room":"r","destination_identity":"alice","method":"greet","payload":"hello"}"#;
    let mut replies = Vec::new();
    for (index, value) in outcomes.into_iter().enumerate() {
        let respond = async {
            let (to, packet) = loop {
                if let Some(sent) = packets(&desk).await.into_iter().nth(index) {
                    break sent;
                }
            };
            let Some(data_packet::Value::RpcRequest(call)) = packet.value else { panic!("{packet:?}") };
            assert_eq!((call.method.as_str(), call.payload.as_str()), ("greet", "hello"));
            assert_eq!((call.version, call.response_timeout_ms), (1, 15_000));
            let request_id = call.id;
            let ack = data_packet::Value::RpcAck(RpcAck { request_id: request_id.clone() });
            let answer = data_packet::Value::RpcResponse(RpcResponse { request_id, value: Some(value) });
            for value in [ack, answer] {
                let packet = DataPacket { value: Some(value), ..DataPacket::default() };
                let payload = packet.encode_to_vec().into();
                desk.emit(Event::Data { transport: to[0], channel: DataChannel::Reliable, payload });
            }
        };
        let (reply, ()) = tokio::join!(desk.api(admin("r"), "PerformRpc", body), respond);
        replies.push(reply);
    }
    assert_eq!((replies[0].status, replies[0].json()), (200, json!({"payload": "good day"})));
    assert_eq!(refusal(&replies[1]), refused(400, "invalid_argument", "no such method"));
    assert_eq!(replies[1].json()["meta"], json!({"rpc_code": "1400", "rpc_data": "x"}));
    assert_eq!(refusal(&replies[2]), refused(500, "internal", "busy"));
}

#[tokio::test]
async fn a_callers_deadline_is_kept() {
    let desk = Desk::start().await;
    let mut alice = desk.join("r", "alice", Some(offer_receiving(1))).await;
    alice.answer().await;
    desk.connect_all().await;
    let bearer = format!("Bearer {}", desk.token("", admin("r")));
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("x-twirp-timeout-ms", "50"),
    ];
    let body = br#"{"room":"r","destination_identity":"alice","method":"sleep"}"#;
    let reply = desk.http("POST", "/twirp/livekit.RoomService/PerformRpc", &headers, body).await;
    assert_eq!((reply.status, reply.json()["code"].as_str()), (408, Some("deadline_exceeded")));
}

#[tokio::test]
async fn moving_participants_is_refused_as_livekits_open_server_does() {
    let desk = Desk::start().await;
    for method in ["MoveParticipant", "ForwardParticipant"] {
        let reply = desk.api(admin("r"), method, &about("a", json!({"destination_room": "s"}))).await;
        assert_eq!((reply.status, reply.json()["code"].as_str()), (501, Some("unimplemented")));
    }
    let recorded = desk.api(creator(), "CreateRoom", r#"{"name":"r","egress":{"room":{}}}"#).await;
    assert_eq!(recorded.status, 501);
}

#[tokio::test]
async fn methods_are_found_without_twirps_prefix() {
    let desk = Desk::start().await;
    let bearer = format!("Bearer {}", desk.token("", creator()));
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let reply = desk.http("POST", "/livekit.RoomService/ListRooms", &headers, b"{}").await;
    assert_eq!((reply.status, reply.json()), (200, json!({"rooms": []})));
}

#[tokio::test]
async fn a_room_is_created_within_limits() {
    let desk = Desk::start().await;
    let long = "x".repeat(600_000);
    for (body, message) in [
        (json!({"name": &long[..257]}), "room name length exceeds limits"),
        (json!({"name": "r", "metadata": &long}), "metadata size exceeds limits"),
        (json!({"name": "r", "tags": {"a": &long[..70_000]}}), "tags size exceeds limits"),
        (json!({"name": "r", "agents": vec![json!({}); 65]}), "more than 64 agents"),
        (json!({"name": "r", "room_preset": "p"}), "this server has no room presets"),
    ] {
        let reply = desk.api(creator(), "CreateRoom", &body.to_string()).await;
        assert_eq!(refusal(&reply), refused(400, "invalid_argument", message));
    }
}
