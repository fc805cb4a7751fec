//! Data channels between two ends without DTLS in between, one of them hostile.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

struct Ends {
    now: Instant,
    server: Sctp,
    client: Sctp,
    /// Every packet the client sent.
    sent: Vec<Bytes>,
}

impl Ends {
    fn new() -> Self {
        let mut ends = Self {
            now: Instant::now(),
            server: Sctp::new(DtlsRole::Server),
            client: Sctp::new(DtlsRole::Client),
            sent: Vec::new(),
        };
        ends.server.start();
        ends.client.start();
        ends
    }

    fn connected() -> Self {
        let mut ends = Self::new();
        ends.client.open("data", true, Reliability::Reliable).unwrap();
        ends.run(50);
        let open = |event| matches!(event, Some(SctpEvent::ChannelOpen { id: 0, .. }));
        assert!(open(ends.server.poll_event()) && open(ends.client.poll_event()));
        ends
    }

    /// Carries packets for so many rounds of 20 ms.
    fn run(&mut self, rounds: u32) {
        for _ in 0..rounds {
            while let Some(packets) = self.client.poll_transmit(self.now) {
                for packet in packets {
                    self.server.handle_packet(self.now, &packet);
                    self.sent.push(packet);
                }
            }
            while let Some(packets) = self.server.poll_transmit(self.now) {
                packets.iter().for_each(|packet| self.client.handle_packet(self.now, packet));
            }
            self.now += MS * 20;
            self.server.handle_timeout(self.now);
            self.client.handle_timeout(self.now);
        }
    }

    /// Writes past our own checks, as a hostile client can.
    fn write(&mut self, id: u16, ppi: PayloadProtocolIdentifier, bytes: &[u8]) {
        let (_, association) = self.client.association.as_mut().unwrap();
        association.set_max_send_message_size(1 << 20);
        let mut stream = match association.stream(id) {
            Ok(stream) => stream,
            Err(_) => association.open_stream(id, ppi).unwrap(),
        };
        stream.write_with_ppi(bytes, ppi).unwrap();
    }
}

fn messages(sctp: &mut Sctp) -> usize {
    let events = std::iter::from_fn(|| sctp.poll_event());
    events.filter(|event| matches!(event, SctpEvent::Message { .. })).count()
}

/// Makes the checksum of a changed packet right again (CRC-32C, RFC 9260 appendix A).
fn fix_checksum(packet: &mut [u8]) {
    if packet.len() < 12 {
        return;
    }
    packet[8..12].fill(0);
    let crc = !packet.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
    });
    packet[8..12].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn a_message_over_the_limit_ends_the_association_not_the_peer() {
    let mut ends = Ends::connected();
    ends.write(0, PayloadProtocolIdentifier::Binary, &vec![1; MESSAGE_BYTES_MAX + 1]);
    ends.run(200);
    let events: Vec<_> = std::iter::from_fn(|| ends.server.poll_event()).collect();
    assert!(!events.iter().any(|event| matches!(event, SctpEvent::Message { .. })), "{events:?}");
    assert_eq!(events, [SctpEvent::Lost]);
}

#[test]
fn channels_over_the_limit_are_refused_and_counted() {
    let mut ends = Ends::connected();
    let open = dcep::write_open("more", true, Reliability::Reliable);
    for id in (2..100).step_by(2) {
        ends.write(id, PayloadProtocolIdentifier::Dcep, &open);
    }
    ends.run(200);
    assert_eq!(ends.server.channels.len(), CHANNELS_MAX);
    let refused = (2..100).step_by(2).count() - (CHANNELS_MAX - 1);
    assert_eq!(ends.server.drops().too_many_channels as usize, refused);
    assert!(ends.server.is_established);
}

