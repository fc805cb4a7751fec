//! What server APIs do to rooms, and what the world outside is told.

use auralink_livekit::{
    MuteRoomTrackRequest, ParticipantPermission, PerformRpcRequest, RoomEndReason, RpcAck, RpcError,
    RpcResponse, SendDataRequest, TrackSource, UpdateParticipantRequest, rpc_response,
};
use tokio::sync::oneshot;

use super::*;
use crate::rooms::admin::AdminError;
use crate::rooms::notices::Happened;
use crate::rooms::rpc::{RpcFailure, builtin};

type Outcome = oneshot::Receiver<Result<String, RpcFailure>>;

impl Stage {
    fn update(&mut self, request: UpdateParticipantRequest) -> Result<ParticipantInfo, AdminError> {
        self.turn(|room, turn| room.update_participant(request, turn))
    }

    fn permit(&mut self, identity: &str, permission: ParticipantPermission) -> ParticipantInfo {
        let permission = Some(permission);
        self.update(UpdateParticipantRequest { identity: identity.into(), permission, ..Default::default() })
            .unwrap()
    }

    fn mute(&mut self, sid: &str, muted: bool, may_unmute: bool) -> Result<bool, AdminError> {
        let request = MuteRoomTrackRequest {
            identity: "alice".into(),
            track_sid: sid.into(),
            muted,
            ..Default::default()
        };
        self.turn(|room, turn| room.mute_remotely(&request, may_unmute, turn)).map(|track| track.muted)
    }

    fn call(&mut self, identity: &str, timeout_ms: u32) -> (Outcome, String) {
        let (reply, outcome) = oneshot::channel();
        let request = PerformRpcRequest {
            destination_identity: identity.into(),
            method: "greet".into(),
            payload: "hello".into(),
            response_timeout_ms: timeout_ms,
            ..PerformRpcRequest::default()
        };
        self.turn(|room, turn| room.perform_rpc(request, reply, turn)).unwrap();
        let id = match sent(self).pop().map(|(_, packet)| packet.value) {
            Some(Some(data_packet::Value::RpcRequest(call))) => call.id,
            _ => String::new(),
        };
        (outcome, id)
    }

    fn data_from(&mut self, key: ParticipantKey, value: data_packet::Value) {
        let packet = DataPacket { value: Some(value), ..DataPacket::default() };
        let (transport, payload) = (self.transport(key), packet.encode_to_vec().into());
        self.event(Event::Data { transport, channel: DataChannel::Reliable, payload });
    }

    fn happened(&self) -> Vec<(&str, &str)> {
        self.notices.iter().map(in_words).collect()
    }
}

/// What happened, and to whom.
fn in_words(notice: &Notice) -> (&str, &str) {
    match &notice.what {
        Happened::RoomStarted(_) => ("started", ""),
        Happened::RoomFinished(_) => ("finished", ""),
        Happened::Joined(who) => ("joined", &who.identity),
        Happened::Left(who) => ("left", &who.identity),
        Happened::Aborted(who) => ("aborted", &who.identity),
        Happened::Published(who, _) => ("published", &who.identity),
        Happened::Unpublished(who, _) => ("unpublished", &who.identity),
        Happened::JobStarted(job) => ("job started", &job.id),
        Happened::JobEnded(job) => ("job ended", &job.id),
    }
}

fn all_permissions() -> ParticipantPermission {
    ParticipantPermission {
        can_subscribe: true,
        can_publish: true,
        can_publish_data: true,
        ..ParticipantPermission::default()
    }
}

fn ack(id: &str) -> data_packet::Value {
    data_packet::Value::RpcAck(RpcAck { request_id: id.into() })
}

fn answer(id: &str, value: rpc_response::Value) -> data_packet::Value {
    data_packet::Value::RpcResponse(RpcResponse { request_id: id.into(), value: Some(value) })
}

#[test]
fn an_update_changes_what_it_names_and_is_told_with_a_fresh_token() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.join("alice"), stage.join("bob"));
    let update = |name: &str, metadata: &str, attributes: &[(&str, &str)]| UpdateParticipantRequest {
        identity: "alice".into(),
        name: name.into(),
        metadata: metadata.into(),
        attributes: attributes.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        ..UpdateParticipantRequest::default()
    };
    stage.update(update("Alice", "m", &[("a", "1"), ("b", "2")])).unwrap();
    stage.forget();
    let info = stage.update(update("", "", &[("a", ""), ("c", "3")])).unwrap();
    assert_eq!((info.name.as_str(), info.metadata.as_str()), ("Alice", "m"), "what is empty stays");
    let attributes: BTreeSet<(String, String)> = info.attributes.into_iter().collect();
    let expected = [("b", "2"), ("c", "3")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(attributes, expected.into());
    assert_eq!(stage.news(bob, "alice").unwrap().attributes.len(), 2);
    assert!(stage.told(alice).iter().any(|told| matches!(told, Told::RefreshToken(_))));

    let long = "x".repeat(600_000);
    let refused = [
        (update(&long[..257], "", &[]), "name length exceeds limits"),
        (update("", &long, &[]), "metadata size exceeds limits"),
        (update("", "", &[("a", &long[..70_000])]), "attribute size exceeds limits"),
    ];
    for (request, message) in refused {
        assert_eq!(stage.update(request).unwrap_err().to_string(), message);
    }
    let stranger = UpdateParticipantRequest { identity: "zoe".into(), ..Default::default() };
    assert_eq!(stage.update(stranger), Err(AdminError::NoParticipant));
}

