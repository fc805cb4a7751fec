//! The invariants, checked from what crossed the wire and what receivers got, not from the node's own account.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use auralink_rtc::units::SeqNo;

use crate::media::Identity;
use crate::receive::Received;

/// A viewer that wants pictures gets one within this, on a link that works.
const FIRST_PICTURE_MAX: Duration = Duration::from_secs(8);
/// Packets this close to the end of a segment may have been under way, or asked for again, when it ended: a second's worth.
const TAIL: u64 = 100;

/// What one line sent, from the wire.
#[derive(Default)]
struct LineSent {
    highest: Option<SeqNo>,
    /// Extended number → digest of the sealed packet.
    media: HashMap<u64, u64>,
    /// Numbers sent on the repair stream that did not arrive.
    repaired: BTreeSet<u64>,
    packets: u64,
}

/// From when to when a viewer wanted nothing.
type Pause = (Instant, Option<Instant>);

/// Everything noted during a run.
pub struct Checker {
    hasher: RandomState,
    lines: BTreeMap<(u16, u32), LineSent>,
    /// Published packets that reached the node, by publisher, stream and number.
    reached: BTreeMap<(u16, bool, u8, u64), Instant>,
    /// Times during which a line's viewer wanted nothing; the last may still be open.
    pauses: BTreeMap<(u16, u32), Vec<Pause>>,
    /// Addresses whose transport is gone, and since when.
    gone: HashMap<SocketAddr, Instant>,
    pub violations: Vec<String>,
    pub media_sent: u64,
    pub switches: u64,
}

impl Default for Checker {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            lines: BTreeMap::new(),
            reached: BTreeMap::new(),
            pauses: BTreeMap::new(),
            gone: HashMap::new(),
            violations: Vec::new(),
            media_sent: 0,
            switches: 0,
        }
    }
}

impl Checker {
    fn fail(&mut self, text: String) {
        if self.violations.len() < 20 {
            self.violations.push(text);
        }
    }

    /// A published packet arrived at the node's socket. Those of a muted track go nowhere.
    pub fn on_reached(&mut self, now: Instant, identity: &Identity) {
        self.reached.entry((identity.client, identity.video, identity.layer, identity.seq)).or_insert(now);
    }

    /// The viewer of a line wants nothing from now on, or wants something again.
    pub fn on_pause(&mut self, now: Instant, viewer: u16, ssrc: u32, paused: bool) {
        let pauses = self.pauses.entry((viewer, ssrc)).or_default();
        match pauses.last_mut() {
            Some((_, end @ None)) if !paused => *end = Some(now),
            Some((_, None)) => {}
            _ if paused => pauses.push((now, None)),
            _ => {}
        }
    }

    pub fn on_gone(&mut self, now: Instant, address: SocketAddr) {
        self.gone.insert(address, now);
    }

    /// The node sent `bytes` to `address`, whose client is `viewer` if it is still there. `is_media`: RTP.
    pub fn on_sent(
        &mut self,
        now: Instant,
        address: SocketAddr,
        viewer: Option<u16>,
        is_media: bool,
        bytes: &[u8],
    ) {
        let Some(viewer) = viewer else {
            let since = self.gone.get(&address).copied();
            if since.is_none_or(|since| now > since) {
                self.fail(format!("{} bytes were sent to {address}, where nobody is", bytes.len()));
            }
            return;
        };
        if !is_media || bytes.len() < 12 {
            return;
        }
        let ssrc = u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        let wire = u16::from_be_bytes([bytes[2], bytes[3]]);
        let digest = self.hasher.hash_one(bytes);
        let line = self.lines.entry((viewer, ssrc)).or_default();
        let seq = line.highest.map_or(SeqNo::first(wire), |highest| highest.nearest(wire));
        line.highest = Some(line.highest.map_or(seq, |highest| highest.max(seq)));
        line.packets += 1;
        self.media_sent += 1;
        if line.media.insert(seq.0, digest).is_some_and(|before| before != digest) {
            self.fail(format!(
                "nonce reuse: SSRC {ssrc} of client {viewer} sealed {seq:?} twice, differently"
            ));
        }
    }

    /// The node sent number `wire` of a line on its repair stream, and the network lost it.
    pub fn on_repair_lost(&mut self, viewer: u16, ssrc: u32, wire: u16) {
        let line = self.lines.entry((viewer, ssrc)).or_default();
        if let Some(highest) = line.highest {
            line.repaired.insert(highest.nearest(wire).0);
        }
    }

    /// Packets the wire saw on one SSRC of one client.
    pub fn packets(&self, viewer: u16, ssrc: u32) -> u64 {
        self.lines.get(&(viewer, ssrc)).map_or(0, |line| line.packets)
    }

