//! One measured point: what it was, what came of it, and why it may not be believed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::payload::Kind;
use super::process::Usage;
use super::receiver::SinkReport;
use super::stream::Incoming;

/// Above this share of a core a thread of the generator is taken for the bottleneck.
const GENERATOR_SHARE_MAX: f64 = 0.75;
/// A publisher later than this, in one step of a hundred, did not offer what was promised.
const LATENESS_P99_US_MAX: u64 = 1_000;

/// Threads of one process on one core wait for each other for less than this share of the time.
const WAITED_SHARE_MAX: f64 = 0.05;

/// Threads below this share of a core are not told of.
const THREAD_SHARE_MIN: f64 = 0.005;

/// Quantiles in microseconds.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    pub(crate) count: u64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

impl From<&Histogram<u64>> for Quantiles {
    fn from(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.5),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}

/// What sinks counted, all together.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Arrived {
    pub(crate) sinks: usize,
    /// Sinks that heard nothing at all.
    pub(crate) silent: usize,
    pub(crate) packets: u64,
    pub(crate) gaps: u64,
    /// Missing at the end, but so lately that a repair might still have come.
    pub(crate) unsettled: u64,
    pub(crate) duplicates: u64,
    pub(crate) reordered: u64,
    /// Came only as a retransmission.
    pub(crate) repaired: u64,
    pub(crate) repairs: u64,
    /// Decrypted and byte by byte what was published.
    pub(crate) compared: u64,
    pub(crate) mismatched: u64,
    /// Media of another room.
    pub(crate) foreign: u64,
    pub(crate) unopened: u64,
    pub(crate) malformed: u64,
    /// Dropped by the sinks on purpose.
    pub(crate) dropped: u64,
    pub(crate) nacks_sent: u64,
    pub(crate) plis_sent: u64,
    pub(crate) feedback_sent: u64,
    pub(crate) sender_reports: u64,
    /// Datagrams our own sockets had no room for.
    pub(crate) overflow: u64,
}

/// What one thread of the generator used.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Generator {
    /// Whether all its threads share one core.
    pub(crate) is_pinned: bool,
    /// Share of a core of the receiving and the publishing thread, and of the whole process.
    pub(crate) receiving_share: f64,
    pub(crate) publishing_share: f64,
    pub(crate) process_share: f64,
    /// Per datagram received.
    pub(crate) receive_us: f64,
    pub(crate) lateness_us: Quantiles,
    pub(crate) unsent: u64,
    pub(crate) forced_keyframes: u64,
    pub(crate) resent: u64,
}

/// A point. Of the window: `offered` to the last of `server`.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Point {
    /// "server URL" or "floor".
    pub(crate) who: String,
    pub(crate) workload: String,
    pub(crate) pattern: String,
    pub(crate) rooms: usize,
    pub(crate) publishers: usize,
    pub(crate) subscribers: usize,
    /// Packets in a million that may be missing.
    pub(crate) gaps_ppm: u32,
    pub(crate) seconds: f64,
    /// Packets published.
    pub(crate) published: u64,
    /// Packets forwarded: received by all sinks within the window.
    pub(crate) forwarded: u64,
    pub(crate) forwarded_per_second: f64,
    pub(crate) forwarded_bytes: u64,
    pub(crate) cpu_us_per_packet: Option<f64>,
    pub(crate) server: Option<Usage>,
    /// What the server itself counted.
    pub(crate) counters: BTreeMap<String, u64>,
    pub(crate) syscalls_per_packet: Option<f64>,
    pub(crate) packets_per_train: Option<f64>,
    /// Window and the moments after it in which stragglers may come.
    pub(crate) arrived: Arrived,
    pub(crate) latency_us: Quantiles,
    pub(crate) generator: Generator,
    /// Why this point says nothing about the server.
    pub(crate) invalid: Vec<String>,
    /// What else to know when reading it.
    pub(crate) notes: Vec<String>,
    /// What the server did wrong.
    pub(crate) failures: Vec<String>,
}

