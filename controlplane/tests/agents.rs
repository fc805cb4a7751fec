//! Workers of agents over real WebSockets: registering, jobs, tokens, and dispatches by the server API.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may fail as tests do")]

#[path = "common/desk.rs"]
mod desk;

use std::time::Duration;

use auralink_controlplane::auth::{Claims, VideoGrant};
use auralink_controlplane::rooms::actor::unix_ms;
use auralink_livekit::prost::Message as _;
use auralink_livekit::server_message::Message as Told;
use auralink_livekit::worker_message::Message as Ask;
use auralink_livekit::{
    AvailabilityResponse, Job, JobAssignment, JobStatus, JobType, RegisterWorkerRequest, RoomAgentDispatch,
    RoomConfiguration, ServerMessage, UpdateJobStatus, WorkerMessage, WorkerPing,
};
use desk::{Desk, PATIENCE, offer_receiving};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// A worker's end of its connection.
struct Worker {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Worker {
    /// Connects, or gives the status and text of the refusal.
    async fn connect(desk: &Desk, grant: VideoGrant) -> Result<Self, (u16, String)> {
        let url = format!("ws://{}/agent?access_token={}&protocol=1", desk.address, desk.token("", grant));
        match tokio_tungstenite::connect_async(url).await {
            Ok((socket, _)) => Ok(Self { socket }),
            Err(Error::Http(response)) => {
                let body = response.body().clone().unwrap_or_default();
                Err((response.status().as_u16(), String::from_utf8_lossy(&body).into_owned()))
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn register(desk: &Desk, agent_name: &str, kind: JobType) -> Self {
        let mut worker = Self::connect(desk, agent()).await.unwrap();
        let agent_name = agent_name.into();
        let request = RegisterWorkerRequest { agent_name, r#type: kind.into(), ..Default::default() };
        worker.ask(Ask::Register(request)).await;
        let Told::Register(registered) = worker.next().await.unwrap() else { panic!("not registered") };
        assert!(registered.worker_id.starts_with("AW_"));
        let server = registered.server_info.unwrap();
        assert_eq!((server.agent_protocol, server.version.is_empty()), (1, false));
        worker
    }

    async fn ask(&mut self, message: Ask) {
        let message = WorkerMessage { message: Some(message) };
        self.socket.send(Message::Binary(message.encode_to_vec().into())).await.unwrap();
    }

    /// The next message; `None` when the connection is closed.
    async fn next(&mut self) -> Option<Told> {
        loop {
            match tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("the server is silent") {
                Some(Ok(Message::Binary(bytes))) => return ServerMessage::decode(bytes).unwrap().message,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    async fn text(&mut self) -> serde_json::Value {
        loop {
            match tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("the server is silent") {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The job it is asked to take, taken.
    async fn take(&mut self, identity: &str) -> (Job, JobAssignment) {
        let Some(Told::Availability(asked)) = self.next().await else { panic!("no job") };
        let job = asked.job.unwrap();
        let answer = AvailabilityResponse {
            job_id: job.id.clone(),
            available: true,
            participant_identity: identity.into(),
            participant_name: "Helper".into(),
            ..AvailabilityResponse::default()
        };
        self.ask(Ask::Availability(answer)).await;
        let Some(Told::Assignment(assignment)) = self.next().await else { panic!("not assigned") };
        assert_eq!(assignment.job.as_ref().unwrap().id, job.id);
        (job, assignment)
    }
}

fn agent() -> VideoGrant {
    VideoGrant { agent: true, ..VideoGrant::default() }
}

fn admin(room: &str) -> VideoGrant {
    VideoGrant { room_admin: true, room_create: true, room: room.into(), ..VideoGrant::default() }
}

#[tokio::test]
async fn only_a_token_for_agents_opens_the_door() {
    let desk = Desk::start().await;
    let refused = Worker::connect(&desk, admin("r")).await.err().unwrap();
    assert_eq!(refused, (401, "permissions denied".to_owned()));
    assert!(Worker::connect(&desk, agent()).await.is_ok());
    let bearer = format!("Bearer {}", desk.token("", agent()));
    let plain = desk.http("GET", "/agent", &[("authorization", &bearer)], b"").await;
    assert_eq!(plain.status, 404);
}

#[tokio::test]
async fn an_agent_joins_the_room_it_was_sent_to_and_is_stopped_with_it() {
    let desk = Desk::start().await;
    let mut worker = Worker::register(&desk, "", JobType::JtRoom).await;
    desk.api(admin("r"), "CreateRoom", r#"{"name":"r"}"#).await;
    let (job, assignment) = worker.take("helper").await;
    assert_eq!((job.r#type(), job.room.unwrap().name.as_str()), (JobType::JtRoom, "r"));
    let url = desk.url(&assignment.token, &Desk::join_request(Some(offer_receiving(1))));
    let mut helper = desk.open(&url).await.unwrap();
    helper.answer().await;
    let found = desk.api(admin("r"), "GetParticipant", r#"{"room":"r","identity":"helper"}"#).await.json();
    assert_eq!((found["kind"].as_str(), found["name"].as_str()), (Some("AGENT"), Some("Helper")));
    assert_eq!(found["attributes"], json!({"lk.agent_name": ""}));
    assert_eq!(desk.api(admin("r"), "DeleteRoom", r#"{"room":"r"}"#).await.status, 200);
    let told = worker.next().await;
    let Some(Told::Termination(termination)) = told else { panic!("{told:?}") };
    assert_eq!(termination.job_id, job.id);
}

#[tokio::test]
async fn a_token_names_the_agents_of_the_room_it_makes() {
    let desk = Desk::start().await;
    let mut guide = Worker::register(&desk, "guide", JobType::JtParticipant).await;
    let room_config = RoomConfiguration {
        agents: vec![RoomAgentDispatch {
            agent_name: "guide".into(),
            metadata: "m".into(),
            ..Default::default()
        }],
        ..RoomConfiguration::default()
    };
    let claims = Claims {
        sub: "alice".into(),
        exp: Some(unix_ms() as f64 / 1_000.0 + 60.0),
        video: Desk::grant("r"),
        room_config: Some(room_config),
        ..Claims::default()
    };
    let token = desk.keys.sign("devkey", &claims).unwrap();
    let url = desk.url(&token, &Desk::join_request(Some(offer_receiving(1))));
    let mut alice = desk.open(&url).await.unwrap();
    alice.answer().await;
    desk.connect_all().await;
    let (job, _) = guide.take("helper").await;
    assert_eq!((job.metadata.as_str(), job.participant.unwrap().identity.as_str()), ("m", "alice"));
}

#[tokio::test]
async fn dispatches_are_made_listed_and_taken_back_by_the_server_api() {
    let desk = Desk::start().await;
    let mut guide = Worker::register(&desk, "guide", JobType::JtRoom).await;
    let call = async |method: &str, body: serde_json::Value| {
        desk.call(admin("r"), &format!("AgentDispatchService/{method}"), &body.to_string()).await
    };
    let wanted = json!({"room": "r", "agent_name": "guide", "metadata": "m", "attributes": {"a": "1"}});
    let made = call("CreateDispatch", wanted).await.json();
    assert_eq!(
        (made["room"].as_str(), made["state"]["jobs"][0]["type"].as_str()),
        (Some("r"), Some("JT_ROOM"))
    );
    let (job, _) = guide.take("helper").await;
    assert_eq!((job.metadata.as_str(), job.attributes["a"].as_str()), ("m", "1"));
    let update =
        UpdateJobStatus { job_id: job.id.clone(), status: JobStatus::JsFailed.into(), error: "no".into() };
    guide.ask(Ask::UpdateJob(update)).await;
    guide.ask(Ask::Ping(WorkerPing { timestamp: 5 })).await;
    let Some(Told::Pong(pong)) = guide.next().await else { panic!("no pong") };
    assert_eq!(pong.last_timestamp, 5);
    let one = json!({"room": "r", "dispatch_id": made["id"]});
    let listed = call("ListDispatch", one.clone()).await.json();
    let state = &listed["agent_dispatches"][0]["state"]["jobs"][0]["state"];
    assert_eq!((state["status"].as_str(), state["error"].as_str()), (Some("JS_FAILED"), Some("no")));
    assert_eq!(
        call("ListDispatch", json!({"room": "r"})).await.json()["agent_dispatches"].as_array().unwrap().len(),
        2
    );
    let deleted = call("DeleteDispatch", one.clone()).await.json();
    assert_eq!(deleted["id"], made["id"]);
    assert_ne!(deleted["state"]["deleted_at"], "0");
    assert_eq!(call("ListDispatch", one.clone()).await.json(), json!({"agent_dispatches": []}));
    assert_eq!(call("DeleteDispatch", one).await.status, 404);
    let body = r#"{"room":"r"}"#;
    for method in ["CreateDispatch", "DeleteDispatch", "ListDispatch"] {
        let denied = desk.call(admin("other"), &format!("AgentDispatchService/{method}"), body).await;
        assert_eq!(denied.status, 401);
    }
}

#[tokio::test]
async fn a_dispatch_needs_a_room_where_none_is_made_by_itself() {
    let desk = Desk::start_with(|config| config.room.auto_create = false).await;
    let reply = desk.call(admin("r"), "AgentDispatchService/CreateDispatch", r#"{"room":"r"}"#).await;
    assert_eq!((reply.status, reply.json()["msg"].as_str()), (404, Some("requested room does not exist")));
}

#[tokio::test]
async fn a_worker_that_sends_text_is_answered_in_json() {
    let desk = Desk::start().await;
    let mut worker = Worker::connect(&desk, agent()).await.unwrap();
    worker
        .socket
        .send(Message::Text(r#"{"register":{"type":"JT_ROOM","agentName":"guide"}}"#.into()))
        .await
        .unwrap();
    assert!(worker.text().await["register"]["workerId"].as_str().unwrap().starts_with("AW_"));
    desk.api(admin("r"), "CreateRoom", r#"{"name":"r","agents":[{"agentName":"guide"}]}"#).await;
    let asked = worker.text().await;
    let id = asked["availability"]["job"]["id"].as_str().unwrap();
    let answer = json!({"availability": {"jobId": id, "available": true, "participantIdentity": "helper"}});
    worker.socket.send(Message::Text(answer.to_string().into())).await.unwrap();
    let token = worker.text().await["assignment"]["token"].as_str().unwrap().to_owned();
    let claims = desk.keys.verify(&token, unix_ms() as f64 / 1_000.0).unwrap().claims;
    assert_eq!((claims.sub.as_str(), claims.kind.as_str()), ("helper", "agent"));
}

#[tokio::test]
async fn rubbish_ends_its_own_connection_and_nobody_elses() {
    let desk = Desk::start().await;
    let mut bystander = Worker::register(&desk, "", JobType::JtRoom).await;
    let mut mallory = Worker::connect(&desk, agent()).await.unwrap();
    for _ in 0..11 {
        // A server that has had enough may close at any moment.
        let _ = mallory.socket.send(Message::Binary(vec![0xff; 9].into())).await;
    }
    assert_eq!(mallory.next().await, None);
    let mut unknown = Worker::connect(&desk, agent()).await.unwrap();
    unknown.ask(Ask::Register(RegisterWorkerRequest { r#type: 9, ..Default::default() })).await;
    assert_eq!(unknown.next().await, None);
    desk.api(admin("r"), "CreateRoom", r#"{"name":"r"}"#).await;
    bystander.take("helper").await;
    let malformed = desk.telemetry.counters.agent_malformed.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(malformed, 12);
    drop(bystander);
    let gone = async {
        while desk.telemetry.agent_workers.load(std::sync::atomic::Ordering::Relaxed) != 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}
