//! A shard's connections (ICE-TCP): non-blocking reads and writes, each with a bounded queue. A connection lives exactly as long as
//! its peer's tuple: it is closed when its first frame does not pass the check, and when the peer has no use for it any more.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use auralink_ring::{Interest, Readiness, Ready};
use auralink_rtc::egress::{SEGMENTS_MAX, Train};
use auralink_rtc::framing::{Deframer, PREFIX_BYTES, prefix};
use auralink_rtc::units::Route;
use rtrb::Consumer;

use crate::acceptor::Arrival;

/// Connections of one shard.
const STREAMS_MAX: usize = 8_192;
/// Bytes waiting for one client, beyond what the kernel holds: half a second of a good picture. More would only be late.
const QUEUE_BYTES_MAX: usize = 192 << 10;
/// Bytes taken from one connection in one turn.
const READ_BYTES: usize = 64 << 10;
/// Connections taken over from the acceptor in one turn.
const ARRIVALS_PER_TURN: usize = 16;

struct Stream {
    socket: TcpStream,
    route: Route,
    deframer: Deframer,
    /// Whole frames, the first perhaps begun.
    queue: VecDeque<u8>,
    is_over: bool,
}

pub(crate) struct Streams {
    readiness: Arc<Readiness>,
    arrivals: Consumer<Arrival>,
    held: Vec<Option<Stream>>,
    free: Vec<u32>,
    by_remote: HashMap<SocketAddr, u32>,
    scratch: Box<[u8]>,
    ready: Vec<Ready>,
    /// Ended by the peer or the kernel, and not yet told.
    ended: Vec<SocketAddr>,
    /// Datagrams without room in their queue, and not yet told.
    full: u64,
}

impl Streams {
    pub(crate) fn new(arrivals: Consumer<Arrival>) -> io::Result<Self> {
        Ok(Self {
            readiness: Arc::new(Readiness::new()?),
            arrivals,
            held: Vec::new(),
            free: Vec::new(),
            by_remote: HashMap::new(),
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            ready: Vec::new(),
            ended: Vec::new(),
            full: 0,
        })
    }

    /// For the back end to sleep on.
    pub(crate) fn readiness(&self) -> &Arc<Readiness> {
        &self.readiness
    }

    /// Whether a connection waits to be taken over.
    pub(crate) fn has_arrival(&self) -> bool {
        !self.arrivals.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_remote.len()
    }

    /// One turn's share of work: takes over, reads and writes. `on_frame` takes a datagram and says whether its connection is
    /// (still) a peer's. Whether there was anything to do.
    pub(crate) fn turn(&mut self, on_frame: &mut dyn FnMut(&Route, &[u8]) -> bool) -> io::Result<bool> {
        let mut worked = false;
        for _ in 0..ARRIVALS_PER_TURN {
            let Ok(arrival) = self.arrivals.pop() else { break };
            worked = true;
            self.take_over(arrival, on_frame);
        }
        if self.by_remote.is_empty() {
            return Ok(worked);
        }
        let mut ready = std::mem::take(&mut self.ready);
        self.readiness.wait(Duration::ZERO, &mut ready)?;
        for event in &ready {
            worked = true;
            self.serve(event, on_frame);
        }
        self.ready = ready;
        Ok(worked)
    }

    /// Connections that ended since the last call.
    pub(crate) fn drain_ended(&mut self) -> impl Iterator<Item = SocketAddr> {
        self.ended.drain(..)
    }

    /// Datagrams that found no room since the last call.
    pub(crate) fn take_full(&mut self) -> u64 {
        std::mem::take(&mut self.full)
    }

