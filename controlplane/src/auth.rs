//! Who calls: one [`Caller`] from a bearer token, for every entry point.
//!
//! LiveKit's access tokens: JWT (RFC 7519) signed with HS256 by the secret of the API key named in `iss`.

pub mod token;

use std::collections::BTreeMap;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};

pub use token::{Claims, VideoGrant};

/// Clock difference forgiven in `exp` and `nbf`, in seconds.
const LEEWAY_S: f64 = 60.0;
/// Bytes of a token worth looking at.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Bytes of an identity, a participant's name or a room's name.
pub const NAME_BYTES_MAX: usize = 256;

/// Why a caller was turned away. The caller's fault, all of them.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthError {
    #[error("invalid authorization token: no token given")]
    Missing,
    #[error("invalid authorization token: {0}")]
    Malformed(&'static str),
    #[error("invalid API key")]
    UnknownKey,
    #[error("invalid authorization token: the signature does not match")]
    BadSignature,
    #[error("invalid authorization token: token has no exp")]
    NoExpiry,
    #[error("invalid authorization token: token is expired")]
    Expired,
    #[error("invalid authorization token: token is not valid yet")]
    NotYet,
    #[error("permissions denied")]
    Denied,
}

/// Whoever holds a valid token, and what it grants.
#[derive(Clone, Debug)]
pub struct Caller {
    /// API key that signed the token.
    pub api_key: String,
    pub claims: Claims,
}

impl Caller {
    /// `sub`, or `jti` where `sub` is missing.
    pub fn identity(&self) -> &str {
        if self.claims.sub.is_empty() { &self.claims.jti } else { &self.claims.sub }
    }

    /// What the token grants on rooms.
    pub fn video(&self) -> &VideoGrant {
        &self.claims.video
    }
}

/// Verifies and signs tokens with the configured key pairs.
#[derive(Clone)]
pub struct Keys {
    secrets: BTreeMap<String, String>,
}

impl std::fmt::Debug for Keys {
    /// Names, never secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.secrets.keys()).finish()
    }
}

impl Keys {
    pub fn new(secrets: BTreeMap<String, String>) -> Self {
        Self { secrets }
    }

