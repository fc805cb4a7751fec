//! The task that owns a room: takes inputs one at a time, lets the room decide, and carries out what it decided.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use auralink_livekit::{DisconnectReason, ParticipantInfo, Room as RoomInfo, SignalRequest, SignalResponse};
use auralink_proto::Event;
use tokio::sync::{mpsc, oneshot};

use super::join::JoinError;
use super::participant::{JoinParams, ParticipantKey, ResumeParams};
use super::room::{Output, Room, RoomParams, Turn};
use crate::media::Media;
use crate::notices::Notices;
use crate::telemetry::{Telemetry, count};

/// Inputs waiting for one room. Sockets wait when it is full; media events that repeat are dropped.
pub const INBOX_MAX: usize = 8_192;
/// How often a room looks at its clocks.
const TICK: Duration = Duration::from_secs(1);

/// What a socket is given to send.
#[derive(Clone, Debug)]
pub enum Outgoing {
    Message(Arc<SignalResponse>),
    /// Nothing follows; close.
    Close,
}

/// What a room is given.
#[derive(Debug)]
pub enum Input {
    Join {
        key: ParticipantKey,
        params: Box<JoinParams>,
        socket: mpsc::Sender<Outgoing>,
        reply: oneshot::Sender<Result<(), JoinError>>,
    },
    /// A participant comes back; answered with who it is, if it is known.
    Resume {
        number: u64,
        params: Box<ResumeParams>,
        socket: mpsc::Sender<Outgoing>,
        reply: oneshot::Sender<Option<ParticipantKey>>,
    },
    /// From the signalling connection of that number.
    Request(ParticipantKey, u64, Box<SignalRequest>),
    SignalClosed(ParticipantKey, u64),
    Event(Event),
    Act(Act),
    Describe(oneshot::Sender<RoomInfo>),
    Participants(oneshot::Sender<Vec<ParticipantInfo>>),
    /// End the room; answered when everybody has been told.
    End(DisconnectReason, oneshot::Sender<()>),
}

/// A participant's signalling connection.
struct Socket {
    number: u64,
    queue: mpsc::Sender<Outgoing>,
}

type Deed = dyn FnOnce(&mut Room, &mut Turn<'_>) + Send;

/// Something that shall be done with a room by the task that owns it.
pub struct Act(pub(super) Box<Deed>);

impl std::fmt::Debug for Act {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Act")
    }
}

/// A running room.
pub struct Actor {
    room: Room,
    inbox: mpsc::Receiver<Input>,
    own: mpsc::WeakSender<Input>,
    sockets: HashMap<ParticipantKey, Socket>,
    media: Media,
    telemetry: Arc<Telemetry>,
    notices: Notices,
    out: Vec<Output>,
}

/// Milliseconds since 1970.
pub fn unix_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

impl Actor {
    pub fn new(
        params: RoomParams,
        inbox: mpsc::Receiver<Input>,
        own: mpsc::WeakSender<Input>,
        media: Media,
        telemetry: Arc<Telemetry>,
        notices: Notices,
    ) -> Self {
        let mut out = Vec::new();
        let mut mint = media.clone();
        let mut turn = Turn {
            now: Instant::now(),
            unix_ms: unix_ms(),
            mint: &mut mint,
            telemetry: &telemetry,
            out: &mut out,
        };
        let room = Room::new(params, &mut turn);
        Self { room, inbox, own, sockets: HashMap::new(), media, telemetry, notices, out }
    }

