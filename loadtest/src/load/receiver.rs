//! The thread that receives for all connections: every datagram of every socket, feedback, checks, handshakes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver as Inbox, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use auralink_ring::client::{Readiness, ReceiveBatch, monotonic_ns, thread_cpu_ns};
use hdrhistogram::Histogram;

use super::gaps::Counts;
use super::point::Arrived;
use super::sink::{Sink, Tally, Tools};
use super::stream::Incoming;

/// Sockets handled in one round.
const EVENTS_MAX: usize = 1_024;
/// Between two looks at the thread's own processor time.
const CPU_INTERVAL_NS: u64 = 10_000_000;
/// Without anything else to do, peers are looked after this often.
const IDLE: Duration = Duration::from_millis(1);

/// How the thread works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// One media packet in this many is opened and compared.
    pub(crate) sample_one_in: u32,
    /// Rest between two rounds: while it rests no send has to wake it, as if the clients were on other machines.
    pub(crate) nap: Duration,
}

/// Numbers that can be read while the thread works.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) media: AtomicU64,
    pub(crate) media_bytes: AtomicU64,
    pub(crate) datagrams: AtomicU64,
    pub(crate) cpu_ns: AtomicU64,
}

/// One stream of one sink.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamReport {
    pub(crate) kind: Incoming,
    pub(crate) counts: Counts,
    pub(crate) missing: u64,
    /// Missing, but so lately that a repair may still come.
    pub(crate) unsettled: u64,
}

/// One sink.
#[derive(Clone, Debug)]
pub(crate) struct SinkReport {
    /// Whether it should have heard anything.
    pub(crate) listens: bool,
    pub(crate) tally: Tally,
    pub(crate) streams: Vec<StreamReport>,
    /// Datagrams lost because our own socket buffer was full.
    pub(crate) overflow: u32,
}

/// Everything since the last restart; sinks removed since then are included.
pub(crate) struct Collected {
    pub(crate) arrived: Arrived,
    pub(crate) latency_us: Histogram<u64>,
}

enum Command {
    Add(u64, Box<Sink>),
    Remove(u64),
    Repairs(u64, Vec<(u32, u32)>),
    Restart(Sender<()>),
    Collect(Sender<Collected>),
    Stop,
}

/// The thread's handle.
pub(crate) struct Receiver {
    commands: Sender<Command>,
    pub(crate) live: Arc<Live>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Receiver {
    pub(crate) fn start(settings: Settings) -> Result<Self> {
        let (commands, inbox) = mpsc::channel();
        let live = Arc::new(Live::default());
        let shared = Arc::clone(&live);
        let thread = std::thread::Builder::new()
            .name("receiver".into())
            .spawn(move || Thread::new(settings, shared)?.run(&inbox))
            .context("cannot start a thread")?;
        Ok(Self { commands, live, thread: Some(thread) })
    }

    // A thread that ended says why when it is joined; what it is told until then is lost.
    pub(crate) fn add(&self, id: u64, sink: Sink) {
        let _ = self.commands.send(Command::Add(id, Box::new(sink)));
    }

    pub(crate) fn remove(&self, id: u64) {
        let _ = self.commands.send(Command::Remove(id));
    }

    pub(crate) fn name_repairs(&self, id: u64, repairs: Vec<(u32, u32)>) {
        let _ = self.commands.send(Command::Repairs(id, repairs));
    }

    /// Counts from zero.
    pub(crate) fn restart(&self) -> Result<()> {
        let (reply, replied) = mpsc::channel();
        let _ = self.commands.send(Command::Restart(reply));
        replied.recv().context("the receiving thread ended")
    }

    pub(crate) fn collect(&self) -> Result<Collected> {
        let (reply, replied) = mpsc::channel();
        let _ = self.commands.send(Command::Collect(reply));
        replied.recv().context("the receiving thread ended")
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        let _ = self.commands.send(Command::Stop);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => anyhow::bail!("the receiving thread panicked"),
            None => Ok(()),
        }
    }
}

struct Thread {
    settings: Settings,
    live: Arc<Live>,
    readiness: Readiness,
    batch: ReceiveBatch,
    tools: Tools,
    sinks: Vec<Option<Box<Sink>>>,
    /// When each sink's peer wants to be looked after, and when its feedback is due.
    due_ns: Vec<(u64, u64)>,
    free: Vec<usize>,
    by_id: HashMap<u64, usize>,
    retired: Arrived,
    counted: (u64, u64, u64),
    next_cpu_ns: u64,
}

impl Thread {
    fn new(settings: Settings, live: Arc<Live>) -> Result<Self> {
        Ok(Self {
            settings,
            live,
            readiness: Readiness::new(EVENTS_MAX).context("epoll")?,
            batch: ReceiveBatch::default(),
            tools: Tools::new(settings.sample_one_in)?,
            sinks: Vec::new(),
            due_ns: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            retired: Arrived::default(),
            counted: (0, 0, 0),
            next_cpu_ns: 0,
        })
    }

    fn run(mut self, inbox: &Inbox<Command>) -> Result<()> {
        loop {
            while let Ok(command) = inbox.try_recv() {
                if !self.obey(command)? {
                    return Ok(());
                }
            }
            let is_napping = !self.settings.nap.is_zero();
            if is_napping {
                std::thread::sleep(self.settings.nap);
            }
            self.readiness.wait(if is_napping { Duration::ZERO } else { IDLE }).context("epoll")?;
            self.tools.clock.adjust();
            for index in 0..self.readiness.ready() {
                if let Some(token) = self.readiness.token(index) {
                    self.receive(token as usize)?;
                }
            }
            self.handle_due();
            self.publish_numbers();
        }
    }

