//! Steering in the kernel: several sockets share one port (SO_REUSEPORT), and a small BPF program gives each datagram to the
//! socket of the shard that owns its sender's address.
//!
//! The kernel's own choice, a hash of the addresses, knows nothing of shards: half of what two shards receive would have to
//! cross a lane. The program looks the sender up in a map that shards fill when an address has passed a connectivity check;
//! whoever is not in it goes by the hash as before. Needs CAP_BPF and CAP_NET_ADMIN; without them lanes do all the steering.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
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

/// Source address and UDP source port as they stand in the headers, filled up to whole words. Two maps, so that IPv4 is looked up by
/// no more than it has.
type KeyV4 = [u8; 8];
type KeyV6 = [u8; 20];

enum Key {
    V4(KeyV4),
    V6(KeyV6),
}

/// The maps of one group of sockets. Shared by its shards.
#[derive(Debug)]
pub struct Steering {
    /// [`KeyV4`] → index of the socket.
    flows_v4: OwnedFd,
    /// [`KeyV6`] → index of the socket. None where the group carries IPv4 alone.
    flows_v6: Option<OwnedFd>,
    /// Keeps the sockets' places; the program refers to it.
    _sockets: OwnedFd,
}

impl Steering {
    /// Attaches the program to a group of sockets bound to one port, in shard order. `flows_max`: addresses remembered of each
    /// family.
    ///
    /// # Errors
    /// The kernel does not allow it, or knows no such program: not a fault, lanes steer then.
    pub fn attach(sockets: &[&UdpSocket], flows_max: u32) -> io::Result<Self> {
        let first = sockets.first().ok_or(io::ErrorKind::InvalidInput)?;
        let flows_v4 = create_map(BPF_MAP_TYPE_HASH, size_of::<KeyV4>() as u32, 4, flows_max)?;
        let flows_v6 = match first.local_addr()? {
            SocketAddr::V4(_) => None,
            SocketAddr::V6(_) => {
                Some(create_map(BPF_MAP_TYPE_HASH, size_of::<KeyV6>() as u32, 4, flows_max)?)
            }
        };
        let places = create_map(BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, 4, 8, sockets.len() as u32)?;
        for (index, socket) in sockets.iter().enumerate() {
            update(&places, &(index as u32).to_ne_bytes(), &(socket.as_raw_fd() as u64).to_ne_bytes())?;
        }
        let v6 = flows_v6.as_ref().map(AsRawFd::as_raw_fd);
        let program = load(&program(flows_v4.as_raw_fd(), v6, places.as_raw_fd()))?;
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
        Ok(Self { flows_v4, flows_v6, _sockets: places })
    }

    /// Datagrams from `remote` go to socket `index` from now on.
    ///
    /// # Errors
    /// The map is full; lanes steer what does not fit.
    pub fn insert(&self, remote: SocketAddr, index: u32) -> io::Result<()> {
        let key = Key::from(remote);
        let Some(flows) = self.flows(&key) else { return Ok(()) };
        update(flows, key.bytes(), &index.to_ne_bytes())
    }

    /// Datagrams from `remote` go by the kernel's hash again.
    pub fn remove(&self, remote: SocketAddr) {
        let key = Key::from(remote);
        let Some(flows) = self.flows(&key) else { return };
        let mut attr = Attr::default();
        attr.put_u32(0, flows.as_raw_fd() as u32);
        attr.put_u64(8, key.bytes().as_ptr() as u64);
        // What was not there need not be removed.
        let _ = bpf(BPF_MAP_DELETE_ELEM, &attr);
    }

    fn flows(&self, key: &Key) -> Option<&OwnedFd> {
        match key {
            Key::V4(_) => Some(&self.flows_v4),
            Key::V6(_) => self.flows_v6.as_ref(),
        }
    }
}

impl From<SocketAddr> for Key {
    fn from(remote: SocketAddr) -> Self {
        let port = remote.port().to_be_bytes();
        match remote.ip() {
            IpAddr::V4(ip) => {
                let mut key = KeyV4::default();
                key[..4].copy_from_slice(&ip.octets());
                key[4..6].copy_from_slice(&port);
                Self::V4(key)
            }
            IpAddr::V6(ip) => {
                let mut key = KeyV6::default();
                key[..16].copy_from_slice(&ip.octets());
                key[16..18].copy_from_slice(&port);
                Self::V6(key)
            }
        }
    }
}

impl Key {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::V4(key) => key,
            Self::V6(key) => key,
        }
    }
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

