//! One WebRTC transport: ICE, DTLS, SRTP keys and data channels behind one set of `handle_*` and `poll_*`.
//!
//! The packet path does not pass through here: once connected, media is opened and sealed with the contexts from
//! [`Peer::srtp_open`] and [`Peer::srtp_seal`]. Everything else about the peer is slow and goes through [`Peer`]. It serves
//! both sides: a server (ICE-lite, DTLS server) and a client (full ICE, DTLS client).

mod event;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use event::{PeerClose, PeerConfigError, PeerError, PeerEvent};

use crate::dtls::{Certificate, DtlsError, DtlsOutput, DtlsRole, DtlsSession, OUTPUT_LEN, PeerKeys};
use crate::egress::Egress;
use crate::ice::{Controlling, Ice, IceCredentials, IceEvent, IceMode, Lite};
use crate::sctp::{ChannelError, Reliability, Sctp, SctpDrops};
use crate::srtp::{self, SrtpOpen, SrtpSeal};
use crate::units::Route;

/// From the first authenticated check to the end of the DTLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a peer is made of. All of it comes from signalling.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    pub local_ice: IceCredentials,
    /// Unknown until the peer answered, when we offered.
    pub remote_ice: Option<IceCredentials>,
    /// SHA-256 of the peer's certificate.
    pub remote_fingerprint: [u8; 32],
    /// The keys its certificate may have.
    pub remote_keys: PeerKeys,
    pub role: DtlsRole,
    pub ice: IceMode,
    /// The address the socket is bound to. A controlling agent needs it.
    pub local_address: Option<SocketAddr>,
    /// Where a controlling agent looks for the peer.
    pub remote_candidates: Vec<SocketAddr>,
    /// Whether data channels were negotiated.
    pub data: bool,
    /// How long the peer's last check counts as consent (RFC 7675: 30 s).
    pub consent_timeout: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Connecting,
    Connected,
    Closed,
}

/// One transport.
#[derive(Debug)]
pub struct Peer {
    ice: Ice,
    dtls: DtlsSession,
    sctp: Option<Box<Sctp>>,
    srtp: Option<Box<(SrtpSeal, SrtpOpen)>>,
    role: DtlsRole,
    state: State,
    /// Where the peer's last DTLS datagram came from: the way back while nothing is nominated.
    dtls_route: Option<Route>,
    dtls_timeout: Option<Instant>,
    /// A client says nothing before there is a way to the peer.
    is_dtls_started: bool,
    /// The handshake has to be over by then; set by the first authenticated check.
    handshake_deadline: Option<Instant>,
    /// Data waits for room in the egress.
    blocked_since: Option<Instant>,
    events: VecDeque<PeerEvent>,
}

impl Peer {
    /// A transport that waits for checks, or starts to send them at the first [`Self::handle_timeout`]. `seed` breaks ties
    /// of ICE roles.
    pub fn new(
        now: Instant,
        config: PeerConfig,
        certificate: &Certificate,
        seed: u64,
    ) -> Result<Self, PeerConfigError> {
        let mut ice = match config.ice {
            IceMode::Lite => {
                let remote = config.remote_ice.clone();
                Ice::Lite(Box::new(Lite::new(now, config.local_ice, remote, config.consent_timeout)))
            }
            IceMode::Controlling => {
                let local = config.local_address.ok_or(PeerConfigError::LocalAddress)?;
                let agent = Controlling::new(now, local, config.local_ice, seed);
                Ice::Controlling(Box::new(agent.ok_or(PeerConfigError::LocalAddress)?))
            }
        };
        if let Some(remote) = config.remote_ice {
            ice.set_remote(remote);
        }
        config.remote_candidates.iter().for_each(|candidate| ice.add_remote_candidate(*candidate));
        let (role, keys) = (config.role, config.remote_keys);
        Ok(Self {
            ice,
            dtls: DtlsSession::new(now, role, keys, certificate, config.remote_fingerprint),
            sctp: config.data.then(|| Box::new(Sctp::new(config.role))),
            srtp: None,
            role: config.role,
            state: State::Connecting,
            dtls_route: None,
            dtls_timeout: None,
            is_dtls_started: config.role == DtlsRole::Server,
            handshake_deadline: None,
            blocked_since: None,
            events: VecDeque::new(),
        })
    }

