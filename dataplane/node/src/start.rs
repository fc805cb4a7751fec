//! Starting and stopping the data plane. Whatever can fail fails here, before anything serves.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use auralink_proto::{Candidate, Fingerprint, ShardId};
use auralink_ring::{
    Backend, BackendKind, BoundSocket, Sizes, SocketError, SocketOptions, Steering, WakeHandle, bind,
    bind_both, listen as listen_on, listen_both, pin_to, probe_uring, set_nice, usable_cpus,
};
use auralink_rtc::dtls::{Certificate, CertificateError};
use auralink_rtc::egress::Egress;
use auralink_sfu::config::ShardConfig;
use auralink_sfu::lanes::mesh;
use auralink_sfu::shard::Shard;

use rtrb::RingBuffer;

use crate::acceptor::{ARRIVALS_MAX, Acceptor, Arrival};
use crate::config::{IoBackend, NodeConfig, Ports, Steer};
use crate::mailbox::{Events, Handle, ShardMailbox, Waker, mailboxes};
use crate::park::Parking;
use crate::report::Reports;
use crate::worker::streams::Streams;
use crate::worker::{TRAINS_MAX, Worker};

/// Shards one node may have: a lane's wake set is 64 bits.
const SHARDS_MAX: usize = 64;
/// Below this a burst of keyframes is lost in the kernel.
const RECEIVE_BUFFER_MIN: usize = 128 << 10;

/// Media waits for as little as possible of what else runs on the machine. Not real time: a shard that spins starves nobody.
const SHARD_NICE: i32 = -10;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("io_uring was asked for and cannot be used here: {0}; choose --io-backend mmsg or auto")]
    Uring(io::Error),
    #[error("{shards} shards need {shards} ports, the range {first}-{last} has {ports}")]
    PortRange { shards: usize, first: u16, last: u16, ports: usize },
    #[error("at most {SHARDS_MAX} shards, not {0}")]
    TooManyShards(usize),
    #[error(
        "the kernel grants UDP sockets {granted} bytes of receive buffer, at least {RECEIVE_BUFFER_MIN} are needed; raise net.core.rmem_max"
    )]
    ReceiveBuffer { granted: usize },
    #[error("rtc.force_tcp needs rtc.tcp_port")]
    ForcedWithoutPort,
    #[error(
        "no address to advertise of the families media is bound to: set rtc.node_ip or --node-ip, or see rtc.bind"
    )]
    NothingToAdvertise,
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("shard {shard} did not start: {source}")]
    Shard { shard: usize, source: io::Error },
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// The running data plane. Stops its threads when dropped.
pub struct Node {
    threads: Vec<JoinHandle<()>>,
    parking: Vec<Parking>,
    stop: Arc<AtomicBool>,
    reports: Reports,
    io_backend: BackendKind,
}

