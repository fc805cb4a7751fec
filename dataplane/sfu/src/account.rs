//! The account of one line with the track it follows: whatever was offered is sent, filtered or dropped under a name, or the shard
//! says that it is not. Nothing is counted for it per packet that is not counted anyway.

use crate::publisher::Track;
use crate::subscriber::{Line, LineCounters};

/// Where offers and outcomes stood when they were compared last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Account {
    /// Outcomes of packets that were offered a second time.
    again: u64,
    /// Offers less outcomes; `None` until looked at for the first time since the line follows its track.
    balance: Option<u64>,
}

impl Account {
    /// The line follows another track.
    pub(crate) fn open(&mut self) {
        self.balance = None;
    }

    /// A packet that was offered before has an outcome again.
    pub(crate) fn repeat(&mut self) {
        self.again += 1;
    }

    /// Packets since the last look whose outcome nobody counted, or that have two. `offered`: by the track, all of them dealt
    /// with.
    pub(crate) fn audit(&mut self, offered: u64, counters: &LineCounters) -> u64 {
        let outcomes = counters.packets + counters.filtered + counters.dropped;
        let balance = offered.wrapping_sub(outcomes.wrapping_sub(self.again));
        let before = self.balance.replace(balance);
        before.map_or(0, |before| (before.wrapping_sub(balance) as i64).unsigned_abs())
    }
}

impl Line {
    /// What its track has offered without this line having been looked at is left out.
    pub fn miss(&mut self, track: &Track) {
        self.counters.filtered += (track.pending.len() - self.cursor) as u64;
        self.cursor = 0;
    }

    /// Packets since the last look that have no outcome, or two ([`Account`]); to be asked while nothing is pending.
    pub fn audit(&mut self, track: &Track) -> u64 {
        self.account.audit(track.offered, &self.counters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offer_has_one_outcome() {
        let mut account = Account::default();
        let mut counters = LineCounters { packets: 70, filtered: 3, ..LineCounters::default() };
        assert_eq!(account.audit(1_000, &counters), 0, "the first look only opens the account");
        (counters.packets, counters.filtered, counters.dropped) = (75, 6, 2);
        assert_eq!(account.audit(1_010, &counters), 0);
        assert_eq!(account.audit(1_013, &counters), 3, "three without an outcome");
        counters.packets += 2;
        assert_eq!(account.audit(1_013, &counters), 2, "two with a second outcome");
        counters.packets += 1;
        account.repeat();
        assert_eq!(account.audit(1_013, &counters), 0, "offered twice");
        account.open();
        assert_eq!(account.audit(5, &counters), 0, "another track");
        assert_eq!(account.audit(6, &counters), 1);
    }
}
