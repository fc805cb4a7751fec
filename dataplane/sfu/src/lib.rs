//! Rooms and forwarding, sans-IO: one shard's transports, tracks and lines.
//!
//! This crate reads no clock, owns no socket, starts no thread and never waits; `now` is a parameter and everything that
//! leaves is pushed into a borrowed [`shard::Output`]. The path of a packet is [`shard::Shard::ingest`] and
//! [`shard::Shard::egress`].
#![forbid(unsafe_code)]

mod account;
pub mod backlog;
pub mod config;
pub mod departures;
pub mod elements;
pub mod formats;
pub mod header;
pub mod history;
pub mod hold;
pub mod intake;
pub mod lanes;
pub mod nack;
pub mod publisher;
pub mod quality;
pub mod reception;
pub mod resend;
pub mod rewrite;
pub mod shard;
pub mod slots;
pub mod speaker;
pub mod stats;
pub mod subscriber;
pub mod timer;
pub mod transport;
