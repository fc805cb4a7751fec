//! Media over IPv4 and IPv6 on one port, through a real node: with either back end, over several shards, and whoever brings a
//! datagram to its shard.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use auralink_bench::room::{Media, Plan, Room, Seat};
use auralink_node::{IoBackend, Node, NodeConfig, Ports, ShardReport, Spill, Steer};
use auralink_proto::Protocol;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const SUBSCRIBERS: usize = 6;
const MEASURED: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);
/// RTP datagrams every subscriber must have received by the end.
const ENOUGH: u64 = 100 * SUBSCRIBERS as u64;

struct Way {
    backend: IoBackend,
    shards: u8,
    steer: Steer,
    ports: Ports,
}

const ONE_PORT: Ports = Ports::Single(0);

/// What the node did for a room whose clients sit at `addresses` in turn.
fn call(way: &Way, bind: Option<IpAddr>, addresses: &[IpAddr]) -> (u64, u64) {
    let config = NodeConfig {
        shards: way.shards,
        io_backend: way.backend,
        steer: way.steer,
        ports: way.ports,
        bind,
        advertise: vec![V4, V6],
        spill: if way.shards > 1 { Spill::Forced } else { Spill::Home },
        socket_buffer_bytes: 1 << 20,
        transports_max: 64,
        ..NodeConfig::default()
    };
    let (node, handle, _events) = Node::start(&config).unwrap();
    let sockets: Vec<UdpSocket> = (addresses.iter().cycle().take(SUBSCRIBERS + 1))
        .map(|ip| {
            let socket = UdpSocket::bind((*ip, 0)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
        .collect();
    let id = handle.place_room();
    let seats: Vec<Seat> = (sockets.iter().enumerate())
        .map(|(index, socket)| Seat::take(&handle, id, index, socket.local_addr().unwrap()))
        .collect();
    let start = Instant::now();
    let server_fingerprint = handle.fingerprint().0;
    let plan = Plan { id, server_fingerprint, media: Media::Simulcast, opens_media: true };
    let mut room = Room::new(start, plan, &seats);
    room.announce(&handle);
    let mut datagram = [0; 2_048];
    let mut fed_since = None;
    while fed_since.is_none_or(|since: Instant| since.elapsed() < MEASURED || room.delivered() < ENOUGH) {
        let now = Instant::now();
        assert!(start.elapsed() < PATIENCE, "{} delivered; {:?}", room.delivered(), node.reports().latest());
        for (seat, bytes) in room.poll(now) {
            sockets[seat].send_to(&bytes, seats[seat].server).unwrap();
        }
        for (seat, socket) in sockets.iter().enumerate() {
            while let Ok((len, from)) = socket.recv_from(&mut datagram) {
                assert_eq!(from, seats[seat].server, "an answer comes from the address that was asked");
                room.deliver(Instant::now(), seat, from, &datagram[..len]);
            }
        }
        if fed_since.is_none() && room.is_connected() && room.is_fed() {
            fed_since = Some(now);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(room.faults(), [""; 0]);
    std::thread::sleep(Duration::from_millis(300));
    let total = |of: fn(&ShardReport) -> u64| node.reports().latest().iter().flatten().map(of).sum();
    (total(|report| report.stats.steered), total(|report| report.stats.packets_received))
}

#[test]
fn both_families_meet_on_one_port_with_either_back_end() {
    for backend in [IoBackend::Uring, IoBackend::Mmsg] {
        let way = Way { backend, shards: 1, steer: Steer::Auto, ports: ONE_PORT };
        call(&way, None, &[V6, V4]);
        call(&way, Some(Ipv6Addr::UNSPECIFIED.into()), &[V6]);
    }
}

#[test]
fn the_kernel_brings_datagrams_of_both_families_to_their_shard() {
    for backend in [IoBackend::Uring, IoBackend::Mmsg] {
        let way = Way { backend, shards: 2, steer: Steer::Auto, ports: ONE_PORT };
        let (crossed, received) = call(&way, None, &[V6, V4, V6]);
        // What the handshake sent before its address was known may cross, media hardly.
        assert!(crossed < received / 4, "{crossed} of {received} packets crossed a lane");
    }
}

#[test]
fn lanes_bring_datagrams_of_both_families_to_their_shard() {
    for backend in [IoBackend::Uring, IoBackend::Mmsg] {
        let way = Way { backend, shards: 2, steer: Steer::Lanes, ports: ONE_PORT };
        call(&way, None, &[V6, V4, V6]);
    }
}

#[test]
fn candidates_are_of_the_families_that_are_served() {
    let served = |bind: Option<IpAddr>| {
        let config = NodeConfig {
            shards: 1,
            bind,
            ports: ONE_PORT,
            tcp_port: Some(0),
            advertise: vec![V4, V6],
            ..NodeConfig::default()
        };
        let (_node, handle, _events) = Node::start(&config).unwrap();
        let candidates = handle.candidates(auralink_proto::ShardId(0)).iter();
        candidates.map(|c| (c.protocol, c.address.ip())).collect::<Vec<_>>()
    };
    let (udp, tcp) = (Protocol::Udp, Protocol::Tcp);
    assert_eq!(served(None), [(udp, V4), (udp, V6), (tcp, V4), (tcp, V6)]);
    assert_eq!(served(Some(V6)), [(udp, V6), (tcp, V6)]);
    assert_eq!(served(Some(Ipv4Addr::UNSPECIFIED.into())), [(udp, V4), (tcp, V4)]);
    let config = NodeConfig { shards: 1, bind: Some(V6), ports: ONE_PORT, ..NodeConfig::default() };
    assert!(Node::start(&config).is_err(), "an IPv4 address alone cannot be told of a node bound to IPv6");
}

#[test]
fn a_host_without_ipv6_starts_and_tells_of_ipv4_alone() {
    let started = || {
        auralink_ring::seccomp::deny_ipv6().unwrap();
        let config = NodeConfig {
            shards: 2,
            ports: ONE_PORT,
            tcp_port: Some(0),
            advertise: vec![V4, V6],
            ..NodeConfig::default()
        };
        let (_node, handle, _events) = Node::start(&config).unwrap();
        let candidates = handle.candidates(auralink_proto::ShardId(1)).iter();
        candidates.map(|candidate| candidate.address.ip()).collect::<Vec<_>>()
    };
    // The filter is the thread's, and of what it starts.
    assert_eq!(std::thread::spawn(started).join().unwrap(), [V4, V4]);
}

#[test]
fn only_who_asks_for_io_uring_needs_it() {
    let started = || {
        auralink_ring::seccomp::deny_io_uring().unwrap();
        let start = |io_backend| {
            let config = NodeConfig { shards: 1, io_backend, ports: ONE_PORT, ..NodeConfig::default() };
            Node::start(&config)
                .map(|(node, ..)| node.io_backend().to_owned())
                .map_err(|error| error.to_string())
        };
        [start(IoBackend::Auto), start(IoBackend::Uring)]
    };
    let [by_default, asked] = std::thread::spawn(started).join().unwrap();
    assert_eq!(by_default.as_deref(), Ok("mmsg"));
    assert!(asked.unwrap_err().contains("io_uring"));
}

#[test]
fn who_is_told_of_ipv4_alone_is_served_by_a_socket_of_ipv4_alone() {
    let leaves_v6_free = |advertise: &[IpAddr]| {
        let advertise = advertise.to_vec();
        let config = NodeConfig { shards: 1, ports: ONE_PORT, advertise, ..NodeConfig::default() };
        let (_node, handle, _events) = Node::start(&config).unwrap();
        let port = handle.candidates(auralink_proto::ShardId(0))[0].address.port();
        UdpSocket::bind((V6, port)).is_ok()
    };
    assert!(leaves_v6_free(&[V4]));
    assert!(!leaves_v6_free(&[V4, V6]));
}