impl Node {
    /// Binds every port, starts every shard and returns once all of them turn.
    pub fn start(config: &NodeConfig) -> Result<(Self, Handle, Events), StartError> {
        let shards = shard_count(config);
        if shards > SHARDS_MAX {
            return Err(StartError::TooManyShards(shards));
        }
        let io_backend = choose_backend(config.io_backend)?;
        let sockets = bind_sockets(config, shards)?;
        let listener = listen(config)?;
        let tcp_port =
            listener.as_ref().map(TcpListener::local_addr).transpose().map_err(StartError::Thread)?;
        let tcp_port = tcp_port.map(|address| address.port());
        let candidates =
            sockets.iter().map(|bound| candidates(config, bound, tcp_port)).collect::<Result<Vec<_>, _>>()?;
        let steering = attach_steering(config, &sockets);
        let families = families(config, &sockets);
        let certificate = Certificate::generate()?;
        let handles = (0..shards)
            .map(|_| WakeHandle::new())
            .collect::<Result<Vec<_>, _>>()
            .map_err(StartError::Thread)?;
        let parking: Vec<_> = handles.iter().cloned().map(Parking::new).collect();
        let wakers =
            parking.iter().cloned().map(|parking| Arc::new(move || parking.wake()) as Waker).collect();
        let fingerprint = Fingerprint(certificate.fingerprint());
        let (handle, mailboxes, events) = mailboxes(candidates, wakers, fingerprint, config.spill);
        let mut node = Self {
            threads: Vec::new(),
            parking,
            stop: Arc::new(AtomicBool::new(false)),
            reports: Reports::new(shards),
            io_backend,
        };
        let (ready, started) = mpsc::channel();
        let (doors, arrivals): (Vec<_>, Vec<_>) = (0..shards).map(|_| RingBuffer::new(ARRIVALS_MAX)).unzip();
        let parts = sockets.into_iter().zip(handles).zip(mesh(shards)).zip(mailboxes).zip(arrivals);
        for ((((bound, wake), lanes), mailbox), arrivals) in parts {
            let seat = Seat {
                config: config.clone(),
                certificate: certificate.clone(),
                bound,
                wake,
                lanes,
                arrivals,
                mailbox,
                steering: steering.clone(),
            };
            node.spawn(seat, ready.clone())?;
        }
        drop(ready);
        if let Some(listener) = listener {
            node.spawn_acceptor(listener, doors)?;
        }
        for _ in 0..shards {
            match started.recv() {
                Ok((_, Ok(()))) => {}
                Ok((shard, Err(source))) => return Err(StartError::Shard { shard, source }),
                Err(_) => return Err(StartError::Thread(io::Error::other("a shard ended while starting"))),
            }
        }
        let steered_by = if steering.is_some() { "bpf" } else { "lanes" };
        tracing::info!(shards, io_backend = io_backend.as_str(), steered_by, families, "data plane started");
        Ok((node, handle, events))
    }

    /// Latest report of each shard.
    pub fn reports(&self) -> Reports {
        self.reports.clone()
    }

