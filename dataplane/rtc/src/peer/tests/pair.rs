//! Our server and our client.

use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::world::*;
use crate::classify::{Kind, classify};
use crate::dtls::{Certificate, DtlsError, PeerKeys};
use crate::peer::{PeerClose, PeerError, PeerEvent};
use crate::rtp::RtpHeader;
use crate::sctp::{ChannelError, Reliability};
use crate::srtp::Profile;
use crate::stun::Binding;
use crate::units::SeqNo;

fn is_connected_with_gcm(event: &PeerEvent) -> bool {
    matches!(event, PeerEvent::Connected { profile: Profile::AeadAes256Gcm })
}

#[test]
fn two_peers_connect_with_gcm_in_few_round_trips() {
    let mut world = World::new(1);
    let start = world.now;
    world.connect();
    assert!(world.nodes.iter().all(|node| node.has(is_connected_with_gcm)));
    // One way is 5 ms: one round trip of checks, two of DTLS, and the answer to the last flight.
    assert!(world.now - start <= MS * 35, "took {:?}", world.now - start);
    assert_eq!(world.server().peer.route().map(|route| route.remote), Some(client_address()));
    assert_eq!(world.client().peer.route().map(|route| route.remote), Some(server_address()));
    assert!(
        world
            .server()
            .has(|event| matches!(event, PeerEvent::Validated(route) if route.remote == client_address()))
    );
}

/// Either DTLS library on either side.
const KEYS: [[PeerKeys; 2]; 4] = [
    [PeerKeys::Ecdsa, PeerKeys::Ecdsa],
    [PeerKeys::Ecdsa, PeerKeys::Any],
    [PeerKeys::Any, PeerKeys::Ecdsa],
    [PeerKeys::Any, PeerKeys::Any],
];

#[test]
fn either_library_connects_in_either_role_over_a_bad_wire() {
    for keys in KEYS {
        for seed in 0..6 {
            let mut world = World::with_keys(seed, keys);
            (world.loss, world.twice, world.jitter_ms) = (10, 10, 20);
            let now = world.now;
            world.client().peer.open_channel(now, "_reliable", true, Reliability::Reliable).unwrap();
            world.connect();
            for from in 0..2 {
                let stream = world.nodes[from].peer.srtp_seal().unwrap().stream(77).unwrap();
                for i in 0..50 {
                    world.send_media(from, stream, 77, SeqNo(SeqNo::first(1).0 + i), &[i as u8; 200]);
                }
            }
            world.run_until("channel and media", Duration::from_secs(20), |nodes| {
                nodes.iter().all(|node| node.channel("_reliable").is_some() && node.media.len() > 25)
            });
            for node in &mut world.nodes {
                let open = node.peer.srtp_open().unwrap();
                let (mut out, datagram) = ([0; 1_500], &node.media[0]);
                let header = RtpHeader::parse(datagram).unwrap();
                assert!(open.open_rtp(&header, datagram, &mut out).is_ok(), "{keys:?}");
            }
            world.loss = 0;
            let now = world.now;
            let node = world.client();
            node.peer.close(now, &mut node.egress);
            world.run_until("good-bye", Duration::from_secs(2), |nodes| {
                nodes[0].has(|event| *event == PeerEvent::Closed(PeerClose::PeerClosed))
            });
        }
    }
}

#[test]
fn media_does_not_wait_for_a_nomination_that_is_lost() {
    let mut world = World::new(1);
    let end = world.now + Duration::from_secs(2);
    while !world.nodes.iter().all(|node| node.peer.is_connected()) {
        assert!(world.now < end, "no connection in time");
        world.step(end);
        world
            .wire
            .retain(|flight| !Binding::parse(&flight.datagram).is_some_and(|check| check.use_candidate));
    }
    assert!(!world.server().has(|event| matches!(event, PeerEvent::Nominated(_))));
    assert_eq!(world.server().peer.route().map(|route| route.remote), Some(client_address()));
}

