//! A panic costs the peer whose datagram, timer or command was being handled; a second one within a minute costs its room
//! its place on this shard. The process lives.

use std::time::{Duration, Instant};

use auralink_proto::{CloseReason, Event, RoomId};

use super::{Output, Shard};

/// Two panics of one room within this are not chance.
const STRIKE_INTERVAL: Duration = Duration::from_secs(60);
/// Rooms remembered as having panicked, and as refused.
const ROOMS_MAX: usize = 64;

/// Rooms that have panicked.
#[derive(Default)]
pub(super) struct Strikes {
    recent: Vec<(RoomId, Instant)>,
    refused: Vec<RoomId>,
}

impl Strikes {
    /// Notes a panic; whether the room is to be refused from now on.
    fn strike(&mut self, now: Instant, room: RoomId) -> bool {
        self.recent.retain(|(_, at)| now < *at + STRIKE_INTERVAL);
        let again = self.recent.iter().any(|(struck, _)| *struck == room);
        if again && !self.refuses(room) {
            if self.refused.len() >= ROOMS_MAX {
                self.refused.remove(0);
            }
            self.refused.push(room);
        }
        if self.recent.len() < ROOMS_MAX {
            self.recent.push((room, now));
        }
        again
    }

    pub(super) fn refuses(&self, room: RoomId) -> bool {
        self.refused.contains(&room)
    }
}

impl Shard {
    /// To be called when a call of this shard panicked: the peer it was about is forgotten, without asking it anything.
    pub fn contain(&mut self, now: Instant, out: &mut Output<'_>) {
        self.stats.panics += 1;
        // Whoever was half served is offered the rest again.
        self.egress_cursor = 0;
        let Some(slot) = self.handling.take() else { return };
        let Some(room) = self.close_panicked(slot, out) else { return };
        if self.strikes.strike(now, room) {
            let of_room = |slot: &u32| self.transports.get(*slot).is_some_and(|held| held.room == room);
            let all: Vec<u32> = (0..self.transports.len() as u32).filter(of_room).collect();
            for slot in all {
                self.close_panicked(slot, out);
            }
        }
    }

    fn close_panicked(&mut self, slot: u32, out: &mut Output<'_>) -> Option<RoomId> {
        let (transport, room) = self.transports.get(slot).map(|held| (held.id, held.room))?;
        self.forget_transport(slot, out);
        out.events.push(Event::TransportClosed { transport, reason: CloseReason::Panicked });
        Some(room)
    }
}
