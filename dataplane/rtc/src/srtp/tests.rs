//! SRTP against published vectors, an independent implementation, and an attacker.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, LessSafeKey, UnboundKey};
use proptest::prelude::*;
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;

use super::cipher::{Cipher, Message};
use super::*;
use crate::rtp::{FIXED_HEADER_LEN, RtpFields, RtpHeader, write_header};
use crate::units::SeqNo;

pub(super) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

const PROFILES: [Profile; 3] = [Profile::AeadAes256Gcm, Profile::AeadAes128Gcm, Profile::Aes128CmSha1_80];
const SSRC: u32 = 0x1020_3040;

fn material(profile: Profile) -> Vec<u8> {
    (0..profile.material_len()).map(|i| (i * 7 + 3) as u8).collect()
}

fn pair(profile: Profile) -> (SrtpSeal, SrtpOpen) {
    let material = material(profile);
    let (seal, _) = contexts(profile, &material, Side::DtlsClient).unwrap();
    let (_, open) = contexts(profile, &material, Side::DtlsServer).unwrap();
    (seal, open)
}

/// The independent implementation with the key that [`pair`]'s seal has, fresh for each direction.
fn oracle(profile: Profile) -> Context {
    let material = material(profile);
    let (key, salt) = (profile.key_len(), profile.salt_len());
    let theirs = match profile {
        Profile::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
        Profile::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
        Profile::Aes128CmSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
    };
    Context::new(&material[..key], &material[2 * key..2 * key + salt], theirs, None, None).unwrap()
}

fn header(seq: u16) -> Vec<u8> {
    let fields = RtpFields { marker: false, padding: false, pt: 96, seq, timestamp: 9, ssrc: SSRC };
    let mut out = [0; 64];
    let len = write_header(&mut out, &fields, &[(1, &[1, 2, 3])]).unwrap();
    out[..len].to_vec()
}

fn sealed(seal: &mut SrtpSeal, stream: SealStream, seq: SeqNo, payload: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut place = header(seq.wire());
    let header_len = place.len();
    place.resize(header_len + payload.len() + seal.overhead_rtp(), 0);
    seal.seal_rtp(stream, seq, header_len, payload, &mut place)?;
    Ok(place)
}

fn opened(open: &mut SrtpOpen, datagram: &[u8]) -> Result<(SeqNo, Vec<u8>), SrtpError> {
    let header = RtpHeader::parse(datagram).unwrap();
    let mut out = vec![0; datagram.len()];
    let (seq, len) = open.open_rtp(&header, datagram, &mut out)?;
    out.truncate(len);
    Ok((seq, out))
}

fn gcm(key: &[u8]) -> Cipher {
    let algorithm = if key.len() == 32 { &AES_256_GCM } else { &AES_128_GCM };
    let key = LessSafeKey::new(UnboundKey::new(algorithm, key).unwrap());
    Cipher::Gcm { key, salt: hex("517569642070726f2071756f").try_into().unwrap() }
}

#[test]
fn rfc_7714_section_16_srtp_vectors_are_met() {
    let header = hex("8040f17b8041f8d35501a0b2");
    let payload = b"Gallia est omnis divisa in partes tres";
    let message =
        Message { ssrc: 0x5501_a0b2, index: 0xf17b, header: &header, trailer: [0; 4], aad: &header };
    let long: Vec<u8> = (0..32).collect();
    let cases = [
        (
            &long[..16],
            "f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833899d7f27beb16a9152cf765ee4390cce",
        ),
        (
            &long[..],
            "32b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b7aa3db36dfffd6b0f9bb7878d7a76c13",
        ),
    ];
    for (key, expected) in cases {
        let (mut out, mut tag) = (vec![0; payload.len()], [0; 16]);
        gcm(key).seal(&message, payload, &mut out, &mut tag).unwrap();
        assert_eq!([&out[..], &tag].concat(), hex(expected));
        let mut back = vec![0; payload.len()];
        gcm(key).open(&message, &out, &tag, &mut back).unwrap();
        assert_eq!(back, payload);
    }
}

