//! Joining, negotiating and leaving over real WebSockets, with a played shard.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests may fail as tests do"
)]

#[path = "common/desk.rs"]
mod desk;

use std::time::Duration;

use auralink_livekit::{
    AddTrackRequest, DisconnectReason, LeaveRequest, MuteTrackRequest, ParticipantInfo, SessionDescription,
    leave_request, participant_info, signal_request::Message as Ask, signal_response::Message as Told,
};
use auralink_proto::Command;
use desk::{Client, Desk, offer_receiving, offer_sending};

/// Of what depends on a race.
const ROUNDS: usize = 30;

fn tracks(info: &ParticipantInfo) -> Vec<&str> {
    info.tracks.iter().map(|track| track.name.as_str()).collect()
}

fn microphone() -> AddTrackRequest {
    AddTrackRequest { cid: "mic".into(), name: "voice".into(), source: 2, ..AddTrackRequest::default() }
}

/// Two participants, the first publishing a microphone, both connected, the second receiving it.
async fn call(desk: &Desk) -> (Client, Client) {
    let mut alice = desk.join("room", "alice", Some(offer_receiving(1))).await;
    alice.answer().await;
    let mut bob = desk.join("room", "bob", Some(offer_receiving(1))).await;
    bob.answer().await;
    desk.connect_all().await;
    alice.ask(Ask::AddTrack(microphone())).await;
    alice.until(|told| matches!(told, Told::TrackPublished(p) if p.cid == "mic")).await;
    alice.ask(Ask::Offer(offer_sending(2, &["mic"]))).await;
    alice.answer().await;
    desk.all_tracks_live().await;
    (alice, bob)
}

/// The sid of the first track this client is told of.
async fn published(client: &mut Client) -> String {
    let has_track =
        |told: &Told| matches!(told, Told::Update(u) if u.participants.iter().any(|p| !p.tracks.is_empty()));
    let Told::Update(update) = client.until(has_track).await else { unreachable!() };
    update.participants[0].tracks[0].sid.clone()
}

#[tokio::test]
async fn the_first_message_is_a_complete_join() {
    let desk = Desk::start().await;
    let mut alice = desk.join("room", "alice", None).await;
    let join = alice.join.take().unwrap();
    assert!(join.room.as_ref().unwrap().sid.starts_with("RM_"));
    let me = join.participant.unwrap();
    assert!(me.sid.starts_with("PA_"));
    assert_eq!((me.identity.as_str(), me.state), ("alice", participant_info::State::Joined as i32));
    let server = join.server_info.unwrap();
    assert!(!server.version.is_empty() && server.node_id.starts_with("ND_"));
    assert_eq!((join.ping_interval, join.ping_timeout), (5, 15));
    assert!(join.fast_publish && !join.subscriber_primary && !join.sif_trailer.is_empty());
    let codecs: Vec<&str> = join.enabled_publish_codecs.iter().map(|c| c.mime.as_str()).collect();
    let video = ["video/VP8", "video/H264", "video/VP9", "video/AV1", "video/H265"];
    let audio = ["audio/PCMU", "audio/PCMA", "audio/opus", "audio/red"];
    assert_eq!(codecs, [&video[..], &audio[..]].concat());
}

