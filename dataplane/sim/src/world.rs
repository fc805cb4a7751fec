//! The world: shards, clients and the network between them, moved from event to event.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use auralink_proto::{
    CloseReason, Command, Event, IceCredentials, Intent, RoomId, ShardId, TrackId, TransportId,
};
use auralink_rtc::classify::{Kind, classify};
use auralink_rtc::dtls::Certificate;
use auralink_rtc::egress::Egress;
use auralink_rtc::units::Route;
use auralink_sfu::config::ShardConfig;
use auralink_sfu::hold::HoldConfig;
use auralink_sfu::lanes::{Lanes, mesh};
use auralink_sfu::shard::{Datagram, Output, Shard};
use auralink_sfu::stats::DropReason;

use crate::check::Checker;
use crate::client::{Client, Invitation};
use crate::control::{self, Member};
use crate::link::{Fate, Network};
use crate::media::Identity;
use crate::publish::Sealed;
use crate::receive::Received;
use crate::rng::Rng;
use crate::scenario::{Plant, Scenario};

/// Media stops this long before the end, so that what is under way can arrive.
const QUIET: Duration = Duration::from_secs(2);
/// Between looks at whether everyone sees something.
const LIVENESS_INTERVAL: Duration = Duration::from_secs(1);
/// Longest step: a shard is looked at at least this often, as its thread would.
const STEP_MAX: Duration = Duration::from_millis(50);

/// Datagrams an eavesdropper keeps.
const OVERHEARD: usize = 64;

struct Place {
    shard: Shard,
    lanes: Lanes,
    egress: Egress,
    events: Vec<Event>,
}

/// What a run came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    pub violations: Vec<String>,
    pub media_sent: u64,
    pub media_received: u64,
    pub switches: u64,
    pub joins: u64,
    /// Clients that vanished and were missed.
    pub noticed: u64,
    pub lost: u64,
    pub lane_packets: u64,
    /// What the shards dropped, by reason.
    pub drops: BTreeMap<&'static str, u64>,
    /// Audio packets received, by (receiver's seat, sender's seat), for comparing runs.
    pub audio: BTreeMap<(usize, usize), u64>,
}

pub struct World {
    scenario: Scenario,
    rng: Rng,
    now: Instant,
    end: Instant,
    certificate: Certificate,
    client_certificate: Certificate,
    places: Vec<Place>,
    network: Network,
    clients: BTreeMap<usize, Client>,
    seats: Vec<Option<Member>>,
    by_address: HashMap<SocketAddr, usize>,
    /// Which packet a datagram from a client is, for those still under way.
    under_way: HashMap<Vec<u8>, Identity>,
    /// When each (viewer, SSRC) began to wait for a picture.
    waiting: BTreeMap<(u16, u32), Instant>,
    /// Lines whose viewer wants nothing.
    paused: BTreeSet<(u16, u32)>,
    room: RoomId,
    next_index: u16,
    next_action: Instant,
    next_liveness: Instant,
    checker: Checker,
    outcome: Outcome,
    planted: bool,
    /// Whose packet was made to vanish.
    swallowed: Option<u16>,
    overheard: VecDeque<(SocketAddr, Vec<u8>)>,
    vanished: Vec<SocketAddr>,
}

impl World {
    pub fn new(scenario: Scenario) -> Self {
        // The only reading of a clock: all that matters is the distance from here.
        let start = Instant::now();
        let rng = Rng::new(scenario.seed.wrapping_mul(77));
        let certificate = Certificate::generate_for_simulation(scenario.seed).unwrap();
        // In every other room tracks wait for the rest of a frame, however few follow them.
        let followers_min = if scenario.seed.is_multiple_of(2) { 1 } else { 16 };
        let hold = HoldConfig { followers_min, ..HoldConfig::default() };
        let config = ShardConfig { transports_max: 64, tracks_max: 256, hold, ..ShardConfig::default() };
        let places = mesh(scenario.shards).into_iter().enumerate().map(|(index, lanes)| Place {
            shard: Shard::new(
                ShardId(index as u8),
                config,
                certificate.clone(),
                start,
                scenario.seed + index as u64,
            ),
            lanes,
            egress: Egress::new(64),
            events: Vec::new(),
        });
        Self {
            places: places.collect(),
            seats: vec![None; scenario.seats],
            end: start + scenario.duration,
            rng,
            now: start,
            certificate,
            client_certificate: Certificate::generate_for_simulation(!scenario.seed).unwrap(),
            network: Network::default(),
            clients: BTreeMap::new(),
            by_address: HashMap::new(),
            under_way: HashMap::new(),
            waiting: BTreeMap::new(),
            paused: BTreeSet::new(),
            room: RoomId::new(ShardId(0), 1),
            next_index: 0,
            next_action: start + Duration::from_secs(3),
            next_liveness: start,
            checker: Checker::default(),
            outcome: Outcome::default(),
            planted: false,
            swallowed: None,
            overheard: VecDeque::new(),
            vanished: Vec::new(),
            scenario,
        }
    }

