//! The lite side of ICE, checked by hand-made requests.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::world::*;
use crate::dtls::{Certificate, DtlsError};
use crate::egress::Egress;
use crate::ice::{IceError, TUPLES_MAX};
use crate::peer::{Peer, PeerClose, PeerError, PeerEvent};
use crate::units::{Protocol, Route};

/// A binding request from the client's side.
fn check(ufrag: &str, pwd: &str, prio: u32, use_candidate: bool, controlling: bool) -> Vec<u8> {
    let mut out = vec![0; 200];
    let id = is::stun::TransId::new();
    let message = is::stun::StunMessage::binding_request(ufrag, id, controlling, 1, prio, use_candidate);
    let len = message.to_bytes(Some(pwd.as_bytes()), &mut out, crate::stun::sha1_hmac).unwrap();
    out.truncate(len);
    out
}

fn lite_server() -> Node {
    let certificate = Certificate::generate().unwrap();
    Node::new(Peer::new(Instant::now(), server_config([0; 32]), &certificate, 1).unwrap(), server_address())
}

fn client_at(port: u16) -> SocketAddr {
    ([10, 0, 0, 2], port).into()
}

fn over_udp(port: u16) -> Route {
    Route::udp(client_at(port), Some(server_address().ip()))
}

fn over_tcp(port: u16) -> Route {
    Route { protocol: Protocol::Tcp, ..over_udp(port) }
}

#[test]
fn checks_without_the_right_credentials_change_nothing_and_get_no_answer() {
    let mut node = lite_server();
    let now = Instant::now();
    let pwd = credentials("server").pwd;
    let ice = |error| Err(PeerError::Ice(error));
    let wrong_password = check("server:client", "wrong", 1, true, true);
    assert_eq!(node.handle(now, client_at(1), &wrong_password), ice(IceError::Integrity));
    for ufrag in ["server:other", "other:client", "client:server"] {
        let stray = check(ufrag, &pwd, 1, true, true);
        assert_eq!(node.handle(now, client_at(1), &stray), ice(IceError::UnknownUfrag));
    }
    assert_eq!(node.handle(now, client_at(1), &[0; 20]), ice(IceError::Malformed));
    assert_eq!(node.egress.ready_len(), 0);
    assert!(!node.peer.is_validated(&over_udp(1)));
    assert_eq!(node.peer.poll_event(), None);
}

#[test]
fn an_answer_is_no_longer_than_its_question() {
    let mut node = lite_server();
    let question = check("server:client", &credentials("server").pwd, 1, false, true);
    node.handle(Instant::now(), client_at(1), &question).unwrap();
    let answer = node.egress.drain().next().unwrap();
    assert!(answer.len as usize <= question.len());
}

#[test]
fn tuples_are_bounded_and_idle_ones_make_place() {
    let mut node = lite_server();
    let now = Instant::now();
    let request = || check("server:client", &credentials("server").pwd, 1, false, true);
    for port in 1..=TUPLES_MAX as u16 {
        node.handle(now, client_at(port), &request()).unwrap();
    }
    let refused = node.handle(now, client_at(99), &request());
    assert_eq!(refused, Err(PeerError::Ice(IceError::TuplesExhausted)));
    let later = now + Duration::from_secs(21);
    for port in 2..=TUPLES_MAX as u16 {
        node.handle(later, client_at(port), &request()).unwrap();
    }
    node.handle(later, client_at(99), &request()).unwrap();
    assert!(node.peer.is_validated(&over_udp(99)) && !node.peer.is_validated(&over_udp(1)));
    let events: Vec<_> = std::iter::from_fn(|| node.peer.poll_event()).collect();
    assert!(events.contains(&PeerEvent::Evicted(over_udp(1))));
}

#[test]
fn an_overheard_check_draws_nothing_elsewhere() {
    let mut node = lite_server();
    let now = Instant::now();
    let request = check("server:client", &credentials("server").pwd, 1, true, true);
    node.handle(now, client_at(1), &request).unwrap();
    node.handle(now, client_at(1), &request).expect("a retransmission");
    let replayed = node.handle(now, client_at(2), &request);
    assert_eq!(replayed, Err(PeerError::Ice(IceError::Replayed)));
    assert!(!node.peer.is_validated(&over_udp(2)));
    assert_eq!(node.peer.route().unwrap().remote, client_at(1));
}

