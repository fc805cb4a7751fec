//! Making packets of changing sources one continuous stream for one line: sequence numbers, timestamps, picture identifiers
//! and frame numbers rise without a seam when the layer or the track behind the line changes.

use std::time::Instant;

use auralink_codecs::picture::PictureId;
use auralink_rtc::units::{NtpTime, SeqNo};

use crate::history::Packet;

/// Identifiers of one packet as its subscriber sees them. Kept for retransmissions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewritten {
    pub seq: SeqNo,
    pub timestamp: u32,
    /// The identifiers that follow are others than the source's.
    pub is_moved: bool,
    pub picture_id: Option<PictureId>,
    pub tl0_picture_index: Option<u8>,
    /// Of the dependency descriptor.
    pub frame_number: Option<u16>,
}

/// A publisher's statement of which media time was which wall time (RFC 3550 §6.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeMapping {
    pub ntp: NtpTime,
    pub timestamp: u32,
    pub arrival: Instant,
}

/// Distance from a source's numbers to the subscriber's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Offsets {
    seq: i64,
    timestamp: u32,
    picture_id: u16,
    frame_number: u16,
    tl0: u8,
}

/// Switches remembered: retransmissions are asked for within a second or so, in which a line seldom switches twice.
const SEAMS_MAX: usize = 8;

/// From where on which source is the stream. What a line sent is known from its seams, without a memory of each packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seam {
    /// The subscriber's number of the first packet behind the seam.
    from: SeqNo,
    /// The source's number of it: older packets belong to what came before.
    base: SeqNo,
    layer: u8,
    /// Whether identifiers change: those of the first source followed do not.
    is_moved: bool,
    offsets: Offsets,
}

impl Offsets {
    fn apply(&self, rewritten: &mut Rewritten) {
        if let Some(id) = &mut rewritten.picture_id {
            *id = id.with(id.value.wrapping_add(self.picture_id));
        }
        if let Some(tl0) = &mut rewritten.tl0_picture_index {
            *tl0 = tl0.wrapping_add(self.tl0);
        }
        if let Some(number) = &mut rewritten.frame_number {
            *number = number.wrapping_add(self.frame_number);
        }
    }
}

impl Seam {
    /// The subscriber's identifiers for `packet`; `None` for one from before the seam.
    #[inline]
    fn rewrite(&self, packet: &Packet) -> Option<Rewritten> {
        if packet.seq < self.base {
            return None;
        }
        let mut rewritten = Rewritten {
            seq: SeqNo(packet.seq.0.checked_add_signed(self.offsets.seq)?),
            timestamp: packet.timestamp.wrapping_add(self.offsets.timestamp),
            is_moved: self.is_moved,
            picture_id: None,
            tl0_picture_index: None,
            frame_number: None,
        };
        if let Some(picture) = packet.picture() {
            rewritten.picture_id = picture.picture_id;
            rewritten.tl0_picture_index = picture.tl0_picture_index;
            rewritten.frame_number = picture.frame_number;
            if self.is_moved {
                self.offsets.apply(&mut rewritten);
            }
        }
        Some(rewritten)
    }
}

/// The last packet sent, to continue from.
#[derive(Clone, Copy, Debug)]
struct Last {
    seq: SeqNo,
    timestamp: u32,
    arrival: Instant,
    picture_id: u16,
    frame_number: u16,
    tl0: u8,
}

impl Last {
    const fn new(arrival: Instant) -> Self {
        Self { seq: SeqNo(0), timestamp: 0, arrival, picture_id: 0, frame_number: 0, tl0: 0 }
    }

    /// A source without one of the identifiers does not interrupt it: the next that has it goes on from there.
    #[inline]
    fn advance(&mut self, rewritten: &Rewritten, arrival: Instant) {
        (self.seq, self.timestamp, self.arrival) = (rewritten.seq, rewritten.timestamp, arrival);
        if let Some(id) = rewritten.picture_id {
            self.picture_id = id.value;
        }
        if let Some(number) = rewritten.frame_number {
            self.frame_number = number;
        }
        if let Some(tl0) = rewritten.tl0_picture_index {
            self.tl0 = tl0;
        }
    }
}

#[derive(Debug)]
pub struct Rewriter {
    /// The newest one first.
    seams: [Option<Seam>; SEAMS_MAX],
    last: Option<Last>,
    first_seq: SeqNo,
}

