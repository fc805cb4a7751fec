//! Transport-wide congestion control feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01): recording arrivals and
//! writing feedback as a receiver, reading feedback as a sender.

mod recorder;

pub use recorder::TwccRecorder;

/// Unit of the reference time.
const REFERENCE_US: i64 = 64_000;
/// Unit of a delta.
const TICK_US: i64 = 250;
/// Most packets one feedback may speak of. 20 bytes can claim 65,535; honest feedback covers a few hundred.
const STATUSES_MAX: u16 = 8_192;

/// What the two symbol bits say (§3.1.1).
const NOT_RECEIVED: u8 = 0;
const SMALL_DELTA: u8 = 1;
const LARGE_DELTA: u8 = 2;

/// One feedback message, read in place.
#[derive(Clone, Copy, Debug)]
pub struct TransportFeedback<'a> {
    pub sender: u32,
    pub media: u32,
    /// The first packet this message speaks of.
    pub base_seq: u16,
    /// How many packets it speaks of.
    pub status_count: u16,
    /// Rises by one with each message, to notice lost feedback.
    pub feedback_count: u8,
    reference: i32,
    chunks: &'a [u8],
    deltas: &'a [u8],
}

impl<'a> TransportFeedback<'a> {
    /// Reads what follows the two SSRCs. `None` when the status chunks do not cover what they claim, or claim too much.
    pub fn parse(sender: u32, media: u32, body: &'a [u8]) -> Option<Self> {
        let ([b0, b1, c0, c1, r0, r1, r2, feedback_count], rest) = body.split_first_chunk::<8>()?;
        let status_count = u16::from_be_bytes([*c0, *c1]);
        if status_count > STATUSES_MAX {
            return None;
        }
        let mut covered = 0;
        let mut chunks_len = 0;
        while covered < usize::from(status_count) {
            let chunk = rest.get(chunks_len..).and_then(<[u8]>::first_chunk)?;
            covered += Chunk::read(*chunk).len();
            chunks_len += 2;
        }
        let (chunks, deltas) = rest.split_at_checked(chunks_len)?;
        Some(Self {
            sender,
            media,
            base_seq: u16::from_be_bytes([*b0, *b1]),
            status_count,
            feedback_count: *feedback_count,
            // A signed 24-bit number.
            reference: i32::from_be_bytes([*r0, *r1, *r2, 0]) >> 8,
            chunks,
            deltas,
        })
    }

    /// The time in µs, of the receiver's clock, that the first delta counts from. Wraps every 12 days.
    pub fn reference_us(&self) -> i64 {
        i64::from(self.reference) * REFERENCE_US
    }

    /// Each packet in order: its number, and when received the µs since the one received before it (the first: since
    /// [`Self::reference_us`]). Ends early when deltas are missing.
    pub fn statuses(&self) -> Statuses<'a> {
        Statuses {
            chunks: self.chunks,
            deltas: self.deltas,
            chunk: Chunk::Run { symbol: NOT_RECEIVED, left: 0 },
            seq: self.base_seq,
            left: self.status_count,
        }
    }
}

/// See [`TransportFeedback::statuses`].
#[derive(Clone, Debug)]
pub struct Statuses<'a> {
    chunks: &'a [u8],
    deltas: &'a [u8],
    chunk: Chunk,
    seq: u16,
    left: u16,
}

impl Iterator for Statuses<'_> {
    type Item = (u16, Option<i32>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let symbol = loop {
            if let Some(symbol) = self.chunk.next_symbol() {
                break symbol;
            }
            let (chunk, rest) = self.chunks.split_first_chunk()?;
            self.chunks = rest;
            self.chunk = Chunk::read(*chunk);
        };
        let ticks = match symbol {
            NOT_RECEIVED => None,
            SMALL_DELTA => {
                let (delta, rest) = self.deltas.split_first()?;
                self.deltas = rest;
                Some(i32::from(*delta))
            }
            LARGE_DELTA => {
                let (delta, rest) = self.deltas.split_first_chunk()?;
                self.deltas = rest;
                Some(i32::from(i16::from_be_bytes(*delta)))
            }
            // Reserved: where the next delta lies is unknown from here on.
            _ => {
                self.left = 0;
                return None;
            }
        };
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        Some((seq, ticks.map(|ticks| ticks * TICK_US as i32)))
    }
}

/// A packet status chunk (§3.1.3, §3.1.4), the symbols not yet taken.
#[derive(Clone, Copy, Debug)]
enum Chunk {
    Run {
        symbol: u8,
        left: u16,
    },
    /// Symbols of `bits` bits, the next one at the top of `vector`.
    Vector {
        vector: u16,
        bits: u8,
        left: u8,
    },
}

impl Chunk {
    fn read(bytes: [u8; 2]) -> Self {
        let chunk = u16::from_be_bytes(bytes);
        match chunk >> 14 {
            0 | 1 => Self::Run { symbol: (chunk >> 13 & 3) as u8, left: chunk & 0x1fff },
            2 => Self::Vector { vector: chunk << 2, bits: 1, left: 14 },
            _ => Self::Vector { vector: chunk << 2, bits: 2, left: 7 },
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Run { left, .. } => usize::from(*left),
            Self::Vector { left, .. } => usize::from(*left),
        }
    }

    fn next_symbol(&mut self) -> Option<u8> {
        match self {
            Self::Run { symbol, left } => {
                *left = left.checked_sub(1)?;
                Some(*symbol)
            }
            Self::Vector { vector, bits, left } => {
                *left = left.checked_sub(1)?;
                let symbol = (*vector >> (16 - *bits)) as u8;
                *vector <<= *bits;
                Some(symbol)
            }
        }
    }
}

#[cfg(test)]
mod tests;