    /// Verifies a token at `now_s`, seconds since 1970.
    ///
    /// # Errors
    /// [`AuthError`]; the caller's fault.
    pub fn verify(&self, token: &str, now_s: f64) -> Result<Caller, AuthError> {
        if token.is_empty() {
            return Err(AuthError::Missing);
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::Malformed("token is too long"));
        }
        let header = jsonwebtoken::decode_header(token)
            .map_err(|_| AuthError::Malformed("not a JWT signed by HS256"))?;
        if header.alg != Algorithm::HS256 {
            return Err(AuthError::Malformed("only HS256 is accepted"));
        }
        let unverified = jsonwebtoken::dangerous::insecure_decode::<token::Issuer>(token)
            .map_err(|_| AuthError::Malformed("claims are not readable"))?;
        let api_key = unverified.claims.iss;
        let secret = self.secrets.get(&api_key).ok_or(AuthError::UnknownKey)?;
        let mut validation = Validation::new(Algorithm::HS256);
        // Times are checked below against the clock passed in.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let key = DecodingKey::from_secret(secret.as_bytes());
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &validation)
            .map_err(|error| match error.kind() {
                jsonwebtoken::errors::ErrorKind::InvalidSignature => AuthError::BadSignature,
                _ => AuthError::Malformed("claims are not readable"),
            })?
            .claims;
        let expiry = claims.exp.filter(|exp| *exp > 0.0).ok_or(AuthError::NoExpiry)?;
        if now_s > expiry + LEEWAY_S {
            return Err(AuthError::Expired);
        }
        if claims.nbf.is_some_and(|nbf| now_s < nbf - LEEWAY_S) {
            return Err(AuthError::NotYet);
        }
        Ok(Caller { api_key, claims })
    }

    /// Signs claims with the named key; `None` when there is no such key or the claims cannot be written.
    pub fn sign(&self, api_key: &str, claims: &Claims) -> Option<String> {
        let secret = self.secrets.get(api_key)?;
        let claims = Claims { iss: api_key.to_owned(), ..claims.clone() };
        jsonwebtoken::encode(
            &Header::new(Algorithm::HS256),
            &claims,
            &EncodingKey::from_secret(secret.as_bytes()),
        )
        .ok()
    }

    /// The secret of a key.
    pub fn secret(&self, api_key: &str) -> Option<&str> {
        self.secrets.get(api_key).map(String::as_str)
    }

    /// The first key, which signs what the server signs itself.
    pub fn first(&self) -> Option<&str> {
        self.secrets.keys().next().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: f64 = 1_790_000_000.0;

    fn keys() -> Keys {
        Keys::new(BTreeMap::from([("one".into(), "first".into()), ("two".into(), "second".into())]))
    }

    fn sign(claims: &serde_json::Value, secret: &str, alg: Algorithm) -> String {
        jsonwebtoken::encode(&Header::new(alg), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    fn verdict(claims: &serde_json::Value) -> Result<Caller, AuthError> {
        keys().verify(&sign(claims, "first", Algorithm::HS256), NOW)
    }

    #[test]
    fn a_good_token_of_any_configured_key_is_accepted() {
        let token =
            sign(&json!({"iss": "two", "sub": "alice", "exp": NOW + 1.0}), "second", Algorithm::HS256);
        let caller = keys().verify(&token, NOW).unwrap();
        assert_eq!((caller.identity(), caller.api_key.as_str()), ("alice", "two"));
    }

    #[test]
    fn identity_falls_back_to_jti() {
        assert_eq!(
            verdict(&json!({"iss": "one", "jti": "bob", "exp": NOW + 1.0})).unwrap().identity(),
            "bob"
        );
    }

    #[test]
    fn expiry_is_required_and_checked_with_a_minute_of_leeway() {
        assert_eq!(verdict(&json!({"iss": "one"})).unwrap_err(), AuthError::NoExpiry);
        assert!(verdict(&json!({"iss": "one", "exp": NOW - 59.0})).is_ok());
        assert_eq!(verdict(&json!({"iss": "one", "exp": NOW - 61.0})).unwrap_err(), AuthError::Expired);
    }

    #[test]
    fn tokens_of_the_future_are_refused_with_a_minute_of_leeway() {
        let at = |nbf: f64| json!({"iss": "one", "exp": NOW + 9_999.0, "nbf": nbf});
        assert!(verdict(&at(NOW + 59.0)).is_ok());
        assert_eq!(verdict(&at(NOW + 61.0)).unwrap_err(), AuthError::NotYet);
    }

    #[test]
    fn wrong_keys_algorithms_and_rubbish_are_refused() {
        let claims = json!({"iss": "one", "exp": NOW + 1.0});
        let wrong = sign(&claims, "second", Algorithm::HS256);
        assert_eq!(keys().verify(&wrong, NOW).unwrap_err(), AuthError::BadSignature);
        let hs512 = sign(&claims, "first", Algorithm::HS512);
        assert_eq!(keys().verify(&hs512, NOW).unwrap_err(), AuthError::Malformed("only HS256 is accepted"));
        let stranger = sign(&json!({"iss": "three", "exp": NOW + 1.0}), "first", Algorithm::HS256);
        assert_eq!(keys().verify(&stranger, NOW).unwrap_err(), AuthError::UnknownKey);
        // {"alg":"none"} with claims and an empty signature
        let none = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJvbmUiLCJleHAiOjE3OTAwMDAwMDF9.";
        for rubbish in ["", "a", "a.b.c", "....", none, &"x".repeat(20_000)] {
            assert!(keys().verify(rubbish, NOW).is_err());
        }
    }

    #[test]
    fn what_is_signed_verifies() {
        let claims = Claims { sub: "carol".into(), exp: Some(NOW + 10.0), ..Claims::default() };
        let token = keys().sign("two", &claims).unwrap();
        assert_eq!(keys().verify(&token, NOW).unwrap().identity(), "carol");
        assert!(keys().sign("nobody", &claims).is_none());
    }
}
