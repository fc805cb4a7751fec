//! When a publisher sends what: a cycle of steps that is repeated, laid out before the run so that the server and the floor
//! are given exactly the same.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::payload::{Kind, PAYLOAD_LEN_MIN};

const MILLISECOND_NS: u64 = 1_000_000;
const SECOND_NS: u64 = 1_000 * MILLISECOND_NS;
const FRAMES_PER_SECOND: u64 = 30;
/// A keyframe every three seconds.
const FRAMES_PER_CYCLE: u64 = 90;
/// Packets of an ordinary frame; a keyframe has five times as many.
const FRAME_PACKETS: usize = 9;
const KEYFRAME_FACTOR: usize = 5;
/// With header, extensions and tag a datagram of about 1.15 kB.
const VIDEO_PAYLOAD_LEN: u16 = 1_100;
const AUDIO_INTERVAL_NS: u64 = 20 * MILLISECOND_NS;

/// One packet of the cycle.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Since the start of the cycle.
    pub(crate) at_ns: u64,
    /// Bytes of the RTP payload.
    pub(crate) len: u16,
    pub(crate) keyframe: bool,
    pub(crate) frame_start: bool,
    pub(crate) marker: bool,
    /// The media clock since the start of the cycle.
    pub(crate) timestamp: u32,
}

/// A stream's steps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Schedule {
    pub(crate) kind: Kind,
    /// In order of time.
    pub(crate) steps: Vec<Step>,
    pub(crate) cycle_ns: u64,
    /// The media clock of one cycle.
    pub(crate) cycle_timestamp: u32,
}

impl Schedule {
    /// Nine-packet frames, each sent at once, as browsers' pacers nearly do.
    pub(crate) fn burst() -> Self {
        Self::video(FRAME_PACKETS, VIDEO_PAYLOAD_LEN, |_, _| 0)
    }

    /// The same packets, each 1 to 3 ms behind the one before.
    pub(crate) fn paced() -> Self {
        let mut schedule = Self::burst();
        let mut last_ns = 0;
        for (n, step) in schedule.steps.iter_mut().enumerate() {
            // Any fixed sequence without a period that matters will do.
            let wait_ns =
                MILLISECOND_NS + (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) % (2 * MILLISECOND_NS);
            last_ns = step.at_ns.max(last_ns + if n == 0 { 0 } else { wait_ns });
            step.at_ns = last_ns;
        }
        schedule
    }

    /// The same frames at another rate.
    pub(crate) fn at_frame_rate(mut self, frames_per_second: u64) -> Self {
        let stretched = |value: u64| value * FRAMES_PER_SECOND / frames_per_second.max(1);
        for step in &mut self.steps {
            step.at_ns = stretched(step.at_ns);
            step.timestamp = stretched(u64::from(step.timestamp)) as u32;
        }
        self.cycle_ns = stretched(self.cycle_ns);
        self.cycle_timestamp = stretched(u64::from(self.cycle_timestamp)) as u32;
        self
    }

    /// One layer of simulcast.
    pub(crate) fn layer(packets: usize, len: u16) -> Self {
        Self::video(packets, len, |_, _| 0)
    }

    /// A packet twice a second, each a keyframe: as little as keeps a track alive.
    pub(crate) fn trickle(kind: Kind) -> Self {
        let rate = if kind == Kind::Video { 90_000 } else { 48_000 };
        let steps = (0..2_u32).map(|n| Step {
            at_ns: u64::from(n) * SECOND_NS / 2,
            len: 100,
            keyframe: kind == Kind::Video,
            frame_start: true,
            marker: kind == Kind::Video,
            timestamp: n * rate / 2,
        });
        Self { kind, steps: steps.collect(), cycle_ns: SECOND_NS, cycle_timestamp: rate }
    }

