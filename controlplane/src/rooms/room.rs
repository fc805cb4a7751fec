//! The state of one room, without I/O: messages, media events and time in; messages and commands out.
//!
//! One actor owns each room (see `actor`), so nothing here locks or waits.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use auralink_livekit::{
    DisconnectReason, LeaveRequest, ParticipantInfo, Room as RoomInfo, RoomEndReason, RoomUpdate,
    SignalResponse, leave_request, participant_info, signal_response,
};
use auralink_proto::{
    Candidate, Command, DataChannel, Event, Fingerprint, MediaKind, Mid, RoomId, ShardId, TrackId,
    TransportId,
};

use super::RoomExtras;
use super::admin::AdminState;
use super::backlog::Recent;
use super::ice_servers::IceServers;
use super::notices::{Happened, Notice};
use super::participant::{Participant, ParticipantKey};
use super::simulate::Detour;
use super::updates::Gathered;
use crate::auth::Keys;
use crate::config::Limit;
use crate::negotiator::codec::Enabled;
use crate::negotiator::{Action, Random};
use crate::telemetry::{Telemetry, count};

/// A participant whose transport is not up by then is removed.
const ACTIVE_BY: Duration = Duration::from_secs(60);
/// How long a participant without signalling and without transport is kept.
const CLEANUP_AFTER: Duration = Duration::from_secs(5);
/// Room updates go out at most this often.
const ROOM_UPDATE_EVERY: Duration = Duration::from_secs(5);
/// Connection quality is told this often.
const QUALITY_EVERY: Duration = Duration::from_secs(5);
/// Departures kept for a participant whose signalling is down.
pub(super) const MISSED_MAX: usize = 256;

/// Names and numbers given by the data plane, and randomness.
pub trait Mint: Random {
    fn transport(&mut self, room: RoomId, ordinal: usize) -> TransportId;
    fn track(&mut self, transport: TransportId) -> TrackId;
    fn candidates(&self, shard: ShardId) -> Vec<Candidate>;
    fn fingerprint(&self) -> Fingerprint;

    /// A public identifier such as `PA_…`.
    fn sid(&mut self, prefix: &str) -> String {
        format!("{prefix}{}", self.word(12))
    }
}

/// What a room wants done, in order.
#[derive(Clone, Debug)]
pub enum Output {
    /// To a shard.
    Command(ShardId, Command),
    /// To participants' signalling.
    Signal(Vec<ParticipantKey>, Arc<SignalResponse>),
    /// Close a participant's signalling connection once what was sent before is out.
    Close(ParticipantKey),
    /// Events of this transport belong to this room from now on, or no longer.
    RouteTransport(TransportId, bool),
    /// Events of this track belong to this room from now on, or no longer.
    RouteTrack(TrackId, bool),
    /// Tell the world outside.
    Notice(Box<Notice>),
}

/// Everything one turn of a room may use.
pub struct Turn<'a> {
    pub now: Instant,
    pub unix_ms: i64,
    pub mint: &'a mut dyn Mint,
    pub telemetry: &'a Telemetry,
    pub out: &'a mut Vec<Output>,
}

impl Turn<'_> {
    /// Sends one message to one participant.
    pub fn signal(&mut self, to: ParticipantKey, message: signal_response::Message) {
        self.signal_all(vec![to], message);
    }

    /// Sends one message to several participants.
    pub fn signal_all(&mut self, to: Vec<ParticipantKey>, message: signal_response::Message) {
        if !to.is_empty() {
            self.out.push(Output::Signal(to, Arc::new(SignalResponse { message: Some(message) })));
        }
    }
}

/// What a room is created with.
#[derive(Clone, Debug)]
pub struct RoomParams {
    pub id: RoomId,
    pub sid: String,
    pub name: String,
    pub metadata: String,
    pub empty_timeout_s: u32,
    pub departure_timeout_s: u32,
    /// 0 for no limit.
    pub max_participants: u32,
    pub created_unix_ms: i64,
    pub region: String,
    pub node_sid: String,
    pub limit: Limit,
    /// The first signs fresh tokens.
    pub keys: Keys,
    pub extras: RoomExtras,
    pub codecs: Enabled,
    pub ice_servers: Arc<IceServers>,
}

