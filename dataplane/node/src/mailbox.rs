//! The only meeting place of control and shards: bounded mailboxes that carry values.
//!
//! Control → shard never drops: the sender awaits. Shard → control never waits: lifecycle events have room reserved for them
//! (see [`ShardMailbox::emit`]), and what is repeated (levels, statistics) is dropped and counted when control is behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use auralink_proto::{Candidate, Command, Event, Fingerprint, RoomId, ShardId, TrackId, TransportId};
use tokio::sync::mpsc;

use crate::config::Spill;

/// Commands that may wait for one shard before senders wait.
pub const COMMANDS_MAX: usize = 1_024;
/// Events that may wait for control.
pub const EVENTS_MAX: usize = 65_536;
/// Of [`EVENTS_MAX`], what repeated events (levels, statistics, data) may never take from lifecycle events.
const EVENTS_RESERVED: usize = 8_192;

/// From this on a shard takes no more of a room's transports if another is idler.
const OUTGROWN_PERMILLE: usize = 600;

/// The shard's thread has ended; the node is shutting down.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("shard {0:?} has stopped")]
pub struct ShardGone(pub ShardId);

/// Wakes a parked shard. Called after each command, from any thread.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

#[derive(Clone)]
struct Door {
    commands: mpsc::Sender<Command>,
    wake: Waker,
    candidates: Arc<[Candidate]>,
    load: Arc<Load>,
}

/// What a shard tells of its load, for placement.
#[derive(Default)]
struct Load {
    transports: AtomicUsize,
    /// Thousandths of the last report's interval in which it did not sleep.
    busy_permille: AtomicUsize,
}

/// Control's door to every shard. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    doors: Arc<[Door]>,
    fingerprint: Fingerprint,
    spill: Spill,
    next: Arc<AtomicU64>,
}

/// What a shard holds of its mailbox.
pub struct ShardMailbox {
    pub shard: ShardId,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    load: Arc<Load>,
    dropped: u64,
}

/// Control's end of all shards' events.
pub type Events = mpsc::Receiver<Event>;

/// Builds the mailboxes for `candidates.len()` shards. `wakers` are in shard order.
pub fn mailboxes(
    candidates: Vec<Vec<Candidate>>,
    wakers: Vec<Waker>,
    fingerprint: Fingerprint,
    spill: Spill,
) -> (Handle, Vec<ShardMailbox>, Events) {
    let (event_sender, events) = mpsc::channel(EVENTS_MAX);
    let mut doors = Vec::new();
    let mut shard_ends = Vec::new();
    for (index, (candidates, wake)) in candidates.into_iter().zip(wakers).enumerate() {
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let load = Arc::<Load>::default();
        doors.push(Door { commands: sender, wake, candidates: candidates.into(), load: Arc::clone(&load) });
        let shard = ShardId(index as u8);
        shard_ends.push(ShardMailbox { shard, commands, events: event_sender.clone(), load, dropped: 0 });
    }
    let next = Arc::new(AtomicU64::new(rand::random()));
    (Handle { doors: doors.into(), fingerprint, spill, next }, shard_ends, events)
}

impl Load {
    fn busy(&self) -> usize {
        self.busy_permille.load(Ordering::Relaxed)
    }
}

impl Handle {
    /// Delivers a command, waiting while the mailbox is full.
    pub async fn send(&self, shard: ShardId, command: Command) -> Result<(), ShardGone> {
        let door = self.doors.get(usize::from(shard.0)).ok_or(ShardGone(shard))?;
        door.commands.send(command).await.map_err(|_| ShardGone(shard))?;
        (door.wake)();
        Ok(())
    }

    /// Names a new room; its home is the shard with the fewest transports.
    pub fn place_room(&self) -> RoomId {
        let home = (0..self.doors.len())
            .min_by_key(|i| self.doors[*i].load.transports.load(Ordering::Relaxed))
            .unwrap_or(0);
        RoomId::new(ShardId(home as u8), self.mint())
    }

