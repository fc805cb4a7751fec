//! Errors as Twirp names them, with the HTTP status each code has.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::agents::registry::DispatchError;
use crate::rooms::RoomError;
use crate::rooms::admin::AdminError;
use crate::rooms::rpc::{RpcFailure, builtin};

/// An error as Twirp names it.
#[derive(Debug)]
pub(super) struct Failure {
    code: &'static str,
    message: String,
    meta: Map<String, Value>,
}

impl Failure {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), meta: Map::new() }
    }

    /// The request says something it may not say; the caller's fault.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new("invalid_argument", message)
    }

    /// Missing grants are answered like missing tokens.
    pub(super) fn denied() -> Self {
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

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        let code = match error {
            AdminError::NoParticipant | AdminError::NoTrack => "not_found",
            AdminError::RemoteUnmute => "failed_precondition",
            AdminError::TooLong(_) | AdminError::DataTooLong => "invalid_argument",
        };
        Self::new(code, error.to_string())
    }
}

impl From<DispatchError> for Failure {
    fn from(error: DispatchError) -> Self {
        let code = match error {
            DispatchError::Absent => "not_found",
            DispatchError::TooMany => "resource_exhausted",
            DispatchError::Stopping => "unavailable",
        };
        Self::new(code, error.to_string())
    }
}

impl From<RpcFailure> for Failure {
    /// The participant's own code and data travel in `meta`, whose values Twirp wants to be strings.
    fn from(failure: RpcFailure) -> Self {
        let code = match failure.code {
            builtin::CONNECTION_TIMEOUT | builtin::RESPONSE_TIMEOUT => "deadline_exceeded",
            builtin::RECIPIENT_DISCONNECTED | builtin::SEND_FAILED => "unavailable",
            builtin::RECIPIENT_NOT_FOUND => "not_found",
            builtin::UNSUPPORTED_METHOD | builtin::REQUEST_TOO_LARGE => "invalid_argument",
            builtin::UNSUPPORTED_SERVER | builtin::UNSUPPORTED_VERSION => "unimplemented",
            builtin::TOO_MANY => "resource_exhausted",
            _ => "internal",
        };
        let mut meta = Map::new();
        meta.insert("rpc_code".into(), failure.code.to_string().into());
        if !failure.data.is_empty() {
            meta.insert("rpc_data".into(), failure.data.into());
        }
        Self { code, message: failure.message, meta }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.code {
            "invalid_argument" | "malformed" => StatusCode::BAD_REQUEST,
            "unauthenticated" => StatusCode::UNAUTHORIZED,
            "not_found" | "bad_route" => StatusCode::NOT_FOUND,
            "deadline_exceeded" => StatusCode::REQUEST_TIMEOUT,
            "failed_precondition" => StatusCode::PRECONDITION_FAILED,
            "resource_exhausted" => StatusCode::TOO_MANY_REQUESTS,
            "unimplemented" => StatusCode::NOT_IMPLEMENTED,
            "unavailable" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let body = json!({"code": self.code, "msg": self.message, "meta": self.meta});
        (status, axum::Json(body)).into_response()
    }
}
