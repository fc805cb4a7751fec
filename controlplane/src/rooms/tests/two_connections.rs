//! Clients that receive on a peer connection of its own.

use super::*;

impl Stage {
    fn join_dual(&mut self, identity: &str, grant: VideoGrant) -> ParticipantKey {
        let settings = ConnectionSettings { auto_subscribe: true, ..ConnectionSettings::default() };
        let params =
            JoinParams { identity: identity.into(), grant, settings, dual: true, ..JoinParams::default() };
        self.try_join(params).unwrap()
    }

    fn downlink(&self, key: ParticipantKey) -> TransportId {
        self.room.participants[&key].downlink.as_ref().unwrap().transport
    }

    /// Answers the latest offer.
    fn answer(&mut self, key: ParticipantKey) {
        let offer = self.told(key).into_iter().rev().find_map(|told| match told {
            Told::Offer(offer) => Some(offer.clone()),
            _ => None,
        });
        let offer = offer.unwrap();
        let sdp = offer.sdp.replace("a=sendonly", "a=recvonly").replace("actpass", "active");
        let answer = SessionDescription { r#type: "answer".into(), sdp, ..offer };
        self.ask(key, Ask::Answer(answer));
    }
}

#[test]
fn the_server_offers_at_once_and_the_receiving_connection_makes_active() {
    let mut stage = Stage::new();
    let alice = stage.join_dual("alice", VideoGrant::default());
    assert!(matches!(stage.told(alice)[0], Told::Join(join) if join.subscriber_primary));
    assert!(stage.told(alice).iter().any(|told| matches!(told, Told::Offer(offer) if offer.id == 1)));
    let (publisher, downlink) = (stage.transport(alice), stage.downlink(alice));
    assert_eq!(publisher.shard(), downlink.shard());
    stage.answer(alice);
    stage.ask(alice, Ask::Offer(offer(1, 1, &[])));
    let state = |stage: &Stage| stage.room.participants[&alice].state;
    stage.event(Event::TransportConnected { transport: publisher });
    assert_eq!(state(&stage), participant_info::State::Joined);
    stage.event(Event::TransportConnected { transport: downlink });
    assert_eq!(state(&stage), participant_info::State::Active);
}

#[test]
fn tracks_come_with_an_offer_and_flow_after_its_answer() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.join("alice"), stage.join_dual("bob", VideoGrant::default()));
    stage.answer(bob);
    let (sid, track) = stage.publish(alice);
    let downlink = stage.downlink(bob);
    let flows = |stage: &Stage| {
        stage.commands.iter().any(|command| match command {
            Command::ApplyTransport(spec) => {
                spec.id == downlink && spec.send.iter().any(|s| s.track == Some(track))
            }
            _ => false,
        })
    };
    assert!(!flows(&stage));
    let offered =
        stage.told(bob).iter().any(|told| matches!(told, Told::Offer(offer) if offer.sdp.contains(&sid)));
    assert!(offered);
    stage.answer(bob);
    assert!(flows(&stage));
    let intent = stage
        .commands
        .iter()
        .any(|c| matches!(c, Command::SetIntent { transport, .. } if *transport == downlink));
    assert!(intent);
    assert!(!stage.demanded(bob));
}

#[test]
fn data_is_sent_on_the_receiving_connection_and_taken_from_the_other() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.join("alice"), stage.join_dual("bob", VideoGrant::default()));
    let (from, downlink) = (stage.transport(alice), stage.downlink(bob));
    stage.event(Event::TransportConnected { transport: downlink });
    let payload = Bytes::from(DataPacket::default().encode_to_vec());
    stage.forget();
    stage.event(Event::Data { transport: from, channel: DataChannel::Lossy, payload: payload.clone() });
    let to = |stage: &Stage| match stage.commands.last() {
        Some(Command::SendData { transports, .. }) => transports.clone(),
        _ => Vec::new(),
    };
    assert_eq!(to(&stage), [downlink]);
    let transport = stage.transport(bob);
    stage.event(Event::Data { transport, channel: DataChannel::Lossy, payload });
    assert_eq!(to(&stage), [from]);
}

#[test]
fn who_may_not_subscribe_is_active_by_its_only_connection() {
    let mut stage = Stage::new();
    let grant = VideoGrant { can_subscribe: Some(false), ..VideoGrant::default() };
    let alice = stage.join_dual("alice", grant);
    assert!(matches!(stage.told(alice)[0], Told::Join(join) if !join.subscriber_primary));
    assert!(!stage.told(alice).iter().any(|told| matches!(told, Told::Offer(_))));
    let transport = stage.transport(alice);
    stage.event(Event::TransportConnected { transport });
    assert_eq!(stage.room.participants[&alice].state, participant_info::State::Active);
}

#[test]
fn both_connections_go_with_their_participant() {
    let mut stage = Stage::new();
    let alice = stage.join_dual("alice", VideoGrant::default());
    stage.answer(alice);
    stage.ask(alice, Ask::Offer(offer(1, 1, &[])));
    assert_eq!((stage.held.len(), stage.routed.len()), (2, 2));
    stage.ask(alice, Ask::Leave(Default::default()));
    assert_eq!((stage.held.len(), stage.routed.len()), (0, 0));
}

#[test]
fn an_answer_nobody_waits_for_harms_nothing() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    stage.ask(alice, Ask::Answer(offer(1, 1, &[])));
    assert!(stage.room.participants.contains_key(&alice));
}
