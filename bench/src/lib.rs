//! What benches, gates and tests share: a connected room without a network, and reading what callgrind counted.
//!
//! [`room`] plays the clients, whatever carries their datagrams; [`stage`] puts them before shards in virtual time. Everything
//! is real but the wire: handshakes, ciphers, feedback.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a measurement stops at its own mistakes")]

pub mod callgrind;
pub mod room;
pub mod source;
pub mod stage;
