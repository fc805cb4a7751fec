//! Joining over `/rtc/v1`: everything that can be refused is refused before the upgrade, as an HTTP status with a text.

use std::collections::HashMap;

use auralink_livekit::{JoinRequest, participant_info};
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Query, State, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::{App, refusal};
use crate::auth::{AuthError, NAME_BYTES_MAX, VideoGrant};
use crate::rooms::participant::JoinParams;
use crate::rooms::{RoomChoice, RoomError};
use crate::signal::join_request::{self, JoinRequestError};
use crate::signal::socket;
use crate::telemetry::count;

/// Of each WebSocket, for as long as it lives: most messages are small, and a longer one grows it.
const READ_BUFFER_BYTES: usize = 4 << 10;

type Parameters = Query<HashMap<String, String>>;

/// Why nobody joins.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    Request(#[from] JoinRequestError),
    #[error(transparent)]
    Room(#[from] RoomError),
    #[error("identity cannot be empty")]
    NoIdentity,
    #[error("no room name")]
    NoRoom,
    #[error("{0} is longer than {1} bytes")]
    TooLong(&'static str, usize),
    #[error("permissions denied: updating own metadata is not granted")]
    Metadata,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Auth(_) | Self::Metadata => StatusCode::UNAUTHORIZED,
            Self::Request(_) | Self::NoIdentity | Self::NoRoom | Self::TooLong(..) => StatusCode::BAD_REQUEST,
            Self::Room(RoomError::Absent) => StatusCode::NOT_FOUND,
            Self::Room(RoomError::TooMany | RoomError::Join(_)) => StatusCode::SERVICE_UNAVAILABLE,
        };
        refusal(status, self)
    }
}

/// A join that may go ahead.
struct Admission {
    room: String,
    params: JoinParams,
    /// Set when the join may create the room.
    create: Option<RoomChoice>,
    reconnect: bool,
}

fn admit(
    app: &App,
    headers: &HeaderMap,
    parameters: &HashMap<String, String>,
    request: Result<JoinRequest, JoinRequestError>,
) -> Result<Admission, Refusal> {
    let caller = app.caller(headers, parameters.get("access_token").map(String::as_str))?;
    let grant = caller.video().clone();
    if !grant.room_join {
        return Err(AuthError::Denied.into());
    }
    let request = request?;
    let (identity, room) = (caller.identity().to_owned(), grant.room.clone());
    if identity.is_empty() {
        return Err(Refusal::NoIdentity);
    }
    if room.is_empty() {
        return Err(Refusal::NoRoom);
    }
    let claims = caller.claims;
    for (what, text) in [("identity", &identity), ("room name", &room), ("participant name", &claims.name)] {
        if text.len() > NAME_BYTES_MAX {
            return Err(Refusal::TooLong(what, NAME_BYTES_MAX));
        }
    }
    let words = own_words(app, &grant, (claims.metadata, claims.attributes), &request)?;
    let may_create = app.config.room.auto_create || grant.room_create;
    if !may_create && !app.rooms.exists(&room) {
        return Err(RoomError::Absent.into());
    }
    let choice = claims.room_config.map(RoomChoice::from);
    Ok(Admission {
        room,
        create: may_create.then(|| choice.unwrap_or_default()),
        reconnect: request.reconnect,
        params: JoinParams {
            identity,
            name: claims.name,
            metadata: words.0,
            attributes: words.1,
            kind: participant_kind(&claims.kind),
            token_expiry_s: claims.exp.unwrap_or_default(),
            grant,
            client: request.client_info.unwrap_or_default(),
            settings: request.connection_settings.unwrap_or_default(),
            add_tracks: request.add_track_requests,
            offer: request.publisher_offer,
        },
    })
}

/// Metadata and attributes.
type Words = (String, HashMap<String, String>);

