//! What the program does beside serving: it is a client of a running server then.

pub mod rooms;
