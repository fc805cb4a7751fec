//! The receiving half of a client: one line per section the server sends on. Puts numbers in order, asks for what is missing,
//! assembles frames and compares them with the recording.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use auralink_rtc::units::SeqNo;

use crate::recording::{FrameId, Recording};
use crate::vp8::Part;

/// Reordering that is not yet loss.
const FIRST_DELAY: Duration = Duration::from_millis(10);
/// Between two requests for one packet.
const RETRY: Duration = Duration::from_millis(50);
/// A gap this old is not repaired any more.
const AGE_MAX: Duration = Duration::from_secs(1);
/// More than this at once is a break.
const MISSING_MAX: u64 = 512;
/// Frames in a row that a browser's pacer may have thrown away: a second's worth.
const LEFT_OUT_MAX: u16 = 30;
/// Violations told closely.
const DETAILS_MAX: usize = 8;

/// Counters of one line. Those that must be zero are violations.
#[derive(Clone, Default, Debug, serde::Serialize)]
pub(crate) struct Received {
    pub(crate) packets: u64,
    pub(crate) frames: u64,
    pub(crate) keyframes: u64,
    pub(crate) repaired: u64,
    /// Repairs of what had arrived already: harmless, a request and a late packet crossed.
    pub(crate) repaired_twice: u64,
    /// Packets that arrived after one with a higher number, other than repairs.
    pub(crate) reordered: u64,
    /// Frames that a switch of layers cut short: the keyframe after them takes their place.
    pub(crate) cut_by_keyframe: u64,
    /// Frames of another generator, byte by byte those of the recording.
    pub(crate) matched: u64,
    /// Milliseconds from opening the WebSocket to the first whole keyframe, or first sound.
    pub(crate) first_ms: Option<u64>,
    pub(crate) gaps: u64,
    pub(crate) duplicates: u64,
    pub(crate) starts_without_keyframe: u64,
    pub(crate) picture_id_jumps: u64,
    /// Picture ids a browser left out itself: it numbers a frame when it is encoded, and its pacer may still throw the frame
    /// away when bandwidth estimation turns the layer off, before the frame's packets have sequence numbers. Harmless.
    pub(crate) left_out_by_browser: u64,
    pub(crate) mismatches: u64,
    pub(crate) order_breaks: u64,
    pub(crate) malformed: u64,
    /// The first of the violations, told more closely.
    pub(crate) details: Vec<String>,
}

impl Received {
    fn detail(&mut self, what: impl FnOnce() -> String) {
        if self.details.len() < DETAILS_MAX {
            let text = what();
            self.details.push(text);
        }
    }

    /// What must not happen, each with its count.
    pub(crate) fn violations(&self) -> [(&'static str, u64); 7] {
        [
            ("gaps not repaired", self.gaps),
            ("duplicates", self.duplicates),
            ("starts without keyframe", self.starts_without_keyframe),
            ("picture id jumps", self.picture_id_jumps),
            ("frames unlike the recording", self.mismatches),
            ("frames out of the recording's order", self.order_breaks),
            ("malformed packets", self.malformed),
        ]
    }
}

/// One opened packet.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) seq: u16,
    pub(crate) timestamp: u32,
    pub(crate) marker: bool,
    pub(crate) is_repair: bool,
    pub(crate) payload: Vec<u8>,
}

#[derive(Debug)]
struct Missing {
    since: Instant,
    due: Instant,
}

#[derive(Debug)]
enum Held {
    Part {
        part: Part,
        timestamp: u32,
        marker: bool,
    },
    Sound(Vec<u8>),
    /// Padding alone.
    Nothing,
}

/// One section the server sends on.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) is_video: bool,
    /// Whether the track comes from a generator, so that its frames are known.
    pub(crate) is_recording: bool,
    opened: Instant,
    recording: Arc<Recording>,
    pub(crate) highest: Option<SeqNo>,
    first: Option<SeqNo>,
    next: Option<SeqNo>,
    missing: BTreeMap<u64, Missing>,
    held: BTreeMap<u64, Held>,
    assembly: Vec<(Part, u32)>,
    needs_keyframe: bool,
    /// The rest of a frame whose start was given up may follow.
    is_after_gap: bool,
    pub(crate) wants_keyframe: bool,
    previous: Option<FrameId>,
    picture_id: Option<u16>,
    pub(crate) last_arrival: Option<Instant>,
    /// Middle bits of the last sender report and when it came.
    pub(crate) last_report: Option<(u32, Instant)>,
    pub(crate) counters: Received,
}

