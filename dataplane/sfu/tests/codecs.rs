//! What one line makes of packets in each codec, opened again on the receiving side.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails where it finds a fault")]

use std::time::{Duration, Instant};

use auralink_codecs::dependency::DependencyDescriptor;
use auralink_codecs::picture::Picture;
use auralink_codecs::vp9;
use auralink_proto::{
    Codec, ExtensionMap, ExtensionUri, H264Profile, MediaKind, Mid, PayloadMap, SendSection, ShardId, TrackId,
};
use auralink_rtc::egress::Egress;
use auralink_rtc::rtp::RtpHeader;
use auralink_rtc::srtp::{Profile, SrtpOpen, SrtpSeal};
use auralink_rtc::units::{Route, SeqNo};
use auralink_sfu::config::ShardConfig;
use auralink_sfu::formats::Outline;
use auralink_sfu::history::Packet;
use auralink_sfu::publisher::{Source, Track};
use auralink_sfu::stats::DropReason;
use auralink_sfu::subscriber::{Forwarded, Line, Sink};

const SSRC: u32 = 0x1234;
const H264: Codec = Codec::H264 { profile: H264Profile::ConstrainedBaseline, mode: 1 };
const VP9: Codec = Codec::Vp9 { profile: 0 };
const AV1: Codec = Codec::Av1 { profile: 0, tier: 0 };
/// Identifier of the dependency descriptor at the receiver.
const DEPENDENCY: u8 = 9;

fn payload(pt: u8, codec: Codec) -> PayloadMap {
    PayloadMap { pt, codec, rtx_pt: None, nack: true, pli: true, transport_cc: true }
}

/// A track of several layers, a line that follows it, and the client behind the line.
struct Scene {
    track: Track,
    line: Line,
    seal: SrtpSeal,
    open: SrtpOpen,
    egress: Egress,
    next_twcc: u16,
    now: Instant,
}

/// What a client got.
#[derive(Debug)]
struct Got {
    header: RtpHeader,
    payload: Vec<u8>,
    dependency: Option<Vec<u8>>,
}

impl Scene {
    fn new(kind: MediaKind, published: &[PayloadMap], offered: &[PayloadMap]) -> Self {
        let now = Instant::now();
        let source = Source::Local { transport: 0 };
        let mut track = Track::new(TrackId::new(ShardId(0), 1), kind, source, 2, &ShardConfig::default());
        track.formats.take(published, false);
        let mut extensions = ExtensionMap::default();
        extensions.set(ExtensionUri::DependencyDescriptor, DEPENDENCY);
        let section = SendSection {
            mid: Mid::new(b"0").unwrap(),
            kind,
            ssrc: SSRC,
            rtx_ssrc: None,
            payloads: offered.to_vec(),
            extensions,
            track: None,
        };
        let (key, salt) = ([7; 16], [9; 12]);
        let mut seal = SrtpSeal::new(Profile::AeadAes128Gcm, &key, &salt, 8).unwrap();
        let mut line = Line::new(now, &section, 500);
        line.register(&mut seal);
        line.follow(Some(0));
        line.map(&track.formats);
        Self {
            track,
            line,
            seal,
            open: SrtpOpen::new(Profile::AeadAes128Gcm, &key, &salt, 8).unwrap(),
            egress: Egress::new(4),
            next_twcc: 0,
            now,
        }
    }

    /// A packet of the publisher arrives, and is offered to the line.
    fn send(&mut self, layer: u8, seq: u64, format: u8, payload: &[u8]) -> Result<Got, Forwarded> {
        self.send_with(layer, seq, format, payload, None)
    }

