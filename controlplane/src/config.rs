//! The one typed configuration: what an operator can set, with defaults that run.
//!
//! TOML and LiveKit's YAML share this schema; see [`source`] for how files, environment and flags are laid over each other.

pub mod addresses;
pub mod check;
pub mod flags;
pub mod source;
pub mod turn;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

pub use addresses::NodeIp;
pub use check::ConfigError;
use turn::{Turn, TurnServer};

/// Key pair of the dev profile. Refused everywhere else.
pub const DEV_KEY: &str = "devkey";
/// Secret of the dev profile.
pub const DEV_SECRET: &str = "secret";

/// How strict start-up is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Loopback signalling and a well-known key pair.
    Dev,
    Staging,
    #[default]
    Prod,
}

/// How datagrams reach the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum IoBackend {
    /// The one that measures cheaper: `mmsg`.
    #[default]
    Auto,
    /// io_uring; refused at start where it is not allowed.
    Uring,
    /// `recvmmsg` and `sendmmsg`.
    Mmsg,
}

/// Where a room's later transports are placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Spill {
    /// At the room's home shard, until that is busy and another is not.
    #[default]
    Home,
    /// On the next shard each time; for tests of the lanes.
    Forced,
}

/// Who brings a datagram to its shard when several share a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Steer {
    /// The kernel where it allows BPF, else lanes.
    #[default]
    Auto,
    Lanes,
}

/// One UDP port, or a range such as `7882-7889` that turns on one port per shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "PortText", into = "PortText")]
pub struct UdpPorts {
    pub first: u16,
    pub last: u16,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PortText {
    Number(u16),
    Text(String),
}

impl TryFrom<PortText> for UdpPorts {
    type Error = String;

    fn try_from(text: PortText) -> Result<Self, String> {
        match text {
            PortText::Number(port) => Ok(Self { first: port, last: port }),
            PortText::Text(text) => text.parse(),
        }
    }
}

impl From<UdpPorts> for PortText {
    fn from(ports: UdpPorts) -> Self {
        if ports.first == ports.last { Self::Number(ports.first) } else { Self::Text(ports.to_string()) }
    }
}

impl std::fmt::Display for UdpPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl std::str::FromStr for UdpPorts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is neither a UDP port nor a range such as 7882-7889");
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first = first.trim().parse().map_err(|_| wrong())?;
        let last = last.trim().parse().map_err(|_| wrong())?;
        if first == 0 || last < first {
            return Err(wrong());
        }
        Ok(Self { first, last })
    }
}

/// Media transport.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Rtc {
    /// Media over UDP.
    pub udp_port: UdpPorts,
    /// Media over TCP, for clients that reach nothing by UDP; 0 for none.
    pub tcp_port: u16,
    /// Clients are offered TCP only.
    pub force_tcp: bool,
    /// Advertised in candidates instead of the addresses found on the host: one of each family at most, and of no other family.
    pub node_ip: Option<NodeIp>,
    /// Address the media sockets bind to, and its family the only one; every address of both families when not set.
    pub bind: Option<IpAddr>,
    /// STUN servers clients are told of, as `host:port`.
    pub stun_servers: Vec<String>,
    /// TURN servers elsewhere clients are told of.
    pub turn_servers: Vec<TurnServer>,
}

impl Default for Rtc {
    fn default() -> Self {
        Self {
            udp_port: UdpPorts { first: 7882, last: 7882 },
            tcp_port: 7_881,
            force_tcp: false,
            node_ip: None,
            bind: None,
            stun_servers: Vec::new(),
            turn_servers: Vec::new(),
        }
    }
}

/// A codec of `room.enabled_codecs`: `"video/VP8"`, or LiveKit's `{mime: video/VP8, fmtp_line: ""}`. What stands in
/// `fmtp_line` means nothing: all profiles that are offered are forwarded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "CodecText", into = "String")]
pub struct CodecSpec {
    pub mime: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum CodecText {
    Mime(String),
    Spec { mime: String },
}

impl From<CodecText> for CodecSpec {
    fn from(text: CodecText) -> Self {
        let (CodecText::Mime(mime) | CodecText::Spec { mime }) = text;
        Self { mime }
    }
}

impl From<CodecSpec> for String {
    fn from(spec: CodecSpec) -> Self {
        spec.mime
    }
}

/// Defaults of rooms.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Rooms {
    /// A join creates the room; otherwise only RoomService or a token with `roomCreate` does.
    pub auto_create: bool,
    /// Seconds a room waits for its first participant.
    pub empty_timeout: u32,
    /// Seconds a room outlives its last participant.
    pub departure_timeout: u32,
    /// Participants admitted to one room; 0 for no limit.
    pub max_participants: u32,
    /// Rooms on this node.
    pub rooms_max: usize,
    /// RoomService may unmute a track, not only mute it.
    pub enable_remote_unmute: bool,
    /// Codecs negotiated, as media types; all that are forwarded when empty.
    pub enabled_codecs: Vec<CodecSpec>,
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            auto_create: true,
            empty_timeout: 300,
            departure_timeout: 20,
            max_participants: 0,
            rooms_max: 10_000,
            enable_remote_unmute: false,
            enabled_codecs: Vec::new(),
        }
    }
}

