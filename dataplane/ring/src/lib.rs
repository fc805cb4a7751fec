//! Bytes and kernel: UDP sockets, two back ends (`uring`, `mmsg`) behind one small interface, and nothing of WebRTC.
//!
//! The only crate of AuraLink with `unsafe`. Invariants the SAFETY comments refer to:
//! - **I1** a slot's message header, its iovec, address and control buffers live in one boxed slice that is never resized or
//!   moved while the back end lives;
//! - **I2** a train's buffer is lent to the kernel for the length of one system call, which copies it;
//! - **I3** the receive is cancelled, and its end awaited, before the memory it writes to is freed.

mod backend;
mod batch;
pub mod client;
mod control;
#[cfg(feature = "count-alloc")]
pub mod count_alloc;
mod heap;
mod mmsg;
mod pin;
mod readiness;
pub mod seccomp;
mod socket;
mod steer;
mod uring;
mod wake;

pub use backend::{
    Backend, BackendKind, Counters, Outgoing, Received, SendOutcome, Sent, Sizes, probe_uring,
};
pub use heap::heap_bytes;
pub use pin::{pin_to, set_nice, usable_cpus};
pub use readiness::{Interest, Readiness, Ready, bound_send_buffer};
pub use socket::{BoundSocket, SocketError, SocketOptions, bind, bind_both, listen, listen_both, plain};
pub use steer::Steering;
pub use wake::WakeHandle;