    /// Takes a STUN datagram that arrived over `route`.
    pub fn handle_stun(
        &mut self,
        now: Instant,
        route: &Route,
        datagram: &[u8],
        egress: &mut Egress,
    ) -> Result<(), PeerError> {
        self.check_open()?;
        self.ice.handle(now, route, datagram, egress)?;
        self.follow_ice(now);
        self.start_dtls(now, egress)
    }

    /// Takes a DTLS datagram. Refused unless its sender's address passed a check of this peer.
    pub fn handle_dtls(
        &mut self,
        now: Instant,
        route: &Route,
        datagram: &[u8],
        egress: &mut Egress,
    ) -> Result<(), PeerError> {
        self.check_open()?;
        if !self.ice.is_validated(route) {
            return Err(PeerError::NotValidated);
        }
        self.dtls_route = Some(*route);
        let taken = self.dtls.handle_datagram(now, datagram);
        taken.and_then(|()| self.drain(now, egress)).map_err(|error| self.fail(error))
    }

    /// Does what is due. Calling early is harmless.
    pub fn handle_timeout(&mut self, now: Instant, egress: &mut Egress) {
        if self.state == State::Closed {
            return;
        }
        self.ice.handle_timeout(now, egress);
        self.follow_ice(now);
        let is_late = self.handshake_deadline.is_some_and(|deadline| now >= deadline);
        if self.ice.is_expired(now) {
            self.close_with(PeerClose::ConsentExpired);
        } else if is_late && self.state == State::Connecting {
            self.close_with(PeerClose::DtlsFailed(DtlsError::Protocol));
        }
        if self.start_dtls(now, egress).is_err() {
            return;
        }
        let step = if self.dtls_timeout.is_some_and(|at| now >= at) {
            self.dtls.handle_timeout(now)
        } else {
            Ok(())
        };
        if let Some(sctp) = &mut self.sctp {
            sctp.handle_timeout(now);
        }
        if let Err(error) = step.and_then(|()| self.drain(now, egress)) {
            self.fail(error);
        }
    }