    /// At the end of a client's life: its line's numbers, switches, media time and picture identifiers.
    pub fn check_line(&mut self, viewer: u16, ssrc: u32, line: &Received) {
        let sent = self.lines.remove(&(viewer, ssrc)).unwrap_or_default();
        let pauses = self.pauses.remove(&(viewer, ssrc)).unwrap_or_default();
        let name = format!("client {viewer} SSRC {ssrc}");
        let known: Vec<(u64, Identity)> =
            line.packets.iter().map(|(seq, arrived)| (*seq, arrived.identity)).collect();
        let ends = segment_ends(&known);
        for (pair, end) in known.windows(2).zip(ends) {
            let [(seq_a, a), (seq_b, b)] = pair else { continue };
            if !is_same_segment(*seq_a, a, *seq_b, b) {
                self.switches += 1;
                self.check_seam(&name, *seq_a, *seq_b, b, line);
                continue;
            }
            let gap = Gap { before: (*seq_a, a), after: *seq_b, segment_end: end };
            self.check_gap(&name, &gap, &sent, &pauses);
        }
        for pair in line.packets.iter().collect::<Vec<_>>().windows(2) {
            let [(seq_a, a), (seq_b, b)] = pair else { continue };
            let step = b.timestamp.wrapping_sub(a.timestamp) as i32;
            let rate = if line.video { 90_000 } else { 48_000 };
            if step < 0 || step > rate * 61 {
                self.fail(format!("{name}: media time steps by {step} from {seq_a} to {seq_b}"));
            }
            if **seq_b != **seq_a + 1 {
                continue;
            }
            let key = |identity: &Identity| (identity.client, identity.layer, identity.frame);
            let is_next = key(&a.identity) != key(&b.identity);
            let kinds = [
                ("picture id", a.ids.picture, b.ids.picture, 0x7fff),
                ("frame number", a.ids.frame, b.ids.frame, 0xffff),
            ];
            for (kind, before, after, mask) in kinds {
                let step = before.zip(after).map(|(before, after)| after.wrapping_sub(before) & mask);
                if let Some(step) = step.filter(|step| *step != u16::from(is_next)) {
                    self.fail(format!("{name}: {kind} steps by {step} from {seq_a} to {seq_b}"));
                }
            }
        }
    }

    /// A number between two received ones that the node never sent: only if its packet never reached the node.
    fn check_gap(&mut self, name: &str, gap: &Gap<'_>, sent: &LineSent, pauses: &[Pause]) {
        let (first, source) = gap.before;
        for seq in first + 1..gap.after {
            // The receiver counts cycles from the first packet that arrived, the wire from the first sent.
            let on_wire = sent.highest.map_or(seq, |highest| highest.nearest(seq as u16).0);
            let is_sent = sent.media.contains_key(&on_wire) || sent.repaired.contains(&on_wire);
            if is_sent || gap.segment_end - seq < TAIL {
                continue;
            }
            let missing = source.seq + (seq - first);
            let reached = self.reached.get(&(source.client, source.video, source.layer, missing)).copied();
            let in_pause = |at: Instant| {
                pauses.iter().any(|(start, end)| at >= *start && end.is_none_or(|end| at <= end))
            };
            if reached.is_some_and(|at| !in_pause(at)) {
                let Identity { client, layer, frame, .. } = source;
                self.fail(format!(
                    "{name}: gap without loss at {seq}: packet {missing} of client {client} layer {layer} reached the node (after frame {frame})"
                ));
            }
        }
    }

    /// After a seam a picture starts with a keyframe, at the next number.
    fn check_seam(&mut self, name: &str, seq_a: u64, seq_b: u64, b: &Identity, line: &Received) {
        // Between the two, packets may have been sent and lost: then the first of the new segment is unknown.
        let is_exact = seq_b == seq_a + 1;
        if line.video && is_exact && !b.keyframe_start {
            self.fail(format!("{name}: {seq_b} starts a new segment without a keyframe"));
        }
    }

    /// A line that follows a live track since `since` and has shown nothing.
    pub fn check_liveness(&mut self, now: Instant, name: &str, since: Instant, last: Option<Instant>) {
        let waited = now.saturating_duration_since(last.unwrap_or(since).max(since));
        if waited > FIRST_PICTURE_MAX {
            self.fail(format!(
                "{name}: nothing shown for {waited:?} of a track that is live: a keyframe request was lost"
            ));
        }
    }
}

/// Whether both are of one source and their numbers differ by the same amount.
fn is_same_segment(seq_a: u64, a: &Identity, seq_b: u64, b: &Identity) -> bool {
    a.client == b.client && a.layer == b.layer && b.seq.wrapping_sub(a.seq) == seq_b - seq_a
}

/// Numbers missing between two received packets of one segment.
struct Gap<'a> {
    before: (u64, &'a Identity),
    after: u64,
    segment_end: u64,
}

/// For each packet the number of the last one of its segment.
fn segment_ends(known: &[(u64, Identity)]) -> Vec<u64> {
    let mut ends: Vec<u64> = known.iter().map(|(seq, _)| *seq).collect();
    for at in (1..known.len()).rev() {
        let ((seq_a, a), (seq_b, b)) = (&known[at - 1], &known[at]);
        if is_same_segment(*seq_a, a, *seq_b, b) {
            ends[at - 1] = ends[at];
        }
    }
    ends
}
