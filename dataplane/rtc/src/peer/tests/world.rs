//! Two nodes and a wire between them that loses, repeats and reorders. One seed is one run.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::classify::{Kind, classify};
use crate::dtls::{Certificate, DtlsRole, PeerKeys};
use crate::egress::Egress;
use crate::ice::{CONSENT_TIMEOUT, IceCredentials, IceMode};
use crate::peer::{Peer, PeerConfig, PeerError, PeerEvent};
use crate::rtp::{RtpFields, write_header};
use crate::srtp::SealStream;
use crate::units::{Route, SeqNo};

pub(super) const MS: Duration = Duration::from_millis(1);

/// A small generator, so that one seed is one run.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

pub(super) struct Node {
    pub(super) peer: Peer,
    pub(super) egress: Egress,
    pub(super) address: SocketAddr,
    pub(super) events: Vec<PeerEvent>,
    /// Media datagrams that arrived.
    pub(super) media: VecDeque<Vec<u8>>,
}

impl Node {
    pub(super) fn new(peer: Peer, address: SocketAddr) -> Self {
        Self { peer, egress: Egress::new(64), address, events: Vec::new(), media: VecDeque::new() }
    }

    pub(super) fn handle(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Result<(), PeerError> {
        let route = Route::udp(from, Some(self.address.ip()));
        match classify(datagram) {
            Kind::Stun => self.peer.handle_stun(now, &route, datagram, &mut self.egress),
            Kind::Dtls => self.peer.handle_dtls(now, &route, datagram, &mut self.egress),
            Kind::Rtp | Kind::Rtcp => {
                self.media.push_back(datagram.to_vec());
                Ok(())
            }
            Kind::Other => Ok(()),
        }
    }

    pub(super) fn has(&self, wanted: impl Fn(&PeerEvent) -> bool) -> bool {
        self.events.iter().any(wanted)
    }

    pub(super) fn channel(&self, label: &str) -> Option<u16> {
        self.events.iter().find_map(|event| match event {
            PeerEvent::ChannelOpen { id, label: found, .. } if found == label => Some(*id),
            _ => None,
        })
    }

    pub(super) fn messages(&self) -> Vec<(u16, bool, Vec<u8>)> {
        let message = |event: &PeerEvent| match event {
            PeerEvent::Message { id, binary, bytes } => Some((*id, *binary, bytes.to_vec())),
            _ => None,
        };
        self.events.iter().filter_map(message).collect()
    }
}

pub(super) struct InFlight {
    pub(super) at: Instant,
    pub(super) to: usize,
    pub(super) from: SocketAddr,
    pub(super) datagram: Vec<u8>,
}

/// A server (0), a client (1), and the wire between them.
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) nodes: [Node; 2],
    pub(super) wire: Vec<InFlight>,
    pub(super) dice: Dice,
    /// Of 100 datagrams so many are lost, and so many come twice.
    pub(super) loss: u64,
    pub(super) twice: u64,
    pub(super) jitter_ms: u64,
    pub(super) cut: bool,
}

pub(super) fn credentials(name: &str) -> IceCredentials {
    IceCredentials { ufrag: name.to_owned(), pwd: format!("{name}-password-of-22-characters") }
}

pub(super) fn server_address() -> SocketAddr {
    ([10, 0, 0, 1], 7882).into()
}

pub(super) fn client_address() -> SocketAddr {
    ([10, 0, 0, 2], 50_000).into()
}

pub(super) fn server_config(fingerprint: [u8; 32]) -> PeerConfig {
    PeerConfig {
        local_ice: credentials("server"),
        remote_ice: Some(credentials("client")),
        remote_fingerprint: fingerprint,
        remote_keys: PeerKeys::Ecdsa,
        role: DtlsRole::Server,
        ice: IceMode::Lite,
        local_address: None,
        remote_candidates: vec![],
        data: true,
        consent_timeout: CONSENT_TIMEOUT,
    }
}

