//! Feedback against golden bytes, an independent implementation, and damage.

use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use rtcp::packet::{marshal, unmarshal};
use rtcp::transport_feedbacks::transport_layer_cc::{
    PacketStatusChunk, RecvDelta, RunLengthChunk, StatusChunkTypeTcc, StatusVectorChunk, SymbolSizeTypeTcc,
    SymbolTypeTcc, TransportLayerCc,
};

use super::*;
use crate::rtcp::{Rtcp, RtcpWriter, packets};

fn feedbacks(recorder: &mut TwccRecorder, room: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while recorder.is_pending() {
        let mut out = vec![0; room];
        let mut writer = RtcpWriter::new(&mut out);
        assert!(recorder.write_feedback(1, 2, &mut writer));
        let len = writer.finish();
        assert_eq!(len % 4, 0);
        all.push(out[..len].to_vec());
    }
    all
}

/// `(number, absolute µs of the receiver's clock)` of every packet spoken of.
fn read(bytes: &[u8]) -> Vec<(u16, Option<i64>)> {
    let Some(Rtcp::TransportFeedback(feedback)) = packets(bytes).next() else { panic!("no feedback") };
    let mut clock = feedback.reference_us();
    feedback
        .statuses()
        .map(|(seq, delta)| {
            (
                seq,
                delta.map(|delta| {
                    clock += i64::from(delta);
                    clock
                }),
            )
        })
        .collect()
}

#[test]
fn golden_bytes_of_a_small_feedback() {
    let epoch = Instant::now();
    let mut recorder = TwccRecorder::new();
    for (seq, ms) in [(10, 0), (11, 1), (13, 101)] {
        recorder.record(seq, epoch + Duration::from_millis(ms));
    }
    let all = feedbacks(&mut recorder, 100);
    let golden = [
        0x8f, 205, 0, 6, 0, 0, 0, 1, 0, 0, 0, 2, // header, sender, media
        0, 10, 0, 4, 0, 0, 0, 0, // base, count, reference, feedback count
        0xd4, 0x80, // two-bit vector: small, small, missing, large
        0, 4, 1, 0x90, 0, 0, // deltas 0, 4, 400 ticks; padding
    ];
    assert_eq!(all, [golden]);
}

#[test]
fn a_quiet_recorder_writes_nothing() {
    let mut recorder = TwccRecorder::new();
    let mut out = [0; 100];
    assert!(!recorder.write_feedback(1, 2, &mut RtcpWriter::new(&mut out)));
    recorder.record(1, Instant::now());
    assert!(!recorder.write_feedback(1, 2, &mut RtcpWriter::new(&mut out[..23])));
    assert!(recorder.write_feedback(1, 2, &mut RtcpWriter::new(&mut out)));
    assert!(!recorder.is_pending());
}

#[test]
fn a_packet_reported_missing_is_reported_again_when_it_comes() {
    let epoch = Instant::now();
    let mut recorder = TwccRecorder::new();
    recorder.record(65_535, epoch);
    recorder.record(1, epoch + Duration::from_millis(1));
    let first = feedbacks(&mut recorder, 100);
    assert_eq!(read(&first[0]), [(65_535, Some(0)), (0, None), (1, Some(1_000))]);
    recorder.record(0, epoch + Duration::from_millis(2));
    let second = feedbacks(&mut recorder, 100);
    assert_eq!(read(&second[0]), [(0, Some(2_000)), (1, Some(1_000))]);
}

#[test]
fn what_one_message_cannot_hold_follows_in_the_next() {
    let epoch = Instant::now();
    let mut recorder = TwccRecorder::new();
    for seq in 0..600u16 {
        recorder.record(seq, epoch + Duration::from_micros(u64::from(seq) * 500));
    }
    let all = feedbacks(&mut recorder, 200);
    assert!(all.len() > 3);
    let said: Vec<_> = all.iter().flat_map(|bytes| read(bytes)).collect();
    let expected: Vec<_> = (0..600).map(|seq| (seq, Some(i64::from(seq) * 500))).collect();
    assert_eq!(said, expected);
}

#[test]
fn a_pause_no_delta_can_say_starts_another_message() {
    let epoch = Instant::now();
    let mut recorder = TwccRecorder::new();
    recorder.record(1, epoch);
    recorder.record(2, epoch + Duration::from_secs(60));
    let all = feedbacks(&mut recorder, 200);
    assert_eq!(read(&all[0]), [(1, Some(0))]);
    assert_eq!(read(&all[1]), [(2, Some(60_000_000))]);
}

#[test]
fn a_jump_forgets_what_is_too_old() {
    let epoch = Instant::now();
    let mut recorder = TwccRecorder::new();
    recorder.record(1, epoch);
    recorder.record(30_000, epoch);
    let said: Vec<_> = feedbacks(&mut recorder, 1_200).iter().flat_map(|bytes| read(bytes)).collect();
    assert_eq!(said.len(), 1_024);
    assert_eq!(said.iter().filter(|(_, arrival)| arrival.is_some()).count(), 1);
    recorder.record(1, epoch);
    assert!(!recorder.is_pending());
}