    /// Runs until the room is over; the inbox is handed back so that late joins can be refused.
    pub async fn run(mut self) -> mpsc::Receiver<Input> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // That there is a room is known outside before anything of what happens in it.
        self.carry_out().await;
        loop {
            let due = self.room.next_due();
            tokio::select! {
                input = self.inbox.recv() => match input {
                    Some(input) => self.take(input),
                    None => break,
                },
                _ = tick.tick() => self.turn(|room, turn| room.handle_tick(turn)),
                () = until(due) => self.turn(|room, turn| room.handle_due(turn)),
            }
            self.carry_out().await;
            if self.room.is_over(Instant::now()) {
                break;
            }
        }
        self.turn(|room, turn| room.finish(turn));
        self.carry_out().await;
        self.inbox
    }

    fn turn<T>(&mut self, act: impl FnOnce(&mut Room, &mut Turn<'_>) -> T) -> T {
        let mut mint = self.media.clone();
        let mut turn = Turn {
            now: Instant::now(),
            unix_ms: unix_ms(),
            mint: &mut mint,
            telemetry: &self.telemetry,
            out: &mut self.out,
        };
        act(&mut self.room, &mut turn)
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Join { key, params, socket, reply } => {
                self.sockets.insert(key, Socket { number: key.0, queue: socket });
                let joined = self.turn(|room, turn| room.handle_join(key, *params, turn));
                if joined.is_err() {
                    self.sockets.remove(&key);
                }
                let admitted = joined.is_ok();
                if reply.send(joined).is_err() && admitted {
                    self.turn(|room, turn| room.handle_signal_closed(key, turn));
                }
            }
            Input::Resume { number, params, socket, reply } => {
                let key = self.room.resumable(&params);
                if let Some(key) = key {
                    let before = self.sockets.insert(key, Socket { number, queue: socket });
                    if let Some(before) = before {
                        // Full or gone: then it closes when the queue is dropped.
                        let _ = before.queue.try_send(Outgoing::Close);
                    }
                    self.turn(|room, turn| room.handle_resume(key, *params, turn));
                } else {
                    count(&self.telemetry.counters.resumes_refused);
                }
                if reply.send(key).is_err()
                    && let Some(key) = key
                {
                    self.turn(|room, turn| room.handle_signal_closed(key, turn));
                }
            }
            Input::Request(key, number, request) => {
                if self.is_current(key, number) {
                    self.turn(|room, turn| room.handle_request(key, *request, turn));
                }
            }
            Input::SignalClosed(key, number) => {
                if self.is_current(key, number) {
                    self.sockets.remove(&key);
                    self.turn(|room, turn| room.handle_signal_closed(key, turn));
                }
            }
            Input::Act(Act(act)) => self.turn(act),
            Input::Event(event) => self.turn(|room, turn| room.handle_event(event, turn)),
            // Whoever asked may have gone.
            Input::Describe(reply) => drop(reply.send(self.room.info())),
            Input::Participants(reply) => drop(reply.send(self.room.participant_infos())),
            Input::End(reason, reply) => {
                self.turn(|room, turn| room.close(reason, turn));
                let _ = reply.send(());
            }
        }
    }

    /// Whether a connection is the participant's latest: what an earlier one still brings is void.
    fn is_current(&self, key: ParticipantKey, number: u64) -> bool {
        self.sockets.get(&key).is_none_or(|socket| socket.number == number)
    }

    async fn carry_out(&mut self) {
        // Sockets found closed make more to carry out; each is found once.
        while !self.out.is_empty() {
            let mut lost = Vec::new();
            for output in std::mem::take(&mut self.out) {
                match output {
                    Output::Command(shard, command) => {
                        if self.media.send(shard, command).await.is_err() {
                            tracing::warn!(?shard, "a shard has stopped");
                        }
                    }
                    Output::Signal(to, message) => {
                        for key in to {
                            self.send(key, Outgoing::Message(Arc::clone(&message)), &mut lost);
                        }
                    }
                    Output::Close(key) => {
                        self.send(key, Outgoing::Close, &mut lost);
                        self.sockets.remove(&key);
                    }
                    Output::RouteTransport(id, on) => {
                        self.media.route_transport(id, on.then(|| self.own.clone()));
                    }
                    Output::RouteTrack(id, on) => self.media.route_track(id, on.then(|| self.own.clone())),
                    Output::Notice(notice) => self.notices.deliver(*notice).await,
                }
            }
            for key in lost {
                self.turn(|room, turn| room.handle_signal_closed(key, turn));
            }
        }
    }

    /// Queues a message. A client that does not read, or is gone, loses its socket and stands in `lost`.
    fn send(&mut self, key: ParticipantKey, outgoing: Outgoing, lost: &mut Vec<ParticipantKey>) {
        let Some(socket) = self.sockets.get(&key) else { return };
        let Err(error) = socket.queue.try_send(outgoing) else { return };
        if matches!(error, mpsc::error::TrySendError::Full(_)) {
            count(&self.telemetry.counters.signal_overflows);
            tracing::debug!(?key, "a client does not read its signalling; closing it");
        }
        self.sockets.remove(&key);
        lost.push(key);
    }
}
