//! DTLS with peers whose certificate may have any key: GStreamer's has RSA, FFmpeg's ECDSA on P-224. Over the `rtc-dtls` crate,
//! which asks clients for RSA too and, as a client, takes servers with it (docs/adr/0010).
//!
//! The library joins fragments without bound, and forgets to repeat itself when the peer does: [`super::intake`] is between it and
//! the network.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use rtc_crypto::SignatureScheme as KeyScheme;
use rtc_dtls::cipher_suite::CipherSuiteId;
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig};
use rtc_dtls::crypto::Certificate;
use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc_dtls::signature_hash_algorithm::SignatureScheme;
use rtc_dtls::state::State;
use rtc_shared::TransportProtocol;

use super::intake::{Intake, Verdict};
use super::{CertificateError, DtlsError, DtlsOutput, DtlsRole, MTU, p224, sha256};
use crate::srtp::Profile;

/// Label of the DTLS-SRTP exporter (RFC 5764 §4.2).
const EXPORTER: &str = "EXTRACTOR-dtls_srtp";
/// The library tells peers apart by address. Here each session has one peer, whose address ICE knows.
const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// The node's certificate in this library's form.
#[derive(Clone)]
pub(super) struct Identity {
    client: Arc<HandshakeConfig>,
    server: Arc<HandshakeConfig>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

impl Identity {
    /// Of a certificate in DER and its P-256 key in PKCS #8.
    pub(super) fn new(der: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let provider = p224::provider();
        let key = provider.crypto().import_signing_key(KeyScheme::EcdsaP256Sha256, key);
        let key = key.map_err(|_| CertificateError)?;
        let certificate = Certificate::from_signing_key(vec![der.to_vec().into()], key);
        let config = |is_client| {
            let config = ConfigBuilder::default()
                .with_crypto_provider(p224::provider())
                .with_certificates(vec![certificate.clone()])
                .with_cipher_suites(vec![
                    CipherSuiteId::Tls_Ecdhe_Ecdsa_With_Aes_128_Gcm_Sha256,
                    CipherSuiteId::Tls_Ecdhe_Rsa_With_Aes_128_Gcm_Sha256,
                ])
                .with_signature_schemes(vec![
                    SignatureScheme::EcdsaWithP256AndSha256,
                    SignatureScheme::EcdsaWithP384AndSha384,
                    SignatureScheme::Pkcs1WithSha256,
                    SignatureScheme::Pkcs1WithSha384,
                    SignatureScheme::Pkcs1WithSha512,
                ])
                .with_srtp_protection_profiles(vec![
                    SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm,
                    SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
                    SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
                ])
                // No chain of authorities: the signalled fingerprint says whose certificate it is, the handshake's signature
                // that the peer has its key.
                .with_client_auth(ClientAuthType::RequireAnyClientCert)
                .with_insecure_skip_verify(true)
                .with_extended_master_secret(ExtendedMasterSecretType::Require)
                .with_server_name("auralink".to_owned())
                .with_mtu(MTU)
                .build(is_client, None);
            config.map(Arc::new).map_err(|error| {
                tracing::debug!(%error, "DTLS configuration");
                CertificateError
            })
        };
        Ok(Self { client: config(true)?, server: config(false)? })
    }
}

/// Something for the caller.
enum Waiting {
    Datagram(Bytes),
    Data(Bytes),
    Connected(Profile, Box<[u8]>),
    Closed,
}

impl Waiting {
    fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Datagram(bytes) | Self::Data(bytes) => Some(bytes),
            Self::Connected(..) | Self::Closed => None,
        }
    }
}

/// One peer's session.
pub(crate) struct Session {
    endpoint: Endpoint,
    /// As client: what the handshake will start with.
    start: Option<Arc<HandshakeConfig>>,
    remote_fingerprint: [u8; 32],
    intake: Intake,
    is_released: bool,
    is_over: bool,
    waiting: VecDeque<Waiting>,
}

impl Session {
    pub(super) fn new(role: DtlsRole, identity: &Identity, remote_fingerprint: [u8; 32]) -> Self {
        let is_client = role == DtlsRole::Client;
        let served = (!is_client).then(|| Arc::clone(&identity.server));
        Self {
            endpoint: Endpoint::new(PEER, TransportProtocol::UDP, served),
            start: is_client.then(|| Arc::clone(&identity.client)),
            remote_fingerprint,
            intake: Intake::default(),
            is_released: false,
            is_over: false,
            waiting: VecDeque::new(),
        }
    }

