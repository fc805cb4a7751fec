//! `record`: joins a room as a subscriber and writes when which video packet of what size came, for `--pattern trace`.
//!
//! What is recorded is what the server sends on. It keeps sizes, and the order and distance of frames; packets of one frame may
//! stand closer together than they left the publisher.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use auralink_codecs::vp8::Descriptor;
use auralink_rtc::dtls::Certificate;
use auralink_rtc::rtp::{RtpHeader, padding_len};
use auralink_rtc::srtp::SrtpOpen;
use auralink_rtc::units::SeqNo;

use super::link::lock;
use super::payload::Kind;
use super::receiver::{Receiver, Settings};
use super::schedule::Step;
use super::session::{Session, SessionConfig};
use super::stage::is_set;
use super::stream::Incoming;
use super::trace;
use super::tracks::Publish;
use crate::target::Target;

/// Writes a trace of the video somebody publishes.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Record {
    #[command(flatten)]
    target: Target,
    /// Seconds recorded.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// File to write.
    #[arg(long)]
    out: PathBuf,
    /// What stands in the file's first line.
    #[arg(long, default_value = "VP8 as received from a server")]
    about: String,
    /// Who records.
    #[arg(long, default_value = "recorder")]
    identity: String,
}

/// One video packet.
#[derive(Clone, Copy, Debug)]
struct Recorded {
    arrival_ns: u64,
    len: u16,
    timestamp: u32,
    marker: bool,
    frame_start: bool,
    keyframe_start: bool,
}

/// Packets by stream and number.
#[derive(Debug, Default)]
pub(crate) struct Recorder(Mutex<BTreeMap<u32, BTreeMap<u64, Recorded>>>);

impl Recorder {
    /// Notes a video packet; repairs are of the network, not of the publisher.
    pub(crate) fn on_packet(
        &self,
        open: &mut SrtpOpen,
        kind: Incoming,
        arrival_ns: u64,
        header: &RtpHeader,
        bytes: &[u8],
        scratch: &mut [u8],
    ) {
        if kind != Incoming::Media(Kind::Video) {
            return;
        }
        let Ok((seq, mut len)) = open.open_rtp(header, bytes, scratch) else { return };
        if header.padding {
            len -= padding_len(scratch.get(..len).unwrap_or_default()).unwrap_or(len);
        }
        let Some(descriptor) = scratch.get(..len).and_then(Descriptor::parse) else { return };
        let recorded = Recorded {
            arrival_ns,
            len: len as u16,
            timestamp: header.timestamp,
            marker: header.marker,
            frame_start: descriptor.frame_start,
            keyframe_start: descriptor.keyframe_start,
        };
        self.note(header.ssrc, seq, recorded);
    }

    fn note(&self, ssrc: u32, seq: SeqNo, recorded: Recorded) {
        lock(&self.0).entry(ssrc).or_default().insert(seq.0, recorded);
    }

    /// The stream that carried most bytes, as steps.
    fn steps(&self) -> Vec<Step> {
        let streams = lock(&self.0);
        let bytes =
            |packets: &BTreeMap<u64, Recorded>| packets.values().map(|p| u64::from(p.len)).sum::<u64>();
        let Some(packets) = streams.values().max_by_key(|packets| bytes(packets)) else { return Vec::new() };
        let mut steps = Vec::new();
        let (mut last_ns, mut keyframe) = (0, false);
        for packet in packets.values() {
            if packet.frame_start {
                keyframe = packet.keyframe_start;
            }
            // A packet that overtook another one left behind it.
            last_ns = packet.arrival_ns.max(last_ns);
            steps.push(Step {
                at_ns: last_ns,
                len: packet.len,
                keyframe,
                frame_start: packet.frame_start,
                marker: packet.marker,
                timestamp: packet.timestamp,
            });
        }
        let start = steps.first().map(|step| (step.at_ns, step.timestamp)).unwrap_or_default();
        for step in &mut steps {
            step.at_ns -= start.0;
            step.timestamp = step.timestamp.wrapping_sub(start.1);
        }
        steps
    }
}

impl Record {
    pub(crate) fn run(self) -> Result<()> {
        super::on_runtime(self.record())
    }

    async fn record(self) -> Result<()> {
        let recorder = Arc::new(Recorder::default());
        let settings = Settings { sample_one_in: 1, nap: Duration::ZERO };
        let receiver = Arc::new(Receiver::start(settings)?);
        let certificate = Certificate::generate().context("cannot make a certificate")?;
        let config = SessionConfig {
            url: self.target.url.clone(),
            token: self.target.token(&self.identity)?,
            id: 0,
            publish: Publish::NOTHING,
            subscribes: true,
            publishers: 0..0,
            loss_percent: 0.0,
            asks_again: true,
            recorder: Some(Arc::clone(&recorder)),
        };
        let mut session = Session::join(&config, &certificate, &receiver).await?;
        session.wait_for("media", |milestones, _| is_set(&milestones.media_ns)).await?;
        crate::output::complain(&format!("recording {} s\n", self.seconds))?;
        session.serve_for(Duration::from_secs_f64(self.seconds)).await?;
        session.leave().await?;
        Arc::into_inner(receiver).context("the receiving thread is still in use")?.stop()?;
        let steps = recorder.steps();
        let text = trace::write(&self.about, &steps);
        trace::parse(&text).context("what came cannot be played")?;
        std::fs::write(&self.out, text).with_context(|| format!("cannot write {}", self.out.display()))?;
        crate::output::print(&format!("{} packets\n", steps.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_stream_is_written_in_order() {
        let recorder = Recorder::default();
        let packet = |at_ns: u64, start: bool| Recorded {
            arrival_ns: 1_000_000 * at_ns,
            len: 900,
            timestamp: 50,
            marker: !start,
            frame_start: start,
            keyframe_start: start,
        };
        recorder.note(1, SeqNo(5), packet(1, true));
        recorder.note(2, SeqNo(9), packet(3, false));
        recorder.note(2, SeqNo(8), packet(4, true));
        let steps = recorder.steps();
        let seen: Vec<_> = steps.iter().map(|s| (s.at_ns, s.keyframe, s.frame_start, s.marker)).collect();
        assert_eq!(seen, [(0, true, true, false), (0, true, false, true)]);
    }
}
