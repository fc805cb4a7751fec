//! Control's commands: a complete specification is compared with what is, and what differs is changed.

use std::time::Instant;

use auralink_proto::{
    CloseReason, Command, DataChannels, DtlsRole, Event, Intent, MediaKind, Mid, PeerKeys, ReceiveSection,
    SendSection, TrackId, TransportId, TransportSpec,
};
use auralink_rtc::dtls;
use auralink_rtc::ice::{CONSENT_TIMEOUT, IceCredentials, IceMode};
use auralink_rtc::peer::{Peer, PeerConfig};

use super::timers::TICK;
use super::{Output, Shard};
use crate::departures::Departures;
use crate::lanes::LaneSignal;
use crate::publisher::{Follower, LAYERS_MAX, Source, Track};
use crate::subscriber::Line;
use crate::transport::{Due, LINES_MAX, RECEIVE_MAX, Transport, Uplink};

impl Shard {
    pub fn handle_command(&mut self, now: Instant, command: Command, out: &mut Output<'_>) {
        self.handling = None;
        match command {
            Command::ApplyTransport(spec) => self.apply(now, *spec, out),
            Command::RemoveTransport(id) => {
                if let Some(slot) = self.by_transport.get(&id).copied() {
                    self.remove_transport(now, slot, out);
                }
            }
            Command::SetIntent { transport, mid, intent } => {
                self.set_intent(now, transport, mid, intent, out)
            }
            Command::SendData { transports, channel, payload } => {
                self.queue_data(transports, channel, payload);
            }
            Command::RequestKeyframe(track) => {
                if let Some(slot) = self.by_track.get(&track).copied() {
                    for layer in 0..LAYERS_MAX as u8 {
                        self.want_keyframe(now, slot, layer, out);
                    }
                }
            }
            Command::ReportStats(ids) => {
                for transport in ids {
                    let slot = self.by_transport.get(&transport);
                    if let Some(held) = slot.and_then(|slot| self.transports.get(*slot)) {
                        out.events.push(Event::Stats { transport, stats: held.stats });
                    }
                }
            }
        }
    }

    fn apply(&mut self, now: Instant, spec: TransportSpec, out: &mut Output<'_>) {
        let (transport, version) = (spec.id, spec.version);
        if spec.receive.len() > RECEIVE_MAX || spec.send.len() > LINES_MAX || transport.shard() != self.id {
            let reason = CloseReason::SpecRefused;
            out.events.push(Event::TransportClosed { transport, reason });
            return;
        }
        let slot = match self.by_transport.get(&transport).copied() {
            Some(slot) => slot,
            None if self.strikes.refuses(spec.room) => {
                out.events.push(Event::TransportClosed { transport, reason: CloseReason::Panicked });
                return;
            }
            None => match self.create(now, &spec) {
                Ok(slot) => slot,
                Err(reason) => {
                    out.events.push(Event::TransportClosed { transport, reason });
                    return;
                }
            },
        };
        let Some(held) = self.transports.get_mut(slot).filter(|held| held.version < version) else { return };
        self.handling = Some(slot);
        held.version = version;
        held.peer.set_ice(now, credentials(&spec.local_ice), credentials(&spec.remote_ice));
        if spec.data != DataChannels::Off {
            held.data = spec.data;
            held.peer.enable_data();
        }
        self.apply_receive(now, slot, spec.receive, out);
        self.apply_send(now, slot, &spec.send, out);
        out.events.push(Event::TransportApplied { transport, version });
        self.arm(slot);
    }

    fn create(&mut self, now: Instant, spec: &TransportSpec) -> Result<u32, CloseReason> {
        let config = PeerConfig {
            local_ice: credentials(&spec.local_ice),
            remote_ice: Some(credentials(&spec.remote_ice)),
            remote_fingerprint: spec.remote_fingerprint.0,
            remote_keys: match spec.remote_keys {
                PeerKeys::Ecdsa => dtls::PeerKeys::Ecdsa,
                PeerKeys::Any => dtls::PeerKeys::Any,
            },
            role: match spec.dtls_role {
                DtlsRole::Server => dtls::DtlsRole::Server,
                DtlsRole::Client => dtls::DtlsRole::Client,
            },
            ice: IceMode::Lite,
            local_address: None,
            remote_candidates: Vec::new(),
            data: spec.data != DataChannels::Off,
            consent_timeout: CONSENT_TIMEOUT,
        };
        let seed = self.next_random();
        let peer = Peer::new(now, config, &self.certificate, seed).map_err(|_| CloseReason::SpecRefused)?;
        let transport = Transport {
            id: spec.id,
            version: 0,
            room: spec.room,
            cname: spec.cname.clone(),
            peer,
            connected: false,
            uplinks: Vec::new(),
            bindings: Vec::new(),
            lines: Vec::new(),
            dirty: Default::default(),
            is_dirty: false,
            twcc: Default::default(),
            next_twcc: 0,
            departures: Departures::new(now),
            due: Due::default(),
            reported: 0,
            data: spec.data,
            channels: Default::default(),
            remotes: Vec::new(),
            intake: Default::default(),
            stats: Default::default(),
        };
        let slot = self.transports.insert(Box::new(transport)).ok_or(CloseReason::Exhausted)?;
        self.by_transport.insert(spec.id, slot);
        Ok(slot)
    }

