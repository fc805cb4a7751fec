//! Shards and a room of clients in virtual time, without a network: every datagram goes straight across.
//!
//! A turn is cut into steps ([`Step`]) that a caller can put a probe around: a clock, an allocation counter, or a function that
//! callgrind collects in.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use auralink_proto::{Command, Event, RoomId, ShardId, TrackId, TransportId};
use auralink_rtc::classify::{Kind, classify};
use auralink_rtc::dtls::Certificate;
use auralink_rtc::egress::{Egress, Train};
use auralink_rtc::units::Route;
use auralink_sfu::config::ShardConfig;
use auralink_sfu::lanes::{Lanes, mesh};
use auralink_sfu::shard::{Datagram, Output, Shard};
use auralink_sfu::stats::DropReason;

use crate::room::{Media, Plan, Room, Seat};
use crate::source::FRAME_INTERVAL;

/// As a shard's thread has them.
const TRAINS_MAX: usize = 64;
/// Datagrams taken in between two egresses, as a shard's thread does.
const DATAGRAMS_PER_DRAIN: usize = 32;
/// Turns per frame interval: one brings the frame, the others timers and feedback.
const TURNS_PER_FRAME: u32 = 4;
pub const TURN: Duration = Duration::from_millis(FRAME_INTERVAL.as_millis() as u64 / TURNS_PER_FRAME as u64);
/// Longest sleep of a shard's thread.
const HORIZON: Duration = Duration::from_millis(250);
/// Virtual time within which everyone must have connected and been joined to the media.
const CONNECT_MAX: Duration = Duration::from_secs(20);

/// A part of a shard's turn.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// Media in: opened into the history, subscribers marked.
    Ingest,
    /// Media out: rewritten and sealed into trains, trains drained and given back.
    Egress,
    /// RTCP in: reports, requests, transport-wide feedback.
    Feedback,
    /// STUN and DTLS in.
    Slow,
    /// Lanes from other shards.
    Lanes,
    /// Timers: reports, feedback to the publisher, consent.
    Timers,
}

/// Something that wants to be around each step. It calls what it is given exactly once.
pub type Probe<'a> = &'a mut dyn FnMut(Step, &mut dyn FnMut());

/// How a stage is set.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub subscribers: usize,
    /// Transports go to the shards in turn: every shard but the first gets the media over a lane.
    pub shards: usize,
    pub media: Media,
    pub opens_media: bool,
}

/// One shard and its ends of everything.
struct Place {
    shard: Shard,
    lanes: Lanes,
    egress: Egress,
    events: Vec<Event>,
    trains: Vec<Train>,
    server: SocketAddr,
}

pub struct Stage {
    pub room: Room,
    pub now: Instant,
    places: Vec<Place>,
    /// Datagrams from a client that the network loses, counted down to the next.
    pub loses_one_in: Option<u32>,
    until_loss: u32,
}

