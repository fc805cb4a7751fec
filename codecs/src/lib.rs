//! Payload descriptors: what a forwarder may read and patch of a media payload. Decisions use these clear bytes only, so that
//! end-to-end encrypted payloads forward untouched.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod av1;
pub mod dependency;
pub mod h264;
pub mod h265;
pub mod picture;
pub mod red;
pub mod vp8;
pub mod vp9;
