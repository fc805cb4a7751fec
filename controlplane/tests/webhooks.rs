//! Webhooks against real HTTP servers: order, signatures, retries, drops, and TLS.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may fail as tests do")]

#[path = "common/desk.rs"]
mod desk;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use auralink_controlplane::auth::{Keys, VideoGrant};
use auralink_controlplane::config::{Config, Webhook};
use auralink_controlplane::rooms::actor::unix_ms;
use auralink_livekit::WebhookEvent;
use aws_lc_rs::digest;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use desk::{Desk, PATIENCE, offer_receiving, offer_sending};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;

/// A receiver of webhooks that fails as often as it is told.
#[derive(Clone)]
struct Receiver {
    url: String,
    /// What came, accepted or not.
    seen: Arc<Mutex<Vec<(HeaderMap, Bytes, StatusCode)>>>,
    /// Replies before it accepts.
    failures: Arc<Mutex<Vec<StatusCode>>>,
    /// Replies it may still give.
    leave: Arc<Semaphore>,
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> StatusCode {
    receiver.leave.acquire().await.unwrap().forget();
    let status = receiver.failures.lock().unwrap().pop().unwrap_or(StatusCode::OK);
    receiver.seen.lock().unwrap().push((headers, body, status));
    status
}

impl Receiver {
    async fn start(failures: &[StatusCode], leave: usize) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self {
            url: format!("http://{}/hook", listener.local_addr().unwrap()),
            seen: Arc::default(),
            failures: Arc::new(Mutex::new(failures.to_vec())),
            leave: Arc::new(Semaphore::new(leave)),
        };
        let routes = axum::Router::new().route("/hook", post(receive)).with_state(receiver.clone());
        tokio::spawn(axum::serve(listener, routes).into_future());
        receiver
    }