#[test]
fn media_and_reports_cross_both_ways() {
    let mut world = World::new(2);
    world.connect();
    for from in 0..2 {
        let stream = world.nodes[from].peer.srtp_seal().unwrap().stream(77).unwrap();
        for i in 0..50 {
            world.send_media(from, stream, 77, SeqNo(SeqNo::first(65_520).0 + i), &[i as u8; 200]);
        }
        let mut report = [0x80, 201, 0, 1, 0, 0, 0, 77].to_vec();
        report.resize(200, 0);
        let node = &mut world.nodes[from];
        let route = node.peer.route().unwrap();
        let mut place = [0; 100];
        let len = node.peer.srtp_seal().unwrap().seal_rtcp(&report[..8], &mut place).unwrap();
        assert!(node.egress.push(&route, &place[..len]));
    }
    world.run_for(MS * 50);
    for node in &mut world.nodes {
        let open = node.peer.srtp_open().unwrap();
        let mut out = [0; 1_500];
        let (mut payloads, mut reports) = (0, 0);
        for datagram in &node.media {
            if classify(datagram) == Kind::Rtcp {
                assert_eq!(open.open_rtcp(datagram, &mut out), Ok(8));
                reports += 1;
                continue;
            }
            let header = RtpHeader::parse(datagram).unwrap();
            let (seq, len) = open.open_rtp(&header, datagram, &mut out).unwrap();
            let i = seq.0 - SeqNo::first(65_520).0;
            assert_eq!(out[..len], [i as u8; 200]);
            payloads += 1;
        }
        assert_eq!((payloads, reports), (50, 1));
    }
}

#[test]
fn channels_open_from_both_sides_and_carry_messages_whole() {
    let mut world = World::new(3);
    let now = world.now;
    let first = world.client().peer.open_channel(now, "_reliable", true, Reliability::Reliable).unwrap();
    let second = world.server().peer.open_channel(now, "_lossy", false, Reliability::Retransmits(0)).unwrap();
    assert_eq!((first, second), (0, 1));
    world.connect();
    world.run_until("channels", Duration::from_secs(5), |nodes| {
        nodes.iter().all(|node| node.channel("_reliable").is_some() && node.channel("_lossy").is_some())
    });
    let lossy = PeerEvent::ChannelOpen { id: 1, label: "_lossy".into(), ordered: false, reliable: false };
    let reliable = PeerEvent::ChannelOpen { id: 0, label: "_reliable".into(), ordered: true, reliable: true };
    for node in &world.nodes {
        assert!(node.has(|event| *event == lossy) && node.has(|event| *event == reliable));
    }
    let sent = [(true, vec![]), (false, b"text".to_vec()), (true, vec![7; 64 * 1024]), (false, vec![])];
    for from in 0..2 {
        for (binary, bytes) in &sent {
            let now = world.now;
            let node = &mut world.nodes[from];
            node.peer.send(now, 0, *binary, bytes, &mut node.egress).unwrap();
            world.flush();
        }
    }
    world.run_until("messages", Duration::from_secs(5), |nodes| {
        nodes.iter().all(|node| node.messages().len() >= 4)
    });
    let expected: Vec<_> = sent.iter().map(|(binary, bytes)| (0, *binary, bytes.clone())).collect();
    for node in &world.nodes {
        assert_eq!(node.messages(), expected);
    }
}

#[test]
fn a_bad_wire_only_takes_longer() {
    for seed in 0..12 {
        let mut world = World::new(seed);
        (world.loss, world.twice, world.jitter_ms) = (15, 10, 40);
        let now = world.now;
        world.client().peer.open_channel(now, "data", true, Reliability::Reliable).unwrap();
        world.connect();
        world.run_until("channel", Duration::from_secs(30), |nodes| nodes[1].channel("data").is_some());
        for i in 0..30u8 {
            let now = world.now;
            let node = world.client();
            node.peer.send(now, 0, true, &vec![i; 3_000], &mut node.egress).unwrap();
        }
        world.run_until("messages", Duration::from_secs(120), |nodes| nodes[0].messages().len() == 30);
        let order: Vec<_> = world.server().messages().iter().map(|(_, _, bytes)| bytes[0]).collect();
        assert_eq!(order, (0..30).collect::<Vec<_>>());
    }
}

#[test]
fn closing_says_good_bye() {
    let mut world = World::new(4);
    world.connect();
    let now = world.now;
    let node = world.client();
    node.peer.close(now, &mut node.egress);
    world.run_for(MS * 50);
    assert_eq!(world.client().events.last(), Some(&PeerEvent::Closed(PeerClose::Local)));
    assert_eq!(world.server().events.last(), Some(&PeerEvent::Closed(PeerClose::PeerClosed)));
    assert!(world.server().peer.srtp_open().is_none());
    assert_eq!(world.server().peer.poll_timeout(), None);
    let now = world.now;
    assert_eq!(world.server().handle(now, client_address(), &[22; 60]), Err(PeerError::Closed));
}

