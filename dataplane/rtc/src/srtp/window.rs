//! The sliding window that refuses replayed packets (RFC 3711 §3.3.2).

const WORDS: usize = 16;
/// Packets older than this behind the highest are refused. Without RTX a retransmission is a late packet, so this is also how
/// late one may be.
pub(super) const WINDOW: u64 = WORDS as u64 * 64;

/// Which of the last [`WINDOW`] indices were seen. The caller asks with [`Window::admits`], authenticates, then
/// [`Window::note`]s.
#[derive(Clone, Debug)]
pub(super) struct Window {
    highest: u64,
    /// One bit for each index of the window. Without it everything up to `highest` counts as seen.
    seen: Option<Box<[u64; WORDS]>>,
}

impl Window {
    /// A window whose first and highest index is `first`.
    pub(super) fn new(first: u64) -> Self {
        let mut window = Self::empty(first);
        window.note(first);
        window
    }

    /// A window that has seen nothing, around `first`.
    pub(super) fn empty(first: u64) -> Self {
        Self { highest: first, seen: Some(Box::new([0; WORDS])) }
    }

    pub(super) fn highest(&self) -> u64 {
        self.highest
    }

    /// Whether it remembers single packets.
    pub(super) fn is_wide(&self) -> bool {
        self.seen.is_some()
    }

    /// Gives the memory of single packets back: from now on only packets ahead of the highest are admitted.
    pub(super) fn narrow(&mut self) {
        self.seen = None;
    }

    /// Whether `index` is neither seen nor too old.
    pub(super) fn admits(&self, index: u64) -> bool {
        if index > self.highest {
            return true;
        }
        let word = self.seen.as_ref().and_then(|seen| seen.get(slot(index)));
        self.highest - index < WINDOW && word.is_some_and(|word| word & bit(index) == 0)
    }

    /// Marks an authenticated index as seen.
    pub(super) fn note(&mut self, index: u64) {
        let ahead = index.saturating_sub(self.highest);
        // A narrow window that grows wide again still knows nothing of what is behind it, so all of that stays seen.
        let seen = self.seen.get_or_insert_with(|| Box::new([!0; WORDS]));
        if ahead >= WINDOW {
            **seen = [0; WORDS];
        } else {
            for skipped in self.highest + 1..self.highest + ahead {
                if let Some(word) = seen.get_mut(slot(skipped)) {
                    *word &= !bit(skipped);
                }
            }
        }
        if let Some(word) = seen.get_mut(slot(index)) {
            *word |= bit(index);
        }
        self.highest += ahead;
    }
}

fn slot(index: u64) -> usize {
    (index / 64) as usize % WORDS
}

fn bit(index: u64) -> u64 {
    1 << (index % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_window_ends_exactly_where_it_says() {
        let mut window = Window::new(10_000);
        window.note(20_000);
        assert!(window.admits(20_000 - WINDOW + 1));
        assert!(!window.admits(20_000 - WINDOW));
        assert!(!window.admits(20_000));
    }

    #[test]
    fn a_narrow_window_admits_only_what_is_ahead() {
        let mut window = Window::new(1_000);
        window.note(1_010);
        window.narrow();
        assert!(!window.admits(1_005) && !window.admits(1_010) && window.admits(1_011));
        window.note(1_015);
        assert!(window.is_wide());
        assert!(!window.admits(1_005) && !window.admits(1_015) && window.admits(1_013));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_set(steps in proptest::collection::vec(-1_500i64..1_500, 1..400)) {
            let mut window = Window::new(100_000);
            let mut seen = BTreeSet::from([100_000u64]);
            for step in steps {
                let index = window.highest().saturating_add_signed(step);
                let fresh = !seen.contains(&index) && index + WINDOW > window.highest();
                prop_assert_eq!(window.admits(index), fresh);
                if fresh {
                    window.note(index);
                    seen.insert(index);
                }
            }
        }
    }
}
