//! Permissions, channels, and what goes through a relay.

use super::*;

/// A payload of a peer, and what its client gets.
fn arrive(stage: &mut Stage, relay: RelayId, peer: &str, data: &[u8]) -> Option<Vec<u8>> {
    let mut packet = vec![0xaa; HEADROOM + data.len() + TAILROOM];
    let payload = HEADROOM..HEADROOM + data.len();
    packet[payload.clone()].copy_from_slice(data);
    let peer = peer.parse().unwrap();
    let framed = stage.server.handle_peer(stage.at.now, relay, peer, &mut packet, payload)?;
    Some(packet[framed].to_vec())
}

#[test]
fn indications_go_both_ways_where_permitted() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    let (relay, _) = client.allocate(&mut stage);
    assert_eq!(client.indicate(&mut stage, PUBLIC, b"early"), Action::Nothing);
    assert_eq!(arrive(&mut stage, relay, PUBLIC, b"early"), None);
    assert_eq!(client.permit(&mut stage, PUBLIC).class, Class::Success);
    let peer = PUBLIC.parse().unwrap();
    assert_eq!(client.indicate(&mut stage, PUBLIC, b"hello"), Action::Relay { relay, peer, payload: 0..5 });
    // A permission is for an address, whatever its port.
    let other = "8.8.8.8:1".parse().unwrap();
    assert_eq!(
        client.indicate(&mut stage, "8.8.8.8:1", b""),
        Action::Relay { relay, peer: other, payload: 0..0 }
    );
    let bytes = arrive(&mut stage, relay, PUBLIC, b"world").unwrap();
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.class, message.method), (Class::Indication, Method::Data));
    assert_eq!(message.peers.first(), Some(peer));
    assert_eq!(bytes[message.data.unwrap()], *b"world");
    assert_eq!(bytes.len(), 20 + 12 + 4 + 8);
    assert_eq!(arrive(&mut stage, relay, "8.8.4.4:9000", b"stranger"), None);
    let stats = stage.server.stats();
    assert_eq!(stats.to_peers, Relayed { packets: 2, bytes: 5 });
    assert_eq!(stats.to_clients, Relayed { packets: 1, bytes: 5 });
    assert_eq!(stats.dropped(DropReason::PeerNotPermitted), 1);
    assert_eq!(stats.dropped(DropReason::StrangerAtRelay), 2);
}

#[test]
fn channels_carry_data_with_four_bytes_before_it() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    let (relay, _) = client.allocate(&mut stage);
    let data = [0x40, 1, 0, 5, b'h', b'e', b'l', b'l', b'o'];
    assert_eq!(stage.handle(client.origin, &data).0, Action::Nothing, "not bound yet");
    assert_eq!(client.bind(&mut stage, 0x4001, PUBLIC).class, Class::Success);
    let peer = PUBLIC.parse().unwrap();
    assert_eq!(stage.handle(client.origin, &data).0, Action::Relay { relay, peer, payload: 4..9 });
    assert_eq!(stage.handle(client.origin, &data[..8]).0, Action::Nothing, "shorter than it says");
    assert_eq!(
        arrive(&mut stage, relay, PUBLIC, b"world").unwrap(),
        *b"\x40\x01\x00\x05world",
        "no padding by UDP"
    );
    // Another port of that address is permitted, but no channel.
    assert_eq!(arrive(&mut stage, relay, "8.8.8.8:9001", b"world").unwrap()[..2], [0, 0x17]);
    let stranger = Client::new(5_001);
    assert_eq!(stage.handle(stranger.origin, &data).0, Action::Nothing);
    let stats = stage.server.stats();
    assert_eq!(stats.dropped(DropReason::ChannelUnbound), 1);
    assert_eq!(stats.dropped(DropReason::NoAllocation), 1);
    assert_eq!(stats.dropped(DropReason::Malformed), 1);
}

#[test]
fn channel_data_in_streams_is_padded() {
    let mut stage = Stage::new();
    let origin = Origin::Stream { connection: 1, remote: "192.0.2.1:5000".parse().unwrap() };
    let mut client = Client::at(origin, "PA_one");
    let (relay, _) = client.allocate(&mut stage);
    client.bind(&mut stage, 0x4001, PUBLIC);
    assert_eq!(arrive(&mut stage, relay, PUBLIC, b"world").unwrap(), *b"\x40\x01\x00\x05world\x00\x00\x00");
}

#[test]
fn peers_in_denied_ranges_are_forbidden() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    client.allocate(&mut stage);
    for peer in ["127.0.0.1:53", "192.168.0.1:80", "169.254.169.254:80", "100.64.1.1:1", "224.0.0.1:1"] {
        let answer = client.permit(&mut stage, peer);
        assert_eq!((answer.code(), answer.is_authentic), (403, true), "{peer}");
        assert_eq!(client.bind(&mut stage, 0x4000, peer).code(), 403, "{peer}");
        assert_eq!(client.indicate(&mut stage, peer, b"x"), Action::Nothing, "{peer}");
    }
    assert_eq!(stage.server.stats().refused(ErrorCode::Forbidden), 10);
    // All of a request or nothing.
    let (transaction, draft) = (client.transaction(), Draft(Vec::new()));
    let draft = draft.peer(PUBLIC, &transaction).peer("10.0.0.1:1", &transaction);
    assert_eq!(client.ask(&mut stage, Method::CreatePermission, &draft).code(), 403);
    assert_eq!(client.indicate(&mut stage, PUBLIC, b"x"), Action::Nothing);
}

