//! DTLS 1.2 (RFC 6347) with DTLS-SRTP (RFC 5764), both roles.
//!
//! Version 1.2 on purpose: there the server picks AEAD_AES_GCM; under 1.3 the client's order counts, and browsers list GCM
//! last. No cookie exchange: ICE has proven the peer's address before DTLS is listened to. The peer's certificate is compared
//! with the signalled fingerprint before anything derived from the handshake leaves this module.
//!
//! Two libraries, for no one takes every peer (docs/adr/0010): [`ecdsa`] for browsers and SDKs, [`any`] for encoders with RSA.

mod any;
mod ecdsa;
mod intake;
mod p224;

use std::time::{Duration, Instant};

use aws_lc_rs::digest;

use crate::srtp::{Profile, Side};

/// Largest handshake datagram we send.
const MTU: usize = 1_150;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// Scratch space that is enough for every output but a long certificate or record.
pub(crate) const OUTPUT_LEN: usize = 2_048;

/// Our role in the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DtlsRole {
    /// `a=setup:active`.
    Client,
    /// `a=setup:passive`.
    Server,
}

impl From<DtlsRole> for Side {
    fn from(role: DtlsRole) -> Self {
        match role {
            DtlsRole::Client => Self::DtlsClient,
            DtlsRole::Server => Self::DtlsServer,
        }
    }
}

/// The keys a peer's certificate may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PeerKeys {
    /// ECDSA on P-256 or P-384: browsers, SDKs.
    #[default]
    Ecdsa,
    /// RSA and P-224 besides: GStreamer, FFmpeg.
    Any,
}

/// A node's certificate with its key, made once and lent to every peer.
#[derive(Clone, Debug)]
pub struct Certificate {
    ecdsa: ecdsa::Identity,
    any: any::Identity,
}

/// The crypto library made no certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the crypto library could not make a certificate")]
pub struct CertificateError;

impl Certificate {
    /// Makes an ECDSA P-256 key and a self-signed certificate for it. Slow (milliseconds) and random: once per node.
    pub fn generate() -> Result<Self, CertificateError> {
        Self::build(None)
    }

    /// The same for the simulator: back-off jitter and handshake randoms come from `seed`, so that a run can be repeated.
    /// Sessions made with it are predictable; keys of the certificate and of the key exchange are not.
    pub fn generate_for_simulation(seed: u64) -> Result<Self, CertificateError> {
        Self::build(Some(seed))
    }

    fn build(seed: Option<u64>) -> Result<Self, CertificateError> {
        let ecdsa = ecdsa::Identity::generate(seed)?;
        let any = any::Identity::new(ecdsa.der(), ecdsa.key())?;
        Ok(Self { ecdsa, any })
    }

    /// SHA-256 over the DER form, what `a=fingerprint` says (RFC 8122).
    pub fn fingerprint(&self) -> [u8; 32] {
        sha256(self.ecdsa.der())
    }
}

/// Why a session ended. The peer's doing, or the network's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum DtlsError {
    #[error("the peer's certificate does not have the signalled fingerprint")]
    Fingerprint,
    #[error("the peer agreed to no SRTP profile we know")]
    Profile,
    #[error("the peer broke the protocol or did not answer in time")]
    Protocol,
}

/// What a session wants done, in order. The datagram and data lie in the caller's scratch space.
pub(crate) enum DtlsOutput<'a> {
    Datagram(&'a [u8]),
    /// The handshake is over and the peer is who it should be. Comes once, before any data. `material` is what the exporter
    /// gave (RFC 5764 §4.2).
    Connected {
        profile: Profile,
        material: Box<[u8]>,
    },
    Data(&'a [u8]),
    /// The peer said good-bye.
    Closed,
    /// Something happened inside; ask again.
    Again,
    /// Ask again with this many bytes of scratch space.
    NeedsRoom(usize),
    /// Nothing more now; call `handle_timeout` at this time, if there is one.
    Idle(Option<Instant>),
}

/// One peer's session.
pub(crate) enum DtlsSession {
    Ecdsa(Box<ecdsa::Session>),
    Any(Box<any::Session>),
}

/// Hands a call to the session there is.
macro_rules! session {
    ($held:expr, $session:ident => $call:expr) => {
        match $held {
            DtlsSession::Ecdsa($session) => $call,
            DtlsSession::Any($session) => $call,
        }
    };
}

impl std::fmt::Debug for DtlsSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ecdsa(_) => "DtlsSession::Ecdsa",
            Self::Any(_) => "DtlsSession::Any",
        })
    }
}

impl DtlsSession {
    pub(crate) fn new(
        now: Instant,
        role: DtlsRole,
        keys: PeerKeys,
        certificate: &Certificate,
        remote_fingerprint: [u8; 32],
    ) -> Self {
        match keys {
            PeerKeys::Ecdsa => {
                let session = ecdsa::Session::new(now, role, &certificate.ecdsa, remote_fingerprint);
                Self::Ecdsa(Box::new(session))
            }
            PeerKeys::Any => {
                Self::Any(Box::new(any::Session::new(role, &certificate.any, remote_fingerprint)))
            }
        }
    }

    /// Takes one datagram. Damaged and stray ones are passed over inside; every error ends the session.
    pub(crate) fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DtlsError> {
        session!(self, session => session.handle_datagram(now, datagram))
    }

    /// Moves time; for a client the first call starts the handshake.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsError> {
        session!(self, session => session.handle_timeout(now))
    }

    /// Sends application data: one SCTP packet, one record.
    pub(crate) fn send(&mut self, now: Instant, data: &[u8]) -> Result<(), DtlsError> {
        match self {
            Self::Ecdsa(session) => session.send(data),
            Self::Any(session) => session.send(now, data),
        }
    }

    /// Queues close_notify, if there is a session to close.
    pub(crate) fn close(&mut self, now: Instant) {
        match self {
            Self::Ecdsa(session) => session.close(),
            Self::Any(session) => session.close(now),
        }
    }

    /// Takes the next output, written to `scratch`. To be called until [`DtlsOutput::Idle`] after each other call.
    pub(crate) fn poll<'a>(&mut self, scratch: &'a mut [u8]) -> Result<DtlsOutput<'a>, DtlsError> {
        session!(self, session => session.poll(scratch))
    }
}

fn sha256(der: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, der);
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}
