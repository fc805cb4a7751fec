//! The control plane: configuration, tokens, HTTP, signalling, negotiation, rooms, and the one door to the data plane.
#![forbid(unsafe_code)]

pub mod agents;
pub mod auth;
pub mod chance;
pub mod cli;
pub mod config;
pub mod http;
mod https;
pub mod media;
pub mod negotiator;
pub mod notices;
pub mod rooms;
pub mod server;
pub mod signal;
pub mod telemetry;
pub mod turn;
pub mod webhooks;
pub mod whip;
