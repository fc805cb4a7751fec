//! The thread that publishes for all connections, open loop: each packet leaves when its schedule says, whatever the server
//! does. It runs before all other threads of the machine where the system lets it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver as Inbox, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use auralink_ring::client::{monotonic_ns, run_first, thread_cpu_ns};
use hdrhistogram::Histogram;

use super::outgoing::{Outbox, Publishing};

/// Wishes of the server and commands are looked at this often.
const LOOK: Duration = Duration::from_millis(4);

/// Numbers that can be read while the thread works.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) packets: AtomicU64,
    /// Packets the socket did not take.
    pub(crate) unsent: AtomicU64,
    pub(crate) forced_keyframes: AtomicU64,
    pub(crate) resent: AtomicU64,
    pub(crate) cpu_ns: AtomicU64,
    /// Whether most frames are left out.
    slow: AtomicBool,
}

enum Command {
    Add(u64, Box<Publishing>),
    Remove(u64),
    Restart(Sender<()>),
    Collect(Sender<Histogram<u64>>),
    Stop,
}

/// The thread's handle.
pub(crate) struct Publisher {
    commands: Sender<Command>,
    pub(crate) live: Arc<Live>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Publisher {
    pub(crate) fn start() -> Result<Self> {
        let (commands, inbox) = mpsc::channel();
        let live = Arc::new(Live::default());
        let shared = Arc::clone(&live);
        let run = move || {
            // Where it is not allowed, the lateness measured tells whether that did harm.
            let _ = run_first();
            Thread::new(shared)?.run(&inbox)
        };
        let thread = std::thread::Builder::new().name("publisher".into()).spawn(run);
        Ok(Self { commands, live, thread: Some(thread.context("cannot start a thread")?) })
    }

    // A thread that ended says why when it is joined; what it is told until then is lost.
    pub(crate) fn add(&self, id: u64, publishing: Publishing) {
        let _ = self.commands.send(Command::Add(id, Box::new(publishing)));
    }

    pub(crate) fn remove(&self, id: u64) {
        let _ = self.commands.send(Command::Remove(id));
    }

    /// From now on leaves most frames out, or none: while clients join a measured point, nothing is to be a load already.
    pub(crate) fn publish_slowly(&self, slow: bool) {
        self.live.slow.store(slow, Ordering::Relaxed);
    }

    /// Counts lateness from zero.
    pub(crate) fn restart(&self) -> Result<()> {
        let (reply, replied) = mpsc::channel();
        let _ = self.commands.send(Command::Restart(reply));
        replied.recv().context("the publishing thread ended")
    }

    /// By how many microseconds packets were late.
    pub(crate) fn lateness_us(&self) -> Result<Histogram<u64>> {
        let (reply, replied) = mpsc::channel();
        let _ = self.commands.send(Command::Collect(reply));
        replied.recv().context("the publishing thread ended")
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        let _ = self.commands.send(Command::Stop);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => anyhow::bail!("the publishing thread panicked"),
            None => Ok(()),
        }
    }
}

struct Thread {
    live: Arc<Live>,
    publishing: HashMap<u64, Box<Publishing>>,
    /// When which stream of which publisher is due.
    due: BinaryHeap<Reverse<(u64, u64, usize)>>,
    outbox: Outbox,
    lateness_us: Histogram<u64>,
}

impl Thread {
    fn new(live: Arc<Live>) -> Result<Self> {
        Ok(Self {
            live,
            publishing: HashMap::new(),
            due: BinaryHeap::new(),
            outbox: Outbox::default(),
            lateness_us: Histogram::new_with_bounds(1, 60_000_000, 3)?,
        })
    }

    fn run(mut self, inbox: &Inbox<Command>) -> Result<()> {
        let mut next_look_ns = 0;
        loop {
            let now_ns = monotonic_ns();
            if now_ns >= next_look_ns {
                next_look_ns = now_ns + LOOK.as_nanos() as u64;
                while let Ok(command) = inbox.try_recv() {
                    if !self.obey(command) {
                        return Ok(());
                    }
                }
                self.grant_wishes(now_ns);
                self.live.cpu_ns.store(thread_cpu_ns(), Ordering::Relaxed);
            }
            self.publish_due();
            let next_ns =
                self.due.peek().map_or(u64::MAX, |Reverse((due_ns, _, _))| *due_ns).min(next_look_ns);
            let now_ns = monotonic_ns();
            if next_ns > now_ns {
                std::thread::sleep(Duration::from_nanos(next_ns - now_ns));
            }
        }
    }

    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Add(id, publishing) => {
                for (at, stream) in publishing.streams.iter().enumerate() {
                    self.due.push(Reverse((stream.due_ns(), id, at)));
                }
                self.publishing.insert(id, publishing);
            }
            // What is due of it is forgotten when it comes up.
            Command::Remove(id) => drop(self.publishing.remove(&id)),
            Command::Restart(reply) => {
                self.lateness_us.reset();
                // Whoever asked may have gone.
                let _ = reply.send(());
            }
            Command::Collect(reply) => drop(reply.send(self.lateness_us.clone())),
            Command::Stop => return false,
        }
        true
    }

    fn publish_due(&mut self) {
        while let Some(Reverse((due_ns, id, at))) = self.due.peek().copied() {
            let now_ns = monotonic_ns();
            if due_ns > now_ns {
                return;
            }
            self.due.pop();
            let Some(publishing) = self.publishing.get_mut(&id) else { continue };
            self.lateness_us.saturating_record(((now_ns - due_ns) / 1_000).max(1));
            let sent =
                publishing.publish(at, now_ns, self.live.slow.load(Ordering::Relaxed), &mut self.outbox);
            self.live.packets.fetch_add(sent.packets, Ordering::Relaxed);
            self.live.unsent.fetch_add(sent.unsent, Ordering::Relaxed);
            self.live.forced_keyframes.fetch_add(sent.forced_keyframes, Ordering::Relaxed);
            if let Some(stream) = publishing.streams.get(at) {
                self.due.push(Reverse((stream.due_ns(), id, at)));
            }
        }
    }

    fn grant_wishes(&mut self, now_ns: u64) {
        for publishing in self.publishing.values_mut() {
            let resent = publishing.grant_wishes(&mut self.outbox);
            self.live.resent.fetch_add(resent, Ordering::Relaxed);
            publishing.report(now_ns);
        }
    }
}