    /// Tracks that are no longer described end; new ones begin; the rest go on.
    fn apply_receive(
        &mut self,
        now: Instant,
        slot: u32,
        sections: Vec<ReceiveSection>,
        out: &mut Output<'_>,
    ) {
        let Some(transport) = self.transports.get_mut(slot) else { return };
        let mut old: Vec<Option<Uplink>> =
            std::mem::take(&mut transport.uplinks).into_iter().map(Some).collect();
        let mut moved = vec![None; old.len()];
        let mut uplinks = Vec::with_capacity(sections.len());
        let (mut muted, mut described) = (Vec::new(), Vec::new());
        for section in sections {
            let at = old.iter().position(|held| {
                held.as_ref().is_some_and(|held| {
                    held.section.track == section.track
                        && held.section.mid == section.mid
                        && held.section.rids == section.rids
                })
            });
            let index = uplinks.len() as u8;
            if let Some((at, uplink)) = at.and_then(|at| Some((at, old[at].take()?))) {
                moved[at] = Some(index);
                if uplink.section.muted != section.muted {
                    muted.push((uplink.track, section.muted));
                }
                if self.take_formats(uplink.track, &section) {
                    described.push(uplink.track);
                }
                uplinks.push(self.uplink(uplink.track, section));
            } else if let Some(track) = self.create_track(slot, &section) {
                uplinks.push(self.uplink(track, section));
            }
        }
        if let Some(transport) = self.transports.get_mut(slot) {
            transport.uplinks = uplinks;
            transport.bindings.retain_mut(|binding| {
                let index = moved.get(usize::from(binding.section)).copied().flatten();
                binding.section = index.unwrap_or(binding.section);
                index.is_some()
            });
        }
        for ended in old.into_iter().flatten() {
            self.remove_track(ended.track, out);
        }
        for (track, muted) in muted {
            self.set_muted(now, track, muted, out);
        }
        for track in described {
            self.map_followers(track);
            self.describe(track, out);
        }
    }

    fn create_track(&mut self, transport: u32, section: &ReceiveSection) -> Option<u32> {
        let layers = section.rids.len().max(1);
        let source = Source::Local { transport };
        let mut track = Track::new(section.track, section.kind, source, layers, &self.config);
        track.muted = section.muted;
        track.formats.take(&section.payloads, section.encrypted);
        let slot = self.tracks.insert(Box::new(track))?;
        self.by_track.insert(section.track, slot);
        Some(slot)
    }

    fn set_muted(&mut self, now: Instant, slot: u32, muted: bool, out: &mut Output<'_>) {
        let Some(track) = self.tracks.get_mut(slot) else { return };
        track.muted = muted;
        self.describe(slot, out);
        self.retarget_followers(now, slot, out);
    }

    /// Lines are known by their mid and stay for the life of the transport; what they follow changes.
    fn apply_send(&mut self, now: Instant, slot: u32, sections: &[SendSection], out: &mut Output<'_>) {
        for section in sections {
            // In the lower half: a receiver that misses the first packets must not miss a wrap (RFC 3711 §3.3.1).
            let first_seq = self.next_random() as u16 & 0x7fff;
            let Some(transport) = self.transports.get_mut(slot) else { return };
            let at = transport.lines.iter().position(|line| line.mid == section.mid);
            let index = match at {
                Some(at) => {
                    let line = &mut transport.lines[at];
                    if line.update(section)
                        && let Some(track) = line.track.and_then(|track| self.tracks.get(track))
                    {
                        line.map(&track.formats);
                    }
                    at
                }
                None if transport.lines.len() < LINES_MAX => {
                    let mut line = Line::new(now, section, first_seq);
                    if let Some(seal) = transport.peer.srtp_seal() {
                        line.register(seal);
                    }
                    transport.lines.push(line);
                    transport.lines.len() - 1
                }
                None => continue,
            };
            self.follow(now, Follower { transport: slot, line: index as u16 }, section.track, out);
        }
        let gone: Vec<u16> = self.transports.get(slot).map_or_else(Vec::new, |transport| {
            let is_gone =
                |line: &Line| line.track.is_some() && !sections.iter().any(|section| section.mid == line.mid);
            let lines = transport.lines.iter().enumerate();
            lines.filter(|(_, line)| is_gone(line)).map(|(index, _)| index as u16).collect()
        });
        for line in gone {
            self.follow(now, Follower { transport: slot, line }, None, out);
        }
    }

