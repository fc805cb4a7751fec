//! Packets in: from ciphertext in the receive buffer to plaintext in the track's history, in one pass.

use std::time::Instant;

use auralink_proto::ExtensionUri;
use auralink_rtc::rtp::{RtpHeader, padding_len};
use auralink_rtc::srtp::SrtpError;

use super::{Datagram, Output, Shard};
use crate::config::ShardConfig;
use crate::elements::Elements;
use crate::formats::{Formats, Outline};
use crate::history::Packet;
use crate::lanes::LaneItem;
use crate::nack::Gap;
use crate::publisher::{Layer, Track};
use crate::stats::DropReason;
use crate::transport::{Binding, Due, Transport};

/// Longest wait between a gap and the first request for it, so that reordering is not mistaken for loss.
const REPAIR_DELAY_MS: u64 = 5;

/// What a packet just taken in asks for.
struct Taken {
    track: u32,
    layer: u8,
    packet: Packet,
    gap: Gap,
    came_alive: bool,
    first_of_track: bool,
    heard: bool,
    restarted: bool,
    is_repair: bool,
}

impl Shard {
    pub(super) fn receive_rtp(
        &mut self,
        now: Instant,
        slot: u32,
        datagram: &Datagram<'_>,
        out: &mut Output<'_>,
    ) -> Result<(), DropReason> {
        let taken = self.take_in(now, slot, datagram)?;
        let octets = datagram.bytes.len() as u64;
        self.stats.packets_received += 1;
        self.stats.octets_received += octets;
        if taken.is_repair {
            self.stats.repairs_received += 1;
            self.stats.octets_of_repairs_received += octets;
        }
        self.mark(now, taken.track, taken.layer, taken.packet.marker);
        self.pass_to_lanes(&taken, out);
        if taken.first_of_track {
            self.announce(taken.track, taken.packet.format, out);
        }
        if taken.restarted {
            self.restart_followers(taken.track, taken.layer);
        }
        if taken.came_alive || taken.restarted {
            self.retarget_followers(now, taken.track, out);
        }
        if taken.heard {
            self.heard.push(taken.track);
        }
        if taken.gap != Gap::None
            && let Some(transport) = self.transports.get_mut(slot)
        {
            let at = now + std::time::Duration::from_millis(REPAIR_DELAY_MS);
            Due::sooner(&mut transport.due.repair, at);
            Due::sooner(&mut transport.due.keyframes, at);
        }
        self.arm_due(slot);
        Ok(())
    }

