//! Steering in the kernel: several sockets share one port (SO_REUSEPORT), and a small BPF program gives each datagram to the
//! socket of the shard that owns its sender's address.
//!
//! The kernel's own choice, a hash of the addresses, knows nothing of shards: half of what two shards receive would have to
//! cross a lane. The program looks the sender up in a map that shards fill when an address has passed a connectivity check;
//! whoever is not in it goes by the hash as before. Needs CAP_BPF and CAP_NET_ADMIN; without them lanes do all the steering.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

// linux/bpf.h, as far as it is needed.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_MAP_TYPE_REUSEPORT_SOCKARRAY: u32 = 20;
const BPF_PROG_TYPE_SK_REUSEPORT: u32 = 21;
const FUNC_MAP_LOOKUP_ELEM: i32 = 1;
const FUNC_SKB_LOAD_BYTES: i32 = 26;
const FUNC_SKB_LOAD_BYTES_RELATIVE: i32 = 68;
const FUNC_SK_SELECT_REUSEPORT: i32 = 82;
const HDR_START_NET: i32 = 1;
const SK_PASS: i32 = 1;

/// IPv4 source address and UDP source port as they stand in the headers.
type Key = [u8; 8];

/// The maps of one group of sockets. Shared by its shards.
#[derive(Debug)]
pub struct Steering {
    /// [`Key`] → index of the socket.
    flows: OwnedFd,
    /// Keeps the sockets' places; the program refers to it.
    _sockets: OwnedFd,
}

impl Steering {
    /// Attaches the program to a group of sockets bound to one port, in shard order. `flows_max`: addresses remembered.
    ///
    /// # Errors
    /// The kernel does not allow it, or knows no such program: not a fault, lanes steer then.
    pub fn attach(sockets: &[&UdpSocket], flows_max: u32) -> io::Result<Self> {
        let flows = create_map(BPF_MAP_TYPE_HASH, size_of::<Key>() as u32, 4, flows_max)?;
        let places = create_map(BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, 4, 8, sockets.len() as u32)?;
        for (index, socket) in sockets.iter().enumerate() {
            update(&places, &(index as u32).to_ne_bytes(), &(socket.as_raw_fd() as u64).to_ne_bytes())?;
        }
        let program = load(&program(flows.as_raw_fd(), places.as_raw_fd()))?;
        let first = sockets.first().ok_or(io::ErrorKind::InvalidInput)?;
        let fd = program.as_raw_fd();
        // SAFETY: the option takes an int by pointer, which is live for the call. The socket group keeps the program.
        let result = unsafe {
            libc::setsockopt(
                first.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_REUSEPORT_EBPF,
                (&raw const fd).cast(),
                size_of::<RawFd>() as libc::socklen_t,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { flows, _sockets: places })
    }

    /// Datagrams from `remote` go to socket `index` from now on.
    ///
    /// # Errors
    /// The map is full; lanes steer what does not fit.
    pub fn insert(&self, remote: SocketAddr, index: u32) -> io::Result<()> {
        let Some(key) = key(remote) else { return Ok(()) };
        update(&self.flows, &key, &index.to_ne_bytes())
    }

    /// Datagrams from `remote` go by the kernel's hash again.
    pub fn remove(&self, remote: SocketAddr) {
        let Some(key) = key(remote) else { return };
        let mut attr = Attr::default();
        attr.put_u32(0, self.flows.as_raw_fd() as u32);
        attr.put_u64(8, key.as_ptr() as u64);
        // What was not there need not be removed.
        let _ = bpf(BPF_MAP_DELETE_ELEM, &attr);
    }
}

fn key(remote: SocketAddr) -> Option<Key> {
    let SocketAddr::V4(v4) = remote else { return None };
    let ([a, b, c, d], [p, q]) = (v4.ip().octets(), v4.port().to_be_bytes());
    Some([a, b, c, d, p, q, 0, 0])
}

/// `union bpf_attr`: fields at fixed places, the rest zero.
#[repr(C, align(8))]
struct Attr([u8; 120]);

impl Default for Attr {
    fn default() -> Self {
        Self([0; 120])
    }
}

impl Attr {
    fn put_u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    fn put_u64(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }
}

fn bpf(command: libc::c_long, attr: &Attr) -> io::Result<i32> {
    // SAFETY: `attr` is a whole attribute block; every pointer in it is to memory that is live for the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attr.0, size_of::<Attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn own(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just made the descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn create_map(kind: u32, key_len: u32, value_len: u32, entries_max: u32) -> io::Result<OwnedFd> {
    let mut attr = Attr::default();
    for (at, value) in [kind, key_len, value_len, entries_max].into_iter().enumerate() {
        attr.put_u32(at * 4, value);
    }
    bpf(BPF_MAP_CREATE, &attr).map(own)
}

fn update(map: &OwnedFd, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attr = Attr::default();
    attr.put_u32(0, map.as_raw_fd() as u32);
    attr.put_u64(8, key.as_ptr() as u64);
    attr.put_u64(16, value.as_ptr() as u64);
    bpf(BPF_MAP_UPDATE_ELEM, &attr).map(drop)
}

fn load(program: &[u64]) -> io::Result<OwnedFd> {
    let mut attr = Attr::default();
    attr.put_u32(0, BPF_PROG_TYPE_SK_REUSEPORT);
    attr.put_u32(4, program.len() as u32);
    attr.put_u64(8, program.as_ptr() as u64);
    attr.put_u64(16, c"Apache-2.0".as_ptr() as u64);
    bpf(BPF_PROG_LOAD, &attr).map(own)
}

/// One instruction: operation, destination, source, offset, immediate (struct bpf_insn).
const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    (code as u64)
        | ((from << 4 | to) as u64) << 8
        | (offset as u16 as u64) << 16
        | (value as u32 as u64) << 32
}