    fn obey(&mut self, command: Command) -> Result<bool> {
        match command {
            Command::Add(id, sink) => self.add(id, sink)?,
            Command::Remove(id) => self.remove(id),
            Command::Repairs(id, repairs) => {
                let at = self.by_id.get(&id).copied().unwrap_or(usize::MAX);
                if let Some(Some(sink)) = self.sinks.get_mut(at) {
                    sink.repairs = repairs;
                }
            }
            Command::Restart(reply) => {
                self.tools.latency_us.reset();
                self.retired = Arrived::default();
                self.sinks.iter_mut().flatten().for_each(|sink| sink.restart());
                // Whoever asked may have gone.
                let _ = reply.send(());
            }
            Command::Collect(reply) => {
                let mut arrived = self.retired.clone();
                self.sinks.iter().flatten().for_each(|sink| arrived.add(&report(sink)));
                let _ = reply.send(Collected { arrived, latency_us: self.tools.latency_us.clone() });
            }
            Command::Stop => return Ok(false),
        }
        Ok(true)
    }

    fn add(&mut self, id: u64, sink: Box<Sink>) -> Result<()> {
        let at = self.free.pop().unwrap_or(self.sinks.len());
        if at == self.sinks.len() {
            self.sinks.push(None);
            self.due_ns.push((u64::MAX, u64::MAX));
        }
        self.readiness.add(&sink.link.socket, at as u64).context("epoll")?;
        if let (Some(place), Some(due)) = (self.sinks.get_mut(at), self.due_ns.get_mut(at)) {
            *place = Some(sink);
            *due = (0, u64::MAX);
        }
        self.by_id.insert(id, at);
        Ok(())
    }

    fn remove(&mut self, id: u64) {
        let Some(at) = self.by_id.remove(&id) else { return };
        let Some(sink) = self.sinks.get_mut(at).and_then(Option::take) else { return };
        self.readiness.remove(&sink.link.socket);
        if sink.hears() {
            self.retired.add(&report(&sink));
        }
        if let Some(due) = self.due_ns.get_mut(at) {
            *due = (u64::MAX, u64::MAX);
        }
        self.free.push(at);
    }

    fn receive(&mut self, at: usize) -> Result<()> {
        let Some(Some(sink)) = self.sinks.get_mut(at) else { return Ok(()) };
        let now_ns = monotonic_ns();
        let link = Arc::clone(&sink.link);
        let mut keys = link.keys();
        let before = (sink.tally.media, sink.tally.media_bytes, sink.tally.datagrams);
        let mut is_peer_touched = false;
        loop {
            let more = self.batch.receive(&link.socket).context("cannot receive")?;
            for datagram in self.batch.datagrams() {
                is_peer_touched |= sink.on_datagram(now_ns, &mut keys, &datagram, &mut self.tools);
            }
            if !more {
                break;
            }
        }
        let (media, bytes, datagrams) = &mut self.counted;
        *media += sink.tally.media - before.0;
        *bytes += sink.tally.media_bytes - before.1;
        *datagrams += sink.tally.datagrams - before.2;
        let Some(due) = self.due_ns.get_mut(at) else { return Ok(()) };
        if is_peer_touched {
            due.0 = sink.timeout_ns(&mut keys, &self.tools.clock);
        }
        if due.1 == u64::MAX && sink.hears() {
            due.1 = now_ns;
        }
        Ok(())
    }

    fn handle_due(&mut self) {
        let now_ns = monotonic_ns();
        for (sink, due) in self.sinks.iter_mut().zip(&mut self.due_ns) {
            if now_ns < due.0.min(due.1) {
                continue;
            }
            let Some(sink) = sink else { continue };
            if now_ns >= due.0 {
                sink.on_timeout(now_ns, &mut self.tools);
                let link = Arc::clone(&sink.link);
                due.0 = sink.timeout_ns(&mut link.keys(), &self.tools.clock);
            }
            if now_ns >= due.1 {
                sink.on_feedback(now_ns, &mut self.tools);
                due.1 = sink.next_feedback_ns;
            }
        }
    }

    fn publish_numbers(&mut self) {
        let (media, bytes, datagrams) = self.counted;
        self.live.media.store(media, Ordering::Relaxed);
        self.live.media_bytes.store(bytes, Ordering::Relaxed);
        self.live.datagrams.store(datagrams, Ordering::Relaxed);
        let now_ns = monotonic_ns();
        if now_ns >= self.next_cpu_ns {
            self.next_cpu_ns = now_ns + CPU_INTERVAL_NS;
            self.live.cpu_ns.store(thread_cpu_ns(), Ordering::Relaxed);
        }
    }
}

fn report(sink: &Sink) -> SinkReport {
    let now_ns = monotonic_ns();
    let streams = sink.streams.iter().map(|stream| StreamReport {
        kind: stream.kind,
        counts: stream.gaps.counts(),
        missing: stream.gaps.missing(),
        unsettled: stream.gaps.unsettled(now_ns),
    });
    SinkReport {
        listens: !sink.publishers.is_empty(),
        tally: sink.tally,
        streams: streams.collect(),
        overflow: sink.overflow.0.wrapping_sub(sink.overflow.1),
    }
}
