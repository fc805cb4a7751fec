//! The pump between a worker's WebSocket (RFC 6455) and the registry. All that knows the WebSocket library is here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::SinkExt as _;
use yawc::close::CloseCode;
use yawc::{HttpWebSocket, OpCode};

use super::Connection;
use super::wire::{self, Frame};
use crate::telemetry::{Telemetry, count};

/// WebSocket pings; their answers show that a worker lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A worker from which nothing came for this long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// A worker that takes no bytes for this long is gone.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);
/// Frames that make no sense before the connection is closed.
const MALFORMED_MAX: u32 = 10;

/// Runs until either side ends. Dropping `connection` on return tells the registry.
pub async fn run(mut socket: HttpWebSocket, mut connection: Connection, telemetry: Arc<Telemetry>) {
    let (mut json, mut malformed, mut heard) = (false, 0, Instant::now());
    let mut keep_alive = tokio::time::interval(KEEP_ALIVE);
    keep_alive.reset();
    let code = loop {
        tokio::select! {
            frame = socket.next_frame() => {
                heard = Instant::now();
                let Ok(frame) = frame else { return };
                let message = match frame.opcode() {
                    OpCode::Binary => wire::parse_binary(frame.payload()),
                    OpCode::Text => {
                        // A worker that sends text once is answered in text from then on.
                        json = true;
                        wire::parse_text(std::str::from_utf8(frame.payload()).unwrap_or_default())
                    }
                    OpCode::Ping | OpCode::Pong | OpCode::Continuation => continue,
                    OpCode::Close => return,
                };
                match message {
                    Ok(message) => {
                        if !connection.handle(message).await {
                            break CloseCode::Away;
                        }
                    }
                    Err(_) => {
                        count(&telemetry.counters.agent_malformed);
                        malformed += 1;
                        if malformed > MALFORMED_MAX {
                            break CloseCode::Protocol;
                        }
                    }
                }
            }
            _ = keep_alive.tick() => {
                if heard.elapsed() > SILENCE_MAX {
                    break CloseCode::Away;
                }
                if !send(&mut socket, yawc::Frame::ping(Bytes::new())).await {
                    return;
                }
            }
            outgoing = connection.outgoing.recv() => {
                // The registry gave up on this worker.
                let Some(message) = outgoing else { break CloseCode::Policy };
                let frame = match wire::write(&message, json) {
                    Frame::Binary(bytes) => yawc::Frame::binary(bytes),
                    Frame::Text(text) => yawc::Frame::text(text),
                };
                if !send(&mut socket, frame).await {
                    return;
                }
            }
        }
    };
    send(&mut socket, yawc::Frame::close(code, "")).await;
}

async fn send(socket: &mut HttpWebSocket, frame: yawc::Frame) -> bool {
    matches!(tokio::time::timeout(WRITE_PATIENCE, socket.send(frame)).await, Ok(Ok(())))
}
