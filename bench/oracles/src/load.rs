//! The clients: many sockets on one thread, and what they send. A burst is one segmented send, so that its datagrams arrive
//! together, as those of a video frame do; what comes back is read datagram by datagram, without UDP_GRO.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

pub const SOCKETS: usize = 32;
/// As a media packet on the wire.
const DATAGRAM: usize = 1_140;
/// Between bursts of one socket.
const BURST_INTERVAL: Duration = Duration::from_millis(20);
/// Datagrams in a burst: a frame.
const BURST: usize = 9;
/// An answer that takes longer is lost.
const LOST_AFTER: Duration = Duration::from_millis(200);

/// What the clients do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Pattern {
    /// Each socket sends one datagram and waits for it to come back.
    RequestResponse,
    /// Each socket sends a frame at fixed times, whatever comes back.
    Bursts,
}

pub const PATTERNS: [Pattern; 2] = [Pattern::RequestResponse, Pattern::Bursts];

/// What came of it.
#[derive(Clone, Copy, Default, Debug)]
pub struct Outcome {
    pub sent: u64,
    pub echoed: u64,
}

struct Caller {
    socket: UdpSocket,
    due: Instant,
    waits: bool,
}

pub fn run(pattern: Pattern, server: SocketAddr, time: Duration) -> Result<Outcome> {
    let start = Instant::now();
    let mut callers = Vec::new();
    for index in 0..SOCKETS {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::UdpGsoSegment, &(DATAGRAM as i32))?;
        // Spread over the interval, as cameras are.
        let due = start + BURST_INTERVAL * index as u32 / SOCKETS as u32;
        callers.push(Caller { socket, due, waits: false });
    }
    let mut outcome = Outcome::default();
    let frame = [7; DATAGRAM * BURST];
    while start.elapsed() < time {
        for caller in &mut callers {
            send(pattern, caller, &frame, &mut outcome)?;
            receive(caller, &mut outcome)?;
        }
    }
    // What is still on its way back counts.
    let end = Instant::now() + Duration::from_millis(100);
    while Instant::now() < end && outcome.echoed < outcome.sent {
        callers.iter_mut().try_for_each(|caller| receive(caller, &mut outcome))?;
    }
    ensure!(outcome.echoed > 0, "nothing came back");
    Ok(outcome)
}

fn send(pattern: Pattern, caller: &mut Caller, frame: &[u8], outcome: &mut Outcome) -> Result<()> {
    let now = Instant::now();
    let count = match pattern {
        Pattern::RequestResponse if !caller.waits || now >= caller.due => {
            caller.due = now + LOST_AFTER;
            1
        }
        Pattern::Bursts if now >= caller.due => {
            // What was missed is not made up for: a client held up by the machine would else send everything at once.
            caller.due = now.max(caller.due + BURST_INTERVAL);
            BURST
        }
        Pattern::RequestResponse | Pattern::Bursts => 0,
    };
    if count > 0 {
        caller.waits = true;
        caller.socket.send(&frame[..DATAGRAM * count])?;
        outcome.sent += count as u64;
    }
    Ok(())
}

fn receive(caller: &mut Caller, outcome: &mut Outcome) -> Result<()> {
    let mut datagram = [0; 2_048];
    loop {
        match caller.socket.recv(&mut datagram) {
            Ok(len) => {
                ensure!(len == DATAGRAM && datagram[..len].iter().all(|byte| *byte == 7), "the echo differs");
                outcome.echoed += 1;
                caller.waits = false;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
