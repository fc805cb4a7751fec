//! The portable back end: `recvmmsg`, `sendmmsg` with `UDP_SEGMENT`, `ppoll`.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::RawFd;
use std::time::Duration;

use crate::backend::{Counters, Outgoing, Received, SendOutcome, Sent, outcome};
use crate::control::{RECEIVE_CONTROL_BYTES, RawAddress, SEND_CONTROL_BYTES, parse_control, write_control};
use crate::socket::raw;
use crate::wake::WakeHandle;

/// Messages taken per `recvmmsg`, each with room for a whole GRO run.
const RECEIVE_BATCH: usize = 32;
const RECEIVE_BYTES: usize = 65_536;
/// Trains given per `sendmmsg`.
const SEND_BATCH: usize = 32;
/// Peers remembered as taking no segmented sends.
pub(crate) const UNSEGMENTED_MAX: usize = 4_096;

struct ReceiveSlot {
    address: RawAddress,
    control: [u8; RECEIVE_CONTROL_BYTES],
    bytes: Box<[u8]>,
}

struct SendSlot {
    address: RawAddress,
    control: [u8; SEND_CONTROL_BYTES],
}

pub(crate) struct Mmsg {
    socket: UdpSocket,
    wake: WakeHandle,
    receive_slots: Box<[ReceiveSlot]>,
    send_slots: Box<[SendSlot]>,
    unsegmented: HashSet<SocketAddr>,
    pub(crate) returned: Vec<Sent>,
    pub(crate) counters: Counters,
}

impl Mmsg {
    pub(crate) fn new(socket: UdpSocket, wake: WakeHandle, trains_max: usize) -> Self {
        let receive_slot = || ReceiveSlot {
            address: RawAddress::empty(),
            control: [0; RECEIVE_CONTROL_BYTES],
            bytes: vec![0; RECEIVE_BYTES].into_boxed_slice(),
        };
        let send_slot = || SendSlot { address: RawAddress::empty(), control: [0; SEND_CONTROL_BYTES] };
        Self {
            socket,
            wake,
            receive_slots: (0..RECEIVE_BATCH).map(|_| receive_slot()).collect(),
            send_slots: (0..SEND_BATCH).map(|_| send_slot()).collect(),
            unsegmented: HashSet::new(),
            returned: Vec::with_capacity(trains_max),
            counters: Counters::default(),
        }
    }

    pub(crate) fn receive(
        &mut self,
        messages_max: usize,
        on_message: &mut dyn FnMut(&Received<'_>),
    ) -> io::Result<usize> {
        let mut total = 0;
        while total < messages_max {
            let count = self.receive_batch()?;
            for index in 0..count.0 {
                self.hand_out(index, count.1[index], on_message);
            }
            total += count.0;
            if count.0 < RECEIVE_BATCH {
                break;
            }
        }
        self.counters.messages_received += total as u64;
        Ok(total)
    }

    /// One `recvmmsg`; how many messages, and of each its length and the length of its control data.
    fn receive_batch(&mut self) -> io::Result<(usize, [(usize, usize); RECEIVE_BATCH])> {
        let mut lens = [(0, 0); RECEIVE_BATCH];
        let mut vectors: [libc::iovec; RECEIVE_BATCH] =
            std::array::from_fn(|i| iovec(&mut self.receive_slots[i].bytes));
        let mut headers: [libc::mmsghdr; RECEIVE_BATCH] = std::array::from_fn(|i| {
            let slot = &mut self.receive_slots[i];
            let address_len = size_of::<libc::sockaddr_storage>() as u32;
            let control = (slot.control.as_mut_ptr().cast(), RECEIVE_CONTROL_BYTES);
            message(slot.address.as_mut_ptr(), address_len, &raw mut vectors[i], control)
        });
        self.counters.syscalls += 1;
        // SAFETY: every header points at slots, vectors and control buffers that outlive the call (I1).
        let count = unsafe {
            libc::recvmmsg(
                raw(&self.socket),
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
                Some(libc::EAGAIN | libc::EINTR | libc::ECONNREFUSED) => Ok((0, lens)),
                _ => Err(error),
            };
        }
        for (len, header) in lens.iter_mut().zip(&headers).take(count as usize) {
            *len = (header.msg_len as usize, header.msg_hdr.msg_controllen);
        }
        Ok((count as usize, lens))
    }

    fn hand_out(&mut self, index: usize, lens: (usize, usize), on_message: &mut dyn FnMut(&Received<'_>)) {
        let slot = &self.receive_slots[index];
        let control = parse_control(&slot.control[..lens.1.min(RECEIVE_CONTROL_BYTES)]);
        if let Some(overflow) = control.overflow {
            self.counters.kernel_overflow = u64::from(overflow);
        }
        let bytes = &slot.bytes[..lens.0.min(RECEIVE_BYTES)];
        let Some(from) = slot.address.parse().filter(|_| !bytes.is_empty()) else { return };
        let segment = control.segment.map_or(bytes.len(), usize::from);
        on_message(&Received { from, to: control.to, segment, realtime_ns: control.realtime_ns, bytes });
    }

    pub(crate) fn submit(&mut self, trains: &mut Vec<Outgoing>) -> io::Result<()> {
        while !trains.is_empty() {
            let count = trains.len().min(SEND_BATCH);
            let sent = self.send_batch(&mut trains[..count]);
            for train in trains.drain(..sent) {
                self.counters.trains_sent += 1;
                self.returned.push(Sent { buffer: train.buffer, outcome: SendOutcome::Sent });
            }
            if sent < count && !trains.is_empty() {
                // The first one left is the one the kernel refused; its errno comes from sending it alone.
                let train = trains.remove(0);
                self.send_alone(train);
            }
        }
        Ok(())
    }

    /// One `sendmmsg`; how many trains from the front it took.
    fn send_batch(&mut self, trains: &mut [Outgoing]) -> usize {
        let singles = trains.iter().position(|t| t.is_train() && self.unsegmented.contains(&t.to));
        let count = singles.unwrap_or(trains.len());
        if count == 0 {
            return 0;
        }
        let mut vectors: [libc::iovec; SEND_BATCH] =
            [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; SEND_BATCH];
        let mut headers: [libc::mmsghdr; SEND_BATCH] = std::array::from_fn(|_| {
            message(std::ptr::null_mut(), 0, std::ptr::null_mut(), (std::ptr::null_mut(), 0))
        });
        for (i, train) in trains[..count].iter_mut().enumerate() {
            let slot = &mut self.send_slots[i];
            slot.address = RawAddress::from(train.to);
            let segment = train.is_train().then_some(train.segment);
            let control_len = write_control(&mut slot.control, train.from, segment);
            vectors[i] = iovec(&mut train.buffer[..train.len as usize]);
            let control = (slot.control.as_mut_ptr().cast(), control_len);
            headers[i] = message(slot.address.as_mut_ptr(), slot.address.len(), &raw mut vectors[i], control);
        }
        self.counters.syscalls += 1;
        // SAFETY: every header points at slots, vectors and train buffers that outlive the call (I1, I2).
        let sent = unsafe {
            libc::sendmmsg(
                raw(&self.socket),
                headers.as_mut_ptr(),
                count as u32,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        sent.max(0) as usize
    }

    /// Sends one train whole or, where that is refused or known to be, datagram by datagram.
    fn send_alone(&mut self, train: Outgoing) {
        let known = self.unsegmented.contains(&train.to);
        let mut result = SendOutcome::Unsegmented;
        if !(known && train.is_train()) {
            self.counters.syscalls += 1;
            result = outcome(send_one(raw(&self.socket), &train, 0, train.len as usize, train.is_train()));
        }
        if result == SendOutcome::Unsegmented {
            if !known && train.is_train() && self.unsegmented.len() < UNSEGMENTED_MAX {
                self.unsegmented.insert(train.to);
                self.counters.peers_unsegmented += 1;
            }
            result = send_singly(raw(&self.socket), &train, &mut self.counters);
        }
        count_outcome(&mut self.counters, result);
        self.returned.push(Sent { buffer: train.buffer, outcome: result });
    }

    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let mut polled = [raw(&self.socket), self.wake.as_raw_fd()].map(|fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        });
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
        };
        self.counters.syscalls += 1;
        // SAFETY: both arguments are live for the call.
        let ready = unsafe { libc::ppoll(polled.as_mut_ptr(), 2, &raw const timeout, std::ptr::null()) };
        if ready < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return Err(io::Error::last_os_error());
        }
        if polled[1].revents != 0 {
            self.wake.clear();
        }
        Ok(())
    }
}