    /// Opens the packet into its layer's history. Nothing changes unless it is authentic.
    fn take_in(&mut self, now: Instant, slot: u32, datagram: &Datagram<'_>) -> Result<Taken, DropReason> {
        let bytes = datagram.bytes;
        let header = RtpHeader::parse(bytes).ok_or(DropReason::Malformed)?;
        let transport = self.transports.get_mut(slot).ok_or(DropReason::UnknownTuple)?;
        let known = transport.binding(header.ssrc);
        let binding = known.or_else(|| resolve(transport, &header, bytes)).ok_or(DropReason::UnknownSsrc)?;
        let uplink = transport.uplinks.get(usize::from(binding.section)).ok_or(DropReason::UnknownSsrc)?;
        let track_slot = uplink.track;
        let (format, is_repair) = uplink.types.look_up(header.pt).ok_or(DropReason::UnknownPayloadType)?;
        let track = self.tracks.get_mut(track_slot).ok_or(DropReason::UnknownSsrc)?;
        if self.backlog.sheds(now, datagram.arrival, track.kind) {
            return Err(DropReason::Late);
        }
        let mut elements = Elements::read(&uplink.elements, &header, bytes);
        if !track.formats.uses_dependency(format) {
            elements.forget_dependency();
        }
        let passed_len = elements.stored_len();
        let layer = track.layers.get_mut(usize::from(binding.layer)).ok_or(DropReason::UnknownSsrc)?;

        let reserved = bytes.len() - header.len + passed_len;
        let place = layer.history.reserve(reserved).ok_or(DropReason::TooLarge)?;
        let open = transport.peer.srtp_open().ok_or(DropReason::NoKeys)?;
        let (seq, opened) = open.open_rtp(&header, bytes, place).map_err(drop_reason)?;
        // Authentic from here on.
        if !transport.intake.admits(now, bytes.len(), &self.config.intake) {
            return Err(DropReason::OverLimit);
        }
        let payload = unpadded(place.get(..opened), header.padding)?;
        let mut packet = Packet::new(seq, header.timestamp, header.marker, datagram.arrival);
        let skip = if is_repair { 2 } else { 0 };
        let original = payload.first_chunk::<2>().filter(|_| is_repair).map(|osn| u16::from_be_bytes(*osn));
        packet.len = payload.len().saturating_sub(skip) as u16;
        packet.format = format;
        let outline = outline(&track.formats, format, payload.get(skip..).unwrap_or_default(), &elements);
        packet.passed_len = passed_len as u16;
        packet.audio_level = elements.level;
        if known.is_none() && !transport.bind(Binding { is_repair, ..binding }) {
            return Err(DropReason::StreamsExhausted);
        }
        note_transport_number(transport, now, elements.number, datagram.arrival, &self.config);
        transport.stats.packets_received += 1;
        transport.stats.bytes_received += bytes.len() as u64;
        transport.due.reports.get_or_insert(now + self.config.report_interval);

        packet.outline = outline?;
        let mut restarted = false;
        if is_repair {
            let highest = layer.nack.highest().ok_or(DropReason::RtxUnused)?;
            packet.seq = highest.nearest(original.ok_or(DropReason::RtxUnused)?);
        } else if layer.ssrc != Some(header.ssrc) {
            restarted = layer.ssrc.is_some();
            restart_layer(layer, header.ssrc);
            // The reservation above is gone with the old history's index, not with its bytes: it is still in place.
        }
        commit(track, binding.layer, reserved, skip, packet, &elements)?;
        let heard = packet.audio_level.is_some_and(|level| track.loudness.on_packet(level));
        let (gap, came_alive) = track.on_packet(now, binding.layer, &packet);
        Ok(Taken {
            track: track_slot,
            layer: binding.layer,
            packet,
            gap,
            came_alive,
            first_of_track: !std::mem::replace(&mut track.live, true),
            heard,
            restarted,
            is_repair,
        })
    }

    /// Once to each shard that follows the track, however many subscribers it has there.
    fn pass_to_lanes(&mut self, taken: &Taken, out: &mut Output<'_>) {
        let Some(track) = self.tracks.get_mut(taken.track) else { return };
        if track.lane_followers.is_empty() || track.muted {
            return;
        }
        let Some(layer) = track.layers.get(usize::from(taken.layer)) else { return };
        for follower in &mut track.lane_followers {
            let number = Some(follower.number(taken.layer, taken.packet.seq));
            let Some(item) = LaneItem::held(track.id, taken.layer, number, &layer.history, taken.packet.seq)
            else {
                self.stats.drop(DropReason::TooLarge);
                return;
            };
            if out.lanes.send(follower.shard, item) {
                self.stats.lane_sent += 1;
            } else {
                self.stats.drop(DropReason::LaneFull);
            }
        }
    }
}

/// Reads what the payload and the dependency descriptor say in the clear.
fn outline(
    formats: &Formats,
    format: u8,
    payload: &[u8],
    elements: &Elements<'_>,
) -> Result<Outline, DropReason> {
    let mut outline = formats.outline(format, payload)?;
    if let (Outline::Picture(picture), Some(dependency)) = (&mut outline, elements.dependency()) {
        picture.frame_number = Some(dependency.frame_number);
        picture.keyframe_start |= dependency.start_of_frame && dependency.has_structure;
    }
    Ok(outline)
}

