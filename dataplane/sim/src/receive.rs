//! The receiving half of a client: what arrives on each line, what is missing, what to ask for.

use std::collections::BTreeMap;
use std::time::Instant;

use auralink_rtc::units::SeqNo;
use auralink_sfu::nack::{Gap, NackGenerator};

use crate::media::{Identity, Ids};

/// What a line's packet was.
#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    pub identity: Identity,
    pub timestamp: u32,
    pub at: Instant,
    pub ids: Ids,
}

/// One line as its client sees it.
#[derive(Default)]
pub struct Received {
    pub video: bool,
    pub packets: BTreeMap<u64, Arrived>,
    pub nack: NackGenerator,
    pub highest: Option<SeqNo>,
    /// A picture cannot be shown without a keyframe.
    pub wants_keyframe: bool,
    pub last_arrival: Option<Instant>,
}

impl Received {
    /// Notes a packet under the line's own sequence number; `wire` is from the header or, for a repaired packet, from its
    /// payload.
    pub fn on_packet(&mut self, now: Instant, wire: u16, arrived: Arrived) -> Result<(), String> {
        let seq = self.highest.map_or(SeqNo::first(wire), |highest| highest.nearest(wire));
        self.highest = Some(self.highest.map_or(seq, |highest| highest.max(seq)));
        self.last_arrival = Some(now);
        if self.nack.on_packet(now, seq) == Gap::Broken && self.video {
            self.wants_keyframe = true;
        }
        if arrived.identity.keyframe_start {
            self.wants_keyframe = false;
            self.nack.on_keyframe(seq);
        }
        match self.packets.insert(seq.0, arrived) {
            Some(before) if before.identity != arrived.identity => {
                Err(format!("{seq:?} carried {:?} and then {:?}", before.identity, arrived.identity))
            }
            _ => Ok(()),
        }
    }
}