#[test]
fn revoking_publishing_ends_the_tracks_it_no_longer_covers() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.join("alice"), stage.join("bob"));
    let (sid, track) = stage.publish(alice);
    stage.ask(bob, Ask::Offer(offer(2, 2, &[])));
    assert_eq!(stage.passed(bob), [track]);
    stage.forget();
    let sources = vec![TrackSource::Unknown.into()];
    let info =
        stage.permit("alice", ParticipantPermission { can_publish_sources: sources, ..all_permissions() });
    assert_eq!(info.tracks.len(), 1, "its source is still allowed");
    let info = stage.permit("alice", ParticipantPermission { can_publish: false, ..all_permissions() });
    assert_eq!((info.tracks.len(), info.permission.unwrap().can_publish), (0, false));
    let ended = |told: &&Told| matches!(told, Told::TrackUnpublished(told) if told.track_sid == sid);
    assert_eq!(stage.told(alice).iter().filter(|told| ended(told)).count(), 1);
    assert_eq!(stage.passed(bob), []);
    assert!(stage.news(bob, "alice").unwrap().tracks.is_empty());
    stage.ask(alice, Ask::AddTrack(AddTrackRequest { cid: "again".into(), ..Default::default() }));
    assert!(!stage.told(alice).iter().any(|told| matches!(told, Told::TrackPublished(_))));
}

#[test]
fn revoking_subscribing_ends_receiving_and_granting_it_brings_it_back() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.join("alice"), stage.join("bob"));
    let (_, track) = stage.publish(alice);
    stage.ask(bob, Ask::Offer(offer(2, 2, &[])));
    assert_eq!(stage.passed(bob), [track]);
    stage.permit("bob", ParticipantPermission { can_subscribe: false, ..all_permissions() });
    assert_eq!(stage.passed(bob), []);
    stage.permit("bob", all_permissions());
    stage.ask(bob, Ask::Offer(offer(3, 2, &[])));
    assert_eq!(stage.passed(bob), [track]);
}

#[test]
fn who_is_hidden_has_left_for_the_others() {
    let mut stage = Stage::new();
    let (_, bob) = (stage.join("alice"), stage.join("bob"));
    stage.forget();
    stage.permit("alice", ParticipantPermission { hidden: true, ..all_permissions() });
    let gone = stage.news(bob, "alice").unwrap();
    assert_eq!(gone.state(), participant_info::State::Disconnected);
    stage.permit("alice", all_permissions());
    let back = stage.news(bob, "alice").unwrap();
    assert_eq!(back.state(), participant_info::State::Active);
    assert!(back.version > gone.version);
}

#[test]
fn a_remote_mute_is_told_to_the_publisher_and_a_remote_unmute_needs_leave() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.join("alice"), stage.join("bob"));
    let (sid, _) = stage.publish(alice);
    stage.forget();
    assert_eq!(stage.mute(&sid, true, false), Ok(true));
    let told = stage.told(alice);
    let muted = told.iter().position(|told| matches!(told, Told::Mute(m) if m.sid == sid && m.muted));
    let updated = told.iter().position(|told| matches!(told, Told::Update(_)));
    assert!(muted.unwrap() < updated.unwrap(), "LiveKit's Go SDK takes back what an update says it did");
    assert!(stage.news(bob, "alice").unwrap().tracks[0].muted);
    assert_eq!(stage.mute(&sid, false, false), Err(AdminError::RemoteUnmute));
    assert!(stage.room.participants[&alice].tracks[0].info.muted);
    assert_eq!(stage.mute(&sid, false, true), Ok(false));
    assert_eq!(stage.mute("TR_unknown", true, false), Err(AdminError::NoTrack));
}

