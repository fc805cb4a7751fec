//! The interface both back ends share, and the start-up probe that chooses one.
//!
//! A back end lives on its shard's thread: `receive` hands out what arrived, `submit` gives trains to the kernel, `wait`
//! parks. `submit` gives each train's buffer back with what became of it.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use std::vec::Drain;

use crate::mmsg::Mmsg;
use crate::readiness::Readiness;
use crate::uring::Uring;
use crate::wake::WakeHandle;

/// What arrived in one piece: one datagram, or several of `segment` bytes (the last may be shorter) from one sender.
#[derive(Debug)]
pub struct Received<'a> {
    pub from: SocketAddr,
    /// Our address the datagram was sent to.
    pub to: Option<IpAddr>,
    pub segment: usize,
    /// CLOCK_REALTIME of arrival in the kernel, in nanoseconds.
    pub realtime_ns: Option<u64>,
    pub bytes: &'a [u8],
}

impl Received<'_> {
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks(self.segment.max(1))
    }
}

/// A train to send: datagrams of `segment` bytes back to back in `buffer[..len]`, the last one possibly shorter.
#[derive(Debug)]
pub struct Outgoing {
    pub to: SocketAddr,
    pub from: Option<IpAddr>,
    pub segment: u16,
    pub len: u32,
    pub buffer: Box<[u8]>,
}

impl Outgoing {
    pub(crate) fn is_train(&self) -> bool {
        self.len > u32::from(self.segment)
    }
}

/// What became of a train.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendOutcome {
    Sent,
    /// The socket buffer was full (EAGAIN, ENOBUFS): dropped by our decision, never waited for.
    Full,
    /// The path refuses segmentation (EMSGSIZE, EINVAL, EIO): sent again datagram by datagram, as will be all that follow to
    /// that peer.
    Unsegmented,
    /// Any other errno: the peer is unreachable.
    Failed(i32),
}

/// A train's buffer on its way back.
#[derive(Debug)]
pub struct Sent {
    pub buffer: Box<[u8]>,
    pub outcome: SendOutcome,
}

/// What a back end counts. All since start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// System calls made, of any kind.
    pub syscalls: u64,
    /// Messages taken from the kernel; one may hold several datagrams.
    pub messages_received: u64,
    /// Datagrams the kernel dropped because the socket buffer was full.
    pub kernel_overflow: u64,
    /// Times the receive buffers ran out and the receive had to be armed again.
    pub pool_empty: u64,
    pub trains_sent: u64,
    pub trains_full: u64,
    pub trains_failed: u64,
    /// Peers that take no segmented sends.
    pub peers_unsegmented: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendKind {
    Uring,
    Mmsg,
}

impl BackendKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Mmsg => "mmsg",
        }
    }
}

/// What a back end is sized for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Trains submitted at once without allocating.
    pub trains_max: usize,
    /// Messages the kernel may hand over before we take them, each with room for a whole GRO run; a power of two. `mmsg`
    /// leaves them in the socket's buffer instead.
    pub receive_buffers: u16,
}

impl Sizes {
    /// Receive buffers for so many peers: each may have a burst under way, few do at a time.
    pub fn new(trains_max: usize, peers_max: usize) -> Self {
        let receive_buffers = (peers_max / 8).next_power_of_two().clamp(128, 1_024) as u16;
        Self { trains_max, receive_buffers }
    }
}

/// Whether this kernel lets us use io_uring the way `uring` does: containers' default seccomp profiles do not.
pub fn probe_uring() -> io::Result<()> {
    crate::uring::probe()
}

/// One shard's way to the kernel.
pub struct Backend(Inner);

enum Inner {
    Uring(Box<Uring>),
    Mmsg(Box<Mmsg>),
}

impl Backend {
    /// Must be called on the thread that will use it: the ring belongs to one thread.
    pub fn new(kind: BackendKind, socket: UdpSocket, wake: WakeHandle, sizes: Sizes) -> io::Result<Self> {
        Ok(Self(match kind {
            BackendKind::Uring => Inner::Uring(Box::new(Uring::new(socket, wake, sizes)?)),
            BackendKind::Mmsg => Inner::Mmsg(Box::new(Mmsg::new(socket, wake, sizes.trains_max))),
        }))
    }