#[test]
fn rfc_7714_section_17_srtcp_vector_is_met() {
    let packet = hex(
        "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61deadbeefdeadbeefdeadbeefdeadbeefdeadbeef",
    );
    let expected = hex(
        "81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda4ce09b4686303ded0bb9275bc84aa45896cf4d2fc5abf87245d9eade800005d4",
    );
    let key: Vec<u8> = (0..16).collect();
    let trailer: [u8; 4] = hex("800005d4").try_into().unwrap();
    let aad = [&packet[..8], &trailer[..]].concat();
    let message = Message { ssrc: 0x4d61_7273, index: 0x5d4, header: &packet[..8], trailer, aad: &aad };
    let (mut out, mut tag) = (vec![0; packet.len() - 8], [0; 16]);
    gcm(&key).seal(&message, &packet[8..], &mut out, &mut tag).unwrap();
    assert_eq!([&packet[..8], &out, &tag, &trailer].concat(), expected);
}

#[test]
fn another_implementation_opens_what_we_seal_over_two_wraps() {
    for profile in PROFILES {
        let (mut seal, _) = pair(profile);
        let mut oracle = oracle(profile);
        let stream = seal.stream(SSRC).unwrap();
        let mut seq = SeqNo::first(30_000);
        while seq < SeqNo(0x1_0000 + 2 * 0x1_0000 + 50) {
            let payload = vec![seq.0 as u8; 40];
            let datagram = sealed(&mut seal, stream, seq, &payload).unwrap();
            let plain = oracle.decrypt_rtp(&datagram).unwrap();
            assert_eq!(plain[plain.len() - 40..], payload, "{profile:?} {seq:?}");
            seq.0 += 977;
        }
    }
}

#[test]
fn we_open_what_another_implementation_seals_over_two_wraps() {
    for profile in PROFILES {
        let (_, mut open) = pair(profile);
        let mut oracle = oracle(profile);
        let mut seq = SeqNo::first(30_000);
        while seq < SeqNo(0x1_0000 + 2 * 0x1_0000 + 50) {
            let payload = vec![seq.0 as u8; 40];
            let datagram = oracle.encrypt_rtp(&[header(seq.wire()), payload.clone()].concat()).unwrap();
            assert_eq!(opened(&mut open, &datagram), Ok((seq, payload)), "{profile:?}");
            seq.0 += 977;
        }
    }
}

#[test]
fn rtcp_crosses_with_another_implementation() {
    let mut compound = hex("81c8000d4d617273");
    compound.extend((0..48).map(|i| i as u8));
    for profile in PROFILES {
        let (mut seal, mut open) = pair(profile);
        let mut oracle = oracle(profile);
        let mut place = [0; 200];
        for _ in 0..3 {
            let len = seal.seal_rtcp(&compound, &mut place).unwrap();
            assert_eq!(len, compound.len() + seal.overhead_rtcp());
            assert_eq!(oracle.decrypt_rtcp(&place[..len]).unwrap(), compound, "{profile:?}");
            let theirs = oracle.encrypt_rtcp(&compound).unwrap();
            let len = open.open_rtcp(&theirs, &mut place).unwrap();
            assert_eq!(place[..len], compound, "{profile:?}");
            assert_eq!(open.open_rtcp(&theirs, &mut place), Err(SrtpError::Replayed));
        }
    }
}

#[test]
fn in_place_and_out_of_place_give_the_same_bytes() {
    for profile in PROFILES {
        let (mut a, _) = pair(profile);
        let (mut b, _) = pair(profile);
        let (sa, sb) = (a.stream(SSRC).unwrap(), b.stream(SSRC).unwrap());
        let seq = SeqNo::first(7);
        let outside = sealed(&mut a, sa, seq, b"the same payload").unwrap();
        let mut inside = header(7);
        let header_len = inside.len();
        inside.extend(b"the same payload");
        inside.resize(inside.len() + b.overhead_rtp(), 0);
        b.seal_rtp_in_place(sb, seq, header_len, &mut inside).unwrap();
        assert_eq!(outside, inside);
    }
}

