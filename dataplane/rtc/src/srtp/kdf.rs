//! Session keys out of a master key: the AES counter-mode PRF of RFC 3711 §4.3, with 256-bit keys after RFC 6188 and 12-byte
//! salts after RFC 7714 §11.

use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;

use super::{KeyError, Profile};

/// What a derived key is for (RFC 3711 §4.3.2).
#[derive(Clone, Copy, Debug)]
pub(super) enum Label {
    RtpEncryption = 0,
    RtpAuthentication = 1,
    RtpSalt = 2,
    RtcpEncryption = 3,
    RtcpAuthentication = 4,
    RtcpSalt = 5,
}

/// The PRF keyed with one master key and salt.
pub(super) struct Kdf {
    key: EncryptingKey,
    salt: [u8; 14],
}

impl Kdf {
    pub(super) fn new(profile: Profile, key: &[u8], salt: &[u8]) -> Result<Self, KeyError> {
        if key.len() != profile.key_len() || salt.len() != profile.salt_len() {
            return Err(KeyError);
        }
        let key = counter_mode(key)?;
        let mut padded = [0; 14];
        padded.iter_mut().zip(salt).for_each(|(place, byte)| *place = *byte);
        Ok(Self { key, salt: padded })
    }

    /// Fills `out` with the session key for `label` (key derivation rate 0).
    pub(super) fn derive(&self, label: Label, out: &mut [u8]) -> Result<(), KeyError> {
        let mut iv = [0; 16];
        iv.iter_mut().zip(self.salt).for_each(|(place, byte)| *place = byte);
        let [_, _, _, _, _, _, _, place, ..] = &mut iv;
        *place ^= label as u8;
        out.fill(0);
        apply_keystream(&self.key, iv, out).map_err(|_| KeyError)
    }
}

/// An AES key expanded for counter mode.
pub(super) fn counter_mode(key: &[u8]) -> Result<EncryptingKey, KeyError> {
    let algorithm = if key.len() == 32 { &AES_256 } else { &AES_128 };
    let unbound = UnboundCipherKey::new(algorithm, key).map_err(|_| KeyError)?;
    EncryptingKey::ctr(unbound).map_err(|_| KeyError)
}

/// XORs the key stream that starts at counter block `iv` onto `data`.
pub(super) fn apply_keystream(
    key: &EncryptingKey,
    iv: [u8; 16],
    data: &mut [u8],
) -> Result<(), aws_lc_rs::error::Unspecified> {
    key.less_safe_encrypt(data, EncryptionContext::Iv128(FixedLength::from(iv))).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::srtp::tests::hex;

    #[test]
    fn rfc_3711_b3_vectors_are_met() {
        let key = hex("E1F97A0D3E018BE0D64FA32C06DE4139");
        let salt = hex("0EC675AD498AFEEBB6960B3AABE6");
        let kdf = Kdf::new(Profile::Aes128CmSha1_80, &key, &salt).unwrap();
        let derive = |label, len| {
            let mut out = vec![0xee; len];
            kdf.derive(label, &mut out).unwrap();
            out
        };
        assert_eq!(derive(Label::RtpEncryption, 16), hex("C61E7A93744F39EE10734AFE3FF7A087"));
        assert_eq!(derive(Label::RtpSalt, 14), hex("30CBBC08863D8C85D49DB34A9AE1"));
        let auth = "CEBE321F6FF7716B6FD4AB49AF256A156D38BAA48F0A0ACF3C34E2359E6CDBCEE049646C43D9327AD175578EF72270986371C10C9A369AC2F94A8C5FBCDDDC256D6E919A48B610EF17C2041E47403576";
        let auth = hex(auth);
        assert_eq!(derive(Label::RtpAuthentication, auth.len()), auth);
    }

    #[test]
    fn wrong_lengths_are_refused() {
        assert!(Kdf::new(Profile::AeadAes256Gcm, &[0; 16], &[0; 12]).is_err());
        assert!(Kdf::new(Profile::AeadAes128Gcm, &[0; 16], &[0; 14]).is_err());
    }
}
