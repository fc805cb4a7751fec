//! Reading headers of what arrives: RTP, RTCP and STUN, against independent implementations. All of them must read the same.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark stops at its own mistakes")]

use std::hint::black_box;

use auralink_rtc::rtcp::{ReportBlock, Rtcp, RtcpWriter, SenderInfo, packets};
use auralink_rtc::rtp::{RtpFields, RtpHeader, write_header};
use auralink_rtc::stun;
use auralink_rtc::units::NtpTime;
use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use is::stun::{StunMessage, TransId};
use webrtc_util::marshal::Unmarshal;

const MID: u8 = 1;
const TWCC: u8 = 5;
const PASSWORD: &str = "a password of twenty-four";

/// A video packet as a browser sends it: four extension elements and 1,200 bytes.
fn rtp_packet() -> Vec<u8> {
    let fields = RtpFields {
        marker: true,
        padding: false,
        pt: 96,
        seq: 0x1234,
        timestamp: 0x5566_7788,
        ssrc: 0xdead_beef,
    };
    let mut packet = vec![7; 1_200];
    write_header(&mut packet, &fields, &[(MID, b"0"), (2, b"h"), (3, &[1, 2, 3]), (TWCC, &[4, 5])]).unwrap();
    packet
}

fn rtp(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse/rtp");
    let packet = rtp_packet();
    let header = RtpHeader::parse(&packet).unwrap();
    let theirs = rtp::packet::Packet::unmarshal(&mut Bytes::from(packet.clone())).unwrap();
    assert_eq!((header.ssrc, header.seq), (theirs.header.ssrc, theirs.header.sequence_number));
    assert_eq!(header.extension(&packet, TWCC), theirs.header.get_extension(TWCC).as_deref());
    group.bench_function("auralink", |b| {
        b.iter(|| {
            let packet = black_box(&packet);
            let header = RtpHeader::parse(packet).unwrap();
            (header, header.extension(packet, MID), header.extension(packet, TWCC))
        });
    });
    let bytes = Bytes::from(packet.clone());
    group.bench_function("rtp", |b| {
        b.iter(|| {
            let packet = rtp::packet::Packet::unmarshal(&mut black_box(&bytes).clone()).unwrap();
            let found = (packet.header.get_extension(MID), packet.header.get_extension(TWCC));
            (packet, found)
        });
    });
}

/// What a browser sends every second: a sender report, a description and a request for three packets.
fn rtcp_compound() -> Vec<u8> {
    let mut out = [0; 400];
    let mut writer = RtcpWriter::new(&mut out);
    let info = SenderInfo { ssrc: 7, ntp: NtpTime(1 << 40), rtp_time: 90_000, packets: 77, octets: 123_456 };
    assert!(writer.sender_report(&info, &[ReportBlock::default(); 2]));
    assert!(writer.sdes_cname(7, "a-cname-of-16-ch"));
    assert!(writer.nack(7, 8, [5, 6, 300]));
    let len = writer.finish();
    out[..len].to_vec()
}

fn rtcp(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse/rtcp");
    let compound = rtcp_compound();
    assert_eq!(packets(&compound).count(), 3);
    assert_eq!(rtcp::packet::unmarshal(&mut Bytes::from(compound.clone())).unwrap().len(), 3);
    group.bench_function("auralink", |b| {
        b.iter(|| {
            packets(black_box(&compound)).fold(0_u64, |sum, packet| match packet {
                Rtcp::SenderReport { ssrc, ntp, .. } => sum + u64::from(ssrc) + ntp.0,
                Rtcp::Nack { lost, .. } => sum + lost.map(u64::from).sum::<u64>(),
                _ => sum + 1,
            })
        });
    });
    let bytes = Bytes::from(compound.clone());
    group.bench_function("rtcp", |b| {
        b.iter(|| rtcp::packet::unmarshal(&mut black_box(&bytes).clone()).unwrap());
    });
}

fn hmac_sha1(key: &[u8], pieces: &[&[u8]]) -> [u8; 20] {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key);
    let mut context = aws_lc_rs::hmac::Context::with_key(&key);
    pieces.iter().for_each(|piece| context.update(piece));
    *context.sign().as_ref().first_chunk().unwrap()
}

fn stun(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse/stun");
    let mut request = vec![0; 200];
    let message = StunMessage::binding_request("aaaaaaaaaaaaa:client", TransId::new(), true, 7, 99, true);
    let len = message.to_bytes(Some(PASSWORD.as_bytes()), &mut request, hmac_sha1).unwrap();
    request.truncate(len);
    let theirs = StunMessage::parse(&request).unwrap();
    let ours = stun::Binding::parse(&request).unwrap();
    assert_eq!(theirs.split_username(), ours.username);
    assert_eq!((theirs.prio(), theirs.use_candidate()), (ours.priority, ours.use_candidate));
    assert!(ours.verify(PASSWORD) && theirs.verify(PASSWORD.as_bytes(), hmac_sha1));
    group.bench_function("auralink/username", |b| b.iter(|| stun::username(black_box(&request))));
    group.bench_function("auralink/whole", |b| b.iter(|| stun::Binding::parse(black_box(&request)).unwrap()));
    group.bench_function("is/whole", |b| b.iter(|| StunMessage::parse(black_box(&request)).unwrap()));
    group.bench_function("auralink/verified", |b| {
        b.iter(|| stun::Binding::parse(black_box(&request)).unwrap().verify(black_box(PASSWORD)));
    });
    group.bench_function("is/verified", |b| {
        b.iter(|| {
            let message = StunMessage::parse(black_box(&request)).unwrap();
            message.verify(black_box(PASSWORD.as_bytes()), hmac_sha1)
        });
    });
}

criterion_group!(benches, rtp, rtcp, stun);
criterion_main!(benches);
