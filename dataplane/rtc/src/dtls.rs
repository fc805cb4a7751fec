//! DTLS 1.2 (RFC 6347) with DTLS-SRTP (RFC 5764), both roles, over the `dimpl` crate.
//!
//! Version 1.2 on purpose: there the server picks AEAD_AES_GCM; under 1.3 the client's order counts, and browsers list GCM
//! last. No cookie exchange: ICE has proven the peer's address before DTLS is listened to. The peer's certificate is compared
//! with the signalled fingerprint before anything derived from the handshake leaves this module.

mod verify;

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use dimpl::crypto::Dtls12CipherSuite;
use dimpl::{Config, Dtls, DtlsCertificate, KeyingMaterial, Output, SrtpProfile};

use crate::srtp::{Profile, Side};

/// Largest handshake datagram we send.
const MTU: usize = 1_150;
const FLIGHT_RTO: Duration = Duration::from_millis(150);
/// Doubling from [`FLIGHT_RTO`], these outlast the handshake's own time-out.
const FLIGHT_RETRIES: usize = 8;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// Records a peer may have in flight out of order.
const QUEUE_RX: usize = 64;
const QUEUE_TX: usize = 32;
/// Scratch space that is enough for every output but a long certificate or record.
pub(crate) const OUTPUT_LEN: usize = 2_048;
/// A record's plaintext is at most 2^14 bytes (RFC 5246 §6.2.1); larger certificates are refused.
const OUTPUT_LEN_MAX: usize = 20_000;

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

/// A node's certificate with its key, made once and lent to every peer.
#[derive(Clone, Debug)]
pub struct Certificate {
    certificate: DtlsCertificate,
    config: Arc<Config>,
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
        let certificate =
            dimpl::certificate::generate_self_signed_certificate().map_err(|_| CertificateError)?;
        let builder = match seed {
            Some(seed) => Config::builder().dangerously_set_rng_seed(seed),
            None => Config::builder(),
        };
        let config = builder
            .with_crypto_provider(verify::provider())
            .mtu(MTU)
            .use_server_cookie(false)
            .flight_start_rto(FLIGHT_RTO)
            .flight_retries(FLIGHT_RETRIES)
            .handshake_timeout(HANDSHAKE_TIMEOUT)
            .max_queue_rx(QUEUE_RX)
            .max_queue_tx(QUEUE_TX)
            .dtls12_cipher_suites(&[
                Dtls12CipherSuite::ECDHE_ECDSA_AES128_GCM_SHA256,
                Dtls12CipherSuite::ECDHE_ECDSA_AES256_GCM_SHA384,
            ])
            .build()
            .map_err(|_| CertificateError)?;
        Ok(Self { certificate, config: Arc::new(config) })
    }

    /// SHA-256 over the DER form, what `a=fingerprint` says (RFC 8122).
    pub fn fingerprint(&self) -> [u8; 32] {
        sha256(&self.certificate.certificate)
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
    /// The handshake is over and the peer is who it should be. Comes once, before any data.
    Connected {
        profile: Profile,
        material: KeyingMaterial,
    },
    Data(&'a [u8]),
    /// The peer said good-bye.
    Closed,
    /// Something happened inside; ask again.
    Again,
    /// Ask again with this many bytes of scratch space.
    NeedsRoom(usize),
    /// Nothing more now; call `handle_timeout` at this time.
    Idle(Instant),
}

/// One peer's session.
pub(crate) struct DtlsSession {
    dtls: Dtls,
    remote_fingerprint: [u8; 32],
    is_peer_verified: bool,
    is_handshake_over: bool,
    is_released: bool,
    keys: Option<(Profile, KeyingMaterial)>,
}

impl std::fmt::Debug for DtlsSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DtlsSession")
            .field("is_peer_verified", &self.is_peer_verified)
            .finish_non_exhaustive()
    }
}

