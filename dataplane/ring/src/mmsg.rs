//! The portable back end: `recvmmsg`, `sendmmsg` with `UDP_SEGMENT`, `ppoll`.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;
use std::vec::Drain;

use crate::backend::{Counters, Outgoing, Received, Sent};
use crate::batch::BatchSender;
use crate::control::{RECEIVE_CONTROL_BYTES, RawAddress, parse_control};
use crate::readiness::Readiness;
use crate::socket::raw;
use crate::wake::WakeHandle;

/// Messages taken per `recvmmsg`, each with room for a whole GRO run.
const RECEIVE_BATCH: usize = 32;
const RECEIVE_BYTES: usize = 65_536;

struct ReceiveSlot {
    address: RawAddress,
    control: [u8; RECEIVE_CONTROL_BYTES],
    bytes: Box<[u8]>,
}

pub(crate) struct Mmsg {
    socket: UdpSocket,
    wake: WakeHandle,
    receive_slots: Box<[ReceiveSlot]>,
    sender: BatchSender,
    pub(crate) streams: Option<Arc<Readiness>>,
    pub(crate) counters: Counters,
}

impl Mmsg {
    pub(crate) fn new(socket: UdpSocket, wake: WakeHandle, trains_max: usize) -> Self {
        let receive_slot = || ReceiveSlot {
            address: RawAddress::empty(),
            control: [0; RECEIVE_CONTROL_BYTES],
            bytes: vec![0; RECEIVE_BYTES].into_boxed_slice(),
        };
        Self {
            socket,
            wake,
            receive_slots: (0..RECEIVE_BATCH).map(|_| receive_slot()).collect(),
            sender: BatchSender::new(trains_max),
            streams: None,
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

    pub(crate) fn submit(&mut self, trains: &mut Vec<Outgoing>) -> Drain<'_, Sent> {
        self.sender.submit(raw(&self.socket), trains, &mut self.counters)
    }

    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        // A negative descriptor is passed over (poll(2)).
        let streams = self.streams.as_ref().map_or(-1, |streams| streams.as_raw_fd());
        let mut polled = [raw(&self.socket), self.wake.as_raw_fd(), streams].map(|fd| libc::pollfd {
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
        let ready = unsafe {
            libc::ppoll(polled.as_mut_ptr(), polled.len() as u64, &raw const timeout, std::ptr::null())
        };
        if ready < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return Err(io::Error::last_os_error());
        }
        if polled[1].revents != 0 {
            self.wake.clear();
        }
        Ok(())
    }
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
