//! Denying io_uring to this process and its children, as containers' default seccomp profiles do: for tests that prove the
//! fall-back, and for operators who want to know what a container will do.

use std::io;

/// Makes the three io_uring system calls fail with EPERM from here on, in this thread and everything it starts.
pub fn deny_io_uring() -> io::Result<()> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let deny = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    // Offset 0 of seccomp_data is the system call's number.
    let mut program = [
        op(LOAD, 0, 0, 0),
        op(JUMP_EQUAL, 3, 0, libc::SYS_io_uring_setup as u32),
        op(JUMP_EQUAL, 2, 0, libc::SYS_io_uring_enter as u32),
        op(JUMP_EQUAL, 1, 0, libc::SYS_io_uring_register as u32),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        op(RETURN, 0, 0, deny),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: prctl with integer arguments only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `program` and the filter it points at are live for the call; the kernel copies them.
    if unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_denied_thread_cannot_make_a_ring() {
        std::thread::spawn(|| {
            crate::probe_uring().expect("allowed before");
            super::deny_io_uring().expect("filter");
            let error = crate::probe_uring().expect_err("denied after");
            assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        })
        .join()
        .unwrap();
    }
}
