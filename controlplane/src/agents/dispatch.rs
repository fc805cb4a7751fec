//! Dispatches: which agents a room shall have, and the jobs that come of it as the room goes on.

use std::collections::BTreeSet;

use auralink_livekit::{
    AgentDispatch, DisconnectReason, Job as JobInfo, JobState, JobStatus, JobType, ParticipantInfo,
    Room as RoomInfo, RoomAgentDispatch, participant_info,
};

use super::NewDispatch;
use super::job::{Dispatch, Stage, unix_ns};
use super::registry::{DispatchError, Registry, Turn};
use crate::rooms::notices::{Happened, Notice};
use crate::telemetry::count;

/// Dispatches of one room.
const DISPATCHES_MAX: usize = 128;
/// Jobs of one dispatch, ended ones among them; the oldest of those make place.
const JOBS_MAX: usize = 4_096;

/// A room, its dispatches, and who has published there.
#[derive(Debug)]
pub(super) struct RoomJobs {
    pub(super) info: RoomInfo,
    dispatches: Vec<Dispatch>,
    publishers: BTreeSet<String>,
}

/// Whether jobs are made for this participant: agents need none.
fn is_served(participant: &ParticipantInfo) -> bool {
    !matches!(participant.kind(), participant_info::Kind::Agent | participant_info::Kind::Egress)
}

/// Whether an agent that left for this reason was through with its job, or its room with it.
fn is_orderly(reason: DisconnectReason) -> bool {
    use DisconnectReason::{ClientInitiated, RoomClosed, RoomDeleted, ServerShutdown};
    matches!(reason, ClientInitiated | RoomClosed | RoomDeleted | ServerShutdown)
}

impl Registry {
    /// Something happened in a room.
    pub fn handle_notice(&mut self, notice: Notice, turn: &mut Turn<'_>) {
        let name = notice.room.name.clone();
        match notice.what {
            Happened::RoomStarted(agents) => return self.room_started(notice.room, agents, turn),
            Happened::RoomFinished(_) => return self.room_finished(&notice.room, turn),
            _ => {}
        }
        let Some(room) = self.rooms.get_mut(&name).filter(|known| known.info.sid == notice.room.sid) else {
            return;
        };
        room.info = notice.room;
        match notice.what {
            Happened::Joined(participant) if is_served(&participant) => {
                self.launch_all(&name, JobType::JtParticipant, &participant, turn);
            }
            Happened::Published(participant, _)
                if is_served(&participant) && room.publishers.insert(participant.identity.clone()) =>
            {
                self.launch_all(&name, JobType::JtPublisher, &participant, turn);
            }
            Happened::Left(participant) | Happened::Aborted(participant) => {
                room.publishers.remove(&participant.identity);
                self.participant_left(&name, &participant, turn);
            }
            _ => {}
        }
    }

    fn room_started(&mut self, info: RoomInfo, agents: Vec<RoomAgentDispatch>, turn: &mut Turn<'_>) {
        let name = info.name.clone();
        // Its end was not heard of.
        self.forget(&name, turn);
        let room = RoomJobs { info, dispatches: Vec::new(), publishers: BTreeSet::new() };
        self.rooms.insert(name.clone(), room);
        // Where nobody is asked for by name, those without a name come.
        let agents = if agents.is_empty() { vec![RoomAgentDispatch::default()] } else { agents };
        for agent in agents.into_iter().take(DISPATCHES_MAX) {
            let wanted = AgentDispatch {
                id: turn.sid("AD_"),
                agent_name: agent.agent_name,
                room: name.clone(),
                metadata: agent.metadata,
                state: None,
                restart_policy: agent.restart_policy,
                deployment: agent.deployment,
                attributes: agent.attributes,
            };
            self.add_dispatch(&name, wanted, turn);
        }
    }

    fn room_finished(&mut self, info: &RoomInfo, turn: &mut Turn<'_>) {
        if self.rooms.get(&info.name).is_some_and(|known| known.info.sid == info.sid) {
            self.forget(&info.name, turn);
        }
    }

