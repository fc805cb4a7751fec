//! Zero heap allocations per forwarded packet after join: on the sans-IO path with one shard and with two, with and without
//! loss, and on the shards' threads of a real node with either back end. Counted are media, retransmissions, reports,
//! transport-wide feedback both ways and lanes. Strangers cost no allocation either.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test that tells its numbers")]

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use auralink_bench::room::{Media, Plan, Room, Seat};
use auralink_bench::stage::{Setting, Stage, Step};
use auralink_node::{IoBackend, Node, NodeConfig, Ports, Spill};
use auralink_proto::ShardId;
use auralink_ring::count_alloc::{CountingAllocator, count, take_traces, unwatch_threads, watch_threads};
use auralink_rtc::classify::{Kind, classify};
use auralink_rtc::dtls::Certificate;
use auralink_rtc::egress::Egress;
use auralink_rtc::units::Route;
use auralink_sfu::config::ShardConfig;
use auralink_sfu::lanes::mesh;
use auralink_sfu::shard::{Datagram, Output, Shard};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// What is counted is global to the process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const SUBSCRIBERS: usize = 10;
const SERVER: &str = "10.0.0.1:7882";
const WARM_UP: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(10);
/// The only thing a shard may allocate for: telling control who speaks, a list each 400 ms at most. Its queue grows by a block
/// now and then.
const ALLOCATIONS_PER_EVENT_MAX: u64 = 2;

fn fail_with_traces(what: &str, allocations: u64, packets: u64) -> ! {
    panic!("{what}: {allocations} allocations for {packets} packets:\n{}", take_traces().join("\n\n"));
}

/// Ten seconds of a room in virtual time; its account is given back for what else has to be true.
fn forward_without_io(name: &str, shards: usize, loses_one_in: Option<u32>) -> Stage {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let setting = Setting { subscribers: SUBSCRIBERS, shards, media: Media::Simulcast, opens_media: true };
    let mut stage = Stage::new(setting);
    stage.connect();
    // A stream takes its memory with its first packet, repair streams too: each must have had one.
    stage.loses_one_in = loses_one_in.map(|_| 4);
    let warm = stage.now + WARM_UP;
    while stage.now < warm {
        stage.turn(&mut |_, work| work());
    }
    stage.loses_one_in = loses_one_in;
    stage.take_events();
    take_traces();
    let (forwarded, opened) = (stage.forwarded(), stage.room.opened());
    let mut allocations: HashMap<Step, u64> = HashMap::new();
    let end = stage.now + MEASURED;
    while stage.now < end {
        stage.turn(&mut |step, work| {
            let ((), n) = count(work);
            *allocations.entry(step).or_default() += n;
        });
    }
    let (forwarded, opened) = (stage.forwarded() - forwarded, stage.room.opened() - opened);
    let events = stage.take_events() as u64;
    let of = |step| allocations.get(&step).copied().unwrap_or_default();
    let media = of(Step::Ingest) + of(Step::Egress) + of(Step::Feedback) + of(Step::Lanes);
    assert!(stage.room.is_connected());
    assert_eq!(stage.room.faults(), [""; 0]);
    assert!(
        forwarded > 5_000 && opened as u64 > forwarded * 9 / 10,
        "only {forwarded} packets were forwarded, {opened} opened"
    );
    eprintln!(
        "{name}: {forwarded} packets, {} resent, {} over lanes; allocations: media {media}, timers {} with {events} events, \
         STUN {}",
        stage.retransmitted(),
        stage.crossed(),
        of(Step::Timers),
        of(Step::Slow)
    );
    if media > 0 {
        fail_with_traces(name, media, forwarded);
    }
    if of(Step::Timers) > events * ALLOCATIONS_PER_EVENT_MAX {
        fail_with_traces("timers", of(Step::Timers), forwarded);
    }
    stage
}

#[test]
fn forwarding_without_io_allocates_nothing() {
    let stage = forward_without_io("one shard", 1, None);
    assert_eq!((stage.crossed(), stage.retransmitted()), (0, 0));
}

#[test]
fn forwarding_over_a_lane_allocates_nothing() {
    let stage = forward_without_io("two shards", 2, None);
    assert!(stage.crossed() > 1_000, "only {} packets crossed the lane", stage.crossed());
    assert_eq!(stage.drops(), [("", 0); 0], "a lane loses nothing");
}