impl Line {
    /// `opened`: when the WebSocket was.
    pub(crate) fn new(is_video: bool, opened: Instant, recording: Arc<Recording>) -> Self {
        Self {
            is_video,
            is_recording: false,
            opened,
            recording,
            highest: None,
            first: None,
            next: None,
            missing: BTreeMap::new(),
            held: BTreeMap::new(),
            assembly: Vec::new(),
            needs_keyframe: true,
            is_after_gap: false,
            wants_keyframe: false,
            previous: None,
            picture_id: None,
            last_arrival: None,
            last_report: None,
            counters: Received::default(),
        }
    }

    /// Another track passes here from now on: it starts with a keyframe.
    pub(crate) fn restart(&mut self) {
        self.needs_keyframe = true;
        self.previous = None;
    }

    /// Expected packets so far and how many of them never came, for receiver reports.
    pub(crate) fn loss(&self) -> (u64, u64) {
        let span = self.first.zip(self.highest).map_or(0, |(first, highest)| highest.0 + 1 - first.0);
        (span, self.counters.gaps)
    }

    pub(crate) fn on_packet(&mut self, now: Instant, packet: Packet) {
        let seq =
            self.highest.map_or_else(|| SeqNo::first(packet.seq), |highest| highest.nearest(packet.seq));
        self.last_arrival = Some(now);
        self.counters.packets += 1;
        if self.highest.is_none() {
            (self.first, self.next) = (Some(seq), Some(seq));
        }
        let highest = self.highest.unwrap_or(seq);
        if seq > highest {
            if seq.0 - highest.0 > MISSING_MAX {
                self.counters.gaps += seq.0 - highest.0 - 1;
                self.skip_to(seq);
            } else {
                let due = now + FIRST_DELAY;
                let gap = (highest.0 + 1..seq.0).map(|seq| (seq, Missing { since: now, due }));
                self.missing.extend(gap);
            }
        } else if self.highest.is_some() && !self.is_awaited(seq, packet.is_repair) {
            return;
        }
        self.highest = Some(highest.max(seq));
        let held = self.read(&packet);
        self.held.insert(seq.0, held);
        self.deliver(now);
    }

    /// Whether a packet that is not the newest fills a gap; counts what it is.
    fn is_awaited(&mut self, seq: SeqNo, is_repair: bool) -> bool {
        let awaited = self.missing.remove(&seq.0).is_some();
        match (awaited, is_repair) {
            (true, true) => self.counters.repaired += 1,
            (true, false) => self.counters.reordered += 1,
            (false, true) => self.counters.repaired_twice += 1,
            // Given up already, or before the first: late, not double. A second copy under one number cannot come here,
            // since SRTP refuses it as replayed.
            (false, false) => self.counters.reordered += 1,
        }
        awaited
    }

    fn read(&mut self, packet: &Packet) -> Held {
        if packet.payload.is_empty() {
            return Held::Nothing;
        }
        if !self.is_video {
            return Held::Sound(packet.payload.clone());
        }
        match Part::parse(&packet.payload) {
            Some(part) => Held::Part { part, timestamp: packet.timestamp, marker: packet.marker },
            None => {
                self.counters.malformed += 1;
                self.counters.detail(|| format!("no VP8 payload: {packet:?}"));
                Held::Nothing
            }
        }
    }

    /// Numbers to ask for again now, lowest first; gives up what is too old.
    pub(crate) fn poll_lost(&mut self, now: Instant) -> Vec<u16> {
        let given_up = self.missing.iter().filter(|(_, missing)| now >= missing.since + AGE_MAX);
        if let Some(last) = given_up.map(|(seq, _)| *seq).max() {
            let before = self.missing.len();
            self.missing.retain(|seq, _| *seq > last);
            self.counters.gaps += (before - self.missing.len()) as u64;
            self.skip_to(SeqNo(last + 1));
            self.deliver(now);
        }
        let due = self.missing.iter_mut().filter(|(_, missing)| now >= missing.due);
        due.map(|(seq, missing)| {
            missing.due = now + RETRY;
            *seq as u16
        })
        .collect()
    }

    /// What is before `seq` is lost for good.
    fn skip_to(&mut self, seq: SeqNo) {
        self.next = Some(seq);
        self.held.retain(|held, _| *held >= seq.0);
        self.missing.retain(|missing, _| *missing >= seq.0);
        self.assembly.clear();
        self.picture_id = None;
        self.is_after_gap = true;
        if self.is_video {
            self.wants_keyframe = true;
        }
        self.previous = None;
    }

