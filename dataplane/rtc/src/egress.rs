//! What goes out: datagrams gathered into trains.
//!
//! A train is a run of equal-size datagrams to one peer, the last one possibly shorter, lying back to back in one buffer, so
//! that the kernel can take it as a single `UDP_SEGMENT` send. Whoever seals a packet reserves its place here first and seals
//! straight into it. Buffers are owned values: one that is given to the kernel is simply not here until it comes back.

use crate::units::Route;

/// Size of one train buffer. 26 datagrams of [`DATAGRAM_BYTES_MAX`]; larger buffers leave the cache before they are sent.
pub const TRAIN_BYTES: usize = 32 * 1024;
/// Largest datagram we send: 1,280 (IPv6 minimum MTU) minus 48 bytes of IPv6 and UDP header.
pub const DATAGRAM_BYTES_MAX: usize = 1_232;
/// Most segments the kernel takes in one send (`UDP_MAX_SEGMENTS` of kernels before 6.9).
pub const SEGMENTS_MAX: u16 = 64;

/// Transport-wide sequence numbers given to a train's packets, so that the time of the flush becomes their send time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TwccRange {
    /// The caller's handle of the sender whose numbers these are.
    pub owner: u32,
    pub first: u16,
    pub count: u16,
}

/// One send.
#[derive(Debug)]
pub struct Train {
    pub route: Route,
    /// Bytes of every datagram but the last.
    pub segment: u16,
    pub packets: u16,
    /// Bytes used of `buffer`.
    pub len: u32,
    pub buffer: Box<[u8]>,
    pub twcc: Option<TwccRange>,
    closed: bool,
}

impl Train {
    /// The datagrams back to back.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.len as usize).unwrap_or_default()
    }

    /// The datagrams one by one.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes().chunks(usize::from(self.segment.max(1)))
    }

    fn takes(&self, route: &Route, len: usize) -> bool {
        !self.closed
            && self.route == *route
            && self.packets < SEGMENTS_MAX
            && len <= usize::from(self.segment)
            && self.len as usize + len <= self.buffer.len()
    }
}

/// A bounded set of train buffers, some free, some filled and waiting to be sent.
#[derive(Debug)]
pub struct Egress {
    free: Vec<Box<[u8]>>,
    ready: Vec<Train>,
    reserved: usize,
    trains_max: usize,
}

impl Egress {
    /// Allocates `trains_max` buffers once.
    pub fn new(trains_max: usize) -> Self {
        Self {
            free: (0..trains_max).map(|_| vec![0; TRAIN_BYTES].into_boxed_slice()).collect(),
            ready: Vec::with_capacity(trains_max),
            reserved: 0,
            trains_max,
        }
    }

    /// Whether another train can be started. When not, the caller flushes and comes back.
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether [`Self::reserve`] would find a place now.
    pub fn has_room_for(&self, route: &Route, len: usize) -> bool {
        !self.free.is_empty()
            || self.ready.last().is_some_and(|train| train.takes(route, len) || train.packets == 0)
    }

    /// Trains waiting to be sent.
    pub fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// A place of exactly `len` bytes for the next datagram to `route`: in the open train if it fits, else at the start of a
    /// new one. `None` when no buffer is free or `len` is not a datagram. What was reserved and not committed is forgotten.
    pub fn reserve(&mut self, route: &Route, len: usize) -> Option<&mut [u8]> {
        if len == 0 || len > TRAIN_BYTES {
            return None;
        }
        self.forget_abandoned();
        if !self.ready.last().is_some_and(|train| train.takes(route, len)) {
            let buffer = self.free.pop()?;
            let segment = len as u16;
            self.ready.push(Train {
                route: *route,
                segment,
                packets: 0,
                len: 0,
                buffer,
                twcc: None,
                closed: false,
            });
        }
        self.reserved = len;
        let train = self.ready.last_mut()?;
        let start = train.len as usize;
        train.buffer.get_mut(start..start + len)
    }

    /// Accepts the datagram written into the last reserved place.
    pub fn commit(&mut self) {
        let len = std::mem::take(&mut self.reserved);
        debug_assert!(len > 0, "commit without reserve");
        if let Some(train) = self.ready.last_mut().filter(|_| len > 0) {
            train.len += len as u32;
            train.packets += 1;
            train.closed = len < usize::from(train.segment);
        }
    }