impl Place {
    fn with_output<T>(&mut self, f: impl FnOnce(&mut Shard, &mut Output<'_>) -> T) -> T {
        let Self { shard, egress, events, lanes, .. } = self;
        f(shard, &mut Output { egress, events, lanes })
    }

    fn ingest(&mut self, now: Instant, datagrams: &[(SocketAddr, Vec<u8>)]) {
        let local = Some(self.server.ip());
        self.with_output(|shard, out| {
            for (remote, bytes) in datagrams {
                let route = Route::udp(*remote, local);
                shard.ingest(now, &Datagram { route, arrival: now, bytes }, out);
            }
        });
    }

    /// One round of sending; true when nothing is left.
    fn egress(&mut self, now: Instant) -> bool {
        let done = self.with_output(|shard, out| shard.egress(out));
        let Self { shard, egress, trains, .. } = self;
        for train in egress.drain() {
            if let Some(range) = train.twcc {
                shard.handle_flushed(now, range);
            }
            trains.push(train);
        }
        done
    }

    fn give_back(&mut self) {
        for train in self.trains.drain(..) {
            self.egress.give_back(train.buffer);
        }
    }
}

impl Stage {
    /// Everyone takes a seat; nobody is connected yet.
    pub fn new(setting: Setting) -> Self {
        // The only reading of a clock: all that matters is the distance from here.
        let now = Instant::now();
        let certificate = Certificate::generate_for_simulation(1).unwrap();
        let seats_max = (setting.subscribers + 1).next_power_of_two().max(64);
        let config =
            ShardConfig { transports_max: seats_max, tracks_max: 2 * seats_max, ..ShardConfig::default() };
        let places = mesh(setting.shards).into_iter().enumerate().map(|(index, lanes)| Place {
            shard: Shard::new(ShardId(index as u8), config, certificate.clone(), now, 1 + index as u64),
            lanes,
            egress: Egress::new(TRAINS_MAX),
            events: Vec::with_capacity(1_024 + seats_max * 4),
            trains: Vec::with_capacity(TRAINS_MAX),
            server: SocketAddr::from(([10, 0, 0, 1 + index as u8], 7_882)),
        });
        let places: Vec<Place> = places.collect();
        let seats: Vec<Seat> = (0..=setting.subscribers)
            .map(|index| {
                let home = index % setting.shards;
                let shard = ShardId(home as u8);
                let low = 1_000_000 + index as u64;
                Seat {
                    transport: TransportId::new(shard, low),
                    tracks: [TrackId::new(shard, 2 * low), TrackId::new(shard, 2 * low + 1)],
                    address: address_of(index),
                    server: places[home].server,
                }
            })
            .collect();
        let plan = Plan {
            id: RoomId::new(ShardId(0), 1),
            server_fingerprint: certificate.fingerprint(),
            media: setting.media,
            opens_media: setting.opens_media,
        };
        let mut stage =
            Self { room: Room::new(now, plan, &seats), now, places, loses_one_in: None, until_loss: 0 };
        for spec in stage.room.specs().collect::<Vec<_>>() {
            let place = &mut stage.places[usize::from(spec.id.shard().0)];
            let command = Command::ApplyTransport(Box::new(spec));
            place.with_output(|shard, out| shard.handle_command(now, command, out));
        }
        stage
    }

    /// Runs the real handshakes until everyone is connected and, if there is media, receives it.
    pub fn connect(&mut self) {
        let end = self.now + CONNECT_MAX;
        while !(self.room.is_connected() && self.room.is_fed()) {
            assert!(self.now < end, "not everyone connected: {:?}", self.drops());
            self.turn(&mut |_, work| work());
        }
        // What joining brings about (keyframes, layers coming alive, first memory of each stream) is over soon after.
        for _ in 0..TURNS_PER_FRAME * 25 {
            self.turn(&mut |_, work| work());
        }
    }

    /// Time moves on by one frame.
    pub fn frame(&mut self, probe: Probe<'_>) {
        for _ in 0..TURNS_PER_FRAME {
            self.turn(probe);
        }
    }

    /// Time moves on by one turn: clients send what is due, shards take it in, forward it, and do their timers.
    pub fn turn(&mut self, probe: Probe<'_>) {
        self.now += TURN;
        let mut inbound: Vec<Vec<(SocketAddr, Vec<u8>)>> = vec![Vec::new(); self.places.len()];
        for (seat, bytes) in self.room.poll(self.now) {
            let client = &self.room.clients[seat];
            inbound[usize::from(client.transport.shard().0)].push((client.address, bytes));
        }
        for (index, datagrams) in inbound.into_iter().enumerate() {
            self.take_in(index, &datagrams, probe);
        }
        for index in 0..self.places.len() {
            self.turn_of(index, probe);
        }
    }

    /// Time passes without anything arriving: a shard's thread turns when it asked to be woken, and at its longest sleep. Gives
    /// the number of turns.
    pub fn idle(&mut self, time: Duration, probe: Probe<'_>) -> u64 {
        let (start, end) = (self.now, self.now + time);
        let mut turns = 0;
        for index in 0..self.places.len() {
            self.now = start;
            loop {
                let (mut until, now) = (end, self.now);
                probe(Step::Timers, &mut || until = self.places[index].shard.poll_timeout(now, HORIZON));
                if until >= end {
                    break;
                }
                self.now = until.max(now);
                self.turn_of(index, probe);
                turns += 1;
            }
        }
        self.now = end;
        turns
    }

