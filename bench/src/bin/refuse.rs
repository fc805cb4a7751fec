//! Refuses a message whose tag is wrong in one place: `refuse stun|srtcp BYTE`. The measured program of `gates refusal`.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a command-line tool")]

use std::hint::black_box;
use std::net::SocketAddr;

use auralink_rtc::rtcp::RtcpWriter;
use auralink_rtc::srtp::{Profile, Side, SrtpError, contexts};
use auralink_rtc::stun::{Binding, RESPONSE_LEN_MAX, write_success};

/// Refusals measured.
const TIMES: usize = 100;
const PASSWORD: &str = "a password of a peer";
/// Octets of FINGERPRINT, behind the tag, and of the tag (RFC 8489 §14.5, §14.7).
const FINGERPRINT_LEN: usize = 8;
const INTEGRITY_LEN: usize = 20;

/// Callgrind collects while this runs and only then.
#[inline(never)]
fn collected(work: &mut dyn FnMut()) {
    work();
    black_box(());
}

fn stun(wrong: usize) {
    let mut bytes = [0; RESPONSE_LEN_MAX];
    let mapped = SocketAddr::from(([203, 0, 113, 7], 7_882));
    let len = write_success(&mut bytes, [7; 12], mapped, PASSWORD);
    let verifies = |bytes: &[u8]| Binding::parse(bytes).unwrap().verify(PASSWORD);
    assert!(verifies(&bytes[..len]), "the right tag is accepted");
    bytes[len - FINGERPRINT_LEN - INTEGRITY_LEN + wrong] ^= 0x55;
    let mut accepted = 0;
    collected(&mut || accepted = (0..TIMES).filter(|_| verifies(black_box(&bytes[..len]))).count());
    assert_eq!(accepted, 0, "the wrong tag is refused");
}

fn srtcp(wrong: usize) {
    let profile = Profile::Aes128CmSha1_80;
    let material = vec![7; profile.material_len()];
    let (mut seal, _) = contexts(profile, &material, Side::DtlsClient).unwrap();
    let (_, mut open) = contexts(profile, &material, Side::DtlsServer).unwrap();
    let mut compound = [0; 64];
    let mut writer = RtcpWriter::new(&mut compound);
    assert!(writer.receiver_report(1, &[]) && writer.sdes_cname(1, "bench"));
    let len = writer.finish();
    let (mut sealed, mut out) = ([0; 128], [0; 128]);
    let room = len + seal.overhead_rtcp();
    let mut seal_next = |sealed: &mut [u8]| seal.seal_rtcp(&compound[..len], &mut sealed[..room]).unwrap();
    // The first makes the source known; the second is the one that is spoilt.
    let first_len = seal_next(&mut sealed);
    open.open_rtcp(&sealed[..first_len], &mut out).unwrap();
    let sealed_len = seal_next(&mut sealed);
    sealed[sealed_len - profile.tag_len() + wrong] ^= 0x55;
    // For its tag, and not for anything that is looked at before: a number seen already, say.
    let mut refuse = || open.open_rtcp(black_box(&sealed[..sealed_len]), &mut out);
    let mut refused = 0;
    collected(&mut || refused = (0..TIMES).filter(|_| refuse() == Err(SrtpError::Authentication)).count());
    assert_eq!(refused, TIMES, "the wrong tag is refused");
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wrong = arguments.get(1).and_then(|argument| argument.parse().ok());
    match (arguments.first().map(String::as_str), wrong) {
        (Some("stun"), Some(wrong)) if wrong < INTEGRITY_LEN => stun(wrong),
        (Some("srtcp"), Some(wrong)) if wrong < Profile::Aes128CmSha1_80.tag_len() => srtcp(wrong),
        _ => panic!("usage: refuse stun|srtcp BYTE"),
    }
}