impl Arrived {
    /// Adds what one sink counted.
    pub(crate) fn add(&mut self, sink: &SinkReport) {
        let tally = &sink.tally;
        for stream in &sink.streams {
            // Retransmission streams have gaps of their own nature: nobody repairs a repair.
            if matches!(stream.kind, Incoming::Media(Kind::Audio | Kind::Video)) {
                self.packets += stream.counts.packets;
                self.gaps += stream.missing - stream.unsettled;
                self.unsettled += stream.unsettled;
                self.duplicates += stream.counts.duplicates;
                self.reordered += stream.counts.reordered;
                self.repaired += stream.counts.repaired;
            }
        }
        self.sinks += usize::from(sink.listens);
        self.silent += usize::from(sink.listens && tally.media == 0);
        self.repairs += tally.repairs;
        self.compared += tally.opened;
        self.mismatched += tally.mismatched;
        self.foreign += tally.foreign;
        self.unopened += tally.unopened;
        self.malformed += tally.malformed;
        self.dropped += tally.dropped;
        self.nacks_sent += tally.nacks_sent;
        self.plis_sent += tally.plis_sent;
        self.feedback_sent += tally.feedback_sent;
        self.sender_reports += tally.sender_reports;
        self.overflow += u64::from(sink.overflow);
    }
}

