//! The HTTP surface: RoomService over Twirp, validation, health, and what clients probe for.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may fail as tests do")]

#[path = "common/desk.rs"]
mod desk;

use auralink_controlplane::auth::VideoGrant;
use auralink_livekit::prost::Message as _;
use auralink_livekit::{
    CreateRoomRequest, DisconnectReason, ListParticipantsResponse, Room, signal_response::Message as Told,
};
use desk::Desk;

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
    let names = |list: serde_json::Value| {
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
