//! Datagrams in: STUN and DTLS to the peer, media to its line, RTCP to the publisher.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use auralink_rtc::classify::{Kind, classify};
use auralink_rtc::rtcp::{Rtcp, packets};
use auralink_rtc::rtp::{RtpHeader, padding_len};
use auralink_rtc::srtp::SrtpError;
use auralink_rtc::units::Route;

use super::{Client, EARLY_MAX};
use crate::receive::Packet;
use crate::sdp::{RTX_PT, TWCC_ID};

/// Datagrams read in one go before anything else is looked at.
const BATCH: usize = 256;

impl Client {
    pub(super) fn handle_received(&mut self, received: io::Result<(usize, SocketAddr)>, datagram: &mut [u8]) {
        let mut first = Some(received);
        for _ in 0..BATCH {
            // Read only where it is handled: what is read and left passes for lost.
            let received = first.take().unwrap_or_else(|| self.socket.try_recv_from(datagram));
            let Ok((len, from)) = received else { return };
            let now = Instant::now();
            if let Some(bytes) = datagram.get(..len) {
                self.handle_datagram(now, from, bytes);
            }
        }
    }

    fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        self.counters.datagrams_received += 1;
        let route = Route::udp(from, Some(self.local.ip()));
        match classify(bytes) {
            // Checks of an older or another session are refused by the peer, which is as it should be.
            Kind::Stun => drop(self.peer.handle_stun(now, &route, bytes, &mut self.egress)),
            Kind::Dtls => drop(self.peer.handle_dtls(now, &route, bytes, &mut self.egress)),
            Kind::Rtp => self.handle_rtp(now, bytes),
            Kind::Rtcp => self.handle_rtcp(now, bytes),
            Kind::Other => self.counters.malformed += 1,
        }
        self.follow_peer(now);
    }

    fn handle_rtp(&mut self, now: Instant, bytes: &[u8]) {
        let Some(header) = RtpHeader::parse(bytes) else {
            self.counters.malformed += 1;
            return;
        };
        let Some(open) = self.peer.srtp_open() else { return };
        let mut payload = vec![0; bytes.len()];
        match open.open_rtp(&header, bytes, &mut payload) {
            Ok((_, len)) => payload.truncate(len),
            Err(SrtpError::Replayed) => {
                self.counters.duplicates += 1;
                return;
            }
            Err(_) => {
                self.counters.decrypt_failures += 1;
                return;
            }
        }
        if let Some(number) = header.extension(bytes, TWCC_ID).and_then(|value| value.first_chunk::<2>()) {
            self.twcc.record(u16::from_be_bytes(*number), now);
        }
        if header.padding {
            let padding = padding_len(&payload).unwrap_or(payload.len());
            payload.truncate(payload.len() - padding);
        }
        let is_repair = header.pt == RTX_PT;
        let mut seq = header.seq;
        if is_repair {
            // Padding alone, or the original number and payload (RFC 4588 §4).
            let Some((original, rest)) = payload.split_first_chunk::<2>() else { return };
            seq = u16::from_be_bytes(*original);
            payload = rest.to_vec();
        }
        let (timestamp, marker) = (header.timestamp, header.marker);
        self.take_packet(now, header.ssrc, Packet { seq, timestamp, marker, is_repair, payload });
    }

    fn take_packet(&mut self, now: Instant, ssrc: u32, packet: Packet) {
        let media = if packet.is_repair { self.repairs.get(&ssrc).copied() } else { Some(ssrc) };
        match media.and_then(|ssrc| self.lines.get_mut(&ssrc)) {
            Some(line) => line.on_packet(now, packet),
            None if self.early.len() < EARLY_MAX => self.early.push((ssrc, packet)),
            None => self.counters.strays += 1,
        }
    }

    /// Media may overtake the answer that names its SSRC.
    pub(super) fn take_early(&mut self) {
        let now = Instant::now();
        for (ssrc, packet) in std::mem::take(&mut self.early) {
            self.take_packet(now, ssrc, packet);
        }
    }

    /// Packets whose SSRC no answer has named.
    pub(crate) fn unnamed(&self) -> u64 {
        self.early.len() as u64 + self.counters.strays
    }

    fn handle_rtcp(&mut self, now: Instant, bytes: &[u8]) {
        let mut compound = vec![0; bytes.len()];
        let Some(open) = self.peer.srtp_open() else { return };
        let Ok(len) = open.open_rtcp(bytes, &mut compound) else {
            self.counters.decrypt_failures += 1;
            return;
        };
        for packet in packets(compound.get(..len).unwrap_or_default()) {
            match packet {
                Rtcp::Nack { media, lost, .. } => {
                    if let (Some(publisher), Some(seal)) = (&mut self.publisher, self.peer.srtp_seal()) {
                        publisher.on_nack(media, lost, seal, &mut self.sealed);
                    }
                }
                Rtcp::Pli { media, .. } => self.keyframe_wanted(media),
                Rtcp::Fir { targets, .. } => targets.for_each(|(media, _)| self.keyframe_wanted(media)),
                Rtcp::SenderReport { ssrc, ntp, .. } => {
                    if let Some(line) = self.lines.get_mut(&ssrc) {
                        line.last_report = Some((ntp.middle(), now));
                    }
                }
                Rtcp::Malformed { .. } => self.counters.malformed += 1,
                _ => {}
            }
        }
    }

    fn keyframe_wanted(&mut self, ssrc: u32) {
        if let Some(publisher) = &mut self.publisher {
            publisher.on_keyframe_request(ssrc);
        }
    }
}
