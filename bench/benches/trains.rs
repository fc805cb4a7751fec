//! Trains through the back ends to sockets that are read: time of the sending thread per datagram, by segments per train.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark stops at its own mistakes")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use auralink_ring::{Backend, BackendKind, Outgoing, Sizes, SocketOptions, WakeHandle, bind, probe_uring};
use auralink_rtc::egress::TRAIN_BYTES;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Datagrams of 1.1 kB do not fit 32 to a train; those of audio do.
const SEGMENTS: [(u16, u16); 4] = [(1, 1_140), (4, 1_140), (9, 1_140), (32, 200)];
const SINKS: usize = 8;
const TRAINS_MAX: usize = 64;
/// Trains given to the kernel at once.
const TRAINS_PER_SUBMIT: usize = 16;

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
    fn send(&mut self, trains: u64, segments: u16, segment: u16, sinks: &Sinks) {
        let mut left = trains;
        while left > 0 {
            while self.free.len() < TRAINS_PER_SUBMIT {
                self.backend.wait(Duration::from_millis(1)).unwrap();
                self.take_back();
            }
            for _ in 0..left.min(TRAINS_PER_SUBMIT as u64) {
                let to = sinks.addresses[self.next % sinks.addresses.len()];
                self.next += 1;
                left -= 1;
                let len = u32::from(segments) * u32::from(segment);
                let buffer = self.free.pop().unwrap();
                self.outgoing.push(Outgoing { to, from: None, segment, len, buffer });
            }
            while !self.outgoing.is_empty() {
                self.backend.submit(&mut self.outgoing).unwrap();
                self.take_back();
            }
        }
        while self.free.len() < TRAINS_MAX {
            self.backend.wait(Duration::from_millis(1)).unwrap();
            self.take_back();
        }
    }

    fn take_back(&mut self) {
        self.free.extend(self.backend.returned().map(|sent| sent.buffer));
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
                    sender.send(count, segments, segment, &sinks);
                    start.elapsed()
                });
            });
            let counters = sender.backend.counters();
            assert_eq!((counters.trains_failed, counters.peers_unsegmented), (0, 0), "{counters:?}");
            assert!(sinks.received.load(Ordering::Relaxed) > before, "nothing arrived");
        }
    }
}

criterion_group!(benches, trains);
criterion_main!(benches);
