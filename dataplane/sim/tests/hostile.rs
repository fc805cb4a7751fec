//! Attacks on the data plane during a call of others: the call goes on as if nothing happened, the attack is dropped by name,
//! and no stranger gets an answer or leaves state behind.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::SocketAddr;
use std::time::Duration;

use auralink_sim::rng::Rng;
use auralink_sim::scenario::Scenario;
use auralink_sim::world::{Outcome, World};

fn stranger(n: u64) -> SocketAddr {
    ([10, 66, (n >> 8) as u8, n as u8], 40_000 + (n % 1_000) as u16).into()
}

fn scenario() -> Scenario {
    Scenario { duration: Duration::from_secs(8), ..Scenario::calm(11, 2) }
}

/// Runs the same call in peace and under attack; who hears whom must not differ, and a reason for the drops must be named.
fn unharmed(attack: impl FnMut(&mut World), reasons: &[&str]) -> Outcome {
    let peace = World::new(scenario()).run();
    let war = World::new(scenario()).run_under(attack);
    assert!(war.violations.is_empty(), "{:#?}", war.violations);
    assert_eq!(peace.audio, war.audio, "the call was harmed: {:?}", war.drops);
    assert_eq!(peace.joins, war.joins);
    for reason in reasons {
        let dropped = war.drops.get(reason).copied().unwrap_or(0);
        let usual = peace.drops.get(reason).copied().unwrap_or(0);
        assert!(dropped > usual + 20, "{reason}: {dropped}, in peace {usual}; all: {:?}", war.drops);
    }
    war
}

fn garbage(rng: &mut Rng, first: u8, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|_| rng.next_u64() as u8).collect();
    if let Some(byte) = bytes.first_mut() {
        *byte = first;
    }
    bytes
}

/// One first byte for each kind of datagram of RFC 7983.
const FIRST: [u8; 5] = [0, 22, 0x80, 0x90, 0xff];

#[test]
fn garbage_of_every_length_from_strangers() {
    let mut rng = Rng::new(1);
    let mut len = 0;
    let mut state = None;
    unharmed(
        |world| {
            for len in [len, len + 1] {
                for first in FIRST {
                    let bytes = garbage(&mut rng, first, len % 1_501);
                    world.inject(len % 2, stranger(len as u64), &bytes);
                }
            }
            len += 2;
            if world.elapsed() > Duration::from_secs(5) {
                let now = world.state_len();
                assert_eq!(*state.get_or_insert(now), now, "strangers left state behind");
            }
        },
        &["unknown_tuple", "stun_refused"],
    );
    assert!(len > 1_501, "every length was tried, {len}");
}

#[test]
fn garbage_of_every_length_from_a_members_own_address() {
    let mut rng = Rng::new(2);
    let mut len = 0;
    unharmed(
        |world| {
            let Some(address) = world.client(0).map(|client| client.address) else { return };
            let shard = world.client(0).map_or(0, |client| usize::from(client.transport.shard().0));
            for first in FIRST {
                let bytes = garbage(&mut rng, first, len % 1_501);
                world.inject(shard, address, &bytes);
            }
            // RTCP: packet types 192 to 223 (RFC 5761 §4).
            let mut rtcp = garbage(&mut rng, 0x80, len % 1_501);
            if let Some(kind) = rtcp.get_mut(1) {
                *kind = 200 + *kind % 7;
            }
            world.inject(shard, address, &rtcp);
            len += 1;
        },
        &["unknown_ssrc", "malformed", "unclassified"],
    );
}

#[test]
fn a_flood_of_unknown_ufrags_leaves_nothing() {
    let mut rng = Rng::new(3);
    let mut n = 0;
    let mut before = None;
    unharmed(
        |world| {
            for _ in 0..20 {
                n += 1;
                let ufrag: Vec<u8> =
                    (0..13).map(|i| b'a' + if i == 0 { 0 } else { rng.below(26) as u8 }).collect();
                let mut username = ufrag;
                username.extend(b":client");
                let padded = username.len().next_multiple_of(4);
                let mut stun = vec![0, 1];
                stun.extend(((padded + 4) as u16).to_be_bytes());
                stun.extend([0x21, 0x12, 0xa4, 0x42]);
                stun.extend((0..12).map(|_| rng.next_u64() as u8));
                stun.extend([0, 6]);
                stun.extend((username.len() as u16).to_be_bytes());
                username.resize(padded, 0);
                stun.extend(&username);
                world.inject(0, stranger(n), &stun);
            }
            if world.elapsed() > Duration::from_secs(5) {
                let now = world.state_len();
                assert_eq!(*before.get_or_insert(now), now, "unknown ufrags left state behind");
            }
        },
        &["unknown_ufrag"],
    );
}