    /// When [`Self::handle_timeout`] is wanted next; `None` once closed.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        if self.state == State::Closed {
            return None;
        }
        let sctp = self.sctp.as_ref().and_then(|sctp| sctp.poll_timeout());
        let handshake = self.handshake_deadline.filter(|_| self.state == State::Connecting);
        let times = [self.ice.poll_timeout(), self.dtls_timeout, sctp, handshake, self.blocked_since];
        times.into_iter().flatten().min()
    }

    /// What happened, oldest first. To be drained after every `handle_*`: while messages wait here the peer's window
    /// closes.
    pub fn poll_event(&mut self) -> Option<PeerEvent> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        self.sctp.as_mut()?.poll_event().map(PeerEvent::from)
    }

    /// Where to send: the pair the controlling side nominated. Its nomination may be lost or late; until it comes any valid
    /// pair may be used (RFC 8445 §12.1), and the one the peer's DTLS came over works.
    pub fn route(&self) -> Option<Route> {
        self.ice.route().or(self.dtls_route)
    }

    /// Whether what comes over `route` passed a check of this peer. DTLS, SRTP and SRTCP from elsewhere are not the peer's.
    pub fn is_validated(&self, route: &Route) -> bool {
        self.ice.is_validated(route)
    }

    /// The connection behind `route` has ended.
    pub fn forget_route(&mut self, now: Instant, route: &Route) {
        self.ice.forget(route);
        self.dtls_route = self.dtls_route.filter(|held| !held.is_to(route));
        self.follow_ice(now);
    }

    /// Whether the handshake is over and the transport not closed.
    pub fn is_connected(&self) -> bool {
        self.state == State::Connected
    }

    /// The context that opens what the peer sends, once connected.
    pub fn srtp_open(&mut self) -> Option<&mut SrtpOpen> {
        self.srtp.as_deref_mut().map(|(_, open)| open)
    }

    /// The context that seals what we send, once connected.
    pub fn srtp_seal(&mut self) -> Option<&mut SrtpSeal> {
        self.srtp.as_deref_mut().map(|(seal, _)| seal)
    }

    /// Opens a data channel; [`PeerEvent::ChannelOpen`] says when it can be used. The packets leave with the next
    /// [`Self::handle_timeout`], which [`Self::poll_timeout`] asks for.
    pub fn open_channel(
        &mut self,
        now: Instant,
        label: &str,
        ordered: bool,
        reliability: Reliability,
    ) -> Result<u16, ChannelError> {
        let sctp = self.sctp.as_mut().ok_or(ChannelError::NotOpen)?;
        self.blocked_since = Some(now);
        sctp.open(label, ordered, reliability)
    }

    /// Sends a message on an open channel. The packets leave before it returns, as far as the peer's window allows.
    pub fn send(
        &mut self,
        now: Instant,
        id: u16,
        binary: bool,
        bytes: &[u8],
        egress: &mut Egress,
    ) -> Result<(), ChannelError> {
        self.sctp.as_mut().ok_or(ChannelError::NotOpen)?.send(id, binary, bytes)?;
        self.drain(now, egress).map_err(|error| {
            self.fail(error);
            ChannelError::NotOpen
        })
    }

    /// Sends bytes as if they were an SCTP packet, past the association. Only with the feature `hostile`: for tests that show
    /// what a server survives.
    #[cfg(feature = "hostile")]
    pub fn send_as_sctp(
        &mut self,
        now: Instant,
        packet: &[u8],
        egress: &mut Egress,
    ) -> Result<(), PeerError> {
        self.check_open()?;
        let sent = self.dtls.send(now, packet);
        sent.and_then(|()| self.drain(now, egress)).map_err(|error| self.fail(error))
    }

    /// Bytes sent on a channel and not yet acknowledged by the peer.
    pub fn buffered(&mut self, id: u16) -> usize {
        self.sctp.as_mut().map(|sctp| sctp.buffered(id)).unwrap_or_default()
    }

    /// Closes one channel.
    pub fn close_channel(&mut self, now: Instant, id: u16, egress: &mut Egress) {
        if let Some(sctp) = &mut self.sctp {
            sctp.close_channel(id);
            if let Err(error) = self.drain(now, egress) {
                self.fail(error);
            }
        }
    }

    /// What the peer sent on data channels that was refused.
    pub fn drops(&self) -> SctpDrops {
        self.sctp.as_ref().map(|sctp| sctp.drops()).unwrap_or_default()
    }

    /// Credentials as described now. New ones of our own are an ICE restart.
    pub fn set_ice(&mut self, now: Instant, local: IceCredentials, remote: IceCredentials) {
        self.ice.set(now, local, remote);
    }

    /// Data channels may be used from now on, if they could not before.
    pub fn enable_data(&mut self) {
        if self.sctp.is_none() && self.state != State::Closed {
            let sctp = self.sctp.insert(Box::new(Sctp::new(self.role)));
            if self.srtp.is_some() {
                sctp.start();
            }
        }
    }

    /// Another place where a controlling agent may find the peer.
    pub fn add_remote_candidate(&mut self, candidate: SocketAddr) {
        self.ice.add_remote_candidate(candidate);
    }

    /// ICE restart: new credentials on both sides. The DTLS session, the SRTP contexts and their roll-over counters stay,
    /// and the old path carries media until a new one is nominated.
    pub fn restart_ice(&mut self, now: Instant, local: IceCredentials, remote: Option<IceCredentials>) {
        self.ice.restart(now, local, remote);
    }

    /// Says good-bye (DTLS close_notify) and closes.
    pub fn close(&mut self, now: Instant, egress: &mut Egress) {
        if self.state == State::Closed {
            return;
        }
        self.dtls.close(now);
        if let Err(error) = self.drain(now, egress) {
            tracing::debug!(%error, "closing");
        }
        self.close_with(PeerClose::Local);
    }

    fn check_open(&self) -> Result<(), PeerError> {
        if self.state == State::Closed { Err(PeerError::Closed) } else { Ok(()) }
    }

    fn follow_ice(&mut self, now: Instant) {
        while let Some(event) = self.ice.poll_event() {
            self.events.push_back(match event {
                IceEvent::Validated(route) => {
                    self.handshake_deadline.get_or_insert(now + HANDSHAKE_TIMEOUT);
                    PeerEvent::Validated(route)
                }
                IceEvent::Evicted(route) => PeerEvent::Evicted(route),
                IceEvent::Nominated(route) => PeerEvent::Nominated(route),
            });
        }
    }

    /// As DTLS client, starts the handshake once there is a way to the peer.
    fn start_dtls(&mut self, now: Instant, egress: &mut Egress) -> Result<(), PeerError> {
        self.check_open()?;
        if self.is_dtls_started || self.ice.route().is_none() {
            return Ok(());
        }
        self.is_dtls_started = true;
        let started = self.dtls.handle_timeout(now);
        started.and_then(|()| self.drain(now, egress)).map_err(|error| self.fail(error))
    }

    /// Moves packets between DTLS, SCTP and the egress until nothing moves.
    fn drain(&mut self, now: Instant, egress: &mut Egress) -> Result<(), DtlsError> {
        self.blocked_since = None;
        if !self.is_dtls_started {
            return Ok(());
        }
        let mut short = [0; OUTPUT_LEN];
        let mut long = Vec::new();
        let mut packets = Vec::new().into_iter();
        loop {
            let scratch: &mut [u8] = if long.is_empty() { &mut short } else { &mut long };
            match self.dtls.poll(scratch)? {
                DtlsOutput::Datagram(datagram) => {
                    // Without room or way the datagram is lost; DTLS and SCTP repeat themselves.
                    if let Some(route) = self.route() {
                        egress.push(&route, datagram);
                    }
                }
                DtlsOutput::Connected { profile, material } => {
                    let contexts = srtp::contexts(profile, &material, self.role.into());
                    self.srtp = Some(Box::new(contexts.map_err(|_| DtlsError::Profile)?));
                    self.state = State::Connected;
                    self.events.push_back(PeerEvent::Connected { profile });
                    if let Some(sctp) = &mut self.sctp {
                        sctp.start();
                    }
                }
                DtlsOutput::Data(data) => {
                    if let Some(sctp) = &mut self.sctp {
                        sctp.handle_packet(now, data);
                    }
                }
                DtlsOutput::Closed => {
                    self.close_with(PeerClose::PeerClosed);
                    return Ok(());
                }
                DtlsOutput::Again => {}
                DtlsOutput::NeedsRoom(needed) => long.resize(needed, 0),
                DtlsOutput::Idle(at) => {
                    self.dtls_timeout = at;
                    let Some(packet) = self.next_packet(now, &mut packets, egress) else { return Ok(()) };
                    self.dtls.send(now, &packet)?;
                }
            }
        }
    }

    /// The next SCTP packet to be sent, if DTLS is up and there is room for it.
    fn next_packet(
        &mut self,
        now: Instant,
        packets: &mut std::vec::IntoIter<Bytes>,
        egress: &Egress,
    ) -> Option<Bytes> {
        if self.state != State::Connected {
            return None;
        }
        loop {
            if let Some(packet) = packets.next() {
                return Some(packet);
            }
            if !egress.has_room() {
                self.blocked_since = Some(now);
                return None;
            }
            *packets = self.sctp.as_mut()?.poll_transmit(now)?.into_iter();
        }
    }

    fn fail(&mut self, error: DtlsError) -> PeerError {
        self.close_with(PeerClose::DtlsFailed(error));
        PeerError::Dtls(error)
    }

    /// Closes for good: keys are gone, nothing is taken or sent any more.
    fn close_with(&mut self, reason: PeerClose) {
        if self.state != State::Closed {
            self.state = State::Closed;
            self.srtp = None;
            // What the peer sent before it left still counts; it is bounded by the window it had.
            if let Some(mut sctp) = self.sctp.take() {
                self.events.extend(std::iter::from_fn(|| sctp.poll_event()).map(PeerEvent::from));
            }
            self.events.push_back(PeerEvent::Closed(reason));
        }
    }
}

#[cfg(test)]
mod tests;