impl Rewriter {
    /// `first_seq`: what the line's first packet will carry.
    pub fn new(first_seq: SeqNo) -> Self {
        Self { seams: [None; SEAMS_MAX], last: None, first_seq }
    }

    /// Continues with another source, `layer` of the track followed, whose first packet is `packet`, in units of
    /// `clock_rate`. `mappings` are those of the old and the new source, which place the new media time exactly; without them
    /// the arrival times do.
    pub fn switch_to(
        &mut self,
        layer: u8,
        packet: &Packet,
        clock_rate: u32,
        mappings: Option<(TimeMapping, TimeMapping)>,
    ) {
        let (from, offsets) = match self.last {
            None => (self.first_seq, Offsets::default()),
            Some(last) => (SeqNo(last.seq.0 + 1), self.continued(&last, packet, clock_rate, mappings)),
        };
        let offsets = Offsets { seq: from.0 as i64 - packet.seq.0 as i64, ..offsets };
        self.seams.rotate_right(1);
        let is_moved = (offsets.picture_id, offsets.frame_number, offsets.tl0) != (0, 0, 0);
        self.seams[0] = Some(Seam { from, base: packet.seq, layer, is_moved, offsets });
    }

    /// The subscriber's identifiers for `packet`; `None` for one from before the last switch.
    pub fn rewrite(&mut self, packet: &Packet) -> Option<Rewritten> {
        let rewritten = self.seams[0].as_ref()?.rewrite(packet)?;
        match &mut self.last {
            Some(last) if rewritten.seq <= last.seq => {}
            Some(last) => last.advance(&rewritten, packet.arrival),
            none => {
                let mut last = Last::new(packet.arrival);
                last.advance(&rewritten, packet.arrival);
                *none = Some(last);
            }
        }
        Some(rewritten)
    }

    /// The media time that belongs to a source's media time, for sender reports.
    pub fn timestamp(&self, source: u32) -> u32 {
        source.wrapping_add(self.seams[0].map_or(0, |seam| seam.offsets.timestamp))
    }

    /// Which packet of which layer is, or would have been, number `seq`. `None` before the oldest seam remembered, and for
    /// what was not sent yet.
    pub fn source_of(&self, seq: SeqNo) -> Option<(u8, SeqNo)> {
        let seam = self.seam_of(seq)?;
        Some((seam.layer, SeqNo(seq.0.checked_add_signed(-seam.offsets.seq)?)))
    }

    /// The identifiers under which `packet` is number `seq`.
    pub fn rewrite_again(&self, seq: SeqNo, packet: &Packet) -> Option<Rewritten> {
        self.seam_of(seq)?.rewrite(packet).filter(|rewritten| rewritten.seq == seq)
    }

    /// The highest sequence number sent.
    pub fn highest(&self) -> Option<SeqNo> {
        self.last.map(|last| last.seq)
    }

    /// Another track follows: what was sent until now cannot be found any more. The numbers go on.
    pub fn forget_sources(&mut self) {
        self.seams = [None; SEAMS_MAX];
    }

    /// The layer's own numbers start anew: what was sent of it cannot be found any more.
    pub fn forget_layer(&mut self, layer: u8) {
        for seam in self.seams.iter_mut().filter(|seam| seam.is_some_and(|seam| seam.layer == layer)) {
            *seam = None;
        }
    }

    fn seam_of(&self, seq: SeqNo) -> Option<&Seam> {
        let sent = self.last.is_some_and(|last| seq <= last.seq);
        self.seams.iter().flatten().find(|seam| sent && seam.from <= seq)
    }

    fn continued(
        &self,
        last: &Last,
        packet: &Packet,
        clock_rate: u32,
        mappings: Option<(TimeMapping, TimeMapping)>,
    ) -> Offsets {
        let picture = packet.picture().copied().unwrap_or_default();
        let timestamp = self.continued_timestamp(last, packet, clock_rate, mappings);
        let next = |last: u16, own: u16| last.wrapping_add(1).wrapping_sub(own);
        Offsets {
            seq: 0,
            timestamp: timestamp.wrapping_sub(packet.timestamp),
            picture_id: picture.picture_id.map_or(0, |id| next(last.picture_id, id.value)),
            frame_number: picture.frame_number.map_or(0, |number| next(last.frame_number, number)),
            tl0: picture.tl0_picture_index.map_or(0, |tl0| last.tl0.wrapping_add(1).wrapping_sub(tl0)),
        }
    }

