//! The attacks, each with the reasons under which the server has to count what it dropped.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::net::UdpSocket;

use super::datagrams::{LEN_MAX, Likeness, binding_request, client_hello, garbage, sctp_packet};
use crate::client::Client;
use crate::publish::seal_rtcp;

/// Datagrams a second of the floods.
const FLOOD_RATE: u64 = 20_000;
/// Between two bursts of a flood.
const BURST_INTERVAL: Duration = Duration::from_millis(2);
/// Longest SCTP packet that fits one datagram of ours.
const SCTP_LEN_MAX: usize = 1_100;
/// How often one thing is repeated where the number does not matter.
const REPEATS: usize = 2_000;
/// Packets, and those sent without a pause, that exceed what one connection may send in a second.
const TORRENT: usize = 40_000;
const TORRENT_BURST: usize = 500;
/// A receiver report about nobody (RFC 3550 §6.4.2).
const EMPTY_REPORT: [u8; 8] = [0x80, 201, 0, 1, 0, 0, 0, 1];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    UnknownUfrag,
    WrongIntegrity,
    GarbageFlood,
    UnvalidatedDtls,
    ForeignMalformed,
    OwnMalformed,
    Replay,
    Forgery,
    MalformedRtcp,
    MalformedSctp,
    MalformedData,
    DataFlood,
    Torrent,
}

pub(super) struct Attack {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Reasons that must be counted.
    pub(super) drops: &'static [&'static str],
}

