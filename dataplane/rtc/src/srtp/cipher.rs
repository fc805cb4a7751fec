//! One direction's ciphers over one message: AEAD_AES_GCM (RFC 7714) and AES_CM with HMAC-SHA1-80 (RFC 3711 §4.1, §4.2).
//!
//! SRTP and SRTCP differ only in their keys, their additional data and where the trailer stands, so one [`Cipher`] is keyed
//! for each of them. GCM works out of place; counter mode of the crypto library works in place, so it costs a copy.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::EncryptingKey;
use aws_lc_rs::{constant_time, hmac};

use super::kdf::{Kdf, Label, apply_keystream, counter_mode};
use super::{KeyError, Profile};

/// The session keys are for RTP or for RTCP.
#[derive(Clone, Copy, Debug)]
pub(super) enum Protocol {
    Rtp,
    Rtcp,
}

/// What is authenticated beside the payload, and where in the key stream the message lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) ssrc: u32,
    /// 48-bit packet index of SRTP, 31-bit index of SRTCP.
    pub(super) index: u64,
    /// The clear start of the packet.
    pub(super) header: &'a [u8],
    /// SRTP: the roll-over counter. SRTCP: the E bit and index.
    pub(super) trailer: [u8; 4],
    /// The additional data of GCM: SRTP's header; SRTCP's header and trailer.
    pub(super) aad: &'a [u8],
}

/// Authentication failed, or a length does not fit.
#[derive(Debug)]
pub(super) struct Rejected;

pub(super) enum Cipher {
    Gcm { key: LessSafeKey, salt: [u8; 12] },
    CmSha1 { key: Box<EncryptingKey>, salt: [u8; 14], auth: Box<hmac::Key> },
}

impl Cipher {
    pub(super) fn new(profile: Profile, kdf: &Kdf, protocol: Protocol) -> Result<Self, KeyError> {
        let (encryption, authentication, salting) = match protocol {
            Protocol::Rtp => (Label::RtpEncryption, Label::RtpAuthentication, Label::RtpSalt),
            Protocol::Rtcp => (Label::RtcpEncryption, Label::RtcpAuthentication, Label::RtcpSalt),
        };
        let mut key = [0; 32];
        let key = key.get_mut(..profile.key_len()).ok_or(KeyError)?;
        kdf.derive(encryption, key)?;
        let gcm = |algorithm, key: &[u8]| -> Result<Self, KeyError> {
            let mut salt = [0; 12];
            kdf.derive(salting, &mut salt)?;
            let key = LessSafeKey::new(UnboundKey::new(algorithm, key).map_err(|_| KeyError)?);
            Ok(Self::Gcm { key, salt })
        };
        match profile {
            Profile::AeadAes256Gcm => gcm(&AES_256_GCM, key),
            Profile::AeadAes128Gcm => gcm(&AES_128_GCM, key),
            Profile::Aes128CmSha1_80 => {
                let (mut salt, mut auth) = ([0; 14], [0; 20]);
                kdf.derive(salting, &mut salt)?;
                kdf.derive(authentication, &mut auth)?;
                let auth = Box::new(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &auth));
                Ok(Self::CmSha1 { key: Box::new(counter_mode(key)?), salt, auth })
            }
        }
    }

    /// Authenticates and decrypts `ciphertext` into `out` of the same length. What `out` holds after an error means nothing.
    pub(super) fn open(
        &self,
        message: &Message<'_>,
        ciphertext: &[u8],
        tag: &[u8],
        out: &mut [u8],
    ) -> Result<(), Rejected> {
        match self {
            Self::Gcm { key, salt } => key
                .open_separate_gather(gcm_nonce(salt, message), Aad::from(message.aad), ciphertext, tag, out)
                .map_err(|_| Rejected),
            Self::CmSha1 { key, salt, auth } => {
                let expected = sha1_80(auth, message, ciphertext);
                constant_time::verify_slices_are_equal(&expected, tag).map_err(|_| Rejected)?;
                if out.len() != ciphertext.len() {
                    return Err(Rejected);
                }
                out.copy_from_slice(ciphertext);
                apply_keystream(key, cm_iv(salt, message), out).map_err(|_| Rejected)
            }
        }
    }

    /// Encrypts `payload` into `out` of the same length and writes the tag.
    pub(super) fn seal(
        &self,
        message: &Message<'_>,
        payload: &[u8],
        out: &mut [u8],
        tag: &mut [u8],
    ) -> Result<(), Rejected> {
        match self {
            Self::Gcm { key, salt } => key
                .seal_out_of_place_scatter(
                    gcm_nonce(salt, message),
                    Aad::from(message.aad),
                    payload,
                    out,
                    &[],
                    tag,
                )
                .map_err(|_| Rejected),
            Self::CmSha1 { .. } => {
                if out.len() != payload.len() {
                    return Err(Rejected);
                }
                out.copy_from_slice(payload);
                self.seal_in_place(message, out, tag)
            }
        }
    }

    /// Encrypts `payload` where it lies and writes the tag.
    pub(super) fn seal_in_place(
        &self,
        message: &Message<'_>,
        payload: &mut [u8],
        tag: &mut [u8],
    ) -> Result<(), Rejected> {
        match self {
            Self::Gcm { key, salt } => key
                .seal_in_place_scatter(gcm_nonce(salt, message), Aad::from(message.aad), payload, &[], tag)
                .map_err(|_| Rejected),
            Self::CmSha1 { key, salt, auth } => {
                apply_keystream(key, cm_iv(salt, message), payload).map_err(|_| Rejected)?;
                let computed = sha1_80(auth, message, payload);
                if tag.len() != computed.len() {
                    return Err(Rejected);
                }
                tag.copy_from_slice(&computed);
                Ok(())
            }
        }
    }
}

/// RFC 7714 §8.1 and §9.1: SSRC and index side by side, XORed with the salt. SRTCP's 31-bit index leaves the upper 16 zero.
fn gcm_nonce(salt: &[u8; 12], message: &Message<'_>) -> Nonce {
    let block = u128::from(message.ssrc) << 48 | u128::from(message.index);
    let [_, _, _, _, nonce @ ..] = block.to_be_bytes();
    let mut nonce: [u8; 12] = nonce;
    nonce.iter_mut().zip(salt).for_each(|(byte, salt)| *byte ^= salt);
    Nonce::assume_unique_for_key(nonce)
}

/// RFC 3711 §4.1.1: salt · 2^16 ⊕ SSRC · 2^64 ⊕ index · 2^16.
fn cm_iv(salt: &[u8; 14], message: &Message<'_>) -> [u8; 16] {
    let block = u128::from(message.ssrc) << 64 | u128::from(message.index) << 16;
    let mut iv = block.to_be_bytes();
    iv.iter_mut().zip(salt).for_each(|(byte, salt)| *byte ^= salt);
    iv
}

/// RFC 3711 §4.2.1: HMAC-SHA1 over header, ciphertext and trailer, cut to 80 bits.
fn sha1_80(key: &hmac::Key, message: &Message<'_>, ciphertext: &[u8]) -> [u8; 10] {
    let mut context = hmac::Context::with_key(key);
    context.update(message.header);
    context.update(ciphertext);
    context.update(&message.trailer);
    context.sign().as_ref().first_chunk().copied().unwrap_or_default()
}
