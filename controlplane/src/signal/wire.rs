//! Signalling messages in frames: protobuf in binary frames, or protobuf's JSON mapping in text frames.

use auralink_livekit::prost::Message as _;
use auralink_livekit::{SignalRequest, SignalResponse};
use yawc::Frame;

/// A frame that holds no request; the client's fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("frame is not a signalling request")]
pub struct NotARequest;

/// Reads a request from a binary frame.
///
/// # Errors
/// [`NotARequest`]
pub fn parse_binary(bytes: &[u8]) -> Result<SignalRequest, NotARequest> {
    SignalRequest::decode(bytes).map_err(|_| NotARequest)
}

/// Reads a request from a text frame.
///
/// # Errors
/// [`NotARequest`]
pub fn parse_text(text: &str) -> Result<SignalRequest, NotARequest> {
    serde_json::from_str(text).map_err(|_| NotARequest)
}

/// Writes a response as the client speaks.
pub fn write(response: &SignalResponse, json: bool) -> Frame {
    if json {
        Frame::text(serde_json::to_string(response).unwrap_or_default())
    } else {
        Frame::binary(response.encode_to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use auralink_livekit::{Ping, signal_request, signal_response};
    use yawc::OpCode;

    #[test]
    fn a_ping_reads_the_same_in_both_forms() {
        let ping = Ping { timestamp: 5, rtt: 7 };
        let request = SignalRequest { message: Some(signal_request::Message::PingReq(ping)) };
        assert_eq!(parse_binary(&[0x82, 0x01, 4, 8, 5, 16, 7]).as_ref(), Ok(&request));
        assert_eq!(parse_text(r#"{"pingReq":{"timestamp":"5","rtt":"7"}}"#).as_ref(), Ok(&request));
    }

    #[test]
    fn a_pong_is_written_in_both_forms() {
        let response = SignalResponse { message: Some(signal_response::Message::Pong(1)) };
        let (binary, text) = (write(&response, false), write(&response, true));
        assert_eq!((binary.opcode(), &binary.payload()[..]), (OpCode::Binary, &[0x90, 0x01, 1][..]));
        assert_eq!((text.opcode(), &text.payload()[..]), (OpCode::Text, &br#"{"pong":"1"}"#[..]));
    }

    #[test]
    fn rubbish_is_refused() {
        assert_eq!(parse_binary(&[0xff; 3]), Err(NotARequest));
        assert_eq!(parse_text("{"), Err(NotARequest));
        assert_eq!(parse_text("[1]"), Err(NotARequest));
    }
}
