//! Rooms without I/O: what participants are told, and what shards are commanded.

mod admin;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use auralink_livekit::prost::Message as _;
use auralink_livekit::signal_request::Message as Ask;
use auralink_livekit::signal_response::Message as Told;
use auralink_livekit::{
    AddTrackRequest, ClientInfo, ConnectionSettings, DataPacket, DisconnectReason, ParticipantInfo,
    SessionDescription, SignalRequest, SubscriptionError, SubscriptionPermission, UpdateParticipantMetadata,
    UpdateSubscription, UpdateTrackSettings, UserPacket, data_packet, leave_request, participant_info,
};
use auralink_proto::{
    Candidate, CloseReason, Codec, Command, DataChannel, Event, Fingerprint, Intent, Level, RoomId, ShardId,
    TrackId, TransportId,
};
use bytes::Bytes;
use proptest::prelude::*;

use super::join::JoinError;
use super::notices::Notice;
use super::participant::{JoinParams, ParticipantKey};
use super::room::{Mint, Output, Room, RoomParams, Turn};
use crate::auth::{Keys, VideoGrant};
use crate::config::Limit;
use crate::negotiator::Random;
use crate::negotiator::codec::Enabled;
use crate::telemetry::Telemetry;

mod backup;
mod coming_back;
mod data_tracks;
mod dynacast;
mod two_connections;
mod updates;

struct Counted(u64);

impl Random for Counted {
    fn bits(&mut self) -> u32 {
        self.0 += 1;
        self.0 as u32
    }

    fn word(&mut self, len: usize) -> String {
        self.0 += 1;
        format!("{:0>len$}", self.0)
    }
}

impl Mint for Counted {
    fn transport(&mut self, _room: RoomId, ordinal: usize) -> TransportId {
        self.0 += 1;
        // Neighbours live on different shards.
        TransportId::new(ShardId((ordinal % 2) as u8), self.0)
    }

    fn track(&mut self, transport: TransportId) -> TrackId {
        self.0 += 1;
        TrackId::new(transport.shard(), self.0)
    }

    fn candidates(&self, _shard: ShardId) -> Vec<Candidate> {
        vec![Candidate::udp("10.77.0.1:7882".parse().unwrap())]
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint([1; 32])
    }
}

/// A room with a clock that is moved by hand and shards that acknowledge at once.
struct Stage {
    room: Room,
    mint: Counted,
    telemetry: Telemetry,
    now: Instant,
    keys: u64,
    told: Vec<(ParticipantKey, Told)>,
    commands: Vec<Command>,
    closed: Vec<ParticipantKey>,
    notices: Vec<Notice>,
    /// What events are routed for, and transports the shards hold.
    routed: BTreeSet<u64>,
    held: BTreeSet<TransportId>,
}

const ONE: &str = "a=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10\r\n";

