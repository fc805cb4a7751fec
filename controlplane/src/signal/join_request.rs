//! The `join_request` of the request line: base64url around a wrapper, which may be gzip (RFC 1952) around the request.

use std::io::Read as _;

use auralink_livekit::prost::Message as _;
use auralink_livekit::{JoinRequest, WrappedJoinRequest, wrapped_join_request::Compression};
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Bytes a join request may have once inflated.
pub const JOIN_REQUEST_BYTES_MAX: u64 = 1 << 20;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Why a join request was refused; the client's fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JoinRequestError {
    #[error("join_request is required")]
    Missing,
    #[error("cannot base64 decode wrapped join request")]
    Base64,
    #[error("cannot unmarshal wrapped join request")]
    Wrapper,
    #[error("cannot unmarshal join request")]
    Inner,
    #[error("cannot decompress join request")]
    Gzip,
    #[error("join request too large")]
    TooLarge,
    #[error("attributes are not a JSON object of strings in base64url")]
    Attributes,
}

/// Reads the query parameter.
///
/// # Errors
/// [`JoinRequestError`]
pub fn parse(text: Option<&str>) -> Result<JoinRequest, JoinRequestError> {
    let text = text.filter(|text| !text.is_empty()).ok_or(JoinRequestError::Missing)?;
    // Some clients use the ordinary alphabet, whose `+` becomes a space in a query.
    let text = text.replace([' ', '+'], "-").replace('/', "_");
    let bytes = BASE64.decode(text).map_err(|_| JoinRequestError::Base64)?;
    let wrapped = WrappedJoinRequest::decode(bytes.as_slice()).map_err(|_| JoinRequestError::Wrapper)?;
    let inner = match wrapped.compression() {
        Compression::None => wrapped.join_request,
        Compression::Gzip => inflate(&wrapped.join_request)?,
    };
    if inner.len() as u64 > JOIN_REQUEST_BYTES_MAX {
        return Err(JoinRequestError::TooLarge);
    }
    JoinRequest::decode(inner.as_slice()).map_err(|_| JoinRequestError::Inner)
}

fn inflate(bytes: &[u8]) -> Result<Vec<u8>, JoinRequestError> {
    let mut inner = Vec::new();
    let mut reader = flate2::read::GzDecoder::new(bytes).take(JOIN_REQUEST_BYTES_MAX + 1);
    reader.read_to_end(&mut inner).map_err(|_| JoinRequestError::Gzip)?;
    Ok(inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};
    use std::io::Write as _;

    fn wrap(inner: &[u8], gzip: bool) -> Vec<u8> {
        let join_request = if gzip {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(inner).unwrap();
            encoder.finish().unwrap()
        } else {
            inner.to_vec()
        };
        WrappedJoinRequest { compression: gzip.into(), join_request }.encode_to_vec()
    }

    #[test]
    fn every_form_clients_send_is_read() {
        let request =
            JoinRequest { participant_sid: "PA_xyz".into(), metadata: "ÿ".repeat(99), ..Default::default() };
        for gzip in [false, true] {
            let bytes = wrap(&request.encode_to_vec(), gzip);
            for text in [
                BASE64_URL_SAFE.encode(&bytes),
                BASE64_URL_SAFE_NO_PAD.encode(&bytes),
                BASE64_STANDARD.encode(&bytes),
                BASE64_STANDARD.encode(&bytes).replace('+', " "),
            ] {
                assert_eq!(parse(Some(&text)).as_ref(), Ok(&request));
            }
        }
    }

    #[test]
    fn what_inflates_past_a_mebibyte_is_refused() {
        let bomb = BASE64_URL_SAFE.encode(wrap(&vec![0; 64 << 20], true));
        assert!(bomb.len() < 100_000);
        assert_eq!(parse(Some(&bomb)), Err(JoinRequestError::TooLarge));
        let plain = BASE64_URL_SAFE.encode(wrap(&vec![0; 2 << 20], false));
        assert_eq!(parse(Some(&plain)), Err(JoinRequestError::TooLarge));
    }

    #[test]
    fn rubbish_is_refused_by_the_layer_that_cannot_read_it() {
        assert_eq!(parse(None), Err(JoinRequestError::Missing));
        assert_eq!(parse(Some("")), Err(JoinRequestError::Missing));
        assert_eq!(parse(Some("!!")), Err(JoinRequestError::Base64));
        let encode = |bytes: &[u8]| BASE64_URL_SAFE.encode(bytes);
        assert_eq!(parse(Some(&encode(&[0xff; 9]))), Err(JoinRequestError::Wrapper));
        assert_eq!(parse(Some(&encode(&wrap(&[0xff; 9], false)))), Err(JoinRequestError::Inner));
        let not_gzip = WrappedJoinRequest { compression: 1, join_request: vec![1, 2, 3] }.encode_to_vec();
        assert_eq!(parse(Some(&encode(&not_gzip))), Err(JoinRequestError::Gzip));
    }
}
