//! `floor-sender`: the least a server must do, and nothing else: seal each packet for each destination and give it to the
//! kernel, in trains where the schedule allows. Started by `floor`; its processor time is what servers are compared with.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{BufRead as _, Read as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use auralink_ring::client::{Destination, Message, monotonic_ns, send_batch, send_message};
use auralink_rtc::rtp::{RtpFields, write_header};
use auralink_rtc::srtp::{SealStream, SrtpOpen, SrtpSeal};
use auralink_rtc::units::SeqNo;
use serde::{Deserialize, Serialize};

use super::payload::{self, FrameNumbers, Kind, Stamp};
use super::run::PROFILE;
use super::schedule::{Cursor, Schedule, Step, start_ns};
use crate::sdp::{MID_ID, OPUS_PT, TWCC_ID, VP8_PT};

/// A send holds at most this much: the largest UDP payload.
const TRAIN_BYTES_MAX: usize = 65_507;
const SEGMENTS_MAX: usize = 64;
/// Sealed bytes of one call: a train, or one datagram to each of a batch.
const OUT_BYTES: usize = 128 * 1024;
const SEND_BUFFER_LOOK: Duration = Duration::from_millis(20);
/// Header of 12 bytes, extension head of 4, MID of 2 and transport-wide number of 3, filled up to words.
const HEADER_LEN: usize = 24;
const TAG_LEN: usize = 16;

/// What is to be sent to whom.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) schedule: Schedule,
    pub(crate) origin_ns: u64,
    /// By publisher: its destinations, as places in `destinations`.
    pub(crate) publishers: Vec<Vec<usize>>,
    pub(crate) destinations: Vec<SocketAddr>,
}

/// What it says at its end.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) packets: u64,
    pub(crate) sends: u64,
    /// Packets the kernel did not take.
    pub(crate) unsent: u64,
}

/// Seals and sends, and nothing else.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct FloorSender {
    #[arg(long)]
    bind: IpAddr,
    #[arg(long)]
    cpu: Option<usize>,
}

impl FloorSender {
    pub(crate) fn run(&self) -> Result<()> {
        if let Some(cpu) = self.cpu {
            auralink_ring::pin_to(cpu).with_context(|| format!("cannot use CPU {cpu}"))?;
        }
        let options = auralink_ring::SocketOptions { buffer_bytes: 8 << 20, reuse_port: false };
        let socket = auralink_ring::bind(SocketAddr::new(self.bind, 0), options)?.socket;
        crate::output::print(&format!("{}\n", socket.local_addr()?.port()))?;
        let mut input = std::io::stdin().lock();
        let mut line = String::new();
        input.read_line(&mut line).context("no plan")?;
        drop(input);
        let plan: Plan = serde_json::from_str(&line).context("unreadable plan")?;
        let stop = stop_with_input();
        let outcome = Sender::new(plan, socket)?.run(&stop);
        crate::output::print(&format!("{}\n", serde_json::to_string(&outcome)?))
    }
}

/// Set once whoever started us closes our input.
fn stop_with_input() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&stop);
    std::thread::spawn(move || {
        // Whatever ends it, ends us.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        set.store(true, Ordering::Relaxed);
    });
    stop
}

/// The key of a destination: secret from nobody, different for each.
fn keys(place: usize) -> ([u8; 16], [u8; 12]) {
    let key = std::array::from_fn(|i| (place.wrapping_mul(2_654_435_761) >> (i % 4 * 8)) as u8 ^ i as u8);
    (key, std::array::from_fn(|i| (place >> (i % 4 * 8)) as u8 ^ 0xa5))
}

/// What opens the packets of a destination.
pub(crate) fn opener(place: usize) -> Result<SrtpOpen> {
    let (key, salt) = keys(place);
    Ok(SrtpOpen::new(PROFILE, &key, &salt, 64)?)
}

struct Peer {
    to: Destination,
    seal: SrtpSeal,
    /// By publisher heard.
    streams: Vec<(usize, SealStream)>,
}

struct Publisher {
    cursor: Cursor,
    destinations: Vec<usize>,
    seq: SeqNo,
    index: u64,
    numbers: FrameNumbers,
}

/// One packet of a train that is being built: its header without what differs by destination, and its payload.
struct Packet {
    seq: SeqNo,
    header: [u8; HEADER_LEN],
    payload: std::ops::Range<usize>,
}

struct Sender {
    socket: UdpSocket,
    peers: Vec<Peer>,
    publishers: Vec<Publisher>,
    due: BinaryHeap<Reverse<(u64, usize)>>,
    packets: Vec<Packet>,
    payloads: Vec<u8>,
    out: Vec<u8>,
    outcome: Outcome,
}

