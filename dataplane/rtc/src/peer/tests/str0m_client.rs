//! Our server and a client of independent make. Its ICE, DTLS and SCTP crates are the ones we use too; its SRTP, RTCP and
//! data channel protocol are not.

use std::time::{Duration, Instant};

use str0m::channel::{ChannelConfig, ChannelId, Reliability as TheirReliability};
use str0m::config::{DtlsVersion, Fingerprint};
use str0m::media::{MediaKind, Pt};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{RtpPacket, RtpWrite};
use str0m::{Candidate, Event, IceCreds, Input, Output, Rtc, RtcConfig};

use super::world::*;
use crate::classify::{Kind, classify};
use crate::dtls::Certificate;
use crate::peer::{Peer, PeerClose, PeerEvent};
use crate::rtcp::{Rtcp, RtcpWriter, packets};
use crate::rtp::RtpHeader;
use crate::sctp::Reliability;
use crate::srtp::Profile;
use crate::units::SeqNo;

const DELAY: Duration = Duration::from_millis(5);

struct Call {
    now: Instant,
    server: Node,
    rtc: Rtc,
    to_server: Vec<(Instant, Vec<u8>)>,
    to_client: Vec<(Instant, Vec<u8>)>,
    rtc_timeout: Instant,
    events: Vec<Event>,
}

impl Call {
    fn new(version: DtlsVersion) -> Self {
        let now = Instant::now();
        let certificate = Certificate::generate().unwrap();
        let mut rtc = RtcConfig::new().set_rtp_mode(true).set_dtls_version(version).build(now);
        rtc.add_local_candidate(Candidate::host(client_address(), "udp").unwrap());
        rtc.add_remote_candidate(Candidate::host(server_address(), "udp").unwrap());
        let mut direct = rtc.direct_api();
        let ours = credentials("server");
        direct.set_remote_ice_credentials(IceCreds { ufrag: ours.ufrag, pass: ours.pwd });
        let theirs = direct.local_ice_credentials();
        direct.set_remote_fingerprint(Fingerprint {
            hash_func: "sha-256".to_owned(),
            bytes: certificate.fingerprint().to_vec(),
        });
        let fingerprint = direct.local_dtls_fingerprint().bytes.clone().try_into().unwrap();
        direct.set_ice_controlling(true);
        direct.start_dtls(true).unwrap();
        direct.start_sctp(true);
        direct.declare_media("aud".into(), MediaKind::Audio);
        direct.declare_stream_tx(1.into(), None, "aud".into(), None);
        direct.expect_stream_rx(2.into(), None, "aud".into(), None);
        let mut config = server_config(fingerprint);
        config.remote_ice = Some(crate::ice::IceCredentials { ufrag: theirs.ufrag, pwd: theirs.pass });
        let server = Node::new(Peer::new(now, config, &certificate, 1).unwrap(), server_address());
        let (to_server, to_client, events) = (Vec::new(), Vec::new(), Vec::new());
        Self { now, server, rtc, to_server, to_client, rtc_timeout: now, events }
    }