    /// Names a new transport of `room`, the room's `ordinal`-th, and thereby decides its shard.
    pub fn place_transport(&self, room: RoomId, ordinal: usize) -> TransportId {
        let home = usize::from(room.shard().0);
        let shard = match self.spill {
            Spill::Home => self.home_or_idler(home),
            Spill::Forced => (home + ordinal) % self.doors.len().max(1),
        };
        TransportId::new(ShardId(shard as u8), self.mint())
    }

    /// The room's home, unless it has outgrown it: a busy home and a shard with half of its load.
    fn home_or_idler(&self, home: usize) -> usize {
        let busy = |shard: usize| self.doors.get(shard).map_or(0, |door| door.load.busy());
        let idlest = (0..self.doors.len()).min_by_key(|shard| busy(*shard)).unwrap_or(home);
        let is_outgrown = busy(home) >= OUTGROWN_PERMILLE && busy(idlest) * 2 <= busy(home);
        if is_outgrown { idlest } else { home }
    }

    /// Names a track published on `transport`.
    pub fn place_track(&self, transport: TransportId) -> TrackId {
        TrackId::new(transport.shard(), self.mint())
    }

    /// Addresses under which a shard's transports are reached, best first.
    pub fn candidates(&self, shard: ShardId) -> &[Candidate] {
        self.doors.get(usize::from(shard.0)).map_or(&[], |door| &door.candidates)
    }

    /// SHA-256 of the node's DTLS certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub fn shards(&self) -> usize {
        self.doors.len()
    }

    /// Unique within the node's life; spread over 56 bits so that neighbours do not look alike.
    fn mint(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8
    }
}

impl ShardMailbox {
    /// The next command, if one waits.
    pub fn poll(&mut self) -> Option<Command> {
        self.commands.try_recv().ok()
    }

    /// Whether a command waits.
    pub fn has_command(&self) -> bool {
        !self.commands.is_empty()
    }

    /// Waits for the next command; for tests that play the shard. `None` when every [`Handle`] is gone.
    pub async fn recv(&mut self) -> Option<Command> {
        self.commands.recv().await
    }

    /// Whether every [`Handle`] is gone: the shard should end.
    pub fn is_abandoned(&self) -> bool {
        self.commands.is_closed() && self.commands.is_empty()
    }

    /// Tells control. Repeated events are dropped when control is far behind; lifecycle events only when the reserve is
    /// exhausted too, which [`Self::dropped`] shows.
    pub fn emit(&mut self, event: Event) {
        let repeated = matches!(event, Event::Levels { .. } | Event::Stats { .. } | Event::Data { .. });
        let behind = repeated && self.events.capacity() < EVENTS_RESERVED;
        if behind || self.events.try_send(event).is_err() {
            self.dropped += 1;
        }
    }

    /// Events lost because control was behind.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Publishes how many transports live here and how busy the shard was, in thousandths, for placement.
    pub fn report_load(&self, transports: usize, busy_permille: usize) {
        self.load.transports.store(transports, Ordering::Relaxed);
        self.load.busy_permille.store(busy_permille, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(count: usize) -> (Handle, Vec<ShardMailbox>) {
        let wakers = (0..count).map(|_| Arc::new(|| {}) as Waker).collect();
        let (handle, mailboxes, _) =
            mailboxes(vec![Vec::new(); count], wakers, Fingerprint([0; 32]), Spill::Home);
        (handle, mailboxes)
    }

    #[test]
    fn a_room_stays_at_home_until_it_has_outgrown_it() {
        let (handle, mailboxes) = shards(3);
        let room = handle.place_room();
        let place = |busy: [usize; 3]| {
            mailboxes.iter().zip(busy).for_each(|(mailbox, busy)| mailbox.report_load(1, busy));
            handle.place_transport(room, 7).shard().0
        };
        assert_eq!(room.shard().0, 0);
        assert_eq!(place([599, 0, 0]), 0);
        assert_eq!(place([900, 500, 450]), 2);
        assert_eq!(place([700, 400, 600]), 0);
    }
}
