//! The io_uring back end: one multishot `recvmsg` over a provided-buffer ring, and `sendmmsg` for what goes out, which is cheaper
//! than a submission entry for each train (docs/adr/0007). Needs kernel 6.1 (multishot receive, DEFER_TASKRUN); [`probe`]
//! says whether it is there and allowed.

use std::collections::VecDeque;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;
use std::vec::Drain;

use io_uring::types::{Fd, Fixed, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::backend::{Counters, Outgoing, Received, Sent, Sizes};
use crate::batch::BatchSender;
use crate::control::{RECEIVE_CONTROL_BYTES, parse_address, parse_control};
use crate::readiness::Readiness;
use crate::socket::raw;
use crate::wake::WakeHandle;

mod pool;
use pool::{BUFFER_GROUP, Pool};

/// Submission entries: the receive, the polls for wakes and connections, and their cancellation.
const ENTRIES: u32 = 8;
/// The socket's place among the registered files: the kernel need not look it up at each operation.
const SOCKET: Fixed = Fixed(0);

/// What a completion is about, in its `user_data`.
const RECEIVE: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;
const STREAMS: u64 = u64::MAX - 3;

pub(crate) struct Uring {
    ring: IoUring,
    socket: UdpSocket,
    wake: WakeHandle,
    /// Read by the kernel at each receive; only its lengths matter.
    receive_header: Box<libc::msghdr>,
    pool: Pool,
    sender: BatchSender,
    receive_armed: bool,
    wake_armed: bool,
    arrived: VecDeque<cqueue::Entry>,
    pub(crate) streams: Option<Arc<Readiness>>,
    streams_armed: bool,
    pub(crate) counters: Counters,
}

fn build(entries: u32, completions: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(completions)
        .build(entries)
}

/// Builds and drops a ring with a registered buffer ring, and arms nothing.
pub(crate) fn probe() -> io::Result<()> {
    let ring = build(8, 16)?;
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let supported =
        [opcode::RecvMsgMulti::CODE, opcode::PollAdd::CODE].into_iter().all(|code| probe.is_supported(code));
    if !supported {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring lacks recvmsg or poll"));
    }
    Pool::new(&ring, 8).map(drop)
}

impl Uring {
    pub(crate) fn new(socket: UdpSocket, wake: WakeHandle, sizes: Sizes) -> io::Result<Self> {
        let Sizes { trains_max, receive_buffers } = sizes;
        // Every receive buffer may complete in one turn, and the ends of receive, wake and cancel.
        let ring = build(ENTRIES, (u32::from(receive_buffers) + 4).next_power_of_two())?;
        ring.submitter().register_files(&[raw(&socket)])?;
        let pool = Pool::new(&ring, receive_buffers)?;
        // SAFETY: msghdr is plain integers and pointers; all zeroes is valid.
        let mut receive_header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        receive_header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        receive_header.msg_controllen = RECEIVE_CONTROL_BYTES;
        Ok(Self {
            ring,
            socket,
            wake,
            receive_header,
            pool,
            sender: BatchSender::new(trains_max),
            receive_armed: false,
            wake_armed: false,
            arrived: VecDeque::with_capacity(usize::from(receive_buffers) + 1),
            streams: None,
            streams_armed: false,
            counters: Counters::default(),
        })
    }

    pub(crate) fn receive(
        &mut self,
        messages_max: usize,
        on_message: &mut dyn FnMut(&Received<'_>),
    ) -> io::Result<usize> {
        self.arm();
        // The kernel tells when there is something to fetch: an idle look costs no system call.
        let is_due = self.ring.submission().taskrun() || self.ring.submission().cq_overflow();
        if is_due || !self.ring.submission().is_empty() {
            self.enter(0, None)?;
        }
        self.reap();
        let mut messages = 0;
        while messages < messages_max {
            let Some(completion) = self.arrived.pop_front() else { break };
            messages += usize::from(self.received(&completion, on_message)?);
        }
        self.pool.publish();
        self.counters.messages_received += messages as u64;
        Ok(messages)
    }

    pub(crate) fn submit(&mut self, trains: &mut Vec<Outgoing>) -> Drain<'_, Sent> {
        self.sender.submit(raw(&self.socket), trains, &mut self.counters)
    }

    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.arm();
        self.arm_streams();
        self.reap();
        if self.arrived.is_empty() {
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

    /// Before sleep only, and once for each sleep that a connection ended: awake, connections are looked at anyway.
    fn arm_streams(&mut self) {
        if let Some(streams) = self.streams.as_ref().filter(|_| !self.streams_armed) {
            let entry = opcode::PollAdd::new(Fd(streams.as_raw_fd()), libc::POLLIN as u32).build();
            self.streams_armed = self.push(&entry.user_data(STREAMS)).is_ok();
        }
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: an entry names only `receive_header`, which lives in a box until the receive has ended (I1, I3).
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

    /// Takes every completion: arrivals wait for [`Self::receive`].
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
                STREAMS => self.streams_armed = false,
                _ => {}
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
}

impl Drop for Uring {
    /// I3: the receive has ended before pool and buffers are freed.
    fn drop(&mut self) {
        let cancel = opcode::AsyncCancel::new(RECEIVE).build().user_data(u64::MAX - 2);
        let _ = self.push(&cancel);
        for _ in 0..100 {
            let _ = self.enter(0, None);
            self.reap();
            self.receive_armed &= self.arrived.drain(..).all(|completion| cqueue::more(completion.flags()));
            if !self.receive_armed {
                // The kernel takes a ring down some time after it is closed; its port should be free at once.
                let _ = self.ring.submitter().unregister_files();
                return;
            }
            let _ = self.enter(1, Some(Duration::from_millis(10)));
        }
        tracing::error!("ring did not drain; its memory is leaked");
        self.pool.leak();
    }
}
