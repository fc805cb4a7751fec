//! Signalling: what travels over a participant's WebSocket, from the request line to the last frame.

pub mod join_query;
pub mod join_request;
pub mod session;
pub mod socket;
pub mod wire;