/// What the token says, overlaid with what the request says where that is granted.
fn own_words(app: &App, grant: &VideoGrant, token: Words, request: &JoinRequest) -> Result<Words, Refusal> {
    let (mut metadata, mut attributes) = token;
    if !request.metadata.is_empty() || !request.participant_attributes.is_empty() {
        if !grant.may_update_own_metadata() {
            return Err(Refusal::Metadata);
        }
        if !request.metadata.is_empty() {
            metadata.clone_from(&request.metadata);
        }
        attributes.extend(request.participant_attributes.clone());
    }
    let limit = &app.config.limit;
    if metadata.len() > limit.metadata_bytes_max {
        return Err(Refusal::TooLong("metadata", limit.metadata_bytes_max));
    }
    if attributes.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
        > limit.attributes_bytes_max
    {
        return Err(Refusal::TooLong("attributes", limit.attributes_bytes_max));
    }
    Ok((metadata, attributes))
}

fn participant_kind(text: &str) -> participant_info::Kind {
    participant_info::Kind::from_str_name(&text.to_ascii_uppercase()).unwrap_or_default()
}

fn log_refusal(app: &App, refusal: &Refusal) {
    tracing::debug!(%refusal, "join refused");
    count(match refusal {
        Refusal::Auth(_) | Refusal::Metadata => &app.telemetry.counters.joins_unauthenticated,
        _ => &app.telemetry.counters.joins_refused,
    });
}

/// Two peer connections are not spoken here; clients that see this 404 say so or try `/rtc/v1`.
pub(super) async fn v0() -> StatusCode {
    StatusCode::NOT_FOUND
}

/// `GET /rtc/v1`, a WebSocket.
pub(super) async fn v1(
    State(app): State<App>,
    Query(parameters): Parameters,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let Ok(upgrade) = upgrade else { return StatusCode::NOT_FOUND.into_response() };
    match join(app.clone(), &parameters, &headers, upgrade).await {
        Ok(response) => response,
        Err(refusal) => {
            log_refusal(&app, &refusal);
            refusal.into_response()
        }
    }
}

async fn join(
    app: App,
    parameters: &HashMap<String, String>,
    headers: &HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Refusal> {
    let request = join_request::parse(parameters.get("join_request").map(String::as_str));
    let admission = admit(&app, headers, parameters, request)?;
    let bytes_max = app.config.limit.signal_message_bytes_max;
    let upgrade =
        upgrade.max_message_size(bytes_max).max_frame_size(bytes_max).read_buffer_size(READ_BUFFER_BYTES);
    if admission.reconnect {
        return Ok(upgrade.on_upgrade(socket::refuse_resume));
    }
    let session = app.rooms.join(&admission.room, admission.params, admission.create.as_ref()).await?;
    let (rate_max, telemetry) = (app.config.limit.signal_rate_max, app.telemetry);
    // Should the upgrade fail, the closure is dropped and the session with it.
    Ok(upgrade.on_upgrade(move |socket| socket::run(socket, session, rate_max, telemetry)))
}

/// `GET /rtc/v1/validate`: what a join would answer, without joining.
pub(super) async fn validate_v1(
    State(app): State<App>,
    Query(parameters): Parameters,
    headers: HeaderMap,
) -> Response {
    let request = join_request::parse(parameters.get("join_request").map(String::as_str));
    validate(&app, &headers, &parameters, request)
}

/// `GET /rtc/validate`: the same for clients of the older path.
pub(super) async fn validate_v0(
    State(app): State<App>,
    Query(parameters): Parameters,
    headers: HeaderMap,
) -> Response {
    validate(&app, &headers, &parameters, Ok(JoinRequest::default()))
}

fn validate(
    app: &App,
    headers: &HeaderMap,
    parameters: &HashMap<String, String>,
    request: Result<JoinRequest, JoinRequestError>,
) -> Response {
    match admit(app, headers, parameters, request) {
        Ok(_) => refusal(StatusCode::OK, "success"),
        Err(refusal) => refusal.into_response(),
    }
}
