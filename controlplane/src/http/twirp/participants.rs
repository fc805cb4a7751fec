//! `RoomService`: what concerns one participant of a room.

use auralink_livekit::{
    ListParticipantsRequest, ListParticipantsResponse, MuteRoomTrackRequest, MuteRoomTrackResponse,
    ParticipantInfo, PerformRpcRequest, PerformRpcResponse, RemoveParticipantResponse,
    RoomParticipantIdentity, UpdateParticipantRequest, UpdateSubscriptionsRequest,
    UpdateSubscriptionsResponse,
};
use axum::response::Response;
use serde_json::json;
use tokio::sync::oneshot;

use super::failure::Failure;
use super::form::Call;
use super::json::{participant_json, track_json};
use crate::rooms::RoomError;
use crate::rooms::admin::AdminError;
use crate::rooms::room::{Room, Turn};
use crate::rooms::rpc::{RpcFailure, builtin};

/// Lets a room do something to one of its participants. Where there is no room there is no participant either.
async fn on<T: Send + 'static>(
    call: &Call<'_>,
    room: &str,
    identity: &str,
    act: impl FnOnce(&mut Room, &mut Turn<'_>) -> Result<T, AdminError> + Send + 'static,
) -> Result<T, Failure> {
    call.needs_admin(room)?;
    if identity.is_empty() {
        return Err(Failure::invalid("identity cannot be empty"));
    }
    let acted = call.app.rooms.act(room, act).await;
    Ok(acted.ok_or(AdminError::NoParticipant)??)
}

pub(super) async fn list(call: &Call<'_>) -> Result<Response, Failure> {
    let request: ListParticipantsRequest = call.read()?;
    call.needs_admin(&request.room)?;
    let participants = call.app.rooms.participants(&request.room).await.ok_or(RoomError::Absent)?;
    let response = ListParticipantsResponse { participants };
    Ok(call.write(
        &response,
        |list| json!({"participants": list.participants.iter().map(participant_json).collect::<Vec<_>>()}),
    ))
}

pub(super) async fn get(call: &Call<'_>) -> Result<Response, Failure> {
    let RoomParticipantIdentity { room, identity, .. } = call.read()?;
    let wanted = identity.clone();
    let found: ParticipantInfo =
        on(call, &room, &identity, move |room, _| room.participant_info(&wanted)).await?;
    Ok(call.write(&found, participant_json))
}

pub(super) async fn remove(call: &Call<'_>) -> Result<Response, Failure> {
    let RoomParticipantIdentity { room, identity, .. } = call.read()?;
    let wanted = identity.clone();
    on(call, &room, &identity, move |room, turn| room.expel(&wanted, turn)).await?;
    Ok(call.write(&RemoveParticipantResponse {}, |_| json!({})))
}

pub(super) async fn mute(call: &Call<'_>) -> Result<Response, Failure> {
    let request: MuteRoomTrackRequest = call.read()?;
    let (room, identity) = (request.room.clone(), request.identity.clone());
    let may_unmute = call.app.config.room.enable_remote_unmute;
    let track =
        on(call, &room, &identity, move |room, turn| room.mute_remotely(&request, may_unmute, turn)).await?;
    let response = MuteRoomTrackResponse { track: Some(track) };
    Ok(call.write(&response, |reply| json!({"track": reply.track.as_ref().map(track_json)})))
}

pub(super) async fn update(call: &Call<'_>) -> Result<Response, Failure> {
    let request: UpdateParticipantRequest = call.read()?;
    let (room, identity) = (request.room.clone(), request.identity.clone());
    let updated =
        on(call, &room, &identity, move |room, turn| room.update_participant(request, turn)).await?;
    Ok(call.write(&updated, participant_json))
}

pub(super) async fn update_subscriptions(call: &Call<'_>) -> Result<Response, Failure> {
    let request: UpdateSubscriptionsRequest = call.read()?;
    let (room, identity) = (request.room.clone(), request.identity.clone());
    on(call, &room, &identity, move |room, turn| room.update_subscriptions_of(request, turn)).await?;
    Ok(call.write(&UpdateSubscriptionsResponse {}, |_| json!({})))
}

pub(super) async fn perform_rpc(call: &Call<'_>) -> Result<Response, Failure> {
    let request: PerformRpcRequest = call.read()?;
    let (room, identity) = (request.room.clone(), request.destination_identity.clone());
    let (reply, answer) = oneshot::channel();
    on(call, &room, &identity, move |room, turn| room.perform_rpc(request, reply, turn)).await?;
    // A room that ends drops what it waits for.
    let gone = || RpcFailure::builtin(builtin::RECIPIENT_DISCONNECTED);
    let payload = answer.await.unwrap_or_else(|_| Err(gone()))?;
    let response = PerformRpcResponse { payload };
    Ok(call.write(&response, |reply| json!({"payload": reply.payload})))
}

/// `ForwardParticipant` and `MoveParticipant`, which LiveKit's open server does not carry out either.
pub(super) fn move_elsewhere(call: &Call<'_>) -> Result<Response, Failure> {
    call.needs(call.caller.video().room_admin)?;
    Err(Failure::new("unimplemented", "participants stay in the room they joined"))
}
