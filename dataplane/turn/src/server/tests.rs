//! The server as its clients and peers see it.

use std::time::Duration;

use super::*;
use crate::credentials::{self, Credentials};
use crate::message::TransactionId;
use crate::stats::Relayed;

mod allocating;
mod relaying;

const UNIX_S: u64 = 1_700_000_000;
const MEDIA: &str = "10.77.0.1:7882";
const PUBLIC: &str = "8.8.8.8:9000";

/// A server, a clock and one socket for each relay.
pub(super) struct Stage {
    server: Server,
    at: Moment,
    open: Vec<(RelayId, SocketAddr)>,
    /// Sockets that cannot be opened, from now on.
    broken: usize,
}

/// A client with its credentials.
pub(super) struct Client {
    origin: Origin,
    credentials: Credentials,
    nonce: Vec<u8>,
    transactions: u8,
}

/// What a client was told.
#[derive(Debug)]
pub(super) struct Answer {
    bytes: Vec<u8>,
    class: Class,
    attributes: Vec<(u16, Vec<u8>)>,
    is_authentic: bool,
}

impl Answer {
    fn attribute(&self, kind: u16) -> Option<&[u8]> {
        self.attributes.iter().find(|(number, _)| *number == kind).map(|(_, value)| value.as_slice())
    }

    fn code(&self) -> u16 {
        let value = self.attribute(kind::ERROR_CODE).unwrap_or(&[0; 4]);
        u16::from(value[2]) * 100 + u16::from(value[3])
    }

    fn address(&self, kind: u16) -> SocketAddr {
        let value = self.attribute(kind).unwrap();
        assert_eq!(value[1], 1, "IPv4");
        let port = u16::from_be_bytes([value[2], value[3]]) ^ 0x2112;
        let ip = u32::from_be_bytes(value[4..8].try_into().unwrap()) ^ 0x2112_a442;
        SocketAddr::new(Ipv4Addr::from(ip).into(), port)
    }

    fn lifetime_s(&self) -> u32 {
        u32::from_be_bytes(self.attribute(kind::LIFETIME).unwrap().try_into().unwrap())
    }
}

pub(super) fn config() -> Config {
    let own: IpAddr = "10.77.0.1".parse().unwrap();
    Config {
        realm: credentials::REALM.into(),
        secrets: [("key".to_owned(), "secret".to_owned())].into(),
        relay_v4: Some("10.77.0.1".parse().unwrap()),
        relay_v6: None,
        relay_ports: 30_000..=30_063,
        peers: Policy { media: vec![(own, 7882..=7882)], own: vec![own], ..Policy::default() },
        per_user_max: 12,
        allocations_max: 64,
    }
}

impl Stage {
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: Config) -> Self {
        let at = Moment { now: Instant::now(), unix_s: UNIX_S };
        Self { server: Server::new(config, [1; 32]), at, open: Vec::new(), broken: 0 }
    }

    fn pass(&mut self, seconds: u64) {
        self.at.now += Duration::from_secs(seconds);
        self.at.unix_s += seconds;
        self.server.handle_timeout(self.at.now);
        self.close();
    }

    fn close(&mut self) {
        while let Some(closed) = self.server.next_closed() {
            self.open.retain(|(relay, _)| *relay != closed);
        }
    }

    /// One message, and the socket it may want.
    fn handle(&mut self, origin: Origin, bytes: &[u8]) -> (Action, Vec<u8>) {
        let mut reply = Vec::new();
        let mut action = self.server.handle_client(self.at, origin, bytes, &mut reply);
        while let Action::Open { relay, address } = action {
            action = if self.broken > 0 {
                self.broken -= 1;
                self.server.relay_failed(relay, &mut reply)
            } else {
                self.open.push((relay, address));
                self.server.relay_opened(self.at.now, relay, &mut reply)
            };
        }
        self.close();
        (action, reply)
    }
}

/// A request or indication under construction.
pub(super) struct Draft(Vec<(u16, Vec<u8>)>);

impl Draft {
    fn allocate() -> Self {
        Self(vec![(kind::REQUESTED_TRANSPORT, vec![17, 0, 0, 0])])
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.push((kind, value.to_vec()));
        self
    }

