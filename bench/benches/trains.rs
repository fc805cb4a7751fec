//! Trains through the back ends to sockets that are read: time of the sending thread per datagram, by segments per train.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark stops at its own mistakes")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use auralink_ring::client::{Destination, Message, send_message, thread_cpu_ns};
use auralink_ring::{Backend, BackendKind, Outgoing, Sizes, SocketOptions, WakeHandle, bind, probe_uring};
use auralink_rtc::egress::TRAIN_BYTES;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Datagrams of 1.1 kB do not fit 32 to a train; those of audio do.
const SEGMENTS: [(u16, u16); 4] = [(1, 1_140), (4, 1_140), (9, 1_140), (32, 200)];
const SINKS: usize = 8;
const TRAINS_MAX: usize = 64;
/// Trains given to the kernel at once, where nothing else is said.
const TRAINS_PER_SUBMIT: usize = 16;
const SUBMITS: [usize; 4] = [1, 4, 16, 64];

/// Sockets that read everything they are sent.
struct Sinks {
    addresses: Vec<SocketAddr>,
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Sinks {
    fn start() -> Self {
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let sockets: Vec<UdpSocket> = (0..SINKS).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        let reader = |socket: UdpSocket| {
            let (stop, received) = (Arc::clone(&stop), Arc::clone(&received));
            std::thread::spawn(move || {
                socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                let mut datagram = [0; 2_048];
                while !stop.load(Ordering::Relaxed) {
                    if socket.recv(&mut datagram).is_ok() {
                        received.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        };
        let threads = sockets.into_iter().map(reader).collect();
        Self { addresses, received, stop, threads }
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

struct Sender {
    backend: Backend,
    free: Vec<Box<[u8]>>,
    outgoing: Vec<Outgoing>,
    next: usize,
}

impl Sender {
    fn new(kind: BackendKind) -> Self {
        let options = SocketOptions { buffer_bytes: 4 << 20, reuse_port: false };
        let bound = bind("127.0.0.1:0".parse().unwrap(), options).unwrap();
        let backend =
            Backend::new(kind, bound.socket, WakeHandle::new().unwrap(), Sizes::new(TRAINS_MAX, 64)).unwrap();
        let free = (0..TRAINS_MAX).map(|_| vec![7; TRAIN_BYTES].into_boxed_slice()).collect();
        Self { backend, free, outgoing: Vec::with_capacity(TRAINS_MAX), next: 0 }
    }

    /// Sends so many trains, batch by batch, as a shard's thread does.
    fn send(&mut self, trains: u64, batch: usize, (segments, segment): (u16, u16), sinks: &Sinks) {
        let mut left = trains;
        while left > 0 {
            for _ in 0..left.min(batch as u64) {
                let to = sinks.addresses[self.next % sinks.addresses.len()];
                self.next += 1;
                left -= 1;
                let len = u32::from(segments) * u32::from(segment);
                let buffer = self.free.pop().unwrap();
                self.outgoing.push(Outgoing { to, from: None, segment, len, buffer });
            }
            self.free.extend(self.backend.submit(&mut self.outgoing).map(|sent| sent.buffer));
        }
    }
}

fn trains(c: &mut Criterion) {
    probe_uring().expect("this machine has io_uring");
    let sinks = Sinks::start();
    let mut group = c.benchmark_group("trains");
    for kind in [BackendKind::Uring, BackendKind::Mmsg] {
        for (segments, segment) in SEGMENTS {
            let mut sender = Sender::new(kind);
            let before = sinks.received.load(Ordering::Relaxed);
            group.throughput(Throughput::Elements(u64::from(segments)));
            group.bench_function(format!("{}/{segments}x{segment}", kind.as_str()), |b| {
                b.iter_custom(|count| {
                    let start = Instant::now();
                    sender.send(count, TRAINS_PER_SUBMIT, (segments, segment), &sinks);
                    start.elapsed()
                });
            });
            let counters = sender.backend.counters();
            assert_eq!((counters.trains_failed, counters.peers_unsegmented), (0, 0), "{counters:?}");
            // Nothing was sent where a filter left the bench out.
            let arrived = sinks.received.load(Ordering::Relaxed) - before;
            assert!(counters.trains_sent == 0 || arrived > 0, "nothing arrived");
        }
    }
}

/// What giving more trains to the kernel at once saves; both back ends send alike.
fn submits(c: &mut Criterion) {
    let sinks = Sinks::start();
    let mut group = c.benchmark_group("submits");
    for batch in SUBMITS {
        let mut sender = Sender::new(BackendKind::Mmsg);
        group.bench_function(batch.to_string(), |b| {
            b.iter_custom(|count| on_this_thread(|| sender.send(count, batch, (1, 1_140), &sinks)));
        });
    }
}

/// What a socket for each peer, connected to it, would save: the look-up of the way to it at each send.
fn sockets(c: &mut Criterion) {
    let sinks = Sinks::start();
    let destinations: Vec<Destination> = sinks.addresses.iter().map(|to| Destination::from(*to)).collect();
    let one = UdpSocket::bind("127.0.0.1:0").unwrap();
    let connected: Vec<UdpSocket> = sinks
        .addresses
        .iter()
        .map(|to| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(to).unwrap();
            socket
        })
        .collect();
    let bytes = vec![7; 9 * 1_140];
    let mut group = c.benchmark_group("sockets");
    for (segments, segment) in [(1, None), (9, Some(1_140))] {
        let bytes = &bytes[..segments * 1_140];
        for is_connected in [false, true] {
            let name = if is_connected { "connected" } else { "one" };
            group.bench_function(format!("{name}/{segments}x1140"), |b| {
                b.iter_custom(|count| {
                    on_this_thread(|| {
                        for n in 0..count as usize {
                            let at = n % SINKS;
                            let (socket, to) = if is_connected {
                                (&connected[at], None)
                            } else {
                                (&one, Some(&destinations[at]))
                            };
                            // A full buffer is the reader's time, not the sender's.
                            let _ = send_message(socket, &Message { to, bytes, segment });
                        }
                    })
                });
            });
        }
    }
}

/// The processor time of this thread while `work` runs.
fn on_this_thread(work: impl FnOnce()) -> Duration {
    let before = thread_cpu_ns();
    work();
    Duration::from_nanos(thread_cpu_ns() - before)
}

criterion_group!(benches, trains, submits, sockets);
criterion_main!(benches);