    /// Runs to the end and gives the account.
    pub fn run(self) -> Outcome {
        self.run_under(|_| {})
    }

    /// The same with `attack` doing something between any two steps.
    pub fn run_under(mut self, mut attack: impl FnMut(&mut Self)) -> Outcome {
        for seat in 0..self.scenario.seats {
            self.join(seat);
        }
        while self.now < self.end {
            self.step();
            attack(&mut self);
        }
        for seat in 0..self.scenario.seats {
            self.leave(seat);
        }
        self.outcome.violations = std::mem::take(&mut self.checker.violations);
        self.outcome.media_sent = self.checker.media_sent;
        self.outcome.switches = self.checker.switches;
        self.outcome.lane_packets = self.places.iter().map(|place| place.shard.stats().lane_received).sum();
        for stats in self.places.iter().map(|place| place.shard.stats()) {
            if stats.unaccounted > 0 {
                let text = format!("{} packets have no outcome, or two", stats.unaccounted);
                self.outcome.violations.push(text);
            }
            for reason in DropReason::ALL.into_iter().filter(|reason| stats.dropped(*reason) > 0) {
                *self.outcome.drops.entry(reason.as_str()).or_default() += stats.dropped(reason);
            }
        }
        self.outcome
    }

    /// A datagram from anywhere arrives at a shard.
    pub fn inject(&mut self, index: usize, from: SocketAddr, bytes: &[u8]) {
        let route = Route::udp(from, Some(self.server_address(index).ip()));
        let now = self.now;
        self.with_shard(index, |shard, out| shard.ingest(now, &Datagram { route, arrival: now, bytes }, out));
        self.flush(index);
    }

    /// The client in a seat, with what an attacker on its machine could use.
    pub fn client(&mut self, seat: usize) -> Option<&mut Client> {
        self.clients.get_mut(&seat)
    }

    /// The latest datagrams of clients that reached the node, as an eavesdropper has them.
    pub fn overheard(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        self.overheard.iter().map(|(from, bytes)| (*from, bytes.as_slice()))
    }

    /// The client in a seat is gone without a word.
    pub fn vanish(&mut self, seat: usize) {
        if let Some(client) = self.clients.remove(&seat) {
            self.vanished.push(client.address);
            self.waiting.clear();
        }
    }

    /// The next datagram of the client in a seat makes its shard panic.
    pub fn plant_panic(&mut self, seat: usize) {
        if let Some(transport) = self.seats[seat].as_ref().map(|member| member.transport) {
            self.places[usize::from(transport.shard().0)].shard.plant_panic(transport);
        }
    }

    /// Panics of all shards so far.
    pub fn panics(&self) -> u64 {
        self.places.iter().map(|place| place.shard.stats().panics).sum()
    }

    /// Transports and known addresses of all shards: what strangers must not add to.
    pub fn state_len(&self) -> (usize, usize) {
        let sum = |count: fn(&Shard) -> usize| self.places.iter().map(|place| count(&place.shard)).sum();
        (sum(Shard::transports_len), sum(Shard::tuples_len))
    }

    /// Time since the run began.
    pub fn elapsed(&self) -> Duration {
        self.scenario.duration.saturating_sub(self.end.saturating_duration_since(self.now))
    }

