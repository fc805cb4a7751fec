//! Accepts connections for media (ICE-TCP, RFC 6544: we are the passive side) and brings each to the shard its peer lives on.
//!
//! A thread of its own, off the shards. Whoever connects has a few seconds to send one frame (RFC 4571): a STUN binding request
//! whose user name names a transport, and thereby its shard. The shard verifies it and keeps the connection, or does not.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use auralink_proto::TransportId;
use auralink_ring::{Interest, Readiness, bound_send_buffer, plain};
use auralink_rtc::framing::{FRAME_BYTES_MAX, PREFIX_BYTES, split_frame};
use auralink_rtc::stun;
use rtrb::Producer;

use crate::park::Parking;

/// Connections that have not yet said whose they are.
const PENDING_MAX: usize = 1_024;
/// Of one address: an office behind one address joins in a burst, but has at most a few checks under way for each client.
const PENDING_PER_ADDRESS_MAX: usize = 64;
/// The first frame has to be there by then.
const FIRST_FRAME_WITHIN: Duration = Duration::from_secs(5);
/// Connections accepted between two looks at those that wait.
const ACCEPTS_PER_TURN: usize = 64;
/// Between looks at who is late, and at whether to stop.
const TICK: Duration = Duration::from_millis(100);
/// Rest after the system has no descriptors left.
const EXHAUSTED_REST: Duration = Duration::from_millis(50);
/// Output the kernel may hold for one connection; it reserves twice that.
const SEND_BUFFER_BYTES: usize = 128 << 10;
/// Connections on their way to one shard.
pub(crate) const ARRIVALS_MAX: usize = 256;
/// Tokens from here on are listeners'.
const LISTENERS: u64 = 1 << 32;

/// A connection whose first frame names a transport of the shard it is given to.
pub(crate) struct Arrival {
    pub(crate) socket: TcpStream,
    pub(crate) remote: SocketAddr,
    pub(crate) local: IpAddr,
    /// All that was read of it: the first frame, perhaps more.
    pub(crate) bytes: Vec<u8>,
}