    fn peer(self, peer: &str, transaction: &TransactionId) -> Self {
        let (value, len) = crate::write::xor_address(peer.parse().unwrap(), transaction);
        self.with(kind::XOR_PEER_ADDRESS, &value[..len])
    }
}

impl Client {
    fn new(port: u16) -> Self {
        let remote = SocketAddr::new("192.0.2.1".parse().unwrap(), port);
        Self::at(Origin::Datagram { socket: 0, remote }, "PA_one")
    }

    fn at(origin: Origin, sid: &str) -> Self {
        let credentials = credentials::mint("key", "secret", sid, UNIX_S + 300);
        Self { origin, credentials, nonce: Vec::new(), transactions: 0 }
    }

    /// The transaction of the next message.
    fn transaction(&self) -> TransactionId {
        [self.transactions; 12]
    }

    fn key(&self) -> aws_lc_rs::hmac::Key {
        use md5::Digest as _;
        let Credentials { username, password } = &self.credentials;
        let input = format!("{username}:livekit:{password}");
        let algorithm = aws_lc_rs::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY;
        aws_lc_rs::hmac::Key::new(algorithm, &md5::Md5::digest(input))
    }

    /// Writes a message with credentials.
    fn write(&mut self, class: Class, method: Method, draft: &Draft) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, class, method, self.transaction());
        for (kind, value) in &draft.0 {
            writer.attribute(*kind, value);
        }
        if class == Class::Request {
            writer.attribute(kind::USERNAME, self.credentials.username.as_bytes());
            writer.attribute(kind::REALM, b"livekit");
            writer.attribute(kind::NONCE, &self.nonce);
            writer.finish(Some(&self.key()), true);
        } else {
            writer.finish(None, false);
        }
        self.transactions += 1;
        bytes
    }

    fn read(&self, bytes: Vec<u8>) -> Answer {
        let message = Message::parse(&bytes).unwrap();
        let (mut attributes, mut offset) = (Vec::new(), 20);
        while offset < bytes.len() {
            let field = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            let (kind, len) = (field(offset), usize::from(field(offset + 2)));
            attributes.push((kind, bytes[offset + 4..offset + 4 + len].to_vec()));
            offset += 4 + len.next_multiple_of(4);
        }
        let (class, is_authentic) = (message.class, message.verify(&self.key()));
        Answer { class, is_authentic, attributes, bytes }
    }

    /// Sends a request as it is and gives the answer.
    fn send(&self, stage: &mut Stage, bytes: &[u8]) -> Answer {
        let (action, reply) = stage.handle(self.origin, bytes);
        assert_eq!(action, Action::Reply);
        self.read(reply)
    }

    /// Asks, with a fresh nonce where one is wanted.
    fn ask(&mut self, stage: &mut Stage, method: Method, draft: &Draft) -> Answer {
        let bytes = self.write(Class::Request, method, draft);
        let answer = self.send(stage, &bytes);
        if answer.code() != 438 {
            return answer;
        }
        self.nonce = answer.attribute(kind::NONCE).unwrap().to_vec();
        let bytes = self.write(Class::Request, method, draft);
        self.send(stage, &bytes)
    }

    fn allocate(&mut self, stage: &mut Stage) -> (RelayId, SocketAddr) {
        let answer = self.ask(stage, Method::Allocate, &Draft::allocate());
        assert_eq!(answer.class, Class::Success, "{answer:?}");
        let (relay, address) = *stage.open.last().unwrap();
        assert_eq!(answer.address(kind::XOR_RELAYED_ADDRESS), address);
        (relay, address)
    }

    fn permit(&mut self, stage: &mut Stage, peer: &str) -> Answer {
        let draft = Draft(Vec::new()).peer(peer, &self.transaction());
        self.ask(stage, Method::CreatePermission, &draft)
    }

    fn bind(&mut self, stage: &mut Stage, channel: u16, peer: &str) -> Answer {
        let [high, low] = channel.to_be_bytes();
        let draft = Draft(Vec::new()).with(kind::CHANNEL_NUMBER, &[high, low, 0, 0]);
        let draft = draft.peer(peer, &self.transaction());
        self.ask(stage, Method::ChannelBind, &draft)
    }

    /// What a Send indication does.
    fn indicate(&mut self, stage: &mut Stage, peer: &str, data: &[u8]) -> Action {
        let draft = Draft(Vec::new()).peer(peer, &self.transaction()).with(kind::DATA, data);
        let bytes = self.write(Class::Indication, Method::Send, &draft);
        match stage.handle(self.origin, &bytes).0 {
            Action::Relay { payload, relay, peer } => {
                assert_eq!(bytes[payload.clone()], *data);
                Action::Relay { payload: 0..payload.len(), relay, peer }
            }
            other => other,
        }
    }
}

