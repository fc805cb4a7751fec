//! A worker: what it registered as, and how busy it says it is.

use std::collections::BTreeSet;
use std::time::Instant;

use auralink_livekit::{JobType, ParticipantPermission, UpdateWorkerStatus, WorkerStatus};

use super::job::Job;

/// What a worker registered as.
#[derive(Debug)]
pub(super) struct Registration {
    pub(super) sid: String,
    pub(super) kind: JobType,
    pub(super) agent_name: String,
    pub(super) namespace: String,
    pub(super) deployment: String,
    pub(super) permissions: ParticipantPermission,
}

/// A worker's connection.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) api_key: String,
    pub(super) opened: Instant,
    pub(super) registration: Option<Registration>,
    /// Identifiers of jobs offered to it or assigned to it.
    pub(super) jobs: BTreeSet<String>,
    load: f32,
    full: bool,
    draining: bool,
    /// Number of the latest status report.
    seq: u64,
}

impl Worker {
    pub(super) fn new(api_key: String, now: Instant) -> Self {
        Self {
            api_key,
            opened: now,
            registration: None,
            jobs: BTreeSet::new(),
            load: 0.0,
            full: false,
            draining: false,
            seq: 0,
        }
    }

    /// Takes in a status report, unless a newer one is known.
    pub(super) fn update(&mut self, update: &UpdateWorkerStatus) {
        if update.seq > 0 && update.seq < self.seq {
            return;
        }
        self.seq = update.seq;
        if update.status.is_some() {
            self.full = update.status() == WorkerStatus::WsFull;
        }
        // What is not a number takes no job.
        self.load = if update.load.is_nan() { f32::INFINITY } else { update.load };
        self.draining = update.draining;
    }

    /// Whether it takes jobs of this kind and name, were it free.
    pub(super) fn suits(&self, job: &Job) -> bool {
        self.registration.as_ref().is_some_and(|registration| {
            registration.kind == job.kind()
                && registration.agent_name == job.info.agent_name
                && registration.deployment == job.info.deployment
        })
    }

    pub(super) fn is_free(&self, target_load: f32) -> bool {
        !self.full && !self.draining && self.load < target_load
    }

    /// The less, the sooner it gets a job.
    pub(super) fn burden(&self) -> (f32, usize) {
        (self.load, self.jobs.len())
    }
}