/// A room.
#[derive(Debug)]
pub struct Room {
    pub(super) params: RoomParams,
    pub(super) participants: BTreeMap<ParticipantKey, Participant>,
    pub(super) by_transport: HashMap<TransportId, ParticipantKey>,
    /// Identities that asked to be reached in one way alone.
    pub(super) detours: BTreeMap<String, Detour>,
    pub(super) sif_trailer: Vec<u8>,
    pub(super) recent: Recent,
    /// Transports placed so far.
    pub(super) ordinal: usize,
    /// Participants whose negotiators changed in this turn.
    pub(super) touched: BTreeSet<ParticipantKey>,
    /// When negotiators want to be looked at though nothing changed.
    due: BTreeSet<(Instant, ParticipantKey)>,
    /// Tracks whose demand is to be looked at now, and with time.
    pub(super) demands_changed: BTreeSet<TrackId>,
    pub(super) demands_waiting: BTreeSet<TrackId>,
    /// Since when nobody is in it, and how long that may last.
    idle: Option<(Instant, Duration)>,
    room_changed: bool,
    room_told: Option<Instant>,
    quality_told: Instant,
    pub(super) gathered: Gathered,
    pub(super) admin: AdminState,
    /// Why it ends, when it does.
    pub(super) end_reason: RoomEndReason,
}

impl Room {
    pub fn new(params: RoomParams, turn: &mut Turn<'_>) -> Self {
        let empty = Duration::from_secs(params.empty_timeout_s.into());
        let room = Self {
            sif_trailer: turn.mint.word(16).into_bytes(),
            params,
            recent: Recent::default(),
            participants: BTreeMap::new(),
            by_transport: HashMap::new(),
            detours: BTreeMap::new(),
            ordinal: 0,
            touched: BTreeSet::new(),
            due: BTreeSet::new(),
            demands_changed: BTreeSet::new(),
            demands_waiting: BTreeSet::new(),
            idle: Some((turn.now, empty)),
            room_changed: false,
            room_told: None,
            quality_told: turn.now,
            gathered: Gathered::default(),
            admin: AdminState::default(),
            end_reason: RoomEndReason::RoomEndIdleTimeout,
        };
        room.notice(Happened::RoomStarted(room.params.extras.agents.clone()), turn);
        room
    }

    /// What clients and server APIs are told of the room.
    pub fn info(&self) -> RoomInfo {
        let visible = self.participants.values().filter(|p| p.is_visible());
        let publishers = visible.clone().filter(|p| p.tracks.iter().any(|track| track.live)).count();
        RoomInfo {
            sid: self.params.sid.clone(),
            name: self.params.name.clone(),
            empty_timeout: self.params.empty_timeout_s,
            departure_timeout: self.params.departure_timeout_s,
            max_participants: self.params.max_participants,
            creation_time: self.params.created_unix_ms / 1_000,
            creation_time_ms: self.params.created_unix_ms,
            enabled_codecs: super::join::told_codecs(&self.params.codecs),
            metadata: self.params.metadata.clone(),
            num_participants: visible.count() as u32,
            num_publishers: publishers as u32,
            active_recording: self.participants.values().any(|p| p.grant.recorder),
            ..RoomInfo::default()
        }
    }

    /// What server APIs are told of the participants.
    pub fn participant_infos(&self) -> Vec<ParticipantInfo> {
        self.participants.values().map(Participant::info).collect()
    }

    /// Whether the room has outlived its time-outs.
    pub fn is_over(&self, now: Instant) -> bool {
        self.idle.is_some_and(|(since, patience)| now.duration_since(since) >= patience)
    }

