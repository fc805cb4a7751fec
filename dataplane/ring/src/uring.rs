//! The io_uring back end: one multishot `recvmsg` over a provided-buffer ring, `sendmsg` with `UDP_SEGMENT`, one enter per
//! turn. Needs kernel 6.1 (multishot receive, DEFER_TASKRUN); [`probe`] says whether it is there and allowed.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use io_uring::types::{Fd, Fixed, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::backend::{Counters, Outgoing, Received, SendOutcome, Sent, Sizes, outcome};
use crate::control::{
    RECEIVE_CONTROL_BYTES, RawAddress, SEND_CONTROL_BYTES, parse_address, parse_control, write_control,
};
use crate::mmsg::{UNSEGMENTED_MAX, count_outcome, send_singly};
use crate::socket::raw;
use crate::wake::WakeHandle;

mod pool;
use pool::{BUFFER_GROUP, Pool};

/// Submission entries: a batch of trains, the receive and the wake poll.
const ENTRIES: u32 = 256;
/// The socket's place among the registered files: the kernel need not look it up at each operation.
const SOCKET: Fixed = Fixed(0);

/// What a completion is about, in its `user_data`; smaller values are send slots.
const RECEIVE: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;

/// One send in the kernel's hands. Boxed in one slice for its whole life (I1).
struct Slot {
    header: libc::msghdr,
    vector: libc::iovec,
    address: RawAddress,
    control: [u8; SEND_CONTROL_BYTES],
    train: Option<Outgoing>,
}

pub(crate) struct Uring {
    ring: IoUring,
    socket: UdpSocket,
    wake: WakeHandle,
    /// Read by the kernel at each receive; only its lengths matter.
    receive_header: Box<libc::msghdr>,
    pool: Pool,
    slots: Box<[Slot]>,
    free: Vec<usize>,
    unsegmented: HashSet<SocketAddr>,
    receive_armed: bool,
    wake_armed: bool,
    arrived: VecDeque<cqueue::Entry>,
    pub(crate) returned: Vec<Sent>,
    pub(crate) counters: Counters,
}

fn build(entries: u32, completions: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .setup_cqsize(completions)
        .build(entries)
}

/// Builds and drops a ring with a registered buffer ring, and arms nothing.
pub(crate) fn probe() -> io::Result<()> {
    let ring = build(8, 16)?;
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let supported = [opcode::RecvMsgMulti::CODE, opcode::SendMsg::CODE, opcode::PollAdd::CODE]
        .into_iter()
        .all(|code| probe.is_supported(code));
    if !supported {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring lacks recvmsg, sendmsg or poll"));
    }
    Pool::new(&ring, 8).map(drop)
}

