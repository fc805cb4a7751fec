//! One native client of any LiveKit-compatible server: signalling, one peer connection over a real UDP socket, what it
//! publishes and what it receives. Runs only inside [`Client::run_until`], so a caller can stop it, look, and go on.

mod feedback;
mod media;
pub(crate) mod negotiate;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use auralink_livekit::signal_request::Message as Request;
use auralink_livekit::signal_response::Message as Response;
use auralink_livekit::{
    DisconnectReason, LeaveRequest, ParticipantInfo, Ping, SessionDescription, participant_info,
};
use auralink_rtc::dtls::Certificate;
use auralink_rtc::egress::Egress;
use auralink_rtc::peer::{Peer, PeerEvent};
use auralink_rtc::sctp::Reliability;
use auralink_rtc::twcc::TwccRecorder;
use tokio::net::UdpSocket;

use crate::publish::{Published, Publisher};
use crate::receive::{Line, Packet};
use crate::recording::Recording;
use crate::sdp::{Answer, Offer};
use crate::signal::Signal;

/// From the WebSocket's opening to the end of the DTLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Between looks at what to ask the server for.
const FEEDBACK_INTERVAL: Duration = Duration::from_millis(20);
/// Of every socket: keyframes of several hundred publishers fit; what the kernel does not use costs nothing.
pub(crate) const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// Packets on SSRCs the answer has not named yet.
const EARLY_MAX: usize = 2_048;
/// Data messages received and not yet read by the caller.
const MESSAGES_MAX: usize = 10_000;

/// What a client is to do.
#[derive(Clone, Debug)]
pub(crate) struct JoinOptions {
    pub(crate) url: String,
    pub(crate) token: String,
    /// Layers of video: 0 publishes nothing, 1 one stream without rid, 3 simulcast.
    pub(crate) layers: usize,
    pub(crate) subscribes: bool,
}

/// A remote track as signalling describes it.
#[derive(Clone, Debug)]
pub(crate) struct RemoteTrack {
    pub(crate) identity: String,
    pub(crate) is_recording: bool,
    /// Unpublished, muted, or its publisher left.
    pub(crate) is_gone: bool,
}

/// Counters of the transport itself.
#[derive(Clone, Copy, Default, Debug, serde::Serialize)]
pub(crate) struct TransportCounters {
    pub(crate) datagrams_received: u64,
    /// Packets that did not open under our keys.
    pub(crate) decrypt_failures: u64,
    /// Packets whose number had been opened before.
    pub(crate) duplicates: u64,
    /// Packets on an SSRC no answer named.
    pub(crate) strays: u64,
    pub(crate) malformed: u64,
    pub(crate) nacks_sent: u64,
    pub(crate) plis_sent: u64,
}

/// A joined client.
pub(crate) struct Client {
    pub(crate) identity: String,
    pub(crate) signal: Signal,
    pub(crate) peer: Peer,
    pub(crate) socket: UdpSocket,
    pub(crate) server: SocketAddr,
    pub(crate) server_ice: auralink_rtc::ice::IceCredentials,
    pub(crate) offer: Offer,
    is_offer_pending: bool,
    is_offer_wanted: bool,
    /// When the WebSocket was opened.
    opened: Instant,
    /// Milliseconds from there to the end of the handshake.
    pub(crate) connected_ms: Option<u64>,
    local: SocketAddr,
    egress: Egress,
    publisher: Option<Publisher>,
    recording: Arc<Recording>,
    tracks: HashMap<String, RemoteTrack>,
    pub(crate) participants: HashMap<String, ParticipantInfo>,
    /// By media SSRC.
    lines: BTreeMap<u32, Line>,
    /// Repair SSRC → media SSRC.
    repairs: BTreeMap<u32, u32>,
    /// Media SSRC → track now on it.
    on_line: BTreeMap<u32, String>,
    early: Vec<(u32, Packet)>,
    twcc: TwccRecorder,
    next_feedback: Instant,
    next_report: Instant,
    next_ping: Instant,
    channels: HashMap<String, u16>,
    pub(crate) messages: Vec<Vec<u8>>,
    pub(crate) counters: TransportCounters,
    sealed: Vec<Vec<u8>>,
    /// The last sealed packets, for tests that send them again.
    pub(crate) sent: std::collections::VecDeque<Vec<u8>>,
    pub(crate) closed: Option<String>,
}

