//! The STUN and TURN servers a client is told of, in LiveKit's order: our own, those configured elsewhere, then STUN servers.
//! Where nothing is configured, nothing is told; nobody else's servers are used unasked.

use std::net::IpAddr;

use auralink_livekit::IceServer;
use auralink_turn::credentials::{self, Credentials};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::auth::Keys;
use crate::config::Config;
use crate::config::turn::{Turn, TurnProtocol, TurnServer, url_host};

/// Where browsers' TLS gets through every firewall; a balancer takes it to `turn.tls_port`.
const HTTPS_PORT: u16 = 443;

/// Whom servers are told to.
#[derive(Clone, Copy, Debug)]
pub struct For<'a> {
    /// The API key it joined with.
    pub api_key: &'a str,
    pub participant_sid: &'a str,
    pub unix_s: u64,
    /// It is to be reached by TLS alone.
    pub tls_only: bool,
}

/// All servers that could be told.
#[derive(Clone, Default, Debug)]
pub struct IceServers {
    embedded: Option<Embedded>,
    elsewhere: Vec<TurnServer>,
    stun: Vec<String>,
}

#[derive(Clone, Debug)]
struct Embedded {
    udp: Option<String>,
    tls: Option<String>,
    ttl_s: u64,
}

impl Embedded {
    fn new(turn: &Turn, node: Option<IpAddr>) -> Self {
        let host =
            if turn.udp_use_domain { Some(turn.domain.clone()) } else { node.map(|ip| ip.to_string()) };
        let udp_port = turn.udp_port;
        let udp = host.filter(|_| udp_port != 0);
        let tls_port = if turn.advertise_tls_port { turn.tls_port } else { HTTPS_PORT };
        let tls = Some(&turn.domain).filter(|_| turn.tls_port != 0);
        Self {
            udp: udp.map(|host| format!("turn:{}:{udp_port}?transport=udp", url_host(&host))),
            tls: tls.map(|host| format!("turns:{}:{tls_port}?transport=tcp", url_host(host))),
            ttl_s: turn.ttl_seconds.into(),
        }
    }
}

impl IceServers {
    pub fn new(config: &Config) -> Self {
        let node = config.advertise().first().copied();
        Self {
            embedded: config.turn.enabled.then(|| Embedded::new(&config.turn, node)),
            elsewhere: config.rtc.turn_servers.clone(),
            stun: config.rtc.stun_servers.clone(),
        }
    }

    /// Whether a client can be reached by TLS alone.
    pub fn has_tls(&self) -> bool {
        self.embedded.as_ref().is_some_and(|embedded| embedded.tls.is_some())
            || self.elsewhere.iter().any(|server| server.protocol == TurnProtocol::Tls)
    }

    /// What one client is told.
    pub fn tell(&self, keys: &Keys, to: For<'_>) -> Vec<IceServer> {
        let mut told = Vec::new();
        if let Some(embedded) = &self.embedded
            && let Some(secret) = keys.secret(to.api_key)
        {
            let udp = embedded.udp.iter().filter(|_| !to.tls_only);
            let expiry_s = to.unix_s + embedded.ttl_s;
            let Credentials { username, password } =
                credentials::mint(to.api_key, secret, to.participant_sid, expiry_s);
            let urls: Vec<String> = udp.chain(&embedded.tls).cloned().collect();
            if !urls.is_empty() {
                told.push(IceServer { urls, username, credential: password });
            }
        }
        let elsewhere = self.elsewhere.iter();
        let elsewhere = elsewhere.filter(|server| !to.tls_only || server.protocol == TurnProtocol::Tls);
        told.extend(elsewhere.map(|server| server_elsewhere(server, &to)));
        if !self.stun.is_empty() && !to.tls_only {
            let urls = self.stun.iter().map(|server| format!("stun:{}", url_host(server))).collect();
            told.push(IceServer { urls, ..IceServer::default() });
        }
        told
    }
}

