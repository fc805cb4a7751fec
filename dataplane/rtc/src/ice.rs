//! ICE (RFC 8445): which address tuples of a peer are proven to be its, and to which of them we send.
//!
//! A server is ICE-lite: it only answers checks, so that side is a small state machine of our own that stays bounded whatever a
//! peer sends. A client runs the full controlling agent of the `is` crate.

mod controlling;
mod lite;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub(crate) use controlling::Controlling;
pub(crate) use lite::Lite;

use crate::egress::Egress;
use crate::units::Route;

/// Most address tuples of one peer that are believed at a time.
pub const TUPLES_MAX: usize = 8;

/// User fragment and password of one side (RFC 8839 §5.4).
#[derive(Clone, PartialEq, Eq)]
pub struct IceCredentials {
    pub ufrag: String,
    pub pwd: String,
}

impl std::fmt::Debug for IceCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IceCredentials").field("ufrag", &self.ufrag).finish_non_exhaustive()
    }
}

/// Which part of ICE we play.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IceMode {
    /// Answers checks, never sends any (a server on a public address).
    Lite,
    /// Checks every pair and chooses one (a client).
    Controlling,
}

/// Why a STUN datagram was not acted on. All of it is the sender's doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum IceError {
    #[error("not a well-formed binding message")]
    Malformed,
    #[error("not a message we expect in our role")]
    Unexpected,
    #[error("user fragments are not of this session")]
    UnknownUfrag,
    #[error("MESSAGE-INTEGRITY does not match")]
    Integrity,
    #[error("a check seen before, now from another address")]
    Replayed,
    #[error("peer checks from more addresses than it may")]
    TuplesExhausted,
}

/// What happened to a peer's tuples.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum IceEvent {
    Validated(Route),
    /// A tuple made place for a newer one, or its connection ended.
    Evicted(Route),
    Nominated(Route),
}

#[derive(Debug)]
pub(crate) enum Ice {
    Lite(Box<Lite>),
    Controlling(Box<Controlling>),
}

impl Ice {
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        route: &Route,
        datagram: &[u8],
        egress: &mut Egress,
    ) -> Result<(), IceError> {
        match self {
            Self::Lite(lite) => lite.handle(now, route, datagram, egress),
            Self::Controlling(agent) => agent.handle(now, route, datagram, egress),
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, egress: &mut Egress) {
        if let Self::Controlling(agent) = self {
            agent.handle_timeout(now, egress);
        }
    }

    pub(crate) fn poll_timeout(&mut self) -> Option<Instant> {
        match self {
            Self::Lite(lite) => Some(lite.consent_expiry()),
            Self::Controlling(agent) => agent.poll_timeout(),
        }
    }

    pub(crate) fn poll_event(&mut self) -> Option<IceEvent> {
        match self {
            Self::Lite(lite) => lite.poll_event(),
            Self::Controlling(agent) => agent.poll_event(),
        }
    }

    /// Whether the peer's consent to receive has run out (RFC 7675).
    pub(crate) fn is_expired(&self, now: Instant) -> bool {
        match self {
            Self::Lite(lite) => now >= lite.consent_expiry(),
            Self::Controlling(agent) => agent.is_disconnected(),
        }
    }

    pub(crate) fn route(&self) -> Option<Route> {
        match self {
            Self::Lite(lite) => lite.route(),
            Self::Controlling(agent) => agent.route(),
        }
    }

    pub(crate) fn is_validated(&self, route: &Route) -> bool {
        match self {
            Self::Lite(lite) => lite.is_validated(route),
            Self::Controlling(agent) => agent.is_validated(route.remote),
        }
    }

    /// The connection of a tuple has ended.
    pub(crate) fn forget(&mut self, route: &Route) {
        if let Self::Lite(lite) = self {
            lite.forget(route);
        }
    }

    pub(crate) fn set(&mut self, now: Instant, local: IceCredentials, remote: IceCredentials) {
        match self {
            Self::Lite(lite) if *lite.local() != local => lite.restart(now, local, Some(remote)),
            _ => self.set_remote(remote),
        }
    }

    pub(crate) fn set_remote(&mut self, remote: IceCredentials) {
        match self {
            Self::Lite(lite) => lite.set_remote(remote),
            Self::Controlling(agent) => agent.set_remote(remote),
        }
    }

    pub(crate) fn restart(&mut self, now: Instant, local: IceCredentials, remote: Option<IceCredentials>) {
        match self {
            Self::Lite(lite) => lite.restart(now, local, remote),
            Self::Controlling(agent) => agent.restart(local, remote),
        }
    }

    pub(crate) fn add_remote_candidate(&mut self, candidate: SocketAddr) {
        if let Self::Controlling(agent) = self {
            agent.add_remote_candidate(candidate);
        }
    }
}

/// Consent to send lasts this long after the last check, unless configured (RFC 7675 §5.1).
pub const CONSENT_TIMEOUT: Duration = Duration::from_secs(30);
