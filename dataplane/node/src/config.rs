//! What an operator can set of the data plane. Control fills this from its own typed configuration.

use std::net::{IpAddr, Ipv4Addr};

use auralink_sfu::intake::IntakeLimit;

/// How datagrams reach the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IoBackend {
    /// The one that measures cheaper: `mmsg` (docs/adr/0012).
    #[default]
    Auto,
    Uring,
    Mmsg,
}

/// UDP ports of the media plane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ports {
    /// Every shard binds the same port with SO_REUSEPORT; a datagram that lands on the wrong shard crosses a lane once.
    Single(u16),
    /// Shard *n* binds `first + n`, and candidates name it.
    PerShard { first: u16, last: u16 },
}

/// Who brings a datagram to its shard when several share a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Steer {
    /// The kernel, if it lets us load a BPF program; else lanes.
    #[default]
    Auto,
    /// Lanes only: each datagram that lands on the wrong shard crosses once.
    Lanes,
}

/// Where a room's transports are placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Spill {
    /// At the room's home shard, until that is busy and another is not.
    #[default]
    Home,
    /// Each next transport of a room on the next shard: for tests, so that lanes carry everything.
    Forced,
}

#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Number of shard threads; 0 means max(1, cores − 1), the cgroup's quota respected.
    pub shards: u8,
    pub io_backend: IoBackend,
    pub ports: Ports,
    /// TCP port for clients that reach nothing by UDP (ICE-TCP); none when `None`.
    pub tcp_port: Option<u16>,
    /// Only TCP is offered to clients, for tests and for networks known to lose UDP.
    pub force_tcp: bool,
    /// Address the sockets bind to, and its family the only one; every address of both families when `None`.
    pub bind: Option<IpAddr>,
    /// Addresses put into candidates, as far as the sockets serve their family.
    pub advertise: Vec<IpAddr>,
    pub spill: Spill,
    pub steer: Steer,
    /// Most transports one shard accepts.
    pub transports_max: usize,
    /// Most that is taken in from one transport.
    pub intake: IntakeLimit,
    /// Kernel receive and send buffer asked for per socket, in bytes.
    pub socket_buffer_bytes: usize,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            shards: 0,
            io_backend: IoBackend::Auto,
            ports: Ports::Single(7882),
            tcp_port: None,
            force_tcp: false,
            bind: None,
            advertise: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            spill: Spill::Home,
            steer: Steer::Auto,
            transports_max: 4_096,
            intake: IntakeLimit::default(),
            socket_buffer_bytes: 4 << 20,
        }
    }
}