pub(crate) fn count_outcome(counters: &mut Counters, outcome: SendOutcome) {
    match outcome {
        SendOutcome::Sent | SendOutcome::Unsegmented => counters.trains_sent += 1,
        SendOutcome::Full => counters.trains_full += 1,
        SendOutcome::Failed(_) => counters.trains_failed += 1,
    }
}

/// Sends a train's datagrams one by one: `Unsegmented` if the last was taken, else why not.
pub(crate) fn send_singly(fd: RawFd, train: &Outgoing, counters: &mut Counters) -> SendOutcome {
    let mut at = 0;
    while at < train.len as usize {
        let end = (at + usize::from(train.segment.max(1))).min(train.len as usize);
        counters.syscalls += 1;
        match outcome(send_one(fd, train, at, end, false)) {
            SendOutcome::Sent => {}
            // A single datagram that is refused for its size has nothing left to fall back to.
            SendOutcome::Unsegmented => return SendOutcome::Failed(libc::EMSGSIZE),
            other => return other,
        }
        at = end;
    }
    SendOutcome::Unsegmented
}

/// One `sendmsg` of `train.buffer[start..end]`; 0 or the errno.
fn send_one(fd: RawFd, train: &Outgoing, start: usize, end: usize, segmented: bool) -> i32 {
    let mut address = RawAddress::from(train.to);
    let mut control = [0; SEND_CONTROL_BYTES];
    let control_len = write_control(&mut control, train.from, segmented.then_some(train.segment));
    // The kernel only reads through this pointer, although iovec has no const form.
    let mut vector =
        libc::iovec { iov_base: train.buffer[start..end].as_ptr().cast_mut().cast(), iov_len: end - start };
    let control = (control.as_mut_ptr().cast(), control_len);
    let header = message(address.as_mut_ptr(), address.len(), &raw mut vector, control);
    // SAFETY: the header points at locals and at the train's buffer, all live for the call.
    let sent =
        unsafe { libc::sendmsg(fd, &raw const header.msg_hdr, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    if sent < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) } else { 0 }
}

pub(crate) fn iovec(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

pub(crate) fn message(
    name: *mut libc::c_void,
    name_len: libc::socklen_t,
    vector: *mut libc::iovec,
    control: (*mut libc::c_void, usize),
) -> libc::mmsghdr {
    // SAFETY: msghdr is plain integers and pointers; zero is valid and leaves its padding defined.
    let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
    header.msg_hdr.msg_name = name;
    header.msg_hdr.msg_namelen = name_len;
    header.msg_hdr.msg_iov = vector;
    header.msg_hdr.msg_iovlen = 1;
    header.msg_hdr.msg_control = if control.1 == 0 { std::ptr::null_mut() } else { control.0 };
    header.msg_hdr.msg_controllen = control.1;
    header
}