#[tokio::test]
async fn an_embedded_offer_is_answered_with_its_id_after_the_shard_applied_it() {
    let desk = Desk::start().await;
    let mut alice = desk.join("room", "alice", Some(offer_receiving(1))).await;
    let answer = alice.answer().await;
    assert_eq!((answer.r#type.as_str(), answer.id), ("answer", 1));
    assert!(answer.sdp.contains("a=ice-lite\r\n"));
    let applied = desk.specs().await;
    assert!(answer.sdp.contains(&format!("a=ice-ufrag:{}\r\n", applied[0].id.ufrag())));
}

#[tokio::test]
async fn a_live_track_reaches_the_other_after_one_demand_and_one_offer() {
    let desk = Desk::start().await;
    let (_alice, mut bob) = call(&desk).await;
    bob.until(
        |told| matches!(told, Told::Update(u) if u.participants.iter().any(|p| tracks(p) == ["voice"])),
    )
    .await;
    let demand = bob.until(|told| matches!(told, Told::MediaSectionsRequirement(_))).await;
    let Told::MediaSectionsRequirement(demand) = demand else { unreachable!() };
    assert_eq!(
        (demand.num_audios, demand.num_videos),
        (0, 0),
        "a free section is there, only an offer is missing"
    );
    bob.ask(Ask::Offer(offer_receiving(2))).await;
    let answer = bob.answer().await;
    assert_eq!(answer.mid_to_track_id.len(), 1);
    let sid = answer.mid_to_track_id.get("1").unwrap();
    assert!(sid.starts_with("TR_AM"));
    assert!(answer.sdp.contains(&format!("|{sid} {sid}")));
    let intents = desk.commands(|command| matches!(command, Command::SetIntent { .. })).await;
    assert_eq!(intents.len(), 1);
}

#[tokio::test]
async fn muting_is_told_to_the_shard_and_to_others() {
    let desk = Desk::start().await;
    let (mut alice, mut bob) = call(&desk).await;
    let sid = published(&mut bob).await;
    alice.ask(Ask::Mute(MuteTrackRequest { sid, muted: true })).await;
    bob.until(|told| matches!(told, Told::Update(u) if u.participants.iter().any(|p| p.tracks.iter().any(|t| t.muted)))).await;
    let muted = desk.specs().await.into_iter().any(|spec| spec.receive.iter().any(|section| section.muted));
    assert!(muted);
}

#[tokio::test]
async fn leaving_tells_the_others_and_removes_the_transport() {
    let desk = Desk::start().await;
    let (mut alice, mut bob) = call(&desk).await;
    let reason = DisconnectReason::ClientInitiated.into();
    alice.ask(Ask::Leave(LeaveRequest { reason, ..LeaveRequest::default() })).await;
    let gone = participant_info::State::Disconnected as i32;
    bob.until(|told| matches!(told, Told::Update(u) if u.participants.iter().any(|p| p.state == gone))).await;
    alice.closed().await;
    let removed = desk.commands(|command| matches!(command, Command::RemoveTransport(_))).await;
    assert_eq!(removed.len(), 1);
}

/// A race: the server must find the connection broken while it writes. Without care it loses one of these every other run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_bye_counts_though_a_reset_is_right_behind_it() {
    let desk = Desk::start().await;
    let (mut alice, mut first) = call(&desk).await;
    let sid = published(&mut first).await;
    let reason = DisconnectReason::ClientInitiated.into();
    for round in 0..ROUNDS {
        let mut carol = desk.join("room", &format!("carol {round}"), Some(offer_receiving(1))).await;
        carol.answer().await;
        desk.connect_all().await;
        for n in 0..20 {
            alice.ask(Ask::Mute(MuteTrackRequest { sid: sid.clone(), muted: n % 2 == 0 })).await;
        }
        carol.ask(Ask::Leave(LeaveRequest { reason, ..LeaveRequest::default() })).await;
        carol.reset();
        let gone = participant_info::State::Disconnected as i32;
        let told = alice
            .until(|told| matches!(told, Told::Update(u) if u.participants.iter().any(|p| p.state == gone)))
            .await;
        let Told::Update(update) = told else { unreachable!() };
        assert_eq!(update.participants[0].disconnect_reason(), DisconnectReason::ClientInitiated, "{round}");
    }
}

#[tokio::test]
async fn the_same_identity_again_takes_the_place_of_the_first() {
    let desk = Desk::start().await;
    let mut first = desk.join("room", "alice", None).await;
    let second = desk.join("room", "alice", None).await;
    let told = first.until(|told| matches!(told, Told::Leave(_))).await;
    let Told::Leave(leave) = told else { unreachable!() };
    assert_eq!(leave.reason, DisconnectReason::DuplicateIdentity as i32);
    assert_eq!(leave.action, leave_request::Action::Disconnect as i32);
    first.closed().await;
    assert!(second.join.unwrap().other_participants.is_empty());
}

#[tokio::test]
async fn a_resume_is_sent_back_to_join_anew() {
    let desk = Desk::start().await;
    let mut lost = desk.resume("room", "alice").await;
    let told = lost.until(|_| true).await;
    let Told::Leave(leave) = told else { panic!("{told:?}") };
    assert_eq!(leave.reason, DisconnectReason::StateMismatch as i32);
    assert_eq!(leave.action, leave_request::Action::Reconnect as i32);
    lost.closed().await;
}

#[tokio::test]
async fn a_stale_answerless_offer_is_refused_with_a_clear_leave() {
    let desk = Desk::start().await;
    let mut alice = desk.join("room", "alice", None).await;
    let offer =
        SessionDescription { r#type: "offer".into(), sdp: "nonsense".into(), id: 1, ..Default::default() };
    alice.ask(Ask::Offer(offer)).await;
    let told = alice.until(|told| matches!(told, Told::Leave(_))).await;
    let Told::Leave(leave) = told else { unreachable!() };
    assert_eq!(leave.reason, DisconnectReason::JoinFailure as i32);
    alice.closed().await;
}

#[tokio::test]
async fn only_quiet_clients_are_pinged() {
    let desk = Desk::start().await;
    let mut quiet = desk.join("room", "quiet", None).await;
    let mut lively = desk.join("another room", "lively", None).await;
    let time = Duration::from_secs(11);
    assert_eq!(tokio::join!(quiet.pings(time, false), lively.pings(time, true)), (1, 0));
}

#[tokio::test]
async fn text_frames_are_answered_in_json() {
    let desk = Desk::start().await;
    let mut alice = desk.join("room", "alice", None).await;
    alice.send_text(r#"{"pingReq":{"timestamp":"5","rtt":"1"}}"#).await;
    let text = alice.text().await;
    assert!(text.contains(r#""pongResp":{"lastPingTimestamp":"5""#), "{text}");
}
