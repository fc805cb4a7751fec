//! Replies of server APIs as protobuf's JSON mapping with original names and every field present.
//!
//! The derived mapping leaves defaults out and renames to lowerCamel; clients of this API expect neither.

use auralink_livekit::{
    AgentDispatch, AgentDispatchState, AudioTrackFeature, BackupCodecPolicy, Codec, DisconnectReason, Job,
    JobRestartPolicy, JobState, JobStatus, JobType, PacketTrailerFeature, ParticipantInfo,
    ParticipantPermission, Room, SimulcastCodecInfo, TimedVersion, TrackInfo, TrackSource, TrackType,
    VideoLayer, VideoQuality, client_info, encryption, participant_info, video_layer,
};
use serde_json::{Value, json};

/// Name of an enum value, or its number when it has none.
macro_rules! name {
    ($kind:ty, $value:expr) => {
        <$kind>::try_from($value).map_or_else(|_| json!($value), |value| json!(value.as_str_name()))
    };
}

macro_rules! names {
    ($kind:ty, $values:expr) => {
        $values.iter().map(|value| name!($kind, *value)).collect::<Vec<Value>>()
    };
}

fn codec_json(codec: &Codec) -> Value {
    json!({"mime": codec.mime, "fmtp_line": codec.fmtp_line})
}

fn version_json(version: &Option<TimedVersion>) -> Value {
    version
        .as_ref()
        .map_or(Value::Null, |v| json!({"unix_micro": v.unix_micro.to_string(), "ticks": v.ticks}))
}

/// A room.
pub(super) fn room_json(room: &Room) -> Value {
    json!({
        "sid": room.sid,
        "name": room.name,
        "empty_timeout": room.empty_timeout,
        "departure_timeout": room.departure_timeout,
        "max_participants": room.max_participants,
        "creation_time": room.creation_time.to_string(),
        "creation_time_ms": room.creation_time_ms.to_string(),
        "turn_password": room.turn_password,
        "enabled_codecs": room.enabled_codecs.iter().map(codec_json).collect::<Vec<_>>(),
        "metadata": room.metadata,
        "num_participants": room.num_participants,
        "num_publishers": room.num_publishers,
        "active_recording": room.active_recording,
        "version": version_json(&room.version),
    })
}

#[allow(deprecated, reason = "every field is written")]
fn permission_json(permission: &ParticipantPermission) -> Value {
    json!({
        "can_subscribe": permission.can_subscribe,
        "can_publish": permission.can_publish,
        "can_publish_data": permission.can_publish_data,
        "can_publish_sources": names!(TrackSource, permission.can_publish_sources),
        "hidden": permission.hidden,
        "recorder": permission.recorder,
        "can_update_metadata": permission.can_update_metadata,
        "agent": permission.agent,
        "can_subscribe_metrics": permission.can_subscribe_metrics,
        "can_manage_agent_session": permission.can_manage_agent_session,
    })
}

fn layer_json(layer: &VideoLayer) -> Value {
    json!({
        "quality": name!(VideoQuality, layer.quality),
        "width": layer.width,
        "height": layer.height,
        "bitrate": layer.bitrate,
        "ssrc": layer.ssrc,
        "spatial_layer": layer.spatial_layer,
        "rid": layer.rid,
        "repair_ssrc": layer.repair_ssrc,
    })
}

fn simulcast_json(codec: &SimulcastCodecInfo) -> Value {
    json!({
        "mime_type": codec.mime_type,
        "mid": codec.mid,
        "cid": codec.cid,
        "layers": codec.layers.iter().map(layer_json).collect::<Vec<_>>(),
        "video_layer_mode": name!(video_layer::Mode, codec.video_layer_mode),
        "sdp_cid": codec.sdp_cid,
    })
}

