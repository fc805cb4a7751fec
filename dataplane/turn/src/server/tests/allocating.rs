//! Allocations: who gets one, who does not, and how long it lasts.

use super::*;

#[test]
fn a_client_with_credentials_gets_a_relay() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    let draft = Draft::allocate();
    let stranger = {
        let mut bytes = Vec::new();
        Writer::new(&mut bytes, Class::Request, Method::Allocate, [9; 12]).finish(None, false);
        client.send(&mut stage, &bytes)
    };
    assert_eq!((stranger.code(), stranger.is_authentic), (401, false));
    assert_eq!(stranger.attribute(kind::REALM).unwrap(), b"livekit");
    client.nonce = stranger.attribute(kind::NONCE).unwrap().to_vec();
    let bytes = client.write(Class::Request, Method::Allocate, &draft);
    let answer = client.send(&mut stage, &bytes);
    assert_eq!((answer.class, answer.is_authentic), (Class::Success, true));
    assert_eq!(answer.lifetime_s(), 600);
    assert_eq!(answer.address(kind::XOR_MAPPED_ADDRESS), client.origin.remote());
    let relayed = answer.address(kind::XOR_RELAYED_ADDRESS);
    assert!(stage.server.config.relay_ports.contains(&relayed.port()));
    assert_eq!(stage.open[0].1, relayed);
    assert!(stage.server.holds(&client.origin));
    // The same request again, as UDP may bring it, has the same answer.
    assert_eq!(client.send(&mut stage, &bytes).bytes, answer.bytes);
    assert_eq!(stage.server.stats().allocated, 1);
}

#[test]
fn wrong_passwords_and_strangers_are_refused_with_401() {
    let mut stage = Stage::new();
    let draft = Draft::allocate();
    let mut wrong = Client::new(5_000);
    wrong.credentials.password.push('x');
    let mut unknown = Client::new(5_001);
    unknown.credentials = credentials::mint("nokey", "secret", "PA_one", UNIX_S + 300);
    let mut forged = Client::new(5_002);
    // A later expiry under the password of an earlier one.
    forged.credentials.username = credentials::mint("key", "secret", "PA_one", UNIX_S + 9_999).username;
    for client in [&mut wrong, &mut unknown, &mut forged] {
        let answer = client.ask(&mut stage, Method::Allocate, &draft);
        assert_eq!((answer.code(), answer.is_authentic), (401, false));
        assert!(answer.attribute(kind::NONCE).is_some(), "it may try again");
    }
    assert_eq!(stage.server.stats().allocations, 0);
    assert_eq!(stage.server.stats().refused(ErrorCode::Unauthenticated), 3);
}

#[test]
fn another_realm_is_refused_with_401() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    client.ask(&mut stage, Method::Refresh, &Draft(Vec::new()));
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, Class::Request, Method::Allocate, [1; 12]);
    writer.attribute(kind::USERNAME, client.credentials.username.as_bytes());
    writer.attribute(kind::REALM, b"elsewhere");
    writer.attribute(kind::NONCE, &client.nonce);
    writer.finish(Some(&client.key()), false);
    assert_eq!(client.send(&mut stage, &bytes).code(), 401);
}

#[test]
fn expired_credentials_allocate_nothing_but_keep_what_there_is() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    client.allocate(&mut stage);
    stage.pass(299);
    let mut late = Client::new(5_001);
    late.allocate(&mut stage);
    stage.pass(1);
    let mut expired = Client::new(5_002);
    assert_eq!(expired.ask(&mut stage, Method::Allocate, &Draft::allocate()).code(), 401);
    for _ in 0..10 {
        stage.pass(299);
        assert_eq!(client.ask(&mut stage, Method::Refresh, &Draft(Vec::new())).class, Class::Success);
    }
    assert!(!stage.server.holds(&late.origin), "nobody refreshed it");
    assert!(stage.server.holds(&client.origin));
}

