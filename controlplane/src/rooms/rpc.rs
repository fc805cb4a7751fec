//! `PerformRpc`: a call of a participant's method, made by the server over the reliable data channel.

use std::time::{Duration, Instant};

use auralink_livekit::prost::Message as _;
use auralink_livekit::{DataPacket, PerformRpcRequest, RpcRequest, data_packet, rpc_response};
use auralink_proto::{DataChannel, TransportId};
use tokio::sync::oneshot;

use super::admin::AdminError;
use super::participant::ParticipantKey;
use super::room::{Room, Turn};

/// Calls one room waits for at once.
const CALLS_MAX: usize = 1_024;
/// Bytes of a request's payload, as LiveKit's clients have it.
const PAYLOAD_BYTES_MAX: usize = 15 << 10;
/// How long a participant may take to say that it heard the call, as LiveKit's clients have it.
const ACK_BY: Duration = Duration::from_secs(7);
/// How long it may take to answer, unless the caller says.
const ANSWER_BY: Duration = Duration::from_secs(15);
/// Longest a caller may ask to wait: connections on which nothing is written end after a minute.
const ANSWER_BY_MAX: Duration = Duration::from_secs(55);
/// Version of the RPC messages spoken: plain payloads.
const VERSION: u32 = 1;

/// Error codes that LiveKit's clients share; a participant's own lie below 1400.
pub mod builtin {
    pub const UNSUPPORTED_METHOD: u32 = 1400;
    pub const RECIPIENT_NOT_FOUND: u32 = 1401;
    pub const REQUEST_TOO_LARGE: u32 = 1402;
    pub const UNSUPPORTED_SERVER: u32 = 1403;
    pub const UNSUPPORTED_VERSION: u32 = 1404;
    pub const CONNECTION_TIMEOUT: u32 = 1501;
    pub const RESPONSE_TIMEOUT: u32 = 1502;
    pub const RECIPIENT_DISCONNECTED: u32 = 1503;
    pub const SEND_FAILED: u32 = 1505;
    /// Ours: the room waits for as many calls as it may.
    pub const TOO_MANY: u32 = 1599;
}

/// Why a call brought no payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RpcFailure {
    pub code: u32,
    pub message: String,
    /// What the participant's method added.
    pub data: String,
}

impl RpcFailure {
    /// One of the shared codes, with the text LiveKit's clients give it.
    pub fn builtin(code: u32) -> Self {
        let message = match code {
            builtin::REQUEST_TOO_LARGE => "Request payload too large",
            builtin::UNSUPPORTED_VERSION => "Unsupported RPC version",
            builtin::CONNECTION_TIMEOUT => "Connection timeout",
            builtin::RESPONSE_TIMEOUT => "Response timeout",
            builtin::RECIPIENT_DISCONNECTED => "Recipient disconnected",
            builtin::SEND_FAILED => "Failed to send",
            builtin::TOO_MANY => "Too many calls wait for an answer",
            _ => "RPC failed",
        };
        Self { code, message: message.into(), data: String::new() }
    }
}

/// Where the outcome of a call goes.
pub type Reply = oneshot::Sender<Result<String, RpcFailure>>;

#[derive(Debug)]
struct Pending {
    id: String,
    to: ParticipantKey,
    /// Until it is acknowledged.
    ack_by: Option<Instant>,
    answer_by: Instant,
    reply: Reply,
}

/// Calls that wait for an answer.
#[derive(Debug, Default)]
pub(super) struct Rpcs {
    pending: Vec<Pending>,
}

impl Rpcs {
    fn finish(&mut self, index: usize, outcome: Result<String, RpcFailure>) {
        // Whoever asked may have gone.
        let _ = self.pending.swap_remove(index).reply.send(outcome);
    }

    /// Ends every call that `verdict` finds a code for.
    fn fail(&mut self, verdict: impl Fn(&Pending) -> Option<u32>) {
        let mut index = 0;
        while let Some(pending) = self.pending.get(index) {
            match verdict(pending) {
                Some(code) => self.finish(index, Err(RpcFailure::builtin(code))),
                None => index += 1,
            }
        }
    }

