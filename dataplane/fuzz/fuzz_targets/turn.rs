//! TURN (RFC 8656): a stream of anything, cut into messages and given to a server, and the same as one datagram.
#![no_main]

use std::time::{Duration, Instant};

use auralink_turn::framing::{MESSAGE_LEN_MAX, next_message};
use auralink_turn::policy::Policy;
use auralink_turn::server::{Action, Config, HEADROOM, Server, TAILROOM};
use auralink_turn::{Moment, Origin};

libfuzzer_sys::fuzz_target!(|input: (Vec<u8>, u8)| {
    let (stream, port) = input;
    let config = Config {
        realm: "livekit".into(),
        secrets: [("key".to_owned(), "secret".to_owned())].into(),
        relay_v4: Some([203, 0, 113, 7].into()),
        relay_v6: None,
        relay_ports: 30_000..=30_003,
        peers: Policy::default(),
        per_user_max: 2,
        allocations_max: 2,
    };
    let mut server = Server::new(config, [port; 32]);
    let mut at = Moment { now: Instant::now(), unix_s: 1_700_000_000 };
    let remote = std::net::SocketAddr::new([192, 0, 2, 1].into(), port.into());
    let origin = Origin::Stream { connection: 1, remote };
    let (mut start, mut reply) = (0, Vec::new());
    while let Ok(Some((message, taken))) = next_message(&stream[start..]) {
        assert!(message.end <= taken && taken <= MESSAGE_LEN_MAX + 3);
        let bytes = &stream[start..][message];
        match server.handle_client(at, origin, bytes, &mut reply) {
            Action::Open { relay, .. } => drop(server.relay_opened(at.now, relay, &mut reply)),
            Action::Relay { payload, relay, peer } => {
                let mut packet = vec![0; HEADROOM + payload.len() + TAILROOM];
                let place = HEADROOM..HEADROOM + payload.len();
                packet[place.clone()].copy_from_slice(&bytes[payload]);
                server.handle_peer(at.now, relay, peer, &mut packet, place);
            }
            Action::Reply => assert!(matches!(next_message(&reply), Ok(Some((_, len))) if len == reply.len())),
            Action::Nothing => {}
        }
        start += taken;
        at.now += Duration::from_secs(1);
        server.handle_timeout(at.now);
    }
    // Every message as a datagram, too.
    let origin = Origin::Datagram { socket: 0, remote };
    server.handle_client(at, origin, &stream, &mut reply);
});
