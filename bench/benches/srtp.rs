//! Sealing and opening one SRTP packet: ours, an independent implementation, and the raw cipher, which is the floor.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark stops at its own mistakes")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use auralink_rtc::rtp::{RtpFields, RtpHeader, write_header};
use auralink_rtc::srtp::{Profile, Side, SrtpOpen, SrtpSeal, contexts};
use auralink_rtc::units::SeqNo;
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;

const PROFILES: [(Profile, ProtectionProfile, &str); 3] = [
    (Profile::AeadAes128Gcm, ProtectionProfile::AeadAes128Gcm, "AEAD_AES_128_GCM"),
    (Profile::AeadAes256Gcm, ProtectionProfile::AeadAes256Gcm, "AEAD_AES_256_GCM"),
    (Profile::Aes128CmSha1_80, ProtectionProfile::Aes128CmHmacSha1_80, "AES128_CM_SHA1_80"),
];
/// An Opus frame and a video packet.
const PAYLOADS: [usize; 2] = [160, 1_200];
const SSRC: u32 = 0x1020_3040;
/// Packets sealed before they are opened, outside of the time.
const BATCH: u64 = 512;

fn material(profile: Profile) -> Vec<u8> {
    (0..profile.material_len()).map(|i| (i * 7 + 3) as u8).collect()
}

fn pair(profile: Profile) -> (SrtpSeal, SrtpOpen) {
    let material = material(profile);
    let (seal, _) = contexts(profile, &material, Side::DtlsClient).unwrap();
    let (_, open) = contexts(profile, &material, Side::DtlsServer).unwrap();
    (seal, open)
}

/// The independent implementation under the key with which [`pair`] seals.
fn oracle(profile: Profile, theirs: ProtectionProfile) -> Context {
    let material = material(profile);
    let (key, salt) = (profile.key_len(), profile.salt_len());
    Context::new(&material[..key], &material[2 * key..2 * key + salt], theirs, None, None).unwrap()
}

/// A header as we send it: MID and transport-wide number.
fn header(out: &mut [u8], seq: u16) -> usize {
    let fields = RtpFields { marker: false, padding: false, pt: 96, seq, timestamp: 9, ssrc: SSRC };
    write_header(out, &fields, &[(1, b"v0"), (5, &[1, 2])]).unwrap()
}

fn set_seq(packet: &mut [u8], seq: u64) {
    packet[2..4].copy_from_slice(&(seq as u16).to_be_bytes());
}

fn plain(payload_len: usize) -> (Vec<u8>, usize) {
    let mut packet = vec![0; 64];
    let header_len = header(&mut packet, 0);
    packet.truncate(header_len);
    packet.extend((0..payload_len).map(|i| i as u8));
    (packet, header_len)
}

fn seal(c: &mut Criterion) {
    for (profile, theirs, name) in PROFILES {
        let mut group = c.benchmark_group(format!("srtp/seal/{name}"));
        for payload_len in PAYLOADS {
            group.throughput(Throughput::Bytes(payload_len as u64));
            seal_ours(&mut group, profile, payload_len);
            let (packet, _) = plain(payload_len);
            let mut context = oracle(profile, theirs);
            let (mut packet, mut seq) = (packet, 0);
            group.bench_function(format!("webrtc-srtp/{payload_len}"), |b| {
                b.iter(|| {
                    seq += 1;
                    set_seq(&mut packet, seq);
                    context.encrypt_rtp(black_box(&packet)).unwrap()
                });
            });
            raw_seal(&mut group, profile, payload_len);
        }
    }
}

fn seal_ours(group: &mut BenchmarkGroup<'_, WallTime>, profile: Profile, payload_len: usize) {
    let (packet, header_len) = plain(payload_len);
    let (mut seal, _) = pair(profile);
    let stream = seal.stream(SSRC).unwrap();
    let mut place = packet.clone();
    place.resize(packet.len() + seal.overhead_rtp(), 0);
    let mut seq = SeqNo::first(0);
    group.bench_function(format!("auralink/{payload_len}"), |b| {
        b.iter(|| {
            seq.0 += 1;
            set_seq(&mut place, seq.0);
            seal.seal_rtp(stream, seq, header_len, black_box(&packet[header_len..]), &mut place).unwrap();
        });
    });
}

