//! LiveKit's time-limited credentials: whoever knows the API secret can say what password belongs to a user name, so nobody has
//! to be registered.

use std::collections::BTreeMap;

use aws_lc_rs::{digest, hmac};
use md5::{Digest as _, Md5};

use crate::base62;

/// The realm of LiveKit's servers.
pub const REALM: &str = "livekit";

/// What a client is told to authenticate with (RFC 8489 §9.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

/// Credentials for one participant until `expiry_s`, seconds since 1970.
pub fn mint(api_key: &str, secret: &str, participant_sid: &str, expiry_s: u64) -> Credentials {
    Credentials {
        username: base62::encode(format!("{api_key}|{participant_sid}|{expiry_s}").as_bytes()),
        password: password(secret, participant_sid, expiry_s),
    }
}

fn password(secret: &str, participant_sid: &str, expiry_s: u64) -> String {
    let input = format!("{secret}|{participant_sid}|{expiry_s}");
    base62::encode(digest::digest(&digest::SHA256, input.as_bytes()).as_ref())
}

/// The key of long-term credentials (RFC 8489 §9.2.2). MD5 and SHA-1 are what every client has.
fn long_term_key(username: &[u8], realm: &[u8], password: &[u8]) -> hmac::Key {
    let input = [username, realm, password].join(&b':');
    hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &Md5::digest(input))
}

/// What follows from a user name.
pub(crate) struct Known {
    pub(crate) key: hmac::Key,
    pub(crate) expiry_s: u64,
}

/// The API keys and their secrets.
pub(crate) struct Authority {
    realm: String,
    secrets: BTreeMap<String, String>,
}

impl Authority {
    pub(crate) fn new(realm: String, secrets: BTreeMap<String, String>) -> Self {
        Self { realm, secrets }
    }

    pub(crate) fn realm(&self) -> &[u8] {
        self.realm.as_bytes()
    }

    /// The key that belongs to a user name of ours. Says nothing of who uses it.
    pub(crate) fn key_of(&self, username: &[u8]) -> Option<Known> {
        let text = String::from_utf8(base62::decode(username)?).ok()?;
        // From the end: an API key may have bars in it.
        let mut parts = text.rsplitn(3, '|');
        let expiry_s = parts.next()?.parse().ok()?;
        let participant_sid = parts.next()?;
        let secret = self.secrets.get(parts.next()?)?;
        let password = password(secret, participant_sid, expiry_s);
        Some(Known { key: long_term_key(username, self.realm(), password.as_bytes()), expiry_s })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
    }

    /// RFC 5769 §2.4, with the password `TheMatrIX`.
    const SAMPLE: &str = "00010060 2112a442 78ad3433 c6ad72c0 29da412e 00060012 e3839ee3 8388e383 aae38383 e382af\
        e3 82b90000 0015001c 662f2f34 39396b39 35346436 4f4c3334 6f4c3946 53547679 36347341 0014000b 6578616d 706c652e\
        6f726700 00080014 f6702465 6dd64a3e 02b8e071 2e85c9a2 8ca89666";

    #[test]
    fn the_rfcs_sample_of_long_term_credentials_verifies() {
        let bytes = hex(SAMPLE);
        let message = Message::parse(&bytes).unwrap();
        let key =
            |password: &[u8]| long_term_key(message.username.unwrap(), message.realm.unwrap(), password);
        assert!(message.verify(&key(b"TheMatrIX")));
        assert!(!message.verify(&key(b"TheMatriX")));
    }

    #[test]
    fn a_password_follows_from_its_user_name() {
        let secrets = BTreeMap::from([("a|b".to_owned(), "secret".to_owned())]);
        let authority = Authority::new(REALM.into(), secrets);
        let minted = mint("a|b", "secret", "PA_one", 1_700_000_000);
        let known = authority.key_of(minted.username.as_bytes()).unwrap();
        assert_eq!(known.expiry_s, 1_700_000_000);
        let own = long_term_key(minted.username.as_bytes(), b"livekit", minted.password.as_bytes());
        let tag = hmac::sign(&own, b"said");
        assert!(hmac::verify(&known.key, b"said", tag.as_ref()).is_ok());
        let other = mint("c", "secret", "PA_one", 1);
        for unknown in [other.username.as_str(), "", "AAAA", "\u{fffd}"] {
            assert!(authority.key_of(unknown.as_bytes()).is_none(), "{unknown}");
        }
    }
}
