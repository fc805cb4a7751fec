//! What a client of very many connected sockets needs of the kernel: batched receives with arrival times, readiness over all
//! sockets, segmented and batched sends, exact clocks. For the load generator; a server's shards use `Backend`.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use crate::control::{RawAddress, SEND_CONTROL_BYTES, parse_control, write_control};
use crate::mmsg::{iovec, message};
use crate::socket::set_option;

/// Datagrams taken per system call: a nine-packet frame in one, and headers that stay in the first-level cache.
const RECEIVE_BATCH: usize = 16;
/// Larger than any datagram of a path with Ethernet's MTU.
const RECEIVE_BYTES: usize = 2_048;
/// Room for timestamp and overflow count.
const RECEIVE_CONTROL_BYTES: usize = 64;
/// Messages given per system call.
const SEND_BATCH: usize = 64;

/// One received datagram.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    pub bytes: &'a [u8],
    /// CLOCK_REALTIME of arrival in the kernel, in nanoseconds.
    pub realtime_ns: Option<u64>,
    /// Datagrams this socket has lost so far because its buffer was full; `None` is none.
    pub overflow: Option<u32>,
}

/// Prepares a client's socket: arrival times, the count of lost datagrams, a receive buffer of this many bytes as far as the
/// system allows. Segments are not merged on receipt (UDP_GRO stays off), so every datagram is read on its own.
pub fn prepare_client(socket: &UdpSocket, receive_buffer_bytes: usize) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    set_option(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
    let bytes = receive_buffer_bytes.min(i32::MAX as usize) as i32;
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
        .or_else(|_| set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes))?;
    socket.set_nonblocking(true)
}

/// Buffers for one `recvmmsg` after another, from any socket.
#[derive(Debug)]
pub struct ReceiveBatch {
    bytes: Box<[[u8; RECEIVE_BYTES]]>,
    controls: Box<[[u8; RECEIVE_CONTROL_BYTES]]>,
    /// Bytes and control bytes of each datagram received last.
    lens: [(usize, usize); RECEIVE_BATCH],
    count: usize,
}

impl Default for ReceiveBatch {
    fn default() -> Self {
        Self {
            bytes: vec![[0; RECEIVE_BYTES]; RECEIVE_BATCH].into_boxed_slice(),
            controls: vec![[0; RECEIVE_CONTROL_BYTES]; RECEIVE_BATCH].into_boxed_slice(),
            lens: [(0, 0); RECEIVE_BATCH],
            count: 0,
        }
    }
}

impl ReceiveBatch {
    /// Takes what waits, up to one batch. `true` when there may be more.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<bool> {
        self.count = 0;
        let mut vectors: [libc::iovec; RECEIVE_BATCH] = std::array::from_fn(|i| iovec(&mut self.bytes[i]));
        let mut headers: [libc::mmsghdr; RECEIVE_BATCH] = std::array::from_fn(|i| {
            let control = (self.controls[i].as_mut_ptr().cast(), RECEIVE_CONTROL_BYTES);
            message(std::ptr::null_mut(), 0, &raw mut vectors[i], control)
        });
        // SAFETY: every header points at vectors and boxed buffers that outlive the call (I1).
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                RECEIVE_BATCH as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            // ECONNREFUSED is an ICMP answer to an earlier send: not this receive's failure.
            return match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR | libc::ECONNREFUSED) => Ok(false),
                _ => Err(error),
            };
        }
        self.count = count as usize;
        for (len, header) in self.lens.iter_mut().zip(&headers).take(self.count) {
            *len = (header.msg_len as usize, header.msg_hdr.msg_controllen);
        }
        Ok(self.count == RECEIVE_BATCH)
    }

    /// What the last [`Self::receive`] took, oldest first.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        (0..self.count).map(|i| {
            let (len, control_len) = self.lens[i];
            let control = parse_control(&self.controls[i][..control_len.min(RECEIVE_CONTROL_BYTES)]);
            let bytes = &self.bytes[i][..len.min(RECEIVE_BYTES)];
            Datagram { bytes, realtime_ns: control.realtime_ns, overflow: control.overflow }
        })
    }
}

/// Readiness of many sockets (epoll, level-triggered).
#[derive(Debug)]
pub struct Readiness {
    epoll: OwnedFd,
    events: Box<[libc::epoll_event]>,
    count: usize,
}

impl Readiness {
    /// `events_max` bounds what one [`Self::wait`] reports.
    pub fn new(events_max: usize) -> io::Result<Self> {
        // SAFETY: epoll_create1 takes no pointers; the result is checked before it is owned.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let empty = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: `fd` was just created and belongs to nobody else.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { epoll, events: vec![empty; events_max.max(1)].into_boxed_slice(), count: 0 })
    }