impl Sender {
    fn new(plan: Plan, socket: UdpSocket) -> Result<Self> {
        let schedule = Arc::new(plan.schedule);
        let mut peers = Vec::new();
        for (place, address) in plan.destinations.iter().enumerate() {
            let (key, salt) = keys(place);
            let mut seal = SrtpSeal::new(PROFILE, &key, &salt, 1_024)?;
            let heard = plan.publishers.iter().enumerate().filter(|(_, to)| to.contains(&place));
            let mut streams = Vec::new();
            for (publisher, _) in heard {
                streams.push((publisher, seal.stream(ssrc(publisher))?));
            }
            peers.push(Peer { to: Destination::from(*address), seal, streams });
        }
        let mut publishers = Vec::new();
        for (at, destinations) in plan.publishers.into_iter().enumerate() {
            let start_ns = start_ns(plan.origin_ns, schedule.cycle_ns, at);
            let mut cursor = Cursor::new(Arc::clone(&schedule), start_ns);
            cursor.skip_until(monotonic_ns());
            let numbers = FrameNumbers::default();
            publishers.push(Publisher { cursor, destinations, seq: SeqNo::first(1), index: 0, numbers });
        }
        let due = publishers.iter().enumerate().map(|(at, p)| Reverse((p.cursor.due_ns(), at))).collect();
        Ok(Self {
            socket,
            peers,
            publishers,
            due,
            packets: Vec::new(),
            payloads: Vec::new(),
            out: vec![0; OUT_BYTES],
            outcome: Outcome::default(),
        })
    }

    fn run(mut self, stop: &AtomicBool) -> Outcome {
        while !stop.load(Ordering::Relaxed) {
            let now_ns = monotonic_ns();
            let Some(Reverse((due_ns, at))) = self.due.peek().copied() else { break };
            if due_ns > now_ns {
                std::thread::sleep(Duration::from_nanos(due_ns - now_ns).min(SEND_BUFFER_LOOK));
                continue;
            }
            self.due.pop();
            self.build(at, due_ns);
            self.send_all(at);
            if let Some(publisher) = self.publishers.get(at) {
                self.due.push(Reverse((publisher.cursor.due_ns(), at)));
            }
        }
        self.outcome
    }

    /// Everything of one publisher that is due at the same time.
    fn build(&mut self, at: usize, due_ns: u64) {
        self.packets.clear();
        self.payloads.clear();
        let Some(publisher) = self.publishers.get_mut(at) else { return };
        while publisher.cursor.due_ns() == due_ns {
            let Some((step, timestamp)) = publisher.cursor.take() else { break };
            let kind = publisher.cursor.schedule.kind;
            let payload = publisher.write_payload(at, kind, step, due_ns, &mut self.payloads);
            let fields = RtpFields {
                marker: step.marker,
                padding: false,
                pt: if kind == Kind::Video { VP8_PT } else { OPUS_PT },
                seq: publisher.seq.wire(),
                timestamp,
                ssrc: ssrc(at),
            };
            let mut header = [0; HEADER_LEN];
            let number = publisher.seq.wire().to_be_bytes();
            let written = write_header(&mut header, &fields, &[(MID_ID, b"0"), (TWCC_ID, &number)]);
            debug_assert_eq!(written, Some(HEADER_LEN));
            self.packets.push(Packet { seq: publisher.seq, header, payload });
            publisher.seq.0 += 1;
        }
    }

    /// Trains where packets allow, else one datagram to each destination and batches of those.
    fn send_all(&mut self, at: usize) {
        let mut start = 0;
        while start < self.packets.len() {
            let end = start + self.train_len(start);
            if end - start > 1 {
                self.send_trains(at, start..end);
            } else {
                self.send_singles(at, start);
            }
            start = end;
        }
    }

    /// How many packets from `start` fit one segmented send: equal sizes, the last one may be shorter.
    fn train_len(&self, start: usize) -> usize {
        let Some(first) = self.packets.get(start).map(|packet| packet.payload.len()) else { return 0 };
        let size = HEADER_LEN + first + TAG_LEN;
        let max = (TRAIN_BYTES_MAX / size).clamp(1, SEGMENTS_MAX);
        let mut len = 0;
        for packet in self.packets.iter().skip(start).take(max) {
            if packet.payload.len() > first {
                break;
            }
            len += 1;
            if packet.payload.len() < first {
                break;
            }
        }
        len
    }

    fn send_trains(&mut self, at: usize, train: std::ops::Range<usize>) {
        let Some(publisher) = self.publishers.get(at) else { return };
        let packets = self.packets.get(train).unwrap_or_default();
        let segment = packets.first().map_or(0, |packet| HEADER_LEN + packet.payload.len() + TAG_LEN) as u16;
        for place in &publisher.destinations {
            let Some(peer) = self.peers.get_mut(*place) else { continue };
            let len = peer.seal_all(at, packets, &self.payloads, &mut self.out);
            let bytes = self.out.get(..len).unwrap_or_default();
            let message = Message { to: Some(&peer.to), bytes, segment: Some(segment) };
            self.outcome.sends += 1;
            match send_message(&self.socket, &message) {
                Ok(()) => self.outcome.packets += packets.len() as u64,
                Err(_) => self.outcome.unsent += packets.len() as u64,
            }
        }
    }