impl Client {
    /// Whether everything negotiated so far is connected.
    pub(crate) fn is_connected(&self) -> bool {
        self.peer.is_connected()
    }

    /// Waits for the handshake.
    ///
    /// # Errors
    /// When it does not happen in time.
    pub(crate) async fn connect(&mut self) -> Result<()> {
        let deadline = self.opened + CONNECT_TIMEOUT;
        while !self.is_connected() {
            if Instant::now() >= deadline || self.closed.is_some() {
                bail!("{}: no connection within {CONNECT_TIMEOUT:?}: {:?}", self.identity, self.closed);
            }
            self.run_until(Instant::now() + Duration::from_millis(5)).await?;
        }
        Ok(())
    }

    /// Lives until `deadline`, or until the connection ends, which [`Self::closed`] then tells.
    ///
    /// # Errors
    /// When the server breaks the protocol or a socket fails.
    pub(crate) async fn run_until(&mut self, deadline: Instant) -> Result<()> {
        let mut datagram = vec![0; 2_048];
        loop {
            let now = Instant::now();
            self.handle_due(now).await?;
            self.flush().await;
            if now >= deadline || self.closed.is_some() {
                return Ok(());
            }
            let due = self.next_due(now).min(deadline);
            tokio::select! {
                message = self.signal.next() => self.handle_signal(message?).await?,
                received = self.socket.recv_from(&mut datagram) => {
                    self.handle_received(received, &mut datagram);
                }
                () = tokio::time::sleep_until(due.into()) => {}
            }
        }
    }

    /// Leaves as a client does: says so, closes.
    pub(crate) async fn leave(mut self) -> Result<()> {
        let reason = DisconnectReason::ClientInitiated.into();
        self.signal.send(Request::Leave(LeaveRequest { reason, ..Default::default() })).await?;
        self.peer.close(Instant::now(), &mut self.egress);
        self.flush().await;
        Ok(())
    }

    /// What it has published.
    pub(crate) fn published(&self) -> Published {
        self.publisher.as_ref().map(|publisher| publisher.counters).unwrap_or_default()
    }

    /// Every line that carries or carried a track, with that track.
    pub(crate) fn received(&self) -> impl Iterator<Item = (&str, Option<&RemoteTrack>, &Line)> {
        self.lines.iter().filter_map(|(ssrc, line)| {
            let sid = self.on_line.get(ssrc)?;
            Some((sid.as_str(), self.tracks.get(sid), line))
        })
    }

    /// Tracks of others that should be received.
    pub(crate) fn tracks(&self) -> impl Iterator<Item = (&String, &RemoteTrack)> {
        self.tracks.iter()
    }

    /// Sends a message on `_reliable` or `_lossy`. `false` when the channel is not open or full.
    pub(crate) fn send_data(&mut self, label: &str, bytes: &[u8]) -> bool {
        let Some(id) = self.channels.get(label).copied() else { return false };
        self.peer.send(Instant::now(), id, true, bytes, &mut self.egress).is_ok()
    }

    /// Sends bytes as an SCTP packet inside of the session, past the association.
    pub(crate) fn send_as_sctp(&mut self, packet: &[u8]) -> bool {
        self.peer.send_as_sctp(Instant::now(), packet, &mut self.egress).is_ok()
    }

    fn next_due(&mut self, now: Instant) -> Instant {
        let is_connected = self.is_connected();
        let media = self.publisher.as_ref().filter(|_| is_connected).and_then(Publisher::next_due);
        let feedback = is_connected.then_some(self.next_feedback);
        let peer = self.peer.poll_timeout();
        [media, feedback, peer, Some(self.next_ping)].into_iter().flatten().min().unwrap_or(now)
    }