#[test]
fn a_nonce_of_yesterday_is_stale() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    client.allocate(&mut stage);
    let draft = Draft(Vec::new()).with(kind::LIFETIME, &3_600_u32.to_be_bytes());
    client.ask(&mut stage, Method::Refresh, &draft);
    stage.pass(3_599);
    client.ask(&mut stage, Method::Refresh, &draft);
    stage.pass(1);
    let bytes = client.write(Class::Request, Method::Refresh, &draft);
    let answer = client.send(&mut stage, &bytes);
    assert_eq!((answer.code(), answer.is_authentic), (438, false));
    assert_eq!(answer.attribute(kind::REALM).unwrap(), b"livekit");
    // `ask` takes the nonce it is given.
    assert_eq!(client.ask(&mut stage, Method::Refresh, &draft).class, Class::Success);
}

#[test]
fn requests_without_user_or_transport_are_malformed() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    let mut bytes = Vec::new();
    Writer::new(&mut bytes, Class::Request, Method::Allocate, [9; 12]).finish(Some(&client.key()), false);
    assert_eq!(client.send(&mut stage, &bytes).code(), 400, "integrity without user name");
    assert_eq!(client.ask(&mut stage, Method::Allocate, &Draft(Vec::new())).code(), 400, "no transport");
    let short = Draft::allocate().with(kind::LIFETIME, &[0, 1]);
    assert_eq!(client.ask(&mut stage, Method::Allocate, &short).code(), 400, "a lifetime of two bytes");
    assert_eq!(stage.server.stats().refused(ErrorCode::BadRequest), 3);
}

#[test]
fn only_udp_is_relayed() {
    let mut stage = Stage::new();
    let tcp = Draft(vec![(kind::REQUESTED_TRANSPORT, vec![6, 0, 0, 0])]);
    assert_eq!(Client::new(5_000).ask(&mut stage, Method::Allocate, &tcp).code(), 442);
}

#[test]
fn what_has_to_be_understood_and_is_not_is_named() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    // DONT-FRAGMENT, and an attribute nobody knows; one that may be ignored.
    let draft = Draft::allocate().with(0x001a, &[]).with(0x7abc, &[1]).with(0x8abc, &[1]);
    let answer = client.ask(&mut stage, Method::Allocate, &draft);
    assert_eq!((answer.code(), answer.is_authentic), (420, true));
    assert_eq!(answer.attribute(kind::UNKNOWN_ATTRIBUTES).unwrap(), [0, 0x1a, 0x7a, 0xbc]);
}

#[test]
fn a_second_allocation_of_one_five_tuple_is_a_mismatch() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    client.allocate(&mut stage);
    assert_eq!(client.ask(&mut stage, Method::Allocate, &Draft::allocate()).code(), 437);
    assert_eq!(stage.open.len(), 1);
}

#[test]
fn requests_without_allocation_are_a_mismatch() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    let answer = client.ask(&mut stage, Method::Refresh, &Draft(Vec::new()));
    assert_eq!((answer.code(), answer.is_authentic), (437, true));
    assert_eq!(client.permit(&mut stage, PUBLIC).code(), 437);
    assert_eq!(client.bind(&mut stage, 0x4000, PUBLIC).code(), 437);
}

#[test]
fn somebody_else_does_not_touch_an_allocation() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    client.allocate(&mut stage);
    let mut other = Client::at(client.origin, "PA_two");
    other.nonce.clone_from(&client.nonce);
    let end = Draft(Vec::new()).with(kind::LIFETIME, &[0; 4]);
    assert_eq!(other.ask(&mut stage, Method::Refresh, &end).code(), 441);
    assert_eq!(other.permit(&mut stage, PUBLIC).code(), 441);
    assert_eq!(other.bind(&mut stage, 0x4000, PUBLIC).code(), 441);
    other.credentials.password.push('x');
    assert_eq!(other.ask(&mut stage, Method::Refresh, &end).code(), 401);
    assert!(stage.server.holds(&client.origin));
}