/// An offer of audio sections: received, and sent under the identifiers given.
fn offer(id: u32, receiving: usize, sending: &[&str]) -> SessionDescription {
    let head = format!(
        "c=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\na=ice-pwd:0123456789abcdefghijkl\r\na=setup:actpass\r\n\
         a=fingerprint:sha-256 {}\r\n",
        ["0A"; 32].join(":")
    );
    let mut directions = vec!["a=recvonly\r\n".to_owned(); receiving];
    directions.extend(sending.iter().map(|cid| match *cid {
        "" => "a=inactive\r\n".to_owned(),
        cid => format!("a=sendonly\r\na=msid:s {cid}\r\n"),
    }));
    let mids: Vec<String> = (0..directions.len()).map(|mid| mid.to_string()).collect();
    let mut sdp =
        format!("v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\n", mids.join(" "));
    for (mid, direction) in directions.iter().enumerate() {
        sdp += &format!("m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:{mid}\r\n{head}{ONE}{direction}");
    }
    SessionDescription { r#type: "offer".into(), sdp, id, ..SessionDescription::default() }
}

impl Stage {
    fn new() -> Self {
        Self::with_max(0)
    }

    fn with_max(max_participants: u32) -> Self {
        let (mut mint, telemetry, now) = (Counted(0), Telemetry::default(), Instant::now());
        let params = RoomParams {
            id: RoomId::new(ShardId(0), 1),
            sid: "RM_1".into(),
            name: "room".into(),
            metadata: String::new(),
            empty_timeout_s: 300,
            departure_timeout_s: 20,
            max_participants,
            created_unix_ms: 0,
            region: String::new(),
            node_sid: "ND_1".into(),
            limit: Limit::default(),
            keys: Keys::new([("key".to_owned(), "secret".to_owned())].into()),
            extras: Default::default(),
            codecs: Enabled::default(),
            ice_servers: Arc::default(),
        };
        let room = Room::new(
            params,
            &mut Turn { now, unix_ms: 0, mint: &mut mint, telemetry: &telemetry, out: &mut Vec::new() },
        );
        Self {
            room,
            mint,
            telemetry,
            now,
            keys: 0,
            told: Vec::new(),
            commands: Vec::new(),
            closed: Vec::new(),
            notices: Vec::new(),
            routed: BTreeSet::new(),
            held: BTreeSet::new(),
        }
    }

    /// One turn, and after it those its negotiators wait for.
    fn turn<T>(&mut self, act: impl FnOnce(&mut Room, &mut Turn<'_>) -> T) -> T {
        let done = self.turn_once(act);
        while let Some(due) = self.room.next_due().filter(|due| *due <= self.now + Duration::from_secs(1)) {
            self.now = self.now.max(due);
            self.turn_once(|room, turn| room.handle_due(turn));
        }
        done
    }

    fn turn_once<T>(&mut self, act: impl FnOnce(&mut Room, &mut Turn<'_>) -> T) -> T {
        let mut out = Vec::new();
        let mut turn = Turn {
            now: self.now,
            unix_ms: 0,
            mint: &mut self.mint,
            telemetry: &self.telemetry,
            out: &mut out,
        };
        let done = act(&mut self.room, &mut turn);
        let mut acknowledgements = Vec::new();
        for output in out {
            match output {
                Output::Signal(to, message) => {
                    self.told.extend(to.into_iter().map(|key| (key, message.message.clone().unwrap())));
                }
                Output::Command(_, command) => {
                    if let Command::ApplyTransport(spec) = &command {
                        self.held.insert(spec.id);
                        acknowledgements
                            .push(Event::TransportApplied { transport: spec.id, version: spec.version });
                    }
                    if let Command::RemoveTransport(id) = &command {
                        self.held.remove(id);
                    }
                    self.commands.push(command);
                }
                Output::Close(key) => self.closed.push(key),
                Output::RouteTransport(id, on) => self.route(id.as_u64(), on),
                Output::RouteTrack(id, on) => self.route(id.as_u64(), on),
                Output::Notice(notice) => self.notices.push(*notice),
            }
        }
        for event in acknowledgements {
            self.event(event);
        }
        done
    }

    fn route(&mut self, id: u64, on: bool) {
        if on {
            assert!(self.routed.insert(id));
        } else {
            self.routed.remove(&id);
        }
    }

    fn try_join(&mut self, params: JoinParams) -> Result<ParticipantKey, JoinError> {
        self.keys += 1;
        let key = ParticipantKey(self.keys);
        self.turn(|room, turn| room.handle_join(key, params, turn)).map(|()| key)
    }

    /// Joins, with two sections to receive on, and is connected.
    fn join(&mut self, identity: &str) -> ParticipantKey {
        self.join_with(identity, VideoGrant::default())
    }

    fn join_with(&mut self, identity: &str, grant: VideoGrant) -> ParticipantKey {
        let settings = ConnectionSettings { auto_subscribe: true, ..ConnectionSettings::default() };
        let params = JoinParams {
            identity: identity.into(),
            grant,
            settings,
            offer: Some(offer(1, 2, &[])),
            ..JoinParams::default()
        };
        let key = self.try_join(params).unwrap();
        let transport = self.transport(key);
        self.event(Event::TransportConnected { transport });
        self.event(Event::DataOpen { transport, channel: DataChannel::Reliable });
        key
    }

    /// Publishes a microphone and has it arrive. Gives its sid and identifier.
    fn publish(&mut self, key: ParticipantKey) -> (String, TrackId) {
        let cid = format!("cid{}", key.0);
        self.ask(key, Ask::AddTrack(AddTrackRequest { cid: cid.clone(), ..AddTrackRequest::default() }));
        self.ask(key, Ask::Offer(offer(2, 2, &[&cid])));
        let track = self.room.participants[&key].tracks.last().unwrap().id;
        self.event(Event::TrackLive { track, codec: Codec::Opus });
        (self.room.participants[&key].tracks.last().unwrap().info.sid.clone(), track)
    }

    fn ask(&mut self, key: ParticipantKey, message: Ask) {
        let request = SignalRequest { message: Some(message) };
        self.turn(|room, turn| room.handle_request(key, request, turn));
    }

    fn event(&mut self, event: Event) {
        self.turn(|room, turn| room.handle_event(event, turn));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.turn(|room, turn| room.handle_tick(turn));
    }

    fn transport(&self, key: ParticipantKey) -> TransportId {
        self.room.participants[&key].transport
    }

    fn sid(&self, key: ParticipantKey) -> String {
        self.room.participants[&key].sid.clone()
    }

    fn forget(&mut self) {
        self.told.clear();
        self.commands.clear();
    }

    /// What one participant was told since the last `forget`.
    fn told(&self, key: ParticipantKey) -> Vec<&Told> {
        self.told.iter().filter(|(to, _)| *to == key).map(|(_, told)| told).collect()
    }

    /// The newest news of another participant.
    fn news(&self, key: ParticipantKey, of: &str) -> Option<ParticipantInfo> {
        self.told(key)
            .into_iter()
            .filter_map(|told| match told {
                Told::Update(update) => update.participants.iter().find(|p| p.identity == of).cloned(),
                _ => None,
            })
            .next_back()
    }

    /// Tracks the shard is told to pass to a participant.
    fn passed(&self, key: ParticipantKey) -> Vec<TrackId> {
        let transport = self.transport(key);
        let newest = self.commands.iter().rev().find_map(|command| match command {
            Command::ApplyTransport(spec) if spec.id == transport => Some(spec),
            _ => None,
        });
        newest.map(|spec| spec.send.iter().filter_map(|s| s.track).collect()).unwrap_or_default()
    }

    fn demanded(&self, key: ParticipantKey) -> bool {
        self.told(key).iter().any(|told| matches!(told, Told::MediaSectionsRequirement(_)))
    }
}

#[test]
fn a_track_is_seen_once_it_is_live_and_received_after_the_next_offer() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.join("alice"), stage.join("bob"));
    stage.forget();
    stage.ask(alice, Ask::AddTrack(AddTrackRequest { cid: "c".into(), ..AddTrackRequest::default() }));
    assert!(matches!(stage.told(alice)[0], Told::TrackPublished(p) if p.cid == "c"));
    stage.ask(alice, Ask::Offer(offer(2, 2, &["c"])));
    assert_eq!(stage.news(bob, "alice"), None, "nothing is seen before media");
    let track = stage.room.participants[&alice].tracks[0].id;
    stage.event(Event::TrackLive { track, codec: Codec::Opus });
    assert_eq!(stage.news(bob, "alice").unwrap().tracks.len(), 1);
    assert!(stage.demanded(bob) && !stage.demanded(alice));
    stage.ask(bob, Ask::Offer(offer(2, 2, &[])));
    assert_eq!(stage.passed(bob), [track]);
    assert!(stage.told(alice).iter().any(|told| matches!(told, Told::TrackSubscribed(_))));
}

#[test]
fn a_client_without_the_codec_is_told_so_and_gets_no_media() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    let narrow = |id| {
        let sdp = offer(id, 2, &[]).sdp.replace("opus/48000/2", "PCMU/8000");
        SessionDescription { r#type: "offer".into(), sdp, id, ..SessionDescription::default() }
    };
    let settings = ConnectionSettings { auto_subscribe: true, ..ConnectionSettings::default() };
    let params =
        JoinParams { identity: "bob".into(), settings, offer: Some(narrow(1)), ..JoinParams::default() };
    let bob = stage.try_join(params).unwrap();
    let (sid, track) = stage.publish(alice);
    let errors = |stage: &Stage| {
        let told = stage.told(bob).into_iter().filter_map(|told| match told {
            Told::SubscriptionResponse(response) => Some((response.track_sid.clone(), response.err)),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    assert_eq!(errors(&stage), [(sid.clone(), SubscriptionError::SeCodecUnsupported.into())]);
    assert_eq!((stage.passed(bob), stage.demanded(bob)), (vec![], false));
    stage.forget();
    stage.ask(bob, Ask::Offer(narrow(2)));
    assert_eq!(errors(&stage), [], "it is said once");
    // Who asks for it again is told again, and gets it once it can.
    let update = UpdateSubscription { track_sids: vec![sid], subscribe: true, ..Default::default() };
    stage.ask(bob, Ask::Subscription(update.clone()));
    assert_eq!(errors(&stage).len(), 1);
    stage.ask(bob, Ask::Offer(offer(3, 2, &[])));
    stage.ask(bob, Ask::Subscription(update));
    stage.ask(bob, Ask::Offer(offer(4, 2, &[])));
    assert_eq!(stage.passed(bob), [track]);
}

#[test]
fn a_tracks_codec_is_what_its_media_turns_out_to_be() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.join("alice"), stage.join("bob"));
    stage.ask(alice, Ask::AddTrack(AddTrackRequest { cid: "c".into(), ..AddTrackRequest::default() }));
    stage.ask(alice, Ask::Offer(offer(2, 2, &["c"])));
    let track = stage.room.participants[&alice].tracks[0].id;
    stage.event(Event::TrackLive { track, codec: Codec::Red });
    let info = stage.news(bob, "alice").unwrap().tracks.remove(0);
    assert_eq!((info.mime_type.as_str(), info.codecs[0].mime_type.as_str()), ("audio/red", "audio/red"));
    // Whoever knows only what is inside receives it all the same.
    assert!(stage.demanded(bob));
}

#[test]
fn firefox_and_safari_negotiate_no_redundant_audio() {
    for (browser, payloads) in [("Firefox", 1), ("safari", 1), ("Chrome", 2)] {
        let mut stage = Stage::new();
        let sdp = offer(1, 1, &[]).sdp.replace("SAVPF 111", "SAVPF 111 63").replace(
            "a=fmtp:111 minptime=10\r\n",
            "a=fmtp:111 minptime=10\r\na=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\n",
        );
        let offer =
            SessionDescription { r#type: "offer".into(), sdp, id: 1, ..SessionDescription::default() };
        let client = ClientInfo { browser: browser.into(), ..ClientInfo::default() };
        let params = JoinParams { identity: "a".into(), client, offer: Some(offer), ..JoinParams::default() };
        stage.try_join(params).unwrap();
        let spec = stage.commands.iter().find_map(|command| match command {
            Command::ApplyTransport(spec) => Some(spec),
            _ => None,
        });
        assert_eq!(spec.unwrap().send[0].payloads.len(), payloads, "{browser}");
    }
}

#[test]
fn who_joins_later_receives_in_the_first_answer() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    let (sid, track) = stage.publish(alice);
    let bob = stage.join("bob");
    assert_eq!(stage.passed(bob), [track]);
    let told = stage.told(bob);
    assert!(matches!(told[0], Told::Join(join) if join.other_participants[0].tracks[0].sid == sid));
    let answer = told.iter().find_map(|told| match told {
        Told::Answer(answer) => Some(answer),
        _ => None,
    });
    assert!(answer.unwrap().mid_to_track_id.values().any(|told| *told == sid));
}

#[test]
fn unsubscribing_stops_the_track_at_once_and_subscribing_brings_it_back() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    let (sid, track) = stage.publish(alice);
    let bob = stage.join("bob");
    let wish =
        |subscribe| UpdateSubscription { track_sids: vec![sid.clone()], subscribe, ..Default::default() };
    stage.ask(bob, Ask::Subscription(wish(false)));
    assert_eq!(stage.passed(bob), []);
    assert!(stage.demanded(bob), "the client must learn that the section is free");
    stage.ask(bob, Ask::Offer(offer(2, 2, &[])));
    stage.ask(bob, Ask::Subscription(wish(true)));
    stage.ask(bob, Ask::Offer(offer(3, 2, &[])));
    assert_eq!(stage.passed(bob), [track]);
}

#[test]
fn a_publisher_decides_who_receives() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    let (sid, track) = stage.publish(alice);
    let bob = stage.join("bob");
    stage.forget();
    stage.ask(alice, Ask::SubscriptionPermission(SubscriptionPermission::default()));
    let told = stage.told(bob);
    let revoked = told.iter().any(
        |told| matches!(told, Told::SubscriptionPermissionUpdate(u) if !u.allowed && u.track_sid == sid),
    );
    assert!(revoked, "{told:?}");
    assert_eq!(stage.passed(bob), []);
    let carol = stage.join("carol");
    assert_eq!(stage.passed(carol), []);
    let everybody = SubscriptionPermission { all_participants: true, ..Default::default() };
    stage.ask(alice, Ask::SubscriptionPermission(everybody));
    stage.ask(carol, Ask::Offer(offer(2, 2, &[])));
    assert_eq!(stage.passed(carol), [track]);
}