#[test]
fn data_of_the_server_has_no_sender_and_comes_once() {
    let mut stage = Stage::new();
    let keys = ["alice", "bob", "carol"].map(|identity| stage.join(identity));
    let [alice, bob, carol] = keys.map(|key| stage.transport(key));
    let mut send = |to: &[&str], nonce: u8| {
        stage.forget();
        let request = SendDataRequest {
            data: b"hi".to_vec(),
            topic: Some("t".into()),
            destination_identities: to.iter().map(ToString::to_string).collect(),
            nonce: vec![nonce; 16],
            ..SendDataRequest::default()
        };
        stage.turn(|room, turn| room.send_data(request, turn)).unwrap();
        sent(&stage)
    };
    let everybody = send(&[], 1);
    let to: Vec<TransportId> = everybody.iter().flat_map(|(to, _)| to.clone()).collect();
    assert_eq!(BTreeSet::from_iter(to), BTreeSet::from([alice, bob, carol]));
    let packet = &everybody[0].1;
    assert_eq!((packet.participant_identity.as_str(), packet.participant_sid.as_str()), ("", ""));
    let Some(data_packet::Value::User(user)) = &packet.value else { panic!() };
    assert_eq!((user.payload.as_slice(), user.topic.as_deref()), (&b"hi"[..], Some("t")));
    assert_eq!(send(&[], 1), [], "the nonce is known");
    let addressed = send(&["bob"], 2);
    assert_eq!(addressed.iter().map(|(to, _)| to.clone()).collect::<Vec<_>>(), [[bob]]);
    let long = SendDataRequest { data: vec![0; 70_000], ..SendDataRequest::default() };
    assert_eq!(stage.turn(|room, turn| room.send_data(long, turn)), Err(AdminError::DataTooLong));
}

#[test]
fn a_call_is_answered_by_the_one_called_alone() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.join("alice"), stage.join("bob"));
    let (mut outcome, id) = stage.call("alice", 0);
    let payload = |text: &str| rpc_response::Value::Payload(text.into());
    stage.data_from(bob, answer(&id, payload("forged")));
    assert!(outcome.try_recv().is_err());
    stage.data_from(alice, ack(&id));
    stage.data_from(alice, answer(&id, payload("good day")));
    assert_eq!(outcome.try_recv().unwrap(), Ok("good day".to_owned()));

    let (mut outcome, id) = stage.call("alice", 0);
    let error = RpcError { code: 101, message: "busy".into(), data: "later".into() };
    stage.data_from(alice, answer(&id, rpc_response::Value::Error(error)));
    let failure = outcome.try_recv().unwrap().unwrap_err();
    assert_eq!((failure.code, failure.message.as_str(), failure.data.as_str()), (101, "busy", "later"));
}

#[test]
fn a_call_that_is_not_answered_ends_in_time() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    let code = |outcome: &mut Outcome| outcome.try_recv().ok().map(|outcome| outcome.unwrap_err().code);
    let (mut unheard, _) = stage.call("alice", 0);
    let (mut heard, id) = stage.call("alice", 0);
    stage.data_from(alice, ack(&id));
    stage.pass(Duration::from_secs(6));
    assert_eq!((code(&mut unheard), code(&mut heard)), (None, None));
    stage.pass(Duration::from_secs(1));
    assert_eq!((code(&mut unheard), code(&mut heard)), (Some(builtin::CONNECTION_TIMEOUT), None));
    stage.pass(Duration::from_secs(7));
    assert_eq!(code(&mut heard), None);
    stage.pass(Duration::from_secs(1));
    assert_eq!(code(&mut heard), Some(builtin::RESPONSE_TIMEOUT));

    let (mut left, _) = stage.call("alice", 0);
    stage.turn(|room, turn| room.expel("alice", turn)).unwrap();
    assert_eq!(code(&mut left), Some(builtin::RECIPIENT_DISCONNECTED));
}

#[test]
fn the_rooms_metadata_is_told_at_once() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    stage.pass(Duration::from_secs(1));
    stage.forget();
    let room = stage.turn(|room, turn| room.update_room("new".into(), turn));
    assert_eq!(room.metadata, "new");
    let told = stage.told(alice);
    assert!(matches!(told[0], Told::RoomUpdate(u) if u.room.as_ref().is_some_and(|r| r.metadata == "new")));
}

#[test]
fn the_world_hears_of_everything_in_order() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    stage.publish(alice);
    stage.publish(alice);
    let unheard = JoinParams { identity: "bob".into(), ..JoinParams::default() };
    let bob = stage.try_join(unheard).unwrap();
    stage.turn(|room, turn| room.handle_signal_closed(bob, turn));
    stage.turn(|room, turn| room.close(DisconnectReason::RoomDeleted, turn));
    stage.turn(|room, turn| room.finish(turn));
    let expected = [
        ("joined", "alice"),
        ("published", "alice"),
        ("published", "alice"),
        ("aborted", "bob"),
        ("unpublished", "alice"),
        ("unpublished", "alice"),
        ("left", "alice"),
        ("finished", ""),
    ];
    assert_eq!(stage.happened(), expected);
    let Some(Happened::Left(info)) = stage.notices.get(6).map(|notice| &notice.what) else { panic!() };
    assert_eq!(info.disconnect_reason(), DisconnectReason::RoomDeleted);
    let finished = Happened::RoomFinished(RoomEndReason::RoomEndApiDelete);
    assert_eq!(stage.notices.last().unwrap().what, finished);
}
