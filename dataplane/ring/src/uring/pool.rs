//! Receive buffers shared with the kernel through a provided-buffer ring (`io_uring_register_buf_ring(3)`).
//!
//! The kernel takes a buffer per message and names it in the completion; we hand it back by appending it to the ring. The
//! ring's tail is published with a release store once per turn.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

pub(super) const BUFFER_GROUP: u16 = 0;
/// 64 KiB of datagrams plus the message header, address and control data in front of them.
const BUFFER_BYTES: usize = 65_536 + 512;

/// An anonymous mapping: page-aligned, as the ring must be, and populated only when touched.
struct Mapping {
    base: *mut u8,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping; nothing is assumed of the address.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: base.cast(), len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: exactly what `new` mapped; by I3 the kernel no longer uses it.
            unsafe { libc::munmap(self.base.cast(), self.len) };
        }
    }
}

pub(super) struct Pool {
    ring: Mapping,
    memory: Mapping,
    count: u16,
    tail: u16,
}

impl Pool {
    /// Registers `count` buffers (a power of two) with `ring`.
    pub(super) fn new(ring: &IoUring, count: u16) -> io::Result<Self> {
        debug_assert!(count.is_power_of_two());
        let entries = Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(usize::from(count) * BUFFER_BYTES)?;
        // SAFETY: the mapping is page-aligned, zeroed, of the size the kernel expects, and outlives the ring's use (I3).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries.base as u64, count, BUFFER_GROUP, 0)?
        };
        let mut pool = Self { ring: entries, memory, count, tail: 0 };
        for id in 0..count {
            pool.recycle(id);
        }
        pool.publish();
        Ok(pool)
    }

    /// The first `len` bytes of buffer `id`, which a completion has just named.
    pub(super) fn bytes(&self, id: u16, len: usize) -> &[u8] {
        let start = usize::from(id % self.count) * BUFFER_BYTES;
        // SAFETY: within the mapping; the kernel does not write to a buffer it has named in a completion until it is
        // recycled, and `recycle` takes `&mut self`.
        unsafe { std::slice::from_raw_parts(self.memory.base.add(start), len.min(BUFFER_BYTES)) }
    }

    /// Puts buffer `id` behind the tail; the kernel sees it at the next [`Self::publish`].
    pub(super) fn recycle(&mut self, id: u16) {
        let id = id % self.count;
        let index = usize::from(self.tail % self.count);
        // SAFETY: `index` is inside the ring; entries behind the tail belong to us until published.
        let entry = unsafe { &mut *self.ring.base.cast::<BufRingEntry>().add(index) };
        // SAFETY: within the mapping.
        let address = unsafe { self.memory.base.add(usize::from(id) * BUFFER_BYTES) };
        entry.set_addr(address as u64);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel everything recycled so far.
    pub(super) fn publish(&mut self) {
        // SAFETY: the tail is the `resv` field of the ring's first entry, aligned for u16 and shared with the kernel, which
        // reads it with acquire.
        let tail = unsafe { &*BufRingEntry::tail(self.ring.base.cast::<BufRingEntry>()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    /// Gives the memory up without unmapping it: the kernel may still write to it.
    pub(super) fn leak(&mut self) {
        self.ring.len = 0;
        self.memory.len = 0;
    }
}

// SAFETY: the pointers are to this pool's own mappings; nothing is tied to the thread that made them.
unsafe impl Send for Pool {}
