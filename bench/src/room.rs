//! One publisher and its subscribers: simulated clients with real peers, whatever carries their datagrams.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use auralink_node::Handle;
use auralink_proto::{Command, IceCredentials, RoomId, TrackId, TransportId, TransportSpec};
use auralink_rtc::classify::{Kind, classify};
use auralink_rtc::dtls::Certificate;
use auralink_rtc::egress::Egress;
use auralink_rtc::rtcp::RtcpWriter;
use auralink_rtc::rtp::RtpHeader;
use auralink_rtc::twcc::TwccRecorder;
use auralink_sim::client::{Client, Invitation};
use auralink_sim::control::{self, Member};
use auralink_sim::link::Quality;
use auralink_sim::numbers::Numbers;
use auralink_sim::publish::TWCC;
use auralink_sim::receive::Received;

use crate::source::{FrameShape, FrameSource};

const FEEDBACK_INTERVAL: Duration = Duration::from_millis(100);
/// Train buffers of one client: enough for a handshake flight. Thousands of clients with more would fill the memory.
const CLIENT_TRAINS: usize = 4;
/// Room for one compound.
const COMPOUND_MAX: usize = 1_100;

/// What the publisher sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Media {
    /// Opus and three small VP8 layers, by the simulator's own publisher.
    Simulcast,
    /// One VP8 layer of such frames.
    Frames(FrameShape),
    /// Nothing, though everyone could: an idle population.
    Silence,
}

/// What all clients of a room agree on.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub id: RoomId,
    pub server_fingerprint: [u8; 32],
    pub media: Media,
    /// Subscribers open and check every packet and ask for what is missing. Without, they read only the transport-wide number,
    /// so that what is measured is not drowned in its receivers.
    pub opens_media: bool,
}

/// Names and addresses of one client.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    pub transport: TransportId,
    /// Audio, video.
    pub tracks: [TrackId; 2],
    pub address: SocketAddr,
    pub server: SocketAddr,
}

impl Seat {
    /// A place in a room of a running node, for the client at `address`, the node's first address of the same family before it.
    pub fn take(handle: &Handle, id: RoomId, index: usize, address: SocketAddr) -> Self {
        let transport = handle.place_transport(id, index);
        let tracks = [handle.place_track(transport), handle.place_track(transport)];
        let mut offered = handle.candidates(transport.shard()).iter().map(|candidate| candidate.address);
        let server = offered.find(|offered| offered.is_ipv4() == address.is_ipv4());
        Self { transport, tracks, address, server: server.expect("a candidate of the client's family") }
    }
}

pub struct Room {
    pub clients: Vec<Client>,
    plan: Plan,
    members: Vec<Option<Member>>,
    recorders: Vec<TwccRecorder>,
    source: Option<FrameSource>,
    keyframes_asked: u32,
    next_feedback: Instant,
    /// RTP datagrams that reached each seat.
    delivered: Vec<u64>,
}

impl Room {
    /// The client of the first seat publishes, the others receive.
    pub fn new(now: Instant, plan: Plan, seats: &[Seat]) -> Self {
        let certificate = Certificate::generate_for_simulation(!0).unwrap();
        let mut room = Self {
            clients: Vec::with_capacity(seats.len()),
            plan,
            members: Vec::with_capacity(seats.len()),
            recorders: seats.iter().map(|_| TwccRecorder::new()).collect(),
            source: match plan.media {
                Media::Frames(shape) => Some(FrameSource::new(now, shape)),
                Media::Simulcast | Media::Silence => None,
            },
            keyframes_asked: 0,
            next_feedback: now,
            delivered: vec![0; seats.len()],
        };
        for (index, seat) in seats.iter().enumerate() {
            room.seat(now, index, seat, &certificate);
        }
        room
    }

    fn seat(&mut self, now: Instant, index: usize, seat: &Seat, certificate: &Certificate) {
        let credentials = |ufrag: String, side: &str| IceCredentials {
            ufrag,
            pwd: format!("{side}-password-of-{index:08}"),
        };
        let local_ice = credentials(seat.transport.ufrag(), "server");
        let remote_ice = credentials(format!("client{index}"), "client");
        let rtc = |ice: &IceCredentials| auralink_rtc::ice::IceCredentials {
            ufrag: ice.ufrag.clone(),
            pwd: ice.pwd.clone(),
        };
        let Seat { transport, tracks, address, server } = *seat;
        let invitation = Invitation {
            transport,
            tracks,
            quality: Quality::PERFECT,
            server,
            server_ice: rtc(&local_ice),
            server_fingerprint: self.plan.server_fingerprint,
            own_ice: rtc(&remote_ice),
            numbers: Numbers::plain(),
        };
        let is_publisher = index == 0;
        let index = index as u16;
        let mut client = Client::new(now, index, address, invitation, certificate);
        client.egress = Egress::new(CLIENT_TRAINS);
        client.publisher.muted = !is_publisher || self.plan.media != Media::Simulcast;
        for video in [false, true].into_iter().filter(|_| !is_publisher) {
            let ssrc = control::line_ssrc(index, 0, video);
            client.lines.insert(ssrc, Received { video, ..Received::default() });
            client.repairs.insert(control::repair_ssrc(ssrc), ssrc);
        }
        self.clients.push(client);
        self.members.push(Some(Member {
            transport,
            index,
            version: 1,
            local_ice,
            remote_ice,
            remote_fingerprint: certificate.fingerprint(),
            tracks,
            live: [is_publisher; 2],
            muted: false,
            numbers: Numbers::plain(),
        }));
    }