#[test]
fn who_may_not_subscribe_receives_nothing() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    stage.publish(alice);
    let bob = stage.join_with("bob", VideoGrant { can_subscribe: Some(false), ..VideoGrant::default() });
    assert_eq!(stage.passed(bob), []);
    assert!(!stage.demanded(bob));
}

#[test]
fn settings_become_intents_of_the_section() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    let (sid, _) = stage.publish(alice);
    let bob = stage.join("bob");
    let transport = stage.transport(bob);
    stage.forget();
    let settings = UpdateTrackSettings { track_sids: vec![sid], disabled: true, ..Default::default() };
    stage.ask(bob, Ask::TrackSetting(settings));
    let intents: Vec<&Command> =
        stage.commands.iter().filter(|command| matches!(command, Command::SetIntent { .. })).collect();
    let [Command::SetIntent { transport: to, intent: Intent { paused: true, .. }, .. }] = intents[..] else {
        panic!("{intents:?}")
    };
    assert_eq!(*to, transport);
}

#[test]
fn unpublishing_is_a_section_turned_inactive() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    stage.publish(alice);
    let bob = stage.join("bob");
    stage.forget();
    stage.ask(alice, Ask::Offer(offer(3, 2, &[""])));
    assert_eq!(stage.news(bob, "alice").unwrap().tracks, []);
    assert_eq!(stage.passed(bob), []);
}