#[test]
fn a_peer_that_vanishes_is_closed_when_its_consent_runs_out() {
    let mut world = World::new(5);
    world.connect();
    world.run_for(Duration::from_secs(60));
    assert!(world.nodes.iter().all(|node| node.peer.is_connected()), "checks keep consent alive");
    world.cut = true;
    let cut_at = world.now;
    world.run_until("end", Duration::from_secs(40), |nodes| {
        nodes[0].has(|event| *event == PeerEvent::Closed(PeerClose::ConsentExpired))
    });
    assert!(world.now - cut_at > Duration::from_secs(20));
}

#[test]
fn a_wrong_fingerprint_never_yields_keys() {
    for (keys, wrong) in KEYS.into_iter().flat_map(|keys| [(keys, 0), (keys, 1)]) {
        let (ours, theirs) = (Certificate::generate().unwrap(), Certificate::generate().unwrap());
        let mut server = server_config(theirs.fingerprint());
        let mut client = client_config(ours.fingerprint());
        [server.remote_keys, client.remote_keys] = keys;
        [&mut server, &mut client][wrong].remote_fingerprint[31] ^= 1;
        let mut world = World::with(6, server, client, ours, theirs);
        world.run_for(Duration::from_secs(45));
        let node = &mut world.nodes[wrong];
        assert!(
            node.has(|event| { *event == PeerEvent::Closed(PeerClose::DtlsFailed(DtlsError::Fingerprint)) })
        );
        assert!(!node.has(|event| matches!(event, PeerEvent::Connected { .. })));
        assert!(node.peer.srtp_open().is_none() && node.peer.srtp_seal().is_none());
    }
}

#[test]
fn dtls_from_an_address_that_was_not_checked_is_refused() {
    let mut world = World::new(7);
    let spoof = b"\x16\xfe\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x31\x01\x00\x00\x25";
    let now = world.now;
    let stranger = SocketAddr::from(([10, 0, 0, 9], 9));
    for _ in 0..100 {
        assert_eq!(world.server().handle(now, stranger, spoof), Err(PeerError::NotValidated));
    }
    assert_eq!(world.server().egress.ready_len(), 0, "nothing is answered");
    world.connect();
    let now = world.now;
    assert_eq!(world.server().handle(now, stranger, spoof), Err(PeerError::NotValidated));
}

#[test]
fn damage_at_every_length_leaves_the_peer_alive() {
    let mut world = World::new(8);
    let now = world.now;
    world.client().peer.open_channel(now, "data", true, Reliability::Reliable).unwrap();
    // Keep what crosses while connecting, to send it again damaged.
    let mut seen: Vec<(usize, Vec<u8>)> = Vec::new();
    let end = world.now + Duration::from_secs(5);
    while !(world.nodes.iter().all(|node| node.channel("data").is_some())) {
        world.step(end);
        seen.extend(world.wire.iter().map(|flight| (flight.to, flight.datagram.clone())));
        assert!(world.now < end);
    }
    let addresses = [client_address(), server_address()];
    for (to, datagram) in seen {
        let now = world.now;
        for len in 0..datagram.len() {
            let node = &mut world.nodes[to];
            let _ = node.handle(now, addresses[to], &datagram[..len]);
            let mut flipped = datagram.clone();
            flipped[len] ^= 0x55;
            let _ = node.handle(now, addresses[to], &flipped);
            world.flush();
        }
        assert!(world.nodes.iter().all(|node| node.peer.is_connected()));
    }
    world.run_for(Duration::from_secs(2));
    let now = world.now;
    let node = world.client();
    node.peer.send(now, 0, true, b"still here", &mut node.egress).unwrap();
    world.run_until("message", Duration::from_secs(5), |nodes| nodes[0].messages().len() == 1);
}

