//! Signalling that breaks and comes back.

use auralink_livekit::simulate_scenario::Scenario;
use auralink_livekit::{
    ClientConfigSetting, DataChannelReceiveState, DataTrackInfo, PublishDataTrackResponse, SimulateScenario,
    SyncState, TrackInfo, TrackPublishedResponse, UpdateDataSubscription, update_data_subscription,
};

use super::super::ice_servers::IceServers;
use super::super::participant::ResumeParams;
use super::*;
use crate::config::Config;
use crate::config::turn::Turn as Embedded;

impl Stage {
    fn lose_signal(&mut self, key: ParticipantKey) {
        self.turn(|room, turn| room.handle_signal_closed(key, turn));
    }

    fn identify(&self, key: ParticipantKey) -> ResumeParams {
        let participant = &self.room.participants[&key];
        ResumeParams {
            identity: participant.identity.clone(),
            participant_sid: participant.sid.clone(),
            ..ResumeParams::default()
        }
    }

    fn resume(&mut self, params: ResumeParams) -> Option<ParticipantKey> {
        let key = self.room.resumable(&params)?;
        self.turn(|room, turn| room.handle_resume(key, params, turn));
        Some(key)
    }

    fn send(&mut self, from: ParticipantKey, sequence: u32) {
        let value =
            data_packet::Value::User(UserPacket { payload: vec![sequence as u8], ..UserPacket::default() });
        let packet = DataPacket { sequence, value: Some(value), ..DataPacket::default() };
        let (transport, payload) = (self.transport(from), Bytes::from(packet.encode_to_vec()));
        self.event(Event::Data { transport, channel: DataChannel::Reliable, payload });
    }

    /// Sequence numbers of the messages sent to a transport.
    fn sent_to(&self, to: TransportId) -> Vec<u32> {
        let sent = self.commands.iter().filter_map(|command| match command {
            Command::SendData { transports, payload, .. } if transports.contains(&to) => {
                Some(DataPacket::decode(payload.clone()).unwrap().sequence)
            }
            _ => None,
        });
        sent.collect()
    }
}

#[test]
fn who_comes_back_hears_what_was_missed_and_keeps_media() {
    let mut stage = Stage::new();
    let (alice, bob, carol) = (stage.join("alice"), stage.join("bob"), stage.join("carol"));
    stage.lose_signal(carol);
    stage.ask(bob, Ask::Leave(Default::default()));
    stage.forget();
    let params = stage.identify(carol);
    assert_eq!(stage.resume(params), Some(carol));
    let told = stage.told(carol);
    assert!(matches!(told[0], Told::Reconnect(r) if r.server_info.is_some()));
    let Told::Update(update) = told[1] else { panic!() };
    let states: Vec<_> = update.participants.iter().map(|p| (p.identity.as_str(), p.state())).collect();
    use participant_info::State::{Active, Disconnected};
    assert_eq!(states, [("bob", Disconnected), ("alice", Active), ("carol", Active)]);
    assert!(matches!(told[2], Told::RoomUpdate(_)));
    assert!(stage.commands.is_empty(), "media goes on untouched");
    stage.pass(Duration::from_secs(60));
    assert!(stage.room.participants.contains_key(&carol) && stage.room.participants.contains_key(&alice));
}

#[test]
fn who_is_not_known_does_not_come_back() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    let params = stage.identify(alice);
    assert_eq!(stage.resume(ResumeParams { identity: "bob".into(), ..params.clone() }), None);
    assert_eq!(stage.resume(ResumeParams { participant_sid: "PA_x".into(), ..params.clone() }), None);
    stage.ask(alice, Ask::Leave(Default::default()));
    assert_eq!(stage.resume(params), None);
}

#[test]
fn who_missed_too_much_has_to_join_anew() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    stage.lose_signal(alice);
    for n in 0..300 {
        let guest = stage.join(&format!("guest{n}"));
        stage.ask(guest, Ask::Leave(Default::default()));
    }
    let params = stage.identify(alice);
    assert_eq!(stage.resume(params), None);
}

