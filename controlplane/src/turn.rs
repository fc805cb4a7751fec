//! The embedded TURN server: sockets around [`auralink_turn`], which decides everything.
//!
//! One task reads each UDP socket, one accepts on each TCP listener, one reads each relay. They meet in one lock that is held for
//! the fraction of a microsecond a decision takes, never while sending and never across an await.

mod listen;
mod report;
mod sink;
mod stream;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use auralink_turn::credentials::REALM;
use auralink_turn::framing::MESSAGE_LEN_MAX;
use auralink_turn::policy::Policy;
use auralink_turn::server::{Action, Config as ServerConfig, HEADROOM, Server, TAILROOM};
use auralink_turn::{Moment, Origin, RelayId};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::config::Config;
pub use listen::TurnError;
use report::Traffic;
use sink::Sink;

/// Between looks for allocations whose time is over.
const TICK: Duration = Duration::from_secs(1);
/// How long open connections may take to say goodbye.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(1);
/// After a socket failed to receive.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// An open relay.
struct Relay {
    socket: Arc<UdpSocket>,
    reader: AbortHandle,
}

struct State {
    server: Server,
    relays: HashMap<RelayId, Relay>,
}

impl State {
    /// Closes the sockets of allocations that ended.
    fn close_ended(&mut self) {
        while let Some(ended) = self.server.next_closed() {
            if let Some(relay) = self.relays.remove(&ended) {
                relay.reader.abort();
            }
        }
    }
}

/// What all tasks share.
struct Shared {
    state: Mutex<State>,
    traffic: Traffic,
    /// Addresses clients are told that are not this host's but of a NAT before it.
    foreign: Vec<IpAddr>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a client's message does; true when `reply` is to be sent to it.
    fn handle_client(
        self: &Arc<Self>,
        origin: Origin,
        sink: &Sink,
        bytes: &[u8],
        reply: &mut Vec<u8>,
    ) -> bool {
        let at = moment();
        let mut state = self.state();
        let mut action = state.server.handle_client(at, origin, bytes, reply);
        loop {
            match action {
                Action::Open { relay, address } => {
                    action = match self.open(relay, address, sink) {
                        Ok(opened) => {
                            state.relays.insert(relay, opened);
                            state.server.relay_opened(at.now, relay, reply)
                        }
                        Err(error) => {
                            tracing::debug!(%address, %error, "a relay could not be opened");
                            state.server.relay_failed(relay, reply)
                        }
                    };
                }
                Action::Relay { relay, peer, payload } => {
                    let socket = state.relays.get(&relay).map(|relay| Arc::clone(&relay.socket));
                    drop(state);
                    if let (Some(socket), Some(payload)) = (socket, bytes.get(payload)) {
                        self.traffic.sent_to_peer(socket.try_send_to(payload, peer).is_ok());
                    }
                    return false;
                }
                Action::Reply | Action::Nothing => {
                    state.close_ended();
                    return action == Action::Reply;
                }
            }
        }
    }

