//! RTCP against golden bytes, an independent implementation, and damage.

use bytes::Bytes;
use proptest::prelude::*;
use rtcp::goodbye::Goodbye;
use rtcp::packet::{Packet, marshal, unmarshal};
use rtcp::payload_feedbacks::full_intra_request::{FirEntry, FullIntraRequest};
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtcp::payload_feedbacks::receiver_estimated_maximum_bitrate::ReceiverEstimatedMaximumBitrate;
use rtcp::receiver_report::ReceiverReport;
use rtcp::reception_report::ReceptionReport;
use rtcp::sender_report::SenderReport;
use rtcp::source_description::{SdesType, SourceDescription, SourceDescriptionChunk, SourceDescriptionItem};
use rtcp::transport_feedbacks::transport_layer_nack::{NackPair, TransportLayerNack};

use super::*;

const BLOCK: ReportBlock = ReportBlock {
    ssrc: 0x0102_0304,
    fraction_lost: 51,
    cumulative_lost: 4_711,
    highest_seq: 0x0002_fffe,
    jitter: 333,
    lsr: 0x1122_3344,
    dlsr: 0x0000_8000,
};
const INFO: SenderInfo = SenderInfo {
    ssrc: 0xcafe_babe,
    ntp: NtpTime(0x0123_4567_89ab_cdef),
    rtp_time: 90_000,
    packets: 77,
    octets: 123_456,
};
const LOST: [u16; 6] = [65_533, 65_535, 0, 12, 14, 300];

/// One of everything.
fn compound() -> Vec<u8> {
    let mut out = [0; 1_200];
    let mut writer = RtcpWriter::new(&mut out);
    assert!(writer.sender_report(&INFO, &[BLOCK, BLOCK]));
    assert!(writer.receiver_report(5, &[BLOCK]));
    assert!(writer.sdes_cname(5, "a cname"));
    assert!(writer.nack(5, 6, LOST));
    assert!(writer.pli(5, 6));
    assert!(writer.fir(5, 6, 7));
    assert!(writer.remb(5, 2_500_000, &[6, 7]));
    assert!(writer.bye(&[5, 6]));
    let len = writer.finish();
    out[..len].to_vec()
}

fn theirs(ours: &ReportBlock) -> ReceptionReport {
    ReceptionReport {
        ssrc: ours.ssrc,
        fraction_lost: ours.fraction_lost,
        total_lost: ours.cumulative_lost as u32,
        last_sequence_number: ours.highest_seq,
        jitter: ours.jitter,
        last_sender_report: ours.lsr,
        delay: ours.dlsr,
    }
}

fn compound_of_another_implementation() -> Vec<Box<dyn Packet + Send + Sync>> {
    let pair = |packet_id, lost_packets| NackPair { packet_id, lost_packets };
    vec![
        Box::new(SenderReport {
            ssrc: INFO.ssrc,
            ntp_time: INFO.ntp.0,
            rtp_time: INFO.rtp_time,
            packet_count: INFO.packets,
            octet_count: INFO.octets,
            reports: vec![theirs(&BLOCK); 2],
            profile_extensions: Bytes::new(),
        }),
        Box::new(ReceiverReport { ssrc: 5, reports: vec![theirs(&BLOCK)], profile_extensions: Bytes::new() }),
        Box::new(SourceDescription {
            chunks: vec![SourceDescriptionChunk {
                source: 5,
                items: vec![SourceDescriptionItem {
                    sdes_type: SdesType::SdesCname,
                    text: Bytes::from_static(b"a cname"),
                }],
            }],
        }),
        Box::new(TransportLayerNack {
            sender_ssrc: 5,
            media_ssrc: 6,
            nacks: vec![pair(65_533, 1 << 1 | 1 << 2 | 1 << 14), pair(14, 0), pair(300, 0)],
        }),
        Box::new(PictureLossIndication { sender_ssrc: 5, media_ssrc: 6 }),
        Box::new(FullIntraRequest {
            sender_ssrc: 5,
            media_ssrc: 0,
            fir: vec![FirEntry { ssrc: 6, sequence_number: 7 }],
        }),
        Box::new(ReceiverEstimatedMaximumBitrate { sender_ssrc: 5, bitrate: 2_500_000.0, ssrcs: vec![6, 7] }),
        Box::new(Goodbye { sources: vec![5, 6], reason: Bytes::new() }),
    ]
}