#[test]
fn an_ice_restart_keeps_the_session() {
    let mut world = World::new(9);
    world.connect();
    let stream = world.client().peer.srtp_seal().unwrap().stream(5).unwrap();
    world.send_media(1, stream, 5, SeqNo::first(9), b"before");
    world.run_for(MS * 50);
    let now = world.now;
    let (server, client) = (credentials("server2"), credentials("client2"));
    world.server().peer.set_ice(now, server.clone(), client.clone());
    world.run_for(Duration::from_secs(3));
    assert!(world.server().peer.is_connected(), "checks of the old generation still count");
    let now = world.now;
    world.client().peer.restart_ice(now, client, Some(server));
    world.client().peer.add_remote_candidate(server_address());
    world.run_for(Duration::from_secs(40));
    assert!(world.nodes.iter().all(|node| node.peer.is_connected()));
    world.send_media(1, stream, 5, SeqNo::first(10), b"after");
    world.run_for(MS * 50);
    let node = world.server();
    let mut out = [0; 100];
    for (datagram, payload) in node.media.iter().zip([&b"before"[..], b"after"]) {
        let header = RtpHeader::parse(datagram).unwrap();
        let (_, len) = node.peer.srtp_open().unwrap().open_rtp(&header, datagram, &mut out).unwrap();
        assert_eq!(out[..len], *payload);
    }
    assert_eq!(node.media.len(), 2);
}

/// The DTLS datagram the client opens with, taken off the wire.
fn take_client_hello(world: &mut World) -> Vec<u8> {
    let end = world.now + Duration::from_secs(5);
    loop {
        world.step(end);
        let is_hello = |flight: &mut InFlight| flight.to == 0 && classify(&flight.datagram) == Kind::Dtls;
        if let Some(hello) = world.wire.extract_if(.., is_hello).next() {
            return hello.datagram;
        }
        assert!(world.now < end);
    }
}

/// A ClientHello's body, and the same handed out in records of at most `size` bytes of it.
fn fragments(body: &[u8], size: usize) -> Vec<Vec<u8>> {
    let u24 = |value: usize| (value as u32).to_be_bytes()[1..].to_vec();
    let pieces = body.chunks(size).enumerate();
    pieces
        .map(|(i, piece)| {
            let handshake = [&[1][..], &u24(body.len()), &[0, 0], &u24(i * size), &u24(piece.len()), piece];
            let handshake = handshake.concat();
            let length = (handshake.len() as u16).to_be_bytes();
            [&[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, i as u8][..], &length, &handshake].concat()
        })
        .collect()
}

#[test]
fn a_fragmented_client_hello_completes_the_handshake() {
    for backwards in [false, true] {
        let mut world = World::new(10);
        let hello = take_client_hello(&mut world);
        let mut pieces = fragments(&hello[25..], hello.len() / 2);
        assert!(pieces.len() >= 2);
        if backwards {
            pieces.reverse();
        }
        let now = world.now;
        for piece in pieces {
            world.server().handle(now, client_address(), &piece).unwrap();
        }
        world.connect();
    }
}

#[test]
fn a_client_hello_of_browser_size_is_answered() {
    let mut world = World::new(11);
    let hello = take_client_hello(&mut world);
    let mut body = hello[25..].to_vec();
    // An extension nobody knows makes it as long as one with a post-quantum key share.
    let padding = 1_400 - body.len();
    body.extend([0xfa, 0xfa]);
    body.extend((padding as u16).to_be_bytes());
    body.resize(body.len() + padding, 0);
    // Fixed fields, then session id, cookie, suites and compression methods, each with its length in front.
    let mut at = 34;
    at += 1 + usize::from(body[at]);
    at += 1 + usize::from(body[at]);
    at += 2 + usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
    at += 1 + usize::from(body[at]);
    let extensions_len = (body.len() - at - 2) as u16;
    body[at..at + 2].copy_from_slice(&extensions_len.to_be_bytes());
    let now = world.now;
    let mut answers = Vec::new();
    for piece in fragments(&body, 1_100) {
        world.server().handle(now, client_address(), &piece).unwrap();
        answers.extend(world.server().egress.drain().map(|train| train.bytes().to_vec()));
    }
    // ServerHello is handshake message 2.
    assert!(answers.iter().any(|answer| answer[0] == 22 && answer[13] == 2));
}

#[test]
fn a_flood_of_fragments_costs_the_flooder_only() {
    flood(PeerKeys::Ecdsa);
    flood(PeerKeys::Any);
}