    /// What control would tell the shards: everyone follows the publisher, nobody anyone else.
    /// Tells a running node of everybody's transports.
    pub fn announce(&self, handle: &Handle) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for spec in self.specs() {
            let shard = spec.id.shard();
            runtime.block_on(handle.send(shard, Command::ApplyTransport(Box::new(spec)))).unwrap();
        }
    }

    pub fn specs(&self) -> impl Iterator<Item = TransportSpec> {
        (0..self.members.len()).map(|seat| {
            if seat == 0 {
                let mut spec = control::spec(self.plan.id, &self.members[..1], 0).unwrap();
                if self.plan.media != Media::Simulcast {
                    spec.receive.iter_mut().for_each(|section| section.rids.clear());
                }
                return spec;
            }
            let pair = [self.members[0].clone(), self.members[seat].clone()];
            let mut spec = control::spec(self.plan.id, &pair, 1).unwrap();
            match self.plan.media {
                Media::Silence => spec.receive.iter_mut().for_each(|section| section.rids.clear()),
                Media::Simulcast | Media::Frames(_) => spec.receive.clear(),
            }
            spec
        })
    }

    pub fn is_connected(&self) -> bool {
        self.clients.iter().all(|client| client.peer.is_connected())
    }

    /// Whether every subscriber has received media, if there is any.
    pub fn is_fed(&self) -> bool {
        self.plan.media == Media::Silence || self.delivered.iter().skip(1).all(|packets| *packets > 0)
    }

    /// RTP datagrams that reached subscribers so far.
    pub fn delivered(&self) -> u64 {
        self.delivered.iter().sum()
    }

    /// A datagram from the node to the client of a seat.
    pub fn deliver(&mut self, now: Instant, seat: usize, from: SocketAddr, bytes: &[u8]) {
        let kind = classify(bytes);
        if kind == Kind::Rtp {
            self.delivered[seat] += 1;
            let header = RtpHeader::parse(bytes).expect("the node sends RTP that parses");
            let number = header.extension(bytes, TWCC).and_then(|value| value.first_chunk::<2>());
            if let Some(number) = number {
                self.recorders[seat].record(u16::from_be_bytes(*number), now);
            }
        }
        if kind != Kind::Rtp || self.plan.opens_media {
            self.clients[seat].handle(now, from, bytes);
        }
    }

    /// Everything the clients send now: seat, and datagram. The publisher's media comes first.
    pub fn poll(&mut self, now: Instant) -> Vec<(usize, Vec<u8>)> {
        let mut out = Vec::new();
        self.poll_source(now, &mut out);
        let wants_feedback = now >= self.next_feedback;
        if wants_feedback {
            self.next_feedback = now + FEEDBACK_INTERVAL;
        }
        for (seat, client) in self.clients.iter_mut().enumerate() {
            let sealed = client.take_sealed();
            let due = client.handle_timeout(now);
            out.extend(sealed.into_iter().chain(due).map(|packet| (seat, packet.bytes)));
            for train in client.egress.drain().collect::<Vec<_>>() {
                out.extend(train.datagrams().map(|datagram| (seat, datagram.to_vec())));
                client.egress.give_back(train.buffer);
            }
            let recorder = &mut self.recorders[seat];
            while wants_feedback && recorder.is_pending() {
                let mut compound = [0; COMPOUND_MAX];
                let mut writer = RtcpWriter::new(&mut compound);
                assert!(writer.receiver_report(9, &[]) && recorder.write_feedback(9, 9, &mut writer));
                let len = writer.finish();
                out.push((seat, client.seal_rtcp(&compound[..len]).expect("a connected client has keys")));
            }
        }
        out
    }

    fn poll_source(&mut self, now: Instant, out: &mut Vec<(usize, Vec<u8>)>) {
        let Some(source) = &mut self.source else { return };
        let publisher = &mut self.clients[0];
        let asked = publisher.publisher.keyframe_requests;
        source.wants_keyframe |= asked != std::mem::replace(&mut self.keyframes_asked, asked);
        if let Some(seal) = publisher.peer.srtp_seal() {
            let mut packets = Vec::new();
            source.poll(now, seal, &mut packets);
            out.extend(packets.into_iter().map(|packet| (0, packet)));
        }
    }

    /// What the clients found wrong.
    pub fn faults(&self) -> Vec<String> {
        self.clients.iter().flat_map(|client| client.faults.clone()).collect()
    }

    /// Packets the clients opened and found right.
    pub fn opened(&self) -> usize {
        let lines = self.clients.iter().flat_map(|client| client.lines.values());
        lines.map(|line| line.packets.len()).sum()
    }
}
