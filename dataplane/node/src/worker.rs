//! One shard's thread: a plain loop of bounded turns. The only place that reads the clock, once per turn.
//!
//! A turn drains the socket and the lanes into the shard, sends what became pending, then does commands and timers. It
//! parks only when a whole turn found nothing to do.

pub(crate) mod streams;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use auralink_proto::Event;
use auralink_ring::{Backend, Outgoing, Steering};
use auralink_rtc::egress::Egress;
use auralink_rtc::units::{Protocol, Route};
use auralink_sfu::lanes::Lanes;
use auralink_sfu::shard::{Datagram, Output, Shard};

use crate::mailbox::ShardMailbox;
use crate::park::Parking;
use crate::report::{Reports, ShardReport};
use streams::Streams;

/// Train buffers of one shard: at most this many sends are in the kernel's hands.
pub(crate) const TRAINS_MAX: usize = 64;
/// Messages taken from the socket between two egresses.
const MESSAGES_PER_DRAIN: usize = 32;
/// Drains in one turn before commands and timers get theirs.
const DRAINS_PER_TURN: usize = 8;
/// Commands handled in one turn.
const COMMANDS_PER_TURN: usize = 16;
/// Longest sleep.
const HORIZON: Duration = Duration::from_millis(250);
/// Between reports for metrics and health.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);
/// A datagram cannot have waited longer in a socket buffer; a larger age is a clock that was set.
const AGE_MAX: Duration = Duration::from_millis(500);

pub(crate) struct Worker {
    pub(crate) shard: Shard,
    pub(crate) backend: Backend,
    pub(crate) streams: Streams,
    pub(crate) lanes: Lanes,
    pub(crate) mailbox: ShardMailbox,
    /// In single-port mode, where the kernel allows it.
    pub(crate) steering: Option<Arc<Steering>>,
    /// Of every shard, in order.
    pub(crate) parking: Vec<Parking>,
    pub(crate) reports: Reports,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) egress: Egress,
    pub(crate) events: Vec<Event>,
    pub(crate) outgoing: Vec<Outgoing>,
    /// Buffers of trains that went to connections, on their way back.
    pub(crate) spent: Vec<Box<[u8]>>,
    pub(crate) next_report: Instant,
    pub(crate) last_report: Instant,
    /// Time asleep since the last report.
    pub(crate) slept: Duration,
}

impl Worker {
    /// Turns until told to stop or the kernel refuses for good.
    pub(crate) fn run(mut self) -> io::Result<()> {
        while !self.stop.load(Ordering::Relaxed) && !self.mailbox.is_abandoned() {
            let (now, worked) = self.turn()?;
            if !worked {
                self.park(now)?;
            }
        }
        let index = usize::from(self.shard.id().0);
        tracing::info!(shard.id = index, "shard stopped");
        Ok(())
    }

    /// One bounded turn; whether it found anything to do.
    fn turn(&mut self) -> io::Result<(Instant, bool)> {
        let now = Instant::now();
        let realtime_ns =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let mut worked = false;
        for _ in 0..DRAINS_PER_TURN {
            let messages = self.drain(now, realtime_ns)?;
            self.handle_lanes(now);
            self.flush(now);
            worked |= messages > 0;
            worked |= self.with_output(now, |shard, out| shard.handle_slow(now, out)).unwrap_or(true);
            if messages < MESSAGES_PER_DRAIN {
                break;
            }
        }
        worked |= self.turn_streams(now)?;
        for _ in 0..COMMANDS_PER_TURN {
            let Some(command) = self.shard.takes_commands().then(|| self.mailbox.poll()).flatten() else {
                break;
            };
            worked = true;
            self.with_output(now, |shard, out| shard.handle_command(now, command, out));
            if !self.egress.has_room() {
                self.flush(now);
            }
        }
        self.with_output(now, |shard, out| shard.handle_timeout(now, out));
        self.flush(now);
        for event in self.events.drain(..) {
            self.mailbox.emit(event);
        }
        self.steer();
        self.wake_others();
        self.report(now);
        Ok((now, worked))
    }

    /// Hands the socket's datagrams to the shard.
    fn drain(&mut self, now: Instant, realtime_ns: u64) -> io::Result<usize> {
        let Self { shard, backend, lanes, egress, events, .. } = self;
        let mut out = Output { egress, events, lanes };
        backend.receive(MESSAGES_PER_DRAIN, &mut |message| {
            let age = message.realtime_ns.map_or(0, |arrival| realtime_ns.saturating_sub(arrival));
            let age = Duration::from_nanos(age).min(AGE_MAX);
            let arrival = now.checked_sub(age).unwrap_or(now);
            let route = Route::udp(message.from, message.to);
            for bytes in message.datagrams() {
                let datagram = Datagram { route, arrival, bytes };
                guarded(now, shard, &mut out, |shard, out| shard.ingest(now, &datagram, out));
            }
        })
    }

    /// Hands the connections' datagrams to the shard, and closes those that are no peer's any more.
    fn turn_streams(&mut self, now: Instant) -> io::Result<bool> {
        let Self { shard, streams, lanes, egress, events, .. } = self;
        let mut out = Output { egress, events, lanes };
        let worked = streams.turn(&mut |route, bytes| {
            let datagram = Datagram { route: *route, arrival: now, bytes };
            guarded(now, shard, &mut out, |shard, out| shard.ingest(now, &datagram, out));
            shard.is_stream_known(route.remote)
        })?;
        if worked {
            self.flush(now);
        }
        self.settle_streams(now);
        Ok(worked)
    }

