//! All allocations, by name and by client, and what they use up: ports, and the quota of their users.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::Instant;

use crate::allocation::Allocation;
use crate::{Origin, RelayId};

struct Slot {
    generation: u32,
    allocation: Option<Box<Allocation>>,
}

/// Allocations and their indices.
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_origin: HashMap<Origin, RelayId>,
    deadlines: BTreeSet<(Instant, RelayId)>,
    /// Allocations of each user name that has any.
    users: HashMap<Box<[u8]>, u32>,
    ports: RangeInclusive<u16>,
    /// Ports in use, from the first on.
    used: Vec<bool>,
    closed: VecDeque<RelayId>,
}

impl Table {
    pub(super) fn new(ports: RangeInclusive<u16>) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_origin: HashMap::new(),
            deadlines: BTreeSet::new(),
            users: HashMap::new(),
            used: vec![false; ports.len()],
            ports,
            closed: VecDeque::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_origin.len()
    }

    pub(super) fn of(&self, origin: &Origin) -> Option<RelayId> {
        self.by_origin.get(origin).copied()
    }

    pub(super) fn get(&self, relay: RelayId) -> Option<&Allocation> {
        let slot = self.slots.get(relay.slot as usize)?;
        slot.allocation.as_deref().filter(|_| slot.generation == relay.generation)
    }

    pub(super) fn get_mut(&mut self, relay: RelayId) -> Option<&mut Allocation> {
        let slot = self.slots.get_mut(relay.slot as usize)?;
        slot.allocation.as_deref_mut().filter(|_| slot.generation == relay.generation)
    }

    /// Allocations of one user name.
    pub(super) fn held_by(&self, username: &[u8]) -> u32 {
        self.users.get(username).copied().unwrap_or_default()
    }

    /// Adds an allocation whose port was taken.
    pub(super) fn insert(&mut self, allocation: Allocation) -> RelayId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, allocation: None });
            self.slots.len() as u32 - 1
        });
        *self.users.entry(allocation.username.clone()).or_default() += 1;
        let (origin, expires) = (allocation.origin, allocation.expires);
        let mut generation = 0;
        if let Some(held) = self.slots.get_mut(slot as usize) {
            held.allocation = Some(Box::new(allocation));
            generation = held.generation;
        }
        let relay = RelayId { slot, generation };
        self.by_origin.insert(origin, relay);
        self.deadlines.insert((expires, relay));
        relay
    }

    /// Ends an allocation; its socket is to be closed.
    pub(super) fn remove(&mut self, relay: RelayId) {
        let Some(slot) = self.slots.get_mut(relay.slot as usize) else { return };
        let Some(allocation) = slot.allocation.take_if(|_| slot.generation == relay.generation) else {
            return;
        };
        // A slot whose names are used up is not used again.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.free.push(relay.slot);
        }
        self.by_origin.remove(&allocation.origin);
        self.deadlines.remove(&(allocation.expires, relay));
        self.give_port(allocation.relayed.port());
        if let Some(held) = self.users.get_mut(&allocation.username) {
            *held -= 1;
            if *held == 0 {
                self.users.remove(&allocation.username);
            }
        }
        self.closed.push_back(relay);
    }

    /// Moves the end of an allocation.
    pub(super) fn set_expiry(&mut self, relay: RelayId, expires: Instant) {
        let Some(allocation) = self.get_mut(relay) else { return };
        let before = std::mem::replace(&mut allocation.expires, expires);
        self.deadlines.remove(&(before, relay));
        self.deadlines.insert((expires, relay));
    }

    /// An allocation whose time is over.
    pub(super) fn due(&self, now: Instant) -> Option<RelayId> {
        self.deadlines.first().filter(|(at, _)| *at <= now).map(|(_, relay)| *relay)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    pub(super) fn next_closed(&mut self) -> Option<RelayId> {
        self.closed.pop_front()
    }

    /// Whether nothing is held for anybody.
    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        let held = [self.by_origin.len(), self.deadlines.len(), self.users.len(), self.closed.len()];
        held == [0; 4] && !self.used.contains(&true)
    }

    /// Takes a free port, the first one from a random place on.
    pub(super) fn take_port(&mut self, random: u32, even: bool) -> Option<u16> {
        let first = *self.ports.start();
        let count = self.used.len();
        let start = (u64::from(random) * count as u64) >> 32;
        let offsets = (start as usize..count).chain(0..start as usize);
        let mut free = offsets.filter(|offset| self.used.get(*offset).is_some_and(|used| !used));
        let found = free.find(|offset| !even || (usize::from(first) + offset) % 2 == 0)?;
        self.used.get_mut(found).into_iter().for_each(|used| *used = true);
        Some(first + found as u16)
    }

    /// Gives a port back.
    pub(super) fn give_port(&mut self, port: u16) {
        let offset = usize::from(port.saturating_sub(*self.ports.start()));
        self.used.get_mut(offset).into_iter().for_each(|used| *used = false);
    }
}