    fn continued_timestamp(
        &self,
        last: &Last,
        packet: &Packet,
        clock_rate: u32,
        mappings: Option<(TimeMapping, TimeMapping)>,
    ) -> u32 {
        let exact = mappings.map(|(old, new)| {
            let media = i64::from(packet.timestamp.wrapping_sub(new.timestamp) as i32);
            let wall = new.ntp.0.wrapping_sub(old.ntp.0) as i64;
            let between = (i128::from(wall) * i128::from(clock_rate)) >> 32;
            self.timestamp(old.timestamp.wrapping_add((media + between as i64) as u32))
        });
        let elapsed = packet.arrival.saturating_duration_since(last.arrival);
        let guessed = (elapsed.as_micros() as u64 * u64::from(clock_rate) / 1_000_000).max(1);
        let guessed = last.timestamp.wrapping_add(guessed as u32);
        // Media time must rise, and a mapping that is off by more than a second is not one.
        match exact {
            Some(exact) if (exact.wrapping_sub(guessed) as i32).unsigned_abs() < clock_rate => {
                if (exact.wrapping_sub(last.timestamp) as i32) > 0 {
                    exact
                } else {
                    last.timestamp.wrapping_add(1)
                }
            }
            _ => guessed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use auralink_codecs::picture::Picture;

    use crate::formats::Outline;
    use std::time::Duration;

    fn video(seq: u64, timestamp: u32, picture_id: u16, tl0: u8, arrival: Instant) -> Packet {
        let picture = Picture {
            picture_id: Some(PictureId { value: picture_id, long: true }),
            tl0_picture_index: Some(tl0),
            ..Picture::default()
        };
        let mut packet = Packet::new(SeqNo(seq), timestamp, true, arrival);
        packet.outline = Outline::Picture(picture);
        packet
    }

    fn numbered(seq: u64, frame_number: u16, arrival: Instant) -> Packet {
        let mut packet = Packet::new(SeqNo(seq), 1_000, true, arrival);
        packet.outline = Outline::Picture(Picture { frame_number: Some(frame_number), ..Picture::default() });
        packet
    }

    #[test]
    fn numbers_continue_over_a_switch() {
        let start = Instant::now();
        let mut rewriter = Rewriter::new(SeqNo(500));
        let first = video(70_000, 1_000, 0x7fff, 255, start);
        rewriter.switch_to(0, &first, 90_000, None);
        let sent = rewriter.rewrite(&first).unwrap();
        assert_eq!((sent.seq, sent.timestamp), (SeqNo(500), 1_000));
        let other = video(90_001, 777, 5, 9, start + Duration::from_millis(100));
        rewriter.switch_to(1, &other, 90_000, None);
        let sent = rewriter.rewrite(&other).unwrap();
        assert_eq!((sent.seq, sent.timestamp), (SeqNo(501), 10_000));
        assert_eq!((sent.picture_id.unwrap().value, sent.tl0_picture_index), (0, Some(0)));
        assert_eq!(rewriter.rewrite(&video(90_000, 770, 4, 9, start)), None);
        assert_eq!(rewriter.rewrite(&video(90_003, 780, 6, 9, start)).unwrap().seq, SeqNo(503));
    }

    #[test]
    fn frame_numbers_continue_over_a_switch_and_picture_ids_over_a_source_without_any() {
        let start = Instant::now();
        let mut rewriter = Rewriter::new(SeqNo(500));
        let first = video(70_000, 1_000, 41, 6, start);
        rewriter.switch_to(0, &first, 90_000, None);
        rewriter.rewrite(&first);
        let other = numbered(10, 0xffff, start);
        rewriter.switch_to(0, &other, 90_000, None);
        assert_eq!(rewriter.rewrite(&other).unwrap().frame_number, Some(1));
        assert_eq!(rewriter.rewrite(&numbered(11, 0, start)).unwrap().frame_number, Some(2));
        let third = numbered(900, 77, start);
        rewriter.switch_to(1, &third, 90_000, None);
        assert_eq!(rewriter.rewrite(&third).unwrap().frame_number, Some(3));
        let again = video(5, 1, 1_000, 100, start);
        rewriter.switch_to(0, &again, 90_000, None);
        let sent = rewriter.rewrite(&again).unwrap();
        assert_eq!((sent.picture_id.unwrap().value, sent.tl0_picture_index), (42, Some(7)));
    }

    #[test]
    fn media_time_goes_on_in_the_new_sources_clock() {
        let start = Instant::now();
        let mut rewriter = Rewriter::new(SeqNo(1));
        let first = Packet::new(SeqNo(1), 48_000, true, start);
        rewriter.switch_to(0, &first, 48_000, None);
        rewriter.rewrite(&first);
        let narrow = Packet::new(SeqNo(7), 5, true, start + Duration::from_millis(20));
        rewriter.switch_to(0, &narrow, 8_000, None);
        assert_eq!(rewriter.rewrite(&narrow).unwrap().timestamp, 48_160);
    }

    #[test]
    fn sender_reports_place_the_new_media_time_exactly() {
        let start = Instant::now();
        let mut rewriter = Rewriter::new(SeqNo(1));
        let first = video(1, 50_000, 1, 1, start);
        rewriter.switch_to(0, &first, 90_000, None);
        rewriter.rewrite(&first);
        let old = TimeMapping { ntp: NtpTime(10 << 32), timestamp: 50_000, arrival: start };
        let new =
            TimeMapping { ntp: NtpTime((10 << 32) + (1 << 31)), timestamp: 4_000_000_000, arrival: start };
        // 45,000 ticks (half a second) after the old report, and 90 ticks later still; it arrived 40 ms late.
        let other = video(900, 4_000_000_090, 1, 1, start + Duration::from_millis(541));
        rewriter.switch_to(1, &other, 90_000, Some((old, new)));
        assert_eq!(rewriter.rewrite(&other).unwrap().timestamp, 95_090);
    }

    #[test]
    fn media_time_never_goes_back() {
        let start = Instant::now();
        let mut rewriter = Rewriter::new(SeqNo(1));
        let first = video(1, 50_000, 1, 1, start);
        rewriter.switch_to(0, &first, 90_000, None);
        rewriter.rewrite(&first);
        let mapping = TimeMapping { ntp: NtpTime(1 << 32), timestamp: 50_000, arrival: start };
        let other = video(2, 49_000, 1, 1, start);
        rewriter.switch_to(1, &other, 90_000, Some((mapping, mapping)));
        assert_eq!(rewriter.rewrite(&other).unwrap().timestamp, 50_001);
    }

    #[test]
    fn what_was_sent_is_found_behind_its_seam() {
        let start = Instant::now();
        let mut rewriter = Rewriter::new(SeqNo(500));
        for seq in 70_000..70_010 {
            let packet = video(seq, 1_000, 1, 1, start);
            if seq == 70_000 {
                rewriter.switch_to(0, &packet, 90_000, None);
            }
            rewriter.rewrite(&packet);
        }
        let other = video(90_000, 777, 5, 9, start);
        rewriter.switch_to(2, &other, 90_000, None);
        rewriter.rewrite(&other);
        assert_eq!(rewriter.source_of(SeqNo(503)), Some((0, SeqNo(70_003))));
        assert_eq!(rewriter.source_of(SeqNo(510)), Some((2, SeqNo(90_000))));
        assert_eq!((rewriter.source_of(SeqNo(499)), rewriter.source_of(SeqNo(511))), (None, None));
        let again = rewriter.rewrite_again(SeqNo(503), &video(70_003, 1_000, 1, 1, start)).unwrap();
        assert_eq!((again.seq, again.timestamp), (SeqNo(503), 1_000));
        assert_eq!(rewriter.rewrite_again(SeqNo(503), &other), None);
        rewriter.forget_layer(0);
        assert_eq!((rewriter.source_of(SeqNo(503)), rewriter.source_of(SeqNo(510)).is_some()), (None, true));
        rewriter.forget_sources();
        assert_eq!(rewriter.source_of(SeqNo(510)), None);
        let third = video(5, 1, 1, 1, start);
        rewriter.switch_to(0, &third, 90_000, None);
        assert_eq!(rewriter.rewrite(&third).unwrap().seq, SeqNo(511));
    }
}