    fn drain_client(&mut self) {
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(at) => {
                    self.rtc_timeout = at;
                    break;
                }
                Output::Transmit(transmit) => {
                    self.to_server.push((self.now + DELAY, transmit.contents.to_vec()));
                }
                Output::Event(event) => self.events.push(event),
            }
        }
    }

    fn flush(&mut self) {
        self.drain_client();
        while let Some(event) = self.server.peer.poll_event() {
            self.server.events.push(event);
        }
        let trains: Vec<_> = self.server.egress.drain().collect();
        for train in trains {
            let datagrams = train.datagrams().map(|datagram| (self.now + DELAY, datagram.to_vec()));
            self.to_client.extend(datagrams);
            self.server.egress.give_back(train.buffer);
        }
    }

    fn step(&mut self) {
        self.flush();
        let flights = self.to_server.iter().chain(&self.to_client).map(|(at, _)| *at);
        let timers = self.server.peer.poll_timeout().into_iter().chain([self.rtc_timeout]);
        self.now = flights.chain(timers).min().unwrap().max(self.now);
        let due = |flight: &mut (Instant, Vec<u8>)| flight.0 <= self.now;
        for (_, datagram) in self.to_server.extract_if(.., due) {
            self.server.handle(self.now, client_address(), &datagram).unwrap();
        }
        let due = |flight: &mut (Instant, Vec<u8>)| flight.0 <= self.now;
        for (_, datagram) in self.to_client.extract_if(.., due).collect::<Vec<_>>() {
            let receive = Receive::new(Protocol::Udp, server_address(), client_address(), &datagram).unwrap();
            self.rtc.handle_input(Input::Receive(self.now, receive)).unwrap();
            self.drain_client();
        }
        if self.server.peer.poll_timeout().is_some_and(|at| at <= self.now) {
            self.server.peer.handle_timeout(self.now, &mut self.server.egress);
        }
        self.rtc.handle_input(Input::Timeout(self.now)).unwrap();
        self.flush();
    }

    fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = self.now + Duration::from_secs(20);
        while !done(self) {
            assert!(self.now < end, "no {what}: {:?} {:?}", self.server.events, self.events);
            self.step();
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    fn connect(&mut self) {
        self.run_until("connection", |call| call.server.peer.is_connected() && call.rtc.is_connected());
    }

    fn received(&self) -> Vec<&RtpPacket> {
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::RtpPacket(packet) => Some(packet),
                _ => None,
            })
            .collect()
    }

    fn their_channel(&self, label: &str) -> Option<ChannelId> {
        self.events.iter().find_map(|event| match event {
            Event::ChannelOpen(id, found) if found == label => Some(*id),
            _ => None,
        })
    }
}

#[test]
fn it_connects_with_gcm() {
    let mut call = Call::new(DtlsVersion::Dtls12);
    call.connect();
    assert!(
        call.server
            .has(|event| { matches!(event, PeerEvent::Connected { profile: Profile::AeadAes256Gcm }) })
    );
    assert_eq!(call.server.peer.route().map(|route| route.remote), Some(client_address()));
}

#[test]
fn a_client_that_offers_1_3_too_connects_with_1_2() {
    let mut call = Call::new(DtlsVersion::Auto);
    call.connect();
    assert!(
        call.server
            .has(|event| { matches!(event, PeerEvent::Connected { profile: Profile::AeadAes256Gcm }) })
    );
}

#[test]
fn media_crosses_both_ways_over_the_wrap() {
    let mut call = Call::new(DtlsVersion::Dtls12);
    call.connect();
    let stream = call.server.peer.srtp_seal().unwrap().stream(2).unwrap();
    let payload = |i: u64| vec![i as u8; 120];
    for i in 0..60u64 {
        let seq = SeqNo(SeqNo::first(65_500).0 + i);
        let pt = Pt::new_with_value(111);
        let rtp = RtpWrite::new(pt, (65_500 + i).into(), i as u32 * 960, call.now, payload(i));
        call.rtc.direct_api().stream_tx(&1.into()).unwrap().write_rtp(rtp);
        let route = call.server.peer.route().unwrap();
        let place = call.server.egress.reserve(&route, 12 + 120 + 16).unwrap();
        let fields = crate::rtp::RtpFields {
            pt: 111,
            seq: seq.wire(),
            timestamp: i as u32 * 960,
            ssrc: 2,
            ..Default::default()
        };
        let header_len = crate::rtp::write_header(place, &fields, &[]).unwrap();
        call.server.peer.srtp_seal().unwrap().seal_rtp(stream, seq, header_len, &payload(i), place).unwrap();
        call.server.egress.commit();
        call.run_for(Duration::from_millis(20));
    }
    // Long enough for its reports.
    call.run_for(Duration::from_secs(8));
    let received = call.received();
    let numbers: Vec<_> = received.iter().map(|packet| *packet.seq_no).collect();
    assert_eq!(numbers, (65_500..65_560).collect::<Vec<_>>());
    assert!(received.iter().zip(0..).all(|(packet, i)| packet.payload[..] == payload(i)));
    let open = call.server.peer.srtp_open().unwrap();
    let mut out = [0; 1_500];
    let mut count = 0;
    let (mut reports, mut media) = (0, std::mem::take(&mut call.server.media));
    for datagram in media.drain(..) {
        if classify(&datagram) == Kind::Rtcp {
            let len = open.open_rtcp(&datagram, &mut out).unwrap();
            let all: Vec<_> = packets(&out[..len]).collect();
            assert!(!all.iter().any(|packet| matches!(packet, Rtcp::Malformed { .. })), "{all:?}");
            reports += 1;
            continue;
        }
        let header = RtpHeader::parse(&datagram).unwrap();
        assert_eq!((header.ssrc, header.pt), (1, 111));
        let (seq, len) = open.open_rtp(&header, &datagram, &mut out).unwrap();
        assert_eq!(seq, SeqNo(SeqNo::first(65_500).0 + count));
        assert_eq!(out[..len], payload(count));
        count += 1;
    }
    assert_eq!(count, 60);
    assert!(reports > 0, "no RTCP came");
}

