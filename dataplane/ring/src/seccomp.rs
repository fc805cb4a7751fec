//! Denying io_uring to this process and its children, as containers' default seccomp profiles do, or IPv6, as kernels without it
//! do: for tests of what a server does there.

use std::io;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
/// Places in seccomp_data: the system call's number, and the lower half of its first argument.
const NUMBER: u32 = 0;
const FIRST_ARGUMENT: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };

const fn op(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

const fn fail(errno: i32) -> libc::sock_filter {
    op(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32)
}

/// Makes the three io_uring system calls fail with EPERM from here on, in this thread and everything it starts.
pub fn deny_io_uring() -> io::Result<()> {
    filter(&mut [
        op(LOAD, 0, 0, NUMBER),
        op(JUMP_EQUAL, 3, 0, libc::SYS_io_uring_setup as u32),
        op(JUMP_EQUAL, 2, 0, libc::SYS_io_uring_enter as u32),
        op(JUMP_EQUAL, 1, 0, libc::SYS_io_uring_register as u32),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        fail(libc::EPERM),
    ])
}

/// Makes sockets of IPv6 fail with EAFNOSUPPORT from here on, in this thread and everything it starts.
pub fn deny_ipv6() -> io::Result<()> {
    filter(&mut [
        op(LOAD, 0, 0, NUMBER),
        op(JUMP_EQUAL, 0, 3, libc::SYS_socket as u32),
        op(LOAD, 0, 0, FIRST_ARGUMENT),
        op(JUMP_EQUAL, 0, 1, libc::AF_INET6 as u32),
        fail(libc::EAFNOSUPPORT),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ])
}

fn filter(program: &mut [libc::sock_filter]) -> io::Result<()> {
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
