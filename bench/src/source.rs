//! A camera as a browser sends it: one VP8 layer, a frame of several packets 25 times a second, a keyframe when asked.

use std::time::{Duration, Instant};

use auralink_rtc::rtp::{RtpFields, write_header};
use auralink_rtc::srtp::{SealStream, SrtpSeal};
use auralink_rtc::units::SeqNo;
use auralink_sim::media::{self, Identity};
use auralink_sim::publish::{MID, TWCC, VIDEO_PT};

/// A whole number of frames fits into every interval of the shard's timers, so that 25 frames hold exactly one report to each
/// subscriber and counts can be repeated.
pub const FRAME_INTERVAL: Duration = Duration::from_millis(40);
/// Apart from everything the simulated clients use.
const SSRC: u32 = 0x0f00_0001;
/// Of the 90 kHz clock.
const TICKS_PER_FRAME: u32 = 90 * FRAME_INTERVAL.as_millis() as u32;

/// What each frame looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameShape {
    pub packets: usize,
    /// Bytes of VP8 payload in each packet, its descriptor included.
    pub payload_len: usize,
    /// Leading packets that are a byte shorter: libwebrtc splits a frame that does not divide evenly like this.
    pub shorter: usize,
}

impl FrameShape {
    /// The frames all numbers are quoted for: nine packets of 1.1 kB.
    pub const QUOTED: Self = Self { packets: 9, payload_len: 1_100, shorter: 0 };
}

pub struct FrameSource {
    shape: FrameShape,
    stream: Option<SealStream>,
    seq: SeqNo,
    frame: u32,
    twcc: u16,
    next_frame: Instant,
    /// The receiver cannot go on without a keyframe. The first frame is one.
    pub wants_keyframe: bool,
}

impl FrameSource {
    pub fn new(now: Instant, shape: FrameShape) -> Self {
        Self {
            shape,
            stream: None,
            // Wraps soon: a measurement that starts there has it behind itself.
            seq: SeqNo::first(0xfff0),
            frame: 0,
            twcc: 0,
            next_frame: now,
            wants_keyframe: true,
        }
    }

    /// The next frame's packets, when it is due.
    pub fn poll(&mut self, now: Instant, seal: &mut SrtpSeal, out: &mut Vec<Vec<u8>>) {
        if now < self.next_frame {
            return;
        }
        self.next_frame = (self.next_frame + FRAME_INTERVAL).max(now);
        self.frame += 1;
        let is_keyframe = std::mem::take(&mut self.wants_keyframe);
        for packet in 0..self.shape.packets {
            out.push(self.seal_packet(packet, is_keyframe, seal));
        }
    }

    fn seal_packet(&mut self, packet: usize, is_keyframe: bool, seal: &mut SrtpSeal) -> Vec<u8> {
        let stream = *self.stream.get_or_insert_with(|| seal.stream(SSRC).unwrap());
        let identity = Identity {
            client: 0,
            video: true,
            layer: 0,
            seq: self.seq.0,
            frame: self.frame,
            keyframe_start: is_keyframe && packet == 0,
        };
        let payload_len = self.shape.payload_len - usize::from(packet < self.shape.shorter);
        let payload = media::write(&identity, packet == 0, payload_len);
        let fields = RtpFields {
            marker: packet + 1 == self.shape.packets,
            padding: false,
            pt: VIDEO_PT,
            seq: self.seq.wire(),
            timestamp: self.frame.wrapping_mul(TICKS_PER_FRAME),
            ssrc: SSRC,
        };
        let twcc = self.twcc.to_be_bytes();
        let mut place = vec![0; 64];
        let header_len = write_header(&mut place, &fields, &[(MID, b"1"), (TWCC, &twcc)]).unwrap();
        place.truncate(header_len);
        place.resize(header_len + payload.len() + seal.overhead_rtp(), 0);
        seal.seal_rtp(stream, self.seq, header_len, &payload, &mut place).unwrap();
        self.seq.0 += 1;
        self.twcc = self.twcc.wrapping_add(1);
        place
    }
}
