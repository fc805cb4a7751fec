//! Data tracks: names, handles, and frames.

use auralink_livekit::request_response::Reason;
use auralink_livekit::{
    ParticipantPermission, PublishDataTrackRequest, UnpublishDataTrackRequest, UpdateDataSubscription,
    UpdateParticipantRequest, update_data_subscription,
};

use super::*;

fn publish(pub_handle: u32, name: &str) -> Ask {
    Ask::PublishDataTrackRequest(PublishDataTrackRequest {
        pub_handle,
        name: name.into(),
        ..Default::default()
    })
}

fn subscribe(track_sid: &str, subscribe: bool) -> Ask {
    let update = update_data_subscription::Update { track_sid: track_sid.into(), subscribe, options: None };
    Ask::UpdateDataSubscription(UpdateDataSubscription { updates: vec![update] })
}

impl Stage {
    fn published(&self, key: ParticipantKey) -> String {
        let sids = self.told(key).into_iter().rev().find_map(|told| match told {
            Told::PublishDataTrackResponse(response) => response.info.as_ref().map(|info| info.sid.clone()),
            _ => None,
        });
        sids.unwrap()
    }

    fn refusal(&self, key: ParticipantKey) -> Option<Reason> {
        match self.told(key).last() {
            Some(Told::RequestResponse(response)) => Some(response.reason()),
            _ => None,
        }
    }

    /// Handles a participant was told last, with the tracks they stand for.
    fn handles(&self, key: ParticipantKey) -> Vec<(u32, String)> {
        let told = self.told(key).into_iter().rev().find_map(|told| match told {
            Told::DataTrackSubscriberHandles(handles) => Some(&handles.sub_handles),
            _ => None,
        });
        told.map(|handles| handles.iter().map(|(h, t)| (*h, t.track_sid.clone())).collect())
            .unwrap_or_default()
    }
}

fn frame(handle: u16) -> Bytes {
    let mut bytes = vec![0x18, 0, 0, 0, 0, 7, 0, 9, 1, 2, 3, 4, 0xAA];
    bytes[2..4].copy_from_slice(&handle.to_be_bytes());
    bytes.into()
}

#[test]
fn frames_reach_subscribers_under_the_rooms_handle() {
    let mut stage = Stage::new();
    let (alice, bob, carol) = (stage.join("alice"), stage.join("bob"), stage.join("carol"));
    // Two publishers chose one number.
    stage.ask(alice, publish(9, "place"));
    stage.ask(bob, publish(9, "place"));
    let (first, second) = (stage.published(alice), stage.published(bob));
    assert!(first.starts_with("DTR_"));
    assert_eq!(stage.news(carol, "alice").unwrap().data_tracks[0].name, "place");
    stage.ask(carol, subscribe(&first, true));
    stage.ask(carol, subscribe(&second, true));
    let mut handles = stage.handles(carol);
    handles.sort();
    assert_eq!(handles, [(1, first.clone()), (2, second)]);
    stage.forget();
    let transport = stage.transport(bob);
    stage.event(Event::Data { transport, channel: DataChannel::Track, payload: frame(9) });
    let [Command::SendData { transports, channel: DataChannel::Track, payload }] = &stage.commands[..] else {
        panic!("{:?}", stage.commands)
    };
    assert_eq!((transports[..].to_vec(), payload), (vec![stage.transport(carol)], &frame(2)));
    stage.ask(carol, subscribe(&first, false));
    assert_eq!(stage.handles(carol).len(), 1);
}

#[test]
fn frames_that_name_nothing_go_nowhere() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.join("alice"), stage.join("bob"));
    stage.ask(alice, publish(9, "place"));
    let sid = stage.published(alice);
    stage.ask(bob, subscribe(&sid, true));
    stage.forget();
    let transport = stage.transport(alice);
    for payload in [frame(8), frame(9).slice(..11), Bytes::new()] {
        stage.event(Event::Data { transport, channel: DataChannel::Track, payload });
    }
    assert!(stage.commands.is_empty());
}

#[test]
fn bad_requests_are_told_apart() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    stage.ask(alice, publish(1, "one"));
    let long = "x".repeat(257);
    for (request, reason) in [
        (publish(0, "zero"), Reason::InvalidHandle),
        (publish(70_000, "large"), Reason::InvalidHandle),
        (publish(2, ""), Reason::InvalidName),
        (publish(2, &long), Reason::InvalidName),
        (publish(1, "two"), Reason::DuplicateHandle),
        (publish(2, "one"), Reason::DuplicateName),
        (Ask::UnpublishDataTrackRequest(UnpublishDataTrackRequest { pub_handle: 5 }), Reason::InvalidHandle),
    ] {
        stage.ask(alice, request);
        assert_eq!(stage.refusal(alice), Some(reason));
    }
    let grant = VideoGrant { can_publish_data: Some(false), ..VideoGrant::default() };
    let bob = stage.join_with("bob", grant);
    stage.ask(bob, publish(1, "one"));
    assert_eq!(stage.refusal(bob), Some(Reason::NotAllowed));
}

#[test]
fn who_may_not_publish_data_any_more_has_no_data_tracks() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.join("alice"), stage.join("bob"));
    stage.ask(alice, publish(9, "place"));
    let permission = ParticipantPermission { can_publish: true, ..ParticipantPermission::default() };
    let request = UpdateParticipantRequest {
        identity: "alice".into(),
        permission: Some(permission),
        ..UpdateParticipantRequest::default()
    };
    stage.turn(|room, turn| room.update_participant(request, turn)).unwrap();
    assert!(stage.told(alice).iter().any(|told| matches!(told, Told::UnpublishDataTrackResponse(_))));
    assert_eq!(stage.news(bob, "alice").unwrap().data_tracks, []);
}

#[test]
fn who_leaves_takes_its_data_tracks_along() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.join("alice"), stage.join("bob"));
    stage.ask(alice, publish(9, "place"));
    let sid = stage.published(alice);
    stage.ask(bob, subscribe(&sid, true));
    stage.ask(alice, Ask::Leave(Default::default()));
    assert_eq!(stage.news(bob, "alice").unwrap().data_tracks, []);
    assert!(stage.room.participants[&bob].data_subscriptions.is_empty(), "a wish for nothing takes no place");
}

#[test]
fn an_unpublished_track_is_gone_for_everybody() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.join("alice"), stage.join("bob"));
    stage.ask(alice, publish(9, "place"));
    let sid = stage.published(alice);
    stage.ask(bob, subscribe(&sid, true));
    stage.ask(alice, Ask::UnpublishDataTrackRequest(UnpublishDataTrackRequest { pub_handle: 9 }));
    assert!(matches!(stage.told(alice).iter().rev().nth(1), Some(Told::UnpublishDataTrackResponse(_))));
    assert_eq!(stage.news(bob, "alice").unwrap().data_tracks, []);
    stage.forget();
    let transport = stage.transport(alice);
    stage.event(Event::Data { transport, channel: DataChannel::Track, payload: frame(9) });
    assert!(stage.commands.is_empty());
}
