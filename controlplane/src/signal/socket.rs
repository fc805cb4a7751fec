//! The pump between a WebSocket (RFC 6455) and a room: frames in, queued messages out, keep-alive both ways.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use auralink_livekit::{DisconnectReason, SignalResponse, leave_request, signal_response};
use bytes::Bytes;
use futures_util::SinkExt as _;
use yawc::close::CloseCode;
use yawc::{DeflatePool, HttpWebSocket, OpCode, Options};

use super::session::{self, Fault, SignalSession, Step};
use super::wire;
use crate::rooms::Session;
use crate::rooms::actor::{Outgoing, unix_ms};
use crate::rooms::room::leave;
use crate::telemetry::{Telemetry, count};

/// How often a connection is looked at. It is sent a WebSocket ping where either side was quiet for half as long: proxies close
/// quiet connections, and not every client pings by itself.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A client that takes no bytes for this long is gone.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);
/// After our close frame, how long the client may take to answer it.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Of each connection, for as long as it lives: most messages are small. What a longer one grew is given back.
const BUFFER_BYTES: usize = 1 << 10;
/// Messages shorter than this are not worth compressing.
const COMPRESSED_FROM_BYTES: usize = 512;
/// Compressors and decompressors kept between messages, for all connections together.
const COMPRESSORS_KEPT: usize = 16;

/// How every connection speaks: permessage-deflate (RFC 7692) for clients that offer it, without context kept between
/// messages, so that a quiet connection holds no compressor.
pub fn options(message_bytes_max: usize) -> Options {
    // The library's limits are the first size refused.
    let limit = message_bytes_max.saturating_add(1);
    Options::default()
        .with_limits(limit, limit)
        .with_utf8()
        .with_low_latency_compression()
        .server_no_context_takeover()
        .client_no_context_takeover()
        .with_deflate_pool(DeflatePool::new(COMPRESSORS_KEPT))
        .with_compression_threshold(COMPRESSED_FROM_BYTES)
        .with_read_buffer_capacity(BUFFER_BYTES)
        .with_write_buffer_capacity(BUFFER_BYTES)
        .with_backpressure_boundary(BUFFER_BYTES)
}