#[test]
fn we_read_what_another_implementation_writes() {
    use SymbolTypeTcc::*;
    let delta = |type_tcc_packet, delta| RecvDelta { type_tcc_packet, delta };
    let theirs = TransportLayerCc {
        sender_ssrc: 4,
        media_ssrc: 5,
        base_sequence_number: 65_530,
        packet_status_count: 4 + 7 + 14,
        reference_time: 3,
        fb_pkt_count: 9,
        packet_chunks: vec![
            PacketStatusChunk::RunLengthChunk(RunLengthChunk {
                type_tcc: StatusChunkTypeTcc::RunLengthChunk,
                packet_status_symbol: PacketReceivedSmallDelta,
                run_length: 4,
            }),
            PacketStatusChunk::StatusVectorChunk(StatusVectorChunk {
                type_tcc: StatusChunkTypeTcc::StatusVectorChunk,
                symbol_size: SymbolSizeTypeTcc::TwoBit,
                symbol_list: vec![
                    PacketReceivedLargeDelta,
                    PacketNotReceived,
                    PacketReceivedSmallDelta,
                    PacketNotReceived,
                    PacketNotReceived,
                    PacketNotReceived,
                    PacketReceivedLargeDelta,
                ],
            }),
            PacketStatusChunk::StatusVectorChunk(StatusVectorChunk {
                type_tcc: StatusChunkTypeTcc::StatusVectorChunk,
                symbol_size: SymbolSizeTypeTcc::OneBit,
                symbol_list: [vec![PacketNotReceived; 13], vec![PacketReceivedSmallDelta]].concat(),
            }),
        ],
        recv_deltas: vec![
            delta(PacketReceivedSmallDelta, 0),
            delta(PacketReceivedSmallDelta, 250),
            delta(PacketReceivedSmallDelta, 250),
            delta(PacketReceivedSmallDelta, 250),
            delta(PacketReceivedLargeDelta, -1_000),
            delta(PacketReceivedSmallDelta, 500),
            delta(PacketReceivedLargeDelta, 100_000),
            delta(PacketReceivedSmallDelta, 63_750),
        ],
    };
    let bytes = marshal(&[Box::new(theirs)]).unwrap();
    let Some(Rtcp::TransportFeedback(feedback)) = packets(&bytes).next() else { panic!() };
    assert_eq!((feedback.sender, feedback.media, feedback.feedback_count), (4, 5, 9));
    assert_eq!(feedback.reference_us(), 192_000);
    let received: Vec<_> =
        feedback.statuses().filter_map(|(seq, delta)| delta.map(|delta| (seq, delta))).collect();
    let expected = [
        (65_530, 0),
        (65_531, 250),
        (65_532, 250),
        (65_533, 250),
        (65_534, -1_000),
        (0, 500),
        (4, 100_000),
        (18, 63_750),
    ];
    assert_eq!(received, expected);
    assert_eq!(feedback.statuses().count(), 25);
}

#[test]
fn every_truncation_is_survived() {
    let epoch = Instant::now();
    let mut recorder = TwccRecorder::new();
    for seq in (0..200u16).step_by(3) {
        recorder.record(seq, epoch + Duration::from_millis(u64::from(seq) * 40));
    }
    let whole = feedbacks(&mut recorder, 1_200).remove(0);
    for len in 12..whole.len() {
        if let Some(feedback) = TransportFeedback::parse(1, 2, &whole[12..len]) {
            feedback.statuses().count();
        }
    }
}

#[test]
fn a_claim_of_more_packets_than_honest_feedback_has_is_refused() {
    let body = [0, 0, 0xff, 0xff, 0, 0, 0, 0, 0x1f, 0xff, 0x1f, 0xff, 0x1f, 0xff, 0x1f, 0xff];
    assert!(TransportFeedback::parse(1, 2, &body).is_none());
}

proptest! {
    #[test]
    fn any_arrivals_come_back_and_another_implementation_agrees(
        base in any::<u16>(),
        steps in proptest::collection::vec((1u16..20, 0u64..200_000), 1..300),
        room in 60usize..1_200,
    ) {
        let epoch = Instant::now();
        let (mut recorder, mut seq, mut micros) = (TwccRecorder::new(), base, 0);
        let mut expected = Vec::new();
        for (step, later) in steps {
            recorder.record(seq, epoch + Duration::from_micros(micros));
            expected.push((seq, micros as i64 / 250 * 250));
            seq = seq.wrapping_add(step);
            micros += later;
        }
        let first_kept = expected.len().saturating_sub(50);
        let all = feedbacks(&mut recorder, room);
        let mut said = Vec::new();
        for bytes in &all {
            let ours = read(bytes);
            let theirs = unmarshal(&mut Bytes::from(bytes.clone())).unwrap();
            let theirs = theirs[0].as_any().downcast_ref::<TransportLayerCc>().unwrap();
            prop_assert_eq!(usize::from(theirs.packet_status_count), ours.len());
            let mut clock = i64::from(theirs.reference_time) * 64_000;
            let clocks: Vec<_> = theirs.recv_deltas.iter().map(|d| { clock += d.delta; clock }).collect();
            let received: Vec<_> = ours.iter().filter_map(|(seq, at)| at.map(|at| (*seq, at))).collect();
            prop_assert_eq!(received.iter().map(|(_, at)| *at).collect::<Vec<_>>(), clocks);
            said.extend(received);
        }
        prop_assert!(said.ends_with(&expected[first_kept..]));
    }

    #[test]
    fn any_body_is_read_without_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Some(feedback) = TransportFeedback::parse(1, 2, &body) {
            prop_assert!(feedback.statuses().count() <= usize::from(feedback.status_count));
        }
    }
}