    fn step(&mut self) {
        self.now = self.next_time();
        while let Some(datagram) = self.network.poll(self.now) {
            match self.by_address.get(&datagram.to).copied() {
                Some(seat) => self.deliver_to_client(seat, datagram.from, &datagram.bytes),
                None => self.deliver_to_node(datagram.from, datagram.to, &datagram.bytes),
            }
        }
        let seats: Vec<usize> = self.clients.keys().copied().collect();
        for seat in seats {
            self.turn_client(seat);
        }
        for _ in 0..3 {
            (0..self.places.len()).for_each(|index| self.turn_shard(index));
        }
        self.act();
        self.look();
    }

    fn next_time(&mut self) -> Instant {
        let now = self.now;
        let clients = self.clients.values_mut().map(Client::next_due).min();
        let shards = self.places.iter().map(|place| place.shard.poll_timeout(now, STEP_MAX)).min();
        let times = [self.network.next_arrival(), clients, shards, Some(self.next_action)];
        let next = times.into_iter().flatten().min().unwrap_or(self.end);
        next.clamp(now + Duration::from_micros(200), now + STEP_MAX)
    }

    fn deliver_to_client(&mut self, seat: usize, from: SocketAddr, bytes: &[u8]) {
        let Some(client) = self.clients.get_mut(&seat) else { return };
        client.handle(self.now, from, bytes);
        let sealed = client.take_sealed();
        self.send_from_client(seat, sealed);
    }

    fn deliver_to_node(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if to.ip() != self.server_address(0).ip() {
            // Under way to someone who has left.
            return;
        }
        if let Some(identity) = self.under_way.get(bytes) {
            let is_muted =
                self.seats.iter().flatten().any(|member| member.index == identity.client && member.muted);
            if !is_muted {
                self.checker.on_reached(self.now, identity);
            }
        }
        if self.overheard.len() == OVERHEARD {
            self.overheard.pop_front();
        }
        self.overheard.push_back((from, bytes.to_vec()));
        let index = if self.scenario.single_port {
            // As the kernel does for SO_REUSEPORT: by the tuple, whoever it belongs to.
            usize::from(from.port()) % self.places.len()
        } else {
            usize::from(to.port() - 7_000)
        };
        let route = Route::udp(from, Some(to.ip()));
        let now = self.now;
        self.with_shard(index, |shard, out| {
            // As the shard's thread does.
            let ingest = || shard.ingest(now, &Datagram { route, arrival: now, bytes }, out);
            if catch_unwind(AssertUnwindSafe(ingest)).is_err() {
                shard.contain(now, out);
            }
        });
    }

    fn turn_client(&mut self, seat: usize) {
        let Some(client) = self.clients.get_mut(&seat) else { return };
        let is_quiet = self.now + QUIET > self.end;
        client.publisher.muted = is_quiet || self.seats[seat].as_ref().is_some_and(|member| member.muted);
        let sealed = client.handle_timeout(self.now);
        if client.gave_up {
            // On a bad link it may miss every answer; its person tries again. On any other the node did not answer.
            if self.scenario.quality.loss_permille < 100 {
                self.checker.violations.push(format!("client {} was not answered any more", client.index));
            }
            self.leave(seat);
            self.join(seat);
            return;
        }
        self.send_from_client(seat, sealed);
    }

    fn send_from_client(&mut self, seat: usize, sealed: Vec<Sealed>) {
        let Some(client) = self.clients.get_mut(&seat) else { return };
        let trains: Vec<_> = client.egress.drain().collect();
        for train in trains {
            for datagram in train.datagrams() {
                let to = train.route.remote;
                self.network.send(self.now, client.quality, &mut self.rng, client.address, to, datagram);
            }
            client.egress.give_back(train.buffer);
        }
        for packet in sealed {
            let to = client.peer.route().map_or(client.server, |route| route.remote);
            let fate =
                self.network.send(self.now, client.quality, &mut self.rng, client.address, to, &packet.bytes);
            match (fate, packet.identity) {
                (Fate::Delivered, Some(identity)) => drop(self.under_way.insert(packet.bytes, identity)),
                (Fate::Lost, _) => self.outcome.lost += 1,
                (Fate::Delivered, None) => {}
            }
        }
    }