    fn take_over(&mut self, arrival: Arrival, on_frame: &mut dyn FnMut(&Route, &[u8]) -> bool) {
        let Arrival { socket, remote, local, bytes } = arrival;
        if self.by_remote.len() >= STREAMS_MAX || self.by_remote.contains_key(&remote) {
            return;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.held.push(None);
            (self.held.len() - 1) as u32
        });
        if self.readiness.add(&socket, u64::from(slot), Interest::Read).is_err() {
            self.free.push(slot);
            return;
        }
        let route = Route::tcp(remote, Some(local));
        let stream =
            Stream { socket, route, deframer: Deframer::default(), queue: VecDeque::new(), is_over: false };
        if let Some(place) = self.held.get_mut(slot as usize) {
            self.by_remote.insert(remote, slot);
            place.insert(stream).take_in(&bytes, on_frame);
        }
        self.close_if_over(slot);
    }

    fn serve(&mut self, event: &Ready, on_frame: &mut dyn FnMut(&Route, &[u8]) -> bool) {
        let slot = event.token as u32;
        let Some(stream) = self.held.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        if event.writable {
            stream.write_queue();
            if stream.queue.is_empty() {
                stream.is_over |= self.readiness.change(&stream.socket, event.token, Interest::Read).is_err();
            }
        }
        if event.readable {
            match stream.socket.read(&mut self.scratch) {
                Ok(0) => stream.is_over = true,
                Ok(len) => stream.take_in(self.scratch.get(..len).unwrap_or_default(), on_frame),
                Err(error) => stream.is_over |= !is_passing(&error),
            }
        }
        self.close_if_over(slot);
    }

    /// Sends a train as frames; what finds no room is counted. A connection that is gone was told of already.
    pub(crate) fn send(&mut self, train: &Train) {
        let Some(slot) = self.by_remote.get(&train.route.remote).copied() else { return };
        let Some(stream) = self.held.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let was_empty = stream.queue.is_empty();
        self.full += stream.send(train);
        if was_empty && !stream.queue.is_empty() {
            let watched = self.readiness.change(&stream.socket, u64::from(slot), Interest::ReadWrite);
            stream.is_over |= watched.is_err();
        }
        self.close_if_over(slot);
    }

    /// The peer behind it has no use for it any more.
    pub(crate) fn close(&mut self, remote: SocketAddr) {
        if let Some(slot) = self.by_remote.remove(&remote) {
            if let Some(place) = self.held.get_mut(slot as usize) {
                *place = None;
            }
            self.free.push(slot);
        }
    }

    fn close_if_over(&mut self, slot: u32) {
        let over = self.held.get(slot as usize).and_then(Option::as_ref).filter(|stream| stream.is_over);
        if let Some(remote) = over.map(|stream| stream.route.remote) {
            self.close(remote);
            self.ended.push(remote);
        }
    }
}

impl Stream {
    fn take_in(&mut self, bytes: &[u8], on_frame: &mut dyn FnMut(&Route, &[u8]) -> bool) {
        let Self { deframer, route, is_over, .. } = self;
        let pushed = deframer.push(bytes, &mut |frame| {
            if !*is_over {
                *is_over = !on_frame(route, frame);
            }
        });
        self.is_over |= pushed.is_err();
    }

    /// How many datagrams found no room.
    fn send(&mut self, train: &Train) -> u64 {
        if !self.queue.is_empty() {
            return train.datagrams().map(|datagram| u64::from(!self.enqueue(datagram))).sum();
        }
        let mut prefixes = [[0; PREFIX_BYTES]; SEGMENTS_MAX as usize];
        for (place, datagram) in prefixes.iter_mut().zip(train.datagrams()) {
            // A train's segment is 16 bits: its length always fits.
            *place = prefix(datagram.len()).unwrap_or_default();
        }
        let mut pieces = [IoSlice::new(&[]); 2 * SEGMENTS_MAX as usize];
        let mut used = 0;
        for ((pair, prefix), datagram) in pieces.chunks_exact_mut(2).zip(&prefixes).zip(train.datagrams()) {
            pair.copy_from_slice(&[IoSlice::new(prefix), IoSlice::new(datagram)]);
            used += 2;
        }
        let pieces = pieces.get(..used).unwrap_or_default();
        let mut written = match self.socket.write_vectored(pieces) {
            Ok(written) => written,
            Err(error) if is_passing(&error) => 0,
            Err(_) => {
                self.is_over = true;
                return 0;
            }
        };
        // The socket's buffer is full: what it did not take waits here. An empty queue has room for a whole train.
        for piece in pieces {
            let rest = piece.get(written.min(piece.len())..).unwrap_or_default();
            written -= piece.len() - rest.len();
            self.queue.extend(rest);
        }
        0
    }

    /// Adds a whole frame or nothing: half a frame would end the stream.
    fn enqueue(&mut self, datagram: &[u8]) -> bool {
        let Some(prefix) = prefix(datagram.len()) else { return false };
        if self.queue.len() + prefix.len() + datagram.len() > QUEUE_BYTES_MAX {
            return false;
        }
        self.queue.extend(prefix);
        self.queue.extend(datagram);
        true
    }