#[test]
fn a_binding_request_is_told_its_address() {
    let mut stage = Stage::new();
    let mut client = Client::new(5_000);
    let bytes = client.write(Class::Request, Method::Binding, &Draft(Vec::new()));
    let answer = client.send(&mut stage, &bytes);
    assert_eq!(answer.class, Class::Success);
    assert_eq!(answer.address(kind::XOR_MAPPED_ADDRESS), client.origin.remote());
    assert_eq!(stage.server.stats().bindings, 1);
    assert!(answer.attribute(kind::FINGERPRINT).is_some(), "as the request had one");
}

#[test]
fn noise_is_dropped_and_counted() {
    let mut stage = Stage::new();
    let client = Client::new(5_000);
    let indication = Client::new(5_000).write(Class::Indication, Method::Data, &Draft(Vec::new()));
    let mut wrong = Client::new(5_000).write(Class::Request, Method::Allocate, &Draft::allocate());
    *wrong.last_mut().unwrap() ^= 1;
    let noise: [&[u8]; 7] = [b"", &[0xff; 40], &[0; 20], &[0x40, 0], &indication, &wrong, &wrong[..24]];
    for bytes in noise {
        assert_eq!(stage.handle(client.origin, bytes).0, Action::Nothing, "{bytes:?}");
    }
    assert_eq!(stage.server.stats().dropped(DropReason::Malformed), noise.len() as u64);
}

#[test]
fn golden_bytes_of_the_first_refusal() {
    let mut stage = Stage::new();
    let client = Client::new(5_000);
    let request = [
        0, 3, 0, 8, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0x19, 0, 4, 17, 0, 0, 0,
    ];
    let (_, reply) = stage.handle(client.origin, &request);
    assert_eq!(reply[..8], [0x01, 0x13, 0, 80, 0x21, 0x12, 0xa4, 0x42]);
    assert_eq!(reply[8..20], request[8..20]);
    assert_eq!(reply[20..44], *b"\x00\x09\x00\x13\x00\x00\x04\x01Unauthenticated\x00");
    assert_eq!(reply[44..56], *b"\x00\x14\x00\x07livekit\x00");
    assert_eq!(reply[56..73], *b"\x00\x15\x00\x25obMatJos2AAAA");
}

proptest::proptest! {
    /// Whatever arrives, the server goes on and keeps within its bounds.
    #[test]
    fn nothing_from_the_network_upsets_it(messages in proptest::collection::vec(
        (0..4_u16, proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80), 0..7_usize), 1..40)
    ) {
        let mut stage = Stage::new();
        let mut client = Client::new(5_000);
        client.allocate(&mut stage);
        for (port, noise, shape) in messages {
            let origin = Origin::Datagram { socket: 0, remote: SocketAddr::new("192.0.2.1".parse().unwrap(), 5_000 + port) };
            let mut bytes = client.write(Class::Request, Method::Allocate, &Draft::allocate());
            match shape {
                0 => bytes = noise,
                1 => bytes = [&[0x40, 0], noise.as_slice()].concat(),
                2 => bytes.truncate(noise.len()),
                _ => noise.iter().enumerate().for_each(|(at, byte)| {
                    let place = at * 7 % bytes.len();
                    bytes[place] ^= byte;
                }),
            }
            stage.handle(origin, &bytes);
            proptest::prop_assert!(stage.server.stats().allocations <= 4);
        }
    }
}
