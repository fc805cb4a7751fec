//! The receiver's half: when each packet arrived, and feedback about it.

use std::time::Instant;

use super::{LARGE_DELTA, NOT_RECEIVED, REFERENCE_US, SMALL_DELTA, TICK_US};
use crate::rtcp::{FMT_TWCC, RtcpWriter, TRANSPORT_FEEDBACK};
use crate::units::SeqNo;

/// Packets remembered. Feedback goes out every 50 to 100 ms; older packets than these are forgotten unreported.
const ARRIVALS: usize = 1_024;
/// Bytes of a feedback packet in front of its chunks, the RTCP header left aside.
const HEAD_LEN: usize = 16;
/// Runs shorter than this fit a two-bit vector better.
const RUN_MIN: usize = 7;
const TICKS_PER_REFERENCE: i64 = REFERENCE_US / TICK_US;
const ABSENT: i64 = -1;

/// Records arrivals by transport-wide number and writes feedback about those not yet reported. Memory is taken with the
/// first packet and does not grow.
#[derive(Debug, Default)]
pub struct TwccRecorder {
    state: Option<State>,
    feedback_count: u8,
}

#[derive(Debug)]
struct State {
    epoch: Instant,
    /// Ticks since `epoch` at the packet's number modulo [`ARRIVALS`], or [`ABSENT`].
    ticks: Box<[i64; ARRIVALS]>,
    /// The first number to report next, and the one behind the highest seen.
    start: u64,
    end: u64,
}

impl TwccRecorder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes one packet. A packet that was already reported missing moves the next feedback back to it.
    pub fn record(&mut self, seq: u16, arrival: Instant) {
        let state = self.state.get_or_insert_with(|| {
            let first = SeqNo::first(seq).0;
            State { epoch: arrival, ticks: Box::new([ABSENT; ARRIVALS]), start: first, end: first }
        });
        state.record(seq, arrival);
    }

    /// Whether there is anything to report.
    pub fn is_pending(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.start < state.end)
    }

    /// Appends one feedback message about the packets since the last one. `false` when there is nothing to report or no room
    /// for it. What one message cannot hold remains pending for another call.
    #[must_use]
    pub fn write_feedback(&mut self, sender_ssrc: u32, media_ssrc: u32, writer: &mut RtcpWriter<'_>) -> bool {
        let Some(state) = self.state.as_mut() else { return false };
        let Some(plan) = state.plan(writer.remaining()) else { return false };
        let body_len = plan.body_len().next_multiple_of(4);
        let Some(body) = writer.packet(TRANSPORT_FEEDBACK, FMT_TWCC, body_len) else { return false };
        body.fill(0);
        let [_, r0, r1, r2] = (plan.reference as u32).to_be_bytes();
        let bytes = (sender_ssrc.to_be_bytes().into_iter().chain(media_ssrc.to_be_bytes()))
            .chain((state.start as u16).to_be_bytes())
            .chain((plan.statuses as u16).to_be_bytes())
            .chain([r0, r1, r2, self.feedback_count])
            .chain(plan.chunks().iter().flat_map(|chunk| chunk.to_be_bytes()))
            .chain(state.delta_bytes(&plan));
        body.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
        state.start += plan.statuses as u64;
        self.feedback_count = self.feedback_count.wrapping_add(1);
        true
    }
}

/// What one feedback message will say.
struct Plan {
    statuses: usize,
    reference: i64,
    chunks: [u16; ARRIVALS / RUN_MIN + 1],
    chunks_len: usize,
    deltas_len: usize,
}

impl Plan {
    fn chunks(&self) -> &[u16] {
        self.chunks.get(..self.chunks_len).unwrap_or_default()
    }

    fn body_len(&self) -> usize {
        HEAD_LEN + 2 * self.chunks_len + self.deltas_len
    }
}

impl State {
    fn record(&mut self, seq: u16, arrival: Instant) {
        // Truncation: 2^63 µs are 292,000 years.
        let ticks = arrival.saturating_duration_since(self.epoch).as_micros() as i64 / TICK_US;
        let number = SeqNo(self.end).nearest(seq).0;
        let oldest = self.end.saturating_sub(ARRIVALS as u64);
        if number < oldest {
            return;
        }
        if number >= self.end {
            for skipped in self.end.max((number + 1).saturating_sub(ARRIVALS as u64))..number {
                self.set(skipped, ABSENT);
            }
            self.end = number + 1;
            self.start = self.start.max(self.end.saturating_sub(ARRIVALS as u64));
        } else if self.at(number) != ABSENT {
            return;
        }
        self.start = self.start.min(number);
        self.set(number, ticks);
    }

    fn at(&self, number: u64) -> i64 {
        self.ticks.get(number as usize % ARRIVALS).copied().unwrap_or(ABSENT)
    }

