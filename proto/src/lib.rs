//! What control and the data plane say to each other, as plain values.
//!
//! Control mints every identifier and every SSRC, and sends complete, versioned specifications; a shard applies them and
//! acknowledges the version. Nothing here knows LiveKit's messages, a socket or a clock.
#![forbid(unsafe_code)]

pub mod codec;
pub mod command;
pub mod event;
pub mod id;
pub mod spec;

pub use codec::{Codec, Encoding, H264Profile};
pub use command::{Command, Intent};
pub use event::{CloseReason, Event, Level, TransportStats};
pub use id::{RoomId, SectionIndex, ShardId, TrackId, TransportId};
pub use spec::{
    Candidate, DataChannel, DataChannels, DtlsRole, ExtensionId, ExtensionMap, ExtensionUri, Fingerprint,
    IceCredentials, MediaKind, Mid, PayloadMap, PeerKeys, Protocol, ReceiveSection, Rid, SendSection,
    TransportSpec,
};
