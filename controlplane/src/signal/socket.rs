//! The pump between a WebSocket (RFC 6455) and a room: frames in, queued messages out, keep-alive both ways.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use auralink_livekit::{DisconnectReason, SignalResponse, leave_request, signal_response};
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};

use super::session::{Fault, Frame, SignalSession, Step};
use super::wire;
use crate::rooms::Session;
use crate::rooms::actor::{Outgoing, unix_ms};
use crate::rooms::room::leave;
use crate::telemetry::{Telemetry, count};

/// WebSocket pings, for proxies that close quiet connections.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A client that takes no bytes for this long is gone.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);
/// After our close frame, how long the client may take to answer it.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Runs until either side ends. Dropping `session` on return tells the room.
pub async fn run(mut socket: WebSocket, mut session: Session, rate_max: u32, telemetry: Arc<Telemetry>) {
    telemetry.sockets.fetch_add(1, Ordering::Relaxed);
    let mut state = SignalSession::new(rate_max, Instant::now());
    let mut keep_alive = tokio::time::interval(KEEP_ALIVE);
    keep_alive.reset();
    let code = loop {
        // Reading goes first: a good-bye that has arrived counts, even if nothing can be written any more. What a client may
        // send is limited, and ticks are rare: neither holds up what goes out.
        let sent = tokio::select! {
            biased;
            frame = socket.recv() => match frame {
                Some(Ok(frame)) => match receive(&frame, &mut state, &session, &telemetry).await {
                    Received::Nothing => true,
                    Received::Reply(reply) => send(&mut socket, wire::write(&reply, state.speaks_json())).await,
                    Received::Close(code) => break Some(code),
                },
                Some(Err(_)) | None => break None,
            },
            _ = keep_alive.tick() => match state.handle_tick(Instant::now()) {
                Some(fault) => break Some(close(fault, &telemetry)),
                None => send(&mut socket, Message::Ping(Default::default())).await,
            },
            outgoing = session.outgoing.recv() => match outgoing {
                Some(Outgoing::Message(message)) => {
                    send(&mut socket, wire::write(&message, state.speaks_json())).await
                }
                Some(Outgoing::Close) => break Some(close_code::NORMAL),
                // The room gave up on this client.
                None => break Some(close_code::POLICY),
            },
        };
        if !sent {
            last_words(&mut socket, &mut state, &session, &telemetry).await;
            break None;
        }
    };
    if let Some(code) = code {
        farewell(socket, code).await;
    }
    telemetry.sockets.fetch_sub(1, Ordering::Relaxed);
}

/// Takes in what a client sent before its connection broke.
async fn last_words(
    socket: &mut WebSocket,
    state: &mut SignalSession,
    session: &Session,
    telemetry: &Telemetry,
) {
    let heard = async {
        while let Some(Ok(frame)) = socket.recv().await {
            if let Received::Close(_) = receive(&frame, state, session, telemetry).await {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(CLOSE_PATIENCE, heard).await;
}

/// Tells a client that its participant is unknown here and that it shall join anew, then closes.
pub async fn refuse_resume(mut socket: WebSocket) {
    let leave = leave(DisconnectReason::StateMismatch, leave_request::Action::Reconnect);
    let response = SignalResponse { message: Some(signal_response::Message::Leave(leave)) };
    if send(&mut socket, wire::write(&response, false)).await {
        farewell(socket, close_code::NORMAL).await;
    }
}

enum Received {
    Nothing,
    Reply(Box<SignalResponse>),
    Close(u16),
}

async fn receive(
    frame: &Message,
    state: &mut SignalSession,
    session: &Session,
    telemetry: &Telemetry,
) -> Received {
    let now = Instant::now();
    let frame = match frame {
        Message::Binary(bytes) => Frame::Binary(bytes),
        Message::Text(text) => Frame::Text(text),
        Message::Ping(_) | Message::Pong(_) => {
            state.handle_sign_of_life(now);
            return Received::Nothing;
        }
        Message::Close(_) => return Received::Nothing,
    };
    match state.handle_frame(frame, now, unix_ms()) {
        Step::Reply(reply) => Received::Reply(reply),
        Step::Forward(request) => {
            if session.request(*request).await {
                Received::Nothing
            } else {
                Received::Close(close_code::NORMAL)
            }
        }
        Step::Malformed => {
            count(&telemetry.counters.signal_malformed);
            Received::Nothing
        }
        Step::Close(fault) => Received::Close(close(fault, telemetry)),
    }
}

fn close(fault: Fault, telemetry: &Telemetry) -> u16 {
    let (counter, code) = match fault {
        Fault::Malformed => (&telemetry.counters.signal_malformed, close_code::PROTOCOL),
        Fault::TooFast => (&telemetry.counters.signal_rate_exceeded, close_code::POLICY),
        Fault::Silent => (&telemetry.counters.signal_ping_timeouts, close_code::AWAY),
    };
    count(counter);
    code
}

async fn send(socket: &mut WebSocket, message: Message) -> bool {
    matches!(tokio::time::timeout(WRITE_PATIENCE, socket.send(message)).await, Ok(Ok(())))
}

/// The closing handshake, so that what was sent before is not lost to a reset.
async fn farewell(mut socket: WebSocket, code: u16) {
    let close = Message::Close(Some(CloseFrame { code, reason: Default::default() }));
    if send(&mut socket, close).await {
        let answered = async { while let Some(Ok(_)) = socket.recv().await {} };
        let _ = tokio::time::timeout(CLOSE_PATIENCE, answered).await;
    }
}