fn assert_is_the_compound(bytes: &[u8]) {
    let all: Vec<_> = packets(bytes).collect();
    let [
        Rtcp::SenderReport { ssrc, ntp, rtp_time, packets, octets, reports },
        Rtcp::ReceiverReport { ssrc: 5, reports: received },
        Rtcp::Sdes(sdes),
        Rtcp::Nack { sender: 5, media: 6, lost },
        Rtcp::Pli { sender: 5, media: 6 },
        Rtcp::Fir { sender: 5, targets },
        Rtcp::Remb { sender: 5, bitrate_bps: 2_500_000, ssrcs },
        Rtcp::Bye(left),
    ] = &all[..]
    else {
        panic!("{all:?}")
    };
    let info = SenderInfo { ssrc: *ssrc, ntp: *ntp, rtp_time: *rtp_time, packets: *packets, octets: *octets };
    assert_eq!(info, INFO);
    assert_eq!(reports.clone().collect::<Vec<_>>(), [BLOCK, BLOCK]);
    assert_eq!(received.clone().collect::<Vec<_>>(), [BLOCK]);
    assert_eq!(sdes.clone().collect::<Vec<_>>(), [(5, &b"a cname"[..])]);
    assert_eq!(lost.clone().collect::<Vec<_>>(), LOST);
    assert_eq!(targets.clone().collect::<Vec<_>>(), [(6, 7)]);
    assert_eq!(ssrcs.clone().collect::<Vec<_>>(), [6, 7]);
    assert_eq!(left.clone().collect::<Vec<_>>(), [5, 6]);
}

#[test]
fn what_we_write_we_read() {
    assert_is_the_compound(&compound());
}

#[test]
fn another_implementation_reads_the_same_from_what_we_write() {
    let read = unmarshal(&mut Bytes::from(compound())).unwrap();
    let expected = compound_of_another_implementation();
    assert_eq!(read.len(), expected.len());
    for (ours, theirs) in read.iter().zip(&expected) {
        assert!(ours.equal(theirs.as_ref()), "{ours:?} is not {theirs:?}");
    }
}

#[test]
fn we_read_what_another_implementation_writes() {
    assert_is_the_compound(&marshal(&compound_of_another_implementation()).unwrap());
}

#[test]
fn golden_bytes_of_nack_pli_and_remb() {
    let mut out = [0; 100];
    let mut writer = RtcpWriter::new(&mut out);
    assert!(writer.nack(1, 2, [10, 11, 26, 27]));
    assert!(writer.pli(1, 2));
    assert!(writer.remb(1, 1_000_000, &[3]));
    let len = writer.finish();
    let golden = [
        0x81, 205, 0, 4, 0, 0, 0, 1, 0, 0, 0, 2, 0, 10, 0x80, 0x01, 0, 27, 0, 0, // NACK
        0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, // PLI
        0x8f, 206, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, b'R', b'E', b'M', b'B', 1, 0x0b, 0xd0, 0x90, 0, 0, 0, 3,
    ];
    assert_eq!(out[..len], golden);
}

#[test]
fn negative_cumulative_loss_keeps_its_sign() {
    let block = ReportBlock { cumulative_lost: -3, ..BLOCK };
    let mut out = [0; 64];
    let mut writer = RtcpWriter::new(&mut out);
    assert!(writer.receiver_report(1, &[block]));
    let len = writer.finish();
    let Some(Rtcp::ReceiverReport { mut reports, .. }) = packets(&out[..len]).next() else { panic!() };
    assert_eq!(reports.next(), Some(block));
}

#[test]
fn a_remb_above_every_rate_is_unlimited() {
    let bytes = [0x8f, 206, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, b'R', b'E', b'M', b'B', 0, 0xff, 0xff, 0xff];
    let Some(Rtcp::Remb { bitrate_bps, .. }) = packets(&bytes).next() else { panic!() };
    assert_eq!(bitrate_bps, u64::MAX);
    let mut out = [0; 64];
    let mut writer = RtcpWriter::new(&mut out);
    assert!(writer.remb(1, u64::MAX, &[]));
    let len = writer.finish();
    let Some(Rtcp::Remb { bitrate_bps, .. }) = packets(&out[..len]).next() else { panic!() };
    assert!(bitrate_bps > u64::MAX / 2);
}