/// Runs until either side ends. Dropping `session` on return tells the room.
pub async fn run(mut socket: HttpWebSocket, mut session: Session, rate_max: u32, telemetry: Arc<Telemetry>) {
    telemetry.sockets.fetch_add(1, Ordering::Relaxed);
    let mut state = SignalSession::new(rate_max, Instant::now());
    let mut keep_alive = tokio::time::interval(KEEP_ALIVE);
    keep_alive.reset();
    let mut spoke = Instant::now();
    // Written, and not on its way yet: what is ready at once leaves together.
    let mut held = false;
    let code = loop {
        // Reading goes first: a good-bye that has arrived counts, even if nothing can be written any more. What a client may
        // send is limited, and ticks are rare: neither holds up what goes out.
        let next = tokio::select! {
            biased;
            frame = socket.next_frame() => match frame {
                Ok(frame) => match receive(&frame, &mut state, &session, &telemetry).await {
                    Received::Nothing => continue,
                    Received::Reply(reply) => Some(wire::write(&reply, state.speaks_json())),
                    Received::Close(code) => break Some(code),
                },
                // What is left to say, such as why, was queued by the library and leaves when it is asked again.
                Err(_) => {
                    let _ = tokio::time::timeout(CLOSE_PATIENCE, socket.next_frame()).await;
                    break None;
                }
            },
            _ = keep_alive.tick() => match state.handle_tick(Instant::now()) {
                Some(fault) => break Some(close(fault, &telemetry)),
                None if state.quiet_for(Instant::now()).max(spoke.elapsed()) < KEEP_ALIVE / 2 => continue,
                None => Some(yawc::Frame::ping(Bytes::new())),
            },
            outgoing = session.outgoing.recv() => match outgoing {
                Some(Outgoing::Message(message)) => Some(wire::write(&message, state.speaks_json())),
                Some(Outgoing::Close) => break Some(CloseCode::Normal),
                // The room gave up on this client.
                None => break Some(CloseCode::Policy),
            },
            () = std::future::ready(()), if held => None,
        };
        held = next.is_some();
        let sent = match next {
            Some(frame) => patiently(socket.feed(frame)).await,
            None => {
                spoke = Instant::now();
                patiently(socket.flush()).await
            }
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
    socket: &mut HttpWebSocket,
    state: &mut SignalSession,
    session: &Session,
    telemetry: &Telemetry,
) {
    let heard = async {
        while let Ok(frame) = socket.next_frame().await {
            if let Received::Close(_) = receive(&frame, state, session, telemetry).await {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(CLOSE_PATIENCE, heard).await;
}

/// Tells a client that its participant is unknown here and that it shall join anew, then closes.
pub async fn refuse_resume(mut socket: HttpWebSocket) {
    let leave = leave(DisconnectReason::StateMismatch, leave_request::Action::Reconnect);
    let response = SignalResponse { message: Some(signal_response::Message::Leave(leave)) };
    if send(&mut socket, wire::write(&response, false)).await {
        farewell(socket, CloseCode::Normal).await;
    }
}

enum Received {
    Nothing,
    Reply(Box<SignalResponse>),
    Close(CloseCode),
}

async fn receive(
    frame: &yawc::Frame,
    state: &mut SignalSession,
    session: &Session,
    telemetry: &Telemetry,
) -> Received {
    let now = Instant::now();
    let frame = match frame.opcode() {
        OpCode::Binary => session::Frame::Binary(frame.payload()),
        // The library has closed connections on which text is no UTF-8.
        OpCode::Text => session::Frame::Text(std::str::from_utf8(frame.payload()).unwrap_or_default()),
        OpCode::Ping | OpCode::Pong => {
            state.handle_sign_of_life(now);
            return Received::Nothing;
        }
        OpCode::Close | OpCode::Continuation => return Received::Nothing,
    };
    match state.handle_frame(frame, now, unix_ms()) {
        Step::Reply(reply) => Received::Reply(reply),
        Step::Forward(request) => {
            if session.request(*request).await {
                Received::Nothing
            } else {
                Received::Close(CloseCode::Normal)
            }
        }
        Step::Malformed => {
            count(&telemetry.counters.signal_malformed);
            Received::Nothing
        }
        Step::Close(fault) => Received::Close(close(fault, telemetry)),
    }
}

fn close(fault: Fault, telemetry: &Telemetry) -> CloseCode {
    let (counter, code) = match fault {
        Fault::Malformed => (&telemetry.counters.signal_malformed, CloseCode::Protocol),
        Fault::TooFast => (&telemetry.counters.signal_rate_exceeded, CloseCode::Policy),
        Fault::Silent => (&telemetry.counters.signal_ping_timeouts, CloseCode::Away),
    };
    count(counter);
    code
}

async fn send(socket: &mut HttpWebSocket, frame: yawc::Frame) -> bool {
    patiently(socket.send(frame)).await
}

/// Whether a write came to its end in time.
async fn patiently<E>(write: impl Future<Output = Result<(), E>>) -> bool {
    matches!(tokio::time::timeout(WRITE_PATIENCE, write).await, Ok(Ok(())))
}

/// The closing handshake, so that what was sent before is not lost to a reset.
async fn farewell(mut socket: HttpWebSocket, code: CloseCode) {
    if send(&mut socket, yawc::Frame::close(code, "")).await {
        // Not asked again after the answer: the library would answer that, and browsers report a second close as an error.
        let answered = async {
            while let Ok(frame) = socket.next_frame().await
                && frame.opcode() != OpCode::Close
            {}
        };
        let _ = tokio::time::timeout(CLOSE_PATIENCE, answered).await;
    }
}
