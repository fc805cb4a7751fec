//! All rooms of this node: finding, making and ending them. Each room's state belongs to its own task.

pub mod actor;
pub mod admin;
pub mod backlog;
pub mod backup;
mod connection;
mod data;
pub mod data_track;
pub mod dynacast;
pub mod ice_servers;
pub mod join;
pub mod notices;
pub mod participant;
mod presence;
mod publish;
mod refresh;
mod request;
mod resume;
pub mod room;
pub mod rpc;
mod server_data;
pub mod simulate;
mod subscribe;
#[cfg(test)]
mod tests;
pub mod track;
mod updates;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use auralink_livekit::{
    DisconnectReason, ParticipantInfo, Room as RoomInfo, RoomAgentDispatch, RoomConfiguration, RoomEndReason,
};
use auralink_proto::Command;
use tokio::sync::{mpsc, oneshot};

use crate::auth::Keys;
use crate::config::Config;
use crate::media::Media;
use crate::negotiator::codec::Enabled;
use crate::notices::Notices;
use crate::telemetry::Telemetry;
use actor::{Act, Actor, Input, Outgoing};
use ice_servers::IceServers;
use join::JoinError;
use notices::{Happened, Notice};
use participant::{JoinParams, ParticipantKey, ResumeParams};
use room::{Mint, Room, RoomParams, Turn};

/// Rooms a join may find ended before it gives up.
const JOIN_TRIES: usize = 3;

/// How long rooms may take to end when the server stops: one may wait for a shard that does not turn.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// What a creator of a room may choose; zero means the configured default.
#[derive(Clone, Debug, Default)]
pub struct RoomChoice {
    pub empty_timeout_s: u32,
    pub departure_timeout_s: u32,
    pub max_participants: u32,
    pub metadata: String,
    pub extras: RoomExtras,
}

/// What a creator may say besides. A room keeps it; only the agents have an effect yet.
#[derive(Clone, Debug, Default)]
pub struct RoomExtras {
    /// Agents to be sent there. When empty, those without a name are.
    pub agents: Vec<RoomAgentDispatch>,
    pub tags: HashMap<String, String>,
    pub min_playout_delay_ms: u32,
    pub max_playout_delay_ms: u32,
    pub sync_streams: bool,
}

impl From<RoomConfiguration> for RoomChoice {
    /// What a token says of the room it may create.
    fn from(config: RoomConfiguration) -> Self {
        Self {
            empty_timeout_s: config.empty_timeout,
            departure_timeout_s: config.departure_timeout,
            max_participants: config.max_participants,
            metadata: config.metadata,
            extras: RoomExtras {
                agents: config.agents,
                tags: config.tags,
                min_playout_delay_ms: config.min_playout_delay,
                max_playout_delay_ms: config.max_playout_delay,
                sync_streams: config.sync_streams,
            },
        }
    }
}

/// Why there is no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RoomError {
    #[error("requested room does not exist")]
    Absent,
    #[error("this node has as many rooms as it may")]
    TooMany,
    #[error(transparent)]
    Join(#[from] JoinError),
}

/// A participant's way into its room. Dropping it says that signalling ended.
#[derive(Debug)]
pub struct Session {
    pub key: ParticipantKey,
    /// Tells this connection from earlier and later ones of the same participant.
    pub number: u64,
    inbox: mpsc::Sender<Input>,
    pub outgoing: mpsc::Receiver<Outgoing>,
}

impl Session {
    /// Passes a request on, waiting while the room is busy. False when the room is over.
    pub async fn request(&self, request: auralink_livekit::SignalRequest) -> bool {
        self.inbox.send(Input::Request(self.key, self.number, Box::new(request))).await.is_ok()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let inbox = self.inbox.clone();
        let closed = Input::SignalClosed(self.key, self.number);
        if let Err(mpsc::error::TrySendError::Full(input)) = inbox.try_send(closed)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { inbox.send(input).await });
        }
    }
}

struct Shared {
    config: Config,
    media: Media,
    telemetry: Arc<Telemetry>,
    notices: Notices,
    node_sid: String,
    ice_servers: Arc<IceServers>,
    next_key: AtomicU64,
    /// Inbox of each room, by name.
    rooms: Mutex<BTreeMap<String, mpsc::Sender<Input>>>,
}

/// All rooms. Cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    shared: Arc<Shared>,
}

