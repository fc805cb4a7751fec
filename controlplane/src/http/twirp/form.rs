//! One call: its form on the wire, its caller's grants, and reading and writing its messages.

use auralink_livekit::prost::Message;
use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::App;
use super::failure::Failure;
use crate::auth::Caller;

/// How messages are written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    Json,
    Protobuf,
}

impl Form {
    /// By the content type; `None` when it is neither of the two.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        match text.split(';').next()?.trim() {
            "application/json" => Some(Self::Json),
            "application/protobuf" => Some(Self::Protobuf),
            _ => None,
        }
    }
}

/// An authenticated call whose message is not decoded yet.
pub(super) struct Call<'a> {
    pub(super) app: &'a App,
    pub(super) caller: Caller,
    pub(super) form: Form,
    pub(super) body: &'a Bytes,
}

impl Call<'_> {
    /// Decodes the request.
    pub(super) fn read<T: Message + Default + DeserializeOwned>(&self) -> Result<T, Failure> {
        let malformed =
            |error: String| Failure::new("malformed", format!("the request could not be decoded: {error}"));
        match self.form {
            Form::Protobuf => T::decode(self.body.clone()).map_err(|error| malformed(error.to_string())),
            Form::Json if self.body.is_empty() => Ok(T::default()),
            Form::Json => serde_json::from_slice(self.body).map_err(|error| malformed(error.to_string())),
        }
    }

    /// Encodes the reply as the request was encoded.
    pub(super) fn write<T: Message>(&self, message: &T, json: impl FnOnce(&T) -> Value) -> Response {
        match self.form {
            Form::Json => axum::Json(json(message)).into_response(),
            Form::Protobuf => {
                ([(header::CONTENT_TYPE, "application/protobuf")], message.encode_to_vec()).into_response()
            }
        }
    }

    /// Goes on only where this was granted.
    pub(super) fn needs(&self, granted: bool) -> Result<(), Failure> {
        if granted { Ok(()) } else { Err(Failure::denied()) }
    }

    /// Goes on only for the administrator of this very room.
    pub(super) fn needs_admin(&self, room: &str) -> Result<(), Failure> {
        let grant = self.caller.video();
        self.needs(grant.room_admin && grant.room == room)
    }
}
