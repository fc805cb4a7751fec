//! Agents: programs that join rooms to do a job there. Their workers register over `/agent`, rooms make jobs for them.
//!
//! One task owns all workers and jobs (`registry`, without I/O). It waits for nobody: rooms and sockets send to it.

mod dispatch;
mod job;
pub mod registry;
pub mod socket;
#[cfg(test)]
mod tests;
mod token;
mod wire;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use auralink_livekit::{
    AgentDispatch, CreateAgentDispatchRequest, ParticipantInfo, Room as RoomInfo, ServerInfo, ServerMessage,
    WorkerMessage,
};
use tokio::sync::{mpsc, oneshot};

use crate::auth::Keys;
use crate::chance::Chance;
use crate::config;
use crate::rooms::actor::unix_ms;
use crate::rooms::notices::Notice;
use crate::telemetry::{Telemetry, count};
use crate::webhooks::Webhooks;
use registry::{DispatchError, Output, Registry, Turn, WorkerKey};

/// Inputs waiting for the registry; rooms and workers wait when it is full.
const INBOX_MAX: usize = 8_192;
/// Messages waiting for one worker; a worker that lets them pile up is disconnected.
const OUTGOING_MAX: usize = 1_024;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_secs(1);

/// What the registry is given.
enum Input {
    Opened { key: WorkerKey, api_key: String, socket: mpsc::Sender<ServerMessage> },
    Message(WorkerKey, Box<WorkerMessage>),
    Closed(WorkerKey),
    Notice(Box<Notice>),
    Create(Box<NewDispatch>, oneshot::Sender<Result<AgentDispatch, DispatchError>>),
    Delete { room: String, id: String, reply: oneshot::Sender<Option<AgentDispatch>> },
    List { room: String, id: String, reply: oneshot::Sender<Vec<AgentDispatch>> },
}

/// A dispatch asked for while the room runs.
#[derive(Clone, Debug, Default)]
pub struct NewDispatch {
    pub request: CreateAgentDispatchRequest,
    pub room: RoomInfo,
    /// Who is there already.
    pub participants: Vec<ParticipantInfo>,
}

/// A registered connection of a worker. Dropping it says that the connection ended.
pub struct Connection {
    key: WorkerKey,
    inbox: mpsc::Sender<Input>,
    outgoing: mpsc::Receiver<ServerMessage>,
}

impl Connection {
    /// Passes a message on, waiting while the registry is busy. False when the server stops.
    async fn handle(&self, message: WorkerMessage) -> bool {
        self.inbox.send(Input::Message(self.key, Box::new(message))).await.is_ok()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let (inbox, key) = (self.inbox.clone(), self.key);
        if let Err(mpsc::error::TrySendError::Full(input)) = inbox.try_send(Input::Closed(key))
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { inbox.send(input).await });
        }
    }
}

/// The way to the registry. Cheap to clone.
#[derive(Clone)]
pub struct Agents {
    inbox: mpsc::Sender<Input>,
    next_key: Arc<AtomicU64>,
}

impl Agents {
    /// Starts the task that owns workers and jobs.
    pub fn start(
        config: &config::Agents,
        limit: &config::Limit,
        keys: &Keys,
        server: ServerInfo,
        telemetry: Arc<Telemetry>,
        webhooks: Option<Webhooks>,
    ) -> Self {
        let (inbox, receiver) = mpsc::channel(INBOX_MAX);
        let registry = Registry::new(config.clone(), limit.clone(), server);
        let owner = Owner {
            registry,
            keys: keys.clone(),
            telemetry,
            webhooks,
            sockets: HashMap::new(),
            random: Chance,
            out: Vec::new(),
        };
        tokio::spawn(owner.run(receiver));
        Self { inbox, next_key: Arc::new(AtomicU64::new(1)) }
    }

    /// A worker connected with a token of this API key; `None` when the server stops.
    pub async fn open(&self, api_key: String) -> Option<Connection> {
        let key = WorkerKey(self.next_key.fetch_add(1, Ordering::Relaxed));
        let (socket, outgoing) = mpsc::channel(OUTGOING_MAX);
        self.inbox.send(Input::Opened { key, api_key, socket }).await.ok()?;
        Some(Connection { key, inbox: self.inbox.clone(), outgoing })
    }

