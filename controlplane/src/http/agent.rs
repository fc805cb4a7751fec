//! `/agent`: workers of agents connect here. Refused before the upgrade: who has no token for it.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::rtc::{Upgrade, upgraded};
use super::{App, refusal};
use crate::agents::socket;
use crate::auth::AuthError;

#[derive(Deserialize)]
pub(super) struct Parameters {
    access_token: Option<String>,
}

/// `GET /agent`, a WebSocket.
pub(super) async fn worker(
    State(app): State<App>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Response {
    let Ok(upgrade) = upgrade else { return StatusCode::NOT_FOUND.into_response() };
    let caller = match app.caller(&headers, parameters.access_token.as_deref()) {
        Ok(caller) if caller.video().agent => caller,
        Ok(_) => return refusal(StatusCode::UNAUTHORIZED, AuthError::Denied),
        Err(error) => return refusal(StatusCode::UNAUTHORIZED, error),
    };
    let Some(connection) = app.agents.open(caller.api_key).await else {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping");
    };
    // Should the upgrade fail, the closure is dropped and the connection with it.
    let telemetry = Arc::clone(&app.telemetry);
    upgraded(&app, upgrade, move |socket| socket::run(socket, connection, telemetry))
}
