//! DTLS with peers whose certificate is ECDSA on P-256 or P-384: browsers and every SDK. Over the `dimpl` crate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dimpl::crypto::Dtls12CipherSuite;
use dimpl::{Config, Dtls, DtlsCertificate, KeyingMaterial, Output, SrtpProfile};

use super::{CertificateError, DtlsError, DtlsOutput, DtlsRole, HANDSHAKE_TIMEOUT, MTU, sha256};
use crate::srtp::Profile;

const FLIGHT_RTO: Duration = Duration::from_millis(150);
/// Doubling from [`FLIGHT_RTO`], these outlast the handshake's own time-out.
const FLIGHT_RETRIES: usize = 8;
/// Records a peer may have in flight out of order.
const QUEUE_RX: usize = 64;
const QUEUE_TX: usize = 32;
/// A record's plaintext is at most 2^14 bytes (RFC 5246 §6.2.1); larger certificates are refused.
const OUTPUT_LEN_MAX: usize = 20_000;

/// The node's certificate in this library's form.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    certificate: DtlsCertificate,
    config: Arc<Config>,
}

impl Identity {
    /// Makes an ECDSA P-256 key and a self-signed certificate for it.
    pub(super) fn generate(seed: Option<u64>) -> Result<Self, CertificateError> {
        let certificate =
            dimpl::certificate::generate_self_signed_certificate().map_err(|_| CertificateError)?;
        let builder = match seed {
            Some(seed) => Config::builder().dangerously_set_rng_seed(seed),
            None => Config::builder(),
        };
        let config = builder
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

    /// The certificate in DER.
    pub(super) fn der(&self) -> &[u8] {
        &self.certificate.certificate
    }

    /// Its key in PKCS #8.
    pub(super) fn key(&self) -> &[u8] {
        &self.certificate.private_key
    }
}

/// One peer's session.
pub(crate) struct Session {
    dtls: Dtls,
    remote_fingerprint: [u8; 32],
    is_peer_verified: bool,
    is_handshake_over: bool,
    is_released: bool,
    keys: Option<(Profile, KeyingMaterial)>,
}

impl Session {
    pub(super) fn new(
        now: Instant,
        role: DtlsRole,
        identity: &Identity,
        remote_fingerprint: [u8; 32],
    ) -> Self {
        let mut dtls = Dtls::new_12(Arc::clone(&identity.config), identity.certificate.clone(), now);
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

    pub(super) fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DtlsError> {
        self.handle_timeout(now)?;
        self.dtls.handle_packet(datagram).map_err(protocol_error)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsError> {
        self.dtls.handle_timeout(now).map_err(protocol_error)
    }

    pub(super) fn send(&mut self, data: &[u8]) -> Result<(), DtlsError> {
        self.dtls.send_application_data(data).map(drop).map_err(protocol_error)
    }

    pub(super) fn close(&mut self) {
        if let Err(error) = self.dtls.close() {
            tracing::debug!(%error, "DTLS close");
        }
    }

    pub(super) fn poll<'a>(&mut self, scratch: &'a mut [u8]) -> Result<DtlsOutput<'a>, DtlsError> {
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
            Output::Timeout(at) => DtlsOutput::Idle(Some(at)),
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
        Ok(DtlsOutput::Connected { profile, material: Box::from(&*material) })
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