#[test]
fn reordering_is_followed_and_every_packet_opens_once() {
    for profile in PROFILES {
        let (mut seal, mut open) = pair(profile);
        let stream = seal.stream(SSRC).unwrap();
        let start = SeqNo::first(65_500);
        let datagrams: Vec<_> =
            (0..100).map(|i| sealed(&mut seal, stream, SeqNo(start.0 + i), &[i as u8; 9]).unwrap()).collect();
        // Starts at 65,505 and walks the wrap in pairs swapped.
        let order: Vec<_> = (0..100u64).map(|i| i ^ 5).filter(|i| *i < 100).collect();
        for &i in &order {
            let result = opened(&mut open, &datagrams[i as usize]).unwrap();
            assert_eq!(result, (SeqNo(start.0 + i), vec![i as u8; 9]));
        }
        for &i in &order {
            assert_eq!(opened(&mut open, &datagrams[i as usize]), Err(SrtpError::Replayed));
        }
    }
}

#[test]
fn packets_from_before_the_first_open_too() {
    let (mut seal, mut open) = pair(Profile::AeadAes128Gcm);
    let stream = seal.stream(SSRC).unwrap();
    let early = sealed(&mut seal, stream, SeqNo::first(90), b"early").unwrap();
    let first = sealed(&mut seal, stream, SeqNo::first(100), b"first").unwrap();
    assert_eq!(opened(&mut open, &first).unwrap().0, SeqNo::first(100));
    assert_eq!(opened(&mut open, &early).unwrap().0, SeqNo::first(90));
}

#[test]
fn a_stream_whose_start_before_the_wrap_was_lost_still_opens() {
    for profile in PROFILES {
        let (mut seal, mut open) = pair(profile);
        let stream = seal.stream(SSRC).unwrap();
        let start = SeqNo::first(65_530);
        let datagrams: Vec<_> =
            (0..20).map(|i| sealed(&mut seal, stream, SeqNo(start.0 + i), b"x").unwrap()).collect();
        assert_eq!(opened(&mut open, &datagrams[10]).unwrap().0, SeqNo(start.0 + 10));
        assert_eq!(opened(&mut open, &datagrams[2]).unwrap().0, SeqNo(start.0 + 2));
    }
}

#[test]
fn a_streams_own_cycle_does_not_reach_the_wire() {
    let (mut seal, mut open) = pair(Profile::AeadAes128Gcm);
    let stream = seal.stream(SSRC).unwrap();
    let datagram = sealed(&mut seal, stream, SeqNo(9 * 0x1_0000 + 40_000), b"late joiner").unwrap();
    assert_eq!(opened(&mut open, &datagram).unwrap().0, SeqNo::first(40_000));
}

#[test]
fn no_index_seals_twice() {
    let (mut seal, _) = pair(Profile::AeadAes128Gcm);
    let stream = seal.stream(SSRC).unwrap();
    assert_eq!(seal.stream(SSRC), Err(SealError::SsrcReused));
    sealed(&mut seal, stream, SeqNo(70_000), b"one").unwrap();
    for again in [70_000, 65_536, 0] {
        assert_eq!(sealed(&mut seal, stream, SeqNo(again), b"two"), Err(SealError::IndexReused));
    }
    sealed(&mut seal, stream, SeqNo(70_005), b"gap").unwrap();
    // A late packet takes the index left for it, once.
    sealed(&mut seal, stream, SeqNo(70_003), b"late").unwrap();
    for again in [70_003, 70_005, 70_005 - 1_024] {
        assert_eq!(sealed(&mut seal, stream, SeqNo(again), b"again"), Err(SealError::IndexReused));
    }
    assert_eq!(sealed(&mut seal, stream, SeqNo(70_005 + 0x8000), b"x"), Err(SealError::GapTooLarge));
    sealed(&mut seal, stream, SeqNo(70_006), b"next").unwrap();
}

