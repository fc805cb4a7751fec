//! One simulated client: a real [`Peer`] (ICE controlling, DTLS client), a publisher, and its lines.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use auralink_codecs::dependency::DependencyDescriptor;
use auralink_proto::{Codec, TrackId, TransportId};
use auralink_rtc::classify::{Kind, classify};
use auralink_rtc::dtls::{Certificate, DtlsRole, PeerKeys};
use auralink_rtc::egress::Egress;
use auralink_rtc::ice::{CONSENT_TIMEOUT, IceCredentials, IceMode};
use auralink_rtc::peer::{Peer, PeerClose, PeerConfig, PeerEvent};
use auralink_rtc::rtcp::{Rtcp, RtcpWriter, packets};
use auralink_rtc::rtp::RtpHeader;
use auralink_rtc::units::Route;

use crate::link::Quality;
use crate::media::{self, Identity, Ids};
use crate::numbers::Numbers;
use crate::publish::{DEPENDENCY, Publisher, Sealed};
use crate::receive::{Arrived, Received};

/// Between looks at what has to be asked for.
const FEEDBACK_INTERVAL: Duration = Duration::from_millis(20);
/// Between a line's keyframe requests.
const KEYFRAME_INTERVAL: Duration = Duration::from_millis(500);

/// How a client reaches its transport.
pub struct Invitation {
    pub transport: TransportId,
    pub tracks: [TrackId; 2],
    pub quality: Quality,
    pub server: SocketAddr,
    pub server_ice: IceCredentials,
    pub server_fingerprint: [u8; 32],
    pub own_ice: IceCredentials,
    pub numbers: Numbers,
}

pub struct Client {
    pub index: u16,
    pub address: SocketAddr,
    pub server: SocketAddr,
    pub transport: TransportId,
    pub tracks: [TrackId; 2],
    pub quality: Quality,
    pub peer: Peer,
    pub publisher: Publisher,
    pub numbers: Numbers,
    /// By media SSRC of the line.
    pub lines: BTreeMap<u32, Received>,
    /// Repair SSRC → media SSRC.
    pub repairs: BTreeMap<u32, u32>,
    pub egress: Egress,
    next_feedback: Instant,
    next_keyframe_request: Instant,
    sealed: Vec<Sealed>,
    /// What the peer did wrong, if anything.
    pub faults: Vec<String>,
    /// Its own checks went unanswered for so long that it thinks the node is gone.
    pub gave_up: bool,
}

