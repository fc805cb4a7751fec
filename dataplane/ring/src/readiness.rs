//! Which of many connections can be read or written: epoll, level-triggered. Its own descriptor becomes readable when any is, so
//! that whoever sleeps on other things can sleep on all of them at once.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Connections told of in one look; the others are told of in the next.
const READY_MAX: usize = 64;

/// A connection that can be used, by the token it was added under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    pub token: u64,
    /// Bytes wait, or the peer has closed, or there is an error: a read tells which.
    pub readable: bool,
    pub writable: bool,
}

/// What a connection is watched for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interest {
    Read,
    ReadWrite,
}

/// A set of watched descriptors. One that is closed leaves it by itself.
#[derive(Debug)]
pub struct Readiness(OwnedFd);

impl Readiness {
    pub fn new() -> io::Result<Self> {
        // SAFETY: epoll_create1 takes no pointers; the result is checked before it is owned.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just created and belongs to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Watches `source` under `token`.
    pub fn add(&self, source: &impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, source, token, interest)
    }

    /// Watches `source` for something else from now on.
    pub fn change(&self, source: &impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, source, token, interest)
    }

    /// Watches `source` no more.
    pub fn remove(&self, source: &impl AsFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, source, 0, Interest::Read)
    }

    fn control(&self, operation: i32, source: &impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        let events = match interest {
            Interest::Read => libc::EPOLLIN | libc::EPOLLRDHUP,
            Interest::ReadWrite => libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLOUT,
        };
        let mut event = libc::epoll_event { events: events as u32, u64: token };
        let fd = source.as_fd().as_raw_fd();
        // SAFETY: `event` is live for the call; both descriptors are open, for they are borrowed.
        let result = unsafe { libc::epoll_ctl(self.as_raw_fd(), operation, fd, &raw mut event) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits up to `timeout` (rounded up to milliseconds; zero only looks) and puts what is ready into `ready`.
    pub fn wait(&self, timeout: Duration, ready: &mut Vec<Ready>) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; READY_MAX];
        let timeout_ms = timeout.as_micros().div_ceil(1_000).min(i32::MAX as u128) as i32;
        // SAFETY: `events` has room for as many as are asked for and is live for the call.
        let count =
            unsafe { libc::epoll_wait(self.as_raw_fd(), events.as_mut_ptr(), READY_MAX as i32, timeout_ms) };
        ready.clear();
        if count < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        ready.extend(events.iter().take(count as usize).map(|event| {
            let bits = event.events as i32;
            let failed = bits & (libc::EPOLLERR | libc::EPOLLHUP | libc::EPOLLRDHUP) != 0;
            let (readable, writable) = (bits & libc::EPOLLIN != 0 || failed, bits & libc::EPOLLOUT != 0);
            Ready { token: event.u64, readable, writable }
        }));
        Ok(())
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Bounds what the kernel holds of a connection's output: what waits there can no longer be left out.
pub fn bound_send_buffer(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    let bytes = bytes.min(i32::MAX as usize) as i32;
    crate::socket::set_option(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn tells_who_can_be_read_and_who_has_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let (readiness, mut ready) = (Readiness::new().unwrap(), Vec::new());
        readiness.add(&server, 7, Interest::Read).unwrap();
        readiness.wait(Duration::ZERO, &mut ready).unwrap();
        assert_eq!(ready, []);
        client.write_all(b"x").unwrap();
        readiness.wait(Duration::from_secs(5), &mut ready).unwrap();
        assert_eq!(ready, [Ready { token: 7, readable: true, writable: false }]);
        assert_eq!(server.read(&mut [0; 8]).unwrap(), 1);
        readiness.change(&server, 8, Interest::ReadWrite).unwrap();
        readiness.wait(Duration::from_secs(5), &mut ready).unwrap();
        assert_eq!(ready, [Ready { token: 8, readable: false, writable: true }]);
        drop(client);
        readiness.wait(Duration::from_secs(5), &mut ready).unwrap();
        assert!(ready[0].readable, "the end of a stream is read");
        drop(server);
        readiness.wait(Duration::ZERO, &mut ready).unwrap();
        assert_eq!(ready, [], "a closed descriptor is watched no more");
    }
}
