//! The history ring of one layer: decrypted payloads in a byte ring with an index by sequence number.
//!
//! SRTP is opened straight into it, every subscriber's packets are sealed straight out of it, and it is the store from which
//! every subscriber's retransmissions come. All memory is taken when the layer is created.

use std::time::Instant;

use auralink_codecs::picture::Picture;
use auralink_rtc::units::SeqNo;

use crate::formats::Outline;

/// Most octets of RTP padding a packet gets: libwebrtc splits a frame into packets that differ by an octet or two.
pub const PADDING_MAX: u8 = 4;

/// What is remembered of a packet beside its payload.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub seq: SeqNo,
    pub timestamp: u32,
    pub marker: bool,
    pub arrival: Instant,
    /// Index of the payload's format among those its publisher negotiated.
    pub format: u8,
    pub outline: Outline,
    /// RFC 6464: bit 7 voice activity, bits 0 to 6 level in −dBov.
    pub audio_level: Option<u8>,
    pub len: u16,
    /// RTP padding written behind the payload so that a frame's packets are of one size (RFC 3550 §5.1).
    pub padding: u8,
    /// Octets of header extension elements kept behind the payload, to be passed on.
    pub passed_len: u16,
    offset: u64,
}

impl Packet {
    pub fn new(seq: SeqNo, timestamp: u32, marker: bool, arrival: Instant) -> Self {
        Self {
            seq,
            timestamp,
            marker,
            arrival,
            format: 0,
            outline: Outline::Opaque,
            audio_level: None,
            len: 0,
            padding: 0,
            passed_len: 0,
            offset: 0,
        }
    }

    /// The video descriptor, if it could be read.
    pub fn picture(&self) -> Option<&Picture> {
        match &self.outline {
            Outline::Picture(picture) => Some(picture),
            Outline::Opaque | Outline::Redundant(_) => None,
        }
    }

    /// Whether this packet starts a key frame; audio can always be joined.
    pub fn is_entry_point(&self, is_video: bool) -> bool {
        !is_video || self.picture().is_some_and(|picture| picture.keyframe_start)
    }
}

/// Sizes of one layer's ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistorySize {
    /// Bytes of payload kept; a power of two.
    pub bytes: usize,
    /// Packets kept; a power of two.
    pub packets: usize,
}

#[derive(Debug)]
pub struct History {
    bytes: Box<[u8]>,
    index: Box<[Option<Packet>]>,
    /// Absolute position of the next byte to write; the ring position is this modulo its size.
    head: u64,
}

impl History {
    pub fn new(size: HistorySize) -> Self {
        let bytes = vec![0; size.bytes.next_power_of_two()].into_boxed_slice();
        let index = vec![None; size.packets.next_power_of_two()].into_boxed_slice();
        Self { bytes, index, head: 0 }
    }

