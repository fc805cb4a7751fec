//! Zero heap allocations per forwarded packet after join: on the sans-IO path, and on the shard's thread of a real node with
//! either back end. Counted are media, reports and transport-wide feedback both ways; nothing is lost in these runs, so
//! retransmission is not. Strangers cost no allocation either.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test that tells its numbers")]

#[path = "no_alloc/room.rs"]
mod room;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use auralink_node::{IoBackend, Node, NodeConfig, Ports};
use auralink_proto::{Command, RoomId, ShardId, TrackId, TransportId};
use auralink_ring::count_alloc::{CountingAllocator, count, take_traces, unwatch_threads, watch_threads};
use auralink_rtc::classify::{Kind, classify};
use auralink_rtc::dtls::Certificate;
use auralink_rtc::egress::Egress;
use auralink_rtc::units::Route;
use auralink_sfu::config::ShardConfig;
use auralink_sfu::lanes::mesh;
use auralink_sfu::shard::{Datagram, Output, Shard};
use room::{Room, SUBSCRIBERS, Seat};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// What is counted is global to the process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const SERVER: &str = "10.0.0.1:7882";
const WARM_UP: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(2);
/// The only thing a shard may allocate for: telling control who speaks, a list each 400 ms at most. Its queue grows by a block
/// now and then.
const ALLOCATIONS_PER_EVENT_MAX: u64 = 2;

fn fail_with_traces(what: &str, allocations: u64, packets: u64) -> ! {
    panic!("{what}: {allocations} allocations for {packets} packets:\n{}", take_traces().join("\n\n"));
}

#[test]
fn forwarding_without_io_allocates_nothing() {
    let _guard = ONE_AT_A_TIME.lock();
    let start = Instant::now();
    let server: SocketAddr = SERVER.parse().unwrap();
    let certificate = Certificate::generate().unwrap();
    let config = ShardConfig { transports_max: 64, tracks_max: 64, ..ShardConfig::default() };
    let mut shard = Shard::new(ShardId(0), config, certificate.clone(), start, 1);
    let seats = (0..=SUBSCRIBERS as u64).map(|index| Seat {
        transport: TransportId::new(ShardId(0), 100 + index),
        tracks: [TrackId::new(ShardId(0), 200 + 2 * index), TrackId::new(ShardId(0), 201 + 2 * index)],
        address: SocketAddr::new([10, 1, 0, 1 + index as u8].into(), 20_000),
    });
    let id = RoomId::new(ShardId(0), 1);
    let mut room = Room::new(start, id, server, certificate.fingerprint(), seats.collect());
    let (mut egress, mut events) = (Egress::new(64), Vec::with_capacity(1_024));
    let mut lanes = mesh(1).pop().unwrap();
    let mut out = Output { egress: &mut egress, events: &mut events, lanes: &mut lanes };
    for spec in room.specs() {
        shard.handle_command(start, Command::ApplyTransport(Box::new(spec)), &mut out);
    }
    let (mut media, mut timers, mut other, mut sent_before) = (0, 0, 0, 0);
    let mut trains = Vec::with_capacity(64);
    let mut now = start;
    while now < start + WARM_UP + MEASURED {
        now += STEP;
        let is_measured = now >= start + WARM_UP;
        if !is_measured {
            (media, timers, other, sent_before) = (0, 0, 0, shard.stats().packets_sent);
            take_traces();
        }
        for (seat, bytes) in room.poll(now) {
            let route = Route { remote: room.clients[seat].address, local: Some(server.ip()) };
            let datagram = Datagram { route, arrival: now, bytes: &bytes };
            let ((), n) = count(|| shard.ingest(now, &datagram, &mut out));
            match classify(&bytes) {
                Kind::Rtp | Kind::Rtcp => media += n,
                _ => other += n,
            }
        }
        let ((), n) = count(|| shard.handle_timeout(now, &mut out));
        timers += n;
        loop {
            let (done, n) = count(|| {
                let done = shard.egress(&mut out);
                for train in out.egress.drain() {
                    if let Some(range) = train.twcc {
                        shard.handle_flushed(now, range);
                    }
                    trains.push(train);
                }
                done
            });
            media += n;
            for train in trains.drain(..) {
                let seat = room.clients.iter().position(|client| client.address == train.route.remote);
                for datagram in train.datagrams() {
                    room.deliver(now, seat.unwrap(), server, datagram);
                }
                let ((), n) = count(|| out.egress.give_back(train.buffer));
                media += n;
            }
            if done {
                break;
            }
        }
        if !is_measured {
            out.events.clear();
        }
    }
    assert!(room.is_connected());
    let packets = shard.stats().packets_sent - sent_before;
    let events = events.len() as u64;
    let (faults, received) = room.account();
    assert!(faults.is_empty(), "{faults:?}");
    assert!(
        packets > 5_000 && received as u64 > packets,
        "only {packets} packets were forwarded, {received} received"
    );
    eprintln!(
        "sans-IO: {packets} packets; allocations: media {media}, timers {timers} with {events} events, STUN {other}"
    );
    if media > 0 {
        fail_with_traces("media, RTCP and feedback", media, packets);
    }
    if timers > events * ALLOCATIONS_PER_EVENT_MAX {
        fail_with_traces("timers", timers, packets);
    }
}

