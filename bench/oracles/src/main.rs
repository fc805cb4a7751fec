//! UDP echo on AuraLink's own loop and on three runtimes, under the same load: CPU time of the server per datagram echoed.
//!
//! `measure` starts each server as a process of its own, one after the other, round by round, so that whatever disturbs the
//! machine disturbs all of them. The servers do the plainest thing each interface offers.
#![forbid(unsafe_code)]

mod load;
mod measure;
mod servers;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Echoes until it is ended; the first line it prints is its port.
    Serve { kind: Kind },
    /// Loads every server in turn and prints a table.
    Measure {
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Of load, for each server, pattern and round.
        #[arg(long, default_value_t = 2)]
        seconds: u64,
        /// Only these.
        #[arg(long, value_delimiter = ',')]
        kinds: Vec<Kind>,
    },
}

/// Who echoes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub enum Kind {
    /// Our loop on io_uring, datagrams to one peer joined to trains.
    Uring,
    /// The same, every datagram sent by itself.
    UringSingle,
    /// Our loop on recvmmsg and sendmmsg, with trains.
    Mmsg,
    /// The same, every datagram sent by itself.
    MmsgSingle,
    Tokio,
    Monoio,
    Glommio,
}

fn main() -> Result<()> {
    match Arguments::parse().action {
        Action::Serve { kind } => servers::run(kind),
        Action::Measure { rounds, seconds, kinds } => measure::run(rounds, seconds, &kinds),
    }
}