#[test]
fn our_keyframe_request_arrives() {
    let mut call = Call::new(DtlsVersion::Dtls12);
    {
        let mut direct = call.rtc.direct_api();
        direct.declare_media("vid".into(), MediaKind::Video);
        direct.declare_stream_tx(3.into(), None, "vid".into(), None);
    }
    call.connect();
    let mut compound = [0; 100];
    let mut writer = RtcpWriter::new(&mut compound);
    assert!(writer.receiver_report(9, &[]) && writer.pli(9, 3));
    let len = writer.finish();
    let mut place = [0; 200];
    let sealed = call.server.peer.srtp_seal().unwrap().seal_rtcp(&compound[..len], &mut place).unwrap();
    let route = call.server.peer.route().unwrap();
    assert!(call.server.egress.push(&route, &place[..sealed]));
    call.run_until("keyframe request", |call| {
        call.events.iter().any(|event| matches!(event, Event::KeyframeRequest(_)))
    });
}

#[test]
fn channels_open_from_both_sides() {
    let mut call = Call::new(DtlsVersion::Dtls12);
    call.rtc.direct_api().create_data_channel(ChannelConfig {
        label: "theirs".into(),
        ordered: false,
        reliability: TheirReliability::MaxRetransmits { retransmits: 0 },
        ..Default::default()
    });
    let now = call.now;
    call.server.peer.open_channel(now, "ours", true, Reliability::Reliable).unwrap();
    call.connect();
    call.run_until("channels", |call| {
        ["ours", "theirs"]
            .into_iter()
            .all(|label| call.server.channel(label).is_some() && call.their_channel(label).is_some())
    });
    let theirs = PeerEvent::ChannelOpen { id: 0, label: "theirs".into(), ordered: false, reliable: false };
    assert!(call.server.has(|event| *event == theirs));
    for label in ["ours", "theirs"] {
        let (id, their_id) = (call.server.channel(label).unwrap(), call.their_channel(label).unwrap());
        assert!(call.rtc.channel(their_id).unwrap().write(true, &[4; 20_000]).unwrap());
        let now = call.now;
        call.server.peer.send(now, id, false, label.as_bytes(), &mut call.server.egress).unwrap();
    }
    call.run_until("messages", |call| {
        let data = call.events.iter().filter(|event| matches!(event, Event::ChannelData(_))).count();
        call.server.messages().len() == 2 && data == 2
    });
    assert!(call.server.messages().iter().all(|(_, binary, bytes)| *binary && bytes[..] == [4; 20_000]));
}

#[test]
fn its_good_bye_is_understood() {
    let mut call = Call::new(DtlsVersion::Dtls12);
    call.connect();
    call.rtc.disconnect();
    let end = call.now + Duration::from_secs(40);
    while call.now < end && !call.server.has(|event| matches!(event, PeerEvent::Closed(_))) {
        call.flush();
        for (_, datagram) in std::mem::take(&mut call.to_server) {
            let now = call.now;
            let _ = call.server.handle(now, client_address(), &datagram);
        }
        call.now += Duration::from_secs(1);
        call.server.peer.handle_timeout(call.now, &mut call.server.egress);
    }
    let last = call.server.events.last();
    assert!(matches!(last, Some(PeerEvent::Closed(PeerClose::PeerClosed | PeerClose::ConsentExpired))));
}
