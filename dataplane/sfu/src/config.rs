//! Bounds and intervals of one shard. Every table, queue and history has its size here.

use std::time::Duration;

use auralink_proto::MediaKind;

use crate::history::HistorySize;
use crate::hold::HoldConfig;
use crate::intake::IntakeLimit;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardConfig {
    pub transports_max: usize,
    /// Tracks held, local and from lanes.
    pub tracks_max: usize,
    /// Tuples of other shards' peers that are steered.
    pub steered_max: usize,
    pub intake: IntakeLimit,
    pub audio_history: HistorySize,
    /// Of the highest video layer; each lower one has half the bytes of the one above.
    pub video_history: HistorySize,
    /// Between keyframe requests for one layer. libwebrtc's encoders take one per 300 ms.
    pub keyframe_interval: Duration,
    /// Between receiver reports and sender reports on one transport.
    pub report_interval: Duration,
    /// Between transport-wide feedback while packets arrive.
    pub twcc_interval: Duration,
    /// Between looks at who is speaking.
    pub speaker_interval: Duration,
    /// Waiting for the rest of a frame.
    pub hold: HoldConfig,
}

impl Default for ShardConfig {
    fn default() -> Self {
        Self {
            transports_max: 4_096,
            tracks_max: 8_192,
            steered_max: 8_192,
            intake: IntakeLimit::default(),
            audio_history: HistorySize { bytes: 64 << 10, packets: 256 },
            video_history: HistorySize { bytes: 1 << 20, packets: 1_024 },
            keyframe_interval: Duration::from_millis(300),
            report_interval: Duration::from_secs(1),
            twcc_interval: Duration::from_millis(50),
            speaker_interval: Duration::from_millis(400),
            hold: HoldConfig::default(),
        }
    }
}

impl ShardConfig {
    /// The ring of layer `index` of `layers`.
    pub fn history(&self, kind: MediaKind, index: usize, layers: usize) -> HistorySize {
        match kind {
            MediaKind::Audio => self.audio_history,
            MediaKind::Video => {
                let below_top = layers.saturating_sub(index + 1);
                HistorySize { bytes: self.video_history.bytes >> below_top, ..self.video_history }
            }
        }
    }
}
