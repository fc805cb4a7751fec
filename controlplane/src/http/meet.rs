//! `POST /meet/token`: a join token for the embedded UI, in the dev profile alone.
//!
//! The dev key pair is public, so nothing is given away that its holder could not sign himself. Everywhere else the
//! route answers as if it were not there, and the UI asks for a token made by whoever runs the rooms.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::{App, refusal};
use crate::auth::{Claims, NAME_BYTES_MAX, VideoGrant};
use crate::config::Profile;
use crate::rooms::actor::unix_ms;

/// Seconds a token of the UI lasts: a long meeting, with its reconnects.
const VALID_S: f64 = 6.0 * 3_600.0;
/// Characters of the name that an identity begins with.
const SLUG_CHARS_MAX: usize = 32;

/// Who wants in, and where.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokenRequest {
    room: String,
    name: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenAnswer {
    token: String,
}

/// `POST /meet/token`.
pub(super) async fn token(
    State(app): State<App>,
    request: Result<Json<TokenRequest>, JsonRejection>,
) -> Response {
    if app.config.profile != Profile::Dev {
        return StatusCode::NOT_FOUND.into_response();
    }
    let request = match request {
        Ok(Json(request)) => request,
        Err(rejection) => return refusal(rejection.status(), rejection.body_text()),
    };
    let (room, name) = (request.room.trim(), request.name.trim());
    for (what, text) in [("room", room), ("name", name)] {
        if text.is_empty() || text.len() > NAME_BYTES_MAX {
            let text = format!("{what} must be 1 to {NAME_BYTES_MAX} bytes");
            return refusal(StatusCode::BAD_REQUEST, text);
        }
    }
    let claims = claims(room, name, rand::random(), unix_ms() as f64 / 1_000.0);
    let Some(token) = app.keys.first().and_then(|key| app.keys.sign(key, &claims)) else {
        return refusal(StatusCode::INTERNAL_SERVER_ERROR, "the token could not be signed");
    };
    ([(header::CACHE_CONTROL, "no-store")], Json(TokenAnswer { token })).into_response()
}

/// `nonce` keeps two people of one name apart; the same identity twice would end the first one's call.
fn claims(room: &str, name: &str, nonce: u64, now_s: f64) -> Claims {
    Claims {
        sub: format!("{}-{nonce:016x}", slug(name)),
        name: name.to_owned(),
        nbf: Some(now_s),
        exp: Some(now_s + VALID_S),
        video: VideoGrant {
            room_join: true,
            room: room.to_owned(),
            can_update_own_metadata: Some(true),
            ..VideoGrant::default()
        },
        ..Claims::default()
    }
}

/// The name in letters, digits and single hyphens, readable in logs and APIs.
fn slug(name: &str) -> String {
    let mut slug = String::new();
    for c in name.chars().flat_map(char::to_lowercase) {
        if c.is_alphanumeric() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug: String = slug.trim_end_matches('-').chars().take(SLUG_CHARS_MAX).collect();
    if slug.is_empty() { "guest".into() } else { slug }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_people_of_one_name_have_two_identities() {
        let (one, two) = (claims("r", "Ann", 1, 0.0), claims("r", "Ann", 2, 0.0));
        assert_eq!((one.name.as_str(), two.name.as_str()), ("Ann", "Ann"));
        assert_eq!(one.sub, "ann-0000000000000001");
        assert_ne!(one.sub, two.sub);
    }

    #[test]
    fn a_token_joins_one_room_and_nothing_else() {
        let video = claims("blue", "Ann", 1, 0.0).video;
        assert!(video.room_join && video.may_publish() && video.may_subscribe());
        assert_eq!(video.room, "blue");
        assert!(!video.room_admin && !video.room_create && !video.room_list && !video.hidden);
    }

    #[test]
    fn identities_begin_readable() {
        assert_eq!(slug("  Ann  Marie! "), "ann-marie");
        assert_eq!(slug("Åsa Öst"), "åsa-öst");
        assert_eq!(slug("!!!"), "guest");
        assert_eq!(slug(&"x".repeat(300)).len(), SLUG_CHARS_MAX);
    }
}
