//! What reception reports tell (RFC 3550 §6.4.1), added up: loss, jitter and round trips of what arrives and of what is sent.

use std::time::{Duration, Instant};

use auralink_proto::MediaKind;
use auralink_rtc::rtcp::ReportBlock;
use auralink_rtc::units::NtpTime;

/// Upper bounds of lost packets, in thousandths of a percent of those expected.
pub const LOSS_BOUNDS: [u32; 10] = [0, 100, 300, 500, 700, 1_000, 5_000, 10_000, 40_000, 100_000];
/// Upper bounds of jitter, in microseconds.
pub const JITTER_BOUNDS_US: [u32; 9] =
    [1_000, 10_000, 30_000, 50_000, 70_000, 100_000, 300_000, 600_000, 1_000_000];
/// Upper bounds of a round trip, in milliseconds.
pub const ROUND_TRIP_BOUNDS_MS: [u32; 10] = [50, 100, 150, 200, 250, 500, 750, 1_000, 5_000, 10_000];

/// Observations by upper bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Histogram<const N: usize> {
    /// Those above the bound before and at most the bound of the same place; what is above all bounds is in `count` alone.
    pub buckets: [u64; N],
    pub count: u64,
    pub sum: u64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { buckets: [0; N], count: 0, sum: 0 }
    }
}

impl<const N: usize> Histogram<N> {
    fn observe(&mut self, bounds: &[u32; N], value: u32) {
        if let Some(bucket) = bounds.iter().position(|bound| value <= *bound) {
            self.buckets[bucket] += 1;
        }
        self.count += 1;
        self.sum += u64::from(value);
    }

    fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(own, other)| *own += other);
        self.count += other.count;
        self.sum += other.sum;
    }
}

/// All streams of one kind in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Streams {
    pub lost: u64,
    /// Thousandths of a percent.
    pub loss: Histogram<10>,
    pub jitter_us: Histogram<9>,
    pub round_trip_ms: Histogram<10>,
}

impl Streams {
    /// One report: packets lost and expected since the one before, and what else it tells.
    pub fn observe(&mut self, reported: &Reported) {
        let Reported { lost, expected, jitter_us, round_trip } = *reported;
        self.lost += lost;
        if let Some(share) = (lost * 100_000).checked_div(expected) {
            self.loss.observe(&LOSS_BOUNDS, share.min(100_000) as u32);
        }
        if jitter_us > 0 {
            self.jitter_us.observe(&JITTER_BOUNDS_US, jitter_us);
        }
        if let Some(round_trip) = round_trip {
            self.round_trip_ms.observe(&ROUND_TRIP_BOUNDS_MS, round_trip.as_millis() as u32);
        }
    }

    fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.loss.add(&other.loss);
        self.jitter_us.add(&other.jitter_us);
        self.round_trip_ms.add(&other.round_trip_ms);
    }
}

/// Both directions and kinds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Quality {
    pub incoming: ByKind,
    pub outgoing: ByKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ByKind {
    pub audio: Streams,
    pub video: Streams,
}

impl ByKind {
    pub(crate) fn of(&mut self, kind: MediaKind) -> &mut Streams {
        match kind {
            MediaKind::Audio => &mut self.audio,
            MediaKind::Video => &mut self.video,
        }
    }
}

impl Quality {
    /// Adds what another shard observed.
    pub fn add(&mut self, other: &Self) {
        self.incoming.audio.add(&other.incoming.audio);
        self.incoming.video.add(&other.incoming.video);
        self.outgoing.audio.add(&other.outgoing.audio);
        self.outgoing.video.add(&other.outgoing.video);
    }
}

/// What one report tells of one stream.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Reported {
    /// Packets lost since the report before.
    pub lost: u64,
    pub expected: u64,
    pub jitter_us: u32,
    /// From a sender report of ours to the answer, less the time it lay with the receiver.
    pub round_trip: Option<Duration>,
}

/// `jitter` of a report in microseconds.
pub fn jitter_us(jitter: u32, clock_rate: u32) -> u32 {
    let micros = u64::from(jitter) * 1_000_000 / u64::from(clock_rate.max(1));
    micros.min(u64::from(u32::MAX)) as u32
}

/// What a receiver has said of one stream of ours.
#[derive(Clone, Copy, Default, Debug)]
pub struct Listener {
    /// The latest sender report: middle of its NTP time, and when it left.
    sent: Option<(u32, Instant)>,
    /// Cumulative loss and highest sequence number of the latest report.
    heard: Option<(i32, u32)>,
}