impl Client {
    pub fn new(
        now: Instant,
        index: u16,
        address: SocketAddr,
        invitation: Invitation,
        certificate: &Certificate,
    ) -> Self {
        let config = PeerConfig {
            local_ice: invitation.own_ice,
            remote_ice: Some(invitation.server_ice),
            remote_fingerprint: invitation.server_fingerprint,
            remote_keys: PeerKeys::Ecdsa,
            role: DtlsRole::Client,
            ice: IceMode::Controlling,
            local_address: Some(address),
            remote_candidates: vec![invitation.server],
            data: false,
            consent_timeout: CONSENT_TIMEOUT,
        };
        let salt = u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            index,
            address,
            server: invitation.server,
            transport: invitation.transport,
            tracks: invitation.tracks,
            quality: invitation.quality,
            peer: Peer::new(now, config, certificate, salt).expect("a controlling peer with an address"),
            publisher: Publisher::new(now, index, salt, invitation.numbers.clone()),
            numbers: invitation.numbers,
            lines: BTreeMap::new(),
            repairs: BTreeMap::new(),
            egress: Egress::new(64),
            next_feedback: now,
            next_keyframe_request: now,
            sealed: Vec::new(),
            faults: Vec::new(),
            gave_up: false,
        }
    }

    pub fn next_due(&mut self) -> Instant {
        let media = self.publisher.next_due().min(self.next_feedback);
        let media = Some(media).filter(|_| self.peer.is_connected());
        media.into_iter().chain(self.peer.poll_timeout()).min().unwrap_or(self.next_feedback)
    }

    /// Does what is due; what is to be sent is in the result and in `self.egress`.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Sealed> {
        self.peer.handle_timeout(now, &mut self.egress);
        self.drain_events();
        if let Some(seal) = self.peer.srtp_seal() {
            self.publisher.poll(now, seal, &mut self.sealed);
        }
        if now >= self.next_feedback {
            self.next_feedback = now + FEEDBACK_INTERVAL;
            self.send_feedback(now);
        }
        std::mem::take(&mut self.sealed)
    }

    /// Takes a datagram from the node.
    pub fn handle(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        let route = Route::udp(from, Some(self.address.ip()));
        match classify(bytes) {
            Kind::Stun => drop(self.peer.handle_stun(now, &route, bytes, &mut self.egress)),
            Kind::Dtls => drop(self.peer.handle_dtls(now, &route, bytes, &mut self.egress)),
            Kind::Rtp => self.handle_rtp(now, bytes),
            Kind::Rtcp => self.handle_rtcp(bytes),
            Kind::Other => self.faults.push("the node sent something unclassifiable".into()),
        }
        self.drain_events();
    }

    fn drain_events(&mut self) {
        while let Some(event) = self.peer.poll_event() {
            self.gave_up |= event == PeerEvent::Closed(PeerClose::ConsentExpired);
        }
    }

    fn handle_rtp(&mut self, now: Instant, bytes: &[u8]) {
        let Some(header) = RtpHeader::parse(bytes) else {
            self.faults.push("the node sent RTP that does not parse".into());
            return;
        };
        let Some(open) = self.peer.srtp_open() else { return };
        let mut payload = vec![0; bytes.len()];
        let len = match open.open_rtp(&header, bytes, &mut payload) {
            Ok((_, len)) => len,
            Err(auralink_rtc::srtp::SrtpError::Replayed) => return,
            Err(error) => {
                self.faults
                    .push(format!("SSRC {} number {} does not open: {error}", header.ssrc, header.seq));
                return;
            }
        };
        let Some((codec, is_repair)) = self.numbers.read(header.pt) else {
            self.faults.push(format!("payload type {}, which was not negotiated", header.pt));
            return;
        };
        let media_ssrc = if is_repair { self.repairs.get(&header.ssrc).copied() } else { Some(header.ssrc) };
        let Some(line) = media_ssrc.and_then(|ssrc| self.lines.get_mut(&ssrc)) else {
            self.faults.push(format!("a packet on SSRC {}, which is no line's", header.ssrc));
            return;
        };
        let (wire, payload) = match payload[..len].split_first_chunk::<2>() {
            Some((original, rest)) if is_repair => (u16::from_be_bytes(*original), rest),
            _ => (header.seq, &payload[..len]),
        };
        let dependency = header.extension(bytes, DEPENDENCY);
        let Some((identity, ids)) = read(&self.numbers, codec, line.video, payload, dependency) else {
            self.faults.push(format!("SSRC {} number {wire}: the {codec:?} was changed", header.ssrc));
            return;
        };
        let arrived = Arrived { identity, timestamp: header.timestamp, at: now, ids };
        if let Err(fault) = line.on_packet(now, wire, arrived) {
            self.faults.push(fault);
        }
    }

    /// Which number of which line a repair packet that the network lost carried.
    pub fn read_lost_repair(&mut self, bytes: &[u8]) -> Option<(u32, u16)> {
        let is_repair = |header: &RtpHeader| self.numbers.read(header.pt).is_some_and(|(_, repair)| repair);
        let header = RtpHeader::parse(bytes).filter(is_repair)?;
        let media = *self.repairs.get(&header.ssrc)?;
        let mut payload = vec![0; bytes.len()];
        self.peer.srtp_open()?.open_rtp(&header, bytes, &mut payload).ok()?;
        Some((media, u16::from_be_bytes([payload[0], payload[1]])))
    }

    fn handle_rtcp(&mut self, bytes: &[u8]) {
        let mut compound = vec![0; bytes.len()];
        let Some(open) = self.peer.srtp_open() else { return };
        let Ok(len) = open.open_rtcp(bytes, &mut compound) else { return };
        for packet in packets(&compound[..len]) {
            match packet {
                Rtcp::Nack { media, lost, .. } => {
                    if let Some(seal) = self.peer.srtp_seal() {
                        self.publisher.on_nack(media, lost, seal, &mut self.sealed);
                    }
                }
                Rtcp::Pli { media, .. } => self.publisher.on_keyframe_request(media),
                Rtcp::Malformed { packet_type } => {
                    self.faults.push(format!("the node sent malformed RTCP of type {packet_type}"));
                }
                _ => {}
            }
        }
    }

    /// What was made by a datagram just handled: retransmissions.
    pub fn take_sealed(&mut self) -> Vec<Sealed> {
        std::mem::take(&mut self.sealed)
    }

    /// Seals anything as RTCP with the client's own keys.
    pub fn seal_rtcp(&mut self, compound: &[u8]) -> Option<Vec<u8>> {
        let seal = self.peer.srtp_seal()?;
        let mut sealed = vec![0; compound.len() + seal.overhead_rtcp()];
        seal.seal_rtcp(compound, &mut sealed).ok()?;
        Some(sealed)
    }

    /// A packet on its repair stream, with the client's own keys and any payload.
    pub fn seal_repair(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        self.publisher.seal_repair(payload, self.peer.srtp_seal()?)
    }

    fn send_feedback(&mut self, now: Instant) {
        let Some(seal) = self.peer.srtp_seal() else { return };
        let mut bytes = [0; 1_100];
        let mut writer = RtcpWriter::new(&mut bytes);
        let _ = writer.receiver_report(9, &[]);
        let empty = writer.len();
        let asks_keyframes = now >= self.next_keyframe_request;
        for (ssrc, line) in &mut self.lines {
            let mut lost = Vec::new();
            let given_up = line.nack.poll(now, &mut lost);
            line.wants_keyframe |= given_up && line.video;
            if line.video && !lost.is_empty() {
                let _ = writer.nack(9, *ssrc, lost);
            }
            if line.wants_keyframe && asks_keyframes {
                self.next_keyframe_request = now + KEYFRAME_INTERVAL;
                let _ = writer.pli(9, *ssrc);
            }
        }
        let len = writer.finish();
        if len > empty {
            let mut sealed = vec![0; len + seal.overhead_rtcp()];
            if seal.seal_rtcp(&bytes[..len], &mut sealed).is_ok() {
                self.sealed.push(Sealed { bytes: sealed, identity: None });
            }
        }
    }
}

/// What a payload and its dependency descriptor say; `None` when they are not what was sent.
fn read(
    numbers: &Numbers,
    codec: Codec,
    video: bool,
    payload: &[u8],
    dependency: Option<&[u8]>,
) -> Option<(Identity, Ids)> {
    let payload = match codec {
        Codec::Red => media::present(numbers.pt(Codec::Opus)?, payload)?,
        _ => payload,
    };
    let (identity, mut ids) = media::read(codec, video, payload)?;
    let dependency = dependency.and_then(DependencyDescriptor::parse);
    if matches!(codec, Codec::Vp9 { .. } | Codec::Av1 { .. }) {
        let dependency = dependency?;
        ids.frame = Some(dependency.frame_number);
        (dependency.has_structure == identity.keyframe_start).then_some((identity, ids))
    } else {
        // Others are better off without one.
        dependency.is_none().then_some((identity, ids))
    }
}