    /// What a shard's thread does in every turn, whether anything arrived or not.
    fn turn_of(&mut self, index: usize, probe: Probe<'_>) {
        let now = self.now;
        // As long as something waits in the slow lane, a shard's thread turns without sleeping.
        let mut is_waiting = true;
        while is_waiting {
            probe(Step::Slow, &mut || {
                is_waiting = self.places[index].with_output(|shard, out| shard.handle_slow(now, out));
            });
            self.send(index, probe);
        }
        probe(Step::Lanes, &mut || {
            self.places[index].with_output(|shard, out| shard.handle_lanes(now, out));
        });
        self.send(index, probe);
        probe(Step::Timers, &mut || {
            self.places[index].with_output(|shard, out| shard.handle_timeout(now, out));
        });
        self.send(index, probe);
    }

    fn take_in(&mut self, index: usize, datagrams: &[(SocketAddr, Vec<u8>)], probe: Probe<'_>) {
        let step = |datagram: &(SocketAddr, Vec<u8>)| match classify(&datagram.1) {
            Kind::Rtp => Step::Ingest,
            Kind::Rtcp => Step::Feedback,
            Kind::Stun | Kind::Dtls | Kind::Other => Step::Slow,
        };
        for alike in datagrams.chunk_by(|a, b| step(a) == step(b)) {
            for drain in alike.chunks(DATAGRAMS_PER_DRAIN) {
                let now = self.now;
                probe(step(&drain[0]), &mut || self.places[index].ingest(now, drain));
                self.send(index, probe);
            }
        }
    }

    /// Sends everything pending, as many rounds as the train buffers need, and lets the clients have it.
    fn send(&mut self, index: usize, probe: Probe<'_>) {
        loop {
            let (now, mut done) = (self.now, false);
            probe(Step::Egress, &mut || done = self.places[index].egress(now));
            let place = &self.places[index];
            for train in &place.trains {
                let seat = seat_of(train.route.remote);
                for datagram in train.datagrams() {
                    if is_lost(self.loses_one_in, &mut self.until_loss, datagram) {
                        continue;
                    }
                    self.room.deliver(now, seat, place.server, datagram);
                }
            }
            probe(Step::Egress, &mut || self.places[index].give_back());
            if done {
                return;
            }
        }
    }

    /// Packets forwarded so far, by all shards.
    pub fn forwarded(&self) -> u64 {
        self.places.iter().map(|place| place.shard.stats().packets_sent).sum()
    }

    /// Packets taken in from the publisher so far.
    pub fn received(&self) -> u64 {
        self.places.iter().map(|place| place.shard.stats().packets_received).sum()
    }

    pub fn retransmitted(&self) -> u64 {
        self.places.iter().map(|place| place.shard.stats().retransmitted).sum()
    }

    /// Packets that crossed a lane.
    pub fn crossed(&self) -> u64 {
        self.places.iter().map(|place| place.shard.stats().lane_received).sum()
    }

    /// What was dropped, by name, since the start.
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        let dropped = |reason| self.places.iter().map(|place| place.shard.stats().dropped(reason)).sum();
        DropReason::ALL
            .into_iter()
            .map(|reason| (reason.as_str(), dropped(reason)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Events the shards gave since the last call.
    pub fn take_events(&mut self) -> usize {
        self.places.iter_mut().map(|place| place.events.drain(..).count()).sum()
    }
}

/// Media is lost one in so many; everything else arrives.
fn is_lost(one_in: Option<u32>, until: &mut u32, datagram: &[u8]) -> bool {
    let Some(one_in) = one_in.filter(|_| classify(datagram) == Kind::Rtp) else { return false };
    *until = until.checked_sub(1).unwrap_or(one_in - 1);
    *until == 0
}

/// The address says the seat, so that finding it costs nothing.
fn address_of(seat: usize) -> SocketAddr {
    let [high, low] = (seat as u16).to_be_bytes();
    SocketAddr::from(([10, 1, high, low], 20_000))
}

fn seat_of(address: SocketAddr) -> usize {
    match address {
        SocketAddr::V4(address) => {
            let [_, _, high, low] = address.ip().octets();
            usize::from(u16::from_be_bytes([high, low]))
        }
        SocketAddr::V6(_) => panic!("the stage gives out IPv4 addresses"),
    }
}
