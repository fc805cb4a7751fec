//! Signatures of peers' certificates. The library knows the curves of browsers, P-256 and P-384; FFmpeg's WHIP muxer comes with
//! a certificate on P-224 (docs/adr/0009).

use aws_lc_rs::digest;
use dimpl::CryptoError;
use dimpl::crypto::{
    CryptoProvider, HashAlgorithm, NamedGroup, SignatureAlgorithm, SignatureVerifier, aws_lc_rs as library,
};
use p224::ecdsa::signature::hazmat::PrehashVerifier as _;
use p224::ecdsa::{Signature, VerifyingKey};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::der::oid::ObjectIdentifier;

/// id-ecPublicKey (RFC 5480 §2.1.1)
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// secp224r1 (RFC 5480 §2.1.1.1)
const SECP224R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.33");

/// The library's cryptography, with one curve more for what peers sign with.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider { signature_verification: &Verifier, ..library::default_provider() }
}

#[derive(Debug)]
struct Verifier;

impl SignatureVerifier for Verifier {
    fn verify_signature(
        &self,
        cert_der: &[u8],
        data: &[u8],
        signature: &[u8],
        hash_alg: HashAlgorithm,
        sig_alg: SignatureAlgorithm,
    ) -> Result<(), CryptoError> {
        let certificate = Certificate::from_der(cert_der).map_err(|_| CryptoError::CertificateParseFailed)?;
        match p224_key(&certificate) {
            Some(point) if sig_alg == SignatureAlgorithm::ECDSA => {
                verify_p224(point, data, signature, hash_alg)
            }
            _ => {
                let known = library::default_provider().signature_verification;
                known.verify_signature(cert_der, data, signature, hash_alg, sig_alg)
            }
        }
    }
}

/// The public key of a certificate on P-224 (SEC 1 §2.3.3); `None` for other keys.
fn p224_key(certificate: &Certificate) -> Option<&[u8]> {
    let info = certificate.tbs_certificate().subject_public_key_info();
    let curve = info.algorithm.parameters.as_ref()?.decode_as::<ObjectIdentifier>().ok()?;
    let is_p224 = info.algorithm.oid == EC_PUBLIC_KEY && curve == SECP224R1;
    is_p224.then(|| info.subject_public_key.as_bytes()).flatten()
}

fn verify_p224(
    point: &[u8],
    data: &[u8],
    signature: &[u8],
    hash_alg: HashAlgorithm,
) -> Result<(), CryptoError> {
    // What our CertificateRequest names, and nothing weaker.
    let hash = match hash_alg {
        HashAlgorithm::SHA256 => &digest::SHA256,
        HashAlgorithm::SHA384 => &digest::SHA384,
        _ => return Err(CryptoError::UnsupportedSignatureAlgorithm(SignatureAlgorithm::ECDSA)),
    };
    let key = VerifyingKey::from_sec1_bytes(point).map_err(|_| CryptoError::InvalidSubjectPublicKey)?;
    let wrong = CryptoError::SignatureVerificationFailed {
        signature: SignatureAlgorithm::ECDSA,
        hash: hash_alg,
        group: NamedGroup::Secp224r1,
    };
    let signature = Signature::from_der(signature).map_err(|_| wrong.clone())?;
    key.verify_prehash(digest::digest(hash, data).as_ref(), &signature).map_err(|_| wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_cert::der::Encode as _;

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

    /// The certificate, what it signs, and the signature.
    fn ffmpeg() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let der = unhex(FFMPEG);
        let certificate = Certificate::from_der(&der).unwrap();
        let signed = certificate.tbs_certificate().to_der().unwrap();
        let signature = certificate.signature().as_bytes().unwrap().to_vec();
        (der, signed, signature)
    }

    fn verify(der: &[u8], data: &[u8], signature: &[u8], hash: HashAlgorithm) -> bool {
        Verifier.verify_signature(der, data, signature, hash, SignatureAlgorithm::ECDSA).is_ok()
    }

    #[test]
    fn what_ffmpeg_signs_verifies_and_nothing_else() {
        let (der, mut signed, mut signature) = ffmpeg();
        assert!(verify(&der, &signed, &signature, HashAlgorithm::SHA256));
        assert!(!verify(&der, &signed, &signature, HashAlgorithm::SHA384), "another hash");
        assert!(!verify(&der, &signed, &signature, HashAlgorithm::SHA1), "a hash we did not ask for");
        assert!(!verify(&der, &signed, &signature[1..], HashAlgorithm::SHA256), "no signature");
        signed[20] ^= 1;
        assert!(!verify(&der, &signed, &signature, HashAlgorithm::SHA256), "other data");
        signed[20] ^= 1;
        *signature.last_mut().unwrap() ^= 1;
        assert!(!verify(&der, &signed, &signature, HashAlgorithm::SHA256), "another signature");
    }

    #[test]
    fn a_point_off_the_curve_is_no_key() {
        let (mut der, signed, signature) = ffmpeg();
        let point = der.windows(2).rposition(|two| two == [0x00, 0x04]).unwrap();
        der[point + 30] ^= 1;
        assert!(!verify(&der, &signed, &signature, HashAlgorithm::SHA256));
    }

    #[test]
    fn other_algorithms_and_curves_are_left_to_the_library() {
        let (der, signed, signature) = ffmpeg();
        let rsa = Verifier.verify_signature(
            &der,
            &signed,
            &signature,
            HashAlgorithm::SHA256,
            SignatureAlgorithm::RSA,
        );
        assert!(matches!(rsa, Err(CryptoError::UnsupportedSignatureAlgorithm(_))));
        assert!(!verify(b"no certificate", &signed, &signature, HashAlgorithm::SHA256));
        let mut other = der;
        let curve = other.windows(5).position(|five| five == [0x2b, 0x81, 0x04, 0x00, 0x21]).unwrap();
        other[curve + 4] = 0x23;
        let p521 = Verifier.verify_signature(
            &other,
            &signed,
            &signature,
            HashAlgorithm::SHA256,
            SignatureAlgorithm::ECDSA,
        );
        assert_eq!(p521, Err(CryptoError::UnsupportedEcCurve));
    }
}