/// Events told to other servers over HTTP.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Webhook {
    /// API key whose secret signs them.
    pub api_key: String,
    /// Where they are posted, `http` or `https`.
    pub urls: Vec<String>,
    /// PEM file of certificate authorities trusted for `https`, in place of the system's.
    pub ca_file: Option<String>,
    /// Events waiting, for each URL and tenth of the rooms; more are dropped and counted.
    pub queue_max: usize,
}

impl Default for Webhook {
    fn default() -> Self {
        Self { api_key: String::new(), urls: Vec::new(), ca_file: None, queue_max: 100 }
    }
}

/// Workers of agents.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Agents {
    /// A worker that reports this load or more, of 1, gets no further job.
    pub target_load: f32,
    /// Workers registered at once.
    pub workers_max: usize,
}

impl Default for Agents {
    fn default() -> Self {
        Self { target_load: 0.7, workers_max: 4_096 }
    }
}

/// Bounds on what a client may cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Limit {
    /// HTTP connections at once, WebSockets among them; more wait to be accepted.
    pub http_connections_max: usize,
    /// Bytes of one signalling message.
    pub signal_message_bytes_max: usize,
    /// Messages waiting for one client; a client that lets them pile up is disconnected.
    pub signal_queue_max: usize,
    /// Signalling messages a client may send per second, with as many again in a burst.
    pub signal_rate_max: u32,
    /// Tracks one participant may publish.
    pub tracks_max: usize,
    /// RTP and RTCP packets one connection may send per second; 0 for no limit.
    pub packets_per_second_max: u32,
    /// Bits of them per second; 0 for no limit.
    pub bits_per_second_max: u64,
    /// Bytes of participant metadata.
    pub metadata_bytes_max: usize,
    /// Bytes of all participant attributes together.
    pub attributes_bytes_max: usize,
}

impl Default for Limit {
    fn default() -> Self {
        Self {
            http_connections_max: 20_000,
            signal_message_bytes_max: 2 << 20,
            signal_queue_max: 1_024,
            signal_rate_max: 200,
            tracks_max: 64,
            packets_per_second_max: 12_000,
            bits_per_second_max: 100_000_000,
            metadata_bytes_max: 512 << 10,
            attributes_bytes_max: 64 << 10,
        }
    }
}

/// The shards.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Shard threads; 0 for max(1, cores − 1).
    pub shards: u8,
    pub io_backend: IoBackend,
    pub spill: Spill,
    pub steer: Steer,
    /// Transports one shard accepts.
    pub transports_max: usize,
    /// Kernel buffer asked for per socket and direction, in bytes.
    pub socket_buffer_bytes: usize,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            shards: 0,
            io_backend: IoBackend::Auto,
            spill: Spill::Home,
            steer: Steer::Auto,
            transports_max: 4_096,
            socket_buffer_bytes: 4 << 20,
        }
    }
}

/// What is logged.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Logging {
    /// A level, or directives such as `info,auralink_controlplane=debug`.
    pub level: String,
    /// One JSON object a line.
    pub json: bool,
}

impl Default for Logging {
    fn default() -> Self {
        Self { level: "info".into(), json: false }
    }
}

/// Everything an operator can set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub profile: Profile,
    /// TCP port of signalling, APIs and UI.
    pub port: u16,
    /// Addresses that port is bound on.
    pub bind_addresses: Vec<IpAddr>,
    /// Name of the region, told to clients.
    pub region: String,
    /// API key → secret.
    pub keys: BTreeMap<String, String>,
    /// File of `key: secret` lines, readable by its owner alone.
    pub key_file: Option<String>,
    pub rtc: Rtc,
    pub turn: Turn,
    pub room: Rooms,
    pub limit: Limit,
    pub webhook: Webhook,
    pub agents: Agents,
    pub node: Node,
    pub logging: Logging,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            profile: Profile::Prod,
            port: 7880,
            bind_addresses: vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
            region: String::new(),
            keys: BTreeMap::new(),
            key_file: None,
            rtc: Rtc::default(),
            turn: Turn::default(),
            room: Rooms::default(),
            limit: Limit::default(),
            webhook: Webhook::default(),
            agents: Agents::default(),
            node: Node::default(),
            logging: Logging::default(),
        }
    }
}

impl Config {
    /// What `--dev` means: loopback signalling and the well-known key pair.
    pub fn dev() -> Self {
        Self {
            profile: Profile::Dev,
            bind_addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
            keys: BTreeMap::from([(DEV_KEY.into(), DEV_SECRET.into())]),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_one_or_a_range() {
        assert_eq!("7882".parse(), Ok(UdpPorts { first: 7882, last: 7882 }));
        assert_eq!("7882-7889".parse(), Ok(UdpPorts { first: 7882, last: 7889 }));
        for wrong in ["", "0", "70000", "7889-7882", "a-b", "1-2-3"] {
            assert!(wrong.parse::<UdpPorts>().is_err(), "{wrong}");
        }
    }
}