    pub(super) fn others(&self, key: ParticipantKey) -> Vec<ParticipantKey> {
        self.participants.keys().copied().filter(|other| *other != key).collect()
    }

    pub(super) fn joined(&mut self) {
        self.idle = None;
        self.room_changed = true;
    }

    /// Something the data plane reports.
    pub fn handle_event(&mut self, event: Event, turn: &mut Turn<'_>) {
        match event {
            Event::TransportApplied { transport, version } => {
                self.transport_applied(transport, version, turn);
            }
            Event::TransportConnected { transport } => self.transport_connected(transport, turn),
            Event::TransportClosed { transport, reason } => {
                tracing::debug!(room = %self.params.name, %transport, ?reason, "transport closed");
                self.transport_closed(transport, reason, turn);
            }
            Event::TrackLive { track, codec } => self.track_live(track, codec, turn),
            Event::Data { transport, channel, payload } => {
                if channel == DataChannel::Track || !self.take_rpc_answer(transport, &payload) {
                    self.route_data(transport, channel, &payload, turn);
                }
            }
            Event::Levels { levels } => self.tell_levels(&levels, turn),
            Event::DataOpen { transport, channel } => self.data_open(transport, channel, turn),
            Event::Stats { .. } => {}
        }
        self.settle(turn);
    }

    /// A participant's signalling connection ended.
    pub fn handle_signal_closed(&mut self, key: ParticipantKey, turn: &mut Turn<'_>) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        participant.signal_closed.get_or_insert(turn.now);
        if participant.state != participant_info::State::Active {
            // It never got as far as media, so nothing will tell us when it is gone.
            self.remove(key, DisconnectReason::SignalClose, leave_request::Action::Disconnect, turn);
        }
        self.settle(turn);
    }

    /// Takes a participant out of the room: tells it why, tells the others, and forgets its transport.
    pub fn remove(
        &mut self,
        key: ParticipantKey,
        reason: DisconnectReason,
        action: leave_request::Action,
        turn: &mut Turn<'_>,
    ) {
        let Some(mut participant) = self.participants.remove(&key) else { return };
        tracing::info!(room = %self.params.name, participant = %participant.sid, ?reason, "participant left");
        let urgency = participant.urgency();
        turn.telemetry.participants.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        let stayed = turn.now.saturating_duration_since(participant.joined);
        turn.telemetry.calls.left(participant.client.protocol, stayed);
        if participant.signal_closed.is_none() {
            turn.signal(key, signal_response::Message::Leave(leave(reason, action)));
        }
        turn.out.push(Output::Close(key));
        self.admin.rpcs.handle_left(key);
        for track in &participant.tracks {
            for other in self.participants.values_mut() {
                track.ids().for_each(|id| other.unwant(id));
                other.subscriptions.remove(&track.info.sid);
                other.track_settings.remove(&track.info.sid);
                self.touched.insert(other.key);
            }
            turn.out.extend(track.ids().map(|id| Output::RouteTrack(id, false)));
        }
        self.forget_lacking(key);
        for track in std::mem::take(&mut participant.data_tracks) {
            self.forget_data_track(&track.info.sid);
        }
        for transport in participant.transports() {
            self.by_transport.remove(&transport);
            turn.out.push(Output::Command(transport.shard(), Command::RemoveTransport(transport)));
            turn.out.push(Output::RouteTransport(transport, false));
        }
        let was_active = participant.state == participant_info::State::Active;
        participant.state = participant_info::State::Disconnected;
        participant.version += 1;
        let mut info = participant.info();
        info.disconnect_reason = reason.into();
        let tracks = std::mem::take(&mut info.tracks);
        for track in tracks {
            self.notice(Happened::Unpublished(info.clone(), track), turn);
        }
        let left = if was_active { Happened::Left } else { Happened::Aborted };
        self.notice(left(info.clone()), turn);
        if participant.is_visible() {
            for other in self.participants.values_mut().filter(|other| other.signal_closed.is_some()) {
                // Should it come back, it must hear of this; one that missed too much cannot.
                other.missed.push(info.clone());
                other.missed.truncate(MISSED_MAX + 1);
            }
            self.announce_left(&participant, info, urgency, turn);
        }
        self.touched.remove(&key);
        let left = self.participants.values().flat_map(|p| &p.tracks).filter(|t| t.live).map(|t| t.id);
        self.demands_changed.extend(left);
        self.room_changed = true;
        if self.participants.is_empty() {
            self.idle = Some((turn.now, Duration::from_secs(self.params.departure_timeout_s.into())));
        }
    }

