//! One participant as its room knows it: identity, permissions, tracks, wishes, and the negotiator of its transport.

use std::collections::HashMap;
use std::time::Instant;

use auralink_livekit::{
    AddTrackRequest, ClientInfo, ConnectionSettings, ParticipantInfo, ParticipantPermission,
    SessionDescription, SubscriptionPermission, UpdateTrackSettings, participant_info,
};
use auralink_proto::TransportId;

use super::track::Track;
use crate::auth::VideoGrant;
use crate::negotiator::Negotiator;

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
    /// When the token expires, in seconds since 1970.
    pub token_expiry_s: f64,
    /// `kind` of the token.
    pub kind: participant_info::Kind,
    pub client: ClientInfo,
    pub settings: ConnectionSettings,
    pub add_tracks: Vec<AddTrackRequest>,
    pub offer: Option<SessionDescription>,
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
    /// When the signalling connection ended.
    pub signal_closed: Option<Instant>,
    pub tracks: Vec<Track>,
    /// Wishes by track sid, against `auto_subscribe`.
    pub subscriptions: HashMap<String, bool>,
    pub track_settings: HashMap<String, UpdateTrackSettings>,
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

    /// Whether others see it.
    pub fn is_visible(&self) -> bool {
        !self.grant.hidden
    }

    /// Whether this participant asked for a track, or gets it without asking.
    pub fn wishes(&self, track_sid: &str) -> bool {
        self.grant.may_subscribe()
            && self.subscriptions.get(track_sid).copied().unwrap_or(self.settings.auto_subscribe)
    }
}