#[test]
fn of_the_node_itself_only_media_is_reached() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    let (relay, _) = client.allocate(&mut stage);
    assert_eq!(client.permit(&mut stage, MEDIA).class, Class::Success);
    assert!(matches!(client.indicate(&mut stage, MEDIA, b"x"), Action::Relay { .. }));
    assert_eq!(client.indicate(&mut stage, "10.77.0.1:53", b"x"), Action::Nothing);
    assert_eq!(stage.server.stats().dropped(DropReason::PeerRefused), 1);
    assert!(arrive(&mut stage, relay, MEDIA, b"x").is_some());
    assert!(arrive(&mut stage, relay, "10.77.0.1:53", b"x").is_none());
    assert_eq!(client.bind(&mut stage, 0x4000, "10.77.0.1:53").code(), 403);
    assert_eq!(client.bind(&mut stage, 0x4000, MEDIA).class, Class::Success);
}

#[test]
fn channels_have_one_peer_and_peers_one_channel() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    client.allocate(&mut stage);
    assert_eq!(client.bind(&mut stage, 0x4000, PUBLIC).class, Class::Success);
    assert_eq!(client.bind(&mut stage, 0x4000, PUBLIC).class, Class::Success, "again");
    assert_eq!(client.bind(&mut stage, 0x4000, "8.8.4.4:1").code(), 400);
    assert_eq!(client.bind(&mut stage, 0x4001, PUBLIC).code(), 400);
    for outside in [0x3fff, 0x8000, 0xffff] {
        assert_eq!(client.bind(&mut stage, outside, "8.8.4.4:1").code(), 400);
    }
    let alone = Draft(Vec::new()).with(kind::CHANNEL_NUMBER, &[0x40, 2, 0, 0]);
    assert_eq!(client.ask(&mut stage, Method::ChannelBind, &alone).code(), 400, "no peer");
    assert_eq!(client.ask(&mut stage, Method::CreatePermission, &Draft(Vec::new())).code(), 400);
}

#[test]
fn peers_of_another_family_are_a_mismatch() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    client.allocate(&mut stage);
    assert_eq!(client.permit(&mut stage, "[2600::1]:1").code(), 443);
    assert_eq!(client.bind(&mut stage, 0x4000, "[2600::1]:1").code(), 443);
}

#[test]
fn permissions_and_channels_end_unless_refreshed() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    let (relay, _) = client.allocate(&mut stage);
    client.permit(&mut stage, "8.8.4.4:1");
    client.bind(&mut stage, 0x4000, PUBLIC);
    let data = [0x40, 0, 0, 1, 7];
    stage.pass(299);
    assert!(arrive(&mut stage, relay, PUBLIC, b"x").is_some());
    assert!(arrive(&mut stage, relay, "8.8.4.4:1", b"x").is_some());
    stage.pass(1);
    assert!(arrive(&mut stage, relay, "8.8.4.4:1", b"x").is_none());
    assert!(arrive(&mut stage, relay, PUBLIC, b"x").is_none(), "the permission ends before the channel");
    assert_ne!(stage.handle(client.origin, &data).0, Action::Nothing);
    client.ask(&mut stage, Method::Refresh, &Draft(Vec::new()));
    client.permit(&mut stage, PUBLIC);
    assert_eq!(arrive(&mut stage, relay, PUBLIC, b"x").unwrap()[..2], [0x40, 0]);
    stage.pass(300);
    assert_eq!(stage.handle(client.origin, &data).0, Action::Nothing, "600 s after it was bound");
    // The number is free again.
    assert_eq!(client.bind(&mut stage, 0x4000, "8.8.4.4:1").class, Class::Success);
}

#[test]
fn an_allocation_has_so_many_peers() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    client.allocate(&mut stage);
    for n in 0..32 {
        assert_eq!(client.permit(&mut stage, &format!("8.8.{n}.1:1")).class, Class::Success);
    }
    assert_eq!(client.permit(&mut stage, "8.9.0.1:1").code(), 508);
    assert_eq!(client.bind(&mut stage, 0x4000, "8.9.0.1:1").code(), 508);
    assert_eq!(client.permit(&mut stage, "8.8.0.1:1").class, Class::Success, "one that is there");
    let mut many = Draft(Vec::new());
    let transaction = client.transaction();
    for n in 0..17 {
        many = many.peer(&format!("8.8.{n}.1:1"), &transaction);
    }
    assert_eq!(client.ask(&mut stage, Method::CreatePermission, &many).code(), 400, "17 in one request");
    for n in 0..32_u16 {
        assert_eq!(client.bind(&mut stage, 0x4000 + n, &format!("8.8.0.1:{}", n + 1)).class, Class::Success);
    }
    assert_eq!(client.bind(&mut stage, 0x4fff, "8.8.0.1:99").code(), 508);
}

#[test]
fn what_fills_no_message_is_dropped() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    let (relay, _) = client.allocate(&mut stage);
    client.permit(&mut stage, PUBLIC);
    let mut packet = [0; 8];
    let peer = PUBLIC.parse().unwrap();
    assert_eq!(stage.server.handle_peer(stage.at.now, relay, peer, &mut packet, 4..8), None, "no headroom");
    assert_eq!(stage.server.stats().dropped(DropReason::Oversized), 1);
}