#[test]
fn a_header_that_is_not_the_streams_is_not_sealed() {
    let (mut seal, _) = pair(Profile::AeadAes128Gcm);
    let stream = seal.stream(SSRC).unwrap();
    let (mut other, _) = pair(Profile::AeadAes128Gcm);
    let [_, foreign] = [1, 2].map(|ssrc| other.stream(ssrc).unwrap());
    let mut place = header(7);
    let len = place.len();
    place.resize(len + 16, 0);
    assert_eq!(seal.seal_rtp(stream, SeqNo::first(8), len, &[], &mut place), Err(SealError::HeaderMismatch));
    assert_eq!(seal.seal_rtp(stream, SeqNo::first(7), len, b"x", &mut place), Err(SealError::Length));
    place[11] ^= 1;
    assert_eq!(seal.seal_rtp(stream, SeqNo::first(7), len, &[], &mut place), Err(SealError::HeaderMismatch));
    assert_eq!(seal.seal_rtp(foreign, SeqNo::first(7), len, &[], &mut place), Err(SealError::UnknownStream));
}

#[test]
fn streams_are_bounded_on_both_sides() {
    let material = material(Profile::AeadAes128Gcm);
    let (key, salt) = (&material[..16], &material[32..44]);
    let mut seal = SrtpSeal::new(Profile::AeadAes128Gcm, key, salt, 33).unwrap();
    let mut open = SrtpOpen::new(Profile::AeadAes128Gcm, key, salt, 2).unwrap();
    let write = |seal: &mut SrtpSeal, stream, ssrc, seq: u16| {
        let mut place = [0; FIXED_HEADER_LEN + 16];
        write_header(&mut place, &RtpFields { seq, ssrc, ..RtpFields::default() }, &[]).unwrap();
        seal.seal_rtp(stream, SeqNo::first(seq), FIXED_HEADER_LEN, &[], &mut place).map(|()| place)
    };
    let streams: Vec<_> = (0..33).map(|ssrc| seal.stream(ssrc * 7 % 33).unwrap()).collect();
    assert_eq!(seal.stream(99), Err(SealError::StreamsExhausted));
    let mut round = |seq| -> Vec<_> {
        let packets = (0..33).map(|i| write(&mut seal, streams[i as usize], i * 7 % 33, seq).unwrap());
        packets.collect()
    };
    let (first, second, third) = (round(1), round(2), round(3));
    for packet in &first[..32] {
        assert!(opened(&mut open, packet).is_ok());
    }
    assert_eq!(opened(&mut open, &first[32]), Err(SrtpError::StreamsExhausted));
    for packet in &first[..32] {
        assert_eq!(opened(&mut open, packet), Err(SrtpError::Replayed));
    }
    // A source that made place for others comes back, but not behind what it had sent.
    assert!(opened(&mut open, &third[0]).is_ok());
    assert!(opened(&mut open, &second[0]).is_ok(), "followed closely again");
    assert!(opened(&mut open, &third[1]).is_ok() && opened(&mut open, &third[2]).is_ok());
    assert_eq!(opened(&mut open, &second[0]), Err(SrtpError::Replayed));
    assert_eq!(opened(&mut open, &third[0]), Err(SrtpError::Replayed));
}

