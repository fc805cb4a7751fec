//! One WebRTC transport, sans-IO: bytes and `now` come in, datagrams and events go out.
//!
//! This crate reads no clock, owns no socket, starts no thread and never waits. Everything it is given from the network is
//! hostile: it is bounded, counted and never panics.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod classify;
pub mod dtls;
pub mod egress;
pub mod ext;
pub mod framing;
pub mod ice;
pub mod peer;
pub mod rtcp;
pub mod rtp;
pub mod sctp;
pub mod srtp;
pub mod stun;
pub mod twcc;
pub mod units;
