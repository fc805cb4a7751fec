//! All workers and jobs, without I/O: messages, notices of rooms and time in; messages to workers out.
//!
//! A job is offered to the least busy worker that suits it. A worker that declines, or says nothing in time, is passed over
//! for that job; when none is left the job waits a little for one to come or to get free.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use auralink_livekit::{
    AvailabilityRequest, AvailabilityResponse, Job as JobInfo, JobAssignment, JobStatus, JobTermination,
    JobType, MigrateJobRequest, RegisterWorkerRequest, RegisterWorkerResponse, ServerInfo,
    SimulateJobRequest, UpdateJobStatus, UpdateWorkerStatus, WorkerMessage, WorkerPong, server_message,
    worker_message::Message,
};

use super::dispatch::RoomJobs;
use super::job::{Job, Stage, unix_ns};
use super::token;
use super::worker::{Registration, Worker};
use crate::auth::{Keys, NAME_BYTES_MAX};
use crate::config::{Agents, Limit};
use crate::negotiator::Random;
use crate::rooms::notices::{Happened, Notice};
use crate::telemetry::{Telemetry, count};

/// A worker registers within this time.
const REGISTER_BY: Duration = Duration::from_secs(10);
/// A worker says within this time whether it takes a job.
const ANSWER_BY: Duration = Duration::from_secs(10);
/// How long a job waits for a worker that is free.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Jobs one worker has at once.
const WORKER_JOBS_MAX: usize = 1_024;
/// Bytes of a job's error text kept.
const ERROR_BYTES_MAX: usize = 4_096;

/// Names one worker's connection within the node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct WorkerKey(pub u64);

/// Why there is no dispatch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DispatchError {
    #[error("requested room does not exist")]
    Absent,
    #[error("this room has as many dispatches as it may")]
    TooMany,
    #[error("the server is stopping")]
    Stopping,
}

/// What the registry wants done, in order.
#[derive(Clone, Debug)]
pub enum Output {
    /// To a worker.
    Tell(WorkerKey, Box<server_message::Message>),
    /// Close a worker's connection.
    Close(WorkerKey),
    /// For webhooks.
    Notice(Box<Notice>),
}

/// Everything one turn of the registry may use.
pub struct Turn<'a> {
    pub now: Instant,
    pub unix_ms: i64,
    pub random: &'a mut dyn Random,
    /// Sign the tokens of agents.
    pub keys: &'a Keys,
    pub telemetry: &'a Telemetry,
    pub out: &'a mut Vec<Output>,
}

impl Turn<'_> {
    /// Sends one message to one worker.
    fn tell(&mut self, to: WorkerKey, message: server_message::Message) {
        self.out.push(Output::Tell(to, Box::new(message)));
    }

    /// Tells the world of a job.
    fn notice(&mut self, job: &JobInfo, what: fn(Box<JobInfo>) -> Happened) {
        let (room, what) = (job.room.clone().unwrap_or_default(), what(Box::new(job.clone())));
        self.out.push(Output::Notice(Box::new(Notice { unix_ms: self.unix_ms, room, what })));
    }

    pub(super) fn sid(&mut self, prefix: &str) -> String {
        format!("{prefix}{}", self.random.word(12))
    }
}

/// The state machine.
#[derive(Debug)]
pub struct Registry {
    config: Agents,
    limit: Limit,
    server: ServerInfo,
    workers: BTreeMap<WorkerKey, Worker>,
    /// Registered workers by agent name and kind of job.
    by_name: BTreeMap<(String, i32), BTreeSet<WorkerKey>>,
    unregistered: BTreeSet<WorkerKey>,
    pub(super) jobs: BTreeMap<String, Job>,
    /// Jobs that wait for a worker, or for its word.
    open: BTreeSet<String>,
    /// Jobs of no dispatch.
    pub(super) loose: BTreeSet<String>,
    pub(super) rooms: BTreeMap<String, RoomJobs>,
}