    /// Hands on what lies in order.
    fn deliver(&mut self, now: Instant) {
        while let Some(next) = self.next {
            let Some(held) = self.held.remove(&next.0) else { return };
            self.next = Some(SeqNo(next.0 + 1));
            match held {
                Held::Nothing => {}
                Held::Sound(bytes) => self.on_sound(now, &bytes),
                Held::Part { part, timestamp, marker } => self.on_part(now, part, timestamp, marker),
            }
        }
    }

    fn on_sound(&mut self, now: Instant, bytes: &[u8]) {
        self.counters.frames += 1;
        self.counters.first_ms.get_or_insert_with(|| (now - self.opened).as_millis() as u64);
        if self.is_recording {
            match self.recording.has_sound(bytes) {
                true => self.counters.matched += 1,
                false => self.counters.mismatches += 1,
            }
        }
    }

    fn on_part(&mut self, now: Instant, part: Part, timestamp: u32, marker: bool) {
        if part.descriptor.frame_start {
            // The marker ended the frame before; without it the sender cut it short.
            self.note_cut_short(&part, timestamp);
            self.assembly.clear();
        } else if self.assembly.last().is_none_or(|(_, before)| *before != timestamp) {
            // The rest of a frame whose start was lost.
            if !self.is_after_gap {
                self.counters.malformed += 1;
                let (frames, next) = (self.counters.frames, self.next);
                self.counters.detail(|| {
                    format!(
                        "rest without start after {frames} frames: {:?} at {timestamp}, next is {next:?}",
                        part.descriptor
                    )
                });
            }
            self.assembly.clear();
            return;
        }
        self.is_after_gap = false;
        self.assembly.push((part, timestamp));
        if marker {
            self.on_frame(now);
        }
    }

    /// A frame that starts before the one before it ended. Only the keyframe of another layer may do that: a publisher's pacer
    /// may interleave its layers' frames, and a switch does not wait for the rest of what it replaces.
    fn note_cut_short(&mut self, part: &Part, timestamp: u32) {
        let Some((cut, before)) = self.assembly.first() else { return };
        let (cut, before) = (cut.descriptor, *before);
        self.check_picture_id(cut.picture_id.map(|id| (id.value, id.long)));
        if part.descriptor.keyframe_start {
            self.counters.cut_by_keyframe += 1;
            return;
        }
        self.counters.malformed += 1;
        let (frames, next) = (self.counters.frames, self.next);
        self.counters.detail(|| {
            format!("frame {frames} at {before} does not end before {timestamp}, next is {next:?}")
        });
    }

    fn on_frame(&mut self, now: Instant) {
        let parts = std::mem::take(&mut self.assembly);
        let Some((first, _)) = parts.first() else { return };
        let is_keyframe = first.descriptor.keyframe_start;
        self.check_picture_id(first.descriptor.picture_id.map(|id| (id.value, id.long)));
        self.counters.frames += 1;
        if is_keyframe {
            self.counters.keyframes += 1;
            self.wants_keyframe = false;
            self.counters.first_ms.get_or_insert_with(|| (now - self.opened).as_millis() as u64);
        } else if self.needs_keyframe {
            self.counters.starts_without_keyframe += 1;
        }
        self.needs_keyframe = false;
        if !self.is_recording {
            return;
        }
        let bytes: Vec<u8> = parts.iter().flat_map(|(part, _)| part.bytes.iter().copied()).collect();
        let Some(frame) = self.recording.find(&bytes) else {
            self.counters.mismatches += 1;
            return;
        };
        self.counters.matched += 1;
        let follows = self.previous.is_none_or(|previous| self.recording.may_follow(previous, frame));
        self.counters.order_breaks += u64::from(!follows);
        self.previous = Some(frame);
    }

