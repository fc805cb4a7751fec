//! Our own loop: what was received in one turn goes out in one submit.

use std::time::Duration;

use anyhow::Result;
use auralink_ring::{Backend, BackendKind, Outgoing, Received, Sizes, WakeHandle};

use super::our_socket;

const TRAINS_MAX: usize = 64;
/// As a shard's trains.
const TRAIN_BYTES: usize = 32 * 1024;
const MESSAGES_PER_TURN: usize = 32;

pub fn run(kind: BackendKind, trains: bool) -> Result<()> {
    let mut backend = Backend::new(kind, our_socket()?, WakeHandle::new()?, Sizes::new(TRAINS_MAX, 64))?;
    let mut free: Vec<Box<[u8]>> = (0..TRAINS_MAX).map(|_| vec![0; TRAIN_BYTES].into()).collect();
    let mut outgoing: Vec<Outgoing> = Vec::with_capacity(TRAINS_MAX);
    loop {
        let received = backend.receive(MESSAGES_PER_TURN, &mut |message| {
            for datagram in message.datagrams() {
                echo(message, datagram, trains, &mut free, &mut outgoing);
            }
        })?;
        free.extend(backend.submit(&mut outgoing).map(|sent| sent.buffer));
        if received == 0 {
            backend.wait(Duration::from_millis(250))?;
        }
    }
}

fn echo(
    message: &Received<'_>,
    datagram: &[u8],
    trains: bool,
    free: &mut Vec<Box<[u8]>>,
    outgoing: &mut Vec<Outgoing>,
) {
    let len = datagram.len();
    let joins = |train: &&mut Outgoing| {
        trains
            && train.to == message.from
            && usize::from(train.segment) == len
            && train.len as usize + len <= TRAIN_BYTES
    };
    if let Some(train) = outgoing.last_mut().filter(joins) {
        let start = train.len as usize;
        train.buffer[start..start + len].copy_from_slice(datagram);
        train.len += len as u32;
        return;
    }
    // A message of more datagrams than there are buffers is cut: the load never sends one.
    let Some(mut buffer) = free.pop() else { return };
    buffer[..len].copy_from_slice(datagram);
    let (to, from) = (message.from, message.to);
    outgoing.push(Outgoing { to, from, segment: len as u16, len: len as u32, buffer });
}
