//! The way back to a client.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UdpSocket;
use tokio::sync::Notify;

use super::report::Traffic;

/// Bytes that may wait for a client that reads slowly; half a second of video.
const QUEUE_BYTES_MAX: usize = 192 << 10;

/// Where a client's messages go. Cheap to clone; sending never waits.
#[derive(Clone)]
pub(super) enum Sink {
    Datagram { socket: Arc<UdpSocket>, remote: SocketAddr },
    Stream(Arc<Outgoing>),
}

impl Sink {
    /// Sends one message, or drops and counts it where there is no room.
    pub(super) fn send(&self, bytes: &[u8], traffic: &Traffic) {
        match self {
            Self::Datagram { socket, remote } => {
                traffic.sent_to_client(socket.try_send_to(bytes, *remote).is_ok());
            }
            Self::Stream(outgoing) => traffic.sent_to_stream(outgoing.push(bytes)),
        }
    }
}

/// What waits to be written to a connection.
#[derive(Default)]
pub(super) struct Outgoing {
    waiting: Mutex<Vec<u8>>,
    filled: Notify,
}

impl Outgoing {
    /// Adds a whole message, or nothing of it.
    fn push(&self, bytes: &[u8]) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = waiting.len() + bytes.len() <= QUEUE_BYTES_MAX;
        if fits {
            waiting.extend_from_slice(bytes);
            self.filled.notify_one();
        }
        fits
    }

    /// Waits until there is something, and takes all of it in exchange for an empty buffer.
    pub(super) async fn take(&self, buffer: &mut Vec<u8>) {
        buffer.clear();
        loop {
            {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if !waiting.is_empty() {
                    std::mem::swap(&mut *waiting, buffer);
                    return;
                }
            }
            self.filled.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_takes_no_part_of_a_message() {
        let outgoing = Outgoing::default();
        let message = vec![7; 100 << 10];
        assert!(outgoing.push(&message));
        assert!(!outgoing.push(&message));
        let mut buffer = Vec::new();
        outgoing.take(&mut buffer).await;
        assert_eq!(buffer, message);
        assert!(outgoing.push(b"more"));
        outgoing.take(&mut buffer).await;
        assert_eq!(buffer, b"more");
    }
}