fn user_packet(payload: &[u8], to: &[&str]) -> DataPacket {
    let user = UserPacket { payload: payload.into(), ..UserPacket::default() };
    DataPacket {
        participant_identity: "somebody else".into(),
        participant_sid: "PA_forged".into(),
        sequence: 7,
        destination_identities: to.iter().map(ToString::to_string).collect(),
        value: Some(data_packet::Value::User(user)),
        ..DataPacket::default()
    }
}

fn sent(stage: &Stage) -> Vec<(Vec<TransportId>, DataPacket)> {
    let data = stage.commands.iter().filter_map(|command| match command {
        Command::SendData { transports, payload, .. } => {
            Some((transports.clone(), DataPacket::decode(payload.clone()).unwrap()))
        }
        _ => None,
    });
    data.collect()
}

#[test]
fn data_is_stamped_and_reaches_everybody_else_shard_by_shard() {
    let mut stage = Stage::new();
    let keys = ["alice", "bob", "carol", "dave"].map(|identity| stage.join(identity));
    let [alice, bob, carol, dave] = keys.map(|key| stage.transport(key));
    stage.forget();
    let payload = Bytes::from(user_packet(b"hi", &[]).encode_to_vec());
    stage.event(Event::Data { transport: alice, channel: DataChannel::Lossy, payload });
    let sent = sent(&stage);
    let to: Vec<Vec<TransportId>> = sent.iter().map(|(to, _)| to.clone()).collect();
    assert_eq!(to, [vec![carol], vec![bob, dave]], "one command a shard");
    let packet = &sent[0].1;
    assert_eq!((packet.participant_identity.as_str(), packet.sequence), ("alice", 7));
    assert_eq!(packet.participant_sid, stage.sid(keys[0]));
}

