//! Waking a parked shard from another thread: an eventfd that the back end waits on beside its socket.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Wakes one back end. Cheap to clone; several wakes before the shard looks are one.
#[derive(Clone, Debug)]
pub struct WakeHandle(Arc<OwnedFd>);

impl WakeHandle {
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointers; the result is checked before it is owned.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just created and belongs to nobody else.
        Ok(Self(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Makes the shard's current or next wait return.
    pub fn wake(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: `one` is 8 readable bytes. A full counter (EAGAIN) means the wake is already pending.
        unsafe { libc::write(self.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Forgets pending wakes.
    pub(crate) fn clear(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: `count` is 8 writable bytes; the descriptor does not block.
        unsafe { libc::read(self.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
