//! One participant as its room knows it: identity, permissions, tracks, wishes, and the negotiator of its transport.

use std::collections::HashMap;
use std::time::Instant;

use auralink_livekit::{
    AddTrackRequest, ClientInfo, ConnectionSettings, ParticipantInfo, ParticipantPermission,
    SessionDescription, SubscriptionPermission, SyncState, UpdateTrackSettings, participant_info,
};
use auralink_proto::{Mid, PeerKeys, TrackId, TransportId};

use super::backlog::Backlog;
use super::data_track::DataTrack;
use super::simulate::Cut;
use super::track::Track;
use crate::auth::VideoGrant;
use crate::negotiator::offerer::Offerer;
use crate::negotiator::{Negotiator, Wanted};
use crate::telemetry::livekit::Subscribed;

/// Names one signalling session of a participant within the node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ParticipantKey(pub u64);

/// What a join brings with it, checked and decoded.
#[derive(Clone, Debug, Default)]
pub struct JoinParams {
    pub identity: String,
    pub name: String,
    pub metadata: String,
    pub attributes: HashMap<String, String>,
    pub grant: VideoGrant,
    /// The API key whose secret signed the token.
    pub api_key: String,
    /// When the token expires, in seconds since 1970.
    pub token_expiry_s: f64,
    /// `kind` of the token.
    pub kind: participant_info::Kind,
    pub client: ClientInfo,
    pub settings: ConnectionSettings,
    pub add_tracks: Vec<AddTrackRequest>,
    pub offer: Option<SessionDescription>,
    /// It receives on a peer connection of its own, which the server offers.
    pub dual: bool,
    /// The keys its certificate may have.
    pub peer_keys: PeerKeys,
    /// It cannot be asked for another offer.
    pub offers_once: bool,
}

/// What a client says that comes back to its participant after its signalling broke.
#[derive(Clone, Debug, Default)]
pub struct ResumeParams {
    pub identity: String,
    pub participant_sid: String,
    pub offer: Option<SessionDescription>,
    pub sync_state: Option<SyncState>,
}

/// The second peer connection of clients that have two: they receive on it.
#[derive(Debug)]
pub struct Downlink {
    pub transport: TransportId,
    pub negotiator: Offerer,
    pub connected: bool,
}

/// A participant.
#[derive(Debug)]
pub struct Participant {
    pub key: ParticipantKey,
    pub sid: String,
    pub identity: String,
    pub name: String,
    pub metadata: String,
    pub attributes: HashMap<String, String>,
    pub grant: VideoGrant,
    /// The API key it joined with.
    pub api_key: String,
    pub kind: participant_info::Kind,
    pub client: ClientInfo,
    pub settings: ConnectionSettings,
    pub state: participant_info::State,
    /// Rises with every change others are told about.
    pub version: u32,
    pub joined_unix_ms: i64,
    pub joined: Instant,
    /// When the token it joined with expires, in seconds since 1970.
    pub token_expiry_s: f64,
    /// When it last got a fresh token.
    pub refreshed: Instant,
    pub transport: TransportId,
    pub negotiator: Negotiator,
    /// ICE and DTLS are up.
    pub connected: bool,
    pub downlink: Option<Downlink>,
    /// Reliable messages can be sent to it, and those that came before that.
    pub backlog: Backlog,
    /// The highest sequence number of its reliable messages that was passed on.
    pub last_sequence: u32,
    pub data_tracks: Vec<DataTrack>,
    /// Wishes by data track sid, against `auto_subscribe_data_track`.
    pub data_subscriptions: HashMap<String, bool>,
    /// Asked for by a simulated mishap.
    pub cut_on_resume: Option<Cut>,
    pub pretends_until: Option<Instant>,
    /// Who left while its signalling was down.
    pub missed: Vec<ParticipantInfo>,
    /// When the signalling connection ended.
    pub signal_closed: Option<Instant>,
    pub tracks: Vec<Track>,
    /// Wishes by track sid, against `auto_subscribe`.
    pub subscriptions: HashMap<String, bool>,
    pub track_settings: HashMap<String, UpdateTrackSettings>,
    /// What sections of its connection carry, counted for as long as they do.
    pub received: Vec<(TrackId, Subscribed)>,
    /// Who may have its tracks; everybody when unset.
    pub permission: Option<SubscriptionPermission>,
}

