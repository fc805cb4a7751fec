//! Shard → control. Lifecycle events have reserved room in the mailbox; levels and statistics are latest values.

use bytes::Bytes;

use crate::codec::Codec;
use crate::id::{TrackId, TransportId};
use crate::spec::DataChannel;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CloseReason {
    /// No authenticated STUN from the peer for the consent period (RFC 7675).
    ConsentExpired,
    /// DTLS failed: bad certificate, bad fingerprint, time-out or alert.
    DtlsFailed,
    /// The peer sent DTLS close_notify.
    PeerClosed,
    /// A specification could not be applied.
    SpecRefused,
    /// The node ran out of a bounded resource named in its log.
    Exhausted,
    /// A bug: the code handling this transport panicked.
    Panicked,
}

/// Smoothed loudness of one track.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Level {
    pub track: TrackId,
    /// 0.0 (silent) to 1.0 (loudest), linear.
    pub level: f32,
    pub active: bool,
}

/// Counters of one transport since it was created.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TransportStats {
    pub packets_received: u64,
    pub packets_sent: u64,
    pub bytes_received: u64,
    /// Packets resent on an RTX stream.
    pub retransmitted: u64,
    pub nacks_sent: u64,
    pub plis_sent: u64,
}

#[derive(Clone, Debug)]
pub enum Event {
    /// `version` of a transport's specification is in force; the answer may go out.
    TransportApplied {
        transport: TransportId,
        version: u32,
    },
    /// ICE and DTLS are up.
    TransportConnected {
        transport: TransportId,
    },
    /// The shard has forgotten the transport by itself.
    TransportClosed {
        transport: TransportId,
        reason: CloseReason,
    },
    /// The first authentic RTP packet of a track arrived, in this codec.
    TrackLive {
        track: TrackId,
        codec: Codec,
    },
    /// A data channel is open both ways.
    DataOpen {
        transport: TransportId,
        channel: DataChannel,
    },
    /// One whole message from the client.
    Data {
        transport: TransportId,
        channel: DataChannel,
        payload: Bytes,
    },
    /// Loudness of the room's tracks that changed, loudest first.
    Levels {
        levels: Vec<Level>,
    },
    Stats {
        transport: TransportId,
        stats: TransportStats,
    },
}