#[test]
fn nomination_follows_the_peer_without_flapping() {
    let mut node = lite_server();
    let now = Instant::now();
    let pwd = credentials("server").pwd;
    let mut nominate = |port, prio| {
        node.handle(now, client_at(port), &check("server:client", &pwd, prio, true, true)).unwrap();
        node.egress.drain().for_each(drop);
        node.egress = Egress::new(4);
        node.peer.route().unwrap().remote.port()
    };
    assert_eq!(nominate(1, 10), 1);
    assert_eq!(nominate(2, 20), 2, "a better pair at once");
    // Aggressive nomination of both.
    assert_eq!(nominate(1, 10), 2);
    assert_eq!(nominate(2, 20), 2);
    assert_eq!(nominate(1, 10), 2);
    assert_eq!(nominate(1, 10), 1, "the peer insists");
}

#[test]
fn a_peer_that_thinks_it_is_controlled_is_told_otherwise() {
    let mut node = lite_server();
    let request = check("server:client", &credentials("server").pwd, 1, true, false);
    node.handle(Instant::now(), client_at(1), &request).unwrap();
    assert_eq!(node.peer.route(), None);
    let answer = node.egress.drain().next().unwrap();
    let answer = is::stun::StunMessage::parse(answer.bytes()).unwrap();
    assert_eq!(answer.error_code().map(|(code, _)| code), Some(487));
}

#[test]
fn a_checked_peer_that_never_shakes_hands_is_closed() {
    let mut node = lite_server();
    let start = Instant::now();
    let request = check("server:client", &credentials("server").pwd, 1, true, true);
    for second in 0..=30 {
        let now = start + Duration::from_secs(second);
        node.egress = Egress::new(4);
        let _ = node.handle(now, client_at(1), &request);
        node.peer.handle_timeout(now, &mut node.egress);
    }
    let last = std::iter::from_fn(|| node.peer.poll_event()).last();
    assert_eq!(last, Some(PeerEvent::Closed(PeerClose::DtlsFailed(DtlsError::Protocol))));
}

#[test]
fn nomination_moves_between_udp_and_tcp_and_back() {
    let mut node = lite_server();
    let now = Instant::now();
    let pwd = credentials("server").pwd;
    let mut nominate = |route: Route, prio| {
        let request = check("server:client", &pwd, prio, true, true);
        node.peer.handle_stun(now, &route, &request, &mut node.egress).unwrap();
        let answer = node.egress.drain().next().map(|train| train.route);
        node.egress = Egress::new(4);
        assert_eq!(answer, Some(route), "an answer goes the way its question came");
        node.peer.route().unwrap()
    };
    // The same address and port over both: two ways to the peer all the same.
    assert_eq!(nominate(over_udp(1), 20), over_udp(1));
    assert_eq!(nominate(over_tcp(1), 10), over_udp(1));
    assert_eq!(nominate(over_tcp(1), 10), over_tcp(1), "UDP is gone: the peer insists on TCP");
    assert_eq!(nominate(over_udp(1), 20), over_udp(1), "UDP is back");
    let mut validated: Vec<_> = std::iter::from_fn(|| node.peer.poll_event()).collect();
    validated.retain(|event| matches!(event, PeerEvent::Validated(_)));
    assert_eq!(validated, [PeerEvent::Validated(over_udp(1)), PeerEvent::Validated(over_tcp(1))]);
}

