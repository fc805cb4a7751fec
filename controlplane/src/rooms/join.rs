//! Joining: admission, the join response, and what an embedded offer starts.

use std::sync::atomic::Ordering;

use auralink_livekit::{
    ClientInfo, Codec, DisconnectReason, JoinResponse, ServerInfo, leave_request, participant_info,
    server_info, signal_response,
};
use auralink_proto::Encoding;

use super::participant::{Downlink, JoinParams, Participant, ParticipantKey};
use super::room::{Output, Room, Turn};
use crate::negotiator::codec::Enabled;
use crate::negotiator::offerer::Offerer;
use crate::negotiator::{Local, Negotiator};
use crate::telemetry::count;

/// Version of LiveKit's signalling protocol spoken.
const PROTOCOL: i32 = 17;
/// The LiveKit server whose behaviour this is: clients decide by it what they may use (data streams want more than 1.8.2).
/// Our own version stands in `debug_info`.
const LIVEKIT_VERSION: &str = "1.13.5";
/// Seconds between a client's pings, and until it gives up without a pong.
pub const PING_INTERVAL_S: i32 = 5;
pub const PING_TIMEOUT_S: i32 = 15;

/// Why a room turned a participant away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JoinError {
    #[error("room is full")]
    Full,
    /// The room ended meanwhile; asking again makes a new one.
    #[error("room has ended")]
    Ended,
}

/// Codecs a room admits, as clients are told.
pub fn told_codecs(enabled: &Enabled) -> Vec<Codec> {
    let told = |encoding: Encoding| Codec { mime: encoding.mime().into(), fmtp_line: String::new() };
    enabled.told().into_iter().map(told).collect()
}

/// Codecs negotiated with one client. Firefox and Safari do worse with redundant audio than without.
fn codecs_for(enabled: &Enabled, client: &ClientInfo) -> Enabled {
    let lacks_red = ["firefox", "safari"].iter().any(|name| client.browser.eq_ignore_ascii_case(name));
    let enabled = enabled.clone();
    if lacks_red { enabled.without(Encoding::Red) } else { enabled }
}

/// What clients are told of this server.
pub fn server_info(region: &str, node_sid: &str) -> ServerInfo {
    ServerInfo {
        edition: server_info::Edition::Standard.into(),
        version: LIVEKIT_VERSION.into(),
        protocol: PROTOCOL,
        region: region.into(),
        node_id: node_sid.into(),
        debug_info: concat!("AuraLink ", env!("CARGO_PKG_VERSION")).into(),
        agent_protocol: 1,
    }
}

impl Room {
    /// Admits a participant, in place of one with the same identity.
    ///
    /// # Errors
    /// [`JoinError`]
    pub fn handle_join(
        &mut self,
        key: ParticipantKey,
        params: JoinParams,
        turn: &mut Turn<'_>,
    ) -> Result<(), JoinError> {
        let twin = self.participants.values().find(|p| p.identity == params.identity).map(|p| p.key);
        let present = self.participants.len() - usize::from(twin.is_some());
        if self.params.max_participants > 0 && present >= self.params.max_participants as usize {
            return Err(JoinError::Full);
        }
        if let Some(twin) = twin {
            self.remove(twin, DisconnectReason::DuplicateIdentity, leave_request::Action::Disconnect, turn);
        }
        let (add_tracks, offer) = (params.add_tracks.clone(), params.offer.clone());
        let participant = self.new_participant(key, params, turn);
        tracing::info!(
            room = %self.params.name,
            participant = %participant.sid,
            sdk = participant.client.sdk,
            "participant joined"
        );
        turn.telemetry.participants.fetch_add(1, Ordering::Relaxed);
        count(&turn.telemetry.counters.joins);
        for transport in participant.transports() {
            turn.out.push(Output::RouteTransport(transport, true));
            self.by_transport.insert(transport, key);
        }
        self.participants.insert(key, participant);
        self.joined();
        self.greet(key, turn);
        self.refresh_token(key, turn);
        self.announce_to_others(key, turn);
        self.subscribe_to_all(key, turn);
        for request in add_tracks {
            self.add_track(key, request, turn);
        }
        if let Some(offer) = offer {
            self.handle_offer(key, &offer, turn);
        }
        self.touched.insert(key);
        self.settle(turn);
        Ok(())
    }

    fn new_participant(
        &mut self,
        key: ParticipantKey,
        params: JoinParams,
        turn: &mut Turn<'_>,
    ) -> Participant {
        let local = self.new_transport(&params, turn);
        let transport = local.transport;
        let downlink = params.dual.then(|| {
            // Both on one shard.
            let local = self.new_transport(&params, turn);
            Downlink {
                transport: local.transport,
                negotiator: Offerer::new(local, params.grant.may_subscribe(), turn.mint),
                connected: false,
            }
        });
        self.ordinal += 1;
        Participant {
            key,
            sid: turn.mint.sid("PA_"),
            identity: params.identity,
            name: params.name,
            metadata: params.metadata,
            attributes: params.attributes,
            api_key: params.api_key,
            grant: params.grant,
            kind: params.kind,
            client: params.client,
            settings: params.settings,
            state: participant_info::State::Joined,
            version: 1,
            joined_unix_ms: turn.unix_ms,
            joined: turn.now,
            token_expiry_s: params.token_expiry_s,
            refreshed: turn.now,
            transport,
            negotiator: Negotiator::new(local, turn.mint),
            connected: false,
            downlink,
            backlog: Default::default(),
            last_sequence: 0,
            data_tracks: Vec::new(),
            data_subscriptions: Default::default(),
            cut_on_resume: None,
            pretends_until: None,
            missed: Vec::new(),
            signal_closed: None,
            tracks: Vec::new(),
            subscriptions: Default::default(),
            track_settings: Default::default(),
            received: Vec::new(),
            permission: None,
        }
    }

    fn new_transport(&self, join: &JoinParams, turn: &mut Turn<'_>) -> Local {
        let transport = turn.mint.transport(self.params.id, self.ordinal);
        Local {
            transport,
            room: self.params.id,
            fingerprint: turn.mint.fingerprint(),
            candidates: self.candidates_for(&join.identity, turn.mint.candidates(transport.shard())),
            codecs: codecs_for(&self.params.codecs, &join.client),
            peer_keys: join.peer_keys,
            offers_once: join.offers_once,
        }
    }

    /// The join response, first of all messages.
    #[allow(deprecated, reason = "older clients read the deprecated fields")]
    fn greet(&self, key: ParticipantKey, turn: &mut Turn<'_>) {
        let Some(participant) = self.participants.get(&key) else { return };
        let others = self.participants.values().filter(|p| p.key != key && p.is_visible());
        let server = server_info(&self.params.region, &self.params.node_sid);
        let (ice_servers, client_configuration) = self.surroundings(participant, turn);
        let response = JoinResponse {
            room: Some(self.info()),
            participant: Some(participant.info()),
            other_participants: others.map(Participant::info).collect(),
            server_version: server.version.clone(),
            server_region: server.region.clone(),
            ice_servers,
            subscriber_primary: participant.subscriber_primary(),
            client_configuration,
            ping_timeout: PING_TIMEOUT_S,
            ping_interval: PING_INTERVAL_S,
            server_info: Some(server),
            sif_trailer: self.sif_trailer.clone(),
            enabled_publish_codecs: told_codecs(&self.params.codecs),
            fast_publish: participant.grant.may_publish(),
            ..JoinResponse::default()
        };
        turn.signal(key, signal_response::Message::Join(response));
    }
}