pub(super) fn client_config(fingerprint: [u8; 32]) -> PeerConfig {
    PeerConfig {
        local_ice: credentials("client"),
        remote_ice: Some(credentials("server")),
        role: DtlsRole::Client,
        ice: IceMode::Controlling,
        local_address: Some(client_address()),
        remote_candidates: vec![server_address()],
        ..server_config(fingerprint)
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self::with_keys(seed, [PeerKeys::Ecdsa; 2])
    }

    /// What server and client take as the other's key: which of the two DTLS libraries each has.
    pub(super) fn with_keys(seed: u64, keys: [PeerKeys; 2]) -> Self {
        let (ours, theirs) = (Certificate::generate().unwrap(), Certificate::generate().unwrap());
        let mut server = server_config(theirs.fingerprint());
        let mut client = client_config(ours.fingerprint());
        [server.remote_keys, client.remote_keys] = keys;
        Self::with(seed, server, client, ours, theirs)
    }

    pub(super) fn with(
        seed: u64,
        server: PeerConfig,
        client: PeerConfig,
        ours: Certificate,
        theirs: Certificate,
    ) -> Self {
        let now = Instant::now();
        let server = Peer::new(now, server, &ours, 1).unwrap();
        let client = Peer::new(now, client, &theirs, 2).unwrap();
        Self {
            now,
            nodes: [Node::new(server, server_address()), Node::new(client, client_address())],
            wire: Vec::new(),
            dice: Dice(seed),
            loss: 0,
            twice: 0,
            jitter_ms: 0,
            cut: false,
        }
    }

    pub(super) fn server(&mut self) -> &mut Node {
        &mut self.nodes[0]
    }

    pub(super) fn client(&mut self) -> &mut Node {
        &mut self.nodes[1]
    }

    /// Puts what both nodes wrote on the wire.
    pub(super) fn flush(&mut self) {
        for from in 0..2 {
            let node = &mut self.nodes[from];
            while let Some(event) = node.peer.poll_event() {
                node.events.push(event);
            }
            let trains: Vec<_> = node.egress.drain().collect();
            for train in trains {
                for datagram in train.datagrams() {
                    let copies = 1 + u64::from(self.dice.roll(100) < self.twice);
                    for _ in 0..copies {
                        if self.cut || self.dice.roll(100) < self.loss {
                            continue;
                        }
                        let delay = 5 + if self.jitter_ms > 0 { self.dice.roll(self.jitter_ms) } else { 0 };
                        self.wire.push(InFlight {
                            at: self.now + MS * delay as u32,
                            to: 1 - from,
                            from: self.nodes[from].address,
                            datagram: datagram.to_vec(),
                        });
                    }
                }
                self.nodes[from].egress.give_back(train.buffer);
            }
        }
    }

    /// Advances to the next thing that happens, at most to `end`.
    pub(super) fn step(&mut self, end: Instant) {
        self.flush();
        let timers = self.nodes.iter_mut().filter_map(|node| node.peer.poll_timeout());
        let next = timers.chain(self.wire.iter().map(|flight| flight.at)).min().unwrap_or(end);
        self.now = next.clamp(self.now, end);
        let arrived = self.wire.extract_if(.., |flight| flight.at <= self.now).collect::<Vec<_>>();
        for flight in arrived {
            // Refusals are part of life on a bad wire.
            let _ = self.nodes[flight.to].handle(self.now, flight.from, &flight.datagram);
        }
        for node in &mut self.nodes {
            if node.peer.poll_timeout().is_some_and(|at| at <= self.now) {
                node.peer.handle_timeout(self.now, &mut node.egress);
            }
        }
        self.flush();
    }

    pub(super) fn run_until(&mut self, what: &str, limit: Duration, done: impl Fn(&[Node; 2]) -> bool) {
        let end = self.now + limit;
        let mut steps = 0;
        while !done(&self.nodes) {
            assert!(
                self.now < end,
                "no {what} in time: {:?} {:?}",
                self.nodes[0].events,
                self.nodes[1].events
            );
            steps += 1;
            assert!(steps < 100_000, "no {what}: time stands still");
            self.step(end);
        }
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..100_000 {
            if self.now >= end {
                return;
            }
            self.step(end);
        }
        panic!("time stands still");
    }

    pub(super) fn connect(&mut self) {
        self.run_until("connection", Duration::from_secs(40), |nodes| {
            nodes.iter().all(|node| node.peer.is_connected())
        });
    }

    /// Seals one RTP packet at node `from` and puts it on the wire.
    pub(super) fn send_media(
        &mut self,
        from: usize,
        stream: SealStream,
        ssrc: u32,
        seq: SeqNo,
        payload: &[u8],
    ) {
        let node = &mut self.nodes[from];
        let route = node.peer.route().unwrap();
        let seal = node.peer.srtp_seal().unwrap();
        let place = node.egress.reserve(&route, 12 + payload.len() + seal.overhead_rtp()).unwrap();
        let fields = RtpFields { pt: 96, seq: seq.wire(), ssrc, ..RtpFields::default() };
        let header_len = write_header(place, &fields, &[]).unwrap();
        seal.seal_rtp(stream, seq, header_len, payload, place).unwrap();
        node.egress.commit();
    }
}
