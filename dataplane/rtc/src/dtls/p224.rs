//! Signatures on P-224. The library's provider knows P-256, P-384 and RSA; FFmpeg's WHIP muxer comes with a certificate on P-224
//! (docs/adr/0009).

use std::sync::Arc;

use aws_lc_rs::digest;
use p224::ecdsa::signature::hazmat::PrehashVerifier as _;
use p224::ecdsa::{Signature, VerifyingKey};
use rtc_crypto::providers::AwsLcRsProvider;
use rtc_crypto::{
    ActiveKeyExchange, AeadAlgorithm, AeadCipher, BlockCipherAlgorithm, CbcAlgorithm, CbcCipher,
    CryptoAlgorithm, CryptoError, HashAlgorithm, HmacAlgorithm, KeyExchangeAlgorithm, Mac, PublicKey,
    PublicKeyEncoding, RTCCrypto, RTCCryptoProvider, RTCRandom, SignatureScheme, SigningKey, StreamCipher,
    StreamCipherAlgorithm,
};

/// An uncompressed point (SEC 1 §2.3.3): one byte and two coordinates of 28. No other curve the library knows has this length.
const POINT_LEN: usize = 57;

/// The library's cryptography over aws-lc-rs, with one curve more for what peers sign with.
pub(super) fn provider() -> Arc<dyn RTCCryptoProvider> {
    Arc::new(Provider(AwsLcRsProvider::new()))
}

struct Provider(AwsLcRsProvider);

impl RTCCryptoProvider for Provider {
    fn name(&self) -> &'static str {
        "aws-lc-rs, and p224 to verify"
    }

    fn crypto(&self) -> &dyn RTCCrypto {
        self
    }

    fn random(&self) -> &dyn RTCRandom {
        self.0.random()
    }
}

impl RTCCrypto for Provider {
    fn verify_signature(
        &self,
        scheme: SignatureScheme,
        public_key: PublicKey<'_>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        let is_point = public_key.encoding == PublicKeyEncoding::EcUncompressedPoint;
        if is_point && public_key.bytes.len() == POINT_LEN {
            return verify_p224(scheme, public_key.bytes, message, signature);
        }
        self.0.crypto().verify_signature(scheme, public_key, message, signature)
    }

    fn supports(&self, algorithm: CryptoAlgorithm) -> bool {
        self.0.crypto().supports(algorithm)
    }

    fn hash(&self, algorithm: HashAlgorithm, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        self.0.crypto().hash(algorithm, data)
    }

    fn block_encrypt(
        &self,
        algorithm: BlockCipherAlgorithm,
        key: &[u8],
        block: &mut [u8],
    ) -> Result<(), CryptoError> {
        self.0.crypto().block_encrypt(algorithm, key, block)
    }

    fn new_hmac(&self, algorithm: HmacAlgorithm, key: &[u8]) -> Result<Box<dyn Mac>, CryptoError> {
        self.0.crypto().new_hmac(algorithm, key)
    }

    fn new_stream_cipher(
        &self,
        algorithm: StreamCipherAlgorithm,
        key: &[u8],
    ) -> Result<Box<dyn StreamCipher>, CryptoError> {
        self.0.crypto().new_stream_cipher(algorithm, key)
    }

    fn new_aead(&self, algorithm: AeadAlgorithm, key: &[u8]) -> Result<Box<dyn AeadCipher>, CryptoError> {
        self.0.crypto().new_aead(algorithm, key)
    }

    fn new_cbc(&self, algorithm: CbcAlgorithm, key: &[u8]) -> Result<Box<dyn CbcCipher>, CryptoError> {
        self.0.crypto().new_cbc(algorithm, key)
    }

    fn start_key_exchange(
        &self,
        algorithm: KeyExchangeAlgorithm,
    ) -> Result<Box<dyn ActiveKeyExchange>, CryptoError> {
        self.0.crypto().start_key_exchange(algorithm)
    }

    fn generate_signing_key(&self, scheme: SignatureScheme) -> Result<Arc<dyn SigningKey>, CryptoError> {
        self.0.crypto().generate_signing_key(scheme)
    }

    fn import_signing_key(
        &self,
        scheme: SignatureScheme,
        pkcs8_der: &[u8],
    ) -> Result<Arc<dyn SigningKey>, CryptoError> {
        self.0.crypto().import_signing_key(scheme, pkcs8_der)
    }
}

