//! One signalling connection as a state machine without I/O: framing, pings, rates, silence.
//!
//! What concerns the room is handed on; what concerns the connection is settled here.

use std::time::{Duration, Instant};

use auralink_livekit::{Pong, SignalRequest, SignalResponse, signal_request, signal_response};

use super::wire;
use crate::rooms::join::PING_TIMEOUT_S;

/// Grace beyond the ping time-out told to clients.
const PING_GRACE: Duration = Duration::from_secs(5);
/// Frames that make no sense before the connection is closed.
const MALFORMED_MAX: u32 = 10;

/// A data frame, whole.
#[derive(Clone, Copy, Debug)]
pub enum Frame<'a> {
    Binary(&'a [u8]),
    Text(&'a str),
}

/// Why a connection is closed from this side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Too many frames that make no sense.
    Malformed,
    /// More messages than the rate allows.
    TooFast,
    /// No sign of life within the ping time-out.
    Silent,
}

/// What to do with a frame.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// Send this.
    Reply(Box<SignalResponse>),
    /// For the room.
    Forward(Box<SignalRequest>),
    /// Count it and go on.
    Malformed,
    Close(Fault),
}

/// The state machine.
#[derive(Debug)]
pub struct SignalSession {
    json: bool,
    heard: Instant,
    malformed: u32,
    /// Messages that may still come at once, and how many a second refill it.
    credit: f64,
    rate: f64,
    refilled: Instant,
}

impl SignalSession {
    /// `rate_max` in messages per second; twice as many may come in a burst.
    pub fn new(rate_max: u32, now: Instant) -> Self {
        let rate = f64::from(rate_max.max(1));
        Self { json: false, heard: now, malformed: 0, credit: rate * 2.0, rate, refilled: now }
    }

    /// Whether the client speaks JSON.
    pub fn speaks_json(&self) -> bool {
        self.json
    }

    /// Something arrived that carries no message, such as a WebSocket pong.
    pub fn handle_sign_of_life(&mut self, now: Instant) {
        self.heard = now;
    }

    /// How long ago the client was last heard.
    pub fn quiet_for(&self, now: Instant) -> Duration {
        now.duration_since(self.heard)
    }

    /// A data frame arrived; `unix_ms` goes into pongs.
    pub fn handle_frame(&mut self, frame: Frame<'_>, now: Instant, unix_ms: i64) -> Step {
        self.heard = now;
        let elapsed = now.duration_since(self.refilled).as_secs_f64();
        self.credit = (self.credit + elapsed * self.rate).min(self.rate * 2.0);
        self.refilled = now;
        if self.credit < 1.0 {
            return Step::Close(Fault::TooFast);
        }
        self.credit -= 1.0;
        let request = match frame {
            Frame::Binary(bytes) => wire::parse_binary(bytes),
            Frame::Text(text) => {
                // A client that sends text once is answered in text from then on.
                self.json = true;
                wire::parse_text(text)
            }
        };
        let Ok(request) = request else {
            self.malformed += 1;
            return if self.malformed > MALFORMED_MAX {
                Step::Close(Fault::Malformed)
            } else {
                Step::Malformed
            };
        };
        let reply = match &request.message {
            Some(signal_request::Message::Ping(_)) => signal_response::Message::Pong(unix_ms),
            Some(signal_request::Message::PingReq(ping)) => signal_response::Message::PongResp(Pong {
                last_ping_timestamp: ping.timestamp,
                timestamp: unix_ms,
            }),
            _ => return Step::Forward(Box::new(request)),
        };
        Step::Reply(Box::new(SignalResponse { message: Some(reply) }))
    }

    /// Time passes.
    pub fn handle_tick(&self, now: Instant) -> Option<Fault> {
        let patience = Duration::from_secs(PING_TIMEOUT_S as u64) + PING_GRACE;
        (self.quiet_for(now) > patience).then_some(Fault::Silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: &str = r#"{"pingReq":{"timestamp":"5"}}"#;

    #[test]
    fn pings_are_answered_here_and_in_the_clients_form() {
        let now = Instant::now();
        let mut session = SignalSession::new(10, now);
        assert!(!session.speaks_json());
        let Step::Reply(reply) = session.handle_frame(Frame::Text(PING), now, 99) else { panic!() };
        let pong = Pong { last_ping_timestamp: 5, timestamp: 99 };
        assert_eq!(reply.message, Some(signal_response::Message::PongResp(pong)));
        assert!(session.speaks_json());
    }

    #[test]
    fn ten_malformed_frames_are_forgiven() {
        let now = Instant::now();
        let mut session = SignalSession::new(100, now);
        for _ in 0..MALFORMED_MAX {
            assert_eq!(session.handle_frame(Frame::Binary(&[0xff]), now, 0), Step::Malformed);
        }
        assert_eq!(session.handle_frame(Frame::Binary(&[0xff]), now, 0), Step::Close(Fault::Malformed));
    }

    #[test]
    fn a_burst_of_twice_the_rate_passes_and_no_more() {
        let mut now = Instant::now();
        let mut session = SignalSession::new(5, now);
        for _ in 0..10 {
            assert!(matches!(session.handle_frame(Frame::Text(PING), now, 0), Step::Reply(_)));
        }
        assert_eq!(session.handle_frame(Frame::Text(PING), now, 0), Step::Close(Fault::TooFast));
        now += Duration::from_secs(1);
        assert!(matches!(session.handle_frame(Frame::Text(PING), now, 0), Step::Reply(_)));
    }

    #[test]
    fn silence_ends_the_session_and_any_sign_of_life_prevents_it() {
        let start = Instant::now();
        let mut session = SignalSession::new(5, start);
        assert_eq!(session.handle_tick(start + Duration::from_secs(20)), None);
        assert_eq!(session.handle_tick(start + Duration::from_secs(21)), Some(Fault::Silent));
        session.handle_sign_of_life(start + Duration::from_secs(15));
        assert_eq!(session.handle_tick(start + Duration::from_secs(21)), None);
    }
}