    /// Ends all jobs of a room and drops what is known of it.
    fn forget(&mut self, name: &str, turn: &mut Turn<'_>) {
        let Some(room) = self.rooms.remove(name) else { return };
        let loose = self.loose.iter().filter(|id| self.jobs.get(*id).is_some_and(|job| job.room == name));
        let loose: Vec<String> = loose.cloned().collect();
        for id in room.dispatches.into_iter().flat_map(|dispatch| dispatch.jobs).chain(loose) {
            self.terminate(&id, JobStatus::JsSuccess, "", turn);
            self.jobs.remove(&id);
        }
    }

    /// Adds a dispatch and makes the job it has for the room as a whole. Gives its place.
    fn add_dispatch(&mut self, name: &str, wanted: AgentDispatch, turn: &mut Turn<'_>) -> Option<usize> {
        let room = self.rooms.get_mut(name)?;
        let index = room.dispatches.len();
        room.dispatches.push(Dispatch::new(wanted, turn.unix_ms));
        self.launch(name, index, JobType::JtRoom, None, turn);
        Some(index)
    }

    fn launch_all(&mut self, name: &str, kind: JobType, participant: &ParticipantInfo, turn: &mut Turn<'_>) {
        let dispatches = self.rooms.get(name).map_or(0, |room| room.dispatches.len());
        for index in 0..dispatches {
            self.launch(name, index, kind, Some(participant), turn);
        }
    }

    /// Makes a job, if there are workers for jobs of its kind.
    fn launch(
        &mut self,
        name: &str,
        index: usize,
        kind: JobType,
        participant: Option<&ParticipantInfo>,
        turn: &mut Turn<'_>,
    ) {
        let dispatch = self.rooms.get(name).and_then(|room| room.dispatches.get(index));
        if !dispatch.is_some_and(|dispatch| self.has_worker(&dispatch.info.agent_name, kind)) {
            return;
        }
        let Some(room) = self.rooms.get_mut(name) else { return };
        let Some(dispatch) = room.dispatches.get_mut(index) else { return };
        if dispatch.jobs.len() >= JOBS_MAX {
            let ended = |id: &String| self.jobs.get(id).is_none_or(|job| job.stage == Stage::Ended);
            let Some(place) = dispatch.jobs.iter().position(ended) else {
                tracing::warn!(room = %name, "a dispatch has as many jobs as it may");
                count(&turn.telemetry.counters.agent_jobs_failed);
                return;
            };
            let old = dispatch.jobs.remove(place);
            self.jobs.remove(&old);
        }
        let info = JobInfo {
            id: turn.sid("AJ_"),
            dispatch_id: dispatch.info.id.clone(),
            r#type: kind.into(),
            room: Some(room.info.clone()),
            participant: participant.cloned(),
            metadata: dispatch.info.metadata.clone(),
            agent_name: dispatch.info.agent_name.clone(),
            state: Some(JobState { updated_at: unix_ns(turn.unix_ms), ..JobState::default() }),
            deployment: dispatch.info.deployment.clone(),
            attributes: dispatch.info.attributes.clone(),
            ..JobInfo::default()
        };
        dispatch.jobs.push(info.id.clone());
        self.begin(name, info, None, turn);
    }

    /// A worker came: rooms that asked for it by name and have had none get it.
    pub(super) fn meet(&mut self, agent_name: &str, kind: JobType, turn: &mut Turn<'_>) {
        if agent_name.is_empty() || kind != JobType::JtRoom {
            return;
        }
        let mut unmet = Vec::new();
        for (name, room) in &self.rooms {
            for (index, dispatch) in room.dispatches.iter().enumerate() {
                if dispatch.info.agent_name == agent_name && dispatch.jobs.is_empty() {
                    unmet.push((name.clone(), index));
                }
            }
        }
        for (name, index) in unmet {
            self.launch(&name, index, kind, None, turn);
        }
    }

