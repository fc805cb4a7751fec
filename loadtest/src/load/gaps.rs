//! What of one stream arrived: gaps, duplicates, reordering, and which numbers to ask for again.

use std::collections::VecDeque;

use auralink_rtc::units::SeqNo;

/// Numbers told apart, behind the highest: 4,096 are more than ten seconds of one stream.
const WORDS: usize = 64;
const WINDOW: u64 = WORDS as u64 * 64;
/// Reordering that is not yet loss.
const FIRST_DELAY_NS: u64 = 10_000_000;
const RETRY_NS: u64 = 60_000_000;
const TRIES_MAX: u8 = 10;
/// By then a repair has come, or is not to be hoped for.
const SETTLE_NS: u64 = 500_000_000;
/// More missing at once are not asked for.
const MISSING_MAX: usize = 512;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    New,
    /// Behind a higher number.
    Late,
    Duplicate,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    seq: u64,
    tries: u8,
    due_ns: u64,
    noted_ns: u64,
}

/// Counters of one stream since the last [`Gaps::restart`].
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Counts {
    /// Different packets.
    pub(crate) packets: u64,
    pub(crate) duplicates: u64,
    pub(crate) reordered: u64,
    /// Arrived only as a retransmission.
    pub(crate) repaired: u64,
}

#[derive(Debug)]
pub(crate) struct Gaps {
    /// The first number that counts, and the highest seen.
    span: Option<(u64, u64)>,
    seen: Box<[u64; WORDS]>,
    counts: Counts,
    missing: VecDeque<Missing>,
}

impl Default for Gaps {
    fn default() -> Self {
        let (seen, missing) = (Box::new([0; WORDS]), VecDeque::with_capacity(MISSING_MAX));
        Self { span: None, seen, counts: Counts::default(), missing }
    }
}

impl Gaps {
    /// Notes one packet.
    pub(crate) fn on_packet(&mut self, now_ns: u64, wire: u16, is_repair: bool) -> Arrival {
        let Some((first, highest)) = self.span else {
            let seq = SeqNo::first(wire).0;
            self.span = Some((seq, seq));
            self.mark(seq);
            self.counts.packets += 1;
            return Arrival::New;
        };
        let seq = SeqNo(highest).nearest(wire).0;
        if seq > highest {
            for skipped in highest + 1..seq {
                self.clear(skipped);
                if self.missing.len() < MISSING_MAX {
                    let due_ns = now_ns + FIRST_DELAY_NS;
                    self.missing.push_back(Missing { seq: skipped, tries: 0, due_ns, noted_ns: now_ns });
                }
            }
            self.mark(seq);
            self.span = Some((first, seq));
            self.counts.packets += 1;
            self.counts.repaired += u64::from(is_repair);
            return Arrival::New;
        }
        // What is too old to tell was there, or was counted as a gap long ago.
        if highest - seq >= WINDOW || self.has(seq) {
            self.counts.duplicates += u64::from(!is_repair);
            return Arrival::Duplicate;
        }
        self.mark(seq);
        self.missing.retain(|missing| missing.seq != seq);
        if seq >= first {
            self.counts.packets += 1;
            self.counts.repaired += u64::from(is_repair);
            self.counts.reordered += u64::from(!is_repair);
        }
        Arrival::Late
    }

