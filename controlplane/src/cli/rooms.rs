//! `auralink rooms …`: RoomService (Twirp, JSON) from a shell. What the server answers is printed as JSON, so that scripts can
//! read it; what it refuses ends the program with its code and message.

use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::http::{Request, Uri, header};
use bytes::Bytes;
use clap::{Args, Subcommand};
use http_body_util::{BodyExt as _, Full, Limited};
use serde_json::{Map, Value, json};

use crate::auth::{Claims, Keys, VideoGrant};
use crate::config::{DEV_KEY, DEV_SECRET};
use crate::https;
use crate::rooms::actor::unix_ms;

/// Longest a call may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Seconds the token of a call is good for.
const TOKEN_VALID_S: f64 = 60.0;
/// Octets of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Which server, and what to do there.
#[derive(Args, Debug)]
pub struct RoomsArgs {
    /// Where the server is; ws and wss mean http and https
    #[arg(long, env = "LIVEKIT_URL", default_value = "http://localhost:7880", global = true)]
    url: String,
    #[arg(long, env = "LIVEKIT_API_KEY", global = true)]
    api_key: Option<String>,
    #[arg(long, env = "LIVEKIT_API_SECRET", hide_env_values = true, global = true)]
    api_secret: Option<String>,
    /// Use the development key pair
    #[arg(long, global = true)]
    dev: bool,
    #[command(subcommand)]
    act: Act,
}

/// One call of RoomService.
#[derive(Subcommand, Debug)]
enum Act {
    /// All rooms, or those named
    List { rooms: Vec<String> },
    /// Create a room, or change the settings of one that exists
    Create {
        room: String,
        #[arg(long)]
        metadata: Option<String>,
        /// Seconds it waits for its first participant
        #[arg(long)]
        empty_timeout: Option<u32>,
        /// Seconds it waits for another one after the last has left
        #[arg(long)]
        departure_timeout: Option<u32>,
        #[arg(long)]
        max_participants: Option<u32>,
    },
    /// End a room for everybody in it
    Delete { room: String },
    /// Set a room's metadata
    SetMetadata { room: String, metadata: String },
    /// Everybody in a room
    Participants { room: String },
    /// One participant
    Participant { room: String, identity: String },
    /// Change what a participant is called or carries
    Update {
        room: String,
        identity: String,
        #[arg(long)]
        name: Option<String>,
        #[arg(long)]
        metadata: Option<String>,
        /// `name=value`; an empty value deletes the attribute
        #[arg(long = "attribute", value_name = "NAME=VALUE")]
        attributes: Vec<String>,
    },
    /// Send a participant away
    Remove { room: String, identity: String },
    /// Mute a track
    Mute { room: String, identity: String, track: String },
    /// Unmute a track, where the server allows that
    Unmute { room: String, identity: String, track: String },
    /// Subscribe a participant to tracks
    Subscribe { room: String, identity: String, tracks: Vec<String> },
    /// End a participant's subscriptions
    Unsubscribe { room: String, identity: String, tracks: Vec<String> },
    /// Send text as a data packet
    Send {
        room: String,
        text: String,
        #[arg(long)]
        topic: Option<String>,
        /// Identities it is for; everybody when none is given
        #[arg(long = "to")]
        to: Vec<String>,
    },
}

/// Makes the call and gives its answer as JSON text.
///
/// # Errors
/// A wrong flag, a server that cannot be reached, or what the server refused, in one line.
pub fn run(args: &RoomsArgs) -> anyhow::Result<String> {
    let (method, room, body) = args.act.call()?;
    let token = args.token(room)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(post(&address(&args.url, method)?, &token, &body))?;
    Ok(serde_json::to_string_pretty(&answer)?)
}

impl RoomsArgs {
    fn token(&self, room: &str) -> anyhow::Result<String> {
        let (key, secret) = match (&self.api_key, &self.api_secret) {
            (Some(key), Some(secret)) => (key.clone(), secret.clone()),
            _ if self.dev => (DEV_KEY.to_owned(), DEV_SECRET.to_owned()),
            _ => bail!("rooms needs --api-key and --api-secret, or --dev"),
        };
        let now_s = unix_ms() as f64 / 1_000.0;
        let video = VideoGrant {
            room: room.to_owned(),
            room_create: true,
            room_list: true,
            room_admin: true,
            ..VideoGrant::default()
        };
        let claims =
            Claims { nbf: Some(now_s), exp: Some(now_s + TOKEN_VALID_S), video, ..Claims::default() };
        Keys::new([(key.clone(), secret)].into()).sign(&key, &claims).context("the token could not be signed")
    }
}