    fn send_with(
        &mut self,
        layer: u8,
        seq: u64,
        format: u8,
        payload: &[u8],
        frame_number: Option<u16>,
    ) -> Result<Got, Forwarded> {
        self.now += Duration::from_millis(20);
        let mut packet = Packet::new(SeqNo(seq), seq as u32 * 3_000, true, self.now);
        packet.format = format;
        packet.len = payload.len() as u16;
        packet.outline = self.track.formats.outline(format, payload).unwrap();
        let mut passed = Vec::new();
        if let (Outline::Picture(picture), Some(number)) = (&mut packet.outline, frame_number) {
            *picture = Picture { frame_number, ..*picture };
            passed.extend([0, 3, 0xc0]);
            passed.extend(number.to_be_bytes());
        }
        packet.passed_len = passed.len() as u16;
        let history = &mut self.track.layers[usize::from(layer)].history;
        history.reserve(payload.len() + passed.len()).unwrap()[..payload.len()].copy_from_slice(payload);
        assert!(history.commit(payload.len() + passed.len(), 0, packet));
        history.passed_mut(SeqNo(seq)).unwrap().copy_from_slice(&passed);
        self.track.on_packet(self.now, layer, &packet);
        self.line.retarget(self.now, &self.track);
        self.offer(layer, seq)
    }

    fn offer(&mut self, layer: u8, seq: u64) -> Result<Got, Forwarded> {
        let Self { track, line, seal, open, egress, next_twcc, .. } = self;
        let route = Route::udp(([127, 0, 0, 1], 9).into(), None);
        let mut sink = Sink { seal, route, egress, owner: 0, next_twcc };
        let (packet, bytes) = track.layers[usize::from(layer)].history.find(SeqNo(seq)).unwrap();
        match line.forward(track, layer, packet, bytes, &mut sink) {
            Forwarded::Sent { .. } => {}
            other => return Err(other),
        }
        let train = egress.drain().next().unwrap();
        let datagram = train.bytes().to_vec();
        egress.give_back(train.buffer);
        let header = RtpHeader::parse(&datagram).unwrap();
        let mut payload = vec![0; datagram.len()];
        let (_, len) = open.open_rtp(&header, &datagram, &mut payload).unwrap();
        payload.truncate(len);
        let dependency = header.extension(&datagram, DEPENDENCY).map(<[u8]>::to_vec);
        Ok(Got { header, payload, dependency })
    }
}

#[test]
fn h264_layers_are_switched_where_parameters_are() {
    let mut scene =
        Scene::new(MediaKind::Video, &[payload(102, H264)], &[payload(96, Codec::Vp8), payload(125, H264)]);
    scene.line.intent.layer_max = 0;
    assert_eq!(scene.send(0, 70_000, 0, &[0x61, 1]).unwrap_err(), Forwarded::Filtered, "no key frame yet");
    let first = scene.send(0, 70_001, 0, &[0x67, 0x42, 1]).unwrap();
    assert_eq!((first.header.pt, first.header.seq, first.header.ssrc), (125, 500, SSRC));
    assert_eq!(scene.send(0, 70_002, 0, &[0x65, 2]).unwrap().header.seq, 501);
    scene.line.intent.layer_max = 1;
    for early in [&[0x61, 1][..], &[0x65, 1], &[0x7c, 0x85, 1], &[0x68, 1]] {
        let seq = 90_000 + u64::from(early[0]);
        assert_eq!(scene.send(1, seq, 0, early).unwrap_err(), Forwarded::Filtered, "{early:02x?}");
    }
    let still = scene.send(0, 70_003, 0, &[0x61, 3]).unwrap();
    let parameters = [0x78, 0, 2, 0x67, 0x42, 0, 2, 0x68, 0xce];
    let other = scene.send(1, 91_000, 0, &parameters).unwrap();
    assert_eq!((other.header.seq, &other.payload[..]), (still.header.seq + 1, &parameters[..]));
    assert!(other.header.timestamp.wrapping_sub(still.header.timestamp) < 90_000, "media time goes on");
    assert_ne!(other.header.timestamp, still.header.timestamp);
    assert_eq!(scene.send(0, 70_004, 0, &[0x61, 4]).unwrap_err(), Forwarded::Filtered);
    assert_eq!(scene.send(1, 91_001, 0, &[0x65, 5]).unwrap().header.seq, other.header.seq + 1);
}

/// A whole frame in one packet, with 15-bit picture id and TL0PICIDX.
fn vp9_frame(is_key: bool, id: u16, tl0: u8) -> [u8; 7] {
    let [high, low] = (id | 0x8000).to_be_bytes();
    [if is_key { 0xac } else { 0xec }, high, low, 0, tl0, 0x82, 0x49]
}

