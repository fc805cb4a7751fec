//! The command line. Flags that LiveKit's server has mean the same here, with or without the word `serve` before them.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::cli::rooms::RoomsArgs;

use super::{IoBackend, NodeIp, Spill, UdpPorts};

/// AuraLink: a WebRTC platform that speaks LiveKit's wire protocol.
#[derive(Parser, Debug)]
#[command(name = "auralink", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub role: Option<Role>,
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// What to run.
#[derive(Subcommand, Debug)]
pub enum Role {
    /// Signalling, APIs, UI and media in one process (the default)
    Serve(ServeArgs),
    /// Access tokens
    #[command(subcommand)]
    Token(TokenRole),
    /// Rooms of a running server and those in them
    Rooms(RoomsArgs),
    /// Read the configuration, say what is wrong with it, and leave
    CheckConfig(ServeArgs),
    /// Print the configuration in force as TOML, secrets blanked
    PrintConfig(ServeArgs),
}

/// What to do with tokens.
#[derive(Subcommand, Debug)]
pub enum TokenRole {
    /// Print a signed access token
    Create(TokenArgs),
}

/// Flags of `serve`.
#[derive(Args, Debug, Default, Clone)]
pub struct ServeArgs {
    /// Development profile: loopback signalling, key `devkey`, secret `secret`
    #[arg(long)]
    pub dev: bool,
    /// Configuration file, TOML or LiveKit's YAML
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Configuration as text
    #[arg(long, value_name = "TEXT", env = "LIVEKIT_CONFIG", hide_env_values = true)]
    pub config_body: Option<String>,
    /// Address to listen on for HTTP; repeat for several
    #[arg(long, value_name = "ADDRESS")]
    pub bind: Vec<IpAddr>,
    /// TCP port of HTTP
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Address told to clients for media; one of IPv4 and one of IPv6 with a comma between them
    #[arg(long, value_name = "ADDRESS", env = "NODE_IP")]
    pub node_ip: Option<NodeIp>,
    /// UDP port of media, or a range such as 7882-7889 for one port per shard
    #[arg(long, value_name = "PORT", env = "UDP_PORT")]
    pub udp_port: Option<UdpPorts>,
    /// TCP port of media, for clients that reach nothing by UDP; 0 for none
    #[arg(long, value_name = "PORT", env = "TCP_PORT")]
    pub tcp_port: Option<u16>,
    /// API keys as `key: secret`, separated by commas or lines
    #[arg(long, value_name = "KEYS", env = "LIVEKIT_KEYS", hide_env_values = true)]
    pub keys: Option<String>,
    /// File of `key: secret` lines
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<String>,
    /// Certificate of the TURN server, a PEM file
    #[arg(long, value_name = "FILE", env = "LIVEKIT_TURN_CERT")]
    pub turn_cert: Option<String>,
    /// Key of that certificate, a PEM file
    #[arg(long, value_name = "FILE", env = "LIVEKIT_TURN_KEY")]
    pub turn_key: Option<String>,
    /// Region of this node
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,
    /// Shard threads; 0 for one less than the cores
    #[arg(long, value_name = "N")]
    pub shards: Option<u8>,
    /// Where a room's later transports go
    #[arg(long, value_name = "HOW")]
    pub spill: Option<Spill>,
    /// How datagrams reach the kernel
    #[arg(long, value_name = "BACKEND")]
    pub io_backend: Option<IoBackend>,
}

impl ServeArgs {
    /// Whether nothing was asked for, which means the development profile.
    pub fn is_bare(&self) -> bool {
        !self.dev
            && self.config.is_none()
            && self.config_body.is_none()
            && self.keys.is_none()
            && self.key_file.is_none()
    }
}

/// Flags of `token create`.
#[derive(Args, Debug)]
pub struct TokenArgs {
    #[arg(long, env = "LIVEKIT_API_KEY")]
    pub api_key: Option<String>,
    #[arg(long, env = "LIVEKIT_API_SECRET", hide_env_values = true)]
    pub api_secret: Option<String>,
    /// Use the development key pair
    #[arg(long)]
    pub dev: bool,
    /// Grant joining `--room`
    #[arg(long)]
    pub join: bool,
    #[arg(long, default_value = "")]
    pub room: String,
    #[arg(long, default_value = "")]
    pub identity: String,
    #[arg(long, default_value = "")]
    pub name: String,
    /// Grant creating and deleting rooms
    #[arg(long)]
    pub create: bool,
    /// Grant listing rooms
    #[arg(long)]
    pub list: bool,
    /// Grant administration of `--room`
    #[arg(long)]
    pub admin: bool,
    /// Seconds until the token expires
    #[arg(long, default_value_t = 21_600)]
    pub valid_for_s: u64,
}