#[test]
fn a_client_that_believes_in_a_track_that_is_not_here_joins_anew() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    let (sid, _) = stage.publish(alice);
    let believes = |sid: &str| SyncState {
        publish_tracks: vec![TrackPublishedResponse {
            cid: "c".into(),
            track: Some(TrackInfo { sid: sid.into(), ..TrackInfo::default() }),
        }],
        ..SyncState::default()
    };
    stage.ask(alice, Ask::SyncState(believes(&sid)));
    assert!(stage.room.participants.contains_key(&alice));
    stage.forget();
    stage.ask(alice, Ask::SyncState(believes("TR_other")));
    let leave: i32 = leave_request::Action::Reconnect.into();
    assert!(
        matches!(stage.told(alice)[..], [Told::Leave(l)] if l.action == leave),
        "{:?}",
        stage.told(alice)
    );
}

#[test]
fn a_client_that_believes_in_a_data_track_that_is_not_here_joins_anew() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    let info = DataTrackInfo { sid: "DTR_x".into(), ..DataTrackInfo::default() };
    let publish_data_tracks = vec![PublishDataTrackResponse { info: Some(info) }];
    stage.ask(alice, Ask::SyncState(SyncState { publish_data_tracks, ..SyncState::default() }));
    assert!(!stage.room.participants.contains_key(&alice));
}

#[test]
fn wishes_in_the_state_count() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.join("alice"), stage.join("bob"));
    let (sid, track) = stage.publish(alice);
    stage.ask(bob, Ask::Offer(offer(2, 2, &[])));
    assert_eq!(stage.passed(bob), [track]);
    let update =
        update_data_subscription::Update { track_sid: "DTR_x".into(), subscribe: true, options: None };
    let state = SyncState {
        subscription: Some(UpdateSubscription {
            track_sids: vec![sid.clone()],
            subscribe: false,
            ..Default::default()
        }),
        data_subscription: Some(UpdateDataSubscription { updates: vec![update] }),
        track_sids_disabled: vec![sid.clone()],
        ..SyncState::default()
    };
    stage.ask(bob, Ask::SyncState(state));
    assert_eq!(stage.passed(bob), []);
    let bob = &stage.room.participants[&bob];
    assert!(bob.track_settings[&sid].disabled && bob.wishes_data("DTR_x"));
}

#[test]
fn numbered_messages_pass_once_and_missed_ones_are_replayed() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.join("alice"), stage.join("bob"));
    let (from, to) = (stage.sid(alice), stage.transport(bob));
    for sequence in [1, 2, 2, 1, 3] {
        stage.send(alice, sequence);
    }
    assert_eq!(stage.sent_to(to), [1, 2, 3]);
    stage.lose_signal(bob);
    stage.forget();
    let state = DataChannelReceiveState { publisher_sid: from, last_seq: 2 };
    let sync_state = Some(SyncState { datachannel_receive_states: vec![state], ..SyncState::default() });
    let params = ResumeParams { sync_state, ..stage.identify(bob) };
    stage.resume(params);
    assert_eq!(stage.sent_to(to), [3]);
    let params = stage.identify(alice);
    stage.forget();
    stage.resume(params);
    assert!(matches!(stage.told(alice)[0], Told::Reconnect(r) if r.last_message_seq == 3));
}

#[test]
fn reliable_messages_wait_for_the_receivers_channel() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    let bob = stage.try_join(JoinParams { identity: "bob".into(), ..JoinParams::default() }).unwrap();
    let transport = stage.transport(bob);
    stage.send(alice, 1);
    stage.event(Event::TransportConnected { transport });
    stage.send(alice, 2);
    assert_eq!(stage.sent_to(transport), [0; 0]);
    stage.event(Event::DataOpen { transport, channel: DataChannel::Reliable });
    stage.send(alice, 3);
    assert_eq!(stage.sent_to(transport), [1, 2, 3]);
}

fn scenario(scenario: Scenario) -> Ask {
    Ask::Simulate(SimulateScenario { scenario: Some(scenario) })
}

#[test]
fn mishaps_happen_as_asked() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.join("alice"), stage.join("bob"));
    stage.forget();
    stage.ask(alice, scenario(Scenario::SpeakerUpdate(3)));
    let speaks = |stage: &Stage| match stage.told(bob).last() {
        Some(Told::SpeakersChanged(changed)) => Some(changed.speakers[0].active),
        _ => None,
    };
    assert_eq!(speaks(&stage), Some(true));
    stage.pass(Duration::from_secs(3));
    assert_eq!(speaks(&stage), Some(false));
    stage.forget();
    stage.ask(alice, scenario(Scenario::NodeFailure(true)));
    assert_eq!(stage.told(alice).len(), 0, "who is lost with its node is told nothing");
    assert_eq!(stage.closed, [alice]);
    stage.ask(bob, scenario(Scenario::ServerLeave(true)));
    let shutdown: i32 = DisconnectReason::ServerShutdown.into();
    assert!(
        matches!(stage.told(bob).last(), Some(Told::Leave(l)) if l.reason == shutdown && !l.can_reconnect)
    );
}

