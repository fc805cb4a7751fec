//! `/whip/v1` (RFC 9725) and `/whep/v1` (draft-ietf-wish-whep): media in or out with one HTTP request, for whatever speaks no
//! LiveKit. The token is the same; what it lets an SDK client do, it lets these.

use auralink_livekit::{ClientInfo, ConnectionSettings, JoinRequest, SessionDescription};
use auralink_proto::PeerKeys;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, patch, post};

use super::rtc::{self, Refusal};
use super::{App, refusal};
use crate::negotiator::offer::{OFFER_BYTES_MAX, Offer, OfferError};
use crate::whip::fragment::{Fragment, FragmentError};
use crate::whip::{CreateError, Created, FIRST_OFFER, Owner, Patched, Purpose, announce};

const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");
const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");
/// Seconds after which a viewer may ask again.
const RETRY_AFTER_S: &str = "2";

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Join(#[from] Refusal),
    #[error("the body has to be {0}")]
    MediaType(&'static str),
    #[error("the body has {0} bytes, at most {OFFER_BYTES_MAX} are accepted")]
    TooLong(usize),
    #[error("the body is not text in UTF-8")]
    Text,
    #[error(transparent)]
    Offer(#[from] OfferError),
    #[error(transparent)]
    Fragment(#[from] FragmentError),
    #[error("the offer sends nothing that can be published: audio or video, in a bundle, with rtcp-mux")]
    NothingToPublish,
    #[error("the offer receives nothing")]
    NothingToReceive,
    #[error(transparent)]
    Create(#[from] CreateError),
    #[error("there is no such resource")]
    Gone,
    #[error("the token is not that of the resource's participant")]
    Foreign,
    #[error("If-Match is missing: it names the ICE session, or is * to start a new one")]
    NoMatch,
    #[error("the ICE session named in If-Match is over")]
    Stale,
    #[error("the room did not answer")]
    Failed,
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Join(refusal) => return refusal.into_response(),
            Self::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Text
            | Self::Offer(_)
            | Self::Fragment(_)
            | Self::NothingToPublish
            | Self::NothingToReceive
            | Self::Create(CreateError::Refused) => StatusCode::BAD_REQUEST,
            Self::Create(CreateError::NothingToWatch) => StatusCode::CONFLICT,
            Self::Create(CreateError::Silent) | Self::Failed => StatusCode::SERVICE_UNAVAILABLE,
            Self::Gone => StatusCode::NOT_FOUND,
            Self::Foreign => StatusCode::UNAUTHORIZED,
            Self::NoMatch => StatusCode::PRECONDITION_REQUIRED,
            Self::Stale => StatusCode::PRECONDITION_FAILED,
        };
        let mut response = refusal(status, &self);
        if status == StatusCode::CONFLICT {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        response
    }
}

/// Where resources are made.
pub(super) fn endpoint(purpose: Purpose) -> MethodRouter<App> {
    let create = move |State(app): State<App>, headers: HeaderMap, body: Bytes| async move {
        create(&app, purpose, &headers, &body).await.map(|created| made(purpose, created))
    };
    post(create)
}

/// Adds to the answer to OPTIONS, which says what browsers may do, what can be posted (RFC 9725 §4.2).
pub(super) async fn advertise(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_asked = request.method() == Method::OPTIONS
        && [Purpose::Publish, Purpose::Watch].iter().any(|purpose| path.starts_with(purpose.path()));
    let mut response = next.run(request).await;
    if is_asked {
        response.headers_mut().insert(ACCEPT_POST, HeaderValue::from_static(SDP));
        response.headers_mut().insert(ACCEPT_PATCH, HeaderValue::from_static(FRAGMENT));
    }
    response
}

/// A resource.
pub(super) fn resource(purpose: Purpose) -> MethodRouter<App> {
    let change = move |State(app): State<App>, Path(id): Path<String>, headers: HeaderMap, body: Bytes| async move {
        change(&app, purpose, &id, &headers, &body).await
    };
    let end = move |State(app): State<App>, Path(id): Path<String>, headers: HeaderMap| async move {
        owned(&app, purpose, &id, &headers)?;
        if app.resources.end(&id).await { Ok(StatusCode::OK) } else { Err(Fault::Gone) }
    };
    patch(change).delete(end)
}

async fn create(app: &App, purpose: Purpose, headers: &HeaderMap, body: &Bytes) -> Result<Created, Fault> {
    let caller = rtc::joiner(app, headers, None)?;
    let sdp = text(headers, body, SDP)?;
    let offer = Offer::parse(sdp)?;
    let add_track_requests = match purpose {
        Purpose::Publish => announce::tracks(&offer),
        Purpose::Watch => Vec::new(),
    };
    match purpose {
        Purpose::Publish if add_track_requests.is_empty() => return Err(Fault::NothingToPublish),
        Purpose::Watch if !announce::receives(&offer) => return Err(Fault::NothingToReceive),
        Purpose::Publish | Purpose::Watch => {}
    }
    let description = SessionDescription {
        r#type: "offer".into(),
        sdp: sdp.to_owned(),
        id: FIRST_OFFER,
        ..SessionDescription::default()
    };
    let watches = purpose == Purpose::Watch;
    let request = JoinRequest {
        client_info: Some(ClientInfo::default()),
        connection_settings: Some(ConnectionSettings { auto_subscribe: watches, ..Default::default() }),
        add_track_requests,
        publisher_offer: Some(description),
        ..JoinRequest::default()
    };
    let mut admission = rtc::admit_caller(app, caller, request, false, None)?;
    admission.params.peer_keys = PeerKeys::Any;
    admission.params.offers_once = true;
    let owner = Owner { room: admission.room.clone(), identity: admission.params.identity.clone() };
    let joined = app.rooms.join(&admission.room, admission.params, admission.create.as_ref()).await;
    let session = joined.map_err(Refusal::from)?;
    Ok(app.resources.create(purpose, owner, session, sdp.to_owned()).await?)
}

fn made(purpose: Purpose, created: Created) -> Response {
    let location = format!("{}/{}", purpose.path(), created.id);
    let headers = [
        (header::CONTENT_TYPE, SDP.to_owned()),
        (header::LOCATION, location),
        (header::ETAG, created.etag),
        (ACCEPT_PATCH, FRAGMENT.to_owned()),
    ];
    (StatusCode::CREATED, headers, created.answer).into_response()
}

async fn change(
    app: &App,
    purpose: Purpose,
    id: &str,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Response, Fault> {
    owned(app, purpose, id, headers)?;
    let fragment = Fragment::parse(text(headers, body, FRAGMENT)?)?;
    let if_match =
        headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok()).ok_or(Fault::NoMatch)?;
    match app.resources.patch(id, if_match.to_owned(), fragment).await.ok_or(Fault::Gone)? {
        Patched::Accepted => Ok(StatusCode::NO_CONTENT.into_response()),
        Patched::Stale => Err(Fault::Stale),
        Patched::Failed => Err(Fault::Failed),
        Patched::Restarted { fragment, etag } => {
            let headers = [(header::CONTENT_TYPE, FRAGMENT.to_owned()), (header::ETAG, etag)];
            Ok((StatusCode::OK, headers, fragment).into_response())
        }
    }
}

/// Resources are named by what everybody in a room knows: only the token that made one may touch it.
fn owned(app: &App, purpose: Purpose, id: &str, headers: &HeaderMap) -> Result<(), Fault> {
    let caller = rtc::joiner(app, headers, None)?;
    let owner = app.resources.owner(purpose, id).ok_or(Fault::Gone)?;
    let is_owner = caller.identity() == owner.identity && caller.video().room == owner.room;
    is_owner.then_some(()).ok_or(Fault::Foreign)
}

fn text<'a>(headers: &HeaderMap, body: &'a Bytes, wanted: &'static str) -> Result<&'a str, Fault> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let given = given.split(';').next().unwrap_or_default().trim();
    if !given.eq_ignore_ascii_case(wanted) {
        return Err(Fault::MediaType(wanted));
    }
    if body.len() > OFFER_BYTES_MAX {
        return Err(Fault::TooLong(body.len()));
    }
    std::str::from_utf8(body).map_err(|_| Fault::Text)
}
