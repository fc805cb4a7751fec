//! The complete description of one transport, as negotiated by control. A shard never negotiates: it diffs two of these.

use std::net::SocketAddr;

use crate::codec::Codec;
use crate::id::{RoomId, TrackId, TransportId};

/// ICE user name fragment and password (RFC 8839 §5.4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IceCredentials {
    pub ufrag: String,
    pub pwd: String,
}

/// SHA-256 of the peer's DER certificate, as signalled in `a=fingerprint` (RFC 8122). Other hashes are refused by control.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint(pub [u8; 32]);

/// The keys a peer's certificate may have (docs/adr/0010). An offer does not say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PeerKeys {
    /// ECDSA: browsers and SDKs.
    #[default]
    Ecdsa,
    /// RSA besides, and curves browsers do not use: encoders that publish by WHIP.
    Any,
}

/// Which side starts the DTLS handshake. AuraLink answers `setup:passive` and serves where it has the choice (docs/adr/0001).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DtlsRole {
    Server,
    Client,
}

/// What carries datagrams to an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Udp,
    /// The client connects (RFC 6544, `tcptype passive`).
    Tcp,
}

/// An address the node can be reached at. Components are always 1 (rtcp-mux).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    pub address: SocketAddr,
    pub protocol: Protocol,
}

impl Candidate {
    pub const fn udp(address: SocketAddr) -> Self {
        Self { address, protocol: Protocol::Udp }
    }

    pub const fn tcp(address: SocketAddr) -> Self {
        Self { address, protocol: Protocol::Tcp }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MediaKind {
    Audio,
    Video,
}

/// A short token of SDP held inline: mids and rids are compared on the packet path and must not allocate.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token<const N: usize> {
    len: u8,
    bytes: [u8; N],
}

impl<const N: usize> Token<N> {
    /// `None` when the token is empty or longer than `N` bytes.
    pub fn new(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; N];
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        (!text.is_empty()).then_some(Self { len: text.len() as u8, bytes })
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or("")
    }
}

impl<const N: usize> std::fmt::Debug for Token<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Media identification tag (RFC 9143). 16 bytes is what one one-byte header extension element can carry.
pub type Mid = Token<16>;
/// RTP stream identifier (RFC 8852).
pub type Rid = Token<16>;

/// The header extensions AuraLink understands. Anything else is not negotiated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ExtensionUri {
    /// `urn:ietf:params:rtp-hdrext:sdes:mid` (RFC 9143 §15)
    Mid,
    /// `urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id` (RFC 8852)
    Rid,
    /// `urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id` (RFC 8852)
    RepairedRid,
    /// `urn:ietf:params:rtp-hdrext:ssrc-audio-level` (RFC 6464)
    AudioLevel,
    /// `http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01`
    TransportCc,
    /// `http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time`
    AbsSendTime,
    /// `https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension`
    DependencyDescriptor,
    /// `http://www.webrtc.org/experiments/rtp-hdrext/playout-delay`
    PlayoutDelay,
    /// `http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time`
    AbsCaptureTime,
}

impl ExtensionUri {
    pub const ALL: [Self; 9] = [
        Self::Mid,
        Self::Rid,
        Self::RepairedRid,
        Self::AudioLevel,
        Self::TransportCc,
        Self::AbsSendTime,
        Self::DependencyDescriptor,
        Self::PlayoutDelay,
        Self::AbsCaptureTime,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mid => "urn:ietf:params:rtp-hdrext:sdes:mid",
            Self::Rid => "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id",
            Self::RepairedRid => "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id",
            Self::AudioLevel => "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
            Self::TransportCc => "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
            Self::AbsSendTime => "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
            Self::DependencyDescriptor => {
                "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"
            }
            Self::PlayoutDelay => "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
            Self::AbsCaptureTime => "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time",
        }
    }
}

/// Identifier of a header extension element: 1 to 14, and for the dependency descriptor, which may need the two-byte form,
/// any other too (RFC 8285 §4.2, §4.3).
pub type ExtensionId = u8;

/// Negotiated extension identifiers of one section, both ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExtensionMap {
    ids: [ExtensionId; ExtensionUri::ALL.len()],
}