impl DtlsSession {
    pub(crate) fn new(
        now: Instant,
        role: DtlsRole,
        certificate: &Certificate,
        remote_fingerprint: [u8; 32],
    ) -> Self {
        let mut dtls = Dtls::new_12(Arc::clone(&certificate.config), certificate.certificate.clone(), now);
        dtls.set_active(role == DtlsRole::Client);
        Self {
            dtls,
            remote_fingerprint,
            is_peer_verified: false,
            is_handshake_over: false,
            is_released: false,
            keys: None,
        }
    }

    /// Takes one datagram. Damaged and stray ones are passed over inside; every error ends the session.
    pub(crate) fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DtlsError> {
        self.handle_timeout(now)?;
        self.dtls.handle_packet(datagram).map_err(protocol_error)
    }

    /// Moves time; for a client the first call starts the handshake.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsError> {
        self.dtls.handle_timeout(now).map_err(protocol_error)
    }

    /// Sends application data: one SCTP packet, one record.
    pub(crate) fn send(&mut self, data: &[u8]) -> Result<(), DtlsError> {
        self.dtls.send_application_data(data).map(drop).map_err(protocol_error)
    }

    /// Queues close_notify, if there is a session to close.
    pub(crate) fn close(&mut self) {
        if let Err(error) = self.dtls.close() {
            tracing::debug!(%error, "DTLS close");
        }
    }

    /// Takes the next output, written to `scratch`. To be called until [`DtlsOutput::Idle`] after each other call.
    pub(crate) fn poll<'a>(&mut self, scratch: &'a mut [u8]) -> Result<DtlsOutput<'a>, DtlsError> {
        Ok(match self.dtls.poll_output(scratch) {
            Output::Packet(datagram) => DtlsOutput::Datagram(datagram),
            Output::BufferTooSmall { needed } if needed <= OUTPUT_LEN_MAX => DtlsOutput::NeedsRoom(needed),
            Output::BufferTooSmall { .. } => return Err(DtlsError::Protocol),
            Output::PeerCert(der) => {
                if sha256(der) != self.remote_fingerprint {
                    return Err(DtlsError::Fingerprint);
                }
                self.is_peer_verified = true;
                DtlsOutput::Again
            }
            Output::KeyingMaterial(material, profile) => {
                self.keys = Some((srtp_profile(profile).ok_or(DtlsError::Profile)?, material));
                self.release()?
            }
            Output::Connected => {
                self.is_handshake_over = true;
                self.release()?
            }
            Output::ApplicationData(data) if self.is_released => DtlsOutput::Data(data),
            Output::CloseNotify => DtlsOutput::Closed,
            Output::Timeout(_) if self.is_handshake_over && !self.is_released => {
                return Err(DtlsError::Profile);
            }
            Output::Timeout(at) => DtlsOutput::Idle(at),
            _ => DtlsOutput::Again,
        })
    }

    /// Lets the keys out once the handshake is over; never before the certificate was found to be the right one.
    fn release(&mut self) -> Result<DtlsOutput<'static>, DtlsError> {
        if !self.is_handshake_over {
            return Ok(DtlsOutput::Again);
        }
        let Some((profile, material)) = self.keys.take() else { return Ok(DtlsOutput::Again) };
        if !self.is_peer_verified {
            return Err(DtlsError::Fingerprint);
        }
        self.is_released = true;
        Ok(DtlsOutput::Connected { profile, material })
    }
}

fn protocol_error(error: dimpl::Error) -> DtlsError {
    tracing::debug!(%error, "DTLS session failed");
    DtlsError::Protocol
}

fn srtp_profile(profile: SrtpProfile) -> Option<Profile> {
    match profile {
        SrtpProfile::AEAD_AES_256_GCM => Some(Profile::AeadAes256Gcm),
        SrtpProfile::AEAD_AES_128_GCM => Some(Profile::AeadAes128Gcm),
        SrtpProfile::AES128_CM_SHA1_80 => Some(Profile::Aes128CmSha1_80),
        _ => None,
    }
}

fn sha256(der: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, der);
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}