#[test]
fn vp9_picture_ids_continue_over_layers() {
    let mut scene = Scene::new(MediaKind::Video, &[payload(98, VP9)], &[payload(35, VP9)]);
    scene.line.intent.layer_max = 0;
    let ids = |got: &Got| {
        let read = vp9::Descriptor::parse(&got.payload).unwrap();
        (read.picture_id.unwrap().value, read.tl0_picture_index.unwrap())
    };
    assert_eq!(ids(&scene.send(0, 1_000, 0, &vp9_frame(true, 0x7ffe, 254)).unwrap()), (0x7ffe, 254));
    assert_eq!(ids(&scene.send(0, 1_001, 0, &vp9_frame(false, 0x7fff, 255)).unwrap()), (0x7fff, 255));
    scene.line.intent.layer_max = 1;
    assert_eq!(scene.send(1, 5_000, 0, &vp9_frame(false, 20, 3)).unwrap_err(), Forwarded::Filtered);
    let switched = scene.send(1, 5_001, 0, &vp9_frame(true, 21, 4)).unwrap();
    assert_eq!((ids(&switched), switched.header.seq, switched.header.pt), ((0, 0), 502, 35));
    assert_eq!(switched.payload, vp9_frame(true, 0, 0));
    assert_eq!(ids(&scene.send(1, 5_002, 0, &vp9_frame(false, 22, 5)).unwrap()), (1, 1));
    // A later spatial layer of the same picture is another frame of it.
    let upper = [0xa9, 0x80, 23, 0x02, 6, 0x82];
    assert_eq!(scene.send(1, 5_003, 0, &upper).unwrap().payload, [0xa9, 0x80, 2, 0x02, 2, 0x82]);
    // Flexible mode has no TL0PICIDX.
    let flexible = [0x9c, 0x80, 24, 0x82];
    assert_eq!(scene.send(1, 5_004, 0, &flexible).unwrap().payload, [0x9c, 0x80, 3, 0x82]);
}

#[test]
fn av1_frame_numbers_continue_in_the_receivers_dependency_descriptor() {
    let mut scene = Scene::new(MediaKind::Video, &[payload(45, AV1)], &[payload(41, AV1)]);
    scene.line.intent.layer_max = 0;
    let number = |got: Got| {
        DependencyDescriptor::parse(&got.dependency.unwrap()).map(|dependency| dependency.frame_number)
    };
    assert_eq!(number(scene.send_with(0, 1_000, 0, &[0x18, 0x0a], Some(0xffff)).unwrap()), Some(0xffff));
    scene.line.intent.layer_max = 1;
    let switched = scene.send_with(1, 7_000, 0, &[0x18, 0x0a], Some(300)).unwrap();
    assert_eq!(switched.payload, [0x18, 0x0a], "the payload is nobody's to change");
    assert_eq!(number(switched), Some(0));
    assert_eq!(number(scene.send_with(1, 7_001, 0, &[0x10, 0x32], Some(301)).unwrap()), Some(1));
    assert_eq!(scene.send(1, 7_002, 0, &[0x10, 0x32]).unwrap().dependency, None);
}

#[test]
fn a_codec_the_receiver_lacks_is_dropped_by_name_and_the_stream_goes_on() {
    let published = [payload(96, Codec::Vp8), payload(45, AV1)];
    let mut scene = Scene::new(MediaKind::Video, &published, &[payload(120, Codec::Vp8)]);
    let key = [0x10, 0x00, 1];
    assert_eq!(scene.send(0, 10, 0, &key).unwrap().header.pt, 120);
    let unsupported = Forwarded::Dropped(DropReason::CodecUnsupported);
    assert_eq!(scene.send(0, 11, 1, &[0x18, 0x0a]).unwrap_err(), unsupported);
    let again = scene.send(0, 12, 0, &key).unwrap();
    assert_eq!((again.header.pt, again.header.seq), (120, 502), "the gap is the receiver's to see");
    // Once it can, it does.
    let section = SendSection {
        mid: Mid::new(b"0").unwrap(),
        kind: MediaKind::Video,
        ssrc: SSRC,
        rtx_ssrc: None,
        payloads: vec![payload(120, Codec::Vp8), payload(99, AV1)],
        extensions: ExtensionMap::default(),
        track: None,
    };
    assert!(scene.line.update(&section) && !scene.line.update(&section));
    scene.line.map(&scene.track.formats);
    assert_eq!(scene.send(0, 13, 1, &[0x18, 0x0a]).unwrap().header.pt, 99);
}