    /// Notes the transport-wide number of the datagram just committed. One train goes to one peer, whose numbers follow each
    /// other, so a range is enough.
    pub fn note_twcc(&mut self, owner: u32, number: u16) {
        let Some(train) = self.ready.last_mut() else { return };
        match &mut train.twcc {
            None => train.twcc = Some(TwccRange { owner, first: number, count: 1 }),
            Some(range) => {
                debug_assert_eq!((range.owner, range.first.wrapping_add(range.count)), (owner, number));
                range.count += 1;
            }
        }
    }

    /// Copies one whole datagram (STUN, DTLS, SCTP, RTCP). `false` when there is no room: the datagram is dropped.
    pub fn push(&mut self, route: &Route, datagram: &[u8]) -> bool {
        let Some(place) = self.reserve(route, datagram.len()) else { return false };
        place.copy_from_slice(datagram);
        self.commit();
        true
    }

    /// Takes the trains that are ready, oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = Train> {
        self.reserved = 0;
        self.forget_abandoned();
        self.ready.drain(..)
    }

    /// Brings a buffer back once the kernel is done with it.
    pub fn give_back(&mut self, buffer: Box<[u8]>) {
        debug_assert!(self.free.len() + self.ready.len() < self.trains_max && buffer.len() == TRAIN_BYTES);
        self.free.push(buffer);
    }

    /// A train that was started but never received a datagram gives its buffer back.
    fn forget_abandoned(&mut self) {
        if let Some(train) = self.ready.pop_if(|train| train.packets == 0) {
            self.free.push(train.buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(port: u16) -> Route {
        Route::udp(([127, 0, 0, 1], port).into(), None)
    }

    fn shapes(egress: &mut Egress) -> Vec<(u16, u16, u16, u32)> {
        let trains: Vec<_> = egress.drain().collect();
        trains.iter().map(|t| (t.route.remote.port(), t.segment, t.packets, t.len)).collect()
    }

    #[test]
    fn equal_sizes_to_one_peer_are_one_train() {
        let mut egress = Egress::new(4);
        for _ in 0..9 {
            assert!(egress.push(&route(1), &[7; 1_100]));
        }
        assert_eq!(shapes(&mut egress), [(1, 1_100, 9, 9_900)]);
    }

    #[test]
    fn a_shorter_datagram_ends_the_train_and_a_longer_one_starts_another() {
        let mut egress = Egress::new(4);
        for len in [100, 100, 60, 60, 80] {
            assert!(egress.push(&route(1), &vec![1; len]));
        }
        assert_eq!(shapes(&mut egress), [(1, 100, 3, 260), (1, 60, 1, 60), (1, 80, 1, 80)]);
    }

    #[test]
    fn another_peer_starts_another_train() {
        let mut egress = Egress::new(4);
        for port in [1, 2, 2, 1] {
            assert!(egress.push(&route(port), &[1; 100]));
        }
        assert_eq!(shapes(&mut egress), [(1, 100, 1, 100), (2, 100, 2, 200), (1, 100, 1, 100)]);
    }

    #[test]
    fn an_abandoned_reservation_leaves_no_trace() {
        let mut egress = Egress::new(1);
        assert!(egress.reserve(&route(1), 500).is_some());
        assert!(egress.push(&route(2), &[1; 40]));
        assert!(egress.reserve(&route(2), 40).is_some());
        assert_eq!(shapes(&mut egress), [(2, 40, 1, 40)]);
    }

    #[test]
    fn running_out_of_buffers_refuses_until_one_comes_back() {
        let mut egress = Egress::new(1);
        assert!(egress.push(&route(1), &[1; 40]));
        assert!(!egress.has_room());
        assert!(!egress.push(&route(2), &[1; 40]));
        let train = egress.drain().next().expect("one train");
        assert!(!egress.push(&route(2), &[1; 40]));
        egress.give_back(train.buffer);
        assert!(egress.push(&route(2), &[1; 40]));
    }

    #[test]
    fn no_train_exceeds_the_segments_or_the_buffer() {
        let mut egress = Egress::new(8);
        for _ in 0..70 {
            assert!(egress.push(&route(1), &[1; 50]));
        }
        for _ in 0..30 {
            assert!(egress.push(&route(1), &[1; DATAGRAM_BYTES_MAX]));
        }
        assert_eq!(
            shapes(&mut egress).iter().map(|s| s.2).collect::<Vec<_>>(),
            [
                64,
                6,
                (TRAIN_BYTES / DATAGRAM_BYTES_MAX) as u16,
                30 - (TRAIN_BYTES / DATAGRAM_BYTES_MAX) as u16
            ]
        );
    }
}