    async fn handle_due(&mut self, now: Instant) -> Result<()> {
        self.peer.handle_timeout(now, &mut self.egress);
        self.follow_peer(now);
        if let (Some(publisher), Some(seal)) = (&mut self.publisher, self.peer.srtp_seal()) {
            publisher.poll(now, seal, &mut self.sealed);
        }
        if now >= self.next_feedback && self.is_connected() {
            self.next_feedback = now + FEEDBACK_INTERVAL;
            self.send_feedback(now);
        }
        if now >= self.next_ping {
            self.next_ping = now + Duration::from_secs(5);
            let timestamp = self.opened.elapsed().as_millis() as i64;
            self.signal.send(Request::PingReq(Ping { timestamp, rtt: 0 })).await?;
        }
        Ok(())
    }

    fn follow_peer(&mut self, now: Instant) {
        while let Some(event) = self.peer.poll_event() {
            match event {
                PeerEvent::Connected { .. } => {
                    self.connected_ms = Some((now - self.opened).as_millis() as u64);
                    for (label, ordered, reliability) in [
                        ("_reliable", true, Reliability::Reliable),
                        ("_lossy", false, Reliability::Retransmits(0)),
                    ] {
                        // Refused only over the channel limit.
                        let _ = self.peer.open_channel(now, label, ordered, reliability);
                    }
                }
                PeerEvent::ChannelOpen { id, label, .. } => {
                    self.channels.insert(label, id);
                }
                PeerEvent::Message { bytes, .. } if self.messages.len() < MESSAGES_MAX => {
                    self.messages.push(bytes.to_vec());
                }
                PeerEvent::Closed(reason) => self.closed = Some(format!("{reason:?}")),
                _ => {}
            }
        }
    }

    /// Sends everything that waits.
    pub(crate) async fn flush(&mut self) {
        // A datagram the socket does not take is lost, as on any network.
        for train in self.egress.drain().collect::<Vec<_>>() {
            for datagram in train.datagrams() {
                let _ = self.socket.send_to(datagram, train.route.remote).await;
            }
            self.egress.give_back(train.buffer);
        }
        let to = self.peer.route().map_or(self.server, |route| route.remote);
        for bytes in std::mem::take(&mut self.sealed) {
            let _ = self.socket.send_to(&bytes, to).await;
            if self.sent.len() == 64 {
                self.sent.pop_front();
            }
            self.sent.push_back(bytes);
        }
    }

    async fn handle_signal(&mut self, message: Option<Response>) -> Result<()> {
        match message {
            None => self.closed = Some("the server closed the signalling connection".into()),
            Some(Response::Leave(leave)) => self.closed = Some(format!("leave: {:?}", leave.reason())),
            Some(Response::Answer(answer)) => self.handle_answer(answer).await?,
            Some(Response::MediaSectionsRequirement(needed)) => {
                self.add_sections(needed.num_audios, needed.num_videos);
                self.is_offer_wanted = true;
                self.offer_if_wanted().await?;
            }
            Some(Response::Update(update)) => self.note_participants(update.participants),
            _ => {}
        }
        Ok(())
    }

    fn note_participants(&mut self, participants: Vec<ParticipantInfo>) {
        for participant in participants {
            if participant.identity == self.identity {
                continue;
            }
            let has_left = participant.state() == participant_info::State::Disconnected;
            for (_, track) in self.tracks.iter_mut().filter(|(_, t)| t.identity == participant.identity) {
                track.is_gone = true;
            }
            for track in &participant.tracks {
                let is_recording = track.name.starts_with(negotiate::RECORDING_NAME);
                let identity = participant.identity.clone();
                let remote = RemoteTrack { identity, is_recording, is_gone: has_left || track.muted };
                self.tracks.insert(track.sid.clone(), remote);
            }
            self.participants.insert(participant.identity.clone(), participant);
        }
        self.name_lines();
    }
}

/// What every client of a run shares.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) certificate: Certificate,
    pub(crate) recording: Arc<Recording>,
}

impl Shared {
    pub(crate) fn new() -> Result<Self> {
        let certificate = Certificate::generate().context("cannot make a certificate")?;
        Ok(Self { certificate, recording: Arc::new(Recording::load()?) })
    }
}

/// What the first answer said, before there is a client.
pub(crate) struct Joined {
    pub(crate) signal: Signal,
    pub(crate) answer: Answer,
    pub(crate) first: SessionDescription,
}
