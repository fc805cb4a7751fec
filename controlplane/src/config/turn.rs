//! How clients get through firewalls: the embedded TURN server, and servers elsewhere that they are told of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use auralink_turn::policy::Cidr;
use serde::{Deserialize, Serialize};

use super::{Config, ConfigError};

/// Bytes of an API key beside which a user name still has room for the rest of its credentials (RFC 8489 §14.3).
const API_KEY_BYTES_MAX: usize = 256;
/// Letters of a host name (RFC 1035 §2.3.4).
const HOST_LEN_MAX: usize = 253;
const LABEL_LEN_MAX: usize = 63;

/// The embedded TURN server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Turn {
    pub enabled: bool,
    /// Name clients reach it by over TLS; the certificate's.
    pub domain: String,
    /// PEM files of the certificate chain and its key.
    pub cert_file: Option<String>,
    pub key_file: Option<String>,
    /// TURN over UDP; 0 for none.
    pub udp_port: u16,
    /// TURN over TLS; 0 for none.
    pub tls_port: u16,
    /// A balancer before this port ends TLS, so plain TCP arrives.
    pub external_tls: bool,
    /// Clients are told `tls_port` instead of 443.
    pub advertise_tls_port: bool,
    /// Clients are told `domain` for UDP too, instead of the node's address.
    pub udp_use_domain: bool,
    /// UDP ports of relays, both included.
    pub relay_range_start: u16,
    pub relay_range_end: u16,
    /// Addresses both ports are bound on.
    pub bind_addresses: Vec<IpAddr>,
    /// Seconds in which a client may use its credentials for new allocations.
    pub ttl_seconds: u32,
    /// Allocations of one user name.
    pub per_user_relay_allocation_limit: u32,
    /// Private, loopback and other addresses that clients may reach all the same, as `10.0.0.0/8`.
    pub allow_restricted_peer_cidrs: Vec<String>,
    /// Addresses that clients may not reach.
    pub deny_peer_cidrs: Vec<String>,
    /// Allocations of everybody.
    pub allocations_max: usize,
    /// TCP connections at once; more are closed.
    pub connections_max: usize,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            enabled: false,
            domain: String::new(),
            cert_file: None,
            key_file: None,
            udp_port: 3_478,
            tls_port: 5_349,
            external_tls: false,
            advertise_tls_port: false,
            udp_use_domain: false,
            relay_range_start: 30_000,
            relay_range_end: 40_000,
            bind_addresses: vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
            ttl_seconds: 300,
            per_user_relay_allocation_limit: 12,
            allow_restricted_peer_cidrs: Vec::new(),
            deny_peer_cidrs: Vec::new(),
            allocations_max: 4_096,
            connections_max: 4_096,
        }
    }
}

/// How a client speaks to a TURN server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TurnProtocol {
    Udp,
    #[default]
    Tcp,
    Tls,
}

/// A TURN server elsewhere.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TurnServer {
    pub host: String,
    pub port: u16,
    pub protocol: TurnProtocol,
    /// What every client is told, unless there is a secret.
    pub username: String,
    pub credential: String,
    /// Shared with that server: makes time-limited credentials for each client.
    pub secret: String,
    /// File with that secret.
    pub secret_file: Option<String>,
    /// Seconds such credentials are good for.
    pub ttl: u32,
}

impl Default for TurnServer {
    fn default() -> Self {
        Self {
            host: String::new(),
            port: 0,
            protocol: TurnProtocol::default(),
            username: String::new(),
            credential: String::new(),
            secret: String::new(),
            secret_file: None,
            ttl: 14_400,
        }
    }
}

/// A host as URLs have it: IPv6 in brackets.
pub fn url_host(host: &str) -> String {
    match host.parse::<Ipv6Addr>() {
        Ok(ip) => format!("[{ip}]"),
        Err(_) => host.to_owned(),
    }
}

/// A host name or address that browsers take in a `stun:` or `turn:` URL; some crash on others (RFC 7064, RFC 7065).
fn is_host(text: &str) -> bool {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if bare.unwrap_or(text).parse::<Ipv6Addr>().is_ok() {
        return true;
    }
    // What ends in a number is an IPv4 address or nothing.
    let ends_in_number = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if ends_in_number {
        return text.parse::<Ipv4Addr>().is_ok();
    }
    let is_label = |label: &str| {
        (1..=LABEL_LEN_MAX).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= HOST_LEN_MAX && text.split('.').all(is_label)
}

/// Host and port of `host`, `host:port`, `[::1]` or `[::1]:port`.
fn is_host_and_port(text: &str) -> bool {
    if is_host(text) {
        return true;
    }
    let port = |text: &str| text.parse::<u16>().is_ok_and(|port| port != 0);
    // Without brackets nobody knows where an IPv6 address ends.
    text.rsplit_once(':').is_some_and(|(host, digits)| {
        (host.starts_with('[') || !host.contains(':')) && is_host(host) && port(digits)
    })
}

/// Refuses what must not start.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    for server in &config.rtc.turn_servers {
        check_server(server)?;
    }
    if let Some(wrong) = config.rtc.stun_servers.iter().find(|server| !is_host_and_port(server)) {
        return refuse(format!("rtc.stun_servers: `{wrong}` is neither host nor host:port"));
    }
    if config.turn.enabled { check_embedded(config) } else { Ok(()) }
}