#[test]
fn broken_opens_and_stray_messages_are_counted() {
    let mut ends = Ends::connected();
    ends.write(2, PayloadProtocolIdentifier::Dcep, &[9; 30]);
    ends.write(
        4,
        PayloadProtocolIdentifier::Dcep,
        &dcep::write_open(&"x".repeat(300), true, Reliability::Reliable),
    );
    ends.write(6, PayloadProtocolIdentifier::Binary, b"no channel");
    ends.write(0, PayloadProtocolIdentifier::Dcep, &dcep::ACK);
    ends.write(0, PayloadProtocolIdentifier::String, b"\xff not text");
    ends.write(0, PayloadProtocolIdentifier::Binary, b"fine");
    ends.run(50);
    assert_eq!(messages(&mut ends.server), 1);
    let expected = SctpDrops { too_many_channels: 0, malformed_opens: 2, stray_messages: 3 };
    assert_eq!(ends.server.drops(), expected);
}

#[test]
fn messages_nobody_reads_close_the_window_and_are_not_lost() {
    let mut ends = Ends::connected();
    for _ in 0..16 {
        ends.client.send(0, true, &[1; 60_000]).unwrap();
    }
    ends.run(500);
    assert!(ends.server.queued_bytes <= QUEUED_BYTES_MAX + MESSAGE_BYTES_MAX);
    assert!(ends.client.buffered(0) > 300_000, "{} bytes wait at the sender", ends.client.buffered(0));
    let mut read = 0;
    for _ in 0..200 {
        read += messages(&mut ends.server);
        ends.run(20);
    }
    assert_eq!(read, 16);
}

#[test]
fn small_messages_nobody_reads_are_bounded_by_number() {
    let mut ends = Ends::connected();
    for _ in 0..1_000 {
        ends.client.send(0, true, &[1]).unwrap();
    }
    ends.run(200);
    assert!(ends.server.events.len() <= EVENTS_MAX);
    assert_eq!(messages(&mut ends.server), 1_000);
}

#[test]
fn a_second_association_costs_nothing() {
    let mut ends = Ends::connected();
    for _ in 0..50 {
        let mut other = Sctp::new(DtlsRole::Client);
        other.start();
        let init = other.poll_transmit(ends.now).unwrap();
        init.iter().for_each(|packet| ends.server.handle_packet(ends.now, packet));
    }
    ends.client.send(0, true, b"still here").unwrap();
    ends.run(10);
    assert_eq!(messages(&mut ends.server), 1);
}

#[test]
fn every_truncation_is_survived() {
    let ends = Ends::connected();
    for upto in 0..ends.sent.len() {
        for len in 0..ends.sent[upto].len() {
            let mut server = Sctp::new(DtlsRole::Server);
            ends.sent[..upto].iter().for_each(|packet| server.handle_packet(ends.now, packet));
            let mut packet = ends.sent[upto][..len].to_vec();
            fix_checksum(&mut packet);
            server.handle_packet(ends.now, &packet);
            server.handle_timeout(ends.now + MS);
            while server.poll_transmit(ends.now).is_some() {}
        }
    }
}

proptest! {
    #[test]
    fn changed_packets_with_a_right_checksum_are_survived(
        changes in proptest::collection::vec((any::<u16>(), any::<u16>(), any::<u8>()), 1..12)
    ) {
        let mut ends = Ends::connected();
        ends.client.send(0, true, &[7; 3_000]).unwrap();
        let originals: Vec<Vec<u8>> = ends.sent.iter().map(|packet| packet.to_vec()).collect();
        for (which, at, value) in changes {
            let mut packet = originals[usize::from(which) % originals.len()].clone();
            // The ports and the verification tag stay, so that the packet is looked at.
            let span = packet.len() - 12;
            packet[12 + usize::from(at) % span] = value;
            fix_checksum(&mut packet);
            ends.server.handle_packet(ends.now, &packet);
            ends.run(2);
        }
        ends.run(20);
        messages(&mut ends.server);
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let mut ends = Ends::new();
        let mut packet = bytes;
        fix_checksum(&mut packet);
        ends.server.handle_packet(ends.now, &packet);
        while ends.server.poll_transmit(ends.now).is_some() {}
    }
}