    fn write_queue(&mut self) {
        while !self.queue.is_empty() {
            match self.socket.write(self.queue.as_slices().0) {
                Ok(written) => drop(self.queue.drain(..written)),
                Err(error) if is_passing(&error) => return,
                Err(_) => {
                    self.is_over = true;
                    return;
                }
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use auralink_rtc::egress::Egress;
    use rtrb::{Producer, RingBuffer};
    use std::net::TcpListener;

    struct Bed {
        streams: Streams,
        door: Producer<Arrival>,
        listener: TcpListener,
    }

    impl Bed {
        fn new() -> Self {
            let (door, arrivals) = RingBuffer::new(4);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            Self { streams: Streams::new(arrivals).unwrap(), door, listener }
        }

        /// A client whose connection brings `bytes` along.
        fn connect(&mut self, bytes: &[u8]) -> (TcpStream, Route) {
            let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let (socket, remote) = self.listener.accept().unwrap();
            socket.set_nonblocking(true).unwrap();
            auralink_ring::bound_send_buffer(&socket, 16 << 10).unwrap();
            let local = self.listener.local_addr().unwrap().ip();
            assert!(self.door.push(Arrival { socket, remote, local, bytes: bytes.to_vec() }).is_ok());
            (client, Route::tcp(remote, Some(local)))
        }

        /// What arrived in a few turns; `keep` says whose connection stays.
        fn turns(&mut self, keep: &dyn Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
            let mut frames = Vec::new();
            for _ in 0..20 {
                let mut on_frame = |_: &Route, frame: &[u8]| {
                    frames.push(frame.to_vec());
                    keep(frame)
                };
                self.streams.turn(&mut on_frame).unwrap();
                std::thread::sleep(Duration::from_millis(2));
            }
            frames
        }
    }

    fn framed(datagram: &[u8]) -> Vec<u8> {
        [&prefix(datagram.len()).unwrap()[..], datagram].concat()
    }

    fn train(egress: &mut Egress, route: &Route, first: u16, count: u16) -> Train {
        for number in first..first + count {
            assert!(egress.push(route, &number.to_be_bytes().repeat(500)));
        }
        egress.drain().next().unwrap()
    }

    #[test]
    fn what_the_acceptor_read_comes_first_and_the_rest_follows() {
        let mut bed = Bed::new();
        let said = [framed(b"one"), framed(b"two"), framed(b"three")].concat();
        let (mut client, _) = bed.connect(&said[..7]);
        client.write_all(&said[7..]).unwrap();
        assert_eq!(bed.turns(&|_| true), [&b"one"[..], b"two", b"three"]);
        drop(client);
        bed.turns(&|_| true);
        assert_eq!((bed.streams.len(), bed.streams.drain_ended().count()), (0, 1));
    }

    #[test]
    fn a_connection_that_is_no_peers_is_closed_and_hears_no_more() {
        let mut bed = Bed::new();
        let (mut stranger, _) = bed.connect(&[framed(b"forged"), framed(b"more")].concat());
        let (mut giant, _) = bed.connect(&framed(&[1; 3_000]));
        assert_eq!(bed.turns(&|_| false), [b"forged"]);
        assert_eq!(bed.streams.len(), 0);
        for client in [&mut stranger, &mut giant] {
            assert!(matches!(client.read(&mut [0; 1]), Ok(0) | Err(_)));
        }
    }

    #[test]
    fn a_client_that_does_not_read_costs_a_bounded_queue_and_loses_whole_datagrams() {
        let mut bed = Bed::new();
        let (mut client, route) = bed.connect(&framed(b"hello"));
        bed.turns(&|_| true);
        let mut egress = Egress::new(2);
        let mut sent = 0;
        for turn in 0..1_000 {
            let train = train(&mut egress, &route, turn * 9, 9);
            bed.streams.send(&train);
            egress.give_back(train.buffer);
            sent += 9;
        }
        let full = bed.streams.take_full();
        let queued = bed.streams.held[0].as_ref().unwrap().queue.len();
        assert!(full > 0 && queued <= QUEUE_BYTES_MAX, "{full} of {sent} left out, {queued} bytes wait");
        client.set_nonblocking(true).unwrap();
        let (mut deframer, mut numbers) = (Deframer::default(), Vec::new());
        let mut bytes = [0; 65_536];
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while numbers.len() as u64 + full < sent && std::time::Instant::now() < deadline {
            bed.streams.turn(&mut |_, _| true).unwrap();
            let len = client.read(&mut bytes).unwrap_or_default();
            deframer
                .push(&bytes[..len], &mut |frame| {
                    assert!(
                        frame.len() == 1_000 && frame.chunks(2).all(|pair| pair == &frame[..2]),
                        "a whole datagram"
                    );
                    numbers.push(u16::from_be_bytes([frame[0], frame[1]]));
                })
                .unwrap();
        }
        assert_eq!(numbers.len() as u64 + full, sent, "each was sent or counted");
        assert!(numbers.is_sorted() && numbers[0] == 0);
    }
}
