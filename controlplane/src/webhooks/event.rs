//! A webhook's body and its signature.

use auralink_livekit::{RoomEndReason, WebhookEvent};
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;

use crate::auth::{Claims, Keys};
use crate::rooms::actor::unix_ms;
use crate::rooms::notices::{Happened, Notice};

/// The event that tells a notice.
pub(super) fn of(notice: &Notice, id: String) -> WebhookEvent {
    let (name, participant, track, job) = match &notice.what {
        Happened::RoomStarted(_) => ("room_started", None, None, None),
        Happened::RoomFinished(_) => ("room_finished", None, None, None),
        Happened::Joined(who) => ("participant_joined", Some(who), None, None),
        Happened::Left(who) => ("participant_left", Some(who), None, None),
        Happened::Aborted(who) => ("participant_connection_aborted", Some(who), None, None),
        Happened::Published(who, track) => ("track_published", Some(who), Some(track), None),
        Happened::Unpublished(who, track) => ("track_unpublished", Some(who), Some(track), None),
        Happened::JobStarted(job) => ("agent_job_started", None, None, Some(job)),
        Happened::JobEnded(job) => ("agent_job_ended", None, None, Some(job)),
    };
    let end_reason = match &notice.what {
        Happened::RoomFinished(reason) => *reason,
        _ => RoomEndReason::RoomEndUnknown,
    };
    WebhookEvent {
        event: name.into(),
        room: Some(notice.room.clone()),
        participant: participant.cloned(),
        track: track.cloned(),
        job: job.map(|job| job.as_ref().clone()),
        id,
        created_at: notice.unix_ms / 1_000,
        room_end_reason: end_reason.into(),
        ..WebhookEvent::default()
    }
}

/// The body as it is sent, and the token that proves who wrote it; `None` when there is no such key.
pub(super) fn sign(event: &WebhookEvent, keys: &Keys, api_key: &str, life_s: f64) -> Option<(Bytes, String)> {
    let body = serde_json::to_vec(event).ok()?;
    let now_s = unix_ms() as f64 / 1_000.0;
    let claims = Claims {
        nbf: Some(now_s),
        exp: Some(now_s + life_s),
        sha256: BASE64_STANDARD.encode(digest::digest(&digest::SHA256, &body)),
        ..Claims::default()
    };
    Some((body.into(), keys.sign(api_key, &claims)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use auralink_livekit::{Job, ParticipantInfo, Room, TrackInfo};

    fn notice(what: Happened) -> Notice {
        let room = Room { sid: "RM_1".into(), name: "r".into(), ..Room::default() };
        Notice { unix_ms: 1_790_000_000_999, room, what }
    }

    #[test]
    fn a_published_track_names_its_room_and_publisher() {
        let alice = ParticipantInfo { identity: "alice".into(), ..ParticipantInfo::default() };
        let track = TrackInfo { sid: "TR_1".into(), ..TrackInfo::default() };
        let event = of(&notice(Happened::Published(alice, track)), "EV_1".into());
        let body = serde_json::to_string(&event).unwrap();
        assert_eq!(
            body,
            r#"{"event":"track_published","room":{"sid":"RM_1","name":"r"},"participant":{"identity":"alice"},"track":{"sid":"TR_1"},"id":"EV_1","createdAt":"1790000000"}"#
        );
    }

    #[test]
    fn a_started_job_names_its_room() {
        let job = Job { id: "AJ_1".into(), ..Job::default() };
        let event = of(&notice(Happened::JobStarted(Box::new(job))), "EV_1".into());
        let (told, room) = (event.job.map(|job| job.id), event.room.map(|room| room.name));
        assert_eq!(
            (event.event.as_str(), told, room),
            ("agent_job_started", Some("AJ_1".into()), Some("r".into()))
        );
    }

    #[test]
    fn a_finished_room_says_why() {
        let event = of(&notice(Happened::RoomFinished(RoomEndReason::RoomEndApiDelete)), "EV_1".into());
        assert_eq!(event.room_end_reason(), RoomEndReason::RoomEndApiDelete);
        assert_eq!((event.event.as_str(), event.participant), ("room_finished", None));
    }

    #[test]
    fn the_signature_holds_the_hash_of_the_very_bytes_sent() {
        let keys = Keys::new([("key".to_owned(), "secret".to_owned())].into());
        let event = of(&notice(Happened::RoomStarted(Vec::new())), "EV_1".into());
        let (body, token) = sign(&event, &keys, "key", 300.0).unwrap();
        let claims = keys.verify(&token, unix_ms() as f64 / 1_000.0).unwrap().claims;
        let hash = BASE64_STANDARD.decode(claims.sha256).unwrap();
        assert_eq!(hash, digest::digest(&digest::SHA256, &body).as_ref());
        assert!(sign(&event, &keys, "stranger", 300.0).is_none());
    }
}