impl Registry {
    /// `server` is what workers are told of this server.
    pub fn new(config: Agents, limit: Limit, server: ServerInfo) -> Self {
        Self {
            config,
            limit,
            server,
            workers: BTreeMap::new(),
            by_name: BTreeMap::new(),
            unregistered: BTreeSet::new(),
            jobs: BTreeMap::new(),
            open: BTreeSet::new(),
            loose: BTreeSet::new(),
            rooms: BTreeMap::new(),
        }
    }

    /// A worker connected with a token of this API key.
    pub fn handle_opened(&mut self, key: WorkerKey, api_key: String, turn: &mut Turn<'_>) {
        self.workers.insert(key, Worker::new(api_key, turn.now));
        self.unregistered.insert(key);
        if self.unregistered.len() > self.config.workers_max {
            self.dismiss(key, turn);
        }
    }

    /// A worker's connection ended. What it was offered goes to another; what it runs goes on without it.
    pub fn handle_closed(&mut self, key: WorkerKey, turn: &mut Turn<'_>) {
        self.unregistered.remove(&key);
        let Some(worker) = self.workers.remove(&key) else { return };
        if let Some(registration) = worker.registration {
            tracing::info!(worker = %registration.sid, agent = %registration.agent_name, "agent worker left");
            turn.telemetry.agent_workers.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            let place: (String, i32) = (registration.agent_name, registration.kind.into());
            if let Some(named) = self.by_name.get_mut(&place) {
                named.remove(&key);
                if named.is_empty() {
                    self.by_name.remove(&place);
                }
            }
        }
        for id in worker.jobs {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            if job.only == Some(key) {
                self.end(&id, JobStatus::JsFailed, "its worker left", turn);
            } else if job.stage == Stage::Offered(key) {
                self.assign(&id, turn);
            } else {
                job.stage = Stage::Running(None);
            }
        }
    }

    fn dismiss(&mut self, key: WorkerKey, turn: &mut Turn<'_>) {
        turn.out.push(Output::Close(key));
        self.handle_closed(key, turn);
    }

    /// Whether some worker takes jobs of this name and kind.
    pub(super) fn has_worker(&self, agent_name: &str, kind: JobType) -> bool {
        self.by_name.contains_key(&(agent_name.to_owned(), i32::from(kind)))
    }

    /// One message of a worker.
    pub fn handle_message(&mut self, key: WorkerKey, message: WorkerMessage, turn: &mut Turn<'_>) {
        let Some(worker) = self.workers.get(&key) else { return };
        let registered = worker.registration.is_some();
        match message.message {
            Some(Message::Ping(ping)) => {
                let pong = WorkerPong { last_timestamp: ping.timestamp, timestamp: turn.unix_ms };
                turn.tell(key, server_message::Message::Pong(pong));
            }
            Some(Message::Register(request)) if !registered => self.register(key, request, turn),
            Some(Message::Availability(answer)) if registered => self.answered(key, &answer, turn),
            Some(Message::UpdateWorker(update)) if registered => self.update_worker(key, &update, turn),
            Some(Message::UpdateJob(update)) if registered => self.update_job(key, &update, turn),
            Some(Message::SimulateJob(request)) if registered => self.simulate(key, request, turn),
            Some(Message::MigrateJob(request)) if registered => self.adopt(key, &request, turn),
            _ => count(&turn.telemetry.counters.agent_unexpected),
        }
    }

