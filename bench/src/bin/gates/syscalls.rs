//! System calls per forwarded packet: a real node on loopback, its clients on sockets of their own.
//!
//! The publisher's frame goes out as one train, so that it arrives in one piece however busy the machine is; what is counted
//! is how the node receives it and sends it on.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use auralink_bench::room::{Media, Plan, Room, Seat};
use auralink_bench::source::FrameShape;
use auralink_node::{Events, Handle, IoBackend, Node, NodeConfig, Ports};
use auralink_ring::{Backend, BackendKind, Outgoing, Sizes, SocketOptions, WakeHandle, bind};
use auralink_rtc::classify::{Kind, classify};
use auralink_rtc::egress::TRAIN_BYTES;
use serde::{Deserialize, Serialize};

use crate::baseline;

const SUBSCRIBERS: usize = 20;
const WARM_UP: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(4);
/// The best of these counts: a busy machine only makes more system calls of the same work.
const ROUNDS: usize = 3;
const BASELINE: &str = "syscalls.json";

#[derive(Serialize, Deserialize)]
struct Baseline {
    /// How many times the number a gate may see: how often the shard wakes for feedback depends on the machine.
    allowance: f64,
    subscribers: usize,
    /// By back end.
    syscalls_per_packet: BTreeMap<String, f64>,
}

pub(crate) fn run(update: bool) -> Result<()> {
    let mut measured = BTreeMap::new();
    for (backend, name) in [(IoBackend::Uring, "uring"), (IoBackend::Mmsg, "mmsg")] {
        let mut best = f64::INFINITY;
        for round in 1..=ROUNDS {
            let (syscalls, packets) = once(backend)?;
            let ratio = syscalls as f64 / packets as f64;
            println!("{name} round {round}: {syscalls} system calls for {packets} packets: {ratio:.4}");
            best = best.min(ratio);
        }
        measured.insert(name.to_owned(), (best * 10_000.0).round() / 10_000.0);
    }
    if update {
        let baseline = Baseline { allowance: 1.5, subscribers: SUBSCRIBERS, syscalls_per_packet: measured };
        return baseline::write(BASELINE, &baseline);
    }
    let baseline: Baseline = baseline::read(BASELINE)?;
    ensure!(baseline.subscribers == SUBSCRIBERS, "the baseline is of another room");
    let mut faults = Vec::new();
    for (name, ratio) in &measured {
        let before = baseline.syscalls_per_packet.get(name).context("the baseline lacks a back end")?;
        let most = before * baseline.allowance;
        println!("{name}: {ratio:.4} system calls per packet, baseline {before:.4}, at most {most:.4}");
        if *ratio > most {
            faults.push(format!("{name}: {ratio:.4} system calls per packet, at most {most:.4}"));
        }
    }
    if !faults.is_empty() {
        bail!("{}\n{}", faults.join("\n"), baseline::how_to_update("syscalls"));
    }
    Ok(())
}

/// System calls of the shard and packets it forwarded, between two of its own reports.
fn once(backend: IoBackend) -> Result<(u64, u64)> {
    let config = NodeConfig {
        shards: 1,
        io_backend: backend,
        ports: Ports::Single(0),
        // Clients of IPv4 on the socket that serves both families.
        advertise: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        socket_buffer_bytes: 4 << 20,
        transports_max: 64,
        ..NodeConfig::default()
    };
    let (node, handle, mut events) = Node::start(&config)?;
    let mut callers = Callers::new(&handle)?;
    callers.room.announce(&handle);
    let counted = || -> Result<(u64, u64)> {
        let report =
            node.reports().latest().first().copied().flatten().context("the shard has not reported")?;
        Ok((report.ring.syscalls, report.stats.packets_sent))
    };
    callers.call(WARM_UP, &mut events)?;
    let (syscalls, packets) = counted()?;
    callers.call(MEASURED, &mut events)?;
    // Both of one report.
    let after = counted()?;
    let (syscalls, packets) = (after.0 - syscalls, after.1 - packets);
    let due = MEASURED.as_secs() * 25 * 9 * SUBSCRIBERS as u64;
    ensure!(packets > due * 3 / 4, "only {packets} of {due} packets were forwarded");
    ensure!(callers.room.is_connected() && callers.room.faults().is_empty(), "{:?}", callers.room.faults());
    Ok((syscalls, packets))
}

/// The room's clients and their way to the node. The publisher sends through a back end, so that a frame is one send.
struct Callers {
    room: Room,
    seats: Vec<Seat>,
    sockets: Vec<UdpSocket>,
    publisher: Backend,
    buffers: Vec<Box<[u8]>>,
}

impl Callers {
    fn new(handle: &Handle) -> Result<Self> {
        let options = SocketOptions { buffer_bytes: 1 << 20, reuse_port: false };
        let bound = bind("127.0.0.1:0".parse()?, options)?;
        let mut addresses = vec![bound.socket.local_addr()?];
        let mut sockets = Vec::new();
        for _ in 0..SUBSCRIBERS {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.set_nonblocking(true)?;
            addresses.push(socket.local_addr()?);
            sockets.push(socket);
        }
        let id = handle.place_room();
        let seat = |(index, address)| Seat::take(handle, id, index, address);
        let seats: Vec<Seat> = addresses.into_iter().enumerate().map(seat).collect();
        let server_fingerprint = handle.fingerprint().0;
        let media = Media::Frames(FrameShape::QUOTED);
        let plan = Plan { id, server_fingerprint, media, opens_media: false };
        Ok(Self {
            room: Room::new(Instant::now(), plan, &seats),
            seats,
            sockets,
            publisher: Backend::new(BackendKind::Mmsg, bound.socket, WakeHandle::new()?, Sizes::new(64, 64))?,
            buffers: (0..64).map(|_| vec![0; TRAIN_BYTES].into_boxed_slice()).collect(),
        })
    }

    fn call(&mut self, time: Duration, events: &mut Events) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.send()?;
            self.receive()?;
            while events.try_recv().is_ok() {}
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        let mut trains: Vec<Outgoing> = Vec::new();
        for (seat, bytes) in self.room.poll(Instant::now()) {
            let to = self.seats[seat].server;
            if let Some(index) = seat.checked_sub(1) {
                self.sockets[index].send_to(&bytes, to)?;
                continue;
            }
            let len = bytes.len();
            let open = trains.last_mut().filter(|train| {
                usize::from(train.segment) == len
                    && classify(&train.buffer[..len]) == Kind::Rtp
                    && train.len as usize + len <= TRAIN_BYTES
            });
            let train = match open {
                Some(train) => train,
                None => {
                    let buffer = self.buffers.pop().context("buffers come back")?;
                    trains.push(Outgoing { to, from: None, segment: len as u16, len: 0, buffer });
                    trains.last_mut().context("just pushed")?
                }
            };
            let start = train.len as usize;
            train.buffer[start..start + len].copy_from_slice(&bytes);
            train.len += len as u32;
        }
        self.buffers.extend(self.publisher.submit(&mut trains).map(|sent| sent.buffer));
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let Self { room, publisher, sockets, .. } = self;
        let now = Instant::now();
        publisher.receive(64, &mut |message| {
            for datagram in message.datagrams() {
                room.deliver(now, 0, message.from, datagram);
            }
        })?;
        let mut datagram = [0; 2_048];
        for (index, socket) in sockets.iter().enumerate() {
            while let Ok((len, from)) = socket.recv_from(&mut datagram) {
                room.deliver(now, index + 1, from, &datagram[..len]);
            }
        }
        Ok(())
    }
}
