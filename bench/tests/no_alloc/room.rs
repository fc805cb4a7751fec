//! One publisher and its subscribers: simulated clients with real peers, whatever carries their datagrams.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use auralink_proto::{IceCredentials, RoomId, TrackId, TransportId, TransportSpec};
use auralink_rtc::dtls::Certificate;
use auralink_rtc::rtcp::RtcpWriter;
use auralink_rtc::rtp::RtpHeader;
use auralink_rtc::twcc::TwccRecorder;
use auralink_sim::client::{Client, Invitation};
use auralink_sim::control::{self, Member};
use auralink_sim::link::Quality;
use auralink_sim::publish::TWCC;
use auralink_sim::receive::Received;

pub(crate) const SUBSCRIBERS: usize = 10;
const FEEDBACK_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) struct Room {
    pub(crate) id: RoomId,
    pub(crate) clients: Vec<Client>,
    pub(crate) seats: Vec<Option<Member>>,
    recorders: Vec<TwccRecorder>,
    next_feedback: Instant,
}

/// Names and addresses of one client.
pub(crate) struct Seat {
    pub(crate) transport: TransportId,
    pub(crate) tracks: [TrackId; 2],
    pub(crate) address: SocketAddr,
}

impl Room {
    /// The client of the first seat publishes, everyone receives.
    pub(crate) fn new(
        now: Instant,
        id: RoomId,
        server: SocketAddr,
        server_fingerprint: [u8; 32],
        seats: Vec<Seat>,
    ) -> Self {
        let certificate = Certificate::generate().unwrap();
        let (mut clients, mut members) = (Vec::new(), Vec::new());
        let count = seats.len();
        for (index, seat) in seats.into_iter().enumerate() {
            let ice = |ufrag: String, side: &str| IceCredentials {
                ufrag,
                pwd: format!("{side}-password-of-{index:08}"),
            };
            let local_ice = ice(seat.transport.ufrag(), "server");
            let remote_ice = ice(format!("client{index}"), "client");
            let rtc = |ice: &IceCredentials| auralink_rtc::ice::IceCredentials {
                ufrag: ice.ufrag.clone(),
                pwd: ice.pwd.clone(),
            };
            let (transport, tracks) = (seat.transport, seat.tracks);
            let invitation = Invitation {
                transport,
                tracks,
                quality: Quality::PERFECT,
                server,
                server_ice: rtc(&local_ice),
                server_fingerprint,
                own_ice: rtc(&remote_ice),
            };
            let index = index as u16;
            let mut client = Client::new(now, index, seat.address, invitation, &certificate);
            client.publisher.muted = index != 0;
            for other in (0..count).filter(|other| *other != usize::from(index)) {
                for video in [false, true] {
                    let ssrc = control::line_ssrc(index, other, video);
                    client.lines.insert(ssrc, Received { video, ..Received::default() });
                    client.repairs.insert(control::repair_ssrc(ssrc), ssrc);
                }
            }
            clients.push(client);
            members.push(Some(Member {
                transport,
                index,
                version: 1,
                local_ice,
                remote_ice,
                remote_fingerprint: certificate.fingerprint(),
                tracks,
                live: [index == 0; 2],
                muted: false,
            }));
        }
        let recorders = (0..count).map(|_| TwccRecorder::new()).collect();
        Self { id, clients, seats: members, recorders, next_feedback: now }
    }

    pub(crate) fn specs(&self) -> impl Iterator<Item = TransportSpec> {
        (0..self.seats.len()).filter_map(|seat| control::spec(self.id, &self.seats, seat))
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.clients.iter().all(|client| client.peer.is_connected())
    }

    /// A datagram from the node to the client of a seat.
    pub(crate) fn deliver(&mut self, now: Instant, seat: usize, from: SocketAddr, bytes: &[u8]) {
        if let Some(header) = RtpHeader::parse(bytes)
            && let Some(number) = header.extension(bytes, TWCC).and_then(|value| value.first_chunk::<2>())
        {
            self.recorders[seat].record(u16::from_be_bytes(*number), now);
        }
        self.clients[seat].handle(now, from, bytes);
    }

    /// Everything the clients send now: seat, and datagram.
    pub(crate) fn poll(&mut self, now: Instant) -> Vec<(usize, Vec<u8>)> {
        let mut out = Vec::new();
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
            if let Some(seal) = client.peer.srtp_seal().filter(|_| wants_feedback && recorder.is_pending()) {
                let mut compound = [0; 1_100];
                let mut writer = RtcpWriter::new(&mut compound);
                assert!(writer.receiver_report(9, &[]) && recorder.write_feedback(9, 9, &mut writer));
                let len = writer.finish();
                let mut bytes = vec![0; len + seal.overhead_rtcp()];
                seal.seal_rtcp(&compound[..len], &mut bytes).unwrap();
                out.push((seat, bytes));
            }
        }
        out
    }

    /// What the clients found wrong, and the packets they received.
    pub(crate) fn account(&self) -> (Vec<String>, usize) {
        let faults = self.clients.iter().flat_map(|client| client.faults.clone()).collect();
        let packets = self.clients.iter().flat_map(|client| client.lines.values());
        (faults, packets.map(|line| line.packets.len()).sum())
    }
}