#[test]
fn families_without_address_are_refused() {
    let mut stage = Stage::new();
    let family = |number: u8| Draft::allocate().with(kind::REQUESTED_ADDRESS_FAMILY, &[number, 0, 0, 0]);
    let mut client = Client::new(5_000);
    assert_eq!(client.ask(&mut stage, Method::Allocate, &family(2)).code(), 440);
    assert_eq!(client.ask(&mut stage, Method::Allocate, &family(3)).code(), 440);
    assert_eq!(client.ask(&mut stage, Method::Allocate, &family(1)).class, Class::Success);
    let six = Draft(Vec::new()).with(kind::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    assert_eq!(client.ask(&mut stage, Method::Refresh, &six).code(), 443);
    let mut both = Client::new(5_001);
    let draft = Draft::allocate().with(kind::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    let answer = both.ask(&mut stage, Method::Allocate, &draft);
    assert_eq!(answer.class, Class::Success, "one address is better than none");
    assert_eq!(answer.attribute(kind::ADDRESS_ERROR_CODE).unwrap()[..4], [2, 0, 4, 40]);
}

#[test]
fn an_ipv6_relay_is_of_its_family() {
    let mut stage = Stage::with(Config { relay_v6: Some("2001:db8::7".parse().unwrap()), ..config() });
    let mut client = Client::new(5_000);
    let draft = Draft::allocate().with(kind::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    let answer = client.ask(&mut stage, Method::Allocate, &draft);
    assert_eq!(answer.attribute(kind::XOR_RELAYED_ADDRESS).unwrap().len(), 20);
    assert!(stage.open[0].1.is_ipv6());
    assert_eq!(client.permit(&mut stage, PUBLIC).code(), 443);
    assert_eq!(client.permit(&mut stage, "[2600::1]:1").class, Class::Success);
    assert_eq!(client.permit(&mut stage, "[::ffff:10.0.0.1]:1").code(), 403, "IPv4 in other words");
    let relay = stage.open[0].0;
    let mut packet = [0; 100];
    let peer = "[2600::1]:7".parse().unwrap();
    let framed =
        stage.server.handle_peer(stage.at.now, relay, peer, &mut packet, HEADROOM..HEADROOM + 5).unwrap();
    assert_eq!(framed, 0..56, "20 bytes of address, and padding");
    assert_eq!(Message::parse(&packet[framed]).unwrap().peers.first(), Some(peer));
}

#[test]
fn ports_are_even_where_asked_and_never_reserved() {
    let mut stage = Stage::new();
    for port in 0..8 {
        let draft = Draft::allocate().with(kind::EVEN_PORT, &[0]);
        let answer = Client::new(5_000 + port).ask(&mut stage, Method::Allocate, &draft);
        assert_eq!(answer.address(kind::XOR_RELAYED_ADDRESS).port() % 2, 0);
    }
    let mut client = Client::new(6_000);
    let mut code = |draft: Draft| client.ask(&mut stage, Method::Allocate, &draft).code();
    let token = || Draft::allocate().with(kind::RESERVATION_TOKEN, &[1; 8]);
    assert_eq!(code(Draft::allocate().with(kind::EVEN_PORT, &[0x80])), 508);
    assert_eq!(code(token()), 508);
    assert_eq!(code(token().with(kind::EVEN_PORT, &[0])), 400);
    assert_eq!(code(token().with(kind::REQUESTED_ADDRESS_FAMILY, &[1, 0, 0, 0])), 400);
}

#[test]
fn a_user_name_has_a_quota() {
    let mut stage = Stage::with(Config { per_user_max: 2, ..config() });
    let mut clients: Vec<Client> = (0..3).map(|n| Client::new(5_000 + n)).collect();
    clients[0].allocate(&mut stage);
    clients[1].allocate(&mut stage);
    assert_eq!(clients[2].ask(&mut stage, Method::Allocate, &Draft::allocate()).code(), 486);
    let mut other = Client::at(Client::new(6_000).origin, "PA_two");
    other.allocate(&mut stage);
    let end = Draft(Vec::new()).with(kind::LIFETIME, &[0; 4]);
    assert_eq!(clients[0].ask(&mut stage, Method::Refresh, &end).lifetime_s(), 0);
    clients[2].allocate(&mut stage);
}

#[test]
fn there_are_as_many_allocations_as_ports_or_as_configured() {
    let mut few = Stage::with(Config { relay_ports: 30_000..=30_001, ..config() });
    Client::new(5_000).allocate(&mut few);
    Client::new(5_001).allocate(&mut few);
    assert_eq!(few.open.len(), 2);
    assert_ne!(few.open[0].1, few.open[1].1);
    assert_eq!(Client::new(5_002).ask(&mut few, Method::Allocate, &Draft::allocate()).code(), 508);
    let mut full = Stage::with(Config { allocations_max: 1, ..config() });
    Client::new(5_000).allocate(&mut full);
    assert_eq!(Client::new(5_002).ask(&mut full, Method::Allocate, &Draft::allocate()).code(), 508);
}

#[test]
fn ports_of_other_programs_are_passed_over() {
    let mut stage = Stage::new();
    stage.broken = 15;
    Client::new(5_000).allocate(&mut stage);
    stage.broken = 16;
    let mut client = Client::new(5_001);
    let answer = client.ask(&mut stage, Method::Allocate, &Draft::allocate());
    assert_eq!((answer.code(), answer.is_authentic), (508, true));
    assert!(!stage.server.holds(&client.origin));
    assert_eq!(stage.server.stats().refused(ErrorCode::InsufficientCapacity), 1);
    // Nothing is lost by the failure.
    client.allocate(&mut stage);
    assert_eq!(stage.server.table.held_by(client.credentials.username.as_bytes()), 2);
}

#[test]
fn allocations_end_with_their_time_their_client_or_their_wish() {
    let mut stage = Stage::new();
    let mut timed = Client::new(5_000);
    timed.allocate(&mut stage);
    assert_eq!(stage.server.next_timeout(), Some(stage.at.now + Duration::from_secs(600)));
    let mut ending = Client::new(5_001);
    ending.allocate(&mut stage);
    let remote = ending.origin.remote();
    let mut leaving = Client::at(Origin::Stream { connection: 1, remote }, "PA_two");
    leaving.allocate(&mut stage);
    assert_eq!(stage.open.len(), 3);
    let end = Draft(Vec::new()).with(kind::LIFETIME, &[0; 4]);
    ending.ask(&mut stage, Method::Refresh, &end);
    stage.server.origin_gone(&leaving.origin);
    stage.close();
    assert_eq!(stage.open.len(), 1);
    stage.pass(599);
    assert!(stage.server.holds(&timed.origin));
    stage.pass(1);
    assert_eq!((stage.open.len(), stage.server.stats().allocations), (0, 0));
    assert_eq!(stage.server.next_timeout(), None);
    assert!(stage.server.table.is_unused(), "nothing is left of them");
}

#[test]
fn lifetimes_are_kept_within_bounds() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    client.allocate(&mut stage);
    for (asked, granted) in [(1_u32, 600), (600, 600), (1_200, 1_200), (u32::MAX, 3_600)] {
        let draft = Draft(Vec::new()).with(kind::LIFETIME, &asked.to_be_bytes());
        assert_eq!(client.ask(&mut stage, Method::Refresh, &draft).lifetime_s(), granted);
    }
}

#[test]
fn a_name_of_an_ended_allocation_reaches_nobody() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    let (old, _) = client.allocate(&mut stage);
    client.permit(&mut stage, PUBLIC);
    stage.server.origin_gone(&client.origin);
    stage.close();
    let (new, _) = client.allocate(&mut stage);
    client.permit(&mut stage, PUBLIC);
    assert_ne!(old, new);
    let mut packet = [0; 100];
    let peer = PUBLIC.parse().unwrap();
    let mut arrives = |relay| {
        stage.server.handle_peer(stage.at.now, relay, peer, &mut packet, HEADROOM..HEADROOM + 4).is_some()
    };
    assert!(!arrives(old));
    assert!(arrives(new));
}