/// Operations, as far as the program needs them.
mod code {
    pub(super) const MOVE: u8 = 0xbf;
    pub(super) const MOVE_VALUE: u8 = 0xb7;
    pub(super) const ADD_VALUE: u8 = 0x07;
    pub(super) const CALL: u8 = 0x85;
    pub(super) const JUMP: u8 = 0x05;
    pub(super) const JUMP_IF_NOT: u8 = 0x55;
    pub(super) const JUMP_IF: u8 = 0x15;
    pub(super) const STORE_U16_VALUE: u8 = 0x6a;
    pub(super) const LOAD_U32: u8 = 0x61;
    pub(super) const STORE_U32: u8 = 0x63;
    pub(super) const LOAD_MAP: u8 = 0x18;
    pub(super) const EXIT: u8 = 0x95;
    /// Source register of `LOAD_MAP` that says the value is a map's descriptor.
    pub(super) const MAP_FD: u8 = 1;
}

/// Where `eth_protocol` stands in `struct sk_reuseport_md`.
const PROTOCOL_OFFSET: i16 = 20;
/// The index found, below the larger key, both on the stack.
const INDEX_AT: i32 = -28;

/// One family's headers and map.
struct Lookup {
    ethertype: u16,
    /// Where the source address begins in the IP header, and its length.
    address_at: i32,
    address_len: i32,
    key_len: usize,
    flows: RawFd,
}

/// The program under construction. Jumps to its end are filled in last: r6 keeps the context, r10 is the end of the stack.
#[derive(Default)]
struct Assembly {
    instructions: Vec<u64>,
    /// Where a jump to the end stands, and its operation.
    jumps: Vec<(usize, u8)>,
}

impl Assembly {
    fn push(&mut self, code: u8, to: u8, from: u8, offset: i16, value: i32) {
        self.instructions.push(instruction(code, to, from, offset, value));
    }

    fn map(&mut self, to: u8, fd: RawFd) {
        self.push(code::LOAD_MAP, to, code::MAP_FD, 0, fd);
        self.instructions.push(0);
    }

    fn stack(&mut self, to: u8, at: i32) {
        self.push(code::MOVE, to, 10, 0, 0);
        self.push(code::ADD_VALUE, to, 0, 0, at);
    }

    /// To the end if r0 compares so with 0.
    fn leave(&mut self, code: u8) {
        self.jumps.push((self.instructions.len(), code));
        self.instructions.push(0);
    }

    /// Looks (source address, source port) up, r0 being what was found, and selects the socket.
    fn lookup(&mut self, lookup: &Lookup, sockets: RawFd) {
        let key_at = -(lookup.key_len as i32);
        let port_at = key_at + lookup.address_len;
        self.push(code::MOVE, 1, 6, 0, 0);
        self.push(code::MOVE_VALUE, 2, 0, 0, lookup.address_at);
        self.stack(3, key_at);
        self.push(code::MOVE_VALUE, 4, 0, 0, lookup.address_len);
        self.push(code::MOVE_VALUE, 5, 0, 0, HDR_START_NET);
        self.push(code::CALL, 0, 0, 0, FUNC_SKB_LOAD_BYTES_RELATIVE);
        self.leave(code::JUMP_IF_NOT);
        // The UDP header's source port: the context's data begins there.
        self.push(code::MOVE, 1, 6, 0, 0);
        self.push(code::MOVE_VALUE, 2, 0, 0, 0);
        self.stack(3, port_at);
        self.push(code::MOVE_VALUE, 4, 0, 0, 2);
        self.push(code::CALL, 0, 0, 0, FUNC_SKB_LOAD_BYTES);
        self.leave(code::JUMP_IF_NOT);
        self.push(code::STORE_U16_VALUE, 10, 0, port_at as i16 + 2, 0);
        self.map(1, lookup.flows);
        self.stack(2, key_at);
        self.push(code::CALL, 0, 0, 0, FUNC_MAP_LOOKUP_ELEM);
        self.leave(code::JUMP_IF);
        self.push(code::LOAD_U32, 1, 0, 0, 0);
        self.push(code::STORE_U32, 10, 1, INDEX_AT as i16, 0);
        self.push(code::MOVE, 1, 6, 0, 0);
        self.map(2, sockets);
        self.stack(3, INDEX_AT);
        self.push(code::MOVE_VALUE, 4, 0, 0, 0);
        self.push(code::CALL, 0, 0, 0, FUNC_SK_SELECT_REUSEPORT);
        self.leave(code::JUMP);
    }