#[test]
fn resending_allocates_nothing() {
    let stage = forward_without_io("loss", 1, Some(20));
    assert!(stage.retransmitted() > 150, "only {} packets were resent", stage.retransmitted());
}

#[test]
fn resending_out_of_a_history_fed_by_a_lane_allocates_nothing() {
    let stage = forward_without_io("loss, two shards", 2, Some(20));
    assert!(stage.retransmitted() > 150 && stage.crossed() > 1_000);
}

/// A client's socket, read without waiting; every other client has IPv6.
fn socket(index: usize) -> UdpSocket {
    let socket = UdpSocket::bind(if index.is_multiple_of(2) { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn forward_through(backend: IoBackend, shards: u8) {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let config = NodeConfig {
        shards,
        io_backend: backend,
        ports: Ports::Single(0),
        advertise: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        spill: if shards > 1 { Spill::Forced } else { Spill::Home },
        socket_buffer_bytes: 1 << 20,
        transports_max: 64,
        ..NodeConfig::default()
    };
    let (node, handle, mut events) = Node::start(&config).unwrap();
    let sockets: Vec<UdpSocket> = (0..=SUBSCRIBERS).map(socket).collect();
    let id = handle.place_room();
    let seats: Vec<Seat> = (sockets.iter().enumerate())
        .map(|(index, socket)| Seat::take(&handle, id, index, socket.local_addr().unwrap()))
        .collect();
    let start = Instant::now();
    let server_fingerprint = handle.fingerprint().0;
    let plan = Plan { id, server_fingerprint, media: Media::Simulcast, opens_media: true };
    let mut room = Room::new(start, plan, &seats);
    room.announce(&handle);
    let total = |of: fn(&auralink_node::ShardReport) -> u64| -> u64 {
        node.reports().latest().iter().flatten().map(of).sum()
    };
    let (mut sent_before, mut repeated, mut is_watching) = (0, 0, false);
    let mut datagram = [0; 2_048];
    while start.elapsed() < WARM_UP + MEASURED {
        let now = Instant::now();
        if !is_watching && now >= start + WARM_UP {
            while events.try_recv().is_ok() {}
            sent_before = total(|report| report.stats.packets_sent);
            take_traces();
            watch_threads();
            is_watching = true;
        }
        for (seat, bytes) in room.poll(now) {
            // Consent checks belong to time, not to packets; they outlast the measurement.
            if !is_watching || classify(&bytes) != Kind::Stun {
                sockets[seat].send_to(&bytes, seats[seat].server).unwrap();
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
    let packets = total(|report| report.stats.packets_sent) - sent_before;
    let crossed = total(|report| report.stats.lane_received);
    assert!(room.is_connected());
    assert_eq!(room.faults(), [""; 0]);
    assert!(packets > 4_000, "only {packets} packets were forwarded");
    assert_eq!(shards > 1, crossed > 1_000, "{crossed} packets crossed a lane between {shards} shards");
    eprintln!(
        "{} with {shards} shards: {packets} packets, {allocations} allocations, {repeated} events",
        node.io_backend()
    );
    if allocations > repeated * ALLOCATIONS_PER_EVENT_MAX {
        fail_with_traces(node.io_backend(), allocations, packets);
    }
}

#[test]
fn forwarding_through_uring_allocates_nothing() {
    forward_through(IoBackend::Uring, 1);
}

#[test]
fn forwarding_through_mmsg_allocates_nothing() {
    forward_through(IoBackend::Mmsg, 1);
}

#[test]
fn forwarding_through_two_threads_allocates_nothing() {
    forward_through(IoBackend::Uring, 2);
}

#[test]
fn strangers_cost_no_allocation() {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
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
        let route = Route::udp(([10, 9, 9, 9], port).into(), Some(server.ip()));
        for bytes in floods {
            let ((), n) = count(|| shard.ingest(now, &Datagram { route, arrival: now, bytes }, &mut out));
            assert_eq!(n, 0, "a stranger's {bytes:?} allocated");
        }
    }
    assert_eq!((shard.transports_len(), shard.tuples_len(), out.egress.ready_len()), (0, 0, 0));
    assert_eq!(shard.stats().dropped(auralink_sfu::stats::DropReason::UnknownUfrag), 2_000);
}