/// What became of connections, since start.
#[derive(Default, Debug)]
pub struct AcceptCounters {
    pub accepted: AtomicU64,
    /// Too many that had not yet said whose they are, in all or of one address.
    pub crowded: AtomicU64,
    /// No whole first frame in time, or closed before it.
    pub silent: AtomicU64,
    /// A first frame that is no binding request for a transport of this node.
    pub strange: AtomicU64,
    /// The shard's queue of new connections was full.
    pub overflowed: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Whose connections are counted together: an IPv4 address, or the 64 bits of IPv6 behind which one host chooses freely.
fn crowd(remote: SocketAddr) -> IpAddr {
    match remote.ip() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

struct Pending {
    socket: TcpStream,
    remote: SocketAddr,
    local: IpAddr,
    bytes: Vec<u8>,
    deadline: Instant,
}

/// Why a connection that waited is given up.
enum Refusal {
    Silent,
    Strange,
}

pub(crate) struct Acceptor {
    listener: TcpListener,
    readiness: Readiness,
    pending: HashMap<u64, Pending>,
    by_address: HashMap<IpAddr, usize>,
    next_token: u64,
    /// By shard.
    shards: Vec<Producer<Arrival>>,
    parking: Vec<Parking>,
    counters: Arc<AcceptCounters>,
}

impl Acceptor {
    /// `shards` and `parking` are in shard order.
    pub(crate) fn new(
        listener: TcpListener,
        shards: Vec<Producer<Arrival>>,
        parking: Vec<Parking>,
        counters: Arc<AcceptCounters>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let readiness = Readiness::new()?;
        readiness.add(&listener, LISTENERS, Interest::Read)?;
        Ok(Self {
            listener,
            readiness,
            pending: HashMap::new(),
            by_address: HashMap::new(),
            next_token: 0,
            shards,
            parking,
            counters,
        })
    }

    /// Until told to stop or the kernel refuses for good.
    pub(crate) fn run(mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut ready = Vec::new();
        let mut next_look = Instant::now() + TICK;
        while !stop.load(Ordering::Relaxed) {
            self.readiness.wait(TICK, &mut ready)?;
            let now = Instant::now();
            for event in &ready {
                if event.token >= LISTENERS { self.accept(now) } else { self.read(event.token) }
            }
            if now >= next_look {
                next_look = now + TICK;
                self.give_up_on_late(now);
            }
        }
        Ok(())
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listener.accept() {
                Ok((socket, remote)) => {
                    count(&self.counters.accepted);
                    if self.take_in(now, socket, plain(remote)).is_err() {
                        count(&self.counters.crowded);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) =>
                {
                    // The listener stays ready: without rest this thread would spin.
                    count(&self.counters.crowded);
                    std::thread::sleep(EXHAUSTED_REST);
                    return;
                }
                // The peer has gone already.
                Err(_) => count(&self.counters.silent),
            }
        }
    }

    /// An error when there is no room; dropping the socket closes it.
    fn take_in(&mut self, now: Instant, socket: TcpStream, remote: SocketAddr) -> io::Result<()> {
        let of_address = self.by_address.get(&crowd(remote)).copied().unwrap_or_default();
        if self.pending.len() >= PENDING_MAX || of_address >= PENDING_PER_ADDRESS_MAX {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        bound_send_buffer(&socket, SEND_BUFFER_BYTES)?;
        let local = plain(socket.local_addr()?).ip();
        let token = self.next_token;
        self.next_token = (token + 1) % LISTENERS;
        self.readiness.add(&socket, token, Interest::Read)?;
        *self.by_address.entry(crowd(remote)).or_default() += 1;
        let deadline = now + FIRST_FRAME_WITHIN;
        self.pending.insert(token, Pending { socket, remote, local, bytes: Vec::new(), deadline });
        Ok(())
    }

    fn read(&mut self, token: u64) {
        let Some(pending) = self.pending.get_mut(&token) else { return };
        match pending.read() {
            Ok(None) => {}
            Ok(Some(id)) => {
                if let Some(pending) = self.forget(token) {
                    self.hand_over(id, pending);
                }
            }
            Err(refusal) => {
                // Before the socket closes: whoever sees that finds it counted.
                match refusal {
                    Refusal::Silent => count(&self.counters.silent),
                    Refusal::Strange => count(&self.counters.strange),
                }
                self.forget(token);
            }
        }
    }

    fn hand_over(&mut self, id: TransportId, pending: Pending) {
        let shard = usize::from(id.shard().0);
        let (Some(arrivals), Some(parking)) = (self.shards.get_mut(shard), self.parking.get(shard)) else {
            count(&self.counters.strange);
            return;
        };
        let Pending { socket, remote, local, bytes, .. } = pending;
        if arrivals.push(Arrival { socket, remote, local, bytes }).is_ok() {
            parking.wake();
        } else {
            count(&self.counters.overflowed);
        }
    }

    fn forget(&mut self, token: u64) -> Option<Pending> {
        let pending = self.pending.remove(&token)?;
        if let Some(held) = self.by_address.get_mut(&crowd(pending.remote)) {
            *held -= 1;
            if *held == 0 {
                self.by_address.remove(&crowd(pending.remote));
            }
        }
        // Watched no more by us; the shard's own set takes it.
        let _ = self.readiness.remove(&pending.socket);
        Some(pending)
    }

    fn give_up_on_late(&mut self, now: Instant) {
        let late = |(token, pending): (&u64, &Pending)| (pending.deadline <= now).then_some(*token);
        let tokens: Vec<u64> = self.pending.iter().filter_map(late).collect();
        for token in tokens {
            self.forget(token);
            count(&self.counters.silent);
        }
    }
}

impl Pending {
    /// Whose the connection is, once its first frame is whole.
    fn read(&mut self) -> Result<Option<TransportId>, Refusal> {
        let mut scratch = [0; PREFIX_BYTES + FRAME_BYTES_MAX];
        let room = scratch.len() - self.bytes.len().min(scratch.len());
        match self.socket.read(scratch.get_mut(..room).unwrap_or_default()) {
            Ok(0) => return Err(Refusal::Silent),
            Ok(len) => self.bytes.extend_from_slice(scratch.get(..len).unwrap_or_default()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => return Err(Refusal::Silent),
        }
        let Some((frame, _)) = split_frame(&self.bytes).map_err(|_| Refusal::Strange)? else {
            return Ok(None);
        };
        let named = stun::username(frame).and_then(|(ours, _)| TransportId::from_ufrag(ours.as_bytes()));
        named.map(Some).ok_or(Refusal::Strange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use auralink_proto::ShardId;
    use auralink_ring::WakeHandle;
    use rtrb::{Consumer, RingBuffer};
    use std::io::Write as _;

    /// A running acceptor of one shard.
    struct Bed {
        address: SocketAddr,
        arrivals: Consumer<Arrival>,
        counters: Arc<AcceptCounters>,
        stop: Arc<AtomicBool>,
        thread: Option<std::thread::JoinHandle<io::Result<()>>>,
    }

    impl Bed {
        fn start() -> Self {
            let listener = auralink_ring::listen_both(0).unwrap();
            let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
            let (door, arrivals) = RingBuffer::new(ARRIVALS_MAX);
            let (counters, stop) = (Arc::<AcceptCounters>::default(), Arc::new(AtomicBool::new(false)));
            let parking = vec![Parking::new(WakeHandle::new().unwrap())];
            let acceptor = Acceptor::new(listener, vec![door], parking, Arc::clone(&counters)).unwrap();
            let stopped = Arc::clone(&stop);
            let thread = Some(std::thread::spawn(move || acceptor.run(&stopped)));
            Self { address, arrivals, counters, stop, thread }
        }

        fn connect(&self) -> TcpStream {
            let client = TcpStream::connect(self.address).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            client
        }

        fn arrival(&mut self) -> Arrival {
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                match self.arrivals.pop() {
                    Ok(arrival) => return arrival,
                    Err(_) => assert!(Instant::now() < deadline, "{:?}", self.counters),
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    impl Drop for Bed {
        fn drop(&mut self) {
            self.stop.store(true, Ordering::Relaxed);
            self.thread.take().unwrap().join().unwrap().unwrap();
        }
    }

    fn is_closed(client: &mut TcpStream) -> bool {
        matches!(client.read(&mut [0; 1]), Ok(0) | Err(_))
    }

    fn framed(datagram: &[u8]) -> Vec<u8> {
        [&(datagram.len() as u16).to_be_bytes()[..], datagram].concat()
    }

    /// A binding request for a transport of `shard`, unsigned: the acceptor verifies nothing.
    fn request(shard: u8) -> Vec<u8> {
        let name = format!("{}:them", TransportId::new(ShardId(shard), 9).ufrag());
        let mut value = name.into_bytes();
        let len = value.len() as u16;
        value.resize(value.len().next_multiple_of(4), 0);
        let attributes = [&[0, 6][..], &len.to_be_bytes(), &value].concat();
        let header =
            [&[0, 1][..], &(attributes.len() as u16).to_be_bytes(), &[0x21, 0x12, 0xa4, 0x42], &[7; 12]];
        [header.concat(), attributes].concat()
    }

    #[test]
    fn a_connection_goes_to_the_shard_its_first_frame_names_with_all_it_said() {
        let mut bed = Bed::start();
        let (mut client, said) = (bed.connect(), [framed(&request(0)), framed(b"more")].concat());
        for piece in said.chunks(5) {
            client.write_all(piece).unwrap();
            client.flush().unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut arrival = bed.arrival();
        assert_eq!((arrival.remote, arrival.local), (client.local_addr().unwrap(), bed.address.ip()));
        arrival.socket.set_nonblocking(false).unwrap();
        let mut rest = vec![0; said.len() - arrival.bytes.len()];
        arrival.socket.read_exact(&mut rest).unwrap();
        assert_eq!([arrival.bytes, rest].concat(), said, "nothing is lost on the way");
    }

    #[test]
    fn both_families_are_accepted_and_named_as_they_are() {
        let mut bed = Bed::start();
        for ip in ["127.0.0.1", "::1"] {
            let to = SocketAddr::new(ip.parse().unwrap(), bed.address.port());
            let mut client = TcpStream::connect(to).unwrap();
            client.write_all(&framed(&request(0))).unwrap();
            let arrival = bed.arrival();
            assert_eq!((arrival.remote, arrival.local), (client.local_addr().unwrap(), to.ip()));
        }
    }

    #[test]
    fn who_chooses_among_the_addresses_of_a_network_is_one_crowd() {
        let of = |text: &str| crowd(text.parse().unwrap());
        assert_eq!(of("[2001:db8:1:2:3::4]:5"), of("[2001:db8:1:2:ffff::9]:6"));
        assert_ne!(of("[2001:db8:1:2::]:5"), of("[2001:db8:1:3::]:5"));
        assert_ne!(of("10.0.0.1:5"), of("10.0.0.2:5"));
    }

    #[test]
    fn whoever_says_something_else_is_closed_at_once_and_counted() {
        let bed = Bed::start();
        let mut indication = request(0);
        indication[1] = 0x11;
        let refused: [Vec<u8>; 6] = [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            vec![0xff; 10_000],
            framed(&[0x16; 300]),
            framed(&indication),
            framed(&request(1)),
            framed(b""),
        ];
        for (index, bytes) in refused.iter().enumerate() {
            let (start, mut client) = (Instant::now(), bed.connect());
            client.write_all(bytes).unwrap();
            assert!(is_closed(&mut client) && start.elapsed() < Duration::from_secs(3), "{index}");
        }
        assert_eq!(bed.counters.strange.load(Ordering::Relaxed), 6);
        assert!(bed.arrivals.is_empty());
    }

    #[test]
    fn whoever_says_nothing_or_too_slowly_is_closed_in_time() {
        let bed = Bed::start();
        let (mut silent, mut slow, start) = (bed.connect(), bed.connect(), Instant::now());
        let request = framed(&request(0));
        for byte in request.iter().take(40) {
            if slow.write_all(&[*byte]).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        assert!(is_closed(&mut slow) && is_closed(&mut silent));
        assert!(start.elapsed() < FIRST_FRAME_WITHIN + Duration::from_secs(5));
        assert_eq!(bed.counters.silent.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_crowd_of_one_address_is_bounded_and_keeps_nobody_out_for_long() {
        let mut bed = Bed::start();
        let crowd: Vec<TcpStream> = (0..3 * PENDING_PER_ADDRESS_MAX).map(|_| bed.connect()).collect();
        let deadline = Instant::now() + Duration::from_secs(20);
        while bed.counters.accepted.load(Ordering::Relaxed) < crowd.len() as u64 {
            assert!(Instant::now() < deadline, "{:?}", bed.counters);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(bed.counters.crowded.load(Ordering::Relaxed), 2 * PENDING_PER_ADDRESS_MAX as u64);
        drop(crowd);
        std::thread::sleep(Duration::from_millis(300));
        let mut client = bed.connect();
        client.write_all(&framed(&request(0))).unwrap();
        bed.arrival();
    }
}