    fn register(&mut self, key: WorkerKey, request: RegisterWorkerRequest, turn: &mut Turn<'_>) {
        let workers = self.workers.len() - self.unregistered.len();
        let long = [&request.agent_name, &request.deployment].iter().any(|text| text.len() > NAME_BYTES_MAX);
        let kind = JobType::try_from(request.r#type).ok();
        let namespace = request.namespace.unwrap_or_default();
        let (Some(kind), false) = (kind, long || namespace.len() > NAME_BYTES_MAX) else {
            count(&turn.telemetry.counters.agent_malformed);
            return self.dismiss(key, turn);
        };
        if workers >= self.config.workers_max {
            tracing::warn!("a worker is turned away: agents.workers_max is reached");
            return self.dismiss(key, turn);
        }
        let Some(worker) = self.workers.get_mut(&key) else { return };
        let sid = turn.sid("AW_");
        tracing::info!(worker = %sid, agent = %request.agent_name, ?kind, "agent worker registered");
        turn.telemetry.agent_workers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        worker.registration = Some(Registration {
            sid: sid.clone(),
            kind,
            agent_name: request.agent_name.clone(),
            namespace,
            deployment: request.deployment,
            permissions: request.allowed_permissions.unwrap_or_else(token::default_permissions),
        });
        self.unregistered.remove(&key);
        self.by_name.entry((request.agent_name.clone(), kind.into())).or_default().insert(key);
        let response = RegisterWorkerResponse {
            worker_id: sid,
            server_info: Some(self.server.clone()),
            endpoint_settings: None,
        };
        turn.tell(key, server_message::Message::Register(response));
        self.offer_waiting(key, turn);
        self.meet(&request.agent_name, kind, turn);
    }

    fn update_worker(&mut self, key: WorkerKey, update: &UpdateWorkerStatus, turn: &mut Turn<'_>) {
        let Some(worker) = self.workers.get_mut(&key) else { return };
        worker.update(update);
        self.offer_waiting(key, turn);
    }

    /// A worker may have become free for jobs that wait.
    fn offer_waiting(&mut self, key: WorkerKey, turn: &mut Turn<'_>) {
        let Some(worker) = self.workers.get(&key).filter(|w| w.is_free(self.config.target_load)) else {
            return;
        };
        let waits = |id: &&String| {
            self.jobs.get(*id).is_some_and(|job| job.stage == Stage::Waiting && worker.suits(job))
        };
        let waiting: Vec<String> = self.open.iter().filter(waits).cloned().collect();
        for id in waiting {
            self.assign(&id, turn);
        }
    }

    /// Takes a job in and looks for a worker.
    pub(super) fn begin(&mut self, room: &str, info: JobInfo, only: Option<WorkerKey>, turn: &mut Turn<'_>) {
        let id = info.id.clone();
        let job = Job {
            info,
            room: room.to_owned(),
            stage: Stage::Waiting,
            since: turn.now,
            refused: BTreeSet::new(),
            only,
        };
        self.jobs.insert(id.clone(), job);
        self.assign(&id, turn);
    }

    /// Offers a job to the least busy worker that suits it, or lets it wait.
    #[allow(deprecated, reason = "older workers read the deprecated fields")]
    fn assign(&mut self, id: &str, turn: &mut Turn<'_>) {
        let Some(job) = self.jobs.get(id) else { return };
        let chosen = self.choose(job);
        let Some(job) = self.jobs.get_mut(id) else { return };
        self.open.insert(id.to_owned());
        let Some(key) = chosen else {
            if job.stage != Stage::Waiting {
                (job.stage, job.since) = (Stage::Waiting, turn.now);
            }
            return;
        };
        (job.stage, job.since) = (Stage::Offered(key), turn.now);
        job.state().updated_at = unix_ns(turn.unix_ms);
        if let Some(worker) = self.workers.get_mut(&key) {
            worker.jobs.insert(id.to_owned());
            if let Some(registration) = &worker.registration {
                job.info.namespace.clone_from(&registration.namespace);
                job.state().worker_id.clone_from(&registration.sid);
            }
        }
        let request = AvailabilityRequest { job: Some(job.info.clone()), resuming: false };
        turn.tell(key, server_message::Message::Availability(request));
    }

    fn choose(&self, job: &Job) -> Option<WorkerKey> {
        let free = |key: &WorkerKey| {
            let worker = self.workers.get(key)?;
            let willing = worker.is_free(self.config.target_load)
                && worker.jobs.len() < WORKER_JOBS_MAX
                && !job.refused.contains(key)
                && (job.only.is_some() || worker.suits(job));
            willing.then_some((*key, worker.burden()))
        };
        if let Some(only) = job.only {
            return free(&only).map(|(key, _)| key);
        }
        let named = self.by_name.get(&(job.info.agent_name.clone(), job.info.r#type))?;
        let least = named.iter().filter_map(free).min_by(|(_, a), (_, b)| {
            let by_load = a.0.total_cmp(&b.0);
            by_load.then(a.1.cmp(&b.1))
        });
        least.map(|(key, _)| key)
    }

    /// A worker says whether it takes a job.
    fn answered(&mut self, key: WorkerKey, answer: &AvailabilityResponse, turn: &mut Turn<'_>) {
        let id = answer.job_id.as_str();
        let offered = self.jobs.get_mut(id).filter(|job| job.stage == Stage::Offered(key));
        let (Some(job), Some(worker)) = (offered, self.workers.get(&key)) else {
            count(&turn.telemetry.counters.agent_unexpected);
            return;
        };
        if answer.terminate {
            return self.end(id, JobStatus::JsSuccess, "", turn);
        }
        if !answer.available || !is_bounded(answer, &self.limit) {
            return self.pass_over(id, key, turn);
        }
        let ns = unix_ns(turn.unix_ms);
        let identity = match answer.participant_identity.as_str() {
            "" => format!("agent-{id}"),
            identity => identity.to_owned(),
        };
        let state = job.state();
        (state.participant_identity, state.started_at, state.updated_at) = (identity, ns, ns);
        state.set_status(JobStatus::JsRunning);
        let Some(token) = token::sign(turn.keys, worker, &job.info, &job.room, answer, turn.unix_ms) else {
            return self.end(id, JobStatus::JsFailed, "its worker's API key is no longer configured", turn);
        };
        (job.stage, job.since) = (Stage::Running(Some(key)), turn.now);
        tracing::info!(job = %id, room = %job.room, agent = %job.info.agent_name, "agent job assigned");
        turn.notice(&job.info, Happened::JobStarted);
        let assignment = JobAssignment { job: Some(job.info.clone()), url: None, token };
        self.open.remove(id);
        count(&turn.telemetry.counters.agent_jobs);
        turn.tell(key, server_message::Message::Assignment(assignment));
    }

    /// A worker does not take a job: the next one.
    fn pass_over(&mut self, id: &str, key: WorkerKey, turn: &mut Turn<'_>) {
        if let Some(job) = self.jobs.get_mut(id) {
            job.refused.insert(key);
        }
        if let Some(worker) = self.workers.get_mut(&key) {
            worker.jobs.remove(id);
        }
        self.assign(id, turn);
    }

    /// A worker says how a job of its goes.
    fn update_job(&mut self, key: WorkerKey, update: &UpdateJobStatus, turn: &mut Turn<'_>) {
        let id = update.job_id.as_str();
        self.adopt(key, &MigrateJobRequest { job_ids: vec![id.to_owned()] }, turn);
        let Some(job) = self.jobs.get_mut(id) else {
            count(&turn.telemetry.counters.agent_unexpected);
            return;
        };
        if job.stage == Stage::Ended {
            // It crossed with the room's end.
            return;
        }
        if job.stage != Stage::Running(Some(key)) {
            count(&turn.telemetry.counters.agent_unexpected);
            return;
        }
        let status = update.status();
        if matches!(status, JobStatus::JsSuccess | JobStatus::JsFailed) {
            return self.end(id, status, &update.error, turn);
        }
        let state = job.state();
        state.set_status(status);
        state.error = clipped(&update.error);
        state.updated_at = unix_ns(turn.unix_ms);
    }

    /// A worker that lost its connection takes its running jobs up again.
    fn adopt(&mut self, key: WorkerKey, request: &MigrateJobRequest, turn: &Turn<'_>) {
        let Some(worker) = self.workers.get_mut(&key) else { return };
        for id in request.job_ids.iter().take(WORKER_JOBS_MAX) {
            let Some(job) = self.jobs.get_mut(id) else { continue };
            if job.stage == Stage::Running(None) && worker.suits(job) {
                job.stage = Stage::Running(Some(key));
                if let Some(registration) = &worker.registration {
                    job.state().worker_id.clone_from(&registration.sid);
                }
                job.state().updated_at = unix_ns(turn.unix_ms);
                worker.jobs.insert(id.clone());
            }
        }
    }

    /// A worker wants to try a job out.
    fn simulate(&mut self, key: WorkerKey, request: SimulateJobRequest, turn: &mut Turn<'_>) {
        let Some(worker) = self.workers.get(&key) else { return };
        let Some(registration) = worker.registration.as_ref() else { return };
        let room = request.room.unwrap_or_default();
        if room.name.is_empty() || room.name.len() > NAME_BYTES_MAX || worker.jobs.len() >= WORKER_JOBS_MAX {
            count(&turn.telemetry.counters.agent_unexpected);
            return;
        }
        let kind = if request.participant.is_some() { JobType::JtPublisher } else { JobType::JtRoom };
        let known = self.rooms.get(&room.name).map(|known| known.info.clone());
        let name = room.name.clone();
        let info = JobInfo {
            id: turn.sid("AJ_"),
            r#type: kind.into(),
            room: Some(known.unwrap_or(room)),
            participant: request.participant,
            agent_name: registration.agent_name.clone(),
            deployment: registration.deployment.clone(),
            ..JobInfo::default()
        };
        self.loose.insert(info.id.clone());
        self.begin(&name, info, Some(key), turn);
    }

    /// Ends a job. Its worker is told where it is not the one who says so.
    pub(super) fn end(&mut self, id: &str, status: JobStatus, error: &str, turn: &mut Turn<'_>) {
        self.open.remove(id);
        let Some(job) = self.jobs.get_mut(id).filter(|job| job.stage != Stage::Ended) else { return };
        if let Some(key) = job.worker()
            && let Some(worker) = self.workers.get_mut(&key)
        {
            worker.jobs.remove(id);
        }
        let ns = unix_ns(turn.unix_ms);
        let state = job.state();
        state.set_status(status);
        (state.error, state.ended_at, state.updated_at) = (clipped(error), ns, ns);
        let had_started = matches!(job.stage, Stage::Running(_));
        (job.stage, job.since) = (Stage::Ended, turn.now);
        if status == JobStatus::JsFailed {
            count(&turn.telemetry.counters.agent_jobs_failed);
        }
        tracing::info!(job = %id, room = %job.room, ?status, %error, "agent job ended");
        if had_started {
            turn.notice(&job.info, Happened::JobEnded);
        }
        if self.loose.remove(id) {
            self.jobs.remove(id);
        }
    }

    /// Ends a job and tells its worker to stop it.
    pub(super) fn terminate(&mut self, id: &str, status: JobStatus, error: &str, turn: &mut Turn<'_>) {
        if let Some(Stage::Running(Some(key))) = self.jobs.get(id).map(|job| job.stage) {
            let termination = JobTermination { job_id: id.to_owned() };
            turn.tell(key, server_message::Message::Termination(termination));
        }
        self.end(id, status, error, turn);
    }

    /// Time passes; called about once a second.
    pub fn handle_tick(&mut self, turn: &mut Turn<'_>) {
        let late = |key: &&WorkerKey| {
            let opened = self.workers.get(*key).map(|worker| worker.opened);
            opened.is_some_and(|at| turn.now.duration_since(at) >= REGISTER_BY)
        };
        let late: Vec<WorkerKey> = self.unregistered.iter().filter(late).copied().collect();
        for key in late {
            self.dismiss(key, turn);
        }
        let open: Vec<String> = self.open.iter().cloned().collect();
        for id in open {
            let Some(job) = self.jobs.get(&id) else { continue };
            let waited = turn.now.duration_since(job.since);
            match job.stage {
                Stage::Offered(key) if waited >= ANSWER_BY => self.pass_over(&id, key, turn),
                Stage::Waiting if waited >= WAIT_MAX => {
                    self.end(&id, JobStatus::JsFailed, "no worker is available", turn);
                }
                _ => {}
            }
        }
    }
}

/// Whether what a worker wants its agent to be called is within limits.
fn is_bounded(answer: &AvailabilityResponse, limit: &Limit) -> bool {
    let attribute_bytes: usize =
        answer.participant_attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    answer.participant_identity.len() <= NAME_BYTES_MAX
        && answer.participant_name.len() <= NAME_BYTES_MAX
        && answer.participant_metadata.len() <= limit.metadata_bytes_max
        && attribute_bytes <= limit.attributes_bytes_max
}

fn clipped(text: &str) -> String {
    text.get(..text.floor_char_boundary(ERROR_BYTES_MAX)).unwrap_or_default().to_owned()
}
