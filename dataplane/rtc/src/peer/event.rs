//! What a peer reports, and why it refuses or ends.

use bytes::Bytes;

use crate::dtls::DtlsError;
use crate::ice::IceError;
use crate::sctp::SctpEvent;
use crate::srtp::Profile;
use crate::units::Route;

/// What happened on a transport.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerEvent {
    /// What is at this end of the route passed a check and is the peer's. At most eight hold at a time.
    Validated(Route),
    /// It is the peer's no longer: a newer one took its place, or its connection ended.
    Evicted(Route),
    /// The peer is to be sent to over this route from now on.
    Nominated(Route),
    /// The handshake is over, the peer is who signalling said, media can be opened and sealed.
    Connected {
        profile: Profile,
    },
    /// A channel can be used; whoever opened it.
    ChannelOpen {
        id: u16,
        label: String,
        ordered: bool,
        reliable: bool,
    },
    /// A whole message.
    Message {
        id: u16,
        binary: bool,
        bytes: Bytes,
    },
    ChannelClosed {
        id: u16,
    },
    /// All data channels are gone and do not come back; media goes on.
    DataLost,
    /// The transport is over. Always the last event but those of data channels before it.
    Closed(PeerClose),
}

impl From<SctpEvent> for PeerEvent {
    fn from(event: SctpEvent) -> Self {
        match event {
            SctpEvent::ChannelOpen { id, label, ordered, reliable } => {
                Self::ChannelOpen { id, label, ordered, reliable }
            }
            SctpEvent::Message { id, binary, bytes } => Self::Message { id, binary, bytes },
            SctpEvent::ChannelClosed { id } => Self::ChannelClosed { id },
            SctpEvent::Lost => Self::DataLost,
        }
    }
}

/// Why a transport ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PeerClose {
    /// No check for the time consent lasts: the peer or its network is gone.
    ConsentExpired,
    /// No handshake, or not with the certificate that was signalled.
    DtlsFailed(DtlsError),
    /// The peer said good-bye.
    PeerClosed,
    /// We said good-bye.
    Local,
}

/// Why a datagram was refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum PeerError {
    #[error(transparent)]
    Ice(#[from] IceError),
    #[error("the sender's address did not pass a check")]
    NotValidated,
    /// The transport is closed by it.
    #[error(transparent)]
    Dtls(#[from] DtlsError),
    #[error("the transport is closed")]
    Closed,
}

/// What makes a configuration unusable. The caller's doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerConfigError {
    #[error("a controlling agent needs the address of its socket")]
    LocalAddress,
}
