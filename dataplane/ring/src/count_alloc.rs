//! A global allocator that counts, for tests that show a path allocates nothing. Only with the feature `count-alloc`; lives
//! here because an allocator is `unsafe` by nature and this crate is the only one that may be.
//!
//! Counts either what one closure allocates on its own thread ([`count`]), or what threads of a given name allocate between
//! two marks ([`watch_threads`], [`unwatch_threads`]). Growing counts, freeing does not.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Places of allocations that are kept.
const TRACES_MAX: usize = 6;
/// Bytes of a thread's name in the kernel, the closing zero included.
const NAME_LEN: usize = 16;
/// Start of the names of the threads watched: the data plane's.
const WATCHED: &[u8] = b"shard-";

static WATCHING: AtomicBool = AtomicBool::new(false);
static WATCHED_COUNT: AtomicU64 = AtomicU64::new(0);
static TRACES: Mutex<Vec<String>> = Mutex::new(Vec::new());

thread_local! {
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
    /// Inside of our own bookkeeping.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// The allocator: `#[global_allocator] static ALLOCATOR: CountingAllocator = CountingAllocator;`
#[derive(Clone, Copy, Debug)]
pub struct CountingAllocator;

// SAFETY: every call goes to the system's allocator unchanged; counting touches nothing of the block.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

fn note() {
    // A thread that is ending has no locals left; it is not one of those that are looked at.
    let is_counting = COUNTING.try_with(Cell::get).unwrap_or(false);
    let is_watched = WATCHING.load(Ordering::Relaxed) && is_watched_thread();
    if !(is_counting || is_watched) || INSIDE.try_with(|inside| inside.replace(true)).unwrap_or(true) {
        return;
    }
    if is_counting {
        COUNT.with(|count| count.set(count.get() + 1));
    }
    if is_watched {
        WATCHED_COUNT.fetch_add(1, Ordering::Relaxed);
    }
    let mut traces = TRACES.lock().unwrap_or_else(PoisonError::into_inner);
    if traces.len() < TRACES_MAX {
        traces.push(Backtrace::force_capture().to_string());
    }
    drop(traces);
    INSIDE.with(|inside| inside.set(false));
}

fn is_watched_thread() -> bool {
    let mut name = [0_u8; NAME_LEN];
    // SAFETY: the kernel writes at most NAME_LEN bytes to the array, which lives through the call.
    let result = unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    result == 0 && name.starts_with(WATCHED)
}

/// What `f` gives, and how often it allocated on this thread.
pub fn count<T>(f: impl FnOnce() -> T) -> (T, u64) {
    let before = COUNT.with(Cell::get);
    COUNTING.with(|counting| counting.set(true));
    let result = f();
    COUNTING.with(|counting| counting.set(false));
    (result, COUNT.with(Cell::get) - before)
}

/// From now on allocations of the data plane's threads (named `shard-…`) count.
pub fn watch_threads() {
    WATCHED_COUNT.store(0, Ordering::Relaxed);
    WATCHING.store(true, Ordering::Relaxed);
}

/// Until now; how many there were.
pub fn unwatch_threads() -> u64 {
    WATCHING.store(false, Ordering::Relaxed);
    WATCHED_COUNT.load(Ordering::Relaxed)
}

/// Where the first of the allocations counted happened, and forgets them.
pub fn take_traces() -> Vec<String> {
    std::mem::take(&mut TRACES.lock().unwrap_or_else(PoisonError::into_inner))
}