    /// Starts to count anew with the next higher number; what is missing now is not ours any more.
    pub(crate) fn restart(&mut self) {
        self.counts = Counts::default();
        if let Some((first, highest)) = &mut self.span {
            *first = *highest + 1;
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Numbers up to the highest that did not arrive.
    pub(crate) fn missing(&self) -> u64 {
        self.span.map_or(0, |(first, highest)| (highest + 1).saturating_sub(first)) - self.counts.packets
    }

    /// How many of those were noted so lately that they may still come.
    pub(crate) fn unsettled(&self, now_ns: u64) -> u64 {
        let first = self.span.map_or(0, |(first, _)| first);
        let is_late = |missing: &&Missing| missing.seq >= first && now_ns < missing.noted_ns + SETTLE_NS;
        self.missing.iter().filter(is_late).count() as u64
    }

    /// For receiver reports.
    pub(crate) fn highest(&self) -> Option<u64> {
        self.span.map(|(_, highest)| highest)
    }

    /// Whether anything may be to be asked for.
    pub(crate) fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// Numbers to be asked for now, into `out`.
    pub(crate) fn poll_missing(&mut self, now_ns: u64, out: &mut Vec<u16>) {
        self.missing.retain(|missing| missing.tries < TRIES_MAX);
        for missing in self.missing.iter_mut().filter(|missing| missing.due_ns <= now_ns) {
            missing.tries += 1;
            missing.due_ns = now_ns + RETRY_NS;
            out.push(SeqNo(missing.seq).wire());
        }
    }

    fn place(seq: u64) -> (usize, u64) {
        ((seq / 64) as usize % WORDS, 1 << (seq % 64))
    }

    fn has(&self, seq: u64) -> bool {
        let (word, bit) = Self::place(seq);
        self.seen.get(word).is_some_and(|word| word & bit != 0)
    }

    fn mark(&mut self, seq: u64) {
        let (word, bit) = Self::place(seq);
        if let Some(word) = self.seen.get_mut(word) {
            *word |= bit;
        }
    }

    fn clear(&mut self, seq: u64) {
        let (word, bit) = Self::place(seq);
        if let Some(word) = self.seen.get_mut(word) {
            *word &= !bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(numbers: impl IntoIterator<Item = u16>) -> Gaps {
        let mut gaps = Gaps::default();
        for number in numbers {
            gaps.on_packet(0, number, false);
        }
        gaps
    }

    fn summary(gaps: &Gaps) -> (u64, u64, u64, u64) {
        let counts = gaps.counts();
        (counts.packets, gaps.missing(), counts.duplicates, counts.reordered)
    }

    #[test]
    fn a_whole_stream_over_the_wrap_has_no_gap() {
        let gaps = fed((65_000..=65_535).chain(0..=65_535).chain(0..9_000));
        assert_eq!(summary(&gaps), (536 + 65_536 + 9_000, 0, 0, 0));
    }

    #[test]
    fn each_left_out_number_is_a_gap() {
        for lost in 1..999_u16 {
            assert_eq!(summary(&fed((0..1_000).filter(|n| *n != lost))), (999, 1, 0, 0), "{lost}");
        }
        assert_eq!(summary(&fed([10, 12, 15])), (3, 3, 0, 0));
    }

    #[test]
    fn a_late_packet_closes_its_gap_once() {
        assert_eq!(summary(&fed([1, 3, 2, 2])), (3, 0, 1, 1));
        assert_eq!(summary(&fed([1, 1, 1])), (1, 0, 2, 0));
    }

    #[test]
    fn numbers_seen_a_window_ago_do_not_hide_gaps() {
        let gaps = fed((0..20_000).filter(|n| *n != 15_000));
        assert_eq!(gaps.missing(), 1);
    }

    #[test]
    fn what_is_missing_is_asked_for_until_it_comes_or_is_given_up() {
        let mut gaps = fed([1, 4]);
        let mut out = Vec::new();
        gaps.poll_missing(FIRST_DELAY_NS - 1, &mut out);
        assert!(out.is_empty() && !gaps.is_complete());
        gaps.poll_missing(FIRST_DELAY_NS, &mut out);
        assert_eq!(out, [2, 3]);
        assert_eq!(gaps.on_packet(0, 3, true), Arrival::Late);
        assert_eq!((gaps.counts().repaired, gaps.missing()), (1, 1));
        for round in 1..20 {
            gaps.poll_missing(FIRST_DELAY_NS + round * RETRY_NS, &mut out);
        }
        assert_eq!(out.iter().filter(|seq| **seq == 2).count(), usize::from(TRIES_MAX));
        assert!(gaps.is_complete());
        assert_eq!(gaps.missing(), 1);
    }

    #[test]
    fn a_gap_is_settled_after_a_while() {
        let gaps = fed([1, 4]);
        assert_eq!((gaps.missing(), gaps.unsettled(0), gaps.unsettled(SETTLE_NS)), (2, 2, 0));
    }

    #[test]
    fn a_restart_forgets_old_gaps_and_old_arrivals() {
        let mut gaps = fed([1, 3]);
        gaps.restart();
        assert_eq!(summary(&gaps), (0, 0, 0, 0));
        gaps.on_packet(0, 2, false);
        gaps.on_packet(0, 4, false);
        gaps.on_packet(0, 6, false);
        assert_eq!(summary(&gaps), (2, 1, 0, 0));
    }
}