fn refuse(message: String) -> Result<(), ConfigError> {
    Err(ConfigError::BadValue(message))
}

fn check_server(server: &TurnServer) -> Result<(), ConfigError> {
    let TurnServer { host, port, .. } = server;
    if !is_host(host) {
        return refuse(format!(
            "rtc.turn_servers: `{host}` is no host: give its name or address, nothing else"
        ));
    }
    if *port == 0 {
        return refuse(format!("rtc.turn_servers: {host} has no port"));
    }
    let is_static = !server.username.is_empty() || !server.credential.is_empty();
    match (is_static, !server.secret.is_empty()) {
        (true, true) => {
            refuse(format!("rtc.turn_servers: {host} has both a credential and a secret: give one"))
        }
        (false, false) => {
            refuse(format!("rtc.turn_servers: {host} needs username and credential, or a secret"))
        }
        (true, false) if server.username.is_empty() || server.credential.is_empty() => {
            refuse(format!("rtc.turn_servers: {host} needs both username and credential"))
        }
        _ if server.ttl == 0 => refuse(format!("rtc.turn_servers: the ttl of {host} is 0 seconds")),
        _ => Ok(()),
    }
}

fn check_embedded(config: &Config) -> Result<(), ConfigError> {
    let turn = &config.turn;
    if turn.udp_port == 0 && turn.tls_port == 0 {
        return refuse("turn: both udp_port and tls_port are 0, so nobody could reach it".into());
    }
    if (turn.tls_port != 0 || turn.udp_use_domain) && !is_host(&turn.domain) {
        return refuse(match turn.domain.as_str() {
            "" => "turn.domain is missing: TLS needs the name on the certificate (tls_port: 0 for UDP alone)"
                .into(),
            wrong => format!("turn.domain: `{wrong}` is no host name"),
        });
    }
    let has_certificate = turn.cert_file.is_some() && turn.key_file.is_some();
    if turn.tls_port != 0 && !turn.external_tls && !has_certificate {
        let message = "turn.cert_file and turn.key_file are needed for TLS, or external_tls where a balancer \
                       ends it (tls_port: 0 for UDP alone)";
        return refuse(message.into());
    }
    if turn.bind_addresses.is_empty() {
        return refuse("turn.bind_addresses: at least one address is needed".into());
    }
    check_range(config)?;
    for (key, cidrs) in [
        ("allow_restricted_peer_cidrs", &turn.allow_restricted_peer_cidrs),
        ("deny_peer_cidrs", &turn.deny_peer_cidrs),
    ] {
        if let Some(Err(error)) = cidrs.iter().map(|text| text.parse::<Cidr>()).find(Result::is_err) {
            return refuse(format!("turn.{key}: {error}"));
        }
    }
    if turn.ttl_seconds == 0 {
        return refuse("turn.ttl_seconds: credentials of 0 seconds let nobody in".into());
    }
    if config.rtc.force_tcp {
        return refuse(
            "turn.enabled with rtc.force_tcp: relays reach media by UDP, which is not offered".into(),
        );
    }
    match config.keys.keys().find(|key| key.len() > API_KEY_BYTES_MAX) {
        Some(_) => {
            refuse(format!("turn: API keys of more than {API_KEY_BYTES_MAX} bytes fit in no user name"))
        }
        None => Ok(()),
    }
}