    fn check_picture_id(&mut self, id: Option<(u16, bool)>) {
        let Some((id, is_long)) = id else { return };
        let mask = if is_long { 0x7fff } else { 0x7f };
        let Some(before) = self.picture_id.replace(id) else { return };
        let left_out = id.wrapping_sub(before + 1) & mask;
        // Only our own generator is known to number every frame it sends.
        if !self.is_recording && (1..=LEFT_OUT_MAX).contains(&left_out) {
            self.counters.left_out_by_browser += u64::from(left_out);
        } else if left_out != 0 {
            self.counters.picture_id_jumps += 1;
            let (frames, cut, next) = (self.counters.frames, self.counters.cut_by_keyframe, self.next);
            self.counters.detail(|| {
                format!("picture {before} then {id} after {frames} frames, {cut} cut, next is {next:?}")
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vp8::packetize;

    fn line() -> (Line, Arc<Recording>, Instant) {
        let recording = Arc::new(Recording::load().unwrap());
        let now = Instant::now();
        let mut line = Line::new(true, now, Arc::clone(&recording));
        line.is_recording = true;
        (line, recording, now)
    }

    /// The packets of the first frames of a layer.
    fn packets(recording: &Recording, frames: usize) -> Vec<Packet> {
        let mut packets = Vec::new();
        for index in 0..frames {
            let payloads = packetize(recording.layers[1][index].bytes, index as u16, 0);
            let count = payloads.len();
            for (part, payload) in payloads.into_iter().enumerate() {
                let seq = 65_530_u16.wrapping_add(packets.len() as u16);
                let timestamp = index as u32 * 6_000;
                packets.push(Packet { seq, timestamp, marker: part + 1 == count, is_repair: false, payload });
            }
        }
        packets
    }

    fn total(line: &Line) -> u64 {
        line.counters.violations().iter().map(|(_, count)| count).sum()
    }

    #[test]
    fn the_recording_in_order_is_no_violation() {
        let (mut line, recording, now) = line();
        packets(&recording, 12).into_iter().for_each(|packet| line.on_packet(now, packet));
        assert_eq!((total(&line), line.counters.matched, line.counters.frames), (0, 12, 12));
    }

    #[test]
    fn a_repaired_gap_is_none_and_one_not_repaired_is() {
        let (mut line, recording, now) = line();
        let all = packets(&recording, 6);
        for (index, packet) in all.iter().enumerate().filter(|(index, _)| *index != 3) {
            line.on_packet(now + Duration::from_millis(index as u64), packet.clone());
        }
        let asked = line.poll_lost(now + Duration::from_millis(50));
        assert_eq!(asked, [all[3].seq]);
        line.on_packet(now, Packet { is_repair: true, ..all[3].clone() });
        assert_eq!((total(&line), line.counters.repaired, line.counters.matched), (0, 1, 6));

        let (mut line, ..) = self::line();
        for packet in all.iter().enumerate().filter(|(index, _)| *index != 3).map(|(_, packet)| packet) {
            line.on_packet(now, packet.clone());
        }
        line.poll_lost(now + AGE_MAX);
        assert_eq!((line.counters.gaps, line.wants_keyframe), (1, true));
    }

    #[test]
    fn changed_bytes_skipped_frames_and_a_missing_keyframe_are_seen() {
        let (mut line, recording, now) = line();
        let mut all = packets(&recording, 4);
        all[2].payload[40] ^= 1;
        all.into_iter().for_each(|packet| line.on_packet(now, packet));
        assert_eq!(line.counters.mismatches, 1);

        let (mut line, recording, now) = self::line();
        let kept = packets(&recording, 9).into_iter().filter(|packet| packet.timestamp != 5 * 6_000);
        kept.enumerate().for_each(|(seq, packet)| line.on_packet(now, Packet { seq: seq as u16, ..packet }));
        assert_eq!((line.counters.order_breaks, line.counters.picture_id_jumps), (1, 1));

        let (mut line, recording, now) = self::line();
        let late = packets(&recording, 4).into_iter().filter(|packet| packet.timestamp > 0);
        late.for_each(|packet| line.on_packet(now, packet));
        assert_eq!(line.counters.starts_without_keyframe, 1);
    }

    #[test]
    fn a_browser_may_leave_a_picture_id_out_but_not_repeat_one() {
        let seen = |ids: [u16; 4]| {
            let (mut line, recording, now) = line();
            line.is_recording = false;
            for (index, id) in ids.into_iter().enumerate() {
                let payload = packetize(recording.layers[0][index].bytes, id, 0).remove(0);
                let timestamp = index as u32 * 3_000;
                let packet = Packet { seq: index as u16, timestamp, marker: true, is_repair: false, payload };
                line.on_packet(now, packet);
            }
            (line.counters.left_out_by_browser, line.counters.picture_id_jumps)
        };
        assert_eq!(seen([5, 6, 8, 9]), (1, 0));
        assert_eq!(seen([0x7fff, 0, 3, 4]), (2, 0));
        assert_eq!(seen([5, 6, 6, 7]), (0, 1));
        assert_eq!(seen([5, 6, 4, 5]), (0, 1));
        assert_eq!(seen([5, 6, 800, 801]), (0, 1));
    }
}
