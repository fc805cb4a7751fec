//! Control → shard. The mailbox never drops: a sender that finds it full waits.

use bytes::Bytes;

use crate::id::{TrackId, TransportId};
use crate::spec::{DataChannel, Mid, TransportSpec};

/// What a subscriber wants of the track on one of its lines. Latest value wins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Intent {
    /// Highest simulcast layer wanted, 0 for the lowest. Ignored for tracks with one layer.
    pub layer_max: u8,
    /// The subscriber asked for nothing at all (hidden tile, disabled track).
    pub paused: bool,
}

impl Default for Intent {
    fn default() -> Self {
        Self { layer_max: u8::MAX, paused: false }
    }
}

#[derive(Clone, Debug)]
pub enum Command {
    /// Create a transport or bring it to a newer specification.
    ApplyTransport(Box<TransportSpec>),
    /// Forget a transport: stop at once, send DTLS close_notify if connected.
    RemoveTransport(TransportId),
    /// What `transport` wants of the track attached to its line `mid`.
    SetIntent { transport: TransportId, mid: Mid, intent: Intent },
    /// Send one message on a data channel of each listed transport. Those that have not opened the channel yet are counted.
    SendData { transports: Vec<TransportId>, channel: DataChannel, payload: Bytes },
    /// Ask a local publisher for a keyframe on every layer.
    RequestKeyframe(TrackId),
    /// Answer with [`crate::Event::Stats`] for each listed transport.
    ReportStats(Vec<TransportId>),
}