/// Looks up (source address, source port) and selects the socket found.
fn program(flows: RawFd, sockets: RawFd) -> Vec<u64> {
    const MOVE: u8 = 0xbf;
    const MOVE_VALUE: u8 = 0xb7;
    const ADD_VALUE: u8 = 0x07;
    const CALL: u8 = 0x85;
    const JUMP_IF_NOT: u8 = 0x55;
    const JUMP_IF: u8 = 0x15;
    const STORE_U16_VALUE: u8 = 0x6a;
    const LOAD_U32: u8 = 0x61;
    const STORE_U32: u8 = 0x63;
    const LOAD_MAP: u8 = 0x18;
    const EXIT: u8 = 0x95;
    /// Source register of `LOAD_MAP` that says the value is a map's descriptor.
    const MAP_FD: u8 = 1;
    let op = instruction;
    let map = |to, fd| [op(LOAD_MAP, to, MAP_FD, 0, fd), 0];
    // r10 is the end of the stack: the key lies at -8, the index found at -12. r6 keeps the context.
    let stack = |to, at| [op(MOVE, to, 10, 0, 0), op(ADD_VALUE, to, 0, 0, at)];
    let mut program = vec![op(MOVE, 6, 1, 0, 0)];
    // The IPv4 header's source address.
    program.push(op(MOVE_VALUE, 2, 0, 0, 12));
    program.extend(stack(3, -8));
    program.extend([op(MOVE_VALUE, 4, 0, 0, 4), op(MOVE_VALUE, 5, 0, 0, HDR_START_NET)]);
    program.push(op(CALL, 0, 0, 0, FUNC_SKB_LOAD_BYTES_RELATIVE));
    let first_jump = program.len();
    program.push(op(JUMP_IF_NOT, 0, 0, 0, 0));
    // The UDP header's source port: the context's data begins there.
    program.extend([op(MOVE, 1, 6, 0, 0), op(MOVE_VALUE, 2, 0, 0, 0)]);
    program.extend(stack(3, -4));
    program.extend([op(MOVE_VALUE, 4, 0, 0, 2), op(CALL, 0, 0, 0, FUNC_SKB_LOAD_BYTES)]);
    let second_jump = program.len();
    program.push(op(JUMP_IF_NOT, 0, 0, 0, 0));
    program.push(op(STORE_U16_VALUE, 10, 0, -2, 0));
    program.extend(map(1, flows));
    program.extend(stack(2, -8));
    program.push(op(CALL, 0, 0, 0, FUNC_MAP_LOOKUP_ELEM));
    let third_jump = program.len();
    program.push(op(JUMP_IF, 0, 0, 0, 0));
    program.extend([op(LOAD_U32, 1, 0, 0, 0), op(STORE_U32, 10, 1, -12, 0), op(MOVE, 1, 6, 0, 0)]);
    program.extend(map(2, sockets));
    program.extend(stack(3, -12));
    program.extend([op(MOVE_VALUE, 4, 0, 0, 0), op(CALL, 0, 0, 0, FUNC_SK_SELECT_REUSEPORT)]);
    let end = program.len();
    program.extend([op(MOVE_VALUE, 0, 0, 0, SK_PASS), op(EXIT, 0, 0, 0, 0)]);
    for (at, code) in [(first_jump, JUMP_IF_NOT), (second_jump, JUMP_IF_NOT), (third_jump, JUMP_IF)] {
        program[at] = op(code, 0, 0, (end - at - 1) as i16, 0);
    }
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::{SocketOptions, bind};
    use std::time::Duration;

    fn shared(port: u16) -> UdpSocket {
        let options = SocketOptions { buffer_bytes: 1 << 18, reuse_port: true };
        let bound = bind(SocketAddr::from(([127, 0, 0, 1], port)), options).unwrap();
        bound.socket.set_nonblocking(false).unwrap();
        bound.socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        bound.socket
    }

    #[test]
    fn datagrams_go_where_their_sender_was_told_to() {
        let first = shared(0);
        let port = first.local_addr().unwrap().port();
        let sockets = [first, shared(port), shared(port)];
        let group: Vec<&UdpSocket> = sockets.iter().collect();
        let steering = Steering::attach(&group, 64).expect("the machine that runs the tests allows BPF");
        let received = |index: usize| sockets[index].recv_from(&mut [0; 64]).is_ok();
        for _ in 0..8 {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            let remote = client.local_addr().unwrap();
            for index in [2, 0, 1, 1] {
                steering.insert(remote, index).unwrap();
                client.send_to(b"hello", ("127.0.0.1", port)).unwrap();
                assert!(received(index as usize), "{remote} to {index}");
            }
            steering.remove(remote);
            client.send_to(b"hello", ("127.0.0.1", port)).unwrap();
            assert!((0..3).any(received), "an unknown sender is received by somebody");
        }
    }

    #[test]
    fn a_full_map_refuses_and_the_rest_goes_on() {
        let first = shared(0);
        let port = first.local_addr().unwrap().port();
        let second = shared(port);
        let steering = Steering::attach(&[&first, &second], 2).unwrap();
        let remote = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let refused = (1..100).filter(|port| steering.insert(remote(*port), 1).is_err()).count();
        assert!(refused > 90, "{refused}");
        assert!(steering.insert(SocketAddr::from(([0; 16], 1)), 1).is_ok());
    }
}