    /// Opus at 50 packets a second.
    pub(crate) fn audio() -> Self {
        let steps = (0..50_u64).map(|n| Step {
            at_ns: n * AUDIO_INTERVAL_NS,
            len: 80 + (n * 13 % 21) as u16,
            keyframe: false,
            frame_start: true,
            marker: false,
            timestamp: n as u32 * 960,
        });
        Self { kind: Kind::Audio, steps: steps.collect(), cycle_ns: SECOND_NS, cycle_timestamp: 48_000 }
    }

    fn video(packets: usize, len: u16, late_ns: impl Fn(u64, usize) -> u64) -> Self {
        let mut steps = Vec::new();
        for frame in 0..FRAMES_PER_CYCLE {
            let keyframe = frame == 0;
            let count = if keyframe { packets * KEYFRAME_FACTOR } else { packets };
            for n in 0..count {
                steps.push(Step {
                    at_ns: frame * SECOND_NS / FRAMES_PER_SECOND + late_ns(frame, n),
                    len,
                    keyframe,
                    frame_start: n == 0,
                    marker: n + 1 == count,
                    timestamp: (frame * 90_000 / FRAMES_PER_SECOND) as u32,
                });
            }
        }
        let cycle_ns = FRAMES_PER_CYCLE * SECOND_NS / FRAMES_PER_SECOND;
        Self { kind: Kind::Video, steps, cycle_ns, cycle_timestamp: (cycle_ns / 1_000 * 90 / 1_000) as u32 }
    }

    /// # Errors
    /// When the steps cannot be played.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(!self.steps.is_empty(), "a schedule without packets");
        ensure!(self.steps.is_sorted_by_key(|step| step.at_ns), "packets are not in order of time");
        let last_ns = self.steps.last().map_or(0, |step| step.at_ns);
        let ends = self.kind == Kind::Audio || self.steps.iter().any(|step| step.marker);
        ensure!(ends, "video without an end of a frame");
        ensure!(last_ns < self.cycle_ns, "the last packet lies behind the end of the cycle");
        let least = if self.kind == Kind::Video { PAYLOAD_LEN_MIN } else { 32 };
        ensure!(self.steps.iter().all(|step| usize::from(step.len) >= least), "a packet below {least} bytes");
        if self.kind == Kind::Video {
            let first = self.steps.first().is_some_and(|step| step.frame_start && step.keyframe);
            ensure!(first, "a video schedule starts with a keyframe");
        }
        Ok(())
    }

    #[cfg(test)]
    fn packets_per_second(&self) -> f64 {
        self.steps.len() as f64 * SECOND_NS as f64 / self.cycle_ns as f64
    }
}

/// Where a stream is in its schedule.
#[derive(Clone, Debug)]
pub(crate) struct Cursor {
    pub(crate) schedule: Arc<Schedule>,
    /// CLOCK_MONOTONIC of the current cycle's start.
    cycle_start_ns: u64,
    cycle: u32,
    next: usize,
}

impl Cursor {
    pub(crate) fn new(schedule: Arc<Schedule>, start_ns: u64) -> Self {
        Self { schedule, cycle_start_ns: start_ns, cycle: 0, next: 0 }
    }

    /// Leaves out everything due before `now_ns`, and the rest of the frame that is cut by that.
    pub(crate) fn skip_until(&mut self, now_ns: u64) {
        let cycles = now_ns.saturating_sub(self.cycle_start_ns) / self.schedule.cycle_ns.max(1);
        self.cycle = self.cycle.wrapping_add(cycles as u32);
        self.cycle_start_ns += cycles * self.schedule.cycle_ns;
        let starts =
            |cursor: &Self| cursor.schedule.steps.get(cursor.next).is_some_and(|step| step.frame_start);
        while self.due_ns() < now_ns || !starts(self) {
            if self.take().is_none() {
                return;
            }
        }
    }

    /// CLOCK_MONOTONIC of the next step.
    pub(crate) fn due_ns(&self) -> u64 {
        self.schedule.steps.get(self.next).map_or(u64::MAX, |step| self.cycle_start_ns + step.at_ns)
    }

