//! SDP fragments (RFC 8840 §9): how a client trickles candidates or restarts ICE. Hostile input: bounded before it is read.

use std::fmt::Write as _;

/// Bytes of a fragment.
pub const FRAGMENT_BYTES_MAX: usize = 64 << 10;
/// Longest user fragment and password (RFC 8839 §5.4).
const CREDENTIAL_BYTES_MAX: usize = 256;

/// Why a fragment was refused. The client's fault, all of them.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FragmentError {
    #[error("the fragment has {0} bytes, at most {FRAGMENT_BYTES_MAX} are accepted")]
    TooLong(usize),
    #[error("line {0} of the fragment is neither an attribute nor a media section")]
    Syntax(usize),
    #[error("the fragment's a=ice-ufrag or a=ice-pwd cannot be used, or one stands there without the other")]
    Credentials,
}

/// A fragment, reduced to what matters to a side that learns addresses from connectivity checks.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Fragment {
    /// User fragment and password.
    pub credentials: Option<(String, String)>,
}

impl Fragment {
    /// Reads a fragment.
    ///
    /// # Errors
    /// [`FragmentError`]
    pub fn parse(text: &str) -> Result<Self, FragmentError> {
        if text.len() > FRAGMENT_BYTES_MAX {
            return Err(FragmentError::TooLong(text.len()));
        }
        let (mut ufrag, mut pwd) = (None, None);
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if !(line.is_empty() || line.starts_with("a=") || line.starts_with("m=")) {
                return Err(FragmentError::Syntax(index + 1));
            }
            ufrag = ufrag.or_else(|| line.strip_prefix("a=ice-ufrag:"));
            pwd = pwd.or_else(|| line.strip_prefix("a=ice-pwd:"));
        }
        let credentials = match (ufrag, pwd) {
            (None, None) => None,
            (Some(ufrag), Some(pwd)) if is_whole(ufrag, 4) && is_whole(pwd, 22) => {
                Some((ufrag.to_owned(), pwd.to_owned()))
            }
            _ => return Err(FragmentError::Credentials),
        };
        Ok(Self { credentials })
    }

    /// The offer that restarts ICE: `offer` with these credentials. `None` where they are its own already, or none are given.
    pub fn restarts(&self, offer: &str) -> Option<String> {
        let (ufrag, pwd) = self.credentials.as_ref()?;
        let mut restarted = String::with_capacity(offer.len() + 64);
        let mut is_other = false;
        for line in offer.lines() {
            let line = line.trim_end();
            let replaced = if line.starts_with("a=ice-ufrag:") {
                Some(format!("a=ice-ufrag:{ufrag}"))
            } else if line.starts_with("a=ice-pwd:") {
                Some(format!("a=ice-pwd:{pwd}"))
            } else {
                None
            };
            is_other |= replaced.as_ref().is_some_and(|replaced| replaced != line);
            restarted.push_str(replaced.as_deref().unwrap_or(line));
            restarted.push_str("\r\n");
        }
        is_other.then_some(restarted)
    }
}

/// ICE characters only (RFC 8839 §5.4), and enough of them.
fn is_whole(text: &str, least: usize) -> bool {
    (least..=CREDENTIAL_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/')
}

/// What a client needs of an answer to go on with ICE: credentials above, candidates in the first section.
pub fn of_answer(answer: &str) -> String {
    let first = |name: &str| answer.lines().map(str::trim_end).find(|line| line.starts_with(name));
    let mut fragment = String::new();
    let mut add = |line: &str| {
        // Writing to a String cannot fail.
        let _ = write!(fragment, "{line}\r\n");
    };
    for name in ["a=ice-lite", "a=ice-ufrag:", "a=ice-pwd:", "m=", "a=mid:"] {
        first(name).into_iter().for_each(&mut add);
    }
    let candidates = answer.lines().map(str::trim_end);
    candidates.filter(|line| line.starts_with("a=candidate:")).for_each(&mut add);
    add("a=end-of-candidates");
    fragment
}

#[cfg(test)]
mod tests {
    use super::*;

    const PWD: &str = "0123456789abcdefghijkl";

    fn fragment(ufrag: &str) -> Fragment {
        Fragment::parse(&format!(
            "a=ice-ufrag:{ufrag}\r\na=ice-pwd:{PWD}\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\n"
        ))
        .unwrap()
    }

    #[test]
    fn candidates_alone_change_nothing_and_other_credentials_restart() {
        let offer = format!("v=0\r\na=ice-ufrag:own1\r\na=ice-pwd:{PWD}\r\nm=audio\r\na=ice-ufrag:own1\r\n");
        let trickled = Fragment::parse("a=mid:0\r\na=candidate:1 1 udp 1 10.0.0.1 9 typ host\r\n").unwrap();
        assert_eq!(trickled.restarts(&offer), None);
        assert_eq!(fragment("own1").restarts(&offer), None, "its own");
        let restarted = fragment("new2").restarts(&offer).unwrap();
        assert_eq!(restarted, offer.replace("own1", "new2"));
    }

    #[test]
    fn what_is_no_fragment_is_refused() {
        assert_eq!(Fragment::parse("GET / HTTP/1.1"), Err(FragmentError::Syntax(1)));
        assert_eq!(Fragment::parse("a=ice-ufrag:abcd\n"), Err(FragmentError::Credentials));
        let short = "a=ice-ufrag:abcd\na=ice-pwd:short\n";
        assert_eq!(Fragment::parse(short), Err(FragmentError::Credentials));
        let smuggled = format!("a=ice-ufrag:ab cd\na=ice-pwd:{PWD}\n");
        assert_eq!(Fragment::parse(&smuggled), Err(FragmentError::Credentials));
        let long = "a".repeat(FRAGMENT_BYTES_MAX + 1);
        assert_eq!(Fragment::parse(&long), Err(FragmentError::TooLong(FRAGMENT_BYTES_MAX + 1)));
        assert_eq!(Fragment::parse(""), Ok(Fragment::default()));
    }

    #[test]
    fn an_answers_credentials_and_candidates_make_a_fragment() {
        let answer = "v=0\r\na=ice-lite\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=candidate:1 1 udp 1 10.0.0.1 9 typ host\r\n\
                      a=ice-ufrag:abcd\r\na=ice-pwd:x\r\na=mid:0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:1\r\n";
        let expected = "a=ice-lite\r\na=ice-ufrag:abcd\r\na=ice-pwd:x\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n\
                        a=candidate:1 1 udp 1 10.0.0.1 9 typ host\r\na=end-of-candidates\r\n";
        assert_eq!(of_answer(answer), expected);
    }
}
