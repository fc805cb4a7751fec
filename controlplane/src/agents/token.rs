//! The token an agent joins its room with.

use auralink_livekit::{AvailabilityResponse, Job as JobInfo, ParticipantPermission};

use super::worker::Worker;
use crate::auth::{Claims, Keys, VideoGrant};
use crate::rooms::admin::grant_from;

/// Life of the token, in seconds; the agent joins at once.
const LIFE_S: f64 = 3_600.0;
/// Attribute that says which agent a participant is.
const NAME_ATTRIBUTE: &str = "lk.agent_name";

/// What a worker that does not say so may do in a room.
pub(super) fn default_permissions() -> ParticipantPermission {
    ParticipantPermission {
        can_subscribe: true,
        can_publish: true,
        can_publish_data: true,
        can_update_metadata: true,
        ..ParticipantPermission::default()
    }
}

/// Signed with the worker's own API key; `None` when that is no longer configured.
pub(super) fn sign(
    keys: &Keys,
    worker: &Worker,
    job: &JobInfo,
    room: &str,
    answer: &AvailabilityResponse,
    unix_ms: i64,
) -> Option<String> {
    let registration = worker.registration.as_ref()?;
    let mut video = VideoGrant { room_join: true, room: room.to_owned(), ..VideoGrant::default() };
    grant_from(&mut video, &registration.permissions);
    video.agent = true;
    let now_s = unix_ms as f64 / 1_000.0;
    let mut attributes = answer.participant_attributes.clone();
    attributes.insert(NAME_ATTRIBUTE.into(), registration.agent_name.clone());
    let identity = job.state.as_ref().map(|state| state.participant_identity.clone());
    let claims = Claims {
        sub: identity.unwrap_or_default(),
        name: answer.participant_name.clone(),
        kind: "agent".into(),
        nbf: Some(now_s),
        exp: Some(now_s + LIFE_S),
        video,
        metadata: answer.participant_metadata.clone(),
        attributes,
        ..Claims::default()
    };
    keys.sign(&worker.api_key, &claims)
}