    /// An agent's job ends with its participant; a job about a participant that nobody has begun is of no use any more.
    fn participant_left(&mut self, name: &str, participant: &ParticipantInfo, turn: &mut Turn<'_>) {
        let Some(room) = self.rooms.get(name) else { return };
        let of_room = room.dispatches.iter().flat_map(|dispatch| dispatch.jobs.iter());
        let loose = self.loose.iter().filter(|id| self.jobs.get(*id).is_some_and(|job| job.room == name));
        let (mut done, mut useless) = (Vec::new(), Vec::new());
        for id in of_room.chain(loose) {
            let Some(job) = self.jobs.get(id) else { continue };
            match job.stage {
                Stage::Running(_) if job.agent_identity() == Some(participant.identity.as_str()) => {
                    done.push(id.clone());
                }
                Stage::Waiting | Stage::Offered(_) if job.target() == Some(participant.identity.as_str()) => {
                    useless.push(id.clone());
                }
                _ => {}
            }
        }
        for id in done {
            if is_orderly(participant.disconnect_reason()) {
                self.terminate(&id, JobStatus::JsSuccess, "", turn);
            } else {
                self.terminate(&id, JobStatus::JsFailed, "the agent left the room", turn);
            }
        }
        for id in useless {
            self.terminate(&id, JobStatus::JsFailed, "the participant left", turn);
        }
    }

    /// Sends agents to a room, for who is there already as well.
    ///
    /// # Errors
    /// [`DispatchError`]
    pub fn create(&mut self, new: NewDispatch, turn: &mut Turn<'_>) -> Result<AgentDispatch, DispatchError> {
        let NewDispatch { request, room: RoomInfo { name, sid, .. }, participants } = new;
        let room = self.rooms.get(&name).filter(|room| room.info.sid == sid).ok_or(DispatchError::Absent)?;
        if room.dispatches.len() >= DISPATCHES_MAX {
            return Err(DispatchError::TooMany);
        }
        let wanted = AgentDispatch {
            id: turn.sid("AD_"),
            agent_name: request.agent_name,
            room: name.clone(),
            metadata: request.metadata,
            state: None,
            restart_policy: request.restart_policy,
            deployment: request.deployment,
            attributes: request.attributes,
        };
        let index = self.add_dispatch(&name, wanted, turn).ok_or(DispatchError::Absent)?;
        for participant in participants.iter().filter(|participant| is_served(participant)) {
            if participant.state() == participant_info::State::Active {
                self.launch(&name, index, JobType::JtParticipant, Some(participant), turn);
            }
            if participant.is_publisher {
                self.launch(&name, index, JobType::JtPublisher, Some(participant), turn);
            }
        }
        let created = self.rooms.get(&name).and_then(|room| room.dispatches.get(index));
        created.map(|dispatch| self.with_jobs(dispatch)).ok_or(DispatchError::Absent)
    }

    /// Takes a dispatch back: its jobs end.
    pub fn delete(&mut self, room: &str, id: &str, turn: &mut Turn<'_>) -> Option<AgentDispatch> {
        let dispatches = &mut self.rooms.get_mut(room)?.dispatches;
        let place = dispatches.iter().position(|dispatch| dispatch.info.id == id)?;
        let mut dispatch = dispatches.remove(place);
        for id in &dispatch.jobs {
            self.terminate(id, JobStatus::JsSuccess, "", turn);
        }
        if let Some(state) = &mut dispatch.info.state {
            state.deleted_at = unix_ns(turn.unix_ms);
        }
        let told = self.with_jobs(&dispatch);
        for id in &dispatch.jobs {
            self.jobs.remove(id);
        }
        Some(told)
    }

    /// Dispatches of a room, or the one named by a non-empty `id`.
    pub fn list(&self, room: &str, id: &str) -> Vec<AgentDispatch> {
        let Some(room) = self.rooms.get(room) else { return Vec::new() };
        let named = room.dispatches.iter().filter(|dispatch| id.is_empty() || dispatch.info.id == id);
        named.map(|dispatch| self.with_jobs(dispatch)).collect()
    }

    fn with_jobs(&self, dispatch: &Dispatch) -> AgentDispatch {
        let mut info = dispatch.info.clone();
        let jobs = dispatch.jobs.iter().filter_map(|id| self.jobs.get(id));
        info.state.get_or_insert_default().jobs = jobs.map(|job| job.info.clone()).collect();
        info
    }
}