#[test]
fn addressed_data_reaches_the_addressed_alone() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.join("alice"), stage.join("bob"));
    stage.join("carol");
    let (from, to) = (stage.transport(alice), stage.transport(bob));
    let payload = Bytes::from(user_packet(b"hi", &["bob", "nobody"]).encode_to_vec());
    stage.event(Event::Data { transport: from, channel: DataChannel::Reliable, payload });
    assert_eq!(sent(&stage).into_iter().map(|(to, _)| to).collect::<Vec<_>>(), [vec![to]]);
}

#[test]
fn data_without_permission_or_sense_is_dropped_and_counted() {
    let mut stage = Stage::new();
    let mute = stage.join_with("mute", VideoGrant { can_publish_data: Some(false), ..VideoGrant::default() });
    let alice = stage.join("alice");
    let good = Bytes::from(user_packet(b"hi", &[]).encode_to_vec());
    let (mute, alice) = (stage.transport(mute), stage.transport(alice));
    let channel = DataChannel::Reliable;
    stage.event(Event::Data { transport: mute, channel, payload: good });
    stage.event(Event::Data { transport: alice, channel, payload: Bytes::from_static(&[0xff; 5]) });
    assert_eq!(sent(&stage), []);
    assert_eq!(stage.telemetry.counters.data_dropped.load(Ordering::Relaxed), 2);
}