/// The cipher alone; there is none for the profile of two passes.
fn raw_key(profile: Profile) -> Option<LessSafeKey> {
    let algorithm = match profile {
        Profile::AeadAes128Gcm => &AES_128_GCM,
        Profile::AeadAes256Gcm => &AES_256_GCM,
        Profile::Aes128CmSha1_80 => return None,
    };
    Some(LessSafeKey::new(UnboundKey::new(algorithm, &material(profile)[..profile.key_len()]).unwrap()))
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn raw_seal(group: &mut BenchmarkGroup<'_, WallTime>, profile: Profile, payload_len: usize) {
    let Some(key) = raw_key(profile) else { return };
    let (packet, header_len) = plain(payload_len);
    let (head, payload) = packet.split_at(header_len);
    let (mut out, mut tag, mut number) = (vec![0; payload_len], [0; 16], 0);
    group.bench_function(format!("raw/{payload_len}"), |b| {
        b.iter(|| {
            number += 1;
            let aad = Aad::from(head);
            key.seal_out_of_place_scatter(nonce(number), aad, black_box(payload), &mut out, &[], &mut tag)
                .unwrap();
        });
    });
}

/// Each packet can be opened once only, so batches are sealed outside of the time.
fn timed_batches(
    iterations: u64,
    mut seal: impl FnMut(u64) -> Vec<u8>,
    mut open: impl FnMut(&[u8]),
) -> Duration {
    let mut spent = Duration::ZERO;
    let mut done = 0;
    while done < iterations {
        let batch: Vec<Vec<u8>> = (0..BATCH.min(iterations - done)).map(|_| seal(1)).collect();
        done += batch.len() as u64;
        let start = Instant::now();
        batch.iter().for_each(|packet| open(packet));
        spent += start.elapsed();
    }
    spent
}

fn open(c: &mut Criterion) {
    for (profile, theirs, name) in PROFILES {
        let mut group = c.benchmark_group(format!("srtp/open/{name}"));
        for payload_len in PAYLOADS {
            group.throughput(Throughput::Bytes(payload_len as u64));
            let (packet, header_len) = plain(payload_len);
            let (mut seal, mut open) = pair(profile);
            let stream = seal.stream(SSRC).unwrap();
            let mut seq = SeqNo::first(0);
            let mut sealed = |step: u64| {
                seq.0 += step;
                let mut place = packet.clone();
                set_seq(&mut place, seq.0);
                place.resize(packet.len() + seal.overhead_rtp(), 0);
                seal.seal_rtp(stream, seq, header_len, &packet[header_len..], &mut place).unwrap();
                place
            };
            let mut out = vec![0; payload_len + 64];
            group.bench_function(format!("auralink/{payload_len}"), |b| {
                b.iter_custom(|iterations| {
                    timed_batches(iterations, &mut sealed, |packet| {
                        let header = RtpHeader::parse(packet).unwrap();
                        black_box(open.open_rtp(&header, packet, &mut out).unwrap());
                    })
                });
            });
            let (mut sealing, mut opening) = (oracle(profile, theirs), oracle(profile, theirs));
            let (mut packet, mut seq) = (plain(payload_len).0, 0);
            group.bench_function(format!("webrtc-srtp/{payload_len}"), |b| {
                b.iter_custom(|iterations| {
                    let sealed = |step| {
                        seq += step;
                        set_seq(&mut packet, seq);
                        sealing.encrypt_rtp(&packet).unwrap().to_vec()
                    };
                    timed_batches(iterations, sealed, |packet| {
                        black_box(opening.decrypt_rtp(packet).unwrap());
                    })
                });
            });
            raw_open(&mut group, profile, payload_len);
        }
    }
}

fn raw_open(group: &mut BenchmarkGroup<'_, WallTime>, profile: Profile, payload_len: usize) {
    let Some(key) = raw_key(profile) else { return };
    let (packet, header_len) = plain(payload_len);
    let (head, payload) = packet.split_at(header_len);
    let (mut sealed, mut tag, mut out) = (vec![0; payload_len], [0; 16], vec![0; payload_len]);
    key.seal_out_of_place_scatter(nonce(1), Aad::from(head), payload, &mut sealed, &[], &mut tag).unwrap();
    group.bench_function(format!("raw/{payload_len}"), |b| {
        b.iter(|| {
            key.open_separate_gather(nonce(1), Aad::from(head), black_box(&sealed), &tag, &mut out).unwrap();
        });
    });
}

criterion_group!(benches, seal, open);
criterion_main!(benches);
