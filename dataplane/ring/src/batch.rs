//! Sending trains: `sendmmsg` with `UDP_SEGMENT`, for both back ends.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::vec::Drain;

use crate::backend::{Counters, Outgoing, SendOutcome, Sent, outcome};
use crate::control::{RawAddress, SEND_CONTROL_BYTES, write_control};
use crate::mmsg::{iovec, message};

/// Trains given per `sendmmsg`.
const SEND_BATCH: usize = 32;
/// Peers remembered as taking no segmented sends.
const UNSEGMENTED_MAX: usize = 4_096;

struct Slot {
    address: RawAddress,
    control: [u8; SEND_CONTROL_BYTES],
}

/// Room for one batch, and what is known of peers.
pub(crate) struct BatchSender {
    slots: Box<[Slot]>,
    unsegmented: HashSet<SocketAddr>,
    sent: Vec<Sent>,
}

impl BatchSender {
    /// For `trains_max` trains at a time without allocating.
    pub(crate) fn new(trains_max: usize) -> Self {
        let slot = || Slot { address: RawAddress::empty(), control: [0; SEND_CONTROL_BYTES] };
        Self {
            slots: (0..SEND_BATCH).map(|_| slot()).collect(),
            unsegmented: HashSet::new(),
            sent: Vec::with_capacity(trains_max),
        }
    }

    /// Sends everything; what became of each train, with its buffer.
    pub(crate) fn submit(
        &mut self,
        fd: RawFd,
        trains: &mut Vec<Outgoing>,
        counters: &mut Counters,
    ) -> Drain<'_, Sent> {
        while !trains.is_empty() {
            let count = trains.len().min(SEND_BATCH);
            let sent = self.send_batch(fd, &mut trains[..count], counters);
            for train in trains.drain(..sent) {
                counters.trains_sent += 1;
                self.sent.push(Sent { buffer: train.buffer, outcome: SendOutcome::Sent });
            }
            if sent < count && !trains.is_empty() {
                // The first one left is the one the kernel refused; its errno comes from sending it alone.
                let train = trains.remove(0);
                let outcome = self.send_alone(fd, &train, counters);
                self.sent.push(Sent { buffer: train.buffer, outcome });
            }
        }
        self.sent.drain(..)
    }

    /// One `sendmmsg`; how many trains from the front it took.
    fn send_batch(&mut self, fd: RawFd, trains: &mut [Outgoing], counters: &mut Counters) -> usize {
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
            let slot = &mut self.slots[i];
            slot.address = RawAddress::from(train.to);
            let segment = train.is_train().then_some(train.segment);
            let control_len = write_control(&mut slot.control, train.from, segment);
            vectors[i] = iovec(&mut train.buffer[..train.len as usize]);
            let control = (slot.control.as_mut_ptr().cast(), control_len);
            headers[i] = message(slot.address.as_mut_ptr(), slot.address.len(), &raw mut vectors[i], control);
        }
        counters.syscalls += 1;
        // SAFETY: every header points at slots, vectors and train buffers that outlive the call (I1, I2).
        let sent = unsafe {
            libc::sendmmsg(fd, headers.as_mut_ptr(), count as u32, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
        };
        sent.max(0) as usize
    }

    /// Sends one train whole or, where that is refused or known to be, datagram by datagram.
    fn send_alone(&mut self, fd: RawFd, train: &Outgoing, counters: &mut Counters) -> SendOutcome {
        let known = self.unsegmented.contains(&train.to);
        let mut result = SendOutcome::Unsegmented;
        if !(known && train.is_train()) {
            counters.syscalls += 1;
            result = outcome(send_one(fd, train, 0, train.len as usize, train.is_train()));
        }
        if result == SendOutcome::Unsegmented {
            if !known && train.is_train() && self.unsegmented.len() < UNSEGMENTED_MAX {
                self.unsegmented.insert(train.to);
                counters.peers_unsegmented += 1;
            }
            result = send_singly(fd, train, counters);
        }
        count_outcome(counters, result);
        result
    }
}

fn count_outcome(counters: &mut Counters, outcome: SendOutcome) {
    match outcome {
        SendOutcome::Sent | SendOutcome::Unsegmented => counters.trains_sent += 1,
        SendOutcome::Full => counters.trains_full += 1,
        SendOutcome::Failed(_) => counters.trains_failed += 1,
    }
}

/// Sends a train's datagrams one by one: `Unsegmented` if the last was taken, else why not.
fn send_singly(fd: RawFd, train: &Outgoing, counters: &mut Counters) -> SendOutcome {
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
