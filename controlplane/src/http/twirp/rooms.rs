//! `RoomService`: making, listing and ending rooms, and what concerns a room as a whole.

use auralink_livekit::{
    CreateRoomRequest, DeleteRoomRequest, DeleteRoomResponse, DisconnectReason, ListRoomsRequest,
    ListRoomsResponse, SendDataRequest, SendDataResponse, UpdateRoomMetadataRequest,
};
use axum::response::Response;
use serde_json::json;

use super::failure::Failure;
use super::form::Call;
use super::json::room_json;
use crate::auth::NAME_BYTES_MAX;
use crate::rooms::{RoomChoice, RoomError, RoomExtras};

/// Agents one room may be created with.
pub(super) const AGENTS_MAX: usize = 64;

pub(super) async fn create(call: &Call<'_>) -> Result<Response, Failure> {
    call.needs(call.caller.video().room_create)?;
    let request: CreateRoomRequest = call.read()?;
    check(call, &request)?;
    let choice = RoomChoice {
        empty_timeout_s: request.empty_timeout,
        departure_timeout_s: request.departure_timeout,
        max_participants: request.max_participants,
        metadata: request.metadata,
        extras: RoomExtras {
            agents: request.agents,
            tags: request.tags,
            min_playout_delay_ms: request.min_playout_delay,
            max_playout_delay_ms: request.max_playout_delay,
            sync_streams: request.sync_streams,
        },
    };
    let room = call.app.rooms.create(&request.name, &choice).await?;
    Ok(call.write(&room, room_json))
}

fn check(call: &Call<'_>, request: &CreateRoomRequest) -> Result<(), Failure> {
    let limit = &call.app.config.limit;
    let tag_bytes: usize = request.tags.iter().map(|(name, value)| name.len() + value.len()).sum();
    if request.name.is_empty() {
        Err(Failure::invalid("no room name"))
    } else if request.name.len() > NAME_BYTES_MAX {
        Err(Failure::invalid("room name length exceeds limits"))
    } else if request.metadata.len() > limit.metadata_bytes_max {
        Err(Failure::invalid("metadata size exceeds limits"))
    } else if tag_bytes > limit.attributes_bytes_max {
        Err(Failure::invalid("tags size exceeds limits"))
    } else if request.agents.len() > AGENTS_MAX {
        Err(Failure::invalid(format!("more than {AGENTS_MAX} agents")))
    } else if !request.room_preset.is_empty() {
        Err(Failure::invalid("this server has no room presets"))
    } else if request.egress.is_some() {
        // A room without the recording that was asked for would be found out too late.
        Err(Failure::new("unimplemented", "this server records nothing: leave egress out"))
    } else {
        Ok(())
    }
}

pub(super) async fn list(call: &Call<'_>) -> Result<Response, Failure> {
    call.needs(call.caller.video().room_list)?;
    let request: ListRoomsRequest = call.read()?;
    let response = ListRoomsResponse { rooms: call.app.rooms.list(&request.names).await };
    Ok(call.write(&response, |list| json!({"rooms": list.rooms.iter().map(room_json).collect::<Vec<_>>()})))
}

pub(super) async fn delete(call: &Call<'_>) -> Result<Response, Failure> {
    call.needs(call.caller.video().room_create)?;
    let request: DeleteRoomRequest = call.read()?;
    if !call.app.rooms.end(&request.room, DisconnectReason::RoomDeleted).await {
        return Err(RoomError::Absent.into());
    }
    Ok(call.write(&DeleteRoomResponse {}, |_| json!({})))
}

pub(super) async fn update_metadata(call: &Call<'_>) -> Result<Response, Failure> {
    let request: UpdateRoomMetadataRequest = call.read()?;
    call.needs_admin(&request.room)?;
    if request.metadata.len() > call.app.config.limit.metadata_bytes_max {
        return Err(Failure::invalid("metadata size exceeds limits"));
    }
    let metadata = request.metadata;
    let updated = call.app.rooms.act(&request.room, move |room, turn| room.update_room(metadata, turn)).await;
    let room = updated.ok_or(RoomError::Absent)?;
    Ok(call.write(&room, room_json))
}

pub(super) async fn send_data(call: &Call<'_>) -> Result<Response, Failure> {
    let request: SendDataRequest = call.read()?;
    call.needs_admin(&request.room)?;
    let name = request.room.clone();
    let sent = call.app.rooms.act(&name, move |room, turn| room.send_data(request, turn)).await;
    sent.ok_or(RoomError::Absent)??;
    Ok(call.write(&SendDataResponse {}, |_| json!({})))
}