    /// Ends the room for everybody.
    pub fn close(&mut self, reason: DisconnectReason, turn: &mut Turn<'_>) {
        let everybody: Vec<ParticipantKey> = self.participants.keys().copied().collect();
        for key in everybody {
            self.remove(key, reason, leave_request::Action::Disconnect, turn);
        }
        self.idle = Some((turn.now, Duration::ZERO));
        self.end_reason = match reason {
            DisconnectReason::RoomDeleted => RoomEndReason::RoomEndApiDelete,
            DisconnectReason::ServerShutdown => RoomEndReason::RoomEndServerShutdown,
            _ => RoomEndReason::RoomEndUnknown,
        };
    }

    /// Time passes; called about once a second.
    pub fn handle_tick(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now;
        let mut gone = Vec::new();
        for participant in self.participants.values() {
            let late = participant.state != participant_info::State::Active
                && now.duration_since(participant.joined) > ACTIVE_BY;
            let vanished = !participant.primary().1
                && participant.signal_closed.is_some_and(|at| now.duration_since(at) > CLEANUP_AFTER);
            if late {
                gone.push((participant.key, DisconnectReason::ConnectionTimeout));
            } else if vanished {
                gone.push((participant.key, DisconnectReason::SignalClose));
            }
        }
        for (key, reason) in gone {
            self.remove(key, reason, leave_request::Action::Disconnect, turn);
        }
        if self.room_changed && self.room_told.is_none_or(|at| now.duration_since(at) >= ROOM_UPDATE_EVERY) {
            self.tell_room(turn);
        }
        self.admin.rpcs.handle_tick(now);
        if now.duration_since(self.quality_told) >= QUALITY_EVERY {
            self.quality_told = now;
            self.tell_quality(turn);
        }
        self.refresh_tokens(turn);
        self.end_pretended(turn);
        self.review_waiting_demands(turn);
        // Only a demand that brought no offer needs the clock.
        let waiting = self.participants.values().filter(|p| p.negotiator.is_waiting());
        self.touched.extend(waiting.map(|p| p.key));
        self.settle(turn);
    }

    /// Tells everybody what the room is like now.
    pub(super) fn tell_room(&mut self, turn: &mut Turn<'_>) {
        self.room_changed = false;
        self.room_told = Some(turn.now);
        let update = RoomUpdate { room: Some(self.info()) };
        turn.signal_all(
            self.participants.keys().copied().collect(),
            signal_response::Message::RoomUpdate(update),
        );
    }

    /// Lets every negotiator touched in this turn speak.
    pub(super) fn settle(&mut self, turn: &mut Turn<'_>) {
        while let Some(key) = self.touched.pop_first() {
            let mut actions = Vec::new();
            if let Some(participant) = self.participants.get_mut(&key) {
                participant.negotiator.poll(turn.now, &mut actions);
                self.due.extend(participant.negotiator.due().map(|at| (at, key)));
                if let Some(downlink) = &mut participant.downlink {
                    downlink.negotiator.poll(turn.now, turn.mint, &mut actions);
                    self.due.extend(downlink.negotiator.due().map(|at| (at, key)));
                }
            }
            self.act(key, actions, turn);
        }
        self.review_demands(turn);
    }

    /// When to call [`Self::handle_due`].
    pub fn next_due(&self) -> Option<Instant> {
        let negotiator = self.due.first().map(|(at, _)| *at);
        negotiator.into_iter().chain(self.gathered.due()).min()
    }