/// A client's socket, read without waiting.
fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn forward_through(backend: IoBackend) {
    let _guard = ONE_AT_A_TIME.lock();
    let config = NodeConfig {
        shards: 1,
        io_backend: backend,
        ports: Ports::Single(0),
        bind: [127, 0, 0, 1].into(),
        socket_buffer_bytes: 1 << 20,
        transports_max: 64,
        ..NodeConfig::default()
    };
    let (node, handle, mut events) = Node::start(&config).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let server = handle.candidates(ShardId(0))[0].address;
    let sockets: Vec<UdpSocket> = (0..=SUBSCRIBERS).map(|_| socket()).collect();
    let id = handle.place_room();
    let seats = sockets.iter().enumerate().map(|(index, socket)| {
        let transport = handle.place_transport(id, index);
        let tracks = [handle.place_track(transport), handle.place_track(transport)];
        Seat { transport, tracks, address: socket.local_addr().unwrap() }
    });
    let start = Instant::now();
    let mut room = Room::new(start, id, server, handle.fingerprint().0, seats.collect());
    for spec in room.specs() {
        runtime.block_on(handle.send(ShardId(0), Command::ApplyTransport(Box::new(spec)))).unwrap();
    }
    let sent = || node.reports().latest()[0].map_or(0, |report| report.stats.packets_sent);
    let (mut sent_before, mut repeated, mut is_watching) = (0, 0, false);
    let mut datagram = [0; 2_048];
    while start.elapsed() < WARM_UP + MEASURED {
        let now = Instant::now();
        if !is_watching && now >= start + WARM_UP {
            while events.try_recv().is_ok() {}
            sent_before = sent();
            take_traces();
            watch_threads();
            is_watching = true;
        }
        for (seat, bytes) in room.poll(now) {
            // Consent checks belong to time, not to packets; they outlast the measurement.
            if !is_watching || classify(&bytes) != Kind::Stun {
                sockets[seat].send_to(&bytes, server).unwrap();
            }
        }
        for (seat, socket) in sockets.iter().enumerate() {
            while let Ok((len, from)) = socket.recv_from(&mut datagram) {
                room.deliver(Instant::now(), seat, from, &datagram[..len]);
            }
        }
        while let Ok(event) = events.try_recv() {
            repeated += u64::from(is_watching);
            drop(event);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let allocations = unwatch_threads();
    // The last report may be a quarter of a second old.
    let packets = sent() - sent_before;
    let (faults, _) = room.account();
    assert!(room.is_connected());
    assert!(faults.is_empty(), "{faults:?}");
    assert!(packets > 4_000, "only {packets} packets were forwarded");
    eprintln!("{}: {packets} packets, {allocations} allocations, {repeated} events", node.io_backend());
    if allocations > repeated * ALLOCATIONS_PER_EVENT_MAX {
        fail_with_traces(node.io_backend(), allocations, packets);
    }
}

#[test]
fn forwarding_through_uring_allocates_nothing() {
    forward_through(IoBackend::Uring);
}

#[test]
fn forwarding_through_mmsg_allocates_nothing() {
    forward_through(IoBackend::Mmsg);
}

#[test]
fn strangers_cost_no_allocation() {
    let _guard = ONE_AT_A_TIME.lock();
    let now = Instant::now();
    let server: SocketAddr = SERVER.parse().unwrap();
    let certificate = Certificate::generate().unwrap();
    let config = ShardConfig { transports_max: 64, tracks_max: 64, ..ShardConfig::default() };
    let mut shard = Shard::new(ShardId(0), config, certificate, now, 1);
    let (mut egress, mut events) = (Egress::new(4), Vec::new());
    let mut lanes = mesh(1).pop().unwrap();
    let mut out = Output { egress: &mut egress, events: &mut events, lanes: &mut lanes };
    // A binding request for a user name fragment of ours that names nobody.
    let mut stun = vec![0, 1, 0, 20, 0x21, 0x12, 0xa4, 0x42];
    stun.extend([7; 12]);
    stun.extend([0, 6, 0, 16]);
    stun.extend(b"aaaaaaaaaaaaa:cc");
    let floods: [&[u8]; 4] = [&stun, &[22, 254, 253, 0], &[0x80; 200], &[0xff; 9]];
    for port in 1..=2_000 {
        let route = Route { remote: ([10, 9, 9, 9], port).into(), local: Some(server.ip()) };
        for bytes in floods {
            let ((), n) = count(|| shard.ingest(now, &Datagram { route, arrival: now, bytes }, &mut out));
            assert_eq!(n, 0, "a stranger's {bytes:?} allocated");
        }
    }
    assert_eq!((shard.transports_len(), shard.tuples_len(), out.egress.ready_len()), (0, 0, 0));
    assert_eq!(shard.stats().dropped(auralink_sfu::stats::DropReason::UnknownUfrag), 2_000);
}