    /// Something happened in a room.
    pub async fn notice(&self, notice: Notice) {
        // The server may be stopping.
        let _ = self.inbox.send(Input::Notice(Box::new(notice))).await;
    }

    /// Sends agents to a room that exists.
    ///
    /// # Errors
    /// [`DispatchError`]
    pub async fn create(&self, new: NewDispatch) -> Result<AgentDispatch, DispatchError> {
        let asked = self.ask(|reply| Input::Create(Box::new(new), reply)).await;
        asked.unwrap_or(Err(DispatchError::Stopping))
    }

    /// Takes a dispatch back and ends its jobs; `None` when there is none.
    pub async fn delete(&self, room: String, id: String) -> Option<AgentDispatch> {
        self.ask(|reply| Input::Delete { room, id, reply }).await?
    }

    /// Dispatches of a room, or the one named by a non-empty `id`.
    pub async fn list(&self, room: String, id: String) -> Vec<AgentDispatch> {
        self.ask(|reply| Input::List { room, id, reply }).await.unwrap_or_default()
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Input) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(question(reply)).await.ok()?;
        answer.await.ok()
    }
}

/// The task around the registry.
struct Owner {
    registry: Registry,
    keys: Keys,
    telemetry: Arc<Telemetry>,
    /// Hear of jobs. Unset where no webhooks are configured.
    webhooks: Option<Webhooks>,
    sockets: HashMap<WorkerKey, mpsc::Sender<ServerMessage>>,
    random: Chance,
    out: Vec<Output>,
}

impl Owner {
    async fn run(mut self, mut inbox: mpsc::Receiver<Input>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                input = inbox.recv() => match input {
                    Some(input) => self.take(input),
                    None => return,
                },
                _ = tick.tick() => self.turn(|registry, turn| registry.handle_tick(turn)),
            }
            self.carry_out();
        }
    }

    fn turn<T>(&mut self, act: impl FnOnce(&mut Registry, &mut Turn<'_>) -> T) -> T {
        let mut turn = Turn {
            now: Instant::now(),
            unix_ms: unix_ms(),
            random: &mut self.random,
            keys: &self.keys,
            telemetry: &self.telemetry,
            out: &mut self.out,
        };
        act(&mut self.registry, &mut turn)
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Opened { key, api_key, socket } => {
                self.sockets.insert(key, socket);
                self.turn(|registry, turn| registry.handle_opened(key, api_key, turn));
            }
            Input::Message(key, message) => {
                self.turn(|registry, turn| registry.handle_message(key, *message, turn));
            }
            Input::Closed(key) => {
                self.sockets.remove(&key);
                self.turn(|registry, turn| registry.handle_closed(key, turn));
            }
            Input::Notice(notice) => self.turn(|registry, turn| registry.handle_notice(*notice, turn)),
            // Whoever asked may have gone.
            Input::Create(new, reply) => {
                drop(reply.send(self.turn(|registry, turn| registry.create(*new, turn))));
            }
            Input::Delete { room, id, reply } => {
                drop(reply.send(self.turn(|registry, turn| registry.delete(&room, &id, turn))));
            }
            Input::List { room, id, reply } => drop(reply.send(self.registry.list(&room, &id))),
        }
    }

    fn carry_out(&mut self) {
        // Workers found gone make more to carry out; each is found once.
        while !self.out.is_empty() {
            let mut lost = Vec::new();
            for output in std::mem::take(&mut self.out) {
                match output {
                    Output::Tell(key, message) => {
                        let Some(socket) = self.sockets.get(&key) else { continue };
                        let message = ServerMessage { message: Some(*message) };
                        let Err(error) = socket.try_send(message) else { continue };
                        if matches!(error, mpsc::error::TrySendError::Full(_)) {
                            count(&self.telemetry.counters.agent_overflows);
                        }
                        self.sockets.remove(&key);
                        lost.push(key);
                    }
                    Output::Notice(notice) => {
                        if let Some(webhooks) = &self.webhooks {
                            webhooks.post(&notice);
                        }
                    }
                    // The socket's task sees its queue end.
                    Output::Close(key) => drop(self.sockets.remove(&key)),
                }
            }
            for key in lost {
                self.turn(|registry, turn| registry.handle_closed(key, turn));
            }
        }
    }
}