impl Act {
    /// Method, room and request of the call.
    fn call(&self) -> anyhow::Result<(&'static str, &str, Value)> {
        Ok(match self {
            Self::List { rooms } => ("ListRooms", "", json!({ "names": rooms })),
            Self::Create { room, metadata, empty_timeout, departure_timeout, max_participants } => {
                let request = given([
                    ("name", Some(json!(room))),
                    ("metadata", metadata.as_ref().map(|text| json!(text))),
                    ("empty_timeout", empty_timeout.map(|seconds| json!(seconds))),
                    ("departure_timeout", departure_timeout.map(|seconds| json!(seconds))),
                    ("max_participants", max_participants.map(|count| json!(count))),
                ]);
                ("CreateRoom", room, request)
            }
            Self::Delete { room } => ("DeleteRoom", room, json!({ "room": room })),
            Self::SetMetadata { room, metadata } => {
                ("UpdateRoomMetadata", room, json!({ "room": room, "metadata": metadata }))
            }
            Self::Participants { room } => ("ListParticipants", room, json!({ "room": room })),
            Self::Participant { room, identity } => ("GetParticipant", room, of(room, identity)),
            Self::Update { room, identity, name, metadata, attributes } => {
                let request = given([
                    ("room", Some(json!(room))),
                    ("identity", Some(json!(identity))),
                    ("name", name.as_ref().map(|text| json!(text))),
                    ("metadata", metadata.as_ref().map(|text| json!(text))),
                    ("attributes", Some(pairs(attributes)?)),
                ]);
                ("UpdateParticipant", room, request)
            }
            Self::Remove { room, identity } => ("RemoveParticipant", room, of(room, identity)),
            Self::Mute { room, identity, track } => mute(room, identity, track, true),
            Self::Unmute { room, identity, track } => mute(room, identity, track, false),
            Self::Subscribe { room, identity, tracks } => subscribe(room, identity, tracks, true),
            Self::Unsubscribe { room, identity, tracks } => subscribe(room, identity, tracks, false),
            Self::Send { room, text, topic, to } => {
                use base64::Engine as _;
                let request = given([
                    ("room", Some(json!(room))),
                    ("data", Some(json!(base64::engine::general_purpose::STANDARD.encode(text)))),
                    ("kind", Some(json!("RELIABLE"))),
                    ("topic", topic.as_ref().map(|topic| json!(topic))),
                    ("destination_identities", Some(json!(to))),
                ]);
                ("SendData", room, request)
            }
        })
    }
}

fn of(room: &str, identity: &str) -> Value {
    json!({ "room": room, "identity": identity })
}

fn mute<'a>(room: &'a str, identity: &str, track: &str, muted: bool) -> (&'static str, &'a str, Value) {
    let request = json!({ "room": room, "identity": identity, "track_sid": track, "muted": muted });
    ("MutePublishedTrack", room, request)
}

fn subscribe<'a>(
    room: &'a str,
    identity: &str,
    tracks: &[String],
    subscribe: bool,
) -> (&'static str, &'a str, Value) {
    let request = json!({ "room": room, "identity": identity, "track_sids": tracks, "subscribe": subscribe });
    ("UpdateSubscriptions", room, request)
}

/// An object of the fields that have a value.
fn given<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(fields.collect())
}

fn pairs(attributes: &[String]) -> anyhow::Result<Value> {
    let mut object = Map::new();
    for attribute in attributes {
        let (name, value) = attribute
            .split_once('=')
            .with_context(|| format!("--attribute wants NAME=VALUE, not `{attribute}`"))?;
        object.insert(name.to_owned(), json!(value));
    }
    Ok(Value::Object(object))
}

/// Where a method is called.
fn address(url: &str, method: &str) -> anyhow::Result<Uri> {
    let (scheme, rest) =
        url.split_once("://").with_context(|| format!("--url wants http, https, ws or wss, not `{url}`"))?;
    let scheme = match scheme {
        "http" | "ws" => "http",
        "https" | "wss" => "https",
        _ => bail!("--url wants http, https, ws or wss, not `{url}`"),
    };
    let uri = format!("{scheme}://{}/twirp/livekit.RoomService/{method}", rest.trim_end_matches('/'));
    uri.parse().with_context(|| format!("--url: `{url}` is not a URL"))
}

async fn post(address: &Uri, token: &str, body: &Value) -> anyhow::Result<Value> {
    let client = https::client(https::native_authorities())?;
    let request = Request::post(address)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(Full::new(Bytes::from(body.to_string())))?;
    let answered = async {
        let unreachable = |why: String| anyhow::anyhow!("cannot reach {address}: {why}");
        let reply = client.request(request).await.map_err(|error| unreachable(https::chain(&error)))?;
        let status = reply.status();
        let body = Limited::new(reply.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| unreachable(error.to_string()))?.to_bytes();
        let answer: Value = serde_json::from_slice(&body)
            .with_context(|| format!("{address} answered {status} and no JSON: is it a LiveKit server?"))?;
        if status.is_success() {
            return Ok(answer);
        }
        let text = |field| answer.get(field).and_then(Value::as_str).unwrap_or_default();
        bail!("the server refused: {} ({})", text("msg"), text("code"))
    };
    let late = |_| anyhow::anyhow!("no answer from {address} within {} s", PATIENCE.as_secs());
    tokio::time::timeout(PATIENCE, answered).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_be_that_of_signalling() {
        let uri = |url| address(url, "ListRooms").map(|uri| uri.to_string());
        let path = "/twirp/livekit.RoomService/ListRooms";
        assert_eq!(uri("ws://host:7880").unwrap(), format!("http://host:7880{path}"));
        assert_eq!(uri("wss://host/base/").unwrap(), format!("https://host/base{path}"));
        for wrong in ["host:7880", "ftp://host", "http://"] {
            assert!(uri(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn attributes_are_pairs() {
        let values = pairs(&["a=1".into(), "b=".into(), "c=x=y".into()]).unwrap();
        assert_eq!(values, json!({ "a": "1", "b": "", "c": "x=y" }));
        assert!(pairs(&["a".into()]).is_err());
    }
}