    /// The I/O back end the probe chose.
    pub fn io_backend(&self) -> &'static str {
        self.io_backend.as_str()
    }

    fn spawn_acceptor(
        &mut self,
        listener: TcpListener,
        doors: Vec<rtrb::Producer<Arrival>>,
    ) -> Result<(), StartError> {
        let acceptor =
            Acceptor::new(listener, doors, self.parking.clone(), Arc::clone(self.reports.accepts()));
        let acceptor = acceptor.map_err(StartError::Thread)?;
        let stop = Arc::clone(&self.stop);
        let thread = std::thread::Builder::new().name("tcp-accept".into()).spawn(move || {
            if let Err(error) = acceptor.run(&stop) {
                tracing::error!(%error, "no more media connections: the kernel refused I/O");
            }
        });
        self.threads.push(thread.map_err(StartError::Thread)?);
        Ok(())
    }

    fn spawn(&mut self, seat: Seat, ready: mpsc::Sender<(usize, io::Result<()>)>) -> Result<(), StartError> {
        let shard = usize::from(seat.mailbox.shard.0);
        let parking = self.parking.clone();
        let (reports, stop, kind) = (self.reports.clone(), Arc::clone(&self.stop), self.io_backend);
        let thread = std::thread::Builder::new().name(format!("shard-{shard}")).spawn(move || {
            let worker = seat.into_worker(kind, parking, reports, stop);
            let (outcome, worker) = match worker {
                Ok(worker) => (Ok(()), Some(worker)),
                Err(error) => (Err(error), None),
            };
            let _ = ready.send((shard, outcome));
            drop(ready);
            if let Some(Err(error)) = worker.map(Worker::run) {
                tracing::error!(shard.id = shard, %error, "shard stopped: the kernel refused I/O");
            }
        });
        self.threads.push(thread.map_err(StartError::Thread)?);
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for parking in &self.parking {
            parking.wake();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What a shard's thread takes along.
struct Seat {
    config: NodeConfig,
    certificate: Certificate,
    bound: BoundSocket,
    wake: WakeHandle,
    lanes: auralink_sfu::lanes::Lanes,
    arrivals: rtrb::Consumer<Arrival>,
    mailbox: ShardMailbox,
    steering: Option<Arc<Steering>>,
}

impl Seat {
    /// Runs on the shard's own thread: the ring belongs to the thread that builds it.
    fn into_worker(
        self,
        kind: BackendKind,
        parking: Vec<Parking>,
        reports: Reports,
        stop: Arc<AtomicBool>,
    ) -> io::Result<Worker> {
        let ShardId(index) = self.mailbox.shard;
        let cpus = usable_cpus();
        // CPU 0 is left to control where there is a choice.
        if cpus.len() > 1
            && let Some(cpu) = cpus.get(1 + usize::from(index) % (cpus.len() - 1))
        {
            pin_to(*cpu)?;
        }
        if let Err(error) = set_nice(SHARD_NICE) {
            tracing::info!(%error, shard.id = index, "the shard shares its CPU with others as their equal");
        }
        let now = Instant::now();
        let config = ShardConfig {
            transports_max: self.config.transports_max,
            intake: self.config.intake,
            ..ShardConfig::default()
        };
        let mut backend = Backend::new(
            kind,
            self.bound.socket,
            self.wake,
            Sizes::new(TRAINS_MAX, self.config.transports_max),
        )?;
        let streams = Streams::new(self.arrivals)?;
        backend.watch(streams.readiness());
        Ok(Worker {
            shard: Shard::new(self.mailbox.shard, config, self.certificate, now, rand::random()),
            backend,
            streams,
            lanes: self.lanes,
            steering: self.steering,
            mailbox: self.mailbox,
            parking,
            reports,
            stop,
            egress: Egress::new(TRAINS_MAX),
            events: Vec::with_capacity(1_024),
            outgoing: Vec::with_capacity(TRAINS_MAX),
            spent: Vec::with_capacity(TRAINS_MAX),
            next_report: now,
            last_report: now,
            slept: Duration::ZERO,
        })
    }
}

/// max(1, cores − 1); the cgroup's quota is in what the standard library counts.
fn shard_count(config: &NodeConfig) -> usize {
    match config.shards {
        0 => std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1)),
        shards => usize::from(shards),
    }
}

fn choose_backend(wanted: IoBackend) -> Result<BackendKind, StartError> {
    match wanted {
        IoBackend::Auto | IoBackend::Mmsg => Ok(BackendKind::Mmsg),
        IoBackend::Uring => probe_uring().map(|()| BackendKind::Uring).map_err(StartError::Uring),
    }
}

/// In single-port mode the kernel is asked to bring datagrams to their shard.
fn attach_steering(config: &NodeConfig, sockets: &[BoundSocket]) -> Option<Arc<Steering>> {
    let is_shared = matches!(config.ports, Ports::Single(_)) && sockets.len() > 1;
    if !is_shared || config.steer == Steer::Lanes {
        return None;
    }
    let group: Vec<&UdpSocket> = sockets.iter().map(|bound| &bound.socket).collect();
    let flows_max = (sockets.len() * config.transports_max).min(1 << 20) as u32;
    match Steering::attach(&group, flows_max) {
        Ok(steering) => Some(Arc::new(steering)),
        Err(error) => {
            tracing::info!(%error, "no BPF here: datagrams for another shard cross a lane");
            None
        }
    }
}

