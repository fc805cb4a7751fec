//! A job and the dispatch it comes from.

use std::collections::BTreeSet;
use std::time::Instant;

use auralink_livekit::{AgentDispatch, AgentDispatchState, Job as JobInfo, JobState, JobType};

use super::registry::WorkerKey;

/// Nanoseconds, as LiveKit has the times of dispatches and jobs.
pub(super) fn unix_ns(unix_ms: i64) -> i64 {
    unix_ms.saturating_mul(1_000_000)
}

/// How far a job has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// For a worker that is free.
    Waiting,
    /// For a worker's word that it takes it.
    Offered(WorkerKey),
    /// Assigned. The worker is unset when its connection was lost; the job itself runs on in its own process.
    Running(Option<WorkerKey>),
    Ended,
}

/// A job.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) info: JobInfo,
    pub(super) room: String,
    pub(super) stage: Stage,
    /// Since when it is in that stage.
    pub(super) since: Instant,
    /// Workers that did not take it.
    pub(super) refused: BTreeSet<WorkerKey>,
    /// Set for a job that a worker asked for itself, to try itself out.
    pub(super) only: Option<WorkerKey>,
}

impl Job {
    pub(super) fn kind(&self) -> JobType {
        self.info.r#type()
    }

    pub(super) fn state(&mut self) -> &mut JobState {
        self.info.state.get_or_insert_default()
    }

    /// The worker that has it now.
    pub(super) fn worker(&self) -> Option<WorkerKey> {
        match self.stage {
            Stage::Offered(worker) => Some(worker),
            Stage::Running(worker) => worker,
            Stage::Waiting | Stage::Ended => None,
        }
    }

    /// Whose participant it is about, if one.
    pub(super) fn target(&self) -> Option<&str> {
        self.info.participant.as_ref().map(|participant| participant.identity.as_str())
    }

    /// The participant the agent joins as, once it is known.
    pub(super) fn agent_identity(&self) -> Option<&str> {
        let identity = &self.info.state.as_ref()?.participant_identity;
        (!identity.is_empty()).then_some(identity)
    }
}

/// A wish for agents in a room.
#[derive(Debug)]
pub(super) struct Dispatch {
    /// Without its jobs.
    pub(super) info: AgentDispatch,
    /// Identifiers of its jobs, oldest first.
    pub(super) jobs: Vec<String>,
}

impl Dispatch {
    pub(super) fn new(mut info: AgentDispatch, unix_ms: i64) -> Self {
        let state = AgentDispatchState { created_at: unix_ns(unix_ms), ..AgentDispatchState::default() };
        info.state = Some(state);
        Self { info, jobs: Vec::new() }
    }
}
