//! Server APIs over Twirp (v7): who calls, what is called, by when; the services' own rules are in the files beside.

mod agent_dispatch;
mod failure;
mod form;
mod json;
mod participants;
mod rooms;

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};

use super::App;
use crate::telemetry::count;
use failure::Failure;
use form::{Call, Form};

/// A caller's own deadline for a call, in milliseconds.
const TIMEOUT_HEADER: &str = "x-twirp-timeout-ms";

/// `POST /twirp/livekit.<Service>/<Method>`
pub(super) async fn call(
    State(app): State<App>,
    Path((service, method)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let service = service.strip_prefix("livekit.").unwrap_or(&service);
    answer(&app, service, &method, &headers, &body).await
}

/// `POST /livekit.RoomService/<Method>`: the same without Twirp's prefix.
pub(super) async fn room_service(
    State(app): State<App>,
    Path(method): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(&app, "RoomService", &method, &headers, &body).await
}

/// `POST /livekit.AgentDispatchService/<Method>`
pub(super) async fn agent_dispatch_service(
    State(app): State<App>,
    Path(method): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(&app, "AgentDispatchService", &method, &headers, &body).await
}

async fn answer(app: &App, service: &str, method: &str, headers: &HeaderMap, body: &Bytes) -> Response {
    count(&app.telemetry.counters.api_calls);
    let called = dispatch(app, service, method, headers, body);
    let answered = match deadline(headers) {
        Some(limit) => tokio::time::timeout(limit, called)
            .await
            .unwrap_or_else(|_| Err(Failure::new("deadline_exceeded", "the caller's deadline has passed"))),
        None => called.await,
    };
    if answered.is_err() {
        count(&app.telemetry.counters.api_failures);
    }
    answered.unwrap_or_else(Failure::into_response)
}

fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT_HEADER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_millis)
}

async fn dispatch(
    app: &App,
    service: &str,
    method: &str,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Response, Failure> {
    if !matches!(service, "RoomService" | "AgentDispatchService") {
        return Err(Failure::new("bad_route", format!("no handler for service {service}")));
    }
    let form = Form::of(headers).ok_or_else(|| {
        Failure::new("bad_route", "content type is neither application/json nor application/protobuf")
    })?;
    let caller =
        app.caller(headers, None).map_err(|error| Failure::new("unauthenticated", error.to_string()))?;
    let call = Call { app, caller, form, body };
    match (service, method) {
        ("RoomService", "CreateRoom") => rooms::create(&call).await,
        ("RoomService", "ListRooms") => rooms::list(&call).await,
        ("RoomService", "DeleteRoom") => rooms::delete(&call).await,
        ("RoomService", "UpdateRoomMetadata") => rooms::update_metadata(&call).await,
        ("RoomService", "SendData") => rooms::send_data(&call).await,
        ("RoomService", "ListParticipants") => participants::list(&call).await,
        ("RoomService", "GetParticipant") => participants::get(&call).await,
        ("RoomService", "RemoveParticipant") => participants::remove(&call).await,
        ("RoomService", "MutePublishedTrack") => participants::mute(&call).await,
        ("RoomService", "UpdateParticipant") => participants::update(&call).await,
        ("RoomService", "UpdateSubscriptions") => participants::update_subscriptions(&call).await,
        ("RoomService", "PerformRpc") => participants::perform_rpc(&call).await,
        ("RoomService", "ForwardParticipant" | "MoveParticipant") => participants::move_elsewhere(&call),
        ("AgentDispatchService", "CreateDispatch") => agent_dispatch::create(&call).await,
        ("AgentDispatchService", "DeleteDispatch") => agent_dispatch::delete(&call).await,
        ("AgentDispatchService", "ListDispatch") => agent_dispatch::list(&call).await,
        _ => Err(Failure::new("bad_route", format!("no handler for method {method}"))),
    }
}
