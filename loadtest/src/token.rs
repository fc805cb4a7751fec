//! Access tokens as LiveKit's servers read them: HS256, claims `iss sub exp video`.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

/// Long enough for any run.
const LIFETIME_SECONDS: u64 = 6 * 3_600;

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    name: &'a str,
    nbf: u64,
    exp: u64,
    video: Grant<'a>,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Grant<'a> {
    room: &'a str,
    room_join: bool,
    can_publish: bool,
    can_subscribe: bool,
    can_publish_data: bool,
    room_admin: bool,
    room_list: bool,
}

/// A token with which `identity` joins `room` and may do everything in it.
pub(crate) fn mint(key: &str, secret: &str, identity: &str, room: &str) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
    let video = Grant {
        room,
        room_join: true,
        can_publish: true,
        can_subscribe: true,
        can_publish_data: true,
        room_admin: true,
        room_list: true,
    };
    let claims =
        Claims { iss: key, sub: identity, name: identity, nbf: now - 5, exp: now + LIFETIME_SECONDS, video };
    let secret = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &secret).context("cannot sign a token")
}