    pub fn kind(&self) -> BackendKind {
        match &self.0 {
            Inner::Uring(_) => BackendKind::Uring,
            Inner::Mmsg(_) => BackendKind::Mmsg,
        }
    }

    /// Hands up to about `messages_max` messages to `on_message`; returns how many there were.
    pub fn receive(
        &mut self,
        messages_max: usize,
        on_message: &mut dyn FnMut(&Received<'_>),
    ) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Uring(uring) => uring.receive(messages_max, on_message),
            Inner::Mmsg(mmsg) => mmsg.receive(messages_max, on_message),
        }
    }

    /// Gives all trains to the kernel; what became of each, with its buffer.
    pub fn submit(&mut self, trains: &mut Vec<Outgoing>) -> Drain<'_, Sent> {
        match &mut self.0 {
            Inner::Uring(uring) => uring.submit(trains),
            Inner::Mmsg(mmsg) => mmsg.submit(trains),
        }
    }

    /// Parks until something arrives, a wake, or `timeout`. Returns at once while `receive` has something to take.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        match &mut self.0 {
            Inner::Uring(uring) => uring.wait(timeout),
            Inner::Mmsg(mmsg) => mmsg.wait(timeout),
        }
    }

    /// From now on [`Self::wait`] returns when a connection in `readiness` is ready, too.
    pub fn watch(&mut self, readiness: &Arc<Readiness>) {
        let readiness = Some(Arc::clone(readiness));
        match &mut self.0 {
            Inner::Uring(uring) => uring.streams = readiness,
            Inner::Mmsg(mmsg) => mmsg.streams = readiness,
        }
    }

    pub fn counters(&self) -> Counters {
        match &self.0 {
            Inner::Uring(uring) => uring.counters,
            Inner::Mmsg(mmsg) => mmsg.counters,
        }
    }
}