    /// Tells the shard which connections ended, and ends those it has given up.
    fn settle_streams(&mut self, now: Instant) {
        let Self { shard, streams, lanes, egress, events, .. } = self;
        let mut out = Output { egress, events, lanes };
        for remote in streams.drain_ended() {
            guarded(now, shard, &mut out, |shard, out| shard.handle_stream_end(now, remote, out));
        }
        for remote in shard.drain_streams_over() {
            streams.close(remote);
        }
        let full = streams.take_full();
        if full > 0 {
            shard.note_stream_full(full);
        }
    }

    fn handle_lanes(&mut self, now: Instant) {
        if self.lanes.has_input() {
            self.with_output(now, |shard, out| shard.handle_lanes(now, out));
        }
    }

    /// Sends everything pending, in as many rounds as the train buffers need.
    fn flush(&mut self, now: Instant) {
        loop {
            // After a panic the rest is offered again.
            let done = self.with_output(now, |shard, out| shard.egress(out)).unwrap_or(false);
            self.submit(now);
            if done {
                return;
            }
        }
    }

    /// Gives the ready trains to the kernel and takes their buffers back.
    fn submit(&mut self, now: Instant) {
        for train in self.egress.drain() {
            if let Some(range) = train.twcc {
                self.shard.handle_flushed(now, range);
            }
            if train.route.protocol == Protocol::Tcp {
                self.streams.send(&train);
                self.spent.push(train.buffer);
                continue;
            }
            self.outgoing.push(Outgoing {
                to: train.route.remote,
                from: train.route.local,
                segment: train.segment,
                len: train.len,
                buffer: train.buffer,
            });
        }
        for buffer in self.spent.drain(..) {
            self.egress.give_back(buffer);
        }
        for sent in self.backend.submit(&mut self.outgoing) {
            self.egress.give_back(sent.buffer);
        }
    }

    /// Calls the shard; `None` when that panicked, which cost the peer it was about.
    fn with_output<T>(
        &mut self,
        now: Instant,
        f: impl FnOnce(&mut Shard, &mut Output<'_>) -> T,
    ) -> Option<T> {
        let Self { shard, egress, events, lanes, .. } = self;
        guarded(now, shard, &mut Output { egress, events, lanes }, f)
    }

    /// Tells the kernel whose datagrams are ours. What does not fit its map goes on to cross a lane.
    fn steer(&mut self) {
        let own = u32::from(self.shard.id().0);
        for (remote, is_ours) in self.shard.drain_claims() {
            match &self.steering {
                Some(steering) if is_ours => drop(steering.insert(remote, own)),
                Some(steering) => steering.remove(remote),
                None => {}
            }
        }
    }

    fn wake_others(&mut self) {
        let woken = self.lanes.take_woken();
        if woken != 0 {
            for (index, parking) in self.parking.iter().enumerate() {
                if woken >> index & 1 == 1 {
                    parking.wake();
                }
            }
        }
    }

    /// Sleeps until something arrives, a wake, or the next timer.
    fn park(&mut self, now: Instant) -> io::Result<()> {
        let until = self.shard.poll_timeout(now, HORIZON);
        let timeout = until.saturating_duration_since(now);
        let own = usize::from(self.shard.id().0);
        let Some(parking) = self.parking.get(own).cloned() else { return Ok(()) };
        parking.announce();
        let is_awaited = self.lanes.has_input() || self.mailbox.has_command() || self.streams.has_arrival();
        let result = if is_awaited || timeout.is_zero() {
            Ok(())
        } else {
            let before = Instant::now();
            let waited = self.backend.wait(timeout);
            self.slept += before.elapsed();
            waited
        };
        parking.leave();
        result
    }

    fn report(&mut self, now: Instant) {
        if now < self.next_report {
            return;
        }
        self.next_report = now + REPORT_INTERVAL;
        let interval = now.saturating_duration_since(self.last_report).as_micros().max(1);
        let asleep = (std::mem::take(&mut self.slept).as_micros() * 1_000 / interval) as usize;
        self.last_report = now;
        let busy_permille = 1_000_usize.saturating_sub(asleep);
        let transports = self.shard.transports_len();
        self.mailbox.report_load(transports, busy_permille);
        let report = ShardReport {
            stats: *self.shard.stats(),
            ring: self.backend.counters(),
            io_backend: self.backend.kind().as_str(),
            transports,
            tracks: self.shard.tracks_len(),
            tuples: self.shard.tuples_len(),
            streams: self.streams.len(),
            busy_permille,
            events_dropped: self.mailbox.dropped(),
            written: now,
        };
        self.reports.write(usize::from(self.shard.id().0), report);
    }
}

/// Keeps a panic of the shard's code to the peer it was about. Ring and buffers are outside: nothing of them is lost.
fn guarded<T>(
    now: Instant,
    shard: &mut Shard,
    out: &mut Output<'_>,
    f: impl FnOnce(&mut Shard, &mut Output<'_>) -> T,
) -> Option<T> {
    // What the closure may leave half done belongs to the peer that `contain` then forgets.
    match catch_unwind(AssertUnwindSafe(|| f(shard, out))) {
        Ok(value) => Some(value),
        Err(_) => {
            tracing::error!(
                shard.id = usize::from(shard.id().0),
                "a peer's handling panicked: the peer is removed"
            );
            shard.contain(now, out);
            None
        }
    }
}
