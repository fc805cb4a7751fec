//! The claims of LiveKit's access tokens.
//!
//! What is unset matters: publishing and subscribing are granted unless refused, updating one's own metadata is not.

use std::collections::HashMap;

use auralink_livekit::{RoomConfiguration, TrackSource};
use serde::{Deserialize, Serialize};

/// Enough of a token to choose the key that verifies it.
#[derive(Deserialize, Debug)]
pub(super) struct Issuer {
    #[serde(default)]
    pub(super) iss: String,
}

/// All claims AuraLink reads or writes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Claims {
    /// API key.
    pub iss: String,
    /// Participant identity.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sub: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "whole_seconds")]
    pub exp: Option<f64>,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "whole_seconds")]
    pub nbf: Option<f64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    pub video: VideoGrant,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_config: Option<RoomConfiguration>,
    /// Base64 of the SHA-256 of the body this token goes with; of webhooks.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub metadata: String,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    pub attributes: HashMap<String, String>,
}

fn whole_seconds<S: serde::Serializer>(time: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(time.unwrap_or_default() as i64)
}

/// What a token allows on rooms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VideoGrant {
    pub room_create: bool,
    pub room_list: bool,
    pub room_record: bool,
    pub room_admin: bool,
    pub room_join: bool,
    pub room: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_publish: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_subscribe: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_publish_data: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub can_publish_sources: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_update_own_metadata: Option<bool>,
    pub hidden: bool,
    pub recorder: bool,
    pub agent: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_subscribe_metrics: Option<bool>,
}

impl VideoGrant {
    pub fn may_publish(&self) -> bool {
        self.can_publish.unwrap_or(true)
    }

    pub fn may_subscribe(&self) -> bool {
        self.can_subscribe.unwrap_or(true)
    }

    /// Follows `canPublish` when unset.
    pub fn may_publish_data(&self) -> bool {
        self.can_publish_data.unwrap_or_else(|| self.may_publish())
    }

    pub fn may_update_own_metadata(&self) -> bool {
        self.can_update_own_metadata.unwrap_or(false)
    }

    /// The sources allowed; empty means all of them.
    pub fn sources(&self) -> Vec<TrackSource> {
        self.can_publish_sources
            .iter()
            .filter_map(|name| TrackSource::from_str_name(&name.to_ascii_uppercase()))
            .collect()
    }

    /// Whether a track of this source may be published.
    pub fn may_publish_source(&self, source: TrackSource) -> bool {
        self.may_publish() && (self.can_publish_sources.is_empty() || self.sources().contains(&source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_grants_allow_media_and_data_but_not_metadata() {
        let grant: VideoGrant = serde_json::from_str(r#"{"roomJoin":true,"room":"r"}"#).unwrap();
        assert!(grant.may_publish() && grant.may_subscribe() && grant.may_publish_data());
        assert!(!grant.may_update_own_metadata());
    }

    #[test]
    fn data_follows_publishing_when_unset() {
        let grant: VideoGrant = serde_json::from_str(r#"{"canPublish":false}"#).unwrap();
        assert!(!grant.may_publish_data());
        let grant: VideoGrant =
            serde_json::from_str(r#"{"canPublish":false,"canPublishData":true}"#).unwrap();
        assert!(grant.may_publish_data());
    }

    #[test]
    fn sources_restrict_when_given() {
        let grant: VideoGrant =
            serde_json::from_str(r#"{"canPublishSources":["camera","screen_share"]}"#).unwrap();
        assert!(grant.may_publish_source(TrackSource::Camera));
        assert!(!grant.may_publish_source(TrackSource::Microphone));
    }

    #[test]
    fn room_configuration_reads_either_case() {
        let claims: Claims =
            serde_json::from_str(r#"{"roomConfig":{"empty_timeout":7,"departureTimeout":8}}"#).unwrap();
        let config = claims.room_config.unwrap();
        assert_eq!((config.empty_timeout, config.departure_timeout), (7, 8));
    }
}
