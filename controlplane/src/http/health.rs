//! Health and metrics.

use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::App;

/// The process runs.
pub(super) async fn live() -> &'static str {
    "OK"
}

/// New participants are welcome: every shard turns and there is room.
pub(super) async fn ready(State(app): State<App>) -> Response {
    if let Some(shard) = app.telemetry.stalled_shards().first() {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("shard {shard} does not turn")).into_response();
    }
    let rooms = app.telemetry.rooms.load(Ordering::Relaxed);
    if usize::try_from(rooms).is_ok_and(|rooms| rooms < app.config.room.rooms_max) {
        "OK".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "room.rooms_max is reached").into_response()
    }
}

/// Counters in Prometheus' text format.
pub(super) async fn metrics(State(app): State<App>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.telemetry.page()).into_response()
}
