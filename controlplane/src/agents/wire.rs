//! Messages of workers in frames: protobuf in binary frames, or protobuf's JSON mapping in text frames.

use auralink_livekit::prost::Message as _;
use auralink_livekit::{ServerMessage, WorkerMessage};

/// A data frame, whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Frame {
    Binary(Vec<u8>),
    Text(String),
}

/// A frame that holds no message of a worker; the worker's fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("frame is not a message of a worker")]
pub(super) struct NotAMessage;

/// Reads a message from a binary frame.
pub(super) fn parse_binary(bytes: &[u8]) -> Result<WorkerMessage, NotAMessage> {
    WorkerMessage::decode(bytes).map_err(|_| NotAMessage)
}

/// Reads a message from a text frame.
pub(super) fn parse_text(text: &str) -> Result<WorkerMessage, NotAMessage> {
    serde_json::from_str(text).map_err(|_| NotAMessage)
}

/// Writes a message as the worker speaks.
pub(super) fn write(message: &ServerMessage, json: bool) -> Frame {
    if json {
        Frame::Text(serde_json::to_string(message).unwrap_or_default())
    } else {
        Frame::Binary(message.encode_to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use auralink_livekit::{WorkerPing, WorkerPong, server_message, worker_message};

    #[test]
    fn a_ping_reads_the_same_in_both_forms() {
        let ping =
            WorkerMessage { message: Some(worker_message::Message::Ping(WorkerPing { timestamp: 5 })) };
        assert_eq!(parse_binary(&[0x2a, 2, 8, 5]).as_ref(), Ok(&ping));
        assert_eq!(parse_text(r#"{"ping":{"timestamp":"5"}}"#).as_ref(), Ok(&ping));
        assert_eq!(parse_binary(&[0xff; 3]), Err(NotAMessage));
        assert_eq!(parse_text("["), Err(NotAMessage));
    }

    #[test]
    fn a_pong_is_written_in_both_forms() {
        let pong = WorkerPong { last_timestamp: 5, timestamp: 9 };
        let message = ServerMessage { message: Some(server_message::Message::Pong(pong)) };
        assert_eq!(write(&message, false), Frame::Binary(vec![0x22, 4, 8, 5, 16, 9]));
        let text = r#"{"pong":{"lastTimestamp":"5","timestamp":"9"}}"#;
        assert_eq!(write(&message, true), Frame::Text(text.into()));
    }
}