    /// Attaches a line to a track, or to none.
    fn follow(&mut self, now: Instant, follower: Follower, wanted: Option<TrackId>, out: &mut Output<'_>) {
        let line = |shard: &Self| {
            let transport = shard.transports.get(follower.transport)?;
            transport.lines.get(usize::from(follower.line)).map(|line| line.track)
        };
        let Some(held) = line(self) else { return };
        let held_id = held.and_then(|slot| self.tracks.get(slot)).map(|track| track.id);
        if held.is_some() && held_id == wanted {
            return;
        }
        if let Some(slot) = held {
            self.unfollow(slot, follower, out);
        }
        let kind = self
            .transports
            .get(follower.transport)
            .and_then(|transport| transport.lines.get(usize::from(follower.line)).map(|line| line.kind));
        let slot = wanted.zip(kind).and_then(|(id, kind)| self.track_slot(now, id, kind, out));
        let mut track = slot.and_then(|slot| self.tracks.get_mut(slot));
        if let Some(track) = &mut track {
            track.followers.push(follower);
        }
        let transport = self.transports.get_mut(follower.transport);
        if let Some(line) =
            transport.and_then(|transport| transport.lines.get_mut(usize::from(follower.line)))
        {
            line.follow(slot);
            if let Some(track) = track {
                line.map(&track.formats);
            }
        }
        if let Some(slot) = slot {
            self.retarget_followers(now, slot, out);
        }
    }

    /// The track's slot here; one of another shard is asked for over the lane.
    fn track_slot(
        &mut self,
        now: Instant,
        id: TrackId,
        kind: MediaKind,
        out: &mut Output<'_>,
    ) -> Option<u32> {
        if let Some(slot) = self.by_track.get(&id) {
            return Some(*slot);
        }
        if id.shard() == self.id || usize::from(id.shard().0) >= out.lanes.shards() {
            tracing::warn!(track.id = %id, "a line was told to follow a track that is not here");
            return None;
        }
        let source = Source::Lane { shard: id.shard(), described: false, next_number: None };
        let slot = self.tracks.insert(Box::new(Track::new(id, kind, source, 1, &self.config)))?;
        self.by_track.insert(id, slot);
        let _ = out.lanes.signal(id.shard(), LaneSignal::Demand { track: id, wanted: true });
        self.track_wheel.set_earlier(slot, now + TICK);
        Some(slot)
    }

    fn unfollow(&mut self, slot: u32, follower: Follower, out: &mut Output<'_>) {
        let Some(track) = self.tracks.get_mut(slot) else { return };
        track.followers.retain(|held| *held != follower);
        if let Some(shard) = track.lane_source().filter(|_| track.followers.is_empty()) {
            let _ = out.lanes.signal(shard, LaneSignal::Demand { track: track.id, wanted: false });
            self.remove_track(slot, out);
        }
    }

    fn set_intent(&mut self, now: Instant, id: TransportId, mid: Mid, intent: Intent, out: &mut Output<'_>) {
        let Some(transport) = self.by_transport.get(&id).and_then(|slot| self.transports.get_mut(*slot))
        else {
            return;
        };
        let Some(line) = transport.lines.iter_mut().find(|line| line.mid == mid) else { return };
        line.intent = intent;
        if let Some(track) = line.track {
            self.retarget_followers(now, track, out);
        }
    }

    /// Every follower of a track chooses its layer anew; those that cannot go on without one ask for a keyframe, and again
    /// until they have it.
    pub(super) fn retarget_followers(&mut self, now: Instant, slot: u32, out: &mut Output<'_>) {
        let mut wanted = [false; LAYERS_MAX];
        let Some(track) = self.tracks.get(slot) else { return };
        for follower in &track.followers {
            let Some(transport) = self.transports.get_mut(follower.transport) else { continue };
            let is_connected = transport.connected;
            let Some(line) = transport.lines.get_mut(usize::from(follower.line)) else { continue };
            let waits_for = line.retarget(now, track).filter(|_| is_connected);
            if let Some(place) = waits_for.and_then(|layer| wanted.get_mut(usize::from(layer))) {
                *place = true;
            }
        }
        for layer in (0..LAYERS_MAX as u8).filter(|layer| wanted[usize::from(*layer)]) {
            self.want_keyframe(now, slot, layer, out);
            self.track_wheel.set_earlier(slot, now + TICK);
        }
        if let Some(at) = self.tracks.get(slot).and_then(|track| track.silence_due(now)) {
            self.track_wheel.set_earlier(slot, at);
        }
    }