impl Participant {
    /// What others are told.
    pub fn info(&self) -> ParticipantInfo {
        let mut tracks = Vec::new();
        tracks.extend(self.tracks.iter().filter(|track| track.live).map(|track| track.info.clone()));
        ParticipantInfo {
            sid: self.sid.clone(),
            identity: self.identity.clone(),
            state: self.state.into(),
            is_publisher: !tracks.is_empty(),
            tracks,
            metadata: self.metadata.clone(),
            joined_at: self.joined_unix_ms / 1_000,
            joined_at_ms: self.joined_unix_ms,
            name: self.name.clone(),
            version: self.version,
            permission: Some(self.permission_info()),
            kind: self.kind.into(),
            attributes: self.attributes.clone(),
            client_protocol: self.client.client_protocol,
            capabilities: self.client.capabilities.clone(),
            data_tracks: self.data_tracks.iter().map(|track| track.info.clone()).collect(),
            ..ParticipantInfo::default()
        }
    }

    #[allow(deprecated, reason = "older clients read the deprecated fields")]
    fn permission_info(&self) -> ParticipantPermission {
        ParticipantPermission {
            can_subscribe: self.grant.may_subscribe(),
            can_publish: self.grant.may_publish(),
            can_publish_data: self.grant.may_publish_data(),
            can_publish_sources: self.grant.sources().into_iter().map(Into::into).collect(),
            hidden: self.grant.hidden,
            recorder: self.grant.recorder,
            can_update_metadata: self.grant.may_update_own_metadata(),
            agent: self.grant.agent,
            can_subscribe_metrics: self.grant.can_subscribe_metrics.unwrap_or(false),
            ..ParticipantPermission::default()
        }
    }

    /// Whether the connection it receives on is the one that makes it active: so it is for those with two that may subscribe.
    pub fn subscriber_primary(&self) -> bool {
        self.downlink.is_some() && self.grant.may_subscribe()
    }

    /// The transport data is sent to it on, and whether it is up.
    pub fn primary(&self) -> (TransportId, bool) {
        match &self.downlink {
            Some(downlink) if self.grant.may_subscribe() => (downlink.transport, downlink.connected),
            _ => (self.transport, self.connected),
        }
    }

    /// The transport it receives tracks on.
    pub fn receiving_transport(&self) -> TransportId {
        self.downlink.as_ref().map_or(self.transport, |downlink| downlink.transport)
    }

    pub fn transports(&self) -> impl Iterator<Item = TransportId> {
        std::iter::once(self.transport).chain(self.downlink.as_ref().map(|downlink| downlink.transport))
    }

    /// The section a track reaches it through.
    pub fn mid_of(&self, track: TrackId) -> Option<Mid> {
        match &self.downlink {
            Some(downlink) => downlink.negotiator.mid_of(track),
            None => self.negotiator.mid_of(track),
        }
    }

    /// Whether that is news.
    pub fn want(&mut self, wanted: Wanted) -> bool {
        match &mut self.downlink {
            Some(downlink) => downlink.negotiator.want(wanted),
            None => self.negotiator.want(wanted),
        }
    }

    /// A section of its connection carries `track` from now on.
    pub fn receives(&mut self, track: TrackId, subscription: Subscribed) {
        self.received.retain(|(known, _)| *known != track);
        self.received.push((track, subscription));
    }

    pub fn unwant(&mut self, track: TrackId) {
        self.received.retain(|(known, _)| *known != track);
        match &mut self.downlink {
            Some(downlink) => downlink.negotiator.unwant(track),
            None => self.negotiator.unwant(track),
        }
    }

    /// Whether others see it.
    pub fn is_visible(&self) -> bool {
        !self.grant.hidden
    }

    /// Whether this participant asked for a data track, or gets it without asking.
    pub fn wishes_data(&self, track_sid: &str) -> bool {
        let auto = self.settings.auto_subscribe_data_track.unwrap_or(false);
        self.grant.may_subscribe() && self.data_subscriptions.get(track_sid).copied().unwrap_or(auto)
    }

    /// Whether this participant asked for a track, or gets it without asking.
    pub fn wishes(&self, track_sid: &str) -> bool {
        self.grant.may_subscribe()
            && self.subscriptions.get(track_sid).copied().unwrap_or(self.settings.auto_subscribe)
    }
}