    fn send_singles(&mut self, at: usize, packet: usize) {
        let Some(publisher) = self.publishers.get(at) else { return };
        let packets = self.packets.get(packet..=packet).unwrap_or_default();
        let size = packets.first().map_or(0, |packet| HEADER_LEN + packet.payload.len() + TAG_LEN);
        for places in publisher.destinations.chunks(SEGMENTS_MAX) {
            for (place, out) in places.iter().zip(self.out.chunks_mut(size.max(1))) {
                if let Some(peer) = self.peers.get_mut(*place) {
                    peer.seal_all(at, packets, &self.payloads, out);
                }
            }
            let sealed = places.iter().zip(self.out.chunks(size.max(1)));
            let messages = sealed.filter_map(|(place, bytes)| {
                Some(Message { to: Some(&self.peers.get(*place)?.to), bytes, segment: None })
            });
            let messages: Vec<Message<'_>> = messages.collect();
            let taken = send_batch(&self.socket, &messages).unwrap_or(0) as u64;
            self.outcome.sends += 1;
            self.outcome.packets += taken;
            self.outcome.unsent += messages.len() as u64 - taken;
        }
    }
}

impl Publisher {
    fn write_payload(
        &mut self,
        publisher: usize,
        kind: Kind,
        step: Step,
        due_ns: u64,
        payloads: &mut Vec<u8>,
    ) -> std::ops::Range<usize> {
        if step.frame_start {
            self.numbers.picture_id = (self.numbers.picture_id + 1) & 0x7fff;
            self.numbers.tl0 = self.numbers.tl0.wrapping_add(1);
        }
        let stamp = Stamp {
            publisher: publisher as u32,
            index: self.index,
            // When the packet came to be, so that waiting behind others counts.
            sent_ns: due_ns,
            len: step.len,
            keyframe: step.keyframe,
            frame_start: step.frame_start,
            marker: step.marker,
        };
        self.index += 1;
        let start = payloads.len();
        payloads.resize(start + usize::from(step.len), 0);
        if let Some(place) = payloads.get_mut(start..) {
            payload::write(kind, &stamp, self.numbers, place);
        }
        start..payloads.len()
    }
}

impl Peer {
    /// Seals packets back to back into `out`; the bytes used.
    fn seal_all(&mut self, publisher: usize, packets: &[Packet], payloads: &[u8], out: &mut [u8]) -> usize {
        let Some((_, stream)) = self.streams.iter().find(|(heard, _)| *heard == publisher) else { return 0 };
        let mut len = 0;
        for packet in packets {
            let payload = payloads.get(packet.payload.clone()).unwrap_or_default();
            let end = len + HEADER_LEN + payload.len() + TAG_LEN;
            let Some(place) = out.get_mut(len..end) else { return len };
            if let Some(header) = place.first_chunk_mut() {
                *header = packet.header;
            }
            // Refused only for a number used before, which `seq` never is.
            let sealed = self.seal.seal_rtp(*stream, packet.seq, HEADER_LEN, payload, place);
            debug_assert_eq!(sealed, Ok(()));
            len = end;
        }
        len
    }
}

fn ssrc(publisher: usize) -> u32 {
    0x4600_0000 + publisher as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_one_train_and_a_shorter_packet_ends_it() {
        // Its cycle, and with it a keyframe, begins in a second.
        let schedule = Schedule::burst();
        let plan = Plan {
            origin_ns: monotonic_ns() + 1_000_000_000 + schedule.cycle_ns,
            schedule,
            publishers: vec![vec![0]],
            destinations: vec!["127.0.0.1:9".parse().unwrap()],
        };
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sender = Sender::new(plan, socket).unwrap();
        let due_ns = sender.publishers[0].cursor.due_ns();
        sender.build(0, due_ns);
        assert_eq!((sender.packets.len(), sender.train_len(0)), (45, 45));
        sender.packets[9].payload.end -= 1;
        assert_eq!((sender.train_len(0), sender.train_len(9)), (10, 1));
    }

    #[test]
    fn what_it_seals_the_sinks_open() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let plan = Plan {
            schedule: Schedule::burst(),
            origin_ns: monotonic_ns(),
            publishers: vec![vec![1]],
            destinations: vec!["127.0.0.1:9".parse().unwrap(), receiver.local_addr().unwrap()],
        };
        let mut sender = Sender::new(plan, UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        let due_ns = sender.publishers[0].cursor.due_ns();
        sender.build(0, due_ns);
        sender.send_all(0);
        assert!(sender.outcome.packets >= 9 && sender.outcome.unsent == 0, "{:?}", sender.outcome);
        assert!(sender.outcome.sends == 1);
        let mut open = opener(1).unwrap();
        let (mut bytes, mut payload) = ([0; 2_000], [0; 2_000]);
        for index in 0..sender.outcome.packets {
            let len = receiver.recv(&mut bytes).unwrap();
            let header = auralink_rtc::rtp::RtpHeader::parse(&bytes[..len]).unwrap();
            let (_, len) = open.open_rtp(&header, &bytes[..len], &mut payload).unwrap();
            assert_eq!(payload::verify(Kind::Video, &payload[..len]).unwrap().index, index);
        }
    }
}