    fn open(self: &Arc<Self>, relay: RelayId, address: SocketAddr, sink: &Sink) -> std::io::Result<Relay> {
        let ip = match address.ip() {
            ip if !self.foreign.contains(&ip) => ip,
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let bind = SocketAddr::new(ip, address.port());
        let socket = Arc::new(listen::udp(bind, listen::RELAY_BUFFER_BYTES)?);
        let reader = read_relay(Arc::clone(self), relay, Arc::clone(&socket), sink.clone());
        Ok(Relay { socket, reader: tokio::spawn(reader).abort_handle() })
    }

    /// A client's connection ended.
    fn origin_gone(&self, origin: &Origin) {
        let mut state = self.state();
        state.server.origin_gone(origin);
        state.close_ended();
    }

    fn holds(&self, origin: &Origin) -> bool {
        self.state().server.holds(origin)
    }
}

/// Passes on what peers send to one relay, until it is closed.
async fn read_relay(shared: Arc<Shared>, relay: RelayId, socket: Arc<UdpSocket>, sink: Sink) {
    let mut packet = vec![0; HEADROOM + MESSAGE_LEN_MAX + TAILROOM];
    loop {
        let Some(room) = packet.get_mut(HEADROOM..HEADROOM + MESSAGE_LEN_MAX) else { return };
        let (len, peer) = match socket.recv_from(room).await {
            // One that fills the room may have been longer.
            Ok((len, _)) if len == MESSAGE_LEN_MAX => continue,
            Ok(received) => received,
            Err(_) => {
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        let payload = HEADROOM..HEADROOM + len;
        let framed = shared.state().server.handle_peer(Instant::now(), relay, peer, &mut packet, payload);
        if let Some(bytes) = framed.and_then(|framed| packet.get(framed)) {
            sink.send(bytes, &shared.traffic);
        }
    }
}

/// Answers what arrives at one UDP socket.
async fn read_datagrams(shared: Arc<Shared>, number: u16, socket: Arc<UdpSocket>) {
    let mut datagram = vec![0; MESSAGE_LEN_MAX + 1];
    let mut reply = Vec::new();
    loop {
        let Ok((len, remote)) = socket.recv_from(&mut datagram).await else {
            tokio::time::sleep(ERROR_PAUSE).await;
            continue;
        };
        let origin = Origin::Datagram { socket: number, remote };
        let sink = Sink::Datagram { socket: Arc::clone(&socket), remote };
        let bytes = datagram.get(..len.min(MESSAGE_LEN_MAX)).unwrap_or_default();
        if shared.handle_client(origin, &sink, bytes, &mut reply) {
            sink.send(&reply, &shared.traffic);
        }
    }
}

/// Ends allocations whose time is over.
async fn tick(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(TICK);
    loop {
        interval.tick().await;
        let mut state = shared.state();
        state.server.handle_timeout(Instant::now());
        state.close_ended();
    }
}

fn moment() -> Moment {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment { now: Instant::now(), unix_s: since_1970.as_secs() }
}

/// The running server.
pub struct Turn {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    stopping: watch::Sender<bool>,
    /// Ends when the last connection has.
    connections: mpsc::Receiver<()>,
}

impl Turn {
    /// Opens every port and starts the tasks; `None` when it is not enabled. To be called within a runtime.
    ///
    /// # Errors
    /// [`TurnError`]; the operator's to mend.
    pub async fn start(config: &Config) -> Result<Option<Self>, TurnError> {
        if !config.turn.enabled {
            return Ok(None);
        }
        let advertised = config.advertise();
        let relay_v4 = advertised.iter().find_map(v4);
        let relay_v6 = advertised.iter().find_map(v6);
        let server = Server::new(server_config(config, &advertised, (relay_v4, relay_v6)), rand::random());
        let shared = Arc::new(Shared {
            state: Mutex::new(State { server, relays: HashMap::new() }),
            traffic: Traffic::default(),
            foreign: advertised.iter().copied().filter(|ip| listen::is_foreign(*ip)).collect(),
        });
        let (stopping, stopped) = watch::channel(false);
        let (alive, connections) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(tick(Arc::clone(&shared)));
        if config.turn.udp_port != 0 {
            for (number, ip) in config.turn.bind_addresses.iter().enumerate() {
                let address = SocketAddr::new(*ip, config.turn.udp_port);
                let socket = listen::udp(address, listen::BUFFER_BYTES)
                    .map_err(|error| TurnError::of("UDP", "turn.udp_port", address, error))?;
                tasks.spawn(read_datagrams(Arc::clone(&shared), number as u16, Arc::new(socket)));
            }
        }
        if config.turn.tls_port != 0 {
            let door = Arc::new(stream::Door::new(&config.turn, Arc::clone(&shared), stopped, alive)?);
            for ip in &config.turn.bind_addresses {
                let address = SocketAddr::new(*ip, config.turn.tls_port);
                let listener = tokio::net::TcpListener::bind(address).await;
                let listener =
                    listener.map_err(|error| TurnError::of("TCP", "turn.tls_port", address, error))?;
                tasks.spawn(Arc::clone(&door).accept(listener));
            }
        }
        tracing::info!(udp = config.turn.udp_port, tls = config.turn.tls_port, "TURN server started");
        Ok(Some(Self { shared, tasks, stopping, connections }))
    }

    /// What writes the server's part of `/metrics`.
    pub fn page(&self) -> Box<dyn Fn() -> String + Send + Sync> {
        let shared = Arc::clone(&self.shared);
        Box::new(move || report::page(&shared))
    }

    /// Takes nothing new, ends every connection and closes every relay.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
        let _ = self.stopping.send(true);
        let all_gone = async { while self.connections.recv().await.is_some() {} };
        let _ = tokio::time::timeout(SHUTDOWN_PATIENCE, all_gone).await;
        for (_, relay) in self.shared.state().relays.drain() {
            relay.reader.abort();
        }
    }
}

fn v4(ip: &IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    }
}

fn v6(ip: &IpAddr) -> Option<Ipv6Addr> {
    match ip {
        IpAddr::V6(ip) => Some(*ip),
        IpAddr::V4(_) => None,
    }
}

/// The core's share of the configuration, which was checked before.
fn server_config(
    config: &Config,
    advertised: &[IpAddr],
    (relay_v4, relay_v6): (Option<Ipv4Addr>, Option<Ipv6Addr>),
) -> ServerConfig {
    let turn = &config.turn;
    let cidrs = |texts: &[String]| texts.iter().filter_map(|text| text.parse().ok()).collect();
    let ports = config.rtc.udp_port;
    ServerConfig {
        realm: REALM.into(),
        secrets: config.keys.clone(),
        relay_v4,
        relay_v6,
        relay_ports: turn.relay_range_start..=turn.relay_range_end,
        peers: Policy {
            media: advertised.iter().map(|ip| (*ip, ports.first..=ports.last)).collect(),
            own: advertised.to_vec(),
            allow: cidrs(&turn.allow_restricted_peer_cidrs),
            deny: cidrs(&turn.deny_peer_cidrs),
        },
        per_user_max: turn.per_user_relay_allocation_limit,
        allocations_max: turn.allocations_max,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const BINDING: [u8; 20] = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

    /// A server on loopback, and its two ports.
    async fn start() -> (Turn, SocketAddr, SocketAddr) {
        let mut config = Config::dev();
        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let udp = std::net::UdpSocket::bind((localhost, 0)).unwrap().local_addr().unwrap();
        let tcp = std::net::TcpListener::bind((localhost, 0)).unwrap().local_addr().unwrap();
        config.turn = crate::config::turn::Turn {
            enabled: true,
            external_tls: true,
            udp_port: udp.port(),
            tls_port: tcp.port(),
            bind_addresses: vec![localhost],
            ..config.turn
        };
        (Turn::start(&config).await.unwrap().unwrap(), udp, tcp)
    }

    #[tokio::test]
    async fn both_ports_answer_and_are_free_after_the_end() {
        let (turn, udp, tcp) = start().await;
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(&BINDING, udp).await.unwrap();
        let mut answer = [0; 64];
        let (len, from) = client.recv_from(&mut answer).await.unwrap();
        assert_eq!((len, from, &answer[..2]), (32, udp, [1, 1].as_slice()));
        let mut stream = tokio::net::TcpStream::connect(tcp).await.unwrap();
        stream.write_all(&BINDING).await.unwrap();
        stream.read_exact(&mut answer[..32]).await.unwrap();
        assert_eq!(answer[..2], [1, 1]);
        let page = turn.page()();
        for line in ["auralink_turn_bindings_total 2", "auralink_turn_connections 1"] {
            assert!(page.lines().any(|known| known == line), "{line} is not in {page}");
        }
        assert!(page.contains("auralink_turn_connections_total{outcome=\"accepted\"} 1"));
        turn.stop().await;
        assert_eq!(stream.read(&mut answer).await.unwrap(), 0, "the connection was closed");
        std::net::UdpSocket::bind(udp).unwrap();
    }

    #[tokio::test]
    async fn nothing_starts_unless_enabled() {
        assert!(Turn::start(&Config::dev()).await.unwrap().is_none());
    }
}
