//! Workers and jobs without I/O: what workers are told, and what becomes of jobs.

use std::time::{Duration, Instant};

use auralink_livekit::server_message::Message as Told;
use auralink_livekit::worker_message::Message as Ask;
use auralink_livekit::{
    AgentDispatch, AvailabilityResponse, CreateAgentDispatchRequest, DisconnectReason, Job, JobAssignment,
    JobStatus, JobType, MigrateJobRequest, ParticipantInfo, ParticipantPermission, RegisterWorkerRequest,
    Room, RoomAgentDispatch, RoomEndReason, ServerInfo, SimulateJobRequest, TrackInfo, UpdateJobStatus,
    UpdateWorkerStatus, WorkerMessage, WorkerPing, WorkerStatus, participant_info,
};

use super::NewDispatch;
use super::registry::{DispatchError, Output, Registry, Turn, WorkerKey};
use crate::auth::{Claims, Keys};
use crate::config::{Agents, Limit};
use crate::negotiator::Random;
use crate::rooms::notices::{Happened, Notice};
use crate::telemetry::Telemetry;

const UNIX_MS: i64 = 1_790_000_000_000;

struct Counted(u64);

impl Random for Counted {
    fn bits(&mut self) -> u32 {
        self.word(1).len() as u32
    }

    fn word(&mut self, len: usize) -> String {
        self.0 += 1;
        format!("{:0>len$}", self.0)
    }
}

/// A registry with a clock that is moved by hand.
struct Stage {
    registry: Registry,
    random: Counted,
    keys: Keys,
    telemetry: Telemetry,
    now: Instant,
    told: Vec<(WorkerKey, Told)>,
    closed: Vec<WorkerKey>,
    noticed: Vec<Notice>,
    opened: u64,
}

impl Stage {
    fn new() -> Self {
        Self {
            registry: Registry::new(Agents::default(), Limit::default(), ServerInfo::default()),
            random: Counted(0),
            keys: Keys::new([("key".to_owned(), "secret".to_owned())].into()),
            telemetry: Telemetry::default(),
            now: Instant::now(),
            told: Vec::new(),
            closed: Vec::new(),
            noticed: Vec::new(),
            opened: 0,
        }
    }