impl ExtensionMap {
    pub fn set(&mut self, uri: ExtensionUri, id: ExtensionId) {
        self.ids[uri as usize] = id;
    }

    /// The identifier negotiated for `uri`, if any.
    pub fn id(&self, uri: ExtensionUri) -> Option<ExtensionId> {
        Some(self.ids[uri as usize]).filter(|id| *id != 0)
    }

    /// What `id` means in this section, if anything.
    pub fn uri(&self, id: ExtensionId) -> Option<ExtensionUri> {
        ExtensionUri::ALL.into_iter().find(|uri| id != 0 && self.ids[*uri as usize] == id)
    }
}

/// One negotiated payload type and the retransmission payload type that repairs it (RFC 4588 `apt`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PayloadMap {
    pub pt: u8,
    pub codec: Codec,
    pub rtx_pt: Option<u8>,
    /// `a=rtcp-fb:<pt> nack`
    pub nack: bool,
    /// `a=rtcp-fb:<pt> nack pli`
    pub pli: bool,
    /// `a=rtcp-fb:<pt> transport-cc`
    pub transport_cc: bool,
}

/// An m-line on which the client sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReceiveSection {
    pub mid: Mid,
    pub kind: MediaKind,
    /// The published track that arrives here.
    pub track: TrackId,
    /// In the order of the answer; at most 32.
    pub payloads: Vec<PayloadMap>,
    /// The publisher encrypts payloads end to end: nothing behind the clear descriptor may be read or changed.
    pub encrypted: bool,
    pub extensions: ExtensionMap,
    /// Simulcast layers from the lowest to the highest resolution; empty without simulcast. At most 3.
    pub rids: Vec<Rid>,
    /// `a=ssrc` lines of the offer with their FID repair SSRC, in order; empty when the client announces none.
    pub ssrcs: Vec<(u32, Option<u32>)>,
    /// The publisher muted the track: nothing is forwarded, but the section stays.
    pub muted: bool,
}

/// An m-line on which the client receives. Its SSRCs belong to the line, not to the track that passes through it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SendSection {
    pub mid: Mid,
    pub kind: MediaKind,
    pub ssrc: u32,
    /// Set when a repair payload type was negotiated.
    pub rtx_ssrc: Option<u32>,
    /// At most 32.
    pub payloads: Vec<PayloadMap>,
    pub extensions: ExtensionMap,
    /// The track attached to this line; its shard is in the identifier.
    pub track: Option<TrackId>,
}

/// Everything a shard has to know about one transport. Complete: what is not in it is torn down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransportSpec {
    pub id: TransportId,
    /// Rises with every change; acknowledged by [`crate::Event::TransportApplied`].
    pub version: u32,
    pub room: RoomId,
    pub local_ice: IceCredentials,
    pub remote_ice: IceCredentials,
    pub remote_fingerprint: Fingerprint,
    pub remote_keys: PeerKeys,
    pub dtls_role: DtlsRole,
    /// RTCP CNAME of everything sent on this transport (RFC 7022).
    pub cname: String,
    pub receive: Vec<ReceiveSection>,
    pub send: Vec<SendSection>,
    pub data: DataChannels,
}

/// What becomes of the `m=application` section (RFC 8841).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DataChannels {
    /// There is none.
    #[default]
    Off,
    /// The client opens its channels.
    Accepted,
    /// All channels are opened from this side once the association is up: what clients with a connection of its own for
    /// receiving wait for.
    Opened,
}

/// The channels of LiveKit's clients.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DataChannel {
    /// Label `_reliable`: ordered, retransmitted.
    Reliable,
    /// Label `_lossy`: unordered, no retransmission.
    Lossy,
    /// Label `_data_track`: unordered, no retransmission, frames of data tracks.
    Track,
}

impl DataChannel {
    pub const ALL: [Self; 3] = [Self::Reliable, Self::Lossy, Self::Track];

    pub const fn label(self) -> &'static str {
        match self {
            Self::Reliable => "_reliable",
            Self::Lossy => "_lossy",
            Self::Track => "_data_track",
        }
    }
}