impl Listener {
    /// A sender report with this time leaves.
    pub fn on_sent(&mut self, now: Instant, ntp: NtpTime) {
        self.sent = Some((ntp.middle(), now));
    }

    /// The receiver's report arrives. Its first says nothing of an interval; numbers that go back are a new start.
    pub fn on_report(&mut self, now: Instant, block: &ReportBlock, clock_rate: u32) -> Reported {
        let before = self.heard.replace((block.cumulative_lost, block.highest_seq));
        let (lost, expected) = before.map_or((0, 0), |(lost, highest)| {
            let expected = block.highest_seq.wrapping_sub(highest);
            let is_new_start = expected > u32::MAX / 2;
            // Duplicates make it negative, and a receiver may say anything.
            let lost = i64::from(block.cumulative_lost) - i64::from(lost);
            let expected = if is_new_start { 0 } else { u64::from(expected) };
            (u64::try_from(lost).unwrap_or_default().min(expected), expected)
        });
        let round_trip = self.sent.filter(|(middle, _)| *middle == block.lsr).and_then(|(_, at)| {
            let lay = Duration::from_nanos(u64::from(block.dlsr) * 1_000_000_000 / 65_536);
            now.saturating_duration_since(at).checked_sub(lay)
        });
        Reported { lost, expected, jitter_us: jitter_us(block.jitter, clock_rate), round_trip }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn block(cumulative_lost: i32, highest_seq: u32) -> ReportBlock {
        ReportBlock { cumulative_lost, highest_seq, jitter: 900, ..ReportBlock::default() }
    }

    #[test]
    fn loss_is_that_of_the_interval() {
        let now = Instant::now();
        let mut listener = Listener::default();
        let mut said = |lost, highest| {
            let reported = listener.on_report(now, &block(lost, highest), 90_000);
            (reported.lost, reported.expected)
        };
        assert_eq!(said(50, 1_000), (0, 0), "what was before the first report is not known");
        assert_eq!(said(53, 1_100), (3, 100));
        assert_eq!(said(51, 1_200), (0, 100), "duplicates");
        assert_eq!(said(1_000_000, 1_210), (10, 10), "more than there was");
        assert_eq!(said(0, 5), (0, 0), "a new start");
    }

    #[test]
    fn a_round_trip_leaves_out_how_long_the_report_lay() {
        let start = Instant::now();
        let mut listener = Listener::default();
        let ntp = NtpTime(0x1234_5678_9abc_def0);
        let reported = |listener: &mut Listener, block: &ReportBlock| {
            listener.on_report(start + 540 * MS, block, 48_000)
        };
        // Half a second is 32,768 units.
        let answer = ReportBlock { lsr: ntp.middle(), dlsr: 32_768, ..ReportBlock::default() };
        assert_eq!(reported(&mut listener, &answer).round_trip, None, "nothing was sent");
        listener.on_sent(start, ntp);
        assert_eq!(reported(&mut listener, &answer).round_trip, Some(40 * MS));
        assert_eq!(reported(&mut listener, &ReportBlock { lsr: 7, ..answer }).round_trip, None);
        assert_eq!(reported(&mut listener, &ReportBlock { dlsr: u32::MAX, ..answer }).round_trip, None);
    }

    #[test]
    fn observations_fall_into_their_buckets() {
        let mut streams = Streams::default();
        streams.observe(&Reported { lost: 0, expected: 100, jitter_us: 0, round_trip: None });
        streams.observe(&Reported {
            lost: 2,
            expected: 100,
            jitter_us: jitter_us(900, 90_000),
            round_trip: Some(50 * MS),
        });
        streams.observe(&Reported { jitter_us: 2_000_000, ..Reported::default() });
        assert_eq!(streams.lost, 2);
        assert_eq!(streams.loss.buckets, [1, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!((streams.loss.count, streams.loss.sum), (2, 2_000));
        assert_eq!(streams.jitter_us.buckets, [0, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((streams.jitter_us.count, streams.jitter_us.sum), (2, 2_010_000));
        assert_eq!(streams.round_trip_ms.buckets[0], 1);
        let mut both = Quality::default();
        both.incoming.video = streams;
        both.add(&both.clone());
        assert_eq!(both.incoming.video.jitter_us.count, 4);
    }
}
