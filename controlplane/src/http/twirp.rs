//! Server APIs over Twirp (v7): protobuf or JSON in and out, errors as JSON with a code.

use auralink_livekit::prost::Message;
use auralink_livekit::{
    CreateRoomRequest, DeleteRoomRequest, DeleteRoomResponse, DisconnectReason, ListParticipantsRequest,
    ListParticipantsResponse, ListRoomsRequest, ListRoomsResponse,
};
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::App;
use super::twirp_json::{participant_json, room_json};
use crate::auth::{Caller, NAME_BYTES_MAX};
use crate::rooms::{RoomChoice, RoomError};
use crate::telemetry::count;

/// An error as Twirp names it.
struct Failure {
    code: &'static str,
    message: String,
}

impl Failure {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Missing grants are answered like missing tokens.
    fn denied() -> Self {
        Self::new("unauthenticated", "permissions denied")
    }
}

impl From<RoomError> for Failure {
    fn from(error: RoomError) -> Self {
        let code = match error {
            RoomError::Absent => "not_found",
            RoomError::TooMany => "resource_exhausted",
            RoomError::Join(_) => "unavailable",
        };
        Self::new(code, error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.code {
            "invalid_argument" | "malformed" => StatusCode::BAD_REQUEST,
            "unauthenticated" => StatusCode::UNAUTHORIZED,
            "not_found" | "bad_route" => StatusCode::NOT_FOUND,
            "resource_exhausted" => StatusCode::TOO_MANY_REQUESTS,
            "unimplemented" => StatusCode::NOT_IMPLEMENTED,
            "unavailable" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let body = json!({"code": self.code, "msg": self.message, "meta": {}});
        (status, axum::Json(body)).into_response()
    }
}

#[derive(Clone, Copy)]
enum Form {
    Json,
    Protobuf,
}

impl Form {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        match text.split(';').next()?.trim() {
            "application/json" => Some(Self::Json),
            "application/protobuf" => Some(Self::Protobuf),
            _ => None,
        }
    }

    fn read<T: Message + Default + DeserializeOwned>(self, body: &Bytes) -> Result<T, Failure> {
        let malformed =
            |error: String| Failure::new("malformed", format!("the request could not be decoded: {error}"));
        match self {
            Self::Protobuf => T::decode(body.clone()).map_err(|error| malformed(error.to_string())),
            Self::Json if body.is_empty() => Ok(T::default()),
            Self::Json => serde_json::from_slice(body).map_err(|error| malformed(error.to_string())),
        }
    }

    fn write<T: Message>(self, message: &T, json: impl FnOnce(&T) -> Value) -> Response {
        match self {
            Self::Json => axum::Json(json(message)).into_response(),
            Self::Protobuf => {
                ([(header::CONTENT_TYPE, "application/protobuf")], message.encode_to_vec()).into_response()
            }
        }
    }
}

/// `POST /twirp/livekit.<Service>/<Method>`
pub(super) async fn call(
    State(app): State<App>,
    Path((service, method)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    count(&app.telemetry.counters.api_calls);
    let service = service.strip_prefix("livekit.").unwrap_or(&service);
    dispatch(&app, service, &method, &headers, &body).await.unwrap_or_else(Failure::into_response)
}

async fn dispatch(
    app: &App,
    service: &str,
    method: &str,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Response, Failure> {
    if service != "RoomService" {
        return Err(Failure::new("bad_route", format!("no handler for service {service}")));
    }
    let form = Form::of(headers).ok_or_else(|| {
        Failure::new("bad_route", "content type is neither application/json nor application/protobuf")
    })?;
    let caller =
        app.caller(headers, None).map_err(|error| Failure::new("unauthenticated", error.to_string()))?;
    match method {
        "CreateRoom" => create_room(app, &caller, form, body).await,
        "ListRooms" => list_rooms(app, &caller, form, body).await,
        "DeleteRoom" => delete_room(app, &caller, form, body).await,
        "ListParticipants" => list_participants(app, &caller, form, body).await,
        _ => Err(Failure::new("bad_route", format!("no handler for method {method}"))),
    }
}

async fn create_room(app: &App, caller: &Caller, form: Form, body: &Bytes) -> Result<Response, Failure> {
    if !caller.video().room_create {
        return Err(Failure::denied());
    }
    let request: CreateRoomRequest = form.read(body)?;
    if request.name.is_empty() {
        return Err(Failure::new("invalid_argument", "no room name"));
    }
    if request.name.len() > NAME_BYTES_MAX {
        return Err(Failure::new(
            "invalid_argument",
            format!("room name is longer than {NAME_BYTES_MAX} bytes"),
        ));
    }
    if request.metadata.len() > app.config.limit.metadata_bytes_max {
        return Err(Failure::new("invalid_argument", "metadata is too long"));
    }
    let choice = RoomChoice {
        empty_timeout_s: request.empty_timeout,
        departure_timeout_s: request.departure_timeout,
        max_participants: request.max_participants,
        metadata: request.metadata,
    };
    let room = app.rooms.create(&request.name, &choice).await?;
    Ok(form.write(&room, room_json))
}

async fn list_rooms(app: &App, caller: &Caller, form: Form, body: &Bytes) -> Result<Response, Failure> {
    if !caller.video().room_list {
        return Err(Failure::denied());
    }
    let request: ListRoomsRequest = form.read(body)?;
    let response = ListRoomsResponse { rooms: app.rooms.list(&request.names).await };
    Ok(form.write(&response, |list| json!({"rooms": list.rooms.iter().map(room_json).collect::<Vec<_>>()})))
}

async fn delete_room(app: &App, caller: &Caller, form: Form, body: &Bytes) -> Result<Response, Failure> {
    if !caller.video().room_create {
        return Err(Failure::denied());
    }
    let request: DeleteRoomRequest = form.read(body)?;
    if !app.rooms.end(&request.room, DisconnectReason::RoomDeleted).await {
        return Err(RoomError::Absent.into());
    }
    Ok(form.write(&DeleteRoomResponse {}, |_| json!({})))
}

async fn list_participants(
    app: &App,
    caller: &Caller,
    form: Form,
    body: &Bytes,
) -> Result<Response, Failure> {
    let request: ListParticipantsRequest = form.read(body)?;
    let grant = caller.video();
    if !grant.room_admin || grant.room != request.room {
        return Err(Failure::denied());
    }
    let participants = app.rooms.participants(&request.room).await.ok_or(RoomError::Absent)?;
    let response = ListParticipantsResponse { participants };
    Ok(form.write(
        &response,
        |list| json!({"participants": list.participants.iter().map(participant_json).collect::<Vec<_>>()}),
    ))
}
