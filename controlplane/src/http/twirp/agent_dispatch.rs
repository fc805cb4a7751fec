//! `AgentDispatchService`: sending agents to rooms, and taking them back.

use auralink_livekit::{
    CreateAgentDispatchRequest, DeleteAgentDispatchRequest, ListAgentDispatchRequest,
    ListAgentDispatchResponse, ParticipantInfo, Room as RoomInfo,
};
use axum::response::Response;
use serde_json::json;

use super::failure::Failure;
use super::form::Call;
use super::json::dispatch_json;
use crate::agents::NewDispatch;
use crate::auth::NAME_BYTES_MAX;
use crate::rooms::{RoomChoice, RoomError};

pub(super) async fn create(call: &Call<'_>) -> Result<Response, Failure> {
    let request: CreateAgentDispatchRequest = call.read()?;
    call.needs_admin(&request.room)?;
    check(call, &request)?;
    let (app, name) = (call.app, request.room.clone());
    if app.config.room.auto_create {
        app.rooms.create(&name, &RoomChoice::default()).await?;
    }
    let found = app.rooms.act(&name, |room, _| (room.info(), room.participant_infos())).await;
    let (room, participants): (RoomInfo, Vec<ParticipantInfo>) = found.ok_or(RoomError::Absent)?;
    let dispatch = app.agents.create(NewDispatch { request, room, participants }).await?;
    Ok(call.write(&dispatch, dispatch_json))
}

fn check(call: &Call<'_>, request: &CreateAgentDispatchRequest) -> Result<(), Failure> {
    let limit = &call.app.config.limit;
    let attribute_bytes: usize =
        request.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    if request.room.is_empty() {
        Err(Failure::invalid("no room name"))
    } else if request.room.len() > NAME_BYTES_MAX {
        Err(Failure::invalid("room name length exceeds limits"))
    } else if request.agent_name.len() > NAME_BYTES_MAX || request.deployment.len() > NAME_BYTES_MAX {
        Err(Failure::invalid("name length exceeds limits"))
    } else if request.metadata.len() > limit.metadata_bytes_max {
        Err(Failure::invalid("metadata size exceeds limits"))
    } else if attribute_bytes > limit.attributes_bytes_max {
        Err(Failure::invalid("attribute size exceeds limits"))
    } else {
        Ok(())
    }
}

pub(super) async fn delete(call: &Call<'_>) -> Result<Response, Failure> {
    let request: DeleteAgentDispatchRequest = call.read()?;
    call.needs_admin(&request.room)?;
    let deleted = call.app.agents.delete(request.room, request.dispatch_id).await;
    let dispatch = deleted.ok_or_else(|| Failure::new("not_found", "dispatch does not exist"))?;
    Ok(call.write(&dispatch, dispatch_json))
}

pub(super) async fn list(call: &Call<'_>) -> Result<Response, Failure> {
    let request: ListAgentDispatchRequest = call.read()?;
    call.needs_admin(&request.room)?;
    let agent_dispatches = call.app.agents.list(request.room, request.dispatch_id).await;
    let response = ListAgentDispatchResponse { agent_dispatches };
    let json = |list: &ListAgentDispatchResponse| json!({"agent_dispatches": list.agent_dispatches.iter().map(dispatch_json).collect::<Vec<_>>()});
    Ok(call.write(&response, json))
}