    /// Takes the next step, with the media clock since the very start.
    pub(crate) fn take(&mut self) -> Option<(Step, u32)> {
        let step = *self.schedule.steps.get(self.next)?;
        let timestamp = self.cycle.wrapping_mul(self.schedule.cycle_timestamp).wrapping_add(step.timestamp);
        self.next += 1;
        if self.next == self.schedule.steps.len() {
            self.next = 0;
            self.cycle = self.cycle.wrapping_add(1);
            self.cycle_start_ns += self.schedule.cycle_ns;
        }
        Some((step, timestamp))
    }

    /// Whether the next step starts a picture that is not a keyframe: here a keyframe that was asked for may stand instead.
    pub(crate) fn is_at_delta_frame(&self) -> bool {
        self.schedule.kind == Kind::Video
            && self.schedule.steps.get(self.next).is_some_and(|step| step.frame_start && !step.keyframe)
    }

    /// Leaves out the next frame; its media clock.
    pub(crate) fn skip_frame(&mut self) -> Option<u32> {
        let (first, timestamp) = self.take()?;
        if !first.marker {
            while self.take().is_some_and(|(step, _)| !step.marker) {}
        }
        Some(timestamp)
    }

    /// Skips one frame and gives the steps of the schedule's first keyframe for its place, with their time stamp.
    /// Nothing where there are no keyframes.
    pub(crate) fn take_keyframe_instead(&mut self) -> Vec<(Step, u32)> {
        if self.schedule.kind != Kind::Video {
            return Vec::new();
        }
        let Some(timestamp) = self.skip_frame() else { return Vec::new() };
        let keyframe = self.schedule.steps.iter().take_while(|step| step.keyframe);
        let mut steps: Vec<Step> = keyframe.copied().collect();
        if let Some(end) = steps.iter().position(|step| step.marker) {
            steps.truncate(end + 1);
        }
        steps.into_iter().map(|step| (step, timestamp)).collect()
    }
}

/// When the `n`-th publisher's cycle began if the first one's began at `origin_ns`: before that, so that all are under way.
pub(crate) fn start_ns(origin_ns: u64, cycle_ns: u64, n: usize) -> u64 {
    (origin_ns + phase_ns(cycle_ns, n)).saturating_sub(cycle_ns)
}

