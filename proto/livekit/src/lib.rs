//! LiveKit's message types, compiled once: everything else in the workspace depends on this package instead of the crate.
#![forbid(unsafe_code)]

pub use livekit_protocol::*;
pub use prost;
