//! Joining over `/rtc` and `/rtc/v1`: everything that can be refused is refused before the upgrade, as an HTTP status with a text.

use std::collections::HashMap;
use std::sync::Arc;

use auralink_livekit::{JoinRequest, participant_info};
use auralink_proto::PeerKeys;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use yawc::{HttpWebSocket, IncomingUpgrade};

use super::{App, refusal};
use crate::auth::{AuthError, Caller, NAME_BYTES_MAX, VideoGrant};
use crate::rooms::participant::{JoinParams, ResumeParams};
use crate::rooms::{RoomChoice, RoomError};
use crate::signal::join_request::{self, JoinRequestError};
use crate::signal::{join_query, socket};
use crate::telemetry::count;

type Parameters = Query<HashMap<String, String>>;

/// Why nobody joins.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
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
pub(super) struct Admission {
    pub(super) room: String,
    pub(super) params: JoinParams,
    /// Set when the join may create the room.
    pub(super) create: Option<RoomChoice>,
    /// Set when a participant comes back.
    resume: Option<ResumeParams>,
}

/// Which protocol a path speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    /// `/rtc`: two peer connections, unless a join request says otherwise.
    V0,
    /// `/rtc/v1`: one.
    V1,
}

impl Path {
    /// The request, and whether its client has two peer connections.
    fn request(self, parameters: &HashMap<String, String>) -> (Result<JoinRequest, JoinRequestError>, bool) {
        let wrapped = parameters.get("join_request").map(String::as_str);
        if self == Self::V0 && wrapped.is_none_or(str::is_empty) {
            (join_query::parse(parameters), true)
        } else {
            (join_request::parse(wrapped), false)
        }
    }
}

fn admit(
    app: &App,
    headers: &HeaderMap,
    parameters: &HashMap<String, String>,
    path: Path,
) -> Result<Admission, Refusal> {
    let caller = joiner(app, headers, parameters.get("access_token").map(String::as_str))?;
    let (request, dual) = path.request(parameters);
    let publish = parameters.get("publish").map(String::as_str);
    admit_caller(app, caller, request?, dual, publish)
}

/// Whoever calls, if its token lets it join a room.
pub(super) fn joiner(app: &App, headers: &HeaderMap, token: Option<&str>) -> Result<Caller, Refusal> {
    let caller = app.caller(headers, token)?;
    if caller.video().room_join { Ok(caller) } else { Err(AuthError::Denied.into()) }
}

/// What a caller may join as; `publish` names a second connection of the same person.
pub(super) fn admit_caller(
    app: &App,
    caller: Caller,
    request: JoinRequest,
    dual: bool,
    publish: Option<&str>,
) -> Result<Admission, Refusal> {
    let mut grant = caller.video().clone();
    let (mut identity, room) = (caller.identity().to_owned(), grant.room.clone());
    // A second connection of the same person that only publishes.
    if let Some(publish) = publish.filter(|publish| dual && !publish.is_empty()) {
        identity = format!("{identity}#{publish}");
        grant.can_subscribe = Some(false);
    }
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
        resume: request.reconnect.then(|| ResumeParams {
            identity: identity.clone(),
            participant_sid: request.participant_sid,
            offer: request.publisher_offer.clone(),
            sync_state: request.sync_state,
        }),
        params: JoinParams {
            identity,
            name: claims.name,
            metadata: words.0,
            attributes: words.1,
            kind: participant_kind(&claims.kind),
            token_expiry_s: claims.exp.unwrap_or_default(),
            grant,
            api_key: caller.api_key,
            client: request.client_info.unwrap_or_default(),
            settings: request.connection_settings.unwrap_or_default(),
            add_tracks: request.add_track_requests,
            offer: request.publisher_offer,
            dual,
            peer_keys: PeerKeys::Ecdsa,
            offers_once: false,
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

/// A WebSocket that may be had; with the status of a request that asks for none.
pub(super) type Upgrade = Result<IncomingUpgrade, StatusCode>;

/// `GET /rtc`, a WebSocket.
pub(super) async fn v0(
    State(app): State<App>,
    Query(parameters): Parameters,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Response {
    answer(app, &parameters, &headers, Path::V0, upgrade).await
}

/// `GET /rtc/v1`, a WebSocket.
pub(super) async fn v1(
    State(app): State<App>,
    Query(parameters): Parameters,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Response {
    answer(app, &parameters, &headers, Path::V1, upgrade).await
}

async fn answer(
    app: App,
    parameters: &HashMap<String, String>,
    headers: &HeaderMap,
    path: Path,
    upgrade: Upgrade,
) -> Response {
    let Ok(upgrade) = upgrade else { return StatusCode::NOT_FOUND.into_response() };
    match join(app.clone(), parameters, headers, path, upgrade).await {
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
    path: Path,
    upgrade: IncomingUpgrade,
) -> Result<Response, Refusal> {
    let admission = admit(&app, headers, parameters, path)?;
    let session = match admission.resume {
        Some(resume) => match app.rooms.resume(&admission.room, resume).await {
            Some(session) => session,
            None => return Ok(upgraded(&app, upgrade, socket::refuse_resume)),
        },
        None => app.rooms.join(&admission.room, admission.params, admission.create.as_ref()).await?,
    };
    let (rate_max, telemetry) = (app.config.limit.signal_rate_max, Arc::clone(&app.telemetry));
    // Should the upgrade fail, the closure is dropped and the session with it.
    Ok(upgraded(&app, upgrade, move |socket| socket::run(socket, session, rate_max, telemetry)))
}

/// Switches protocols, then lets `run` have the socket.
pub(super) fn upgraded<F: Future<Output = ()> + Send + 'static>(
    app: &App,
    upgrade: IncomingUpgrade,
    run: impl FnOnce(HttpWebSocket) -> F + Send + 'static,
) -> Response {
    let Ok((response, socket)) = upgrade.upgrade(app.signal.clone()) else {
        return refusal(StatusCode::BAD_REQUEST, "the WebSocket extensions offered cannot be agreed on");
    };
    tokio::spawn(async move {
        if let Ok(socket) = socket.await {
            run(socket).await;
        }
    });
    response.map(|_| Body::empty())
}

/// `GET /rtc/validate`: what a join would answer, without joining.
pub(super) async fn validate_v0(
    State(app): State<App>,
    Query(parameters): Parameters,
    headers: HeaderMap,
) -> Response {
    validate(&app, &headers, &parameters, Path::V0)
}

/// `GET /rtc/v1/validate`: the same for the newer path.
pub(super) async fn validate_v1(
    State(app): State<App>,
    Query(parameters): Parameters,
    headers: HeaderMap,
) -> Response {
    validate(&app, &headers, &parameters, Path::V1)
}

fn validate(app: &App, headers: &HeaderMap, parameters: &HashMap<String, String>, path: Path) -> Response {
    match admit(app, headers, parameters, path) {
        Ok(_) => refusal(StatusCode::OK, "success"),
        Err(refusal) => refusal.into_response(),
    }
}
