//! Waking a shard only when it sleeps: a system call per command or lane packet would cost more than the work itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use auralink_ring::WakeHandle;

#[derive(Clone, Debug)]
pub(crate) struct Parking {
    parked: Arc<AtomicBool>,
    handle: WakeHandle,
}

impl Parking {
    pub(crate) fn new(handle: WakeHandle) -> Self {
        Self { parked: Arc::new(AtomicBool::new(false)), handle }
    }

    /// Called by the shard before it looks at its inputs for the last time and waits.
    pub(crate) fn announce(&self) {
        // With the fence of `wake`: either the waker sees `parked`, or the shard sees what the waker queued.
        self.parked.store(true, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    pub(crate) fn leave(&self) {
        self.parked.store(false, Ordering::SeqCst);
    }

    /// Called by whoever has queued something for the shard.
    pub(crate) fn wake(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.parked.swap(false, Ordering::SeqCst) {
            self.handle.wake();
        }
    }
}
