//! `auralink rooms …` against a server: every command, what it prints and what it says when it is refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may fail as tests do")]

#[path = "common/desk.rs"]
mod desk;

use auralink_livekit::{AddTrackRequest, signal_request::Message as Ask, signal_response::Message as Told};
use desk::{Desk, offer_sending};
use serde_json::Value;

/// Runs the program with the development keys; what it printed, or its complaint.
async fn rooms(desk: &Desk, arguments: &[&str]) -> Result<Value, String> {
    let url = format!("ws://{}", desk.address);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_auralink"));
    command.args(["rooms", "--dev", "--url", &url]).args(arguments).env_clear();
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    if output.status.success() {
        return Ok(serde_json::from_slice(&output.stdout).unwrap());
    }
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    Err(text.trim_end().to_owned())
}

#[tokio::test]
async fn rooms_are_made_listed_changed_and_ended() {
    let desk = Desk::start().await;
    let made = rooms(&desk, &["create", "r", "--empty-timeout", "9", "--metadata", "m"]).await.unwrap();
    assert_eq!((made["name"].as_str(), made["empty_timeout"].as_u64()), (Some("r"), Some(9)));
    let list = rooms(&desk, &["list"]).await.unwrap();
    assert_eq!(list["rooms"][0]["metadata"], "m");
    assert_eq!(rooms(&desk, &["set-metadata", "r", "n"]).await.unwrap()["metadata"], "n");
    rooms(&desk, &["delete", "r"]).await.unwrap();
    assert_eq!(rooms(&desk, &["list", "r"]).await.unwrap()["rooms"].as_array().unwrap().len(), 0);
    let refused = rooms(&desk, &["delete", "r"]).await.unwrap_err();
    assert_eq!(refused, "auralink: the server refused: requested room does not exist (not_found)");
}

#[tokio::test]
async fn participants_are_shown_changed_muted_and_sent_away() {
    let desk = Desk::start().await;
    let mut alice = desk.join("r", "alice", Some(offer_sending(1, &["c"]))).await;
    alice.ask(Ask::AddTrack(AddTrackRequest { cid: "c".into(), ..AddTrackRequest::default() })).await;
    let Told::TrackPublished(published) = alice.until(|told| matches!(told, Told::TrackPublished(_))).await
    else {
        panic!("no track")
    };
    let sid = published.track.unwrap().sid;
    let shown = rooms(&desk, &["participants", "r"]).await.unwrap();
    assert_eq!(shown["participants"][0]["identity"], "alice");
    let changed =
        rooms(&desk, &["update", "r", "alice", "--name", "Alice", "--attribute", "a=1"]).await.unwrap();
    assert_eq!((changed["name"].as_str(), changed["attributes"]["a"].as_str()), (Some("Alice"), Some("1")));
    assert_eq!(rooms(&desk, &["mute", "r", "alice", &sid]).await.unwrap()["track"]["muted"], true);
    let refused = rooms(&desk, &["unmute", "r", "alice", &sid]).await.unwrap_err();
    assert!(refused.contains("remote unmute not enabled"), "{refused}");
    rooms(&desk, &["unsubscribe", "r", "alice", &sid]).await.unwrap();
    rooms(&desk, &["subscribe", "r", "alice", &sid]).await.unwrap();
    rooms(&desk, &["send", "r", "hello", "--topic", "t", "--to", "alice"]).await.unwrap();
    assert_eq!(rooms(&desk, &["participant", "r", "alice"]).await.unwrap()["name"], "Alice");
    rooms(&desk, &["remove", "r", "alice"]).await.unwrap();
    alice.until(|told| matches!(told, Told::Leave(_))).await;
    let refused = rooms(&desk, &["participant", "r", "alice"]).await.unwrap_err();
    assert!(refused.contains("(not_found)"), "{refused}");
}

#[tokio::test]
async fn what_is_wrong_is_said_in_one_line() {
    let desk = Desk::start().await;
    let text = rooms(&desk, &["update", "r", "alice", "--attribute", "a"]).await.unwrap_err();
    assert!(text.contains("NAME=VALUE"), "{text}");
    let text = rooms(&desk, &["list", "--api-key", "devkey", "--api-secret", "wrong"]).await.unwrap_err();
    assert!(text.contains("(unauthenticated)"), "{text}");
    let text = rooms(&desk, &["list", "--url", "localhost"]).await.unwrap_err();
    assert!(text.contains("--url wants"), "{text}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = rooms(&desk, &["list", "--url", &format!("http://{free}")]).await.unwrap_err();
    assert!(text.contains("cannot reach") && text.contains("refused"), "{text}");
}