/// The library names ECDSA schemes by a curve and a hash; TLS 1.2, whose code points it means, by the hash alone
/// (RFC 5246 §7.4.1.4.1).
fn verify_p224(
    scheme: SignatureScheme,
    point: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), CryptoError> {
    let hash = match scheme {
        SignatureScheme::EcdsaP256Sha256 => &digest::SHA256,
        SignatureScheme::EcdsaP384Sha384 => &digest::SHA384,
        _ => return Err(CryptoError::UnsupportedAlgorithm(CryptoAlgorithm::Signature(scheme))),
    };
    let key = VerifyingKey::from_sec1_bytes(point).map_err(|_| CryptoError::InvalidPublicKey)?;
    let signature = Signature::from_der(signature).map_err(|_| CryptoError::InvalidSignature)?;
    key.verify_prehash(digest::digest(hash, message).as_ref(), &signature)
        .map_err(|_| CryptoError::InvalidSignature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_cert::Certificate;
    use x509_cert::der::{Decode as _, Encode as _};

    /// A certificate of libavformat 62.12, signed by its own key.
    const FFMPEG: &str = "\
        3081fa3081a9a00302010202041d5b6e21300a06082a8648ce3d040302300f310d300b060355040313046c617666301e \
        170d3236313132363138323333395a170d3237313132363138323333395a300f310d300b060355040313046c61766630 \
        4e301006072a8648ce3d020106052b81040021033a00042aac9645c6223a249c63cb5b7115c1865236e52259e78cb506 \
        3fbc23082217ea5a9d304296b42cd3a190781313fcd3a9a846de9f1a72fd33300a06082a8648ce3d040302034000303d \
        021d0098e256d9331468740ba352bf6f60ad9a472f9ba4355b5e1d044a5b69021c3aeb0098dcf75b33e164306f1e6257 \
        1aa58311669ab40f4c04d5acba";

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
        let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    /// The key of the certificate, what it signs, and the signature.
    fn ffmpeg() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let certificate = Certificate::from_der(&unhex(FFMPEG)).unwrap();
        let signed = certificate.tbs_certificate();
        let key = signed.subject_public_key_info().subject_public_key.as_bytes().unwrap().to_vec();
        let signature = certificate.signature().as_bytes().unwrap().to_vec();
        (key, signed.to_der().unwrap(), signature)
    }

    fn verify(scheme: SignatureScheme, key: &[u8], data: &[u8], signature: &[u8]) -> bool {
        let key = PublicKey { encoding: PublicKeyEncoding::EcUncompressedPoint, bytes: key };
        provider().crypto().verify_signature(scheme, key, data, signature).is_ok()
    }

    #[test]
    fn what_ffmpeg_signs_verifies_and_nothing_else() {
        use SignatureScheme::{EcdsaP256Sha256, EcdsaP384Sha256, EcdsaP384Sha384, RsaPkcs1Sha256};
        let (key, mut signed, mut signature) = ffmpeg();
        assert!(verify(EcdsaP256Sha256, &key, &signed, &signature));
        assert!(!verify(EcdsaP384Sha384, &key, &signed, &signature), "another hash");
        assert!(!verify(EcdsaP384Sha256, &key, &signed, &signature), "a scheme we did not ask for");
        assert!(!verify(RsaPkcs1Sha256, &key, &signed, &signature), "another algorithm");
        assert!(!verify(EcdsaP256Sha256, &key, &signed, &signature[1..]), "no signature");
        assert!(!verify(EcdsaP256Sha256, &key[..56], &signed, &signature), "no point");
        signed[20] ^= 1;
        assert!(!verify(EcdsaP256Sha256, &key, &signed, &signature), "other data");
        signed[20] ^= 1;
        *signature.last_mut().unwrap() ^= 1;
        assert!(!verify(EcdsaP256Sha256, &key, &signed, &signature), "another signature");
    }

    #[test]
    fn a_point_off_the_curve_is_no_key() {
        let (mut key, signed, signature) = ffmpeg();
        key[30] ^= 1;
        assert!(!verify(SignatureScheme::EcdsaP256Sha256, &key, &signed, &signature));
    }

    #[test]
    fn other_curves_are_left_to_the_library() {
        let provider = provider();
        let key = provider.crypto().generate_signing_key(SignatureScheme::EcdsaP256Sha256).unwrap();
        let signature = key.sign(SignatureScheme::EcdsaP256Sha256, b"signed").unwrap();
        let point = key.public_key().bytes.to_vec();
        assert!(verify(SignatureScheme::EcdsaP256Sha256, &point, b"signed", &signature));
        assert!(!verify(SignatureScheme::EcdsaP256Sha256, &point, b"forged", &signature));
    }
}