    /// A participant has left.
    pub(super) fn handle_left(&mut self, key: ParticipantKey) {
        self.fail(|pending| (pending.to == key).then_some(builtin::RECIPIENT_DISCONNECTED));
    }

    /// Time passes; called about once a second, so deadlines are kept to a second.
    pub(super) fn handle_tick(&mut self, now: Instant) {
        self.fail(|pending| {
            if pending.ack_by.is_some_and(|by| now >= by) {
                Some(builtin::CONNECTION_TIMEOUT)
            } else if now >= pending.answer_by || pending.reply.is_closed() {
                Some(builtin::RESPONSE_TIMEOUT)
            } else {
                None
            }
        });
    }
}

impl Room {
    /// Calls a method. The outcome goes to `reply`, whatever it is.
    ///
    /// # Errors
    /// [`AdminError::NoParticipant`]
    pub fn perform_rpc(
        &mut self,
        request: PerformRpcRequest,
        reply: Reply,
        turn: &mut Turn<'_>,
    ) -> Result<(), AdminError> {
        let key = self.key_of(&request.destination_identity)?;
        let connected = self.participants.get(&key).is_some_and(|p| p.primary().1);
        let refusal = if request.payload.len() > PAYLOAD_BYTES_MAX || request.method.len() > PAYLOAD_BYTES_MAX
        {
            Some(builtin::REQUEST_TOO_LARGE)
        } else if self.admin.rpcs.pending.len() >= CALLS_MAX {
            Some(builtin::TOO_MANY)
        } else if !connected {
            Some(builtin::SEND_FAILED)
        } else {
            None
        };
        if let Some(code) = refusal {
            let _ = reply.send(Err(RpcFailure::builtin(code)));
            return Ok(());
        }
        let patience = match request.response_timeout_ms {
            0 => ANSWER_BY,
            ms => Duration::from_millis(ms.into()).min(ANSWER_BY_MAX),
        };
        let id = turn.mint.word(22);
        let call = RpcRequest {
            id: id.clone(),
            method: request.method,
            payload: request.payload,
            response_timeout_ms: patience.as_millis() as u32,
            version: VERSION,
            ..RpcRequest::default()
        };
        let packet = DataPacket {
            destination_identities: vec![request.destination_identity],
            value: Some(data_packet::Value::RpcRequest(call)),
            ..DataPacket::default()
        };
        self.send_packet(&packet, DataChannel::Reliable, |p| p.key == key, turn);
        let ack_by = Some(turn.now + ACK_BY.min(patience));
        let pending = Pending { id, to: key, ack_by, answer_by: turn.now + patience, reply };
        self.admin.rpcs.pending.push(pending);
        Ok(())
    }

    /// Takes a data packet that answers one of the server's calls; false when it does not.
    pub(super) fn take_rpc_answer(&mut self, transport: TransportId, payload: &[u8]) -> bool {
        if self.admin.rpcs.pending.is_empty() {
            return false;
        }
        let Some(from) = self.by_transport.get(&transport).copied() else { return false };
        let value = DataPacket::decode(payload).ok().and_then(|packet| packet.value);
        let rpcs = &mut self.admin.rpcs;
        match value {
            Some(data_packet::Value::RpcAck(ack)) => {
                let found = rpcs.pending.iter_mut().find(|p| p.to == from && p.id == ack.request_id);
                let Some(pending) = found else { return false };
                pending.ack_by = None;
                true
            }
            Some(data_packet::Value::RpcResponse(response)) => {
                let index = rpcs.pending.iter().position(|p| p.to == from && p.id == response.request_id);
                let Some(index) = index else { return false };
                let outcome = match response.value {
                    Some(rpc_response::Value::Payload(payload)) => Ok(payload),
                    Some(rpc_response::Value::Error(error)) => {
                        Err(RpcFailure { code: error.code, message: error.message, data: error.data })
                    }
                    // The version asked for has no compressed payloads.
                    Some(rpc_response::Value::CompressedPayload(_)) => {
                        Err(RpcFailure::builtin(builtin::UNSUPPORTED_VERSION))
                    }
                    None => Ok(String::new()),
                };
                rpcs.finish(index, outcome);
                true
            }
            _ => false,
        }
    }
}