#[test]
fn redundant_audio_arrives_as_its_receiver_knows_it() {
    let published = [payload(63, Codec::Red), payload(111, Codec::Opus)];
    let red = [0xef, 0x0f, 0x00, 0x02, 0x6f, 1, 2, 3, 4];
    let arrives = |offered: &[PayloadMap]| {
        let mut scene = Scene::new(MediaKind::Audio, &published, offered);
        let got = scene.send(0, 10, 0, &red).unwrap();
        // The publisher goes over to what is inside, and back.
        let plain = scene.send(0, 11, 1, &[5, 6]).unwrap();
        let back = scene.send(0, 12, 0, &red).unwrap();
        assert_eq!((plain.payload, back.header.seq), (vec![5, 6], 502));
        assert_eq!((back.header.pt, &back.payload), (got.header.pt, &got.payload));
        assert_eq!(
            scene.track.layers[0].history.find(SeqNo(10)).unwrap().1,
            red,
            "what is kept is untouched"
        );
        (got.header.pt, plain.header.pt, got.payload)
    };
    assert_eq!(arrives(&published), (63, 111, red.to_vec()));
    let renumbered = vec![0xe0, 0x0f, 0x00, 0x02, 0x60, 1, 2, 3, 4];
    assert_eq!(arrives(&[payload(96, Codec::Opus), payload(97, Codec::Red)]), (97, 96, renumbered));
    assert_eq!(arrives(&[payload(96, Codec::Opus)]), (96, 96, vec![3, 4]));
}

#[test]
fn a_stream_of_several_spatial_layers_is_forwarded_whole_from_its_key_picture() {
    let mut scene = Scene::new(MediaKind::Video, &[payload(98, VP9)], &[payload(98, VP9)]);
    // I L B E, the layers' indices, TL0PICIDX: three spatial layers of one picture, the upper ones predicted from below.
    let picture = |predicted: u8, spatial: u8| {
        let above = if spatial > 0 { 1 } else { 0 };
        [0xac | predicted, 0x80, 7, spatial << 1 | above, 9, 0x82]
    };
    for spatial in [1, 2] {
        let upper = scene.send(0, 100 + u64::from(spatial), 0, &picture(0, spatial));
        assert_eq!(upper.unwrap_err(), Forwarded::Filtered, "layer {spatial} alone is no key picture");
    }
    for (seq, predicted, spatial) in [(110, 0, 0), (111, 0, 1), (112, 0, 2), (113, 0x40, 0), (114, 0x40, 1)] {
        let sent = picture(predicted, spatial);
        let got = scene.send(0, seq, 0, &sent).unwrap();
        assert_eq!((u64::from(got.header.seq), &got.payload[..]), (500 + seq - 110, &sent[..]));
    }
}

#[test]
fn a_stream_without_another_key_frame_goes_on_over_wraps_and_jumps() {
    let mut scene = Scene::new(MediaKind::Video, &[payload(102, H264)], &[payload(125, H264)]);
    let mut seq = 65_000;
    let mut last = scene.send(0, seq, 0, &[0x67, 0x42, 1]).unwrap().header;
    // A layer is wished for that never has a key frame.
    scene.line.intent.layer_max = 1;
    assert_eq!(scene.send(1, 9, 0, &[0x61, 1]).unwrap_err(), Forwarded::Filtered);
    for count in 1..=140_000_u32 {
        seq += if count % 20_000 == 0 { 30_000 } else { 1 };
        let got = scene.send(0, seq, 0, &[0x61, count as u8]).unwrap();
        assert_eq!(got.payload, [0x61, count as u8], "packet {count} opens as what it was");
        let ahead = got.header.seq.wrapping_sub(last.seq);
        assert!((1..=30_000).contains(&ahead), "packet {count} is {ahead} ahead");
        last = got.header;
    }
}