fn server_elsewhere(server: &TurnServer, to: &For<'_>) -> IceServer {
    let (scheme, transport) = match server.protocol {
        TurnProtocol::Udp => ("turn", "udp"),
        TurnProtocol::Tcp => ("turn", "tcp"),
        TurnProtocol::Tls => ("turns", "tcp"),
    };
    let (username, credential) = if server.secret.is_empty() {
        (server.username.clone(), server.credential.clone())
    } else {
        // The scheme other TURN servers know as their REST API.
        let username = format!("{}:{}", to.unix_s + u64::from(server.ttl), to.participant_sid);
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, server.secret.as_bytes());
        let credential = STANDARD.encode(hmac::sign(&key, username.as_bytes()));
        (username, credential)
    };
    let url = format!("{scheme}:{}:{}?transport={transport}", url_host(&server.host), server.port);
    IceServer { urls: vec![url], username, credential }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: For<'_> =
        For { api_key: "key", participant_sid: "PA_1", unix_s: 1_700_000_000, tls_only: false };

    fn keys() -> Keys {
        Keys::new([("key".to_owned(), "secret".to_owned())].into())
    }

    fn config() -> Config {
        let mut config = Config::dev();
        config.rtc.node_ip = Some("203.0.113.7".parse().unwrap());
        config.turn = Turn { enabled: true, domain: "turn.example.org".into(), ..Turn::default() };
        config
    }

    fn urls(config: &Config, to: For<'_>) -> Vec<String> {
        IceServers::new(config).tell(&keys(), to).into_iter().flat_map(|server| server.urls).collect()
    }

    #[test]
    fn nothing_is_told_where_nothing_is_configured() {
        assert_eq!(IceServers::new(&Config::dev()).tell(&keys(), TO), []);
        assert_eq!(IceServers::new(&config()).tell(&keys(), For { api_key: "gone", ..TO }), []);
    }

    #[test]
    fn the_embedded_server_comes_with_credentials_for_the_participant() {
        let told = IceServers::new(&config()).tell(&keys(), TO);
        let [server] = told.as_slice() else { panic!("{told:?}") };
        let urls = ["turn:203.0.113.7:3478?transport=udp", "turns:turn.example.org:443?transport=tcp"];
        assert_eq!(server.urls, urls);
        let expected = credentials::mint("key", "secret", "PA_1", 1_700_000_300);
        assert_eq!((&server.username, &server.credential), (&expected.username, &expected.password));
    }

    #[test]
    fn ports_and_names_are_as_configured() {
        let mut config = config();
        config.turn.advertise_tls_port = true;
        config.turn.udp_use_domain = true;
        let both = ["turn:turn.example.org:3478?transport=udp", "turns:turn.example.org:5349?transport=tcp"];
        assert_eq!(urls(&config, TO), both);
        assert_eq!(urls(&config, For { tls_only: true, ..TO }), both[1..]);
        config.turn.tls_port = 0;
        assert_eq!(urls(&config, TO), both[..1]);
        assert!(!IceServers::new(&config).has_tls());
        config.turn.udp_use_domain = false;
        config.rtc.node_ip = Some("2001:db8::7".parse().unwrap());
        assert_eq!(urls(&config, TO), ["turn:[2001:db8::7]:3478?transport=udp"]);
    }

    #[test]
    fn servers_elsewhere_follow_and_stun_is_last() {
        let mut config = config();
        config.turn.enabled = false;
        config.rtc.stun_servers = vec!["stun.example.org:3478".into(), "10.0.0.1".into()];
        let server = |host: &str, protocol| TurnServer {
            host: host.into(),
            port: 443,
            protocol,
            ..TurnServer::default()
        };
        config.rtc.turn_servers = vec![
            TurnServer { username: "u".into(), credential: "c".into(), ..server("a.org", TurnProtocol::Udp) },
            TurnServer { secret: "shared".into(), ..server("::1", TurnProtocol::Tls) },
        ];
        let told = IceServers::new(&config).tell(&keys(), TO);
        assert_eq!(told[0].urls, ["turn:a.org:443?transport=udp"]);
        assert_eq!((told[0].username.as_str(), told[0].credential.as_str()), ("u", "c"));
        assert_eq!(told[1].urls, ["turns:[::1]:443?transport=tcp"]);
        assert_eq!(told[1].username, "1700014400:PA_1");
        // printf 1700014400:PA_1 | openssl dgst -sha1 -hmac shared -binary | base64
        assert_eq!(told[1].credential, "SURh5UnjgXQK7B8531xh4Led/40=");
        assert_eq!(told[2].urls, ["stun:stun.example.org:3478", "stun:10.0.0.1"]);
        assert_eq!(urls(&config, For { tls_only: true, ..TO }), ["turns:[::1]:443?transport=tcp"]);
        assert!(IceServers::new(&config).has_tls());
    }
}