/// The address of one family that sockets bind to; `None` for both. IPv4 alone where nobody is told of IPv6: its packets then pass
/// through nothing of IPv6 in the kernel either, which is about one part in a hundred of what a packet costs there.
fn bind_address(config: &NodeConfig) -> Option<IpAddr> {
    let tells_v6 = config.advertise.iter().any(IpAddr::is_ipv6);
    config.bind.or_else(|| (!tells_v6).then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
}

fn bind_media(config: &NodeConfig, port: u16, options: SocketOptions) -> Result<BoundSocket, SocketError> {
    match bind_address(config) {
        Some(ip) => bind(SocketAddr::new(ip, port), options),
        None => bind_both(port, options),
    }
}

fn bind_sockets(config: &NodeConfig, shards: usize) -> Result<Vec<BoundSocket>, StartError> {
    let exclusive = SocketOptions { buffer_bytes: config.socket_buffer_bytes, reuse_port: false };
    let sockets = match config.ports {
        Ports::Single(port) => {
            // Bound alone first: with SO_REUSEPORT another process on the port would go unnoticed and take half the calls.
            let first = bind_media(config, port, exclusive)?;
            if shards == 1 {
                vec![first]
            } else {
                let port = local_port(&first.socket)?;
                drop(first);
                let shared = SocketOptions { reuse_port: true, ..exclusive };
                let bind_shared = |_| bind_media(config, port, shared);
                (0..shards).map(bind_shared).collect::<Result<Vec<_>, _>>()?
            }
        }
        Ports::PerShard { first, last } => {
            let ports = usize::from(last.saturating_sub(first)) + 1;
            if last < first || ports < shards {
                return Err(StartError::PortRange { shards, first, last, ports });
            }
            let bind_own = |index| bind_media(config, first + index as u16, exclusive);
            (0..shards).map(bind_own).collect::<Result<Vec<_>, _>>()?
        }
    };
    if bind_address(config).is_none() && families(config, &sockets) == "ipv4" {
        tracing::info!("no IPv6 in this kernel: media is carried over IPv4 alone");
    }
    for bound in &sockets {
        let granted = bound.receive_buffer_bytes;
        if granted < RECEIVE_BUFFER_MIN {
            return Err(StartError::ReceiveBuffer { granted });
        }
        if granted < config.socket_buffer_bytes {
            tracing::warn!(
                granted,
                asked = config.socket_buffer_bytes,
                "small UDP buffer: raise net.core.rmem_max"
            );
        }
    }
    Ok(sockets)
}

/// What the sockets carry, for the log.
fn families(config: &NodeConfig, sockets: &[BoundSocket]) -> &'static str {
    let is_v6 = |bound: &BoundSocket| bound.socket.local_addr().is_ok_and(|ours| ours.is_ipv6());
    match bind_address(config) {
        _ if !sockets.iter().all(is_v6) => "ipv4",
        Some(_) => "ipv6",
        None => "ipv4 and ipv6",
    }
}

fn listen(config: &NodeConfig) -> Result<Option<TcpListener>, StartError> {
    let Some(port) = config.tcp_port else {
        return if config.force_tcp { Err(StartError::ForcedWithoutPort) } else { Ok(None) };
    };
    let listener = match bind_address(config) {
        Some(ip) => listen_on(SocketAddr::new(ip, port)),
        None => listen_both(port),
    };
    Ok(Some(listener?))
}

fn candidates(
    config: &NodeConfig,
    bound: &BoundSocket,
    tcp_port: Option<u16>,
) -> Result<Vec<Candidate>, StartError> {
    let address = bound.socket.local_addr().map_err(StartError::Thread)?;
    let serves = |ip: &IpAddr| match bind_address(config) {
        None => ip.is_ipv4() || address.is_ipv6(),
        Some(bound) => bound.is_ipv4() == ip.is_ipv4(),
    };
    let advertised = || config.advertise.iter().copied().filter(serves);
    let udp = advertised().map(|ip| Candidate::udp(SocketAddr::new(ip, address.port())));
    let tcp = tcp_port
        .into_iter()
        .flat_map(|port| advertised().map(move |ip| Candidate::tcp(SocketAddr::new(ip, port))));
    let candidates: Vec<_> = udp.filter(|_| !config.force_tcp).chain(tcp).collect();
    if candidates.is_empty() { Err(StartError::NothingToAdvertise) } else { Ok(candidates) }
}

fn local_port(socket: &UdpSocket) -> Result<u16, StartError> {
    socket.local_addr().map(|address| address.port()).map_err(StartError::Thread)
}