#[test]
fn forged_packets_leave_no_state() {
    for profile in PROFILES {
        let (mut seal, mut open) = pair(profile);
        for ssrc in 0..1_000u32 {
            let mut forged = header(1);
            forged[8..12].copy_from_slice(&ssrc.to_be_bytes());
            forged.extend([0; 60]);
            assert_eq!(opened(&mut open, &forged), Err(SrtpError::Authentication));
            assert_eq!(open.open_rtcp(&forged, &mut [0; 100]), Err(SrtpError::Unencrypted));
            let at = forged.len() - if profile == Profile::Aes128CmSha1_80 { 14 } else { 4 };
            forged[at] = 0x80;
            assert_eq!(open.open_rtcp(&forged, &mut [0; 100]), Err(SrtpError::Authentication));
        }
        assert_eq!(open.sources_len(), 0);
        // A forged far jump must not move the roll-over counter of a live stream either.
        let stream = seal.stream(SSRC).unwrap();
        let first = sealed(&mut seal, stream, SeqNo::first(65_000), b"a").unwrap();
        opened(&mut open, &first).unwrap();
        let mut forged = header(20_000);
        forged.extend([0; 60]);
        assert_eq!(opened(&mut open, &forged), Err(SrtpError::Authentication));
        let next = sealed(&mut seal, stream, SeqNo::first(65_001), b"b").unwrap();
        assert_eq!(opened(&mut open, &next).unwrap().0, SeqNo::first(65_001));
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    for profile in PROFILES {
        let (mut seal, mut open) = pair(profile);
        let stream = seal.stream(SSRC).unwrap();
        let datagram = sealed(&mut seal, stream, SeqNo::first(5), b"payload").unwrap();
        for at in 0..datagram.len() * 8 {
            let mut tampered = datagram.clone();
            tampered[at / 8] ^= 1 << (at % 8);
            if RtpHeader::parse(&tampered).is_some() {
                let error = opened(&mut open, &tampered).unwrap_err();
                assert!(matches!(error, SrtpError::Authentication | SrtpError::TooShort), "bit {at}");
            }
        }
        assert!(opened(&mut open, &datagram).is_ok());
    }
}

#[test]
fn every_short_length_is_refused_without_panic() {
    for profile in PROFILES {
        let (_, mut open) = pair(profile);
        for len in 0..=64 {
            let mut datagram = vec![0x80; len];
            if let Some(header) = RtpHeader::parse(&datagram) {
                assert!(open.open_rtp(&header, &datagram, &mut [0; 64]).is_err());
            }
            assert!(open.open_rtcp(&datagram, &mut [0; 64]).is_err());
            datagram.fill(0xff);
            assert!(open.open_rtcp(&datagram, &mut [0; 64]).is_err());
            let claimed = RtpHeader { len: 100, ..RtpHeader::parse(&header(1)).unwrap() };
            assert_eq!(open.open_rtp(&claimed, &datagram, &mut [0; 64]), Err(SrtpError::TooShort));
        }
    }
}

#[test]
fn every_payload_length_survives_the_round_trip() {
    for profile in PROFILES {
        let (mut seal, mut open) = pair(profile);
        let stream = seal.stream(SSRC).unwrap();
        for len in 0..=64u64 {
            let payload = vec![0x5a; len as usize];
            let datagram = sealed(&mut seal, stream, SeqNo(SeqNo::first(1).0 + len), &payload).unwrap();
            assert_eq!(opened(&mut open, &datagram).unwrap().1, payload);
        }
        let (mut seal, mut open) = pair(profile);
        for len in 8..=64 {
            let mut place = [0; 128];
            let sealed = seal.seal_rtcp(&vec![0x80; len], &mut place).unwrap();
            let mut out = [0; 128];
            assert_eq!(open.open_rtcp(&place[..sealed], &mut out), Ok(len));
            assert_eq!(out[..len], vec![0x80; len]);
        }
        assert_eq!(seal.seal_rtcp(&[0; 7], &mut [0; 64]), Err(SealError::Length));
        assert_eq!(seal.seal_rtcp(&[0; 8], &mut [0; 20]), Err(SealError::Length));
    }
}

#[test]
fn material_of_the_wrong_length_makes_no_contexts() {
    assert!(contexts(Profile::AeadAes256Gcm, &[0; 56], Side::DtlsClient).is_err());
    assert!(contexts(Profile::AeadAes128Gcm, &[], Side::DtlsServer).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        for profile in PROFILES {
            let (_, mut open) = pair(profile);
            let mut out = [0; 120];
            prop_assert!(open.open_rtcp(&bytes, &mut out).is_err());
            if let Some(header) = RtpHeader::parse(&bytes) {
                prop_assert!(open.open_rtp(&header, &bytes, &mut out).is_err());
            }
        }
    }
}
