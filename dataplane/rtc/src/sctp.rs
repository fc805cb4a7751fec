//! Data channels (RFC 8831, RFC 8832): one SCTP association over DTLS, over the `sctp-proto` crate.
//!
//! Everything a peer can make us keep is bounded: channels, a message being put together, messages waiting to be read, bytes
//! waiting to be sent. Who exceeds a bound loses the channel or the association, with a reason, and nothing else.

mod dcep;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use sctp_proto::{
    Association, AssociationHandle, Chunks, ClientConfig, DatagramEvent, Endpoint, EndpointConfig, Event,
    Payload, PayloadProtocolIdentifier, ServerConfig, StreamEvent, TransportConfig,
};

pub use dcep::Reliability;
use dcep::{Dcep, Open};

use crate::dtls::DtlsRole;

/// Largest message we send or take.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Open channels of one peer.
pub const CHANNELS_MAX: usize = 16;
/// Bytes of one channel waiting to be sent or acknowledged.
pub const BUFFERED_BYTES_MAX: usize = 1024 * 1024;
/// Largest label and protocol taken from a peer.
const LABEL_BYTES_MAX: usize = 256;
/// Bytes received and not yet read; also what we tell the peer it may send ahead.
const RECEIVE_BYTES_MAX: u32 = 256 * 1024;
/// Events waiting to be polled, and the bytes of the messages among them. While so many wait, messages stay in the association
/// and its window closes.
const EVENTS_MAX: usize = 64;
const QUEUED_BYTES_MAX: usize = 256 * 1024;
const STREAMS_MAX: u16 = 1_024;
/// SCTP packet size so that with DTLS framing a datagram stays under 1,200 bytes.
const PACKET_BYTES_MAX: u32 = 1_144;
const PACKET_OVERHEAD: u32 = 28;
/// The association knows one peer; its address does not matter, DTLS carries the packets.
const PEER: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5_000));

/// What happened on the data channels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SctpEvent {
    ChannelOpen { id: u16, label: String, ordered: bool, reliable: bool },
    Message { id: u16, binary: bool, bytes: Bytes },
    ChannelClosed { id: u16 },
    Lost,
}

/// Why a message was not sent or a channel not opened. The caller's doing, or a slow peer's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("no such open channel")]
    NotOpen,
    #[error("message is larger than one may be")]
    TooLarge,
    #[error("the peer does not read fast enough")]
    BufferFull,
    #[error("too many channels")]
    TooMany,
}

/// What was refused because of a bound, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SctpDrops {
    /// Channels opened over [`CHANNELS_MAX`].
    pub too_many_channels: u32,
    /// Channels closed for a broken or oversized open message.
    pub malformed_opens: u32,
    /// Messages on channels that were never opened, or of unknown type.
    pub stray_messages: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ChannelState {
    /// Asked for by us before the association was up.
    Wanted,
    /// Our open message is out.
    Opening,
    Open,
}

#[derive(Debug)]
struct Channel {
    id: u16,
    label: String,
    ordered: bool,
    reliability: Reliability,
    state: ChannelState,
}

/// The data channels of one peer.
pub(crate) struct Sctp {
    endpoint: Endpoint,
    association: Option<(AssociationHandle, Association)>,
    is_established: bool,
    is_lost: bool,
    channels: Vec<Channel>,
    next_id: u16,
    readable: VecDeque<u16>,
    events: VecDeque<SctpEvent>,
    /// Bytes of the messages among `events`.
    queued_bytes: usize,
    drops: SctpDrops,
    role: DtlsRole,
}

impl std::fmt::Debug for Sctp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sctp").field("channels", &self.channels).finish_non_exhaustive()
    }
}

fn transport_config() -> Arc<TransportConfig> {
    Arc::new(
        TransportConfig::default()
            .with_max_receive_buffer_size(RECEIVE_BYTES_MAX)
            .with_max_receive_message_size(MESSAGE_BYTES_MAX as u32)
            .with_max_send_message_size(MESSAGE_BYTES_MAX as u32)
            .with_max_num_inbound_streams(STREAMS_MAX)
            .with_max_num_outbound_streams(STREAMS_MAX)
            .with_max_init_retransmits(None)
            .with_max_data_retransmits(None)
            .with_rto_initial_ms(500)
            .with_rto_min_ms(200)
            .with_rto_max_ms(10_000),
    )
}