#[test]
fn a_connection_that_ends_takes_its_tuple_along_and_nothing_else() {
    let mut node = lite_server();
    let now = Instant::now();
    let pwd = credentials("server").pwd;
    for (route, prio) in [(over_udp(1), 20), (over_tcp(2), 30)] {
        let request = check("server:client", &pwd, prio, true, true);
        node.peer.handle_stun(now, &route, &request, &mut node.egress).unwrap();
    }
    assert_eq!(node.peer.route(), Some(over_tcp(2)));
    node.peer.forget_route(now, &over_tcp(2));
    assert!(!node.peer.is_validated(&over_tcp(2)) && node.peer.is_validated(&over_udp(1)));
    assert_eq!(node.peer.route(), Some(over_udp(1)), "what was checked last stands in");
    node.peer.forget_route(now, &over_tcp(9));
    let events: Vec<_> = std::iter::from_fn(|| node.peer.poll_event()).collect();
    let evicted: Vec<_> = events.iter().filter(|event| matches!(event, PeerEvent::Evicted(_))).collect();
    assert_eq!(evicted, [&PeerEvent::Evicted(over_tcp(2))]);
}

/// A lite agent whose peer checks over UDP; each step says when, from which port, with which priority, and what then is nominated.
fn nominated_by(steps: &[(u64, u16, u32, bool)]) -> (Vec<u16>, Node) {
    let mut node = lite_server();
    let (start, pwd) = (Instant::now(), credentials("server").pwd);
    let ports = steps.iter().map(|(at_ms, port, prio, use_candidate)| {
        let now = start + Duration::from_millis(*at_ms);
        let request = check("server:client", &pwd, *prio, *use_candidate, true);
        node.handle(now, client_at(*port), &request).unwrap();
        node.egress = Egress::new(4);
        node.peer.route().map_or(0, |route| route.remote.port())
    });
    (ports.collect(), node)
}

const PEER_REFLEXIVE: u32 = 0x6e00_0a00;
const HOST: u32 = 0x7e00_0a00;
const OTHER_CANDIDATE: u32 = 0x6e00_0b00;

#[test]
fn a_nat_that_rebinds_is_followed_without_a_nomination() {
    let steps = [(0, 1, PEER_REFLEXIVE, true), (2_500, 1, HOST, false), (5_000, 2, HOST, false)];
    assert_eq!(nominated_by(&steps).0, [1, 1, 2]);
    let steps = [(0, 1, PEER_REFLEXIVE, true), (5_000, 2, HOST, false), (10_000, 3, HOST, false)];
    assert_eq!(nominated_by(&steps).0, [1, 2, 3], "and again");
}

#[test]
fn checks_of_other_pairs_move_nothing_while_nobody_names_them() {
    let first = (0, 1, PEER_REFLEXIVE, true);
    assert_eq!(
        nominated_by(&[first, (50, 2, PEER_REFLEXIVE, false)]).0,
        [1, 1],
        "the nominated one is not silent"
    );
    assert_eq!(
        nominated_by(&[first, (5_000, 2, OTHER_CANDIDATE, false)]).0,
        [1, 1],
        "another candidate of the peer's"
    );
    let (_, mut node) = nominated_by(&[first]);
    let request = check("server:client", &credentials("server").pwd, PEER_REFLEXIVE, false, true);
    let elsewhere = Route { local: Some([10, 0, 0, 9].into()), ..over_udp(2) };
    let later = Instant::now() + Duration::from_secs(5);
    node.peer.handle_stun(later, &elsewhere, &request, &mut node.egress).unwrap();
    assert_eq!(node.peer.route(), Some(over_udp(1)), "another address of ours");
}

#[test]
fn what_a_nat_left_behind_is_forgotten() {
    let mut steps = vec![(0, 1, PEER_REFLEXIVE, true), (0, 7, OTHER_CANDIDATE, false)];
    steps.extend((1..=8).map(|n| (n * 5_000, 2, PEER_REFLEXIVE, false)));
    let (_, node) = nominated_by(&steps[..9]);
    assert!(node.peer.is_validated(&over_udp(1)) && node.peer.is_validated(&over_udp(7)));
    let (_, mut node) = nominated_by(&steps);
    assert!(!node.peer.is_validated(&over_udp(1)) && !node.peer.is_validated(&over_udp(7)));
    assert!(node.peer.is_validated(&over_udp(2)));
    let evicted =
        std::iter::from_fn(|| node.peer.poll_event()).filter(|e| matches!(e, PeerEvent::Evicted(_)));
    assert_eq!(evicted.count(), 2);
}