    fn set(&mut self, number: u64, ticks: i64) {
        if let Some(place) = self.ticks.get_mut(number as usize % ARRIVALS) {
            *place = ticks;
        }
    }

    /// Decides how many packets fit `room` bytes and into which chunks they go.
    fn plan(&self, room: usize) -> Option<Plan> {
        let room = (room & !3).checked_sub(4 + HEAD_LEN)?;
        let first = (self.start..self.end).map(|number| self.at(number)).find(|ticks| *ticks != ABSENT)?;
        let reference = first / TICKS_PER_REFERENCE;
        let mut plan = Plan {
            statuses: 0,
            reference: reference & 0xff_ffff,
            chunks: [0; ARRIVALS / RUN_MIN + 1],
            chunks_len: 0,
            deltas_len: 0,
        };
        let mut symbols = [NOT_RECEIVED; ARRIVALS];
        let known = self.symbols(reference, &mut symbols);
        let mut symbols = symbols.get(..known)?;
        while !symbols.is_empty() {
            let Some(left) = room.checked_sub(2 * (plan.chunks_len + 1) + plan.deltas_len) else { break };
            let (mut chunk, mut len) = encode_chunk(symbols);
            if delta_bytes_of(symbols, len) > left {
                (chunk, len) = encode_chunk(fitting(symbols, left));
            }
            let Some(place) = plan.chunks.get_mut(plan.chunks_len).filter(|_| len > 0) else { break };
            *place = chunk;
            plan.chunks_len += 1;
            plan.deltas_len += delta_bytes_of(symbols, len);
            plan.statuses += len;
            symbols = symbols.get(len..).unwrap_or_default();
        }
        (plan.statuses > 0).then_some(plan)
    }

    /// The symbol of each pending packet, and how many there are before a delta that two bytes cannot say.
    fn symbols(&self, reference: i64, symbols: &mut [u8; ARRIVALS]) -> usize {
        let mut previous = reference * TICKS_PER_REFERENCE;
        let mut count = 0;
        for (number, symbol) in (self.start..self.end).zip(symbols.iter_mut()) {
            let ticks = self.at(number);
            if ticks != ABSENT {
                let delta = ticks - previous;
                if i16::try_from(delta).is_err() {
                    break;
                }
                *symbol = if u8::try_from(delta).is_ok() { SMALL_DELTA } else { LARGE_DELTA };
                previous = ticks;
            }
            count += 1;
        }
        count
    }

    fn delta_bytes(&self, plan: &Plan) -> impl Iterator<Item = u8> {
        let first = (self.start..self.end).map(|number| self.at(number)).find(|ticks| *ticks != ABSENT);
        let mut previous = first.unwrap_or_default() / TICKS_PER_REFERENCE * TICKS_PER_REFERENCE;
        (self.start..self.start + plan.statuses as u64)
            .map(|number| self.at(number))
            .filter(|ticks| *ticks != ABSENT)
            .flat_map(move |ticks| {
                let delta = ticks - std::mem::replace(&mut previous, ticks);
                let [high, low] = (delta as i16).to_be_bytes();
                let high = u8::try_from(delta).is_err().then_some(high);
                high.into_iter().chain([low])
            })
    }
}

/// Bytes of the deltas of the first `len` packets: a symbol is also the number of bytes of its delta.
fn delta_bytes_of(symbols: &[u8], len: usize) -> usize {
    symbols.iter().take(len).map(|symbol| usize::from(*symbol)).sum()
}

/// The longest front of `symbols` whose deltas take no more than `room` bytes.
fn fitting(symbols: &[u8], room: usize) -> &[u8] {
    let mut left = room;
    let fits = |symbol: &&u8| match left.checked_sub(usize::from(**symbol)) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    let len = symbols.iter().take_while(fits).count();
    symbols.get(..len).unwrap_or_default()
}

/// The chunk that says most of the front of `symbols`, and how many it says.
fn encode_chunk(symbols: &[u8]) -> (u16, usize) {
    let first = symbols.first().copied().unwrap_or(NOT_RECEIVED);
    let run = symbols.iter().take(0x1fff).take_while(|symbol| **symbol == first).count();
    let narrow = symbols.iter().take(14).take_while(|symbol| **symbol <= SMALL_DELTA).count();
    if run >= 14 || run == symbols.len() || (run >= RUN_MIN && narrow < 14) {
        return (u16::from(first) << 13 | run as u16, run);
    }
    let (head, bits, len) = if narrow >= 14.min(symbols.len()) { (0x8000, 1, 14) } else { (0xc000, 2, 7) };
    let taken = len.min(symbols.len());
    let vector = symbols.iter().take(taken).fold(0, |vector, symbol| vector << bits | u16::from(*symbol));
    (head | vector << (bits * (len - taken)), taken)
}
