//! The full, controlling agent a client runs, over the `is` crate.

use std::net::SocketAddr;
use std::time::Instant;

use is::stun::{StunMessage, StunPacket};
use is::{Candidate, IceAgent, IceAgentEvent, IceConnectionState, IceCreds, Protocol, Sha1HmacProvider};

use super::{IceCredentials, IceError, IceEvent, TUPLES_MAX};
use crate::egress::Egress;
use crate::stun;
use crate::units::Route;

/// Remote candidates a client accepts.
const REMOTE_CANDIDATES_MAX: usize = 64;

#[derive(Debug)]
struct Sha1;

impl Sha1HmacProvider for Sha1 {
    fn sha1_hmac(&self, key: &[u8], payloads: &[&[u8]]) -> [u8; 20] {
        stun::sha1_hmac(key, payloads)
    }
}

/// The agent of one peer, on one local socket.
pub(crate) struct Controlling {
    agent: IceAgent,
    created: Instant,
    local: SocketAddr,
    candidates: usize,
    validated: Vec<SocketAddr>,
    nominated: Option<Route>,
    is_disconnected: bool,
}

impl std::fmt::Debug for Controlling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controlling").field("nominated", &self.nominated).finish_non_exhaustive()
    }
}

impl Controlling {
    /// An agent on the socket bound to `local`, which is a real address, not the unspecified one. `None` when it is not.
    pub(crate) fn new(
        now: Instant,
        local: SocketAddr,
        credentials: IceCredentials,
        tie_breaker: u64,
    ) -> Option<Self> {
        let mut agent = IceAgent::with_hmac(creds(credentials), &Sha1);
        agent.set_controlling(true);
        agent.set_control_tie_breaker(tie_breaker);
        agent.add_local_candidate(Candidate::host(local, Protocol::Udp).ok()?);
        Some(Self {
            agent,
            created: now,
            local,
            candidates: 0,
            validated: Vec::new(),
            nominated: None,
            is_disconnected: false,
        })
    }

    pub(crate) fn add_remote_candidate(&mut self, candidate: SocketAddr) {
        if self.candidates < REMOTE_CANDIDATES_MAX
            && let Ok(candidate) = Candidate::host(candidate, Protocol::Udp)
        {
            self.candidates += 1;
            self.agent.add_remote_candidate(candidate);
        }
    }

    pub(crate) fn handle(
        &mut self,
        now: Instant,
        route: &Route,
        datagram: &[u8],
        egress: &mut Egress,
    ) -> Result<(), IceError> {
        let message = StunMessage::parse(datagram).map_err(|_| IceError::Malformed)?;
        if !self.agent.accepts_message(&message) {
            return Err(IceError::Integrity);
        }
        if !self.is_validated(route.remote) && self.validated.len() >= TUPLES_MAX {
            return Err(IceError::TuplesExhausted);
        }
        let packet =
            StunPacket { proto: Protocol::Udp, source: route.remote, destination: self.local, message };
        self.agent.handle_packet(now, packet);
        self.handle_timeout(now, egress);
        Ok(())
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, egress: &mut Egress) {
        self.agent.handle_timeout(now);
        while let Some(transmit) = self.agent.poll_transmit() {
            let route = Route::udp(transmit.destination, Some(self.local.ip()));
            egress.push(&route, &transmit.contents);
        }
    }

    pub(crate) fn poll_timeout(&mut self) -> Option<Instant> {
        // The agent has no time of its own until it was told one.
        Some(self.agent.poll_timeout().unwrap_or(self.created))
    }

    pub(crate) fn poll_event(&mut self) -> Option<IceEvent> {
        loop {
            match self.agent.poll_event()? {
                IceAgentEvent::DiscoveredRecv { source, .. } if !self.is_validated(source) => {
                    self.validated.push(source);
                    let route = Route::udp(source, Some(self.local.ip()));
                    return Some(IceEvent::Validated(route));
                }
                IceAgentEvent::NominatedSend { destination, .. } => {
                    let route = Route::udp(destination, Some(self.local.ip()));
                    self.nominated = Some(route);
                    return Some(IceEvent::Nominated(route));
                }
                IceAgentEvent::IceConnectionStateChange(state) => {
                    self.is_disconnected = state == IceConnectionState::Disconnected;
                }
                _ => {}
            }
        }
    }

    pub(crate) fn is_disconnected(&self) -> bool {
        self.is_disconnected
    }

    pub(crate) fn route(&self) -> Option<Route> {
        self.nominated
    }

    pub(crate) fn is_validated(&self, remote: SocketAddr) -> bool {
        self.validated.contains(&remote)
    }

    pub(crate) fn set_remote(&mut self, remote: IceCredentials) {
        self.agent.set_remote_credentials(creds(remote));
    }

    pub(crate) fn restart(&mut self, local: IceCredentials, remote: Option<IceCredentials>) {
        self.agent.ice_restart(creds(local), true);
        self.candidates = 0;
        if let Some(remote) = remote {
            self.set_remote(remote);
        }
    }
}

fn creds(credentials: IceCredentials) -> IceCreds {
    IceCreds { ufrag: credentials.ufrag, pass: credentials.pwd }
}