    /// Reports `socket` as `token` whenever it can be read, until it is closed.
    pub fn add(&self, socket: &UdpSocket, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        // SAFETY: `event` is live for the call; the kernel copies it.
        let result = unsafe {
            libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &raw mut event)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Forgets a socket.
    pub fn remove(&self, socket: &UdpSocket) {
        // SAFETY: removing takes no event. A socket that was never added is refused, which changes nothing.
        unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_DEL,
                socket.as_raw_fd(),
                std::ptr::null_mut(),
            )
        };
    }

    /// Waits at most `timeout`, in whole milliseconds, for a socket that can be read.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.count = 0;
        let timeout = timeout.as_millis().min(1_000) as i32;
        let max = self.events.len().min(i32::MAX as usize) as i32;
        // SAFETY: `events` is writable for `max` entries.
        let count =
            unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), self.events.as_mut_ptr(), max, timeout) };
        if count < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return Err(io::Error::last_os_error());
        }
        self.count = count.max(0) as usize;
        Ok(())
    }

    /// How many sockets the last wait reported.
    pub fn ready(&self) -> usize {
        self.count
    }

    /// The token of one of them.
    pub fn token(&self, index: usize) -> Option<u64> {
        self.events[..self.count].get(index).map(|event| event.u64)
    }
}

/// An address in the kernel's own form, made once.
pub struct Destination(RawAddress);

impl std::fmt::Debug for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Destination").field(&self.0.parse()).finish()
    }
}

impl From<SocketAddr> for Destination {
    fn from(address: SocketAddr) -> Self {
        Self(RawAddress::from(address))
    }
}

/// Datagrams of `segment` bytes back to back to one destination, or, without `segment`, one datagram.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// `None` on a connected socket.
    pub to: Option<&'a Destination>,
    pub bytes: &'a [u8],
    pub segment: Option<u16>,
}

impl Message<'_> {
    fn header(&self, vector: &mut libc::iovec, control: &mut [u8; SEND_CONTROL_BYTES]) -> libc::mmsghdr {
        // The kernel only reads through these pointers, although msghdr has no const form.
        *vector = libc::iovec { iov_base: self.bytes.as_ptr().cast_mut().cast(), iov_len: self.bytes.len() };
        let control_len = if self.segment.is_some() { write_control(control, None, self.segment) } else { 0 };
        let (name, name_len) = match self.to {
            Some(to) => (to.0.as_ptr().cast_mut().cast(), to.0.len()),
            None => (std::ptr::null_mut(), 0),
        };
        message(name, name_len, vector, (control.as_mut_ptr().cast(), control_len))
    }
}

/// Sends one message with one `sendmsg`.
pub fn send_message(socket: &UdpSocket, sent: &Message<'_>) -> io::Result<()> {
    let mut vector = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let mut control = [0; SEND_CONTROL_BYTES];
    let header = sent.header(&mut vector, &mut control);
    // SAFETY: the header points at locals and at borrowed bytes, all live for the call.
    let result = unsafe {
        libc::sendmsg(socket.as_raw_fd(), &raw const header.msg_hdr, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends messages with as few `sendmmsg` as they need; how many the kernel took, in order from the first. The error of the
/// first refused one is given only when none was taken.
pub fn send_batch(socket: &UdpSocket, messages: &[Message<'_>]) -> io::Result<usize> {
    let mut taken = 0;
    for batch in messages.chunks(SEND_BATCH) {
        let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; SEND_BATCH];
        let mut controls = [[0; SEND_CONTROL_BYTES]; SEND_BATCH];
        let mut headers: [libc::mmsghdr; SEND_BATCH] = std::array::from_fn(|i| match batch.get(i) {
            Some(sent) => sent.header(&mut vectors[i], &mut controls[i]),
            None => message(std::ptr::null_mut(), 0, std::ptr::null_mut(), (std::ptr::null_mut(), 0)),
        });
        // SAFETY: the first `batch.len()` headers point at locals and at borrowed bytes, all live for the call.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                batch.len() as u32,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        if sent < 0 && taken == 0 {
            return Err(io::Error::last_os_error());
        }
        taken += sent.max(0) as usize;
        if sent < batch.len() as i32 {
            break;
        }
    }
    Ok(taken)
}

/// CLOCK_MONOTONIC, one for all processes of the machine.
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC).unwrap_or_default()
}

/// CLOCK_REALTIME, the clock of arrival times.
pub fn realtime_ns() -> u64 {
    clock_ns(libc::CLOCK_REALTIME).unwrap_or_default()
}

/// User and system time of the calling thread.
pub fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or_default()
}

/// User and system time of all threads of a process, those that ended too, to the nanosecond.
pub fn process_cpu_ns(pid: u32) -> io::Result<u64> {
    // clock_getcpuclockid(3): the process in the upper bits, inverted; 2 is the scheduler's own clock.
    let id = (!(pid as i32)).checked_mul(8).ok_or(io::ErrorKind::InvalidInput)? | 2;
    clock_ns(id)
}