#[test]
fn padding_is_cut_off_and_bad_padding_is_malformed() {
    let bytes = [0xa1, 206, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 4];
    assert!(matches!(packets(&bytes).next(), Some(Rtcp::Pli { sender: 1, media: 2 })));
    let bytes = [0xa1, 206, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 13];
    assert!(matches!(packets(&bytes).next(), Some(Rtcp::Malformed { packet_type: 206 })));
}

#[test]
fn a_body_that_does_not_fit_its_type_is_malformed_and_the_walk_goes_on() {
    let mut bytes = vec![0x82, 201, 0, 1, 0, 0, 0, 1];
    bytes.extend([0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2]);
    let all: Vec<_> = packets(&bytes).collect();
    assert!(matches!(all[..], [Rtcp::Malformed { packet_type: 201 }, Rtcp::Pli { .. }]));
}

#[test]
fn a_writer_never_passes_its_buffer_and_keeps_what_fit() {
    let whole = compound();
    for size in 0..whole.len() {
        let mut out = vec![0xee; size + 8];
        let (place, guard) = out.split_at_mut(size);
        let mut writer = RtcpWriter::new(place);
        let fitted = [
            writer.sender_report(&INFO, &[BLOCK, BLOCK]),
            writer.receiver_report(5, &[BLOCK]),
            writer.sdes_cname(5, "a cname"),
            writer.nack(5, 6, LOST),
            writer.pli(5, 6),
            writer.fir(5, 6, 7),
            writer.remb(5, 2_500_000, &[6, 7]),
            writer.bye(&[5, 6]),
        ];
        let len = writer.finish();
        assert_eq!(guard, [0xee; 8]);
        let read = packets(&place[..len]).filter(|p| !matches!(p, Rtcp::Malformed { .. })).count();
        assert_eq!(read, fitted.iter().filter(|fits| **fits).count());
    }
}

#[test]
fn what_the_count_field_cannot_say_is_refused() {
    let mut out = [0; 4_000];
    let mut writer = RtcpWriter::new(&mut out);
    assert!(!writer.receiver_report(1, &[BLOCK; 32]));
    assert!(!writer.bye(&[1; 32]));
    assert!(!writer.sdes_cname(1, &"x".repeat(256)));
    assert!(!writer.nack(1, 2, []));
    assert!(writer.is_empty());
    assert!(writer.receiver_report(1, &[BLOCK; 31]));
}

#[test]
fn every_truncation_is_survived() {
    let whole = compound();
    for len in 0..whole.len() {
        walk(&whole[..len]);
    }
}

/// Reads everything there is to read.
fn walk(bytes: &[u8]) -> usize {
    packets(bytes)
        .map(|packet| match packet {
            Rtcp::SenderReport { reports, .. } | Rtcp::ReceiverReport { reports, .. } => reports.count(),
            Rtcp::Sdes(chunks) => chunks.count(),
            Rtcp::Bye(ssrcs) | Rtcp::Remb { ssrcs, .. } => ssrcs.count(),
            Rtcp::Nack { lost, .. } => lost.count(),
            Rtcp::Fir { targets, .. } => targets.count(),
            Rtcp::TransportFeedback(feedback) => feedback.statuses().count(),
            Rtcp::Pli { .. } | Rtcp::Other { .. } | Rtcp::Malformed { .. } => 1,
        })
        .sum()
}

proptest! {
    #[test]
    fn any_bytes_are_walked_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        walk(&bytes);
    }

    #[test]
    fn any_body_of_any_type_is_walked_without_panic(
        packet_type in 200u8..=207, first in any::<u8>(), body in proptest::collection::vec(any::<u32>(), 0..40)
    ) {
        let mut bytes = vec![first & 0x3f | 0x80, packet_type, 0, body.len() as u8];
        bytes.extend(body.iter().flat_map(|word| word.to_be_bytes()));
        walk(&bytes);
    }

    #[test]
    fn any_set_of_lost_packets_comes_back(lost in proptest::collection::btree_set(any::<u16>(), 1..60)) {
        let mut out = [0; 400];
        let mut writer = RtcpWriter::new(&mut out);
        prop_assert!(writer.nack(1, 2, lost.iter().copied()));
        let len = writer.finish();
        let Some(Rtcp::Nack { lost: read, .. }) = packets(&out[..len]).next() else { panic!() };
        prop_assert_eq!(read.collect::<Vec<_>>(), lost.into_iter().collect::<Vec<_>>());
    }
}