fn flood(keys: PeerKeys) {
    let mut world = World::with_keys(12, [keys, PeerKeys::Ecdsa]);
    let hello = take_client_hello(&mut world);
    let now = world.now;
    for i in 0..5_000u32 {
        let mut piece = fragments(&hello[25..], 20).swap_remove(1);
        piece[5..11].copy_from_slice(&u64::from(i).to_be_bytes()[2..]);
        // Message numbers far ahead, zero lengths, overlapping offsets.
        piece[17..19].copy_from_slice(&((i % 7) as u16).to_be_bytes());
        piece[20] = (i % 250) as u8;
        if i % 3 == 0 {
            piece[22..25].fill(0);
        }
        let _ = world.server().handle(now, client_address(), &piece);
    }
    // Whether this session survives is the flooder's own affair; the node goes on.
    world.run_for(Duration::from_secs(40));
}

#[test]
fn channels_messages_and_buffers_are_bounded() {
    let mut world = World::new(13);
    world.connect();
    let now = world.now;
    let mut opened = 0;
    while world.client().peer.open_channel(now, "x", true, Reliability::Reliable).is_ok() {
        opened += 1;
    }
    assert_eq!(opened, crate::sctp::CHANNELS_MAX);
    world.run_until("channels", Duration::from_secs(5), |nodes| {
        nodes[0].events.iter().filter(|e| matches!(e, PeerEvent::ChannelOpen { .. })).count() == opened
            && nodes[1].channel("x").is_some()
    });
    let now = world.now;
    let Node { peer, egress, .. } = world.client();
    assert_eq!(peer.send(now, 999, true, b"x", egress), Err(ChannelError::NotOpen));
    assert_eq!(peer.send(now, 0, true, &[0; 64 * 1024 + 1], egress), Err(ChannelError::TooLarge));
    let mut sent = 0;
    let last = loop {
        match peer.send(now, 0, true, &[1; 60_000], egress) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((last, sent), (ChannelError::BufferFull, 1024 * 1024 / 60_000));
    assert!(peer.buffered(0) <= crate::sctp::BUFFERED_BYTES_MAX);
    world.run_until("messages", Duration::from_secs(60), |nodes| nodes[0].messages().len() == sent);
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.client().peer.buffered(0), 0);
}

#[test]
fn a_closed_channel_is_closed_on_both_sides() {
    let mut world = World::new(14);
    let now = world.now;
    world.client().peer.open_channel(now, "data", true, Reliability::Reliable).unwrap();
    world.connect();
    world.run_until("channel", Duration::from_secs(5), |nodes| {
        nodes.iter().all(|node| node.channel("data").is_some())
    });
    let now = world.now;
    let node = world.server();
    node.peer.close_channel(now, 0, &mut node.egress);
    world.run_until("close", Duration::from_secs(5), |nodes| {
        nodes.iter().all(|node| node.has(|event| *event == PeerEvent::ChannelClosed { id: 0 }))
    });
}

#[test]
fn an_idle_server_is_woken_rarely() {
    let mut world = World::new(15);
    let now = world.now;
    world.client().peer.open_channel(now, "data", true, Reliability::Reliable).unwrap();
    world.connect();
    world.run_for(Duration::from_secs(10));
    let end = world.now + Duration::from_secs(60);
    let mut wakes = 0;
    while world.now < end {
        let due = world.server().peer.poll_timeout();
        world.step(end);
        wakes += u32::from(due.is_some_and(|at| at <= world.now));
    }
    assert!(wakes <= 4, "{wakes} wakes in a minute");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_records_from_a_checked_address_leave_the_node_alive(
        records in proptest::collection::vec(
            (20u8..64, 0u8..2, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..80)), 1..20
        ),
        is_early in any::<bool>(),
        keys in prop_oneof![Just(PeerKeys::Ecdsa), Just(PeerKeys::Any)],
    ) {
        let mut world = World::with_keys(16, [keys, PeerKeys::Ecdsa]);
        if is_early {
            take_client_hello(&mut world);
        } else {
            world.connect();
        }
        let now = world.now;
        for (i, (kind, epoch, handshake, mut body)) in records.into_iter().enumerate() {
            if let (22, Some(first)) = (kind, body.first_mut()) {
                *first = handshake % 25;
            }
            let head = [kind, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 1, i as u8, 0, body.len() as u8];
            let _ = world.server().handle(now, client_address(), &[&head[..], &body].concat());
        }
        world.run_for(Duration::from_secs(2));
    }
}