/// A track.
#[allow(deprecated, reason = "every field is written")]
pub(super) fn track_json(track: &TrackInfo) -> Value {
    json!({
        "sid": track.sid,
        "type": name!(TrackType, track.r#type),
        "name": track.name,
        "muted": track.muted,
        "width": track.width,
        "height": track.height,
        "simulcast": track.simulcast,
        "disable_dtx": track.disable_dtx,
        "source": name!(TrackSource, track.source),
        "layers": track.layers.iter().map(layer_json).collect::<Vec<_>>(),
        "mime_type": track.mime_type,
        "mid": track.mid,
        "codecs": track.codecs.iter().map(simulcast_json).collect::<Vec<_>>(),
        "stereo": track.stereo,
        "disable_red": track.disable_red,
        "encryption": name!(encryption::Type, track.encryption),
        "stream": track.stream,
        "version": version_json(&track.version),
        "audio_features": names!(AudioTrackFeature, track.audio_features),
        "backup_codec_policy": name!(BackupCodecPolicy, track.backup_codec_policy),
        "packet_trailer_features": names!(PacketTrailerFeature, track.packet_trailer_features),
    })
}

/// A participant.
pub(super) fn participant_json(participant: &ParticipantInfo) -> Value {
    json!({
        "sid": participant.sid,
        "identity": participant.identity,
        "state": name!(participant_info::State, participant.state),
        "tracks": participant.tracks.iter().map(track_json).collect::<Vec<_>>(),
        "metadata": participant.metadata,
        "joined_at": participant.joined_at.to_string(),
        "joined_at_ms": participant.joined_at_ms.to_string(),
        "name": participant.name,
        "version": participant.version,
        "permission": participant.permission.as_ref().map_or(Value::Null, permission_json),
        "region": participant.region,
        "is_publisher": participant.is_publisher,
        "kind": name!(participant_info::Kind, participant.kind),
        "attributes": participant.attributes,
        "disconnect_reason": name!(DisconnectReason, participant.disconnect_reason),
        "kind_details": names!(participant_info::KindDetail, participant.kind_details),
        "data_tracks": [],
        "client_protocol": participant.client_protocol,
        "capabilities": names!(client_info::Capability, participant.capabilities),
    })
}

fn job_state_json(state: &JobState) -> Value {
    json!({
        "status": name!(JobStatus, state.status),
        "error": state.error,
        "started_at": state.started_at.to_string(),
        "ended_at": state.ended_at.to_string(),
        "updated_at": state.updated_at.to_string(),
        "participant_identity": state.participant_identity,
        "worker_id": state.worker_id,
        "agent_id": state.agent_id,
    })
}

#[allow(deprecated, reason = "every field is written")]
fn job_json(job: &Job) -> Value {
    let mut written = json!({
        "id": job.id,
        "dispatch_id": job.dispatch_id,
        "type": name!(JobType, job.r#type),
        "room": job.room.as_ref().map(room_json),
        "namespace": job.namespace,
        "metadata": job.metadata,
        "agent_name": job.agent_name,
        "state": job.state.as_ref().map(job_state_json),
        "enable_recording": job.enable_recording,
        "deployment": job.deployment,
        "attributes": job.attributes,
        "enable_redaction": job.enable_redaction,
    });
    // A field declared optional is left out when unset, unlike all others.
    if let (Some(participant), Some(fields)) = (&job.participant, written.as_object_mut()) {
        fields.insert("participant".into(), participant_json(participant));
    }
    written
}

fn dispatch_state_json(state: &AgentDispatchState) -> Value {
    json!({
        "jobs": state.jobs.iter().map(job_json).collect::<Vec<_>>(),
        "created_at": state.created_at.to_string(),
        "deleted_at": state.deleted_at.to_string(),
    })
}

/// A dispatch of agents.
pub(super) fn dispatch_json(dispatch: &AgentDispatch) -> Value {
    json!({
        "id": dispatch.id,
        "agent_name": dispatch.agent_name,
        "room": dispatch.room,
        "metadata": dispatch.metadata,
        "state": dispatch.state.as_ref().map(dispatch_state_json),
        "restart_policy": name!(JobRestartPolicy, dispatch.restart_policy),
        "deployment": dispatch.deployment,
        "attributes": dispatch.attributes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor, value};

    /// Asks a message's own reader which fields it knows; it lists each under both its names.
    struct Ask<'a>(&'a mut Vec<&'static str>);

    impl<'de> Deserializer<'de> for Ask<'_> {
        type Error = value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(value::Error::custom("only structs are asked"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            self.0.extend(fields);
            Err(value::Error::custom("asked"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    /// Fails unless every field of a message stands in what is written for it, under its original name.
    fn assert_whole<T: DeserializeOwned>(written: &Value) {
        let mut fields = Vec::new();
        let _ = T::deserialize(Ask(&mut fields));
        fields.retain(|name| !name.contains(char::is_uppercase));
        assert!(!fields.is_empty());
        for name in fields {
            assert!(written.get(name).is_some(), "{name} is not written in {written}");
        }
    }

    #[test]
    fn every_field_there_is_is_written() {
        assert_whole::<Room>(&room_json(&Room::default()));
        assert_whole::<Codec>(&codec_json(&Codec::default()));
        assert_whole::<TimedVersion>(&version_json(&Some(TimedVersion::default())));
        assert_whole::<ParticipantInfo>(&participant_json(&ParticipantInfo::default()));
        assert_whole::<ParticipantPermission>(&permission_json(&ParticipantPermission::default()));
        assert_whole::<TrackInfo>(&track_json(&TrackInfo::default()));
        assert_whole::<VideoLayer>(&layer_json(&VideoLayer::default()));
        assert_whole::<SimulcastCodecInfo>(&simulcast_json(&SimulcastCodecInfo::default()));
        assert_whole::<AgentDispatch>(&dispatch_json(&AgentDispatch::default()));
        assert_whole::<AgentDispatchState>(&dispatch_state_json(&AgentDispatchState::default()));
        let participant = Some(ParticipantInfo::default());
        assert_whole::<Job>(&job_json(&Job { participant, ..Job::default() }));
        assert_whole::<JobState>(&job_state_json(&JobState::default()));
    }

    #[test]
    fn defaults_are_written_and_wide_numbers_are_strings() {
        let room = room_json(&Room { name: "r".into(), creation_time: 1_790_000_000, ..Room::default() });
        assert_eq!(room["creation_time"], "1790000000");
        assert_eq!(room["num_participants"], 0);
        assert_eq!(room["active_recording"], false);
        let participant = participant_json(&ParticipantInfo {
            tracks: vec![TrackInfo { r#type: 1, source: 1, ..TrackInfo::default() }],
            ..ParticipantInfo::default()
        });
        assert_eq!(participant["state"], "JOINING");
        assert_eq!(participant["tracks"][0]["type"], "VIDEO");
        assert_eq!(participant["tracks"][0]["source"], "CAMERA");
    }
}
