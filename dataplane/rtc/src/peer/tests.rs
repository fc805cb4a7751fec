//! A peer against another of our own, against an independent implementation, and against an attacker; in virtual time.

mod lite;
mod pair;
mod str0m_client;
mod world;