#[test]
fn speakers_are_told_in_eighths_and_only_when_they_change() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    let (_, track) = stage.publish(alice);
    let bob = stage.join("bob");
    stage.forget();
    let mut speak = |level, active| {
        stage.forget();
        stage.event(Event::Levels { levels: vec![Level { track, level, active }] });
        let told = stage.told(bob);
        told.iter()
            .filter_map(|told| match told {
                Told::SpeakersChanged(changed) => {
                    Some((changed.speakers[0].level, changed.speakers[0].active))
                }
                _ => None,
            })
            .next()
    };
    assert_eq!(speak(0.49, true), Some((0.5, true)));
    assert_eq!(speak(0.52, true), None);
    assert_eq!(speak(0.01, true), Some((0.125, true)), "who speaks softly still speaks");
    assert_eq!(speak(0.9, false), Some((0.0, false)));
}

#[test]
fn hidden_participants_are_neither_announced_nor_counted() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    stage.forget();
    let ghost = stage.join_with("ghost", VideoGrant { hidden: true, ..VideoGrant::default() });
    assert_eq!(stage.news(alice, "ghost"), None);
    assert_eq!(stage.room.info().num_participants, 1);
    assert!(matches!(stage.told(ghost)[0], Told::Join(join) if join.other_participants.len() == 1));
    let bob = stage.join("bob");
    assert!(matches!(stage.told(bob)[0], Told::Join(join) if join.other_participants.len() == 1));
}

#[test]
fn states_rise_with_their_versions() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    let bob = stage.join("bob");
    let states: Vec<(i32, u32)> = stage
        .told(alice)
        .into_iter()
        .filter_map(|told| match told {
            Told::Update(update) => update.participants.iter().find(|p| p.identity == "bob"),
            _ => None,
        })
        .map(|info| (info.state, info.version))
        .collect();
    assert_eq!(
        states,
        [(participant_info::State::Joined as i32, 1), (participant_info::State::Active as i32, 2)]
    );
    stage.forget();
    stage.ask(bob, Ask::Leave(Default::default()));
    let info = stage.news(alice, "bob").unwrap();
    assert_eq!((info.state, info.version), (participant_info::State::Disconnected as i32, 3));
    assert_eq!(info.disconnect_reason, DisconnectReason::ClientInitiated as i32);
}

#[test]
fn own_metadata_needs_permission_and_is_told_to_all() {
    let mut stage = Stage::new();
    let grant = VideoGrant { can_update_own_metadata: Some(true), ..VideoGrant::default() };
    let (alice, bob) = (stage.join_with("alice", grant), stage.join("bob"));
    stage.forget();
    let update = UpdateParticipantMetadata {
        metadata: "m".into(),
        attributes: [("k".to_owned(), "v".to_owned())].into(),
        request_id: 3,
        ..Default::default()
    };
    stage.ask(bob, Ask::UpdateMetadata(update.clone()));
    assert_eq!(stage.news(alice, "bob"), None);
    stage.ask(alice, Ask::UpdateMetadata(update));
    let info = stage.news(bob, "alice").unwrap();
    assert_eq!((info.metadata.as_str(), info.attributes["k"].as_str()), ("m", "v"));
    let clear = UpdateParticipantMetadata {
        attributes: [("k".to_owned(), String::new())].into(),
        ..Default::default()
    };
    stage.ask(alice, Ask::UpdateMetadata(clear));
    assert!(stage.news(bob, "alice").unwrap().attributes.is_empty());
}