impl Rooms {
    pub fn new(
        config: Config,
        media: Media,
        telemetry: Arc<Telemetry>,
        notices: Notices,
        node_sid: String,
    ) -> Self {
        let shared = Shared {
            ice_servers: Arc::new(IceServers::new(&config)),
            config,
            media,
            telemetry,
            notices,
            node_sid,
            next_key: AtomicU64::new(1),
            rooms: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<String, mpsc::Sender<Input>>> {
        self.shared.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &str) -> Option<mpsc::Sender<Input>> {
        self.table().get(name).filter(|inbox| !inbox.is_closed()).cloned()
    }

    /// Whether a room of that name exists.
    pub fn exists(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find_or_create(&self, name: &str, choice: &RoomChoice) -> Result<mpsc::Sender<Input>, RoomError> {
        let mut table = self.table();
        if let Some(inbox) = table.get(name).filter(|inbox| !inbox.is_closed()) {
            return Ok(inbox.clone());
        }
        if table.len() >= self.shared.config.room.rooms_max {
            return Err(RoomError::TooMany);
        }
        let (inbox, receiver) = mpsc::channel(actor::INBOX_MAX);
        let params = self.params(name, choice);
        tracing::info!(room = %name, sid = %params.sid, "room started");
        let named = RoomInfo { sid: params.sid.clone(), name: name.to_owned(), ..RoomInfo::default() };
        let actor = Actor::new(
            params,
            receiver,
            inbox.downgrade(),
            self.shared.media.clone(),
            Arc::clone(&self.shared.telemetry),
            self.shared.notices.clone(),
        );
        table.insert(name.to_owned(), inbox.clone());
        self.shared.telemetry.rooms.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(self.clone().supervise(named, inbox.downgrade(), actor));
        Ok(inbox)
    }

    /// Runs a room and, whatever ends it, takes it off the table and turns late joins away.
    async fn supervise(self, named: RoomInfo, inbox: mpsc::WeakSender<Input>, actor: Actor) {
        let name = named.name.clone();
        let ended = tokio::spawn(actor.run()).await;
        {
            let mut table = self.table();
            let own = inbox.upgrade();
            if table.get(&name).zip(own).is_some_and(|(listed, own)| listed.same_channel(&own)) {
                table.remove(&name);
            } else {
                table.retain(|listed, inbox| *listed != name || !inbox.is_closed());
            }
        }
        self.shared.telemetry.rooms.fetch_sub(1, Ordering::Relaxed);
        match ended {
            Ok(mut late) => {
                late.close();
                while let Ok(input) = late.try_recv() {
                    if let Input::Join { reply, .. } = input {
                        let _ = reply.send(Err(JoinError::Ended));
                    }
                }
                tracing::info!(room = %name, "room ended");
            }
            Err(error) => {
                tracing::error!(room = %name, %error, "room failed");
                let media = &self.shared.media;
                for transport in media.forget_orphans() {
                    // A stopped shard has nothing to remove.
                    let _ = media.send(transport.shard(), Command::RemoveTransport(transport)).await;
                }
                let what = Happened::RoomFinished(RoomEndReason::RoomEndUnknown);
                self.shared.notices.deliver(Notice { unix_ms: actor::unix_ms(), room: named, what }).await;
            }
        }
    }

    fn params(&self, name: &str, choice: &RoomChoice) -> RoomParams {
        let config = &self.shared.config;
        let or = |chosen: u32, default: u32| if chosen == 0 { default } else { chosen };
        let mut media = self.shared.media.clone();
        RoomParams {
            id: media.place_room(),
            sid: media.sid("RM_"),
            name: name.to_owned(),
            metadata: choice.metadata.clone(),
            empty_timeout_s: or(choice.empty_timeout_s, config.room.empty_timeout),
            departure_timeout_s: or(choice.departure_timeout_s, config.room.departure_timeout),
            max_participants: or(choice.max_participants, config.room.max_participants),
            created_unix_ms: actor::unix_ms(),
            region: config.region.clone(),
            node_sid: self.shared.node_sid.clone(),
            limit: config.limit.clone(),
            keys: Keys::new(config.keys.clone()),
            extras: choice.extras.clone(),
            ice_servers: Arc::clone(&self.shared.ice_servers),
            codecs: Enabled::new(config.room.enabled_codecs.iter().map(|codec| codec.mime.as_str())),
        }
    }

    /// Joins a room, creating it if `create` allows.
    ///
    /// # Errors
    /// [`RoomError`]
    pub async fn join(
        &self,
        name: &str,
        params: JoinParams,
        create: Option<&RoomChoice>,
    ) -> Result<Session, RoomError> {
        for _ in 0..JOIN_TRIES {
            let inbox = match create {
                Some(choice) => self.find_or_create(name, choice)?,
                None => self.find(name).ok_or(RoomError::Absent)?,
            };
            let key = ParticipantKey(self.shared.next_key.fetch_add(1, Ordering::Relaxed));
            let (socket, outgoing) = mpsc::channel(self.shared.config.limit.signal_queue_max.max(1));
            let (reply, joined) = oneshot::channel();
            let params = Box::new(params.clone());
            if inbox.send(Input::Join { key, params, socket, reply }).await.is_err() {
                continue;
            }
            match joined.await {
                Ok(Ok(())) => return Ok(Session { key, number: key.0, inbox, outgoing }),
                Ok(Err(JoinError::Ended)) | Err(_) => {}
                Ok(Err(error)) => return Err(error.into()),
            }
        }
        Err(JoinError::Ended.into())
    }

    /// Gives a participant that is still there a new signalling connection. `None` when nobody knows it: it has to join anew.
    pub async fn resume(&self, name: &str, params: ResumeParams) -> Option<Session> {
        let inbox = self.find(name)?;
        let number = self.shared.next_key.fetch_add(1, Ordering::Relaxed);
        let (socket, outgoing) = mpsc::channel(self.shared.config.limit.signal_queue_max.max(1));
        let (reply, resumed) = oneshot::channel();
        let params = Box::new(params);
        inbox.send(Input::Resume { number, params, socket, reply }).await.ok()?;
        let key = resumed.await.ok()??;
        Some(Session { key, number, inbox, outgoing })
    }

    /// Creates a room, or returns the one there is.
    ///
    /// # Errors
    /// [`RoomError`]
    pub async fn create(&self, name: &str, choice: &RoomChoice) -> Result<RoomInfo, RoomError> {
        for _ in 0..JOIN_TRIES {
            let inbox = self.find_or_create(name, choice)?;
            if let Some(info) = ask(&inbox, Input::Describe).await {
                return Ok(info);
            }
        }
        Err(JoinError::Ended.into())
    }

    /// Rooms by name, or all of them when none is named.
    pub async fn list(&self, names: &[String]) -> Vec<RoomInfo> {
        let inboxes: Vec<_> = {
            let table = self.table();
            let named = |name: &String| names.is_empty() || names.contains(name);
            table.iter().filter(|(name, _)| named(name)).map(|(_, inbox)| inbox.clone()).collect()
        };
        let mut rooms = Vec::with_capacity(inboxes.len());
        for inbox in inboxes {
            rooms.extend(ask(&inbox, Input::Describe).await);
        }
        rooms
    }

    /// Participants of a room; `None` when there is no such room.
    pub async fn participants(&self, name: &str) -> Option<Vec<ParticipantInfo>> {
        ask(&self.find(name)?, Input::Participants).await
    }

    /// Lets a room's task do something with it; `None` when there is no such room.
    pub async fn act<T: Send + 'static>(
        &self,
        name: &str,
        act: impl FnOnce(&mut Room, &mut Turn<'_>) -> T + Send + 'static,
    ) -> Option<T> {
        let question = |reply: oneshot::Sender<T>| {
            // Whoever asked may have gone.
            let act = move |room: &mut Room, turn: &mut Turn<'_>| drop(reply.send(act(room, turn)));
            Input::Act(Act(Box::new(act)))
        };
        ask(&self.find(name)?, question).await
    }

    /// Ends a room for everybody in it, and waits until it is gone. False when there is none.
    pub async fn end(&self, name: &str, reason: DisconnectReason) -> bool {
        let Some(inbox) = self.find(name) else { return false };
        let ended = ask(&inbox, |reply| Input::End(reason, reply)).await.is_some();
        inbox.closed().await;
        ended
    }

    /// Ends every room, and waits until they are gone, though not for ever; for shutting down.
    pub async fn end_all(&self) {
        let inboxes: Vec<mpsc::Sender<Input>> = self.table().values().cloned().collect();
        let ended = async {
            for inbox in &inboxes {
                ask(inbox, |reply| Input::End(DisconnectReason::ServerShutdown, reply)).await;
            }
            for inbox in &inboxes {
                inbox.closed().await;
            }
        };
        if tokio::time::timeout(END_PATIENCE, ended).await.is_err() {
            tracing::warn!("some rooms did not end in time");
        }
    }
}

async fn ask<T>(
    inbox: &mpsc::Sender<Input>,
    question: impl FnOnce(oneshot::Sender<T>) -> Input,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    inbox.send(question(reply)).await.ok()?;
    answer.await.ok()
}