fn clock_ns(id: libc::clockid_t) -> io::Result<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is live for the call.
    if unsafe { libc::clock_gettime(id, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Puts the calling thread before all ordinary ones and its timers on time; `false` when the system does not allow that.
pub fn run_first() -> bool {
    let parameter = libc::sched_param { sched_priority: 1 };
    // SAFETY: prctl with integer arguments only; `parameter` is live for the call; 0 means this thread.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0);
        libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) == 0
    }
}

/// Raises the limit of open descriptors as far as the system allows, and says where it is.
pub fn raise_descriptor_limit(wanted: u64) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is live for the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 0;
    }
    for max in [limit.rlim_max.max(wanted), limit.rlim_max] {
        let raised = libc::rlimit { rlim_cur: wanted.min(max).max(limit.rlim_cur), rlim_max: max };
        // SAFETY: `raised` is live for the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            return raised.rlim_cur;
        }
    }
    limit.rlim_cur
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UdpSocket, UdpSocket) {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.connect(sender.local_addr().unwrap()).unwrap();
        prepare_client(&receiver, 1 << 20).unwrap();
        (receiver, sender)
    }

    #[test]
    fn a_train_is_read_as_single_datagrams_with_their_arrival() {
        let (receiver, sender) = pair();
        let mut readiness = Readiness::new(4).unwrap();
        readiness.add(&receiver, 7).unwrap();
        let to = Destination::from(receiver.local_addr().unwrap());
        let before = realtime_ns();
        let bytes: Vec<u8> = (0..20 * 100).map(|i| (i / 100) as u8).collect();
        send_message(&sender, &Message { to: Some(&to), bytes: &bytes, segment: Some(100) }).unwrap();
        readiness.wait(Duration::from_secs(1)).unwrap();
        assert_eq!((readiness.ready(), readiness.token(0), readiness.token(1)), (1, Some(7), None));
        let mut batch = ReceiveBatch::default();
        assert!(batch.receive(&receiver).unwrap());
        for (i, datagram) in batch.datagrams().enumerate() {
            assert_eq!((datagram.bytes, datagram.overflow), (&[i as u8; 100][..], None));
            assert!((before..=realtime_ns()).contains(&datagram.realtime_ns.unwrap()));
        }
        assert!(!batch.receive(&receiver).unwrap());
        assert_eq!(batch.datagrams().count(), 4);
        assert!(!batch.receive(&receiver).unwrap());
        assert_eq!(batch.datagrams().count(), 0);
    }

    #[test]
    fn a_full_socket_tells_how_much_it_lost() {
        let (receiver, sender) = pair();
        set_option(receiver.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 1).unwrap();
        let to = receiver.local_addr().unwrap();
        let mut batch = ReceiveBatch::default();
        let mut overflow = 0;
        for _ in 0..3 {
            (0..50).for_each(|_| drop(sender.send_to(&[1; 1_000], to)));
            while {
                let more = batch.receive(&receiver).unwrap();
                overflow = batch.datagrams().filter_map(|d| d.overflow).fold(overflow, u32::max);
                more
            } {}
        }
        assert!((50..150).contains(&overflow), "{overflow}");
    }

    #[test]
    fn a_batch_larger_than_one_call_arrives_in_order() {
        let (receiver, sender) = pair();
        let to = Destination::from(receiver.local_addr().unwrap());
        let bytes: Vec<[u8; 2]> = (0..100_u16).map(u16::to_be_bytes).collect();
        let messages: Vec<_> =
            bytes.iter().map(|bytes| Message { to: Some(&to), bytes, segment: None }).collect();
        assert_eq!(send_batch(&sender, &messages).unwrap(), 100);
        let mut got = Vec::new();
        let mut batch = ReceiveBatch::default();
        while got.len() < 100 {
            batch.receive(&receiver).unwrap();
            got.extend(batch.datagrams().map(|d| d.bytes.to_vec()));
        }
        assert_eq!(got, bytes);
    }

    #[test]
    fn clocks_rise_with_what_they_measure() {
        let pid = std::process::id();
        let before = (monotonic_ns(), thread_cpu_ns(), process_cpu_ns(pid).unwrap());
        // The sum over a process may lag behind its threads' own clocks by a tick or two.
        while process_cpu_ns(pid).unwrap() < before.2 + 2_000_000 {
            assert!(
                thread_cpu_ns() < before.1 + 1_000_000_000,
                "a second of work is not in the process's time"
            );
        }
        while thread_cpu_ns() < before.1 + 2_000_000 {}
        assert!(monotonic_ns() >= before.0 + 2_000_000);
        assert!(process_cpu_ns(u32::MAX >> 5).is_err());
    }
}
