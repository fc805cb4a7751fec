//! The pump between a worker's WebSocket (RFC 6455) and the registry. All that knows the WebSocket library is here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};

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
pub async fn run(mut socket: WebSocket, mut connection: Connection, telemetry: Arc<Telemetry>) {
    let (mut json, mut malformed, mut heard) = (false, 0, Instant::now());
    let mut keep_alive = tokio::time::interval(KEEP_ALIVE);
    keep_alive.reset();
    let code = loop {
        tokio::select! {
            frame = socket.recv() => {
                heard = Instant::now();
                let message = match frame {
                    Some(Ok(Message::Binary(bytes))) => wire::parse_binary(&bytes),
                    Some(Ok(Message::Text(text))) => {
                        // A worker that sends text once is answered in text from then on.
                        json = true;
                        wire::parse_text(&text)
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                };
                match message {
                    Ok(message) => {
                        if !connection.handle(message).await {
                            break close_code::AWAY;
                        }
                    }
                    Err(_) => {
                        count(&telemetry.counters.agent_malformed);
                        malformed += 1;
                        if malformed > MALFORMED_MAX {
                            break close_code::PROTOCOL;
                        }
                    }
                }
            }
            _ = keep_alive.tick() => {
                if heard.elapsed() > SILENCE_MAX {
                    break close_code::AWAY;
                }
                if !send(&mut socket, Message::Ping(Default::default())).await {
                    return;
                }
            }
            outgoing = connection.outgoing.recv() => {
                // The registry gave up on this worker.
                let Some(message) = outgoing else { break close_code::POLICY };
                let frame = match wire::write(&message, json) {
                    Frame::Binary(bytes) => Message::Binary(bytes.into()),
                    Frame::Text(text) => Message::Text(text.into()),
                };
                if !send(&mut socket, frame).await {
                    return;
                }
            }
        }
    };
    send(&mut socket, Message::Close(Some(CloseFrame { code, reason: Default::default() }))).await;
}

async fn send(socket: &mut WebSocket, message: Message) -> bool {
    matches!(tokio::time::timeout(WRITE_PATIENCE, socket.send(message)).await, Ok(Ok(())))
}