    /// A contiguous place of `len` bytes to open a payload into; nothing is remembered until [`Self::commit`]. What the place
    /// held is forgotten from here on. `None` when `len` exceeds a quarter of the ring.
    pub fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        let kept = len + usize::from(PADDING_MAX);
        if kept > self.bytes.len() / 4 {
            return None;
        }
        let start = self.place(kept);
        self.bytes.get_mut(start..start + len)
    }

    /// Remembers the payload now in the reserved place, `skip` bytes into it. `reserved` is what was asked of
    /// [`Self::reserve`], and has room for the elements passed on too. Returns false when the packet is a duplicate or older
    /// than the index reaches.
    pub fn commit(&mut self, reserved: usize, skip: usize, mut packet: Packet) -> bool {
        let slot_index = packet.seq.0 as usize & (self.index.len() - 1);
        let Some(slot) = self.index.get_mut(slot_index) else { return false };
        if slot.is_some_and(|held| held.seq >= packet.seq) {
            return false;
        }
        let kept = skip + usize::from(packet.len) + usize::from(packet.passed_len);
        debug_assert!(kept <= reserved);
        packet.offset = self.head + skip as u64;
        *slot = Some(packet);
        self.head += (kept + usize::from(PADDING_MAX)) as u64;
        true
    }

    /// The place behind a packet's payload for the [`Packet::passed_len`] octets of elements it passes on; to be filled right
    /// after [`Self::commit`].
    pub fn passed_mut(&mut self, seq: SeqNo) -> Option<&mut [u8]> {
        let packet = self.index.get(seq.0 as usize & (self.index.len() - 1))?.as_ref()?;
        let place = (packet.seq == seq).then(|| self.passed_place(packet))?;
        self.bytes.get_mut(place)
    }

    /// The elements a packet that is held passes on.
    pub fn passed(&self, packet: &Packet) -> &[u8] {
        self.bytes.get(self.passed_place(packet)).unwrap_or_default()
    }

    fn passed_place(&self, packet: &Packet) -> std::ops::Range<usize> {
        let start = (packet.offset as usize & (self.bytes.len() - 1))
            + usize::from(packet.len)
            + usize::from(PADDING_MAX);
        start..start + usize::from(packet.passed_len)
    }

    /// Writes RTP padding behind the payload of a packet that nobody was sent yet. Too much of it, or a packet that is gone, is
    /// left as it is.
    pub fn pad(&mut self, seq: SeqNo, padding: u8) {
        let slot = self.index.get_mut(seq.0 as usize & (self.index.len() - 1));
        let Some(packet) = slot.and_then(Option::as_mut).filter(|packet| packet.seq == seq) else { return };
        let start = (packet.offset as usize & (self.bytes.len() - 1)) + usize::from(packet.len);
        let place = self.bytes.get_mut(start..start + usize::from(padding));
        if let Some((count, zeros)) =
            place.filter(|_| padding <= PADDING_MAX).and_then(<[u8]>::split_last_mut)
        {
            zeros.fill(0);
            *count = padding;
            packet.padding = padding;
        }
    }

    /// The packet and its payload, padding included, if still held.
    pub fn find(&self, seq: SeqNo) -> Option<(&Packet, &[u8])> {
        let packet = self.index.get(seq.0 as usize & (self.index.len() - 1))?.as_ref()?;
        // Up to a quarter of the ring ahead of the head may have been handed out by `reserve`.
        let reach = (self.bytes.len() - self.bytes.len() / 4) as u64;
        let len = usize::from(packet.len) + usize::from(packet.padding);
        if packet.seq != seq || packet.offset + reach < self.head + len as u64 {
            return None;
        }
        let start = packet.offset as usize & (self.bytes.len() - 1);
        Some((packet, self.bytes.get(start..start + len)?))
    }

    /// Whether `seq` was committed and not yet displaced in the index.
    pub fn contains(&self, seq: SeqNo) -> bool {
        let slot = self.index.get(seq.0 as usize & (self.index.len() - 1));
        slot.is_some_and(|slot| slot.is_some_and(|held| held.seq == seq))
    }

    /// Forgets every packet, not the memory.
    pub fn clear(&mut self) {
        self.index.fill(None);
    }

    /// Ring position for `len` contiguous bytes, skipping to the start when the end is too near.
    fn place(&mut self, len: usize) -> usize {
        let mask = self.bytes.len() - 1;
        let position = self.head as usize & mask;
        if position + len > self.bytes.len() {
            self.head += (self.bytes.len() - position) as u64;
        }
        self.head as usize & mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(seq: u64, len: u16) -> Packet {
        Packet { len, ..Packet::new(SeqNo(seq), seq as u32, false, Instant::now()) }
    }

    fn put(history: &mut History, seq: u64, len: usize) -> bool {
        history.reserve(len + 16).unwrap()[..len].fill(seq as u8);
        history.commit(len + 16, 0, packet(seq, len as u16))
    }

    #[test]
    fn holds_the_latest_packets_whole_and_in_place() {
        let mut history = History::new(HistorySize { bytes: 16_384, packets: 64 });
        for seq in 0..500 {
            assert!(put(&mut history, seq, 900 + (seq % 200) as usize));
            for back in 0..seq.min(9) {
                let (packet, payload) = history.find(SeqNo(seq - back)).unwrap();
                assert_eq!((packet.len as usize, payload[0]), (payload.len(), (seq - back) as u8));
                assert!(payload.iter().all(|byte| *byte == (seq - back) as u8));
            }
        }
        assert!(history.find(SeqNo(400)).is_none() && history.find(SeqNo(500)).is_none());
    }

    #[test]
    fn what_a_reservation_may_overwrite_is_not_found() {
        let mut history = History::new(HistorySize { bytes: 4_096, packets: 64 });
        for seq in 0..200 {
            put(&mut history, seq, 300);
            history.reserve(1_000).unwrap().fill(0xee);
            for old in 0..=seq {
                if let Some((_, payload)) = history.find(SeqNo(old)) {
                    assert!(payload.iter().all(|byte| *byte == old as u8), "{old} at {seq}");
                }
            }
            assert!(history.find(SeqNo(seq)).is_some());
        }
    }

    #[test]
    fn duplicates_and_packets_older_than_the_index_are_refused() {
        let mut history = History::new(HistorySize { bytes: 65_536, packets: 64 });
        assert!(put(&mut history, 100, 10) && !put(&mut history, 100, 10));
        assert!(put(&mut history, 90, 10) && put(&mut history, 164, 10) && !put(&mut history, 100, 10));
    }

    #[test]
    fn a_late_packet_fills_its_gap() {
        let mut history = History::new(HistorySize { bytes: 65_536, packets: 64 });
        put(&mut history, 1, 10);
        put(&mut history, 3, 10);
        assert!(!history.contains(SeqNo(2)));
        put(&mut history, 2, 20);
        assert_eq!(history.find(SeqNo(2)).unwrap().1.len(), 20);
    }

    #[test]
    fn a_repair_prefix_is_skipped() {
        let mut history = History::new(HistorySize { bytes: 4_096, packets: 16 });
        history.reserve(12).unwrap().copy_from_slice(b"\x00\x07payload123");
        assert!(history.commit(12, 2, packet(7, 7)));
        assert_eq!(history.find(SeqNo(7)).unwrap().1, b"payload");
    }

    #[test]
    fn padding_stands_behind_its_payload_and_touches_no_other() {
        let mut history = History::new(HistorySize { bytes: 4_096, packets: 16 });
        for seq in 1..=3 {
            assert!(put(&mut history, seq, 10 + seq as usize));
        }
        history.pad(SeqNo(2), 3);
        let (packet, bytes) = history.find(SeqNo(2)).unwrap();
        assert_eq!((packet.len, packet.padding, &bytes[12..]), (12, 3, &[0, 0, 3][..]));
        assert!(history.find(SeqNo(1)).unwrap().1.iter().all(|byte| *byte == 1));
        assert!(history.find(SeqNo(3)).unwrap().1.iter().all(|byte| *byte == 3));
        history.pad(SeqNo(3), PADDING_MAX + 1);
        history.pad(SeqNo(9), 1);
        assert_eq!(history.find(SeqNo(3)).unwrap().1.len(), 13);
    }

    #[test]
    fn elements_passed_on_stand_behind_payload_and_padding() {
        let mut history = History::new(HistorySize { bytes: 4_096, packets: 16 });
        for seq in 0..200 {
            let passed_len = (seq % 7) as u16;
            history.reserve(100).unwrap()[..50].fill(seq as u8);
            assert!(history.commit(100, 0, Packet { passed_len, ..packet(seq, 50) }));
            history.passed_mut(SeqNo(seq)).unwrap().fill(!seq as u8);
            history.pad(SeqNo(seq), PADDING_MAX);
            for back in 0..seq.min(5) {
                let (held, payload) = history.find(SeqNo(seq - back)).unwrap();
                assert!(payload[..50].iter().all(|byte| *byte == (seq - back) as u8));
                let passed = history.passed(held);
                assert_eq!(passed, vec![!(seq - back) as u8; usize::from(held.passed_len)]);
            }
        }
        assert_eq!(history.passed_mut(SeqNo(1)), None);
    }

    #[test]
    fn a_payload_larger_than_a_quarter_of_the_ring_is_refused() {
        assert!(History::new(HistorySize { bytes: 4_096, packets: 16 }).reserve(1_025).is_none());
    }
}