impl Uring {
    pub(crate) fn new(socket: UdpSocket, wake: WakeHandle, sizes: Sizes) -> io::Result<Self> {
        let Sizes { trains_max, receive_buffers } = sizes;
        // Every receive buffer and every train may complete in one turn, and the ends of receive, wake and cancel.
        let completions = (u32::from(receive_buffers) + trains_max as u32 + 4).next_power_of_two();
        let ring = build(ENTRIES, completions.max(2 * ENTRIES))?;
        ring.submitter().register_files(&[raw(&socket)])?;
        let pool = Pool::new(&ring, receive_buffers)?;
        // SAFETY: msghdr is plain integers and pointers; all zeroes is valid.
        let mut receive_header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        receive_header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        receive_header.msg_controllen = RECEIVE_CONTROL_BYTES;
        let slot = || Slot {
            // SAFETY: as above.
            header: unsafe { std::mem::zeroed() },
            vector: libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 },
            address: RawAddress::empty(),
            control: [0; SEND_CONTROL_BYTES],
            train: None,
        };
        Ok(Self {
            ring,
            socket,
            wake,
            receive_header,
            pool,
            slots: (0..trains_max).map(|_| slot()).collect(),
            free: (0..trains_max).rev().collect(),
            unsegmented: HashSet::new(),
            receive_armed: false,
            wake_armed: false,
            arrived: VecDeque::with_capacity(usize::from(receive_buffers) + 1),
            returned: Vec::with_capacity(trains_max),
            counters: Counters::default(),
        })
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn receive(
        &mut self,
        messages_max: usize,
        on_message: &mut dyn FnMut(&Received<'_>),
    ) -> io::Result<usize> {
        self.arm();
        // What a submit has brought along already is worth a system call less.
        if self.arrived.is_empty() || !self.ring.submission().is_empty() {
            self.enter(0, None)?;
            self.reap();
        }
        let mut messages = 0;
        while messages < messages_max {
            let Some(completion) = self.arrived.pop_front() else { break };
            messages += usize::from(self.received(&completion, on_message)?);
        }
        self.pool.publish();
        self.counters.messages_received += messages as u64;
        Ok(messages)
    }

    pub(crate) fn submit(&mut self, trains: &mut Vec<Outgoing>) -> io::Result<()> {
        let mut taken = 0;
        for train in trains.iter_mut() {
            if train.is_train() && self.unsegmented.contains(&train.to) {
                let outcome = send_singly(raw(&self.socket), train, &mut self.counters);
                count_outcome(&mut self.counters, outcome);
                let buffer = std::mem::take(&mut train.buffer);
                self.returned.push(Sent { buffer, outcome });
                taken += 1;
                continue;
            }
            let Some(index) = self.free.pop() else { break };
            let entry = self.slots[index].load(train, index);
            self.push(&entry)?;
            taken += 1;
        }
        trains.drain(..taken);
        self.enter(0, None)?;
        self.reap();
        Ok(())
    }

    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.arm();
        self.reap();
        if self.arrived.is_empty() && self.returned.is_empty() {
            self.enter(1, Some(timeout))?;
            self.reap();
        }
        Ok(())
    }

    /// Keeps the multishot receive and the wake poll armed: the kernel ends them when buffers or completions run out.
    fn arm(&mut self) {
        if !self.receive_armed {
            let header = &raw const *self.receive_header;
            let entry = opcode::RecvMsgMulti::new(SOCKET, header, BUFFER_GROUP).build();
            self.receive_armed = self.push(&entry.user_data(RECEIVE)).is_ok();
        }
        if !self.wake_armed {
            let entry =
                opcode::PollAdd::new(Fd(self.wake.as_raw_fd()), libc::POLLIN as u32).multi(true).build();
            self.wake_armed = self.push(&entry.user_data(WAKE)).is_ok();
        }
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: an entry names only `receive_header` and slots, which live in boxes until the ring is drained (I1, I3),
        // and a slot's train buffer, which the slot owns until its completion (I2).
        if unsafe { self.ring.submission().push(entry) }.is_err() {
            self.enter(0, None)?;
            // SAFETY: as above.
            unsafe { self.ring.submission().push(entry) }
                .map_err(|_| io::Error::from(io::ErrorKind::WouldBlock))?;
        }
        Ok(())
    }

    /// Submits what is queued and lets deferred completions run; waits for `want` of them up to `timeout`.
    fn enter(&mut self, want: usize, timeout: Option<Duration>) -> io::Result<()> {
        self.counters.syscalls += 1;
        let timespec = timeout.map(Timespec::from);
        let result = match &timespec {
            Some(timespec) => {
                self.ring.submitter().submit_with_args(want, &SubmitArgs::new().timespec(timespec))
            }
            None => self.ring.submit_and_wait(want),
        };
        match result.map_err(|error| error.raw_os_error()) {
            Ok(_) | Err(Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) => Ok(()),
            Err(errno) => Err(io::Error::from_raw_os_error(errno.unwrap_or(libc::EIO))),
        }
    }

    /// Takes every completion: sends are settled, arrivals wait for [`Self::receive`].
    fn reap(&mut self) {
        loop {
            let Some(completion) = self.ring.completion().next() else { return };
            match completion.user_data() {
                // At most one per buffer of the pool and one that ends the receive: the queue never grows.
                RECEIVE => self.arrived.push_back(completion),
                WAKE => {
                    self.wake.clear();
                    self.wake_armed &= cqueue::more(completion.flags());
                }
                slot => self.sent(slot as usize, completion.result()),
            }
        }
    }