/// Where in its cycle the `n`-th publisher is when the first one starts: spread evenly, in no rhythm with frames.
fn phase_ns(cycle_ns: u64, n: usize) -> u64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_8;
    ((n as f64 * GOLDEN).fract() * cycle_ns as f64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(schedule: Schedule, count: usize) -> Vec<(u64, Step, u32)> {
        schedule.check().unwrap();
        let mut cursor = Cursor::new(Arc::new(schedule), 1_000);
        let next = |_| {
            let due_ns = cursor.due_ns();
            cursor.take().map(|(step, timestamp)| (due_ns, step, timestamp)).unwrap()
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn a_burst_is_a_frame_at_once_and_the_keyframe_five_times_as_large() {
        let cycle = 45 + 89 * 9;
        let steps = steps(Schedule::burst(), 2 * cycle);
        assert!(steps[..45].iter().all(|(due, step, t)| (*due, step.keyframe, *t) == (1_000, true, 0)));
        let second: Vec<_> = steps[45..54].iter().map(|(due, step, t)| (*due, step.keyframe, *t)).collect();
        assert_eq!(second, [(33_334_333, false, 3_000); 9]);
        assert_eq!(steps.iter().filter(|(_, step, _)| step.marker).count(), 180);
        let (due, step, timestamp) = steps[cycle];
        assert_eq!((due, step.keyframe, step.frame_start, timestamp), (3_000_001_000, true, true, 270_000));
    }

    #[test]
    fn paced_packets_keep_their_distance_and_the_rate_is_the_same() {
        let burst = Schedule::burst();
        let paced = Schedule::paced();
        assert!((burst.packets_per_second() - paced.packets_per_second()).abs() < 1e-9);
        paced.check().unwrap();
        let gaps = paced.steps.windows(2).map(|pair| pair[1].at_ns - pair[0].at_ns);
        assert!(gaps.clone().all(|gap| gap >= MILLISECOND_NS), "{:?}", gaps.min());
        // Within a frame never more than 3 ms.
        let inner = paced.steps.windows(2).filter(|pair| !pair[1].frame_start);
        assert!(inner.map(|pair| pair[1].at_ns - pair[0].at_ns).all(|gap| gap <= 3 * MILLISECOND_NS));
    }

    #[test]
    fn half_the_frame_rate_takes_twice_the_time() {
        let (usual, slow) = (Schedule::burst(), Schedule::burst().at_frame_rate(15));
        slow.check().unwrap();
        assert!((slow.packets_per_second() * 2.0 - usual.packets_per_second()).abs() < 1e-9);
        assert_eq!((slow.steps[45].at_ns, slow.steps[45].timestamp), (66_666_666, 6_000));
        assert_eq!(slow.cycle_timestamp, 2 * usual.cycle_timestamp);
    }

    #[test]
    fn audio_is_fifty_packets_a_second_of_80_to_100_bytes() {
        let audio = Schedule::audio();
        assert!((audio.packets_per_second() - 50.0).abs() < 1e-9);
        let lens = audio.steps.iter().map(|step| step.len);
        assert_eq!((lens.clone().min(), lens.max()), (Some(80), Some(100)));
        audio.check().unwrap();
    }

    #[test]
    fn a_keyframe_asked_for_stands_for_the_frame_it_replaces() {
        let mut cursor = Cursor::new(Arc::new(Schedule::burst()), 0);
        assert!(!cursor.is_at_delta_frame());
        assert!((0..45).all(|_| cursor.take().is_some()));
        assert!(cursor.is_at_delta_frame());
        let keyframe = cursor.take_keyframe_instead();
        assert_eq!(keyframe.len(), 45);
        assert!(keyframe.iter().all(|(step, timestamp)| step.keyframe && *timestamp == 3_000));
        assert!(keyframe[44].0.marker && cursor.is_at_delta_frame());
        assert_eq!(cursor.take().unwrap().1, 6_000);
    }

    #[test]
    fn sound_has_no_keyframes_to_give() {
        let mut cursor = Cursor::new(Arc::new(Schedule::audio()), 0);
        assert!(cursor.take_keyframe_instead().is_empty());
        assert_eq!(cursor.due_ns(), 0);
    }

    #[test]
    fn publishers_are_spread_over_the_cycle_and_over_frames() {
        let mut phases: Vec<u64> = (0..100).map(|n| phase_ns(3 * SECOND_NS, n)).collect();
        let mut in_frame: Vec<u64> = phases.iter().map(|phase| phase % (SECOND_NS / 30)).collect();
        phases.sort_unstable();
        in_frame.sort_unstable();
        let widest = |sorted: &[u64]| sorted.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(widest(&phases) < 60_000_000 && widest(&in_frame) < 1_500_000);
    }

    #[test]
    fn nobody_waits_for_its_turn_in_the_cycle() {
        let origin_ns = 100 * SECOND_NS;
        assert!((0..100).all(|n| start_ns(origin_ns, 20 * SECOND_NS, n) <= origin_ns));
    }

    #[test]
    fn a_late_start_is_in_step_with_an_early_one() {
        let schedule = Arc::new(Schedule::burst());
        let mut late = Cursor::new(Arc::clone(&schedule), 0);
        late.skip_until(7_000_000_000);
        let mut early = Cursor::new(schedule, 0);
        while early.due_ns() < 7_000_000_000 {
            early.take();
        }
        assert_eq!((late.due_ns(), late.take()), (early.due_ns(), early.take()));
    }
}