#[test]
fn overheard_packets_replayed_forged_and_sent_from_elsewhere() {
    let mut rng = Rng::new(4);
    unharmed(
        |world| {
            let shards: Vec<(SocketAddr, usize)> = (0..3)
                .filter_map(|seat| {
                    world.client(seat).map(|c| (c.address, usize::from(c.transport.shard().0)))
                })
                .collect();
            let overheard: Vec<_> = world.overheard().map(|(from, bytes)| (from, bytes.to_vec())).collect();
            for (from, bytes) in overheard.iter().rev().take(4) {
                let Some((_, shard)) = shards.iter().find(|(address, _)| address == from) else { continue };
                let is_media = bytes[0] >> 6 == 2;
                if !is_media {
                    // DTLS and STUN overheard, from a tuple that passed no check.
                    world.inject(*shard, stranger(9), bytes);
                    continue;
                }
                world.inject(*shard, *from, bytes);
                let mut forged = bytes.clone();
                let at = 12 + rng.below(bytes.len() as u64 - 12) as usize;
                forged[at] ^= 1 << rng.below(8);
                world.inject(*shard, *from, &forged);
                world.inject(*shard, stranger(8), bytes);
            }
        },
        &["replayed", "forged", "unknown_tuple", "stun_refused"],
    );
}

#[test]
fn malformed_rtcp_inside_a_members_own_session() {
    let mut rng = Rng::new(5);
    let mut len = 8;
    unharmed(
        |world| {
            let Some(client) = world.client(0) else { return };
            let (address, shard) = (client.address, usize::from(client.transport.shard().0));
            let mut compound = garbage(&mut rng, 0x80 | (len % 32) as u8, len % 1_400 + 8);
            compound[1] = 200 + rng.below(7) as u8;
            if rng.chance(700) {
                // A length that fits, so that the body is looked at.
                let words = (compound.len() / 4 - 1) as u16;
                compound[2..4].copy_from_slice(&words.to_be_bytes());
            }
            let sealed = client.seal_rtcp(&compound);
            len += 1;
            if let Some(sealed) = sealed {
                world.inject(shard, address, &sealed);
            }
        },
        &["malformed"],
    );
}

#[test]
fn authentic_repair_packets_that_repair_nothing() {
    let mut len = 0;
    unharmed(
        |world| {
            let Some(client) = world.client(0) else { return };
            let (address, shard) = (client.address, usize::from(client.transport.shard().0));
            // Without a whole number of an original.
            len = (len + 1) % 2;
            if let Some(sealed) = client.seal_repair(&[7][..len]) {
                world.inject(shard, address, &sealed);
            }
        },
        &["rtx_unused"],
    );
}

#[test]
fn a_client_that_vanishes_is_missed_and_the_others_go_on() {
    let scenario = Scenario { duration: Duration::from_secs(60), seats: 3, ..Scenario::calm(12, 2) };
    let mut gone = false;
    let outcome = World::new(scenario).run_under(|world| {
        if !gone && world.elapsed() > Duration::from_secs(10) {
            gone = true;
            world.vanish(1);
        }
    });
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
    assert_eq!(outcome.noticed, 1);
    // 25 packets a second for 58 seconds between the two that stayed.
    let between = outcome.audio.get(&(0, 2)).copied().unwrap_or(0);
    assert!(between > 1_400, "{between} packets between those who stayed");
}

/// Between the two clients that caused nothing.
fn heard(outcome: &Outcome) -> u64 {
    outcome.audio.get(&(0, 2)).copied().unwrap_or(0)
}

#[test]
fn a_panic_costs_its_peer_and_nobody_else() {
    for shards in [1, 2] {
        let calm = || Scenario { duration: Duration::from_secs(20), seats: 3, ..Scenario::calm(13, shards) };
        let mut panics = 0;
        let outcome = World::new(calm()).run_under(|world| {
            if world.panics() == 0 && world.elapsed() > Duration::from_secs(8) {
                world.plant_panic(1);
            }
            panics = world.panics();
        });
        assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
        assert_eq!((panics, outcome.joins), (1, 4), "the peer came back");
        assert_eq!(heard(&outcome), heard(&World::new(calm()).run()), "the others did not notice");
    }
}

#[test]
fn a_second_panic_within_a_minute_costs_the_room_its_shard() {
    let scenario = Scenario { duration: Duration::from_secs(20), seats: 3, ..Scenario::calm(14, 1) };
    let (mut panics, mut left) = (0, None);
    World::new(scenario).run_under(|world| {
        let due = Duration::from_secs(5 + 5 * world.panics());
        if world.panics() < 2 && world.elapsed() > due {
            world.plant_panic(1);
        }
        panics = world.panics();
        if world.elapsed() > Duration::from_secs(19) {
            left = Some(world.state_len());
        }
    });
    assert_eq!((panics, left), (2, Some((0, 0))));
}
