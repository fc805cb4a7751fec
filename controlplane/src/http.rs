//! The HTTP port: signalling, server APIs, health, metrics and UI.

mod agent;
pub mod connection;
mod health;
mod meet;
mod rtc;
mod twirp;
mod web;
mod whip;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use tower::ServiceExt as _;
use tower_http::cors::{AllowHeaders, Any, CorsLayer};

use crate::agents::Agents;
use crate::auth::{AuthError, Caller, Keys};
use crate::config::Config;
use crate::rooms::Rooms;
use crate::rooms::actor::unix_ms;
use crate::telemetry::Telemetry;
use crate::whip::{Purpose, Resources};

/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 10 << 20;

/// What every handler may use.
#[derive(Clone)]
pub struct App {
    pub config: Arc<Config>,
    pub keys: Keys,
    pub rooms: Rooms,
    pub agents: Agents,
    pub telemetry: Arc<Telemetry>,
    pub resources: Resources,
    /// How signalling connections speak.
    pub signal: yawc::Options,
}

impl App {
    /// Who calls, by `Authorization: Bearer` or the `access_token` given.
    fn caller(&self, headers: &HeaderMap, access_token: Option<&str>) -> Result<Caller, AuthError> {
        let bearer = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("bearer ")));
        let token = bearer.or(access_token).map(str::trim).unwrap_or_default();
        self.keys.verify(token, unix_ms() as f64 / 1_000.0)
    }
}

/// All routes.
pub fn router(app: App) -> Router {
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([
            Method::OPTIONS,
            Method::HEAD,
            Method::GET,
            Method::POST,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(Any)
        .max_age(Duration::from_secs(86_400));
    let routes = Router::new()
        .route("/", get(web::root))
        .route("/meet", get(web::page))
        .route("/meet/{*path}", get(web::page))
        .route("/meet/token", get(web::page).post(meet::token))
        .route("/rtc", get(rtc::v0))
        .route("/rtc/v1", get(rtc::v1))
        .route("/rtc/validate", get(rtc::validate_v0))
        .route("/whip/v1", whip::endpoint(Purpose::Publish))
        .route("/whip/v1/{id}", whip::resource(Purpose::Publish))
        .route("/whep/v1", whip::endpoint(Purpose::Watch))
        .route("/whep/v1/{id}", whip::resource(Purpose::Watch))
        .route("/agent", any(agent::worker))
        .route("/rtc/v1/validate", get(rtc::validate_v1))
        .route("/twirp/{service}/{method}", post(twirp::call))
        .route("/livekit.RoomService/{method}", post(twirp::room_service))
        .route("/livekit.AgentDispatchService/{method}", post(twirp::agent_dispatch_service))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/health/startup", get(health::live))
        .route("/metrics", get(health::metrics))
        .fallback(web::asset)
        .with_state(app)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(cors)
        .layer(middleware::from_fn(whip::advertise));
    let inner = routes.clone();
    // Base URLs that end in a slash make paths that begin with two.
    let collapse = move |mut request: Request| {
        let inner = inner.clone();
        async move {
            match collapsed(request.uri()) {
                Some(uri) => {
                    *request.uri_mut() = uri;
                    inner.oneshot(request).await.into_response()
                }
                None => StatusCode::NOT_FOUND.into_response(),
            }
        }
    };
    Router::new().route("//{*path}", any(collapse)).fallback_service(routes)
}

fn collapsed(uri: &Uri) -> Option<Uri> {
    let whole = uri.path_and_query()?.as_str();
    format!("/{}", whole.trim_start_matches('/')).parse().ok()
}

/// A refusal in plain text, as clients of LiveKit read it.
fn refusal(status: StatusCode, text: impl std::fmt::Display) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text.to_string()).into_response()
}