pub(crate) fn outcome(errno: i32) -> SendOutcome {
    match errno {
        0 => SendOutcome::Sent,
        libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => SendOutcome::Full,
        libc::EMSGSIZE | libc::EINVAL | libc::EIO => SendOutcome::Unsegmented,
        errno => SendOutcome::Failed(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::{SocketOptions, bind};
    use std::time::Instant;

    fn pair(kind: BackendKind) -> (Backend, UdpSocket, WakeHandle) {
        let options = SocketOptions { buffer_bytes: 1 << 20, reuse_port: false };
        let bound = bind("127.0.0.1:0".parse().unwrap(), options).unwrap();
        let address = bound.socket.local_addr().unwrap();
        let wake = WakeHandle::new().unwrap();
        let backend = Backend::new(kind, bound.socket, wake.clone(), Sizes::new(8, 64)).unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.connect(address).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        (backend, peer, wake)
    }

    fn each(check: impl Fn(BackendKind)) {
        probe_uring().expect("the machine that runs the tests has io_uring");
        check(BackendKind::Uring);
        check(BackendKind::Mmsg);
    }

    fn receive_until(backend: &mut Backend, datagrams: usize) -> Vec<(SocketAddr, Option<IpAddr>, Vec<u8>)> {
        let start = Instant::now();
        let mut got = Vec::new();
        while got.len() < datagrams && start.elapsed() < Duration::from_secs(3) {
            backend
                .receive(64, &mut |message| {
                    assert!(message.realtime_ns.is_some());
                    got.extend(message.datagrams().map(|d| (message.from, message.to, d.to_vec())));
                })
                .unwrap();
            backend.wait(Duration::from_millis(5)).unwrap();
        }
        got
    }

    fn train(to: SocketAddr, segment: u16, datagrams: u32, short: u32) -> Outgoing {
        let len = u32::from(segment) * datagrams + short;
        let buffer: Box<[u8]> = (0..32 * 1024).map(|i| (i / usize::from(segment)) as u8).collect();
        Outgoing { to, from: None, segment, len, buffer }
    }

    #[test]
    fn receives_what_was_sent_with_addresses() {
        each(|kind| {
            let (mut backend, peer, _) = pair(kind);
            for i in 0..300_u16 {
                peer.send(&i.to_be_bytes().repeat(40)).unwrap();
            }
            let got = receive_until(&mut backend, 300);
            assert_eq!(got.len(), 300, "{kind:?}");
            for (i, (from, to, bytes)) in got.iter().enumerate() {
                assert_eq!((*from, *to), (peer.local_addr().unwrap(), Some([127, 0, 0, 1].into())));
                assert_eq!(*bytes, (i as u16).to_be_bytes().repeat(40), "{kind:?} keeps order");
            }
        });
    }

    #[test]
    fn a_port_is_free_as_soon_as_its_back_end_is_gone() {
        each(|kind| {
            for _ in 0..20 {
                let (mut backend, peer, _) = pair(kind);
                peer.send(&[7; 100]).unwrap();
                assert_eq!(receive_until(&mut backend, 1).len(), 1);
                let address = peer.peer_addr().unwrap();
                drop(backend);
                UdpSocket::bind(address).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
            }
        });
    }

    #[test]
    fn a_train_arrives_as_its_datagrams() {
        each(|kind| {
            let (mut backend, peer, _) = pair(kind);
            let mut trains = vec![train(peer.local_addr().unwrap(), 1_000, 9, 300)];
            let sent: Vec<_> = backend.submit(&mut trains).collect();
            assert!(trains.is_empty());
            let mut bytes = [0; 2_000];
            for i in 0..9_u8 {
                assert_eq!(peer.recv(&mut bytes).unwrap(), 1_000);
                assert_eq!((bytes[0], bytes[999]), (i, i), "{kind:?}");
            }
            assert_eq!(peer.recv(&mut bytes).unwrap(), 300);
            assert_eq!((sent.len(), sent[0].outcome), (1, SendOutcome::Sent));
            assert_eq!(backend.counters().trains_sent, 1);
        });
    }

    #[test]
    fn more_trains_than_one_call_takes_all_go_out() {
        each(|kind| {
            let (mut backend, peer, _) = pair(kind);
            let mut trains: Vec<_> = (0..80).map(|_| train(peer.local_addr().unwrap(), 100, 1, 0)).collect();
            assert_eq!(backend.submit(&mut trains).count(), 80, "{kind:?}");
            let mut bytes = [0; 200];
            for _ in 0..80 {
                assert_eq!(peer.recv(&mut bytes).unwrap(), 100);
            }
        });
    }

    #[test]
    fn a_path_without_segmentation_falls_back_to_single_sends() {
        each(|kind| {
            let (mut backend, peer, _) = pair(kind);
            // 100 segments are more than the kernel takes in one send (EINVAL), whatever the path.
            let mut trains = vec![train(peer.local_addr().unwrap(), 20, 200, 0)];
            let sent: Vec<_> = backend.submit(&mut trains).collect();
            assert_eq!(sent[0].outcome, SendOutcome::Unsegmented, "{kind:?}");
            let mut bytes = [0; 200];
            for i in 0..200_u32 {
                assert_eq!((peer.recv(&mut bytes).unwrap(), bytes[0]), (20, i as u8));
            }
            assert_eq!(backend.counters().peers_unsegmented, 1);
        });
    }

    #[test]
    fn a_wake_ends_a_wait_and_a_timeout_does_too() {
        each(|kind| {
            let (mut backend, _peer, wake) = pair(kind);
            let waker = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(30));
                wake.wake();
            });
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(25) {
                backend.wait(Duration::from_secs(5)).unwrap();
            }
            assert!(start.elapsed() < Duration::from_secs(4), "{kind:?}");
            waker.join().unwrap();
            backend.receive(8, &mut |_| {}).unwrap();
            backend.wait(Duration::from_millis(1)).unwrap();
            backend.receive(8, &mut |_| {}).unwrap();
            let start = Instant::now();
            backend.wait(Duration::from_millis(20)).unwrap();
            assert!(start.elapsed() >= Duration::from_millis(15), "{kind:?} {:?}", start.elapsed());
        });
    }
}