impl Sctp {
    /// Stream numbers follow the DTLS role: a client's are even, a server's odd (RFC 8832 §6).
    pub(crate) fn new(role: DtlsRole) -> Self {
        let mut config = EndpointConfig::new();
        config.max_payload_size(PACKET_BYTES_MAX - PACKET_OVERHEAD);
        let mut server = ServerConfig::new();
        server.transport = transport_config();
        Self {
            endpoint: Endpoint::new(Arc::new(config), Some(Arc::new(server))),
            association: None,
            is_established: false,
            is_lost: false,
            channels: Vec::new(),
            next_id: u16::from(role == DtlsRole::Server),
            readable: VecDeque::new(),
            events: VecDeque::new(),
            queued_bytes: 0,
            drops: SctpDrops::default(),
            role,
        }
    }

    /// DTLS is up: the DTLS client starts the association, the server waits for it.
    pub(crate) fn start(&mut self) {
        if self.role == DtlsRole::Client && self.association.is_none() {
            let mut config = ClientConfig::new();
            config.transport = transport_config();
            match self.endpoint.connect(config, PEER) {
                Ok(association) => self.association = Some(association),
                Err(error) => {
                    tracing::debug!(%error, "SCTP connect");
                    self.lose();
                }
            }
            self.endpoint.reject_new_associations();
        }
    }

    pub(crate) fn handle_packet(&mut self, now: Instant, packet: &[u8]) {
        if self.is_lost {
            return;
        }
        let packet = Bytes::copy_from_slice(packet);
        match self.endpoint.handle(now, PEER, None, None, packet) {
            Some((handle, DatagramEvent::NewAssociation(association))) => {
                // One association a peer; a second INIT must not cost memory.
                self.endpoint.reject_new_associations();
                self.association.get_or_insert((handle, association));
            }
            Some((_, DatagramEvent::AssociationEvent(event))) => {
                if let Some((_, association)) = &mut self.association {
                    association.handle_event(event);
                }
            }
            None => {}
        }
        self.follow();
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some((_, association)) = &mut self.association {
            association.handle_timeout(now);
        }
        self.follow();
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.association.as_ref().and_then(|(_, association)| association.poll_timeout())
    }

    /// Takes the next packets to be sent over DTLS.
    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<Vec<Bytes>> {
        let transmit = self.endpoint.poll_transmit();
        let transmit = transmit.or_else(|| self.association.as_mut()?.1.poll_transmit(now))?;
        match transmit.payload {
            Payload::RawEncode(packets) => Some(packets),
            Payload::PartialDecode(_) => Some(Vec::new()),
        }
    }

    pub(crate) fn poll_event(&mut self) -> Option<SctpEvent> {
        if self.events.is_empty() {
            self.read();
        }
        let event = self.events.pop_front()?;
        if let SctpEvent::Message { bytes, .. } = &event {
            self.queued_bytes -= bytes.len();
        }
        Some(event)
    }

    pub(crate) fn drops(&self) -> SctpDrops {
        self.drops
    }

    /// Opens a channel; it can be used once [`SctpEvent::ChannelOpen`] says so.
    pub(crate) fn open(
        &mut self,
        label: &str,
        ordered: bool,
        reliability: Reliability,
    ) -> Result<u16, ChannelError> {
        if self.channels.len() >= CHANNELS_MAX || self.next_id >= STREAMS_MAX {
            return Err(ChannelError::TooMany);
        }
        if label.len() > LABEL_BYTES_MAX {
            return Err(ChannelError::TooLarge);
        }
        let id = self.next_id;
        self.next_id += 2;
        let label = label.to_owned();
        self.channels.push(Channel { id, label, ordered, reliability, state: ChannelState::Wanted });
        self.open_wanted();
        Ok(id)
    }