    fn turn<T>(&mut self, act: impl FnOnce(&mut Registry, &mut Turn<'_>) -> T) -> T {
        let mut out = Vec::new();
        let mut turn = Turn {
            now: self.now,
            unix_ms: UNIX_MS,
            random: &mut self.random,
            keys: &self.keys,
            telemetry: &self.telemetry,
            out: &mut out,
        };
        let done = act(&mut self.registry, &mut turn);
        for output in out {
            match output {
                Output::Tell(key, message) => self.told.push((key, *message)),
                Output::Close(key) => self.closed.push(key),
                Output::Notice(notice) => self.noticed.push(*notice),
            }
        }
        done
    }

    fn open(&mut self) -> WorkerKey {
        self.opened += 1;
        let key = WorkerKey(self.opened);
        self.turn(|registry, turn| registry.handle_opened(key, "key".into(), turn));
        key
    }

    fn ask(&mut self, key: WorkerKey, message: Ask) {
        let message = WorkerMessage { message: Some(message) };
        self.turn(|registry, turn| registry.handle_message(key, message, turn));
    }

    /// A worker for jobs of this kind, registered.
    fn worker(&mut self, agent_name: &str, kind: JobType) -> WorkerKey {
        let key = self.open();
        let agent_name = agent_name.into();
        let request = RegisterWorkerRequest { agent_name, r#type: kind.into(), ..Default::default() };
        self.ask(key, Ask::Register(request));
        key
    }

    fn close(&mut self, key: WorkerKey) {
        self.turn(|registry, turn| registry.handle_closed(key, turn));
    }

    fn happen(&mut self, room: &str, what: Happened) {
        let room = Room { sid: format!("RM_{room}"), name: room.into(), ..Room::default() };
        let notice = Notice { unix_ms: UNIX_MS, room, what };
        self.turn(|registry, turn| registry.handle_notice(notice, turn));
    }

    /// A room starts, with these agents asked for by name.
    fn start(&mut self, room: &str, agents: &[&str]) {
        let named = |name: &&str| RoomAgentDispatch { agent_name: name.to_string(), ..Default::default() };
        self.happen(room, Happened::RoomStarted(agents.iter().map(named).collect()));
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.turn(|registry, turn| registry.handle_tick(turn));
    }

    /// What the world was told of jobs since the last call: whether each ended, how it stood, and in which room.
    fn told_of_jobs(&mut self) -> Vec<(bool, JobStatus, String)> {
        let told = |notice: Notice| match notice.what {
            Happened::JobStarted(job) => Some((false, job.state?.status(), notice.room.name)),
            Happened::JobEnded(job) => Some((true, job.state?.status(), notice.room.name)),
            _ => None,
        };
        self.noticed.drain(..).filter_map(told).collect()
    }

    /// Jobs this worker was asked about, since the last call.
    fn asked(&mut self, key: WorkerKey) -> Vec<Job> {
        let mut jobs = Vec::new();
        self.told.retain(|(to, told)| match told {
            Told::Availability(request) if *to == key => {
                jobs.extend(request.job.clone());
                false
            }
            _ => true,
        });
        jobs
    }

    fn accept(&mut self, key: WorkerKey, job: &Job, identity: &str) -> JobAssignment {
        let answer = AvailabilityResponse {
            job_id: job.id.clone(),
            available: true,
            participant_identity: identity.into(),
            ..AvailabilityResponse::default()
        };
        self.ask(key, Ask::Availability(answer));
        let assigned = self.told.iter().rev().find_map(|(to, told)| match told {
            Told::Assignment(assignment) if *to == key => Some(assignment.clone()),
            _ => None,
        });
        assigned.unwrap()
    }

    fn decline(&mut self, key: WorkerKey, job: &Job) {
        self.ask(
            key,
            Ask::Availability(AvailabilityResponse { job_id: job.id.clone(), ..Default::default() }),
        );
    }

    fn load(&mut self, key: WorkerKey, load: f32, status: WorkerStatus) {
        let status = Some(status.into());
        self.ask(key, Ask::UpdateWorker(UpdateWorkerStatus { load, status, ..Default::default() }));
    }

    fn terminated(&self, key: WorkerKey) -> Vec<&str> {
        let told = self.told.iter().filter(|(to, _)| *to == key).filter_map(|(_, told)| match told {
            Told::Termination(termination) => Some(termination.job_id.as_str()),
            _ => None,
        });
        told.collect()
    }

    /// Jobs of a room with how they are.
    fn jobs(&self, room: &str) -> Vec<(JobStatus, String)> {
        let dispatches = self.registry.list(room, "");
        let jobs = dispatches.into_iter().flat_map(|dispatch| dispatch.state.unwrap().jobs);
        jobs.map(|job| job.state.unwrap()).map(|state| (state.status(), state.error)).collect()
    }

    fn dispatch(&mut self, room: &str, agent: &str, present: Vec<ParticipantInfo>) -> AgentDispatch {
        let new = NewDispatch {
            request: CreateAgentDispatchRequest {
                agent_name: agent.into(),
                metadata: "for you".into(),
                ..CreateAgentDispatchRequest::default()
            },
            room: Room { sid: format!("RM_{room}"), name: room.into(), ..Room::default() },
            participants: present,
        };
        self.turn(|registry, turn| registry.create(new, turn)).unwrap()
    }

    fn claims(&self, assignment: &JobAssignment) -> Claims {
        self.keys.verify(&assignment.token, UNIX_MS as f64 / 1_000.0).unwrap().claims
    }
}

fn participant(identity: &str) -> ParticipantInfo {
    let state = participant_info::State::Active.into();
    ParticipantInfo { identity: identity.into(), state, ..ParticipantInfo::default() }
}

fn failed(why: &str) -> (JobStatus, String) {
    (JobStatus::JsFailed, why.into())
}

#[test]
fn a_worker_registers_within_ten_seconds_or_is_sent_away() {
    let mut stage = Stage::new();
    let late = stage.open();
    stage.pass(9);
    let early = stage.worker("", JobType::JtRoom);
    assert!(
        matches!(&stage.told[..], [(to, Told::Register(r))] if *to == early && r.worker_id.starts_with("AW_"))
    );
    assert!(stage.closed.is_empty());
    stage.pass(1);
    assert_eq!(stage.closed, [late]);
    stage.pass(60);
    assert_eq!(stage.closed, [late]);
}

#[test]
fn pings_are_answered_even_before_registering() {
    let mut stage = Stage::new();
    let key = stage.open();
    stage.ask(key, Ask::Ping(WorkerPing { timestamp: 5 }));
    assert!(
        matches!(&stage.told[0].1, Told::Pong(pong) if (pong.last_timestamp, pong.timestamp) == (5, UNIX_MS))
    );
    stage.ask(key, Ask::UpdateWorker(UpdateWorkerStatus::default()));
    assert_eq!(stage.telemetry.counters.agent_unexpected.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn a_new_room_gets_the_agent_without_a_name_and_its_token_is_an_agents() {
    let mut stage = Stage::new();
    let worker = stage.worker("", JobType::JtRoom);
    stage.start("r", &[]);
    let jobs = stage.asked(worker);
    assert_eq!((jobs.len(), jobs[0].r#type()), (1, JobType::JtRoom));
    assert_eq!(jobs[0].room.as_ref().unwrap().name, "r");
    let assignment = stage.accept(worker, &jobs[0], "helper");
    let claims = stage.claims(&assignment);
    assert_eq!((claims.sub.as_str(), claims.kind.as_str()), ("helper", "agent"));
    assert!(claims.video.room_join && claims.video.agent && claims.video.room == "r");
    assert!(claims.video.may_publish() && claims.video.may_update_own_metadata());
    assert_eq!(claims.attributes.get("lk.agent_name").map(String::as_str), Some(""));
    assert_eq!(stage.jobs("r"), [(JobStatus::JsRunning, String::new())]);
    stage.happen("r", Happened::RoomFinished(RoomEndReason::RoomEndIdleTimeout));
    assert_eq!(stage.terminated(worker), [jobs[0].id.as_str()]);
    assert!(stage.jobs("r").is_empty());
}

#[test]
fn what_a_worker_may_stands_in_the_token() {
    let mut stage = Stage::new();
    let worker = stage.open();
    let allowed_permissions =
        Some(ParticipantPermission { can_subscribe: true, hidden: true, ..ParticipantPermission::default() });
    stage.ask(worker, Ask::Register(RegisterWorkerRequest { allowed_permissions, ..Default::default() }));
    stage.start("r", &[]);
    let jobs = stage.asked(worker);
    let assignment = stage.accept(worker, &jobs[0], "");
    let claims = stage.claims(&assignment);
    assert_eq!(claims.sub, format!("agent-{}", jobs[0].id));
    assert!(claims.video.may_subscribe() && claims.video.hidden && !claims.video.may_publish());
}

#[test]
fn a_room_with_agents_asked_for_by_name_gets_those_alone() {
    let mut stage = Stage::new();
    let (unnamed, guide, other) = (
        stage.worker("", JobType::JtRoom),
        stage.worker("guide", JobType::JtRoom),
        stage.worker("other", JobType::JtRoom),
    );
    stage.start("r", &["guide"]);
    assert_eq!(stage.asked(guide).len(), 1);
    assert!(stage.asked(unnamed).is_empty() && stage.asked(other).is_empty());
}

#[test]
fn jobs_go_to_the_least_loaded_and_never_to_the_full() {
    let mut stage = Stage::new();
    let (busy, full, calm) = (
        stage.worker("", JobType::JtRoom),
        stage.worker("", JobType::JtRoom),
        stage.worker("", JobType::JtRoom),
    );
    stage.load(busy, 0.6, WorkerStatus::WsAvailable);
    stage.load(full, 0.0, WorkerStatus::WsFull);
    stage.load(calm, 0.2, WorkerStatus::WsAvailable);
    stage.start("one", &[]);
    assert_eq!((stage.asked(busy).len(), stage.asked(full).len(), stage.asked(calm).len()), (0, 0, 1));
    stage.load(calm, 0.7, WorkerStatus::WsAvailable);
    stage.start("two", &[]);
    assert_eq!(stage.asked(busy).len(), 1);
    stage.load(busy, f32::NAN, WorkerStatus::WsAvailable);
    stage.start("three", &[]);
    assert_eq!((stage.asked(busy).len(), stage.asked(calm).len()), (0, 0));
    stage.load(full, 0.0, WorkerStatus::WsAvailable);
    assert_eq!(stage.asked(full).len(), 1, "who gets free gets what waits");
}

#[test]
fn who_declines_or_is_silent_is_passed_over() {
    let mut stage = Stage::new();
    let (first, second) = (stage.worker("", JobType::JtRoom), stage.worker("", JobType::JtRoom));
    stage.start("r", &[]);
    let job = stage.asked(first).remove(0);
    stage.decline(first, &job);
    assert_eq!(stage.asked(second)[0].id, job.id);
    stage.pass(10);
    assert!(stage.asked(first).is_empty(), "it has declined");
    assert_eq!(stage.jobs("r")[0].0, JobStatus::JsPending);
    stage.load(first, 0.1, WorkerStatus::WsAvailable);
    stage.pass(9);
    assert_eq!(stage.jobs("r")[0].0, JobStatus::JsPending);
    stage.pass(1);
    assert_eq!(stage.jobs("r"), [failed("no worker is available")]);
    assert_eq!(stage.told_of_jobs(), [], "none had started");
}

#[test]
fn the_world_is_told_when_a_job_starts_and_once_when_it_ends() {
    let mut stage = Stage::new();
    let worker = stage.worker("", JobType::JtRoom);
    stage.start("r", &[]);
    let job = stage.asked(worker).remove(0);
    assert_eq!(stage.told_of_jobs(), [], "it is only offered");
    stage.accept(worker, &job, "helper");
    assert_eq!(stage.told_of_jobs(), [(false, JobStatus::JsRunning, "r".into())]);
    let done = UpdateJobStatus { job_id: job.id, status: JobStatus::JsSuccess.into(), ..Default::default() };
    stage.ask(worker, Ask::UpdateJob(done.clone()));
    stage.ask(worker, Ask::UpdateJob(done));
    stage.happen("r", Happened::RoomFinished(RoomEndReason::RoomEndIdleTimeout));
    assert_eq!(stage.told_of_jobs(), [(true, JobStatus::JsSuccess, "r".into())]);
}

#[test]
fn a_lost_workers_offers_go_to_another_and_its_jobs_wait_for_it() {
    let mut stage = Stage::new();
    let (first, second) = (stage.worker("", JobType::JtRoom), stage.worker("", JobType::JtRoom));
    stage.start("one", &[]);
    let running = stage.asked(first).remove(0);
    stage.accept(first, &running, "helper");
    stage.load(second, 0.5, WorkerStatus::WsAvailable);
    stage.start("two", &[]);
    assert_eq!(stage.asked(first).len(), 1);
    stage.close(first);
    assert_eq!(stage.asked(second).len(), 1, "the offer");
    assert_eq!(stage.jobs("one")[0].0, JobStatus::JsRunning);
    let again = stage.worker("", JobType::JtRoom);
    stage.ask(again, Ask::MigrateJob(MigrateJobRequest { job_ids: vec![running.id.clone()] }));
    let done =
        UpdateJobStatus { job_id: running.id, status: JobStatus::JsSuccess.into(), ..Default::default() };
    stage.ask(again, Ask::UpdateJob(done));
    assert_eq!(stage.jobs("one"), [(JobStatus::JsSuccess, String::new())]);
}

#[test]
fn a_worker_says_how_its_own_jobs_go_and_not_others() {
    let mut stage = Stage::new();
    let (worker, stranger) = (stage.worker("", JobType::JtRoom), stage.worker("x", JobType::JtRoom));
    stage.start("r", &[]);
    let job = stage.asked(worker).remove(0);
    stage.accept(worker, &job, "helper");
    let update = |error: &str| {
        let status = JobStatus::JsFailed.into();
        Ask::UpdateJob(UpdateJobStatus { job_id: job.id.clone(), status, error: error.into() })
    };
    stage.ask(stranger, update("not mine"));
    assert_eq!(stage.jobs("r")[0].0, JobStatus::JsRunning);
    stage.ask(worker, update("out of words"));
    assert_eq!(stage.jobs("r"), [failed("out of words")]);
}

#[test]
fn participants_and_publishers_get_their_own_jobs_and_agents_get_none() {
    let mut stage = Stage::new();
    let (each, publishers) =
        (stage.worker("", JobType::JtParticipant), stage.worker("", JobType::JtPublisher));
    stage.start("r", &[]);
    let agent = ParticipantInfo { kind: participant_info::Kind::Agent.into(), ..participant("helper") };
    for who in [participant("alice"), agent] {
        stage.happen("r", Happened::Joined(who.clone()));
        stage.happen("r", Happened::Published(who.clone(), TrackInfo::default()));
        stage.happen("r", Happened::Published(who, TrackInfo::default()));
    }
    let (each, publishers) = (stage.asked(each), stage.asked(publishers));
    assert_eq!((each.len(), publishers.len()), (1, 1), "one a participant, however many tracks");
    assert_eq!(each[0].participant.as_ref().unwrap().identity, "alice");
    assert_eq!(publishers[0].r#type(), JobType::JtPublisher);
    stage.happen("r", Happened::Left(participant("alice")));
    let left = failed("the participant left");
    assert_eq!(stage.jobs("r"), [left.clone(), left]);
}

#[test]
fn a_job_ends_when_its_agent_leaves() {
    let mut stage = Stage::new();
    let worker = stage.worker("", JobType::JtRoom);
    for (room, reason, expected) in [
        ("one", DisconnectReason::ClientInitiated, (JobStatus::JsSuccess, String::new())),
        ("gone", DisconnectReason::RoomDeleted, (JobStatus::JsSuccess, String::new())),
        ("two", DisconnectReason::ParticipantRemoved, failed("the agent left the room")),
    ] {
        stage.start(room, &[]);
        let job = stage.asked(worker).remove(0);
        stage.accept(worker, &job, "helper");
        let helper = ParticipantInfo { disconnect_reason: reason.into(), ..participant("helper") };
        stage.happen(room, Happened::Left(helper));
        assert_eq!(stage.jobs(room), [expected]);
        assert!(stage.terminated(worker).contains(&job.id.as_str()));
    }
}

#[test]
fn a_dispatch_serves_who_is_there_and_ends_when_it_is_taken_back() {
    let mut stage = Stage::new();
    let (rooms, publishers) =
        (stage.worker("guide", JobType::JtRoom), stage.worker("guide", JobType::JtPublisher));
    stage.start("r", &["nobody"]);
    let alice = ParticipantInfo { is_publisher: true, ..participant("alice") };
    let made = stage.dispatch("r", "guide", vec![alice, participant("bob")]);
    assert!(made.id.starts_with("AD_"));
    assert_eq!(made.state.unwrap().jobs.len(), 2);
    assert_eq!(stage.asked(publishers)[0].participant.as_ref().unwrap().identity, "alice");
    let job = stage.asked(rooms).remove(0);
    assert_eq!((job.metadata.as_str(), job.dispatch_id.as_str()), ("for you", made.id.as_str()));
    stage.accept(rooms, &job, "helper");
    assert_eq!(stage.registry.list("r", &made.id).len(), 1);
    let taken = stage.turn(|registry, turn| registry.delete("r", &made.id, turn)).unwrap();
    assert!(taken.state.unwrap().deleted_at > 0);
    assert_eq!(stage.terminated(rooms), [job.id.as_str()]);
    assert!(stage.registry.list("r", &made.id).is_empty());
    let again = stage.turn(|registry, turn| registry.delete("r", &made.id, turn));
    assert_eq!(again, None);
}

#[test]
fn a_named_agent_that_comes_late_is_sent_to_the_rooms_that_asked_for_it() {
    let mut stage = Stage::new();
    stage.start("asked", &["guide"]);
    stage.start("other", &[]);
    let guide = stage.worker("guide", JobType::JtRoom);
    let jobs = stage.asked(guide);
    assert_eq!(
        jobs.iter().map(|job| job.room.as_ref().unwrap().name.as_str()).collect::<Vec<_>>(),
        ["asked"]
    );
    let unnamed = stage.worker("", JobType::JtRoom);
    assert!(stage.asked(unnamed).is_empty(), "rooms that run already did not ask for it");
}

#[test]
fn dispatches_need_a_room_and_are_bounded() {
    let mut stage = Stage::new();
    let absent = NewDispatch { room: Room { name: "r".into(), ..Room::default() }, ..NewDispatch::default() };
    let made = stage.turn(|registry, turn| registry.create(absent, turn));
    assert_eq!(made, Err(DispatchError::Absent));
    stage.start("r", &[]);
    for _ in 0..127 {
        stage.dispatch("r", "guide", Vec::new());
    }
    let room = Room { sid: "RM_r".into(), name: "r".into(), ..Room::default() };
    let one_more = NewDispatch { room, ..NewDispatch::default() };
    let made = stage.turn(|registry, turn| registry.create(one_more, turn));
    assert_eq!(made, Err(DispatchError::TooMany));
}

#[test]
fn a_simulated_job_goes_to_the_worker_that_asked_and_ends_with_it() {
    let mut stage = Stage::new();
    let (worker, other) = (stage.worker("guide", JobType::JtRoom), stage.worker("guide", JobType::JtRoom));
    let room = Some(Room { name: "trial".into(), ..Room::default() });
    stage.ask(worker, Ask::SimulateJob(SimulateJobRequest { room, ..Default::default() }));
    assert!(stage.asked(other).is_empty());
    let job = stage.asked(worker).remove(0);
    let assignment = stage.accept(worker, &job, "helper");
    assert_eq!(stage.claims(&assignment).video.room, "trial");
    stage.close(worker);
    assert!(stage.registry.jobs.is_empty() && stage.registry.loose.is_empty());
}

#[test]
fn nothing_is_left_of_rooms_that_ended() {
    let mut stage = Stage::new();
    let worker = stage.worker("", JobType::JtRoom);
    for round in 0..50 {
        stage.start("r", &[]);
        if round % 2 == 0 {
            let job = stage.asked(worker).pop().unwrap();
            stage.accept(worker, &job, "helper");
        }
        stage.happen("r", Happened::Joined(participant("alice")));
        stage.happen("r", Happened::RoomFinished(RoomEndReason::RoomEndIdleTimeout));
    }
    assert!(stage.registry.jobs.is_empty() && stage.registry.rooms.is_empty());
    stage.start("r", &[]);
    assert_eq!(stage.asked(worker).len(), 2, "of the last room and this one");
}