/// Puts the opened payload, and what its packet passes on, into the history under its number.
fn commit(
    track: &mut Track,
    layer: u8,
    reserved: usize,
    skip: usize,
    packet: Packet,
    elements: &Elements<'_>,
) -> Result<(), DropReason> {
    let layer = track.layers.get_mut(usize::from(layer)).ok_or(DropReason::UnknownSsrc)?;
    if layer.history.contains(packet.seq) {
        return Err(DropReason::Duplicate);
    }
    if !layer.history.commit(reserved, skip, packet) {
        return Err(DropReason::TooOld);
    }
    if packet.passed_len > 0
        && let Some(place) = layer.history.passed_mut(packet.seq)
    {
        elements.store(place);
    }
    Ok(())
}

/// The layer goes on under another SSRC: its numbers start anew.
fn restart_layer(layer: &mut Layer, ssrc: u32) {
    layer.ssrc = Some(ssrc);
    layer.history.clear();
    layer.nack = Default::default();
    layer.reception = Default::default();
    layer.mapping = None;
}

fn drop_reason(error: SrtpError) -> DropReason {
    match error {
        SrtpError::Replayed => DropReason::Replayed,
        SrtpError::StreamsExhausted | SrtpError::KeyExhausted => DropReason::StreamsExhausted,
        SrtpError::TooShort | SrtpError::OutputTooShort => DropReason::Malformed,
        SrtpError::Authentication | SrtpError::Unencrypted => DropReason::Forged,
    }
}

/// Which section and layer an SSRC not seen before belongs to: by the description's `a=ssrc` lines, else by the MID and RID
/// the packet carries (RFC 9143 §9.2, RFC 8852 §3).
fn resolve(transport: &Transport, header: &RtpHeader, bytes: &[u8]) -> Option<Binding> {
    let ssrc = header.ssrc;
    for (index, uplink) in transport.uplinks.iter().enumerate() {
        for (layer, (media, repair)) in uplink.section.ssrcs.iter().enumerate() {
            if *media == ssrc || *repair == Some(ssrc) {
                let layer = if uplink.section.rids.is_empty() { 0 } else { layer as u8 };
                return Some(Binding { ssrc, section: index as u8, layer, is_repair: *repair == Some(ssrc) });
            }
        }
    }
    let (mut mid, mut rid) = (None, None);
    // One bundle has one map of identifiers (RFC 8285 §6), but each section names only what it uses: audio no RID.
    let named = |id| transport.uplinks.iter().find_map(|uplink| uplink.section.extensions.uri(id));
    for (id, value) in header.extensions(bytes) {
        match named(id) {
            Some(ExtensionUri::Mid) => mid = Some(value),
            Some(ExtensionUri::Rid | ExtensionUri::RepairedRid) => rid = Some(value),
            _ => {}
        }
    }
    let mid = mid?;
    let index = transport.uplinks.iter().position(|uplink| uplink.section.mid.as_bytes() == mid)?;
    let rids = &transport.uplinks.get(index)?.section.rids;
    let layer = match rid {
        Some(rid) => rids.iter().position(|held| held.as_bytes() == rid)?,
        None if rids.is_empty() => 0,
        None => return None,
    };
    Some(Binding { ssrc, section: index as u8, layer: layer as u8, is_repair: false })
}

/// Remembers the packet's transport-wide number for the next feedback.
fn note_transport_number(
    transport: &mut Transport,
    now: Instant,
    number: Option<u16>,
    arrival: Instant,
    config: &ShardConfig,
) {
    let Some(number) = number else { return };
    transport.twcc.record(number, arrival);
    Due::sooner(&mut transport.due.twcc, now + config.twcc_interval);
}

/// What is left of a payload without its padding (RFC 3550 §5.1), if it says that it has some.
fn unpadded(payload: Option<&[u8]>, is_padded: bool) -> Result<&[u8], DropReason> {
    let payload = payload.ok_or(DropReason::Malformed)?;
    let padding = if is_padded { padding_len(payload).ok_or(DropReason::Malformed)? } else { 0 };
    Ok(&payload[..payload.len() - padding])
}
