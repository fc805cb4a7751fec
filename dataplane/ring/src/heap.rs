//! What this process has allocated.

/// Bytes that are allocated and not yet freed, by the C library's account; `None` where that library keeps none. Looks at
/// every arena under its lock: for a report now and then.
pub fn heap_bytes() -> Option<usize> {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: takes no arguments and reads the allocator's own books under its own locks.
        let account = unsafe { libc::mallinfo2() };
        Some(account.uordblks + account.hblkhd)
    }
    #[cfg(not(target_env = "gnu"))]
    None
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::heap_bytes;

    #[test]
    fn what_is_held_counts_and_what_is_freed_does_not() {
        // More than other tests of this process hold at a time.
        const BYTES: usize = 64 << 20;
        let before = heap_bytes().unwrap();
        let block = std::hint::black_box(vec![1_u8; BYTES]);
        let held = heap_bytes().unwrap();
        drop(block);
        let after = heap_bytes().unwrap();
        assert!(held > before + BYTES / 2 && after < before + BYTES / 2, "{before} {held} {after}");
    }
}