#[test]
fn who_is_not_active_within_a_minute_is_removed() {
    let mut stage = Stage::new();
    let late = stage.try_join(JoinParams { identity: "late".into(), ..JoinParams::default() }).unwrap();
    let alice = stage.join("alice");
    stage.pass(Duration::from_secs(60));
    assert_eq!(stage.closed, []);
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.closed, [late]);
    assert!(stage.room.participants.contains_key(&alice));
}

#[test]
fn a_vanished_client_is_removed_five_seconds_after_both_its_connections_ended() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.join("alice"), stage.join("bob"));
    let transport = stage.transport(alice);
    stage.turn(|room, turn| room.handle_signal_closed(alice, turn));
    stage.pass(Duration::from_secs(30));
    assert!(stage.room.participants.contains_key(&alice), "media still flows");
    stage.event(Event::TransportClosed { transport, reason: CloseReason::ConsentExpired });
    stage.forget();
    stage.pass(Duration::from_millis(250));
    assert_eq!(stage.news(bob, "alice").unwrap().state, participant_info::State::Disconnected as i32);
    assert!(
        stage
            .commands
            .iter()
            .any(|command| matches!(command, Command::RemoveTransport(t) if *t == transport))
    );
}

#[test]
fn lost_media_sends_a_client_that_still_signals_to_join_anew() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    let transport = stage.transport(alice);
    stage.forget();
    stage.event(Event::TransportClosed { transport, reason: CloseReason::ConsentExpired });
    let [Told::Leave(leave)] = stage.told(alice)[..] else { panic!() };
    assert_eq!(leave.action, leave_request::Action::Reconnect as i32);
    assert!(leave.can_reconnect);
}

#[test]
fn a_room_outlives_its_last_participant_by_the_departure_time_out() {
    let mut stage = Stage::new();
    assert!(!stage.room.is_over(stage.now + Duration::from_secs(299)));
    assert!(stage.room.is_over(stage.now + Duration::from_secs(300)));
    let alice = stage.join("alice");
    assert!(!stage.room.is_over(stage.now + Duration::from_secs(9_999)));
    stage.ask(alice, Ask::Leave(Default::default()));
    assert!(!stage.room.is_over(stage.now + Duration::from_secs(19)));
    assert!(stage.room.is_over(stage.now + Duration::from_secs(20)));
}

#[test]
fn a_full_room_turns_newcomers_away_but_not_returning_ones() {
    let mut stage = Stage::with_max(1);
    stage.join("alice");
    let bob = stage.try_join(JoinParams { identity: "bob".into(), ..JoinParams::default() });
    assert_eq!(bob, Err(JoinError::Full));
    stage.join("alice");
}

#[test]
fn a_fresh_token_comes_at_once_every_five_minutes_and_with_new_metadata() {
    let mut stage = Stage::new();
    let alice =
        stage.join_with("alice", VideoGrant { can_update_own_metadata: Some(true), ..VideoGrant::default() });
    let tokens = |stage: &mut Stage| {
        let told = stage.told(alice);
        let tokens: Vec<String> = told
            .iter()
            .filter_map(|told| match told {
                Told::RefreshToken(token) => Some(token.clone()),
                _ => None,
            })
            .collect();
        stage.forget();
        tokens
    };
    assert_eq!(tokens(&mut stage).len(), 1);
    stage.pass(Duration::from_secs(299));
    assert_eq!(tokens(&mut stage).len(), 0);
    stage.pass(Duration::from_secs(1));
    assert_eq!(tokens(&mut stage).len(), 1);
    stage.ask(
        alice,
        Ask::UpdateMetadata(UpdateParticipantMetadata { metadata: "m".into(), ..Default::default() }),
    );
    let token = tokens(&mut stage).pop().unwrap();
    let keys = Keys::new([("key".to_owned(), "secret".to_owned())].into());
    let caller = keys.verify(&token, 599.0).unwrap();
    assert_eq!((caller.identity(), caller.claims.metadata.as_str()), ("alice", "m"));
    assert!(caller.video().may_update_own_metadata());
    assert!(keys.verify(&token, 661.0).is_err(), "ten minutes and the leeway");
}