    fn turn_shard(&mut self, index: usize) {
        let now = self.now;
        self.with_shard(index, |shard, out| {
            shard.handle_lanes(now, out);
            shard.handle_timeout(now, out);
        });
        loop {
            let done = self.with_shard(index, |shard, out| shard.egress(out));
            self.flush(index);
            if done {
                break;
            }
        }
        let events = std::mem::take(&mut self.places[index].events);
        events.into_iter().for_each(|event| self.on_event(event));
    }

    fn with_shard<T>(&mut self, index: usize, f: impl FnOnce(&mut Shard, &mut Output<'_>) -> T) -> T {
        let Place { shard, lanes, egress, events } = &mut self.places[index];
        f(shard, &mut Output { egress, events, lanes })
    }

    fn flush(&mut self, index: usize) {
        let trains: Vec<_> = self.places[index].egress.drain().collect();
        for train in trains {
            if let Some(range) = train.twcc {
                self.places[index].shard.handle_flushed(self.now, range);
            }
            for datagram in train.datagrams() {
                self.send_from_node(index, &train.route, datagram);
            }
            self.places[index].egress.give_back(train.buffer);
        }
    }

    fn send_from_node(&mut self, index: usize, route: &Route, bytes: &[u8]) {
        let seat = self.by_address.get(&route.remote).copied();
        let viewer = seat.and_then(|seat| self.clients.get(&seat)).map(|client| client.index);
        let is_media = classify(bytes) == Kind::Rtp;
        let is_due = is_media && !self.planted && self.outcome.joins > 1 && self.rng.chance(2);
        // On a line without repair, so that the gap stays.
        let is_audio = bytes.get(11).is_some_and(|low| low % 4 == 0);
        if is_due && is_audio && self.scenario.plant == Plant::SequenceGap {
            self.planted = true;
            self.swallowed = viewer;
            return;
        }
        if self.vanished.contains(&route.remote) {
            return;
        }
        self.checker.on_sent(self.now, route.remote, viewer, is_media, bytes);
        if is_due && self.scenario.plant == Plant::NonceReuse {
            self.planted = true;
            let mut other = bytes.to_vec();
            other[bytes.len() / 2] ^= 1;
            self.checker.on_sent(self.now, route.remote, viewer, is_media, &other);
        }
        let from = self.server_address(index);
        let from = SocketAddr::new(route.local.unwrap_or(from.ip()), from.port());
        let Some(client) = seat.and_then(|seat| self.clients.get_mut(&seat)) else { return };
        if self.network.send(self.now, client.quality, &mut self.rng, from, route.remote, bytes) == Fate::Lost
        {
            self.outcome.lost += 1;
            if let Some((ssrc, wire)) = client.read_lost_repair(bytes) {
                self.checker.on_repair_lost(client.index, ssrc, wire);
            }
        }
    }

    fn server_address(&self, index: usize) -> SocketAddr {
        let port = if self.scenario.single_port { 7_000 } else { 7_000 + index as u16 };
        SocketAddr::new(IpAddr::from([10, 0, 0, 1]), port)
    }

    /// Someone sits down.
    fn join(&mut self, seat: usize) {
        let index = self.next_index;
        self.next_index += 1;
        self.outcome.joins += 1;
        let shard = ShardId((usize::from(index) % self.places.len()) as u8);
        let mint = |low: u64| 1_000 * (u64::from(index) + 1) + low;
        let transport = TransportId::new(shard, mint(0));
        let tracks = [TrackId::new(shard, mint(1)), TrackId::new(shard, mint(2))];
        let local_ice =
            IceCredentials { ufrag: transport.ufrag(), pwd: format!("server-password-of-{index:08}") };
        let remote_ice =
            IceCredentials { ufrag: format!("client{index}"), pwd: format!("client-password-of-{index:08}") };
        let rtc = |ice: &IceCredentials| auralink_rtc::ice::IceCredentials {
            ufrag: ice.ufrag.clone(),
            pwd: ice.pwd.clone(),
        };
        let address = SocketAddr::new(IpAddr::from([10, 1, 0, seat as u8 + 1]), 20_000 + index);
        let numbers = self.scenario.codecs.numbers(index);
        let invitation = Invitation {
            transport,
            tracks,
            quality: self.scenario.quality,
            server: self.server_address(usize::from(shard.0)),
            server_ice: rtc(&local_ice),
            server_fingerprint: self.certificate.fingerprint(),
            own_ice: rtc(&remote_ice),
            numbers: numbers.clone(),
        };
        self.seats[seat] = Some(Member {
            transport,
            index,
            version: 0,
            local_ice,
            remote_ice,
            remote_fingerprint: self.client_certificate.fingerprint(),
            tracks,
            live: [false; 2],
            muted: false,
            numbers,
        });
        let mut client = Client::new(self.now, index, address, invitation, &self.client_certificate);
        client.publisher.deaf = self.scenario.plant == Plant::LostKeyframeRequest;
        for other in (0..self.scenario.seats).filter(|other| *other != seat) {
            for video in [false, true] {
                let ssrc = control::line_ssrc(index, other, video);
                client.lines.insert(ssrc, Received { video, ..Received::default() });
                client.repairs.insert(control::repair_ssrc(ssrc), ssrc);
            }
        }
        self.by_address.insert(address, seat);
        self.clients.insert(seat, client);
        self.describe();
    }

    /// Someone gets up; their account is settled.
    fn leave(&mut self, seat: usize) {
        let Some(member) = self.seats[seat].take() else { return };
        let shard = usize::from(member.transport.shard().0);
        let now = self.now;
        self.settle(shard, &member);
        self.with_shard(shard, |shard, out| {
            shard.handle_command(now, Command::RemoveTransport(member.transport), out)
        });
        self.turn_shard(shard);
        let Some(client) = self.clients.remove(&seat) else { return };
        self.by_address.remove(&client.address);
        self.checker.on_gone(self.now, client.address);
        self.waiting.retain(|(viewer, _), _| *viewer != client.index);
        for (ssrc, line) in &client.lines {
            self.outcome.media_received += line.packets.len() as u64;
            if let (false, Some(arrived)) = (line.video, line.packets.values().next()) {
                let sender = usize::from(arrived.identity.client);
                *self.outcome.audio.entry((seat, sender)).or_default() += line.packets.len() as u64;
            }
            self.checker.check_line(client.index, *ssrc, line);
        }
        self.checker
            .violations
            .extend(client.faults.iter().take(3).map(|fault| format!("client {}: {fault}", client.index)));
        self.describe();
    }

    /// What the node says it sent someone is what the wire saw.
    fn settle(&mut self, shard: usize, member: &Member) {
        let now = self.now;
        let transport = member.transport;
        self.with_shard(shard, |shard, out| {
            shard.handle_command(now, Command::ReportStats(vec![transport]), out);
        });
        let told = self.places[shard].events.iter().find_map(|event| match event {
            Event::Stats { transport: of, stats } if *of == transport => Some(stats.packets_sent),
            _ => None,
        });
        let others = (0..self.scenario.seats).flat_map(|seat| [(seat, false), (seat, true)]);
        let seen: u64 = others
            .map(|(seat, video)| {
                self.checker.packets(member.index, control::line_ssrc(member.index, seat, video))
            })
            .sum();
        if let Some(told) =
            told.filter(|told| *told != seen + u64::from(self.swallowed == Some(member.index)))
        {
            self.checker
                .violations
                .push(format!("client {}: {told} packets said to be sent, {seen} seen", member.index));
        }
    }

    /// Everyone's specification, one version on.
    fn describe(&mut self) {
        for seat in 0..self.seats.len() {
            let Some(member) = &mut self.seats[seat] else { continue };
            member.version += 1;
            let shard = usize::from(member.transport.shard().0);
            let Some(spec) = control::spec(self.room, &self.seats, seat) else { continue };
            for section in spec.send.iter().filter(|section| section.kind == auralink_proto::MediaKind::Video)
            {
                let viewer = self.seats[seat].as_ref().map_or(0, |member| member.index);
                let key = (viewer, section.ssrc);
                match section.track {
                    Some(_) => drop(self.waiting.entry(key).or_insert(self.now)),
                    None => drop(self.waiting.remove(&key)),
                }
            }
            let now = self.now;
            self.with_shard(shard, |shard, out| {
                shard.handle_command(now, Command::ApplyTransport(Box::new(spec)), out);
            });
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::TrackLive { track, .. } => {
                for member in self.seats.iter_mut().flatten() {
                    if let Some(at) = member.tracks.iter().position(|held| *held == track) {
                        member.live[at] = true;
                    }
                }
                self.describe();
            }
            Event::TransportClosed { transport, reason } => {
                let is_it = |member: &Member| member.transport == transport;
                let Some(seat) = self.seats.iter().position(|held| held.as_ref().is_some_and(is_it)) else {
                    return;
                };
                let client = self.clients.get(&seat);
                if client.is_none() {
                    // Vanished: the node has noticed.
                    self.outcome.noticed += 1;
                    self.seats[seat] = None;
                    self.describe();
                    return;
                }
                if reason == CloseReason::Panicked {
                    // Planted. The second one costs the room its place: nobody need try again.
                    self.leave(seat);
                    if self.panics() < 2 {
                        self.join(seat);
                    }
                    return;
                }
                if client.is_some_and(|client| client.peer.is_connected()) {
                    self.checker.violations.push(format!("{transport:?} closed by itself: {reason:?}"));
                }
                // A client that never got through the loss gives up; its person tries again.
                self.leave(seat);
                self.join(seat);
            }
            _ => {}
        }
    }

    /// Now and then somebody does something.
    fn act(&mut self) {
        if self.now < self.next_action {
            return;
        }
        self.next_action = self.now + Duration::from_millis(500 + self.rng.below(4_000));
        if !self.scenario.restless || self.now + QUIET * 3 > self.end {
            return;
        }
        let seat = self.rng.below(self.seats.len() as u64) as usize;
        if self.seats[seat].is_none() {
            self.join(seat);
            return;
        }
        match self.rng.below(10) {
            0 => self.leave(seat),
            1..=2 => {
                if let Some(member) = &mut self.seats[seat] {
                    member.muted = !member.muted;
                }
                self.describe();
            }
            _ => self.change_intent(seat),
        }
    }

    fn change_intent(&mut self, seat: usize) {
        let Some(member) = &self.seats[seat] else { return };
        let transport = member.transport;
        let other = (seat + 1 + self.rng.below(self.seats.len() as u64 - 1) as usize) % self.seats.len();
        let intent = Intent { layer_max: self.rng.below(3) as u8, paused: self.rng.chance(100) };
        let key = (member.index, control::line_ssrc(member.index, other, true));
        self.checker.on_pause(self.now, key.0, key.1, intent.paused);
        if intent.paused {
            self.paused.insert(key);
        } else if self.paused.remove(&key) {
            self.waiting.insert(key, self.now);
        }
        let command = Command::SetIntent { transport, mid: control::line_mid(other, true), intent };
        let now = self.now;
        self.with_shard(usize::from(transport.shard().0), |shard, out| {
            shard.handle_command(now, command, out)
        });
    }

    /// Everyone who follows a live, unmuted track sees something.
    fn look(&mut self) {
        if self.now < self.next_liveness || self.now + QUIET > self.end {
            return;
        }
        self.next_liveness = self.now + LIVENESS_INTERVAL;
        let waiting: Vec<_> = self.waiting.iter().map(|(key, since)| (*key, *since)).collect();
        for ((viewer, ssrc), since) in waiting {
            let Some(client) = self.clients.values().find(|client| client.index == viewer) else { continue };
            let Some(line) = client.lines.get(&ssrc) else { continue };
            let seat = ((ssrc - 0x4000_0000) % 256 / 4) as usize;
            let is_muted = self.seats[seat].as_ref().is_none_or(|member| member.muted);
            let is_connected = client.peer.is_connected();
            if is_muted || !is_connected || self.paused.contains(&(viewer, ssrc)) {
                self.waiting.insert((viewer, ssrc), self.now);
                continue;
            }
            let name = format!("client {viewer} SSRC {ssrc}");
            self.checker.check_liveness(self.now, &name, since, line.last_arrival);
        }
    }
}

/// Runs one scenario.
pub fn run(scenario: Scenario) -> Outcome {
    World::new(scenario).run()
}