#[test]
fn who_asks_for_tcp_is_offered_nothing_else_until_it_asks_for_udp() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.join("alice"), stage.join("bob"));
    let (udp, tcp) = ("10.77.0.1:7882".parse().unwrap(), "10.77.0.1:7881".parse().unwrap());
    let all = || vec![Candidate::udp(udp), Candidate::tcp(tcp)];
    stage.ask(alice, scenario(Scenario::SwitchCandidateProtocol(1)));
    stage.ask(bob, scenario(Scenario::SwitchCandidateProtocol(2)));
    assert_eq!(stage.room.candidates_for("alice", all()), [Candidate::tcp(tcp)]);
    assert_eq!(stage.room.candidates_for("bob", all()), all(), "TLS there is none of");
    assert_eq!(stage.room.candidates_for("alice", vec![Candidate::udp(udp)]).len(), 1, "TCP is off");
    stage.ask(alice, scenario(Scenario::SwitchCandidateProtocol(0)));
    assert_eq!(stage.room.candidates_for("alice", all()), all());
}

#[test]
fn who_asks_for_tls_is_told_of_relays_by_tls_and_to_use_them() {
    let mut config = Config::dev();
    config.rtc.node_ip = Some("10.77.0.1".parse().unwrap());
    config.turn = Embedded { enabled: true, domain: "turn.example.org".into(), ..Embedded::default() };
    let mut stage = Stage::new();
    stage.room.params.ice_servers = Arc::new(IceServers::new(&config));
    let join = |stage: &mut Stage| {
        stage.forget();
        let params = JoinParams { identity: "alice".into(), api_key: "key".into(), ..JoinParams::default() };
        let key = stage.try_join(params).unwrap();
        let Some(Told::Join(join)) = stage.told(key).into_iter().next() else { panic!("no join response") };
        let urls: Vec<String> = join.ice_servers.iter().flat_map(|server| server.urls.clone()).collect();
        (key, urls, join.client_configuration.as_ref().map(|configuration| configuration.force_relay()))
    };
    let both = ["turn:10.77.0.1:3478?transport=udp", "turns:turn.example.org:443?transport=tcp"];
    let (alice, urls, forced) = join(&mut stage);
    assert_eq!((urls.as_slice(), forced), (both.map(String::from).as_slice(), None));
    stage.ask(alice, scenario(Scenario::SwitchCandidateProtocol(2)));
    let (alice, urls, forced) = join(&mut stage);
    assert_eq!(
        (urls.as_slice(), forced),
        ([both[1].to_owned()].as_slice(), Some(ClientConfigSetting::Enabled))
    );
    stage.lose_signal(alice);
    stage.forget();
    // Coming back, it is told the same.
    let (alice, ..) = join(&mut stage);
    let params = stage.identify(alice);
    stage.turn(|room, turn| room.handle_resume(alice, params, turn));
    let resumed = stage.told(alice).into_iter().find_map(|told| match told {
        Told::Reconnect(response) => Some(response.clone()),
        _ => None,
    });
    let resumed = resumed.unwrap();
    assert_eq!(resumed.ice_servers[0].urls, [both[1]]);
    assert_eq!(resumed.client_configuration.unwrap().force_relay(), ClientConfigSetting::Enabled);
    stage.ask(alice, scenario(Scenario::SwitchCandidateProtocol(0)));
    assert_eq!(join(&mut stage).1, both);
}

#[test]
fn a_signal_cut_on_coming_back_is_cut_once() {
    for (asked, heard) in [
        (Scenario::DisconnectSignalOnResume(true), 1),
        (Scenario::DisconnectSignalOnResumeNoMessages(true), 0),
    ] {
        let mut stage = Stage::new();
        let alice = stage.join("alice");
        stage.ask(alice, scenario(asked));
        assert_eq!(stage.closed, [alice]);
        stage.forget();
        let params = stage.identify(alice);
        stage.resume(params.clone());
        assert_eq!((stage.told(alice).len(), stage.closed.len()), (heard, 2));
        stage.resume(params);
        assert!(stage.closed.len() == 2 && stage.room.participants[&alice].signal_closed.is_none());
    }
}