    fn finish(mut self) -> Vec<u64> {
        let end = self.instructions.len();
        for (at, code) in std::mem::take(&mut self.jumps) {
            self.instructions[at] = instruction(code, 0, 0, (end - at - 1) as i16, 0);
        }
        self.push(code::MOVE_VALUE, 0, 0, 0, SK_PASS);
        self.push(code::EXIT, 0, 0, 0, 0);
        self.instructions
    }
}

/// Reads the sender by the IP version at hand and selects the socket the map names. Whoever is not in it goes by the hash.
fn program(flows_v4: RawFd, flows_v6: Option<RawFd>, sockets: RawFd) -> Vec<u64> {
    let v4 = Lookup {
        ethertype: libc::ETH_P_IP as u16,
        address_at: 12,
        address_len: 4,
        key_len: size_of::<KeyV4>(),
        flows: flows_v4,
    };
    let v6 = flows_v6.map(|flows| Lookup {
        ethertype: libc::ETH_P_IPV6 as u16,
        address_at: 8,
        address_len: 16,
        key_len: size_of::<KeyV6>(),
        flows,
    });
    let mut program = Assembly::default();
    program.push(code::MOVE, 6, 1, 0, 0);
    for lookup in std::iter::once(v4).chain(v6) {
        program.push(code::LOAD_U32, 2, 6, PROTOCOL_OFFSET, 0);
        let other_family = program.instructions.len();
        program.instructions.push(0);
        program.lookup(&lookup, sockets);
        let past = (program.instructions.len() - other_family - 1) as i16;
        // The context has it in network order.
        let ethertype = i32::from(lookup.ethertype.to_be());
        program.instructions[other_family] = instruction(code::JUMP_IF_NOT, 2, 0, past, ethertype);
    }
    program.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::{SocketOptions, bind, bind_both};
    use std::time::Duration;

    fn shared(port: u16, families: &str) -> UdpSocket {
        let options = SocketOptions { buffer_bytes: 1 << 18, reuse_port: true };
        let bound = match families {
            "both" => bind_both(port, options),
            ip => bind(SocketAddr::new(ip.parse().unwrap(), port), options),
        };
        let bound = bound.unwrap();
        bound.socket.set_nonblocking(false).unwrap();
        bound.socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        bound.socket
    }

    /// Three sockets, and clients at `ip` that are sent from one to the other.
    fn steers(families: &str, ips: &[&str]) {
        let first = shared(0, families);
        let port = first.local_addr().unwrap().port();
        let sockets = [first, shared(port, families), shared(port, families)];
        let group: Vec<&UdpSocket> = sockets.iter().collect();
        let steering = Steering::attach(&group, 64).expect("the machine that runs the tests allows BPF");
        let received = |index: usize| sockets[index].recv_from(&mut [0; 64]).is_ok();
        for ip in ips.iter().flat_map(|ip| [ip; 8]) {
            let client = UdpSocket::bind((*ip, 0)).unwrap();
            let remote = client.local_addr().unwrap();
            for index in [2, 0, 1, 1] {
                steering.insert(remote, index).unwrap();
                client.send_to(b"hello", (*ip, port)).unwrap();
                assert!(received(index as usize), "{remote} to {index} of {families}");
            }
            steering.remove(remote);
            client.send_to(b"hello", (*ip, port)).unwrap();
            assert!((0..3).any(received), "an unknown sender is received by somebody");
        }
    }

    #[test]
    fn datagrams_go_where_their_sender_was_told_to() {
        steers("127.0.0.1", &["127.0.0.1"]);
        steers("::1", &["::1"]);
        steers("both", &["127.0.0.1", "::1"]);
    }

    #[test]
    fn senders_that_differ_only_in_the_end_of_their_address_are_told_apart() {
        let keys = ["[2001:db8::1]:9", "[2001:db8::2]:9", "[2001:db8::1]:10", "32.1.13.184:9"]
            .map(|text| Key::from(text.parse::<SocketAddr>().unwrap()).bytes().to_vec());
        assert!((1..4).all(|n| !keys[..n].contains(&keys[n])));
    }

    #[test]
    fn a_full_map_refuses_and_the_rest_goes_on() {
        let first = shared(0, "127.0.0.1");
        let port = first.local_addr().unwrap().port();
        let second = shared(port, "127.0.0.1");
        let steering = Steering::attach(&[&first, &second], 2).unwrap();
        let remote = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let refused = (1..100).filter(|port| steering.insert(remote(*port), 1).is_err()).count();
        assert!(refused > 90, "{refused}");
        assert!(
            steering.insert(SocketAddr::from(([0; 16], 1)), 1).is_ok(),
            "a family the group does not carry"
        );
    }
}