    /// A layer's packets start anew: whoever was sending it has to join again.
    pub(super) fn restart_followers(&mut self, slot: u32, layer: u8) {
        let Some(track) = self.tracks.get(slot) else { return };
        for follower in &track.followers {
            let transport = self.transports.get_mut(follower.transport);
            if let Some(line) =
                transport.and_then(|transport| transport.lines.get_mut(usize::from(follower.line)))
            {
                line.leave(layer);
            }
        }
    }

    /// Notes that a layer needs a keyframe and sees that it is asked for, here or over the lane.
    pub(super) fn want_keyframe(&mut self, now: Instant, slot: u32, layer: u8, out: &mut Output<'_>) {
        let Some(track) = self.tracks.get_mut(slot).filter(|track| track.is_video()) else { return };
        let (id, source) = (track.id, track.source);
        let Some(state) = track.layers.get_mut(usize::from(layer)) else { return };
        state.wish.want();
        match source {
            Source::Local { transport: owner } => {
                let interval = self.config.keyframe_interval;
                let at = state.wish.due(interval).map_or(now, |due| due.max(now));
                if let Some(transport) = self.transports.get_mut(owner) {
                    Due::sooner(&mut transport.due.keyframes, at);
                    self.arm(owner);
                }
            }
            // The wish is repeated by the tick until a keyframe comes; the publisher's shard throttles once more.
            Source::Lane { shard, .. } => {
                if state.wish.poll(now, self.config.keyframe_interval / 2) {
                    let _ = out.lanes.signal(shard, LaneSignal::Keyframe { track: id, layer });
                }
            }
        }
    }

    /// Control hears of a track when it has really begun, and of the codec it began with.
    pub(super) fn announce(&self, slot: u32, format: u8, out: &mut Output<'_>) {
        let track = self.tracks.get(slot);
        if let Some((track, format)) = track.and_then(|track| Some((track, track.formats.get(format)?))) {
            out.events.push(Event::TrackLive { track: track.id, codec: format.codec });
        }
    }

    /// Ends a track: its followers fall silent, other shards are told.
    pub(super) fn remove_track(&mut self, slot: u32, out: &mut Output<'_>) {
        let Some(track) = self.tracks.remove(slot) else { return };
        self.by_track.remove(&track.id);
        self.track_wheel.clear(slot);
        self.pending.retain(|held| *held != slot);
        self.heard.retain(|held| *held != slot);
        for follower in &track.followers {
            let transport = self.transports.get_mut(follower.transport);
            if let Some(line) =
                transport.and_then(|transport| transport.lines.get_mut(usize::from(follower.line)))
            {
                line.follow(None);
            }
        }
        for follower in &track.lane_followers {
            let _ = out.lanes.signal(follower.shard, LaneSignal::Ended { track: track.id });
        }
    }

    pub(super) fn remove_transport(&mut self, now: Instant, slot: u32, out: &mut Output<'_>) {
        let Some(transport) = self.transports.get_mut(slot) else { return };
        transport.peer.close(now, out.egress);
        self.forget_transport(slot, out);
    }

    /// Removes a transport and all that hangs on it, saying nothing to the peer.
    pub(super) fn forget_transport(&mut self, slot: u32, out: &mut Output<'_>) {
        let Some(transport) = self.transports.remove(slot) else { return };
        self.by_transport.remove(&transport.id);
        self.wheel.clear(slot);
        self.dirty.retain(|held| *held != slot);
        self.egress_cursor = 0;
        for uplink in &transport.uplinks {
            self.remove_track(uplink.track, out);
        }
        for (index, line) in transport.lines.iter().enumerate() {
            if let Some(track) = line.track {
                self.unfollow(track, Follower { transport: slot, line: index as u16 }, out);
            }
        }
        for route in transport.remotes {
            self.release(slot, route, out);
        }
    }

    /// A step of SplitMix64: initial sequence numbers and protocol randomness, repeatable from the shard's seed.
    fn next_random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn credentials(ice: &auralink_proto::IceCredentials) -> IceCredentials {
    IceCredentials { ufrag: ice.ufrag.clone(), pwd: ice.pwd.clone() }
}