#[test]
fn quality_and_room_updates_come_every_five_seconds() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    stage.pass(Duration::from_millis(250));
    stage.join("bob");
    stage.forget();
    stage.pass(Duration::from_secs(4));
    let told = |stage: &Stage| {
        let told = stage.told(alice);
        let count = |meant: fn(&Told) -> bool| told.iter().filter(|told| meant(told)).count();
        (count(|t| matches!(t, Told::ConnectionQuality(_))), count(|t| matches!(t, Told::RoomUpdate(_))))
    };
    assert_eq!(told(&stage), (0, 0));
    stage.pass(Duration::from_secs(2));
    assert_eq!(told(&stage), (1, 1));
}

/// One thing that may happen, to whom, in which variation.
fn happen(stage: &mut Stage, keys: &mut Vec<ParticipantKey>, what: u8, whom: usize, how: usize) {
    if what == 0 || keys.is_empty() {
        let identity = ["a", "b", "c", "d"][how % 4];
        keys.push(stage.join(identity));
        return;
    }
    let key = keys[whom % keys.len()];
    let everywhere: Vec<(String, TrackId)> = stage
        .room
        .participants
        .values()
        .flat_map(|p| &p.tracks)
        .map(|t| (t.info.sid.clone(), t.id))
        .collect();
    let (sid, track) = everywhere
        .get(how % everywhere.len().max(1))
        .cloned()
        .unwrap_or_else(|| ("TR_x".into(), TrackId::from_u64(1)));
    let Some(transport) = stage.room.participants.get(&key).map(|p| p.transport) else { return };
    match what {
        1 => stage.ask(key, Ask::Leave(Default::default())),
        2 => stage.ask(key, Ask::AddTrack(AddTrackRequest { cid: format!("c{how}"), ..Default::default() })),
        3 => stage.ask(key, Ask::Offer(offer(0, 2, &["c0", "c1", "c2"][..how % 4]))),
        4 => stage.ask(key, Ask::Offer(offer(0, 2, &["c0", "", "c2"]))),
        5 => stage.event(Event::TrackLive { track, codec: Codec::Opus }),
        6 => {
            let update = UpdateSubscription {
                track_sids: vec![sid],
                subscribe: how.is_multiple_of(2),
                ..Default::default()
            };
            stage.ask(key, Ask::Subscription(update));
        }
        7 => {
            let all_participants = how.is_multiple_of(2);
            let permission = SubscriptionPermission { all_participants, ..Default::default() };
            stage.ask(key, Ask::SubscriptionPermission(permission));
        }
        8 => stage.turn(|room, turn| room.handle_signal_closed(key, turn)),
        9 => stage.event(Event::TransportClosed { transport, reason: CloseReason::ConsentExpired }),
        10 => stage.pass(Duration::from_secs(how as u64)),
        11 => stage.ask(key, Ask::Offer(SessionDescription { sdp: "x".into(), ..Default::default() })),
        _ => {
            let payload = Bytes::from(user_packet(b"hi", &[]).encode_to_vec());
            stage.event(Event::Data { transport, channel: DataChannel::Lossy, payload });
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_an_ended_room_leaves_nothing_behind(
        steps in prop::collection::vec((0_u8..13, 0_usize..6, 0_usize..8), 1..60)
    ) {
        let mut stage = Stage::new();
        let mut keys = Vec::new();
        for (what, whom, how) in steps {
            happen(&mut stage, &mut keys, what, whom, how);
            let present: BTreeSet<TransportId> =
                stage.room.participants.values().map(|p| p.transport).collect();
            prop_assert!(stage.held.is_subset(&present), "a shard holds what nobody owns");
            let mut identities = BTreeSet::new();
            prop_assert!(stage.room.participants.values().all(|p| identities.insert(&p.identity)));
        }
        stage.turn(|room, turn| room.close(DisconnectReason::RoomDeleted, turn));
        prop_assert!(stage.room.is_over(stage.now));
        prop_assert_eq!(stage.held.len(), 0);
        prop_assert_eq!(stage.routed.len(), 0);
        prop_assert_eq!(stage.telemetry.participants.load(Ordering::Relaxed), 0);
    }
}