    /// The events accepted, once there are this many.
    async fn accepted(&self, count: usize) -> Vec<WebhookEvent> {
        let enough = async {
            loop {
                let accepted = self.events(StatusCode::is_success);
                if accepted.len() >= count {
                    return accepted;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, enough).await.expect("events are missing")
    }

    fn events(&self, wanted: impl Fn(&StatusCode) -> bool) -> Vec<WebhookEvent> {
        let seen = self.seen.lock().unwrap();
        let wanted = seen.iter().filter(|(_, _, status)| wanted(status));
        wanted.map(|(_, body, _)| serde_json::from_slice(body).unwrap()).collect()
    }
}

fn with(urls: &[&str], change: impl FnOnce(&mut Webhook)) -> impl FnOnce(&mut Config) {
    let urls = urls.iter().map(ToString::to_string).collect();
    move |config| {
        config.webhook = Webhook { api_key: "devkey".into(), urls, ..Webhook::default() };
        change(&mut config.webhook);
    }
}

fn creator() -> VideoGrant {
    VideoGrant { room_create: true, ..VideoGrant::default() }
}

fn names(events: &[WebhookEvent]) -> Vec<&str> {
    events.iter().map(|event| event.event.as_str()).collect()
}

/// Checks that a webhook is what it says and comes from whom it says, as a receiver does.
fn assert_signed(keys: &Keys, headers: &HeaderMap, body: &Bytes) {
    assert_eq!(headers["content-type"], "application/webhook+json");
    let token = headers["authorization"].to_str().unwrap();
    let claims = keys.verify(token, unix_ms() as f64 / 1_000.0).unwrap().claims;
    let life_s = claims.exp.unwrap() - claims.nbf.unwrap();
    assert!((299.0..=301.0).contains(&life_s), "{life_s}");
    assert_eq!(claims.sha256, BASE64_STANDARD.encode(digest::digest(&digest::SHA256, body)));
}

#[tokio::test]
async fn a_rooms_events_come_signed_and_in_order_though_the_receiver_fails_at_first() {
    let failures = [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::TOO_MANY_REQUESTS];
    let receiver = Receiver::start(&failures, 100).await;
    let desk = Desk::start_with(with(&[&receiver.url], |_| {})).await;
    let mut alice = desk.join("r", "alice", Some(offer_receiving(1))).await;
    alice.answer().await;
    desk.connect_all().await;
    let request = auralink_livekit::AddTrackRequest { cid: "mic".into(), ..Default::default() };
    alice.ask(auralink_livekit::signal_request::Message::AddTrack(request)).await;
    alice.ask(auralink_livekit::signal_request::Message::Offer(offer_sending(2, &["mic"]))).await;
    alice.answer().await;
    desk.all_tracks_live().await;
    drop(desk.join("r", "bob", None).await);
    receiver.accepted(4).await;
    assert_eq!(desk.api(creator(), "DeleteRoom", r#"{"room":"r"}"#).await.status, 200);
    let events = receiver.accepted(7).await;
    let expected = [
        "room_started",
        "participant_joined",
        "track_published",
        "participant_connection_aborted",
        "track_unpublished",
        "participant_left",
        "room_finished",
    ];
    assert_eq!(names(&events), expected);
    assert_eq!(names(&receiver.events(|status| !status.is_success())), ["room_started"; 2]);
    let identity = |at: usize| events[at].participant.as_ref().unwrap().identity.as_str();
    assert_eq!([1, 2, 3, 5].map(identity), ["alice", "alice", "bob", "alice"]);
    assert_eq!(events[2].track, events[4].track);
    let sids: Vec<&str> = events.iter().map(|event| event.room.as_ref().unwrap().sid.as_str()).collect();
    assert!(sids.iter().all(|sid| *sid == sids[0] && sid.starts_with("RM_")));
    let mut ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
    assert!(ids.iter().all(|id| id.starts_with("EV_")));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 7);
    let seen = receiver.seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 9);
    for (headers, body, _) in &seen {
        assert_signed(&desk.keys, headers, body);
    }
    assert_eq!(seen[0].1, seen[2].1, "a retry is the same event");
    let counters = &desk.telemetry.counters;
    assert_eq!(counters.webhooks_retried.load(Ordering::Relaxed), 2);
    assert_eq!(counters.webhooks_dropped.load(Ordering::Relaxed), 0);
}

#[tokio::test]
#[allow(deprecated, reason = "receivers read it")]
async fn what_does_not_fit_is_dropped_counted_and_told() {
    let receiver = Receiver::start(&[], 0).await;
    let desk = Desk::start_with(with(&[&receiver.url], |webhook| webhook.queue_max = 1)).await;
    desk.api(creator(), "CreateRoom", r#"{"name":"r"}"#).await;
    // The first is on its way and waits for its reply.
    let waiting = async {
        while desk.telemetry.counters.webhooks_dropped.load(Ordering::Relaxed) == 0 {
            drop(desk.join("r", "zoe", None).await);
            desk.calm().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    let dropped = desk.telemetry.counters.webhooks_dropped.load(Ordering::Relaxed);
    receiver.leave.add_permits(2);
    assert_eq!(receiver.accepted(2).await.len(), 2);
    drop(desk.join("r", "zoe", None).await);
    receiver.leave.add_permits(1);
    let events = receiver.accepted(3).await;
    assert_eq!(
        names(&events),
        ["room_started", "participant_connection_aborted", "participant_connection_aborted"]
    );
    assert_eq!(events.iter().map(|event| event.num_dropped as u64).collect::<Vec<_>>(), [0, 0, dropped]);
}

#[tokio::test]
async fn what_a_receiver_does_not_want_is_not_sent_again_and_holds_up_nothing() {
    let receiver = Receiver::start(&[StatusCode::NOT_FOUND], 100).await;
    let desk = Desk::start_with(with(&[&receiver.url], |_| {})).await;
    desk.api(creator(), "CreateRoom", r#"{"name":"r"}"#).await;
    desk.api(creator(), "DeleteRoom", r#"{"room":"r"}"#).await;
    let events = receiver.accepted(1).await;
    assert_eq!(names(&events), ["room_finished"]);
    #[allow(deprecated, reason = "receivers read it")]
    let dropped = events[0].num_dropped;
    assert_eq!((dropped, receiver.seen.lock().unwrap().len()), (1, 2));
}

#[tokio::test]
async fn every_url_is_told_whatever_becomes_of_another() {
    let receiver = Receiver::start(&[], 100).await;
    // Nobody listens on the first.
    let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("http://{}/", unused.local_addr().unwrap());
    drop(unused);
    let desk = Desk::start_with(with(&[&nobody, &receiver.url], |_| {})).await;
    desk.api(creator(), "CreateRoom", r#"{"name":"r"}"#).await;
    desk.api(creator(), "DeleteRoom", r#"{"room":"r"}"#).await;
    assert_eq!(names(&receiver.accepted(2).await), ["room_started", "room_finished"]);
}

/// A certificate for `localhost` with its key, and the file that makes it trusted.
fn certificate(folder: &tempfile::TempDir, name: &str) -> (rcgen::CertifiedKey<rcgen::KeyPair>, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let pem = format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        BASE64_STANDARD.encode(made.cert.der())
    );
    let path = folder.path().join(name);
    std::fs::write(&path, pem).unwrap();
    (made, path.to_str().unwrap().to_owned())
}

/// Accepts one request after another over TLS, and gives what stood in each.
async fn serve_tls(
    listener: tokio::net::TcpListener,
    made: rcgen::CertifiedKey<rcgen::KeyPair>,
    requests: tokio::sync::mpsc::UnboundedSender<String>,
) {
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = acceptor.accept(stream).await else { continue };
        let mut request = String::new();
        // The body is JSON, so its end is told by its braces.
        while !request.contains('{') || request.matches('{').count() != request.matches('}').count() {
            let mut bytes = [0; 4_096];
            match stream.read(&mut bytes).await {
                Ok(len) if len > 0 => request.push_str(&String::from_utf8_lossy(&bytes[..len])),
                _ => break,
            }
        }
        let _ = requests.send(request);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
        let _ = stream.shutdown().await;
    }
}

#[tokio::test]
async fn https_is_spoken_with_receivers_that_can_be_trusted_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let (made, trusted) = certificate(&folder, "trusted.pem");
    let (_, other) = certificate(&folder, "other.pem");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/hook", listener.local_addr().unwrap().port());
    let (requests, mut received) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(serve_tls(listener, made, requests));

    let desk = Desk::start_with(with(&[&url], |webhook| webhook.ca_file = Some(other))).await;
    desk.api(creator(), "CreateRoom", r#"{"name":"r"}"#).await;
    let retried = async {
        while desk.telemetry.counters.webhooks_retried.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, retried).await.unwrap();
    assert!(received.try_recv().is_err(), "nothing is told to a stranger");

    let desk = Desk::start_with(with(&[&url], |webhook| webhook.ca_file = Some(trusted))).await;
    desk.api(creator(), "CreateRoom", r#"{"name":"r"}"#).await;
    let request = tokio::time::timeout(PATIENCE, received.recv()).await.unwrap().unwrap();
    assert!(request.starts_with("POST /hook HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(r#"{"event":"room_started""#), "{request}");
}