/// One line of a table: name and value.
type Row = (&'static str, String);

impl Point {
    /// Fills in what follows from the rest, and judges.
    pub(crate) fn conclude(&mut self, is_silence_allowed: bool) {
        self.forwarded_per_second = self.forwarded as f64 / self.seconds.max(1e-9);
        let packets = self.forwarded.max(1) as f64;
        self.cpu_us_per_packet = self
            .server
            .as_ref()
            .filter(|_| self.forwarded > 0)
            .map(|usage| usage.cpu_seconds * 1e6 / packets);
        let counter = |name: &str| self.counters.get(name).map(|count| *count as f64);
        let sent = counter("packets_sent_total").filter(|sent| *sent > 0.0);
        self.syscalls_per_packet = sent.and_then(|sent| Some(counter("syscalls_total")? / sent));
        self.packets_per_train = sent.and_then(|sent| Some(sent / counter("trains_sent_total")?));
        self.invalid = self.reasons();
        if let Some(usage) = self.server.as_ref().filter(|usage| usage.waited_share > WAITED_SHARE_MAX) {
            let share = usage.waited_share * 100.0;
            self.notes.push(format!(
                "threads of the sender waited for a core {share:.0} % of the time: was it shared?"
            ));
        }
        let arrived = &self.arrived;
        let gaps_allowed = arrived.packets * u64::from(self.gaps_ppm) / 1_000_000;
        let wrong = [
            ("gaps", if arrived.gaps > gaps_allowed { arrived.gaps } else { 0 }),
            ("duplicates", arrived.duplicates),
            ("samples unlike what was published", arrived.mismatched),
            ("packets that do not open", arrived.unopened),
            ("packets of another room", arrived.foreign),
            ("malformed datagrams", arrived.malformed),
            ("sinks that heard nothing", if is_silence_allowed { 0 } else { arrived.silent as u64 }),
        ];
        let wrong = wrong.iter().filter(|(_, count)| *count > 0);
        self.failures.extend(wrong.map(|(what, count)| format!("{count} {what}")));
        if !is_silence_allowed && arrived.compared == 0 {
            self.failures.push("no sample was compared".into());
        }
    }

    fn reasons(&self) -> Vec<String> {
        let generator = &self.generator;
        let mut reasons = Vec::new();
        for (what, share) in
            [("receiving", generator.receiving_share), ("publishing", generator.publishing_share)]
        {
            if share > GENERATOR_SHARE_MAX {
                reasons
                    .push(format!("the generator's {what} thread used {:.0} % of its core", share * 100.0));
            }
        }
        if generator.lateness_us.p99 > LATENESS_P99_US_MAX {
            reasons.push(format!("publishers were {} µs late (p99)", generator.lateness_us.p99));
        }
        if generator.unsent > 0 {
            reasons.push(format!("{} packets did not leave the publishers", generator.unsent));
        }
        if self.arrived.overflow > 0 {
            reasons.push(format!("the sinks' sockets overflowed by {} datagrams", self.arrived.overflow));
        }
        if generator.is_pinned && generator.process_share > GENERATOR_SHARE_MAX {
            reasons.push(format!("the generator used {:.0} % of a core", generator.process_share * 100.0));
        }
        reasons
    }

    pub(crate) fn table(&self) -> String {
        let mut rows = self.workload_rows();
        rows.extend(self.server_rows());
        rows.extend(self.arrival_rows());
        rows.extend(self.generator_row());
        rows.extend(self.verdict_rows());
        let mut text = format!("{}\n", self.who);
        for (name, value) in rows {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {name:<26}{value}");
        }
        text
    }

    fn workload_rows(&self) -> Vec<Row> {
        let workload = format!(
            "{} {}, {} rooms, {} publishers, {} subscribers",
            self.workload, self.pattern, self.rooms, self.publishers, self.subscribers
        );
        let forwarded =
            format!("{}, {} ({:.0}/s)", self.published, self.forwarded, self.forwarded_per_second);
        vec![
            ("workload", workload),
            ("window", format!("{:.1} s", self.seconds)),
            ("published, forwarded", forwarded),
        ]
    }

    fn server_rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        if let Some(us) = self.cpu_us_per_packet {
            rows.push(("CPU per forwarded packet", format!("{us:.3} µs")));
        }
        if let Some(usage) = &self.server {
            let cpu = format!(
                "{:.1} % of a core (user {:.1}, system {:.1}); waited for one {:.1} %",
                usage.core_share * 100.0,
                usage.user_share * 100.0,
                usage.system_share * 100.0,
                usage.waited_share * 100.0
            );
            let machine = format!(
                "busy {:.1} %, softirq {:.1} %, stolen {:.1} %",
                usage.machine_busy_share * 100.0,
                usage.machine_softirq_share * 100.0,
                usage.machine_stolen_share * 100.0
            );
            let held = format!("{:.1} MB, {}, {}", usage.rss_bytes as f64 / 1e6, usage.threads, usage.fds);
            let switches =
                format!("{} voluntary, {} involuntary", usage.voluntary_switches, usage.involuntary_switches);
            let shares = usage.thread_shares.iter().filter(|(_, share)| **share >= THREAD_SHARE_MIN);
            let threads: Vec<String> =
                shares.map(|(name, share)| format!("{name} {:.1} %", share * 100.0)).collect();
            rows.extend([("CPU", cpu), ("its threads", threads.join(", ")), ("machine", machine)]);
            rows.extend([("RSS, threads, descriptors", held), ("switches", switches)]);
        }
        if let (Some(syscalls), Some(train)) = (self.syscalls_per_packet, self.packets_per_train) {
            let counted = format!(
                "{syscalls:.3} system calls and {:.2} trains per packet, {train:.2} packets per train",
                1.0 / train
            );
            rows.push(("server's own count", counted));
        }
        rows
    }

    fn arrival_rows(&self) -> Vec<Row> {
        let latency = &self.latency_us;
        let measured = format!(
            "p50 {} p99 {} p99.9 {} max {} ({} samples)",
            latency.p50, latency.p99, latency.p999, latency.max, latency.count
        );
        let a = &self.arrived;
        let arrived = format!(
            "gaps {} duplicates {} reordered {} repaired {} of {}; compared {}, unlike {}, unopened {}",
            a.gaps, a.duplicates, a.reordered, a.repaired, a.repairs, a.compared, a.mismatched, a.unopened
        );
        let feedback = format!(
            "{} TWCC, {} NACK, {} PLI sent; {} SR received; dropped on purpose {}",
            a.feedback_sent, a.nacks_sent, a.plis_sent, a.sender_reports, a.dropped
        );
        vec![("latency µs", measured), ("arrived", arrived), ("feedback", feedback)]
    }

    fn generator_row(&self) -> [Row; 1] {
        let g = &self.generator;
        let value = format!(
            "receiving {:.1} % ({:.2} µs a datagram), publishing {:.1} %, all {:.1} %; late p50 {} p99 {} max {} µs; \
             keyframes forced {}, resent {}",
            g.receiving_share * 100.0,
            g.receive_us,
            g.publishing_share * 100.0,
            g.process_share * 100.0,
            g.lateness_us.p50,
            g.lateness_us.p99,
            g.lateness_us.max,
            g.forced_keyframes,
            g.resent
        );
        [("generator", value)]
    }

    fn verdict_rows(&self) -> Vec<Row> {
        let dropped = self.counters.iter().filter(|(name, _)| {
            ["dropped", "overflow", "pool_empty", "failed", "lost"].iter().any(|part| name.contains(part))
        });
        let drops: Vec<String> = dropped.map(|(name, n)| format!("{name} {n}")).collect();
        let drops = Some(("server dropped", drops.join(", "))).filter(|(_, text)| !text.is_empty());
        let notes = self.notes.iter().map(|note| ("note", note.clone()));
        let invalid = self.invalid.iter().map(|reason| ("INVALID", reason.clone()));
        let failures = self.failures.iter().map(|failure| ("FAILED", failure.clone()));
        drops.into_iter().chain(notes).chain(invalid).chain(failures).collect()
    }

    pub(crate) fn is_good(&self) -> bool {
        self.invalid.is_empty() && self.failures.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Point {
        let mut point = Point { seconds: 2.0, forwarded: 1_000, published: 10, ..Point::default() };
        point.arrived = Arrived { sinks: 1, packets: 1_000, compared: 10, ..Arrived::default() };
        point.generator =
            Generator { receiving_share: 0.7, process_share: 0.74, is_pinned: true, ..Generator::default() };
        point.generator.lateness_us.p99 = 1_000;
        point.server = Some(Usage { cpu_seconds: 0.002, ..Usage::default() });
        point
    }

    fn judged(change: impl FnOnce(&mut Point)) -> Point {
        let mut point = good();
        change(&mut point);
        point.conclude(false);
        point
    }

    #[test]
    fn a_point_without_fault_gives_time_per_packet() {
        let point = judged(|_| {});
        assert!(point.is_good(), "{:?} {:?}", point.invalid, point.failures);
        assert!((point.cpu_us_per_packet.unwrap() - 2.0).abs() < 1e-9);
        assert!((point.forwarded_per_second - 500.0).abs() < 1e-9);
    }

    #[test]
    fn a_generator_that_was_the_bottleneck_makes_a_point_invalid() {
        let changes: [fn(&mut Point); 6] = [
            |point| point.generator.receiving_share = 0.8,
            |point| point.generator.publishing_share = 0.8,
            |point| point.generator.process_share = 0.8,
            |point| point.generator.lateness_us.p99 = 1_001,
            |point| point.generator.unsent = 1,
            |point| point.arrived.overflow = 1,
        ];
        for change in changes {
            let point = judged(change);
            assert_eq!((point.invalid.len(), point.failures.len()), (1, 0), "{:?}", point.invalid);
        }
        assert!(
            judged(|point| (point.generator.is_pinned, point.generator.process_share) = (false, 1.3))
                .is_good()
        );
    }

    #[test]
    fn a_server_that_did_wrong_fails_the_point() {
        let changes: [fn(&mut Point); 8] = [
            |point| point.arrived.gaps = 1,
            |point| point.arrived.duplicates = 1,
            |point| point.arrived.mismatched = 1,
            |point| point.arrived.unopened = 1,
            |point| point.arrived.foreign = 1,
            |point| point.arrived.malformed = 1,
            |point| point.arrived.silent = 1,
            |point| point.arrived.compared = 0,
        ];
        for change in changes {
            let point = judged(change);
            assert_eq!((point.invalid.len(), point.failures.len()), (0, 1), "{:?}", point.failures);
            assert!(point.table().contains("FAILED"));
        }
    }

    #[test]
    fn as_many_gaps_as_allowed_fail_nothing() {
        let gaps = |gaps| {
            judged(|point| (point.gaps_ppm, point.arrived.packets, point.arrived.gaps) = (100, 20_000, gaps))
        };
        assert!(gaps(2).is_good() && !gaps(3).is_good());
    }

    #[test]
    fn what_the_server_counts_is_put_in_proportion() {
        let point = judged(|point| {
            let counters = [("packets_sent_total", 900), ("syscalls_total", 90), ("trains_sent_total", 100)];
            point.counters = counters.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        });
        assert_eq!((point.syscalls_per_packet, point.packets_per_train), (Some(0.1), Some(9.0)));
    }
}