    /// Lets negotiators speak whose time has come, and tells what was gathered.
    pub fn handle_due(&mut self, turn: &mut Turn<'_>) {
        self.tell_gathered(turn);
        while let Some((_, key)) = self.due.first().copied().filter(|(at, _)| *at <= turn.now) {
            self.due.pop_first();
            self.touched.insert(key);
        }
        self.settle(turn);
    }

    /// Carries out what a negotiator decided.
    pub(super) fn act(&mut self, key: ParticipantKey, actions: Vec<Action>, turn: &mut Turn<'_>) {
        use auralink_livekit::{MediaSectionsRequirement, SessionDescription};
        for action in actions {
            match action {
                Action::Apply(spec) => {
                    turn.out.push(Output::Command(spec.id.shard(), Command::ApplyTransport(spec)));
                }
                Action::Answer { id, sdp, mid_to_track_id } => {
                    let answer = SessionDescription { r#type: "answer".into(), sdp, id, mid_to_track_id };
                    turn.signal(key, signal_response::Message::Answer(answer));
                }
                Action::Offer { id, sdp, mid_to_track_id } => {
                    let offer = SessionDescription { r#type: "offer".into(), sdp, id, mid_to_track_id };
                    turn.signal(key, signal_response::Message::Offer(offer));
                }
                Action::Stalled => {
                    count(&turn.telemetry.counters.negotiations_stalled);
                    let reason = DisconnectReason::ConnectionTimeout;
                    self.remove(key, reason, leave_request::Action::Reconnect, turn);
                }
                Action::Demand { audios, videos } => {
                    let demand = MediaSectionsRequirement { num_audios: audios, num_videos: videos };
                    turn.signal(key, signal_response::Message::MediaSectionsRequirement(demand));
                }
                Action::Bound { track, mid, layers } => self.track_bound(key, track, mid, layers),
                Action::Unbound { track } => self.drop_track(key, track, turn),
                Action::Attached { track, mid } => self.track_attached(key, track, mid, turn),
                Action::Unsupported { track } => self.track_unsupported(key, track, turn),
            }
        }
    }

    fn track_bound(&mut self, key: ParticipantKey, track: TrackId, mid: Mid, layers: usize) {
        let participant = self.participants.get_mut(&key);
        let Some(held) = participant.and_then(|p| p.tracks.iter_mut().find(|t| t.is(track))) else {
            return;
        };
        if held.id != track {
            // The backup's own entry is the one behind the first.
            held.info.codecs.iter_mut().skip(1).for_each(|codec| mid.as_str().clone_into(&mut codec.mid));
            return;
        }
        held.layers = layers;
        mid.as_str().clone_into(&mut held.info.mid);
        for codec in &mut held.info.codecs {
            mid.as_str().clone_into(&mut codec.mid);
        }
    }

    /// A track by its identifier, with its publisher.
    pub(super) fn find_track(&self, id: TrackId) -> Option<(&Participant, &super::track::Track)> {
        self.participants.values().find_map(|p| p.tracks.iter().find(|t| t.is(id)).map(|t| (p, t)))
    }

    /// A track by its public identifier, with its publisher.
    pub(super) fn find_track_sid(&self, sid: &str) -> Option<(&Participant, &super::track::Track)> {
        self.participants.values().find_map(|p| p.tracks.iter().find(|t| t.info.sid == sid).map(|t| (p, t)))
    }
}

/// A leave message; `can_reconnect` is what clients of old protocols read.
pub fn leave(reason: DisconnectReason, action: leave_request::Action) -> LeaveRequest {
    LeaveRequest {
        can_reconnect: action != leave_request::Action::Disconnect,
        reason: reason.into(),
        action: action.into(),
        regions: None,
    }
}

/// Letters of kinds in logs.
pub(super) fn kind_name(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Audio => "audio",
        MediaKind::Video => "video",
    }
}
