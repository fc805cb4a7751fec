//! One peer connection of the generator: a connected socket, and the keys that open and seal what crosses it. Shared between
//! the thread that receives and the one that publishes.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use auralink_ring::client::prepare_client;
use auralink_rtc::egress::Egress;
use auralink_rtc::peer::Peer;
use auralink_rtc::srtp::{SrtpOpen, SrtpSeal};
use tokio::sync::Notify;

use crate::client::RECEIVE_BUFFER_BYTES;

/// Lost packets a server may ask a publisher for before the publisher looks.
const NACKS_MAX: usize = 4_096;

/// What opens and seals.
pub(crate) enum Keys {
    Peer(Box<Peer>),
    /// Without a handshake: what the floor's sender seals.
    Fixed(Box<SrtpOpen>),
}

impl Keys {
    pub(crate) fn open(&mut self) -> Option<&mut SrtpOpen> {
        match self {
            Self::Peer(peer) => peer.srtp_open(),
            Self::Fixed(open) => Some(open),
        }
    }

    pub(crate) fn seal(&mut self) -> Option<&mut SrtpSeal> {
        match self {
            Self::Peer(peer) => peer.srtp_seal(),
            Self::Fixed(_) => None,
        }
    }
}

/// See the module's description.
pub(crate) struct Link {
    pub(crate) socket: UdpSocket,
    pub(crate) local: SocketAddr,
    pub(crate) server: SocketAddr,
    keys: Mutex<Keys>,
    pub(crate) milestones: Milestones,
    pub(crate) wishes: Wishes,
}

/// What happened to a connection and when (CLOCK_MONOTONIC nanoseconds, 0 for not yet).
#[derive(Debug, Default)]
pub(crate) struct Milestones {
    pub(crate) connected_ns: AtomicU64,
    pub(crate) channel_open_ns: AtomicU64,
    /// The first whole keyframe.
    pub(crate) keyframe_ns: AtomicU64,
    /// The first media packet of any kind.
    pub(crate) media_ns: AtomicU64,
    pub(crate) closed: AtomicBool,
    pub(crate) changed: Notify,
}

impl Milestones {
    pub(crate) fn reach(&self, milestone: &AtomicU64, now_ns: u64) {
        if milestone.compare_exchange(0, now_ns, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.changed.notify_waiters();
        }
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

/// What the server asked of our publisher, from the receiving thread to the publishing one.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// Anything below is set.
    is_any: AtomicBool,
    keyframes: Mutex<Vec<u32>>,
    nacks: Mutex<Vec<(u32, u16)>>,
    pub(crate) keyframes_wanted: AtomicU64,
}

/// SSRCs of which keyframes are wanted, and lost packets.
pub(crate) struct Wished {
    pub(crate) keyframes: Vec<u32>,
    pub(crate) packets: Vec<(u32, u16)>,
}

impl Wishes {
    pub(crate) fn want_keyframe(&self, ssrc: u32) {
        self.keyframes_wanted.fetch_add(1, Ordering::Relaxed);
        let mut keyframes = lock(&self.keyframes);
        if !keyframes.contains(&ssrc) && keyframes.len() < NACKS_MAX {
            keyframes.push(ssrc);
        }
        self.is_any.store(true, Ordering::Release);
    }

    pub(crate) fn want_again(&self, ssrc: u32, lost: impl Iterator<Item = u16>) {
        let mut nacks = lock(&self.nacks);
        let room = NACKS_MAX.saturating_sub(nacks.len());
        nacks.extend(lost.take(room).map(|seq| (ssrc, seq)));
        self.is_any.store(true, Ordering::Release);
    }

    /// Keyframes and packets wanted since the last time.
    pub(crate) fn take(&self) -> Option<Wished> {
        self.is_any.swap(false, Ordering::Acquire).then(|| Wished {
            keyframes: std::mem::take(&mut *lock(&self.keyframes)),
            packets: std::mem::take(&mut *lock(&self.nacks)),
        })
    }
}

impl Link {
    pub(crate) fn new(socket: UdpSocket, keys: Keys) -> Result<Self> {
        prepare_client(&socket, RECEIVE_BUFFER_BYTES).context("cannot prepare a socket")?;
        Ok(Self {
            local: socket.local_addr().context("socket without address")?,
            server: socket.peer_addr().context("socket is not connected")?,
            socket,
            keys: Mutex::new(keys),
            milestones: Milestones::default(),
            wishes: Wishes::default(),
        })
    }

    pub(crate) fn keys(&self) -> MutexGuard<'_, Keys> {
        lock(&self.keys)
    }

    /// Sends what a peer produced. A datagram the socket does not take is lost, as on any network.
    pub(crate) fn flush(&self, egress: &mut Egress) {
        while egress.ready_len() > 0 {
            let trains: Vec<_> = egress.drain().collect();
            for train in trains {
                for datagram in train.datagrams() {
                    let _ = self.socket.send(datagram);
                }
                egress.give_back(train.buffer);
            }
        }
    }
}

/// A socket of our own that talks to `server` only.
pub(crate) fn connect_towards(server: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot bind")?;
    socket.connect(server).with_context(|| format!("no route to {server}"))?;
    Ok(socket)
}

/// A panic of another thread ends the run; what it held is as good as it was.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