const fn attack(name: &'static str, kind: Kind, drops: &'static [&'static str]) -> Attack {
    Attack { name, kind, drops }
}

pub(super) const ALL: [Attack; 13] = [
    attack("unknown-ufrag flood", Kind::UnknownUfrag, &["unknown_ufrag"]),
    attack("checks with wrong integrity", Kind::WrongIntegrity, &["stun_refused"]),
    attack("garbage flood", Kind::GarbageFlood, &["unknown_tuple", "stun_refused"]),
    attack("DTLS from unvalidated address", Kind::UnvalidatedDtls, &["unknown_tuple"]),
    attack("every length, foreign", Kind::ForeignMalformed, &["unknown_tuple", "stun_refused"]),
    attack("replayed SRTP", Kind::Replay, &["replayed"]),
    attack("forged SRTP", Kind::Forgery, &["forged"]),
    attack("malformed RTCP in session", Kind::MalformedRtcp, &["malformed"]),
    // Refused inside of SCTP, uncounted.
    attack("malformed SCTP in session", Kind::MalformedSctp, &[]),
    attack("malformed data in session", Kind::MalformedData, &["data"]),
    attack("data flood", Kind::DataFlood, &["data"]),
    attack("more authentic packets than anybody needs", Kind::Torrent, &["over_limit"]),
    attack(
        "every length, own socket",
        Kind::OwnMalformed,
        // DTLS records that do not open are discarded inside of DTLS (RFC 6347 §4.1.2.7), uncounted.
        &["unclassified", "stun_refused", "forged", "malformed", "unknown_ssrc"],
    ),
];

/// Carries one attack out and says how many datagrams or messages it took.
pub(super) async fn run(kind: Kind, attacker: &mut Client) -> Result<u64> {
    let server = attacker.server;
    let ufrag = attacker.server_ice.ufrag.clone();
    let own = attacker.offer.ice.ufrag.clone();
    match kind {
        Kind::UnknownUfrag => {
            let make = move |n: u64| binding_request(&other_ufrag(&ufrag, n), "nobody");
            flood(attacker, server, Duration::from_secs(3), make).await
        }
        Kind::WrongIntegrity => {
            let socket = foreign().await?;
            paced(attacker, &socket, (0..REPEATS).map(|_| binding_request(&ufrag, &own))).await
        }
        Kind::GarbageFlood => {
            let make = |n: u64| {
                let likeness = Likeness::ALL.get(n as usize % Likeness::ALL.len());
                garbage(likeness.copied().unwrap_or(Likeness::Noise), 20 + (n as usize * 7) % 1_400)
            };
            flood(attacker, server, Duration::from_secs(5), make).await
        }
        Kind::UnvalidatedDtls => {
            let socket = foreign().await?;
            paced(attacker, &socket, (0..REPEATS).map(|_| client_hello())).await
        }
        Kind::ForeignMalformed => {
            let socket = foreign().await?;
            paced(attacker, &socket, every_length()).await
        }
        Kind::OwnMalformed => on_own_socket(attacker, every_length().collect()).await,
        Kind::Replay => {
            let sent: Vec<Vec<u8>> = attacker.sent.iter().cloned().collect();
            on_own_socket(attacker, sent.iter().cycle().take(REPEATS).cloned().collect()).await
        }
        Kind::Forgery => {
            let sent: Vec<Vec<u8>> = attacker.sent.iter().cloned().collect();
            let forged = sent.iter().cycle().take(REPEATS).enumerate().map(|(n, packet)| flip(packet, n));
            on_own_socket(attacker, forged.collect()).await
        }
        Kind::MalformedRtcp => {
            let compounds: Vec<Vec<u8>> = (8..1_100).map(malformed_compound).collect();
            let seal = attacker.peer.srtp_seal().context("attacker is not connected")?;
            let sealed = compounds.iter().filter_map(|compound| seal_rtcp(compound, seal)).collect();
            on_own_socket(attacker, sealed).await
        }
        Kind::MalformedSctp => send_sctp(attacker).await,
        Kind::MalformedData => send_data(attacker, Duration::from_secs(1), 200).await,
        Kind::DataFlood => send_data(attacker, Duration::from_secs(3), 15_000).await,
        Kind::Torrent => {
            let seal = attacker.peer.srtp_seal().context("attacker is not connected")?;
            let sealed = (0..TORRENT).filter_map(|_| seal_rtcp(&EMPTY_REPORT, seal)).collect();
            on_own_socket_in(TORRENT_BURST, attacker, sealed).await
        }
    }
}

/// A user fragment of the same form that names nobody, or for every other `n` of no form at all.
fn other_ufrag(ufrag: &str, n: u64) -> String {
    let (head, tail) = ufrag.split_at_checked(ufrag.len().saturating_sub(6)).unwrap_or((ufrag, ""));
    let first = if n.is_multiple_of(2) { b'a' } else { b'A' };
    let letters = (0..tail.len()).map(|place| char::from(first + (n >> (4 * place) & 0xf) as u8));
    head.chars().chain(letters).collect()
}

/// Reads as a compound by its length, and as nothing of any type.
fn malformed_compound(len: usize) -> Vec<u8> {
    let len = len.next_multiple_of(4);
    let mut compound = garbage(Likeness::Rtcp, len);
    let words = ((len / 4 - 1) as u16).to_be_bytes();
    // Every type we read, with a count or format the body cannot fill.
    let kinds = [(0x9f, 200), (0x9f, 201), (0x9f, 202), (0x81, 205), (0x8f, 205), (0x84, 206), (0x8f, 206)];
    let (first, packet_type) = kinds.get(len / 4 % kinds.len()).copied().unwrap_or((0x9f, 200));
    compound.iter_mut().zip([first, packet_type, words[0], words[1]]).for_each(|(place, byte)| *place = byte);
    compound
}

fn every_length() -> impl Iterator<Item = Vec<u8>> {
    (0..=LEN_MAX).flat_map(|len| Likeness::ALL.map(|likeness| garbage(likeness, len)))
}

/// The same packet under a number not used yet, with one bit changed behind the part that names its stream.
fn flip(packet: &[u8], n: usize) -> Vec<u8> {
    let mut forged = packet.to_vec();
    if let Some([_, _, number @ ..]) = forged.first_chunk_mut::<4>() {
        *number = u16::from_be_bytes(*number).wrapping_add(1_000 + n as u16).to_be_bytes();
    }
    let at = 12 + n % packet.len().saturating_sub(12).max(1);
    if let Some(byte) = forged.get_mut(at) {
        *byte ^= 1 << (n % 8);
    }
    forged
}

async fn foreign() -> Result<UdpSocket> {
    UdpSocket::bind("0.0.0.0:0").await.context("cannot bind")
}

/// Sends `make(0..)` at the flood's rate from a foreign socket, while the attacker lives on.
async fn flood(
    attacker: &mut Client,
    server: SocketAddr,
    time: Duration,
    make: impl Fn(u64) -> Vec<u8> + Send + 'static,
) -> Result<u64> {
    let socket = foreign().await?;
    let flooding = tokio::spawn(async move {
        let start = Instant::now();
        let mut sent = 0;
        while start.elapsed() < time {
            let due = start.elapsed().as_micros() as u64 * FLOOD_RATE / 1_000_000;
            while sent < due {
                // What our own kernel refuses was not sent; the rate is an upper bound.
                let _ = socket.try_send_to(&make(sent), server);
                sent += 1;
            }
            tokio::time::sleep(BURST_INTERVAL).await;
        }
        sent
    });
    attacker.run_until(Instant::now() + time).await?;
    flooding.await.context("the flood's task ended")
}

/// Sends from another socket, a few at a time, while the attacker lives on.
async fn paced(
    attacker: &mut Client,
    socket: &UdpSocket,
    datagrams: impl Iterator<Item = Vec<u8>>,
) -> Result<u64> {
    let mut sent = 0;
    for datagram in datagrams {
        let _ = socket.send_to(&datagram, attacker.server).await;
        sent += 1;
        if sent % 50 == 0 {
            attacker.run_until(Instant::now() + BURST_INTERVAL).await?;
        }
    }
    Ok(sent)
}

/// Sends from the attacker's own, validated socket.
async fn on_own_socket(attacker: &mut Client, datagrams: Vec<Vec<u8>>) -> Result<u64> {
    on_own_socket_in(50, attacker, datagrams).await
}

async fn on_own_socket_in(burst: usize, attacker: &mut Client, datagrams: Vec<Vec<u8>>) -> Result<u64> {
    let count = datagrams.len() as u64;
    for burst in datagrams.chunks(burst) {
        for datagram in burst {
            let _ = attacker.socket.send_to(datagram, attacker.server).await;
        }
        attacker.run_until(Instant::now() + BURST_INTERVAL).await?;
    }
    Ok(count)
}

/// Messages that are no data packets, as many as the channels take.
async fn send_data(attacker: &mut Client, time: Duration, len: usize) -> Result<u64> {
    let until = Instant::now() + time;
    let mut sent = 0;
    while Instant::now() < until && attacker.closed.is_none() {
        for label in ["_reliable", "_lossy"] {
            sent += u64::from(attacker.send_data(label, &garbage(Likeness::Noise, len)));
        }
        attacker.run_until(Instant::now() + BURST_INTERVAL).await?;
    }
    Ok(sent)
}

/// SCTP packets of every length that a record takes, with every type of chunk, half of them with a right checksum.
async fn send_sctp(attacker: &mut Client) -> Result<u64> {
    let mut sent = 0;
    for len in 0..=SCTP_LEN_MAX {
        for chunk in [len as u8, (len % 16) as u8, 0x80 | (len % 64) as u8, 0xc0] {
            sent += u64::from(attacker.send_as_sctp(&sctp_packet(chunk, len, sent % 2 == 0)));
        }
        if len % 8 == 0 {
            attacker.run_until(Instant::now() + BURST_INTERVAL).await?;
        }
    }
    Ok(sent)
}