    pub(super) fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DtlsError> {
        // A client has not asked yet: nothing can be an answer.
        if self.is_over || self.start.is_some() {
            return Ok(());
        }
        let mut records = BytesMut::with_capacity(datagram.len());
        match self.intake.admit(datagram, &mut records) {
            Verdict::Take => {}
            Verdict::Ignore => return Ok(()),
            Verdict::Exhausted if self.is_released => return Ok(()),
            Verdict::Exhausted => return Err(DtlsError::Protocol),
        }
        let taken = self.endpoint.read(now, PEER, None, records);
        self.collect();
        for event in taken.map_err(protocol_error)? {
            match event {
                EndpointEvent::HandshakeComplete => {
                    let (profile, material) = self.keys()?;
                    self.is_released = true;
                    self.waiting.push_back(Waiting::Connected(profile, material));
                }
                EndpointEvent::ApplicationData(data) if self.is_released => {
                    self.waiting.push_back(Waiting::Data(data.freeze()));
                }
                EndpointEvent::PeerClosed => {
                    self.is_over = true;
                    self.waiting.push_back(Waiting::Closed);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The keys for SRTP, once it is certain whom they are shared with.
    fn keys(&self) -> Result<(Profile, Box<[u8]>), DtlsError> {
        let state: &State = self.endpoint.get_connection_state(PEER).ok_or(DtlsError::Protocol)?;
        let certificate = state.peer_certificates.first().ok_or(DtlsError::Fingerprint)?;
        if sha256(certificate) != self.remote_fingerprint {
            return Err(DtlsError::Fingerprint);
        }
        let profile = match state.srtp_protection_profile() {
            SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm => Profile::AeadAes256Gcm,
            SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm => Profile::AeadAes128Gcm,
            SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80 => Profile::Aes128CmSha1_80,
            _ => return Err(DtlsError::Profile),
        };
        let material = state.export_keying_material(EXPORTER, &[], profile.material_len());
        Ok((profile, Box::from(material.map_err(protocol_error)?.as_ref())))
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsError> {
        let moved = match self.start.take() {
            Some(config) => self.endpoint.connect(now, PEER, config, None),
            None if self.is_over || self.endpoint.poll_timeout(&PEER).is_none() => Ok(()),
            None => self.endpoint.handle_timeout(PEER, now),
        };
        self.collect();
        moved.map_err(protocol_error)
    }

    pub(super) fn send(&mut self, now: Instant, data: &[u8]) -> Result<(), DtlsError> {
        if self.is_over {
            return Ok(());
        }
        let sent = self.endpoint.write(now, PEER, data);
        self.collect();
        sent.map_err(protocol_error)
    }

    pub(super) fn close(&mut self, now: Instant) {
        self.is_over = true;
        if let Err(error) = self.endpoint.close(now) {
            tracing::debug!(%error, "DTLS close");
        }
        self.collect();
    }

    /// Takes over what the library wants sent.
    fn collect(&mut self) {
        while let Some(transmit) = self.endpoint.poll_transmit() {
            self.waiting.push_back(Waiting::Datagram(transmit.message.freeze()));
        }
    }

    pub(super) fn poll<'a>(&mut self, scratch: &'a mut [u8]) -> Result<DtlsOutput<'a>, DtlsError> {
        let Some(first) = self.waiting.front() else {
            return Ok(DtlsOutput::Idle(self.endpoint.poll_timeout(&PEER)));
        };
        let needed = first.bytes().map_or(0, Bytes::len);
        if needed > scratch.len() {
            return Ok(DtlsOutput::NeedsRoom(needed));
        }
        Ok(match self.waiting.pop_front() {
            Some(Waiting::Datagram(datagram)) => DtlsOutput::Datagram(copy(&datagram, scratch)),
            Some(Waiting::Data(data)) => DtlsOutput::Data(copy(&data, scratch)),
            Some(Waiting::Connected(profile, material)) => DtlsOutput::Connected { profile, material },
            Some(Waiting::Closed) => DtlsOutput::Closed,
            None => DtlsOutput::Again,
        })
    }
}

fn copy<'a>(bytes: &[u8], scratch: &'a mut [u8]) -> &'a [u8] {
    let Some(place) = scratch.get_mut(..bytes.len()) else { return &[] };
    place.copy_from_slice(bytes);
    place
}

fn protocol_error(error: rtc_shared::error::Error) -> DtlsError {
    tracing::debug!(%error, "DTLS session failed");
    DtlsError::Protocol
}
