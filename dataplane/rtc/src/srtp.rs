//! SRTP and SRTCP (RFC 3711, RFC 7714, RFC 5764): profiles, keys out of a DTLS handshake, opening and sealing.
//!
//! Key schedules are expanded once, at the handshake. [`SrtpOpen`] keeps the roll-over counter and the replay window of each
//! source and touches them only after authentication. [`SrtpSeal`] owns the 48-bit index of each stream for the life of the
//! key and never goes back: no (key, SSRC, index) seals two messages.

mod cipher;
mod kdf;
mod open;
mod seal;
mod window;

pub use open::{SrtpError, SrtpOpen};
pub use seal::{SealError, SealStream, SrtpSeal};

/// Most egress SSRCs one key ever serves; an SSRC is never used twice, so slots are not given back.
pub const EGRESS_SSRCS_MAX: usize = 16_384;
/// Ingress SSRCs followed at a time unless configured otherwise.
pub const INGRESS_SSRCS_MAX: usize = 64;

/// A DTLS-SRTP protection profile (RFC 5764 §4.1.2, RFC 7714 §14.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Profile {
    AeadAes256Gcm,
    AeadAes128Gcm,
    Aes128CmSha1_80,
}

impl Profile {
    /// Bytes of the master key.
    pub const fn key_len(self) -> usize {
        match self {
            Self::AeadAes256Gcm => 32,
            Self::AeadAes128Gcm | Self::Aes128CmSha1_80 => 16,
        }
    }

    /// Bytes of the master salt.
    pub const fn salt_len(self) -> usize {
        match self {
            Self::AeadAes256Gcm | Self::AeadAes128Gcm => 12,
            Self::Aes128CmSha1_80 => 14,
        }
    }

    /// Bytes of the authentication tag of SRTP and SRTCP.
    pub const fn tag_len(self) -> usize {
        match self {
            Self::AeadAes256Gcm | Self::AeadAes128Gcm => 16,
            Self::Aes128CmSha1_80 => 10,
        }
    }

    /// Bytes the DTLS exporter gives: two keys and two salts (RFC 5764 §4.2).
    pub const fn material_len(self) -> usize {
        2 * (self.key_len() + self.salt_len())
    }
}

/// Keys that do not have the length their profile asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("keying material does not fit the SRTP profile")]
pub struct KeyError;

/// Which half of the exported keys is ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    DtlsClient,
    DtlsServer,
}

/// Splits what the DTLS exporter gave (client key, server key, client salt, server salt) into the context that seals what we
/// send and the one that opens what we receive, with the default limits.
pub fn contexts(profile: Profile, material: &[u8], side: Side) -> Result<(SrtpSeal, SrtpOpen), KeyError> {
    if material.len() != profile.material_len() {
        return Err(KeyError);
    }
    let (keys, salts) = material.split_at_checked(2 * profile.key_len()).ok_or(KeyError)?;
    let (client_key, server_key) = keys.split_at_checked(profile.key_len()).ok_or(KeyError)?;
    let (client_salt, server_salt) = salts.split_at_checked(profile.salt_len()).ok_or(KeyError)?;
    let (ours, theirs) = match side {
        Side::DtlsClient => ((client_key, client_salt), (server_key, server_salt)),
        Side::DtlsServer => ((server_key, server_salt), (client_key, client_salt)),
    };
    Ok((
        SrtpSeal::new(profile, ours.0, ours.1, EGRESS_SSRCS_MAX)?,
        SrtpOpen::new(profile, theirs.0, theirs.1, INGRESS_SSRCS_MAX)?,
    ))
}

#[cfg(test)]
mod tests;