    /// Hands out one received message and gives its buffer back to the pool.
    fn received(
        &mut self,
        completion: &cqueue::Entry,
        on_message: &mut dyn FnMut(&Received<'_>),
    ) -> io::Result<bool> {
        self.receive_armed &= cqueue::more(completion.flags());
        if completion.result() < 0 {
            return match -completion.result() {
                libc::ENOBUFS => {
                    self.counters.pool_empty += 1;
                    Ok(false)
                }
                // ECONNREFUSED is an ICMP answer to an earlier send: not this receive's failure.
                libc::EAGAIN | libc::EINTR | libc::ECONNREFUSED | libc::ECANCELED => Ok(false),
                errno => Err(io::Error::from_raw_os_error(errno)),
            };
        }
        let Some(id) = cqueue::buffer_select(completion.flags()) else { return Ok(false) };
        let bytes = self.pool.bytes(id, completion.result() as usize);
        let handed = RecvMsgOut::parse(bytes, &self.receive_header).ok().and_then(|message| {
            let control = parse_control(message.control_data());
            let from = parse_address(message.name_data())?;
            let bytes = Some(message.payload_data()).filter(|bytes| !bytes.is_empty())?;
            if let Some(overflow) = control.overflow {
                self.counters.kernel_overflow = u64::from(overflow);
            }
            let segment = control.segment.map_or(bytes.len(), usize::from);
            on_message(&Received { from, to: control.to, segment, realtime_ns: control.realtime_ns, bytes });
            Some(())
        });
        self.pool.recycle(id);
        Ok(handed.is_some())
    }

    /// A send is over: its buffer goes back, and a refused segmentation is made up for at once.
    fn sent(&mut self, index: usize, result: i32) {
        let Some(train) = self.slots.get_mut(index).and_then(|slot| slot.train.take()) else { return };
        self.free.push(index);
        let mut outcome = outcome((-result).max(0));
        if outcome == SendOutcome::Unsegmented {
            if train.is_train()
                && self.unsegmented.len() < UNSEGMENTED_MAX
                && self.unsegmented.insert(train.to)
            {
                self.counters.peers_unsegmented += 1;
            }
            outcome = send_singly(raw(&self.socket), &train, &mut self.counters);
        }
        count_outcome(&mut self.counters, outcome);
        self.returned.push(Sent { buffer: train.buffer, outcome });
    }
}

impl Slot {
    /// Takes the train over and describes its send.
    fn load(&mut self, train: &mut Outgoing, index: usize) -> squeue::Entry {
        let segment = train.is_train().then_some(train.segment);
        let control_len = write_control(&mut self.control, train.from, segment);
        let buffer = std::mem::take(&mut train.buffer);
        let mut train = Outgoing { buffer, ..*train };
        self.address = RawAddress::from(train.to);
        self.vector = libc::iovec { iov_base: train.buffer.as_mut_ptr().cast(), iov_len: train.len as usize };
        self.header.msg_name = self.address.as_mut_ptr();
        self.header.msg_namelen = self.address.len();
        self.header.msg_iov = &raw mut self.vector;
        self.header.msg_iovlen = 1;
        self.header.msg_control =
            if control_len == 0 { std::ptr::null_mut() } else { self.control.as_mut_ptr().cast() };
        self.header.msg_controllen = control_len;
        self.train = Some(train);
        let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32;
        opcode::SendMsg::new(SOCKET, &raw const self.header).flags(flags).build().user_data(index as u64)
    }
}

impl Drop for Uring {
    /// I3: the receive is cancelled and every send completed before pool, slots and buffers are freed.
    fn drop(&mut self) {
        let cancel = opcode::AsyncCancel::new(RECEIVE).build().user_data(u64::MAX - 2);
        let _ = self.push(&cancel);
        for _ in 0..100 {
            let _ = self.enter(0, None);
            self.reap();
            self.receive_armed &= self.arrived.drain(..).all(|completion| cqueue::more(completion.flags()));
            if self.in_flight() == 0 && !self.receive_armed {
                // The kernel takes a ring down some time after it is closed; its port should be free at once.
                let _ = self.ring.submitter().unregister_files();
                return;
            }
            let _ = self.enter(1, Some(Duration::from_millis(10)));
        }
        tracing::error!(in_flight = self.in_flight(), "ring did not drain; its memory is leaked");
        std::mem::forget(std::mem::take(&mut self.slots));
        self.pool.leak();
    }
}