/// Relays need ports that nothing else of this node wants.
fn check_range(config: &Config) -> Result<(), ConfigError> {
    let turn = &config.turn;
    let (start, end) = (turn.relay_range_start, turn.relay_range_end);
    if start == 0 || end < start {
        return refuse(format!("turn.relay_range_start {start} to relay_range_end {end} are no ports"));
    }
    let media = config.rtc.udp_port;
    if media.first <= end && media.last >= start {
        return refuse(format!("turn: relays {start}-{end} and rtc.udp_port {media} have ports in common"));
    }
    if (start..=end).contains(&turn.udp_port) {
        return refuse(format!("turn: relays {start}-{end} and turn.udp_port have a port in common"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_and_addresses_and_nothing_else() {
        for host in ["turn.example.org", "localhost", "10.0.0.1", "2001:db8::1", "[2001:db8::1]", "a-b.c_d"] {
            assert!(is_host(host), "{host}");
        }
        let long = "a".repeat(64);
        for wrong in [
            "",
            "turn:example.org",
            "example.org:3478",
            "https://example.org",
            "example.org/",
            "a b",
            "-a.org",
            "a..org",
            "10.0.0",
            "1.2.3.256",
            "[10.0.0.1]",
            "[::1",
            "é.org",
            "example.org?transport=udp",
            &long,
        ] {
            assert!(!is_host(wrong), "{wrong}");
        }
        for server in ["a.org", "a.org:19302", "10.0.0.1:3478", "[::1]:3478", "::1"] {
            assert!(is_host_and_port(server), "{server}");
        }
        for wrong in ["a.org:", "a.org:0", "a.org:70000", "stun:a.org:1", "::1:2:x", ":3478"] {
            assert!(!is_host_and_port(wrong), "{wrong}");
        }
    }

    fn refusal(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::dev();
        config.turn = Turn { enabled: true, tls_port: 0, ..Turn::default() };
        change(&mut config);
        check(&config).map_or_else(|error| error.to_string(), |()| "fine".into())
    }

    #[test]
    fn what_would_not_work_does_not_start() {
        assert_eq!(refusal(|_| {}), "fine");
        let starts = |change: fn(&mut Config), words: &str| {
            let refusal = refusal(change);
            assert!(refusal.starts_with(words), "{refusal}");
        };
        starts(|c| c.turn.tls_port = 5_349, "turn.domain is missing: TLS needs the name");
        starts(
            |c| {
                c.turn.tls_port = 5_349;
                c.turn.domain = "turn.example.org".into();
            },
            "turn.cert_file and turn.key_file are needed",
        );
        starts(
            |c| {
                c.turn.tls_port = 5_349;
                c.turn.external_tls = true;
                c.turn.domain = "https://turn.example.org".into();
            },
            "turn.domain: `https://turn.example.org` is no host name",
        );
        starts(|c| c.turn.udp_port = 0, "turn: both udp_port and tls_port are 0");
        starts(|c| c.turn.relay_range_end = 29_999, "turn.relay_range_start 30000 to relay_range_end 29999");
        starts(|c| c.turn.relay_range_start = 7_000, "turn: relays 7000-40000 and rtc.udp_port 7882 have");
        starts(|c| c.turn.udp_port = 30_500, "turn: relays 30000-40000 and turn.udp_port have");
        starts(
            |c| c.turn.deny_peer_cidrs = vec!["10.0.0.0/40".into()],
            "turn.deny_peer_cidrs: `10.0.0.0/40` is not",
        );
        starts(|c| c.turn.bind_addresses.clear(), "turn.bind_addresses: at least one");
        starts(|c| c.turn.ttl_seconds = 0, "turn.ttl_seconds");
        starts(|c| c.rtc.force_tcp = true, "turn.enabled with rtc.force_tcp");
        starts(|c| drop(c.keys.insert("k".repeat(257), "s".into())), "turn: API keys of more than 256 bytes");
    }

    #[test]
    fn servers_elsewhere_need_a_host_a_port_and_one_kind_of_credentials() {
        let with = |change: fn(&mut TurnServer)| {
            refusal(|config| {
                let mut server = TurnServer { host: "a.org".into(), port: 3_478, ..TurnServer::default() };
                change(&mut server);
                config.rtc.turn_servers.push(server);
            })
        };
        assert_eq!(with(|s| s.secret = "s".into()), "fine");
        let user = |s: &mut TurnServer| (s.username, s.credential) = ("u".into(), "c".into());
        assert_eq!(with(user), "fine");
        assert!(with(|_| {}).contains("needs username and credential, or a secret"));
        assert!(with(|s| s.username = "u".into()).contains("needs both"));
        assert!(
            with(|s| (s.secret, s.username) = ("s".into(), "u".into())).contains("has both a credential")
        );
        assert!(with(|s| (s.secret, s.port) = ("s".into(), 0)).contains("a.org has no port"));
        assert!(
            with(|s| (s.secret, s.host) = ("s".into(), "turn:a.org".into()))
                .contains("`turn:a.org` is no host")
        );
        assert!(with(|s| (s.secret, s.ttl) = ("s".into(), 0)).contains("0 seconds"));
        assert!(
            refusal(|c| c.rtc.stun_servers.push("stun:a.org".into()))
                .starts_with("rtc.stun_servers: `stun:a.org`")
        );
    }
}