    pub(crate) fn send(&mut self, id: u16, binary: bool, bytes: &[u8]) -> Result<(), ChannelError> {
        if !self.channels.iter().any(|channel| channel.id == id && channel.state == ChannelState::Open) {
            return Err(ChannelError::NotOpen);
        }
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(ChannelError::TooLarge);
        }
        let (_, association) = self.association.as_mut().ok_or(ChannelError::NotOpen)?;
        let mut stream = association.stream(id).map_err(|_| ChannelError::NotOpen)?;
        if stream.buffered_amount().map_err(|_| ChannelError::NotOpen)? + bytes.len() > BUFFERED_BYTES_MAX {
            return Err(ChannelError::BufferFull);
        }
        // SCTP has no empty messages: one zero byte stands for one (RFC 8831 §6.6).
        let (bytes, ppi) = match (bytes, binary) {
            ([], true) => (&[0][..], PayloadProtocolIdentifier::BinaryEmpty),
            ([], false) => (&[0][..], PayloadProtocolIdentifier::StringEmpty),
            (_, true) => (bytes, PayloadProtocolIdentifier::Binary),
            (_, false) => (bytes, PayloadProtocolIdentifier::String),
        };
        stream.write_with_ppi(bytes, ppi).map(drop).map_err(|_| ChannelError::NotOpen)
    }

    /// Bytes of a channel waiting to be sent or acknowledged.
    pub(crate) fn buffered(&mut self, id: u16) -> usize {
        let stream = self.association.as_mut().and_then(|(_, association)| association.stream(id).ok());
        stream.and_then(|stream| stream.buffered_amount().ok()).unwrap_or_default()
    }

    pub(crate) fn close_channel(&mut self, id: u16) {
        reset_stream(&mut self.association, id);
        self.forget_channel(id);
    }

    /// Moves what the association says into our state.
    fn follow(&mut self) {
        while let Some((handle, association)) = &mut self.association {
            while let Some(event) = association.poll_endpoint_event() {
                if let Some(event) = self.endpoint.handle_event(*handle, event) {
                    association.handle_event(event);
                }
            }
            let Some(event) = association.poll() else { break };
            match event {
                Event::Connected => {
                    self.is_established = true;
                    self.open_wanted();
                }
                Event::HandshakeFailed { .. } | Event::AssociationLost { .. } => self.lose(),
                Event::Stream(StreamEvent::Readable { id }) => self.note_readable(id),
                Event::Stream(StreamEvent::Opened { id }) => {
                    // The accept queue is only emptied; streams become channels by their open message.
                    while association.accept_stream().is_some() {}
                    self.note_readable(id);
                }
                Event::Stream(StreamEvent::Finished { id }) => {
                    self.read();
                    self.forget_channel(id);
                }
                _ => {}
            }
        }
        self.read();
    }

    fn note_readable(&mut self, id: u16) {
        if !self.readable.contains(&id) {
            self.readable.push_back(id);
        }
    }

    /// Reads messages while there is room for their events.
    fn read(&mut self) {
        while self.events.len() < EVENTS_MAX
            && self.queued_bytes < QUEUED_BYTES_MAX
            && let Some(&id) = self.readable.front()
        {
            let message = self
                .association
                .as_mut()
                .and_then(|(_, association)| association.stream(id).ok()?.read_sctp().ok().flatten());
            match message {
                Some(message) => self.handle_message(id, &message),
                None => {
                    self.readable.pop_front();
                }
            }
        }
    }

    fn handle_message(&mut self, id: u16, message: &Chunks) {
        let mut bytes = vec![0; message.len().min(MESSAGE_BYTES_MAX)];
        if message.read(&mut bytes).is_err() {
            self.drops.stray_messages += 1;
            return;
        }
        let binary = match message.ppi {
            PayloadProtocolIdentifier::Dcep => return self.handle_dcep(id, &bytes),
            PayloadProtocolIdentifier::Binary => true,
            PayloadProtocolIdentifier::String => false,
            PayloadProtocolIdentifier::BinaryEmpty => {
                bytes.clear();
                true
            }
            PayloadProtocolIdentifier::StringEmpty => {
                bytes.clear();
                false
            }
            PayloadProtocolIdentifier::Unknown => {
                self.drops.stray_messages += 1;
                return;
            }
        };
        let is_valid = binary || std::str::from_utf8(&bytes).is_ok();
        if is_valid && self.channels.iter().any(|channel| channel.id == id) {
            self.queued_bytes += bytes.len();
            self.events.push_back(SctpEvent::Message { id, binary, bytes: bytes.into() });
        } else {
            self.drops.stray_messages += 1;
        }
    }

    fn handle_dcep(&mut self, id: u16, bytes: &[u8]) {
        match dcep::parse(bytes, LABEL_BYTES_MAX) {
            Some(Dcep::Ack) => self.handle_ack(id),
            Some(Dcep::Open(open)) => self.handle_open(id, open),
            None => {
                self.drops.malformed_opens += 1;
                self.close_channel(id);
            }
        }
    }

    fn handle_open(&mut self, id: u16, open: Open) {
        if self.channels.iter().any(|channel| channel.id == id) {
            self.drops.stray_messages += 1;
            return;
        }
        if self.channels.len() >= CHANNELS_MAX {
            self.drops.too_many_channels += 1;
            reset_stream(&mut self.association, id);
            return;
        }
        let Open { label, ordered, reliability } = open;
        let stream = self.association.as_mut().and_then(|(_, association)| association.stream(id).ok());
        let is_acknowledged = stream.is_some_and(|mut stream| {
            let (kind, value) = reliability.params();
            stream.set_reliability_params(!ordered, kind, value).is_ok()
                && stream.write_with_ppi(&dcep::ACK, PayloadProtocolIdentifier::Dcep).is_ok()
        });
        if is_acknowledged {
            let reliable = reliability == Reliability::Reliable;
            self.events.push_back(SctpEvent::ChannelOpen { id, label: label.clone(), ordered, reliable });
            self.channels.push(Channel { id, label, ordered, reliability, state: ChannelState::Open });
        }
    }

    fn handle_ack(&mut self, id: u16) {
        let opening = |channel: &&mut Channel| channel.id == id && channel.state == ChannelState::Opening;
        let Some(channel) = self.channels.iter_mut().find(opening) else {
            self.drops.stray_messages += 1;
            return;
        };
        channel.state = ChannelState::Open;
        let stream = self.association.as_mut().and_then(|(_, association)| association.stream(id).ok());
        if let Some(mut stream) = stream {
            // Until now everything had to be ordered (RFC 8832 §6).
            let (kind, value) = channel.reliability.params();
            if let Err(error) = stream.set_reliability_params(!channel.ordered, kind, value) {
                tracing::debug!(%error, id, "data channel reliability");
            }
        }
        let reliable = channel.reliability == Reliability::Reliable;
        let (label, ordered) = (channel.label.clone(), channel.ordered);
        self.events.push_back(SctpEvent::ChannelOpen { id, label, ordered, reliable });
    }

    fn open_wanted(&mut self) {
        let Some((_, association)) = self.association.as_mut().filter(|_| self.is_established) else {
            return;
        };
        for channel in self.channels.iter_mut().filter(|channel| channel.state == ChannelState::Wanted) {
            let open = dcep::write_open(&channel.label, channel.ordered, channel.reliability);
            let sent = association
                .open_stream(channel.id, PayloadProtocolIdentifier::Binary)
                .and_then(|mut stream| stream.write_with_ppi(&open, PayloadProtocolIdentifier::Dcep));
            match sent {
                Ok(_) => channel.state = ChannelState::Opening,
                Err(error) => tracing::debug!(%error, id = channel.id, "data channel open"),
            }
        }
    }

    fn forget_channel(&mut self, id: u16) {
        if let Some(at) = self.channels.iter().position(|channel| channel.id == id) {
            self.channels.swap_remove(at);
            self.events.push_back(SctpEvent::ChannelClosed { id });
        }
        self.readable.retain(|readable| *readable != id);
    }

    /// The association is over; it does not come back under this DTLS session.
    fn lose(&mut self) {
        if !self.is_lost {
            self.is_lost = true;
            self.is_established = false;
            self.channels.clear();
            self.readable.clear();
            self.events.push_back(SctpEvent::Lost);
        }
    }
}

fn reset_stream(association: &mut Option<(AssociationHandle, Association)>, id: u16) {
    let stream = association.as_mut().and_then(|(_, association)| association.stream(id).ok());
    if let Some(mut stream) = stream
        && let Err(error) = stream.close()
    {
        tracing::debug!(%error, id, "data channel close");
    }
}

#[cfg(test)]
mod tests;
