//! One transport as the shard holds it: the peer's protocol state, the lines in both directions, and what is due when.

use std::time::Instant;

use auralink_proto::{
    DataChannel, DataChannels, ReceiveSection, RoomId, SectionIndex, TransportId, TransportStats,
};
use auralink_rtc::peer::Peer;
use auralink_rtc::twcc::TwccRecorder;
use auralink_rtc::units::Route;

use crate::departures::Departures;
use crate::elements::ElementIds;
use crate::formats::PayloadTypes;
use crate::intake::Intake;
use crate::subscriber::Line;

/// SSRCs one transport may send from: three layers with repair on each of its sections would be 6 a section.
pub const BINDINGS_MAX: usize = 96;
/// Lines towards one client.
pub const LINES_MAX: usize = 256;
/// Sections on which one client sends.
pub const RECEIVE_MAX: usize = 32;

/// What an SSRC of the client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Binding {
    pub ssrc: u32,
    pub section: u8,
    pub layer: u8,
    /// The repair stream of that layer (RFC 4588).
    pub is_repair: bool,
}

/// A section on which the client sends.
#[derive(Debug)]
pub struct Uplink {
    pub section: ReceiveSection,
    /// Slot of the track.
    pub track: u32,
    /// What the section's payload types and extension identifiers mean.
    pub types: PayloadTypes,
    pub elements: ElementIds,
}

/// Which of up to [`LINES_MAX`] lines have packets to send.
#[derive(Clone, Copy, Default, Debug)]
pub struct LineSet([u64; LINES_MAX / 64]);

impl LineSet {
    pub fn insert(&mut self, line: u16) {
        if let Some(word) = self.0.get_mut(usize::from(line) / 64) {
            *word |= 1 << (line % 64);
        }
    }

    pub fn remove(&mut self, line: u16) {
        if let Some(word) = self.0.get_mut(usize::from(line) / 64) {
            *word &= !(1 << (line % 64));
        }
    }

    pub fn first(&self) -> Option<u16> {
        let index = self.0.iter().position(|word| *word != 0)?;
        Some((index * 64) as u16 + self.0[index].trailing_zeros() as u16)
    }
}

/// When the periodic work of a transport is due. `None`: nothing to do.
#[derive(Clone, Copy, Default, Debug)]
pub struct Due {
    pub reports: Option<Instant>,
    pub twcc: Option<Instant>,
    pub repair: Option<Instant>,
    pub keyframes: Option<Instant>,
}

impl Due {
    pub fn earliest(&self) -> Option<Instant> {
        [self.reports, self.twcc, self.repair, self.keyframes].into_iter().flatten().min()
    }

    /// Moves `slot` to `at` unless it is due earlier already.
    pub fn sooner(slot: &mut Option<Instant>, at: Instant) {
        *slot = Some(slot.map_or(at, |due| due.min(at)));
    }
}

#[derive(Debug)]
pub struct Transport {
    pub id: TransportId,
    pub version: u32,
    pub room: RoomId,
    pub cname: String,
    pub peer: Peer,
    pub connected: bool,
    pub uplinks: Vec<Uplink>,
    /// Sorted by SSRC.
    pub bindings: Vec<Binding>,
    pub lines: Vec<Line>,
    pub dirty: LineSet,
    pub is_dirty: bool,
    pub twcc: TwccRecorder,
    pub next_twcc: u16,
    pub departures: Departures,
    pub due: Due,
    /// [`Self::moved`] at the last report.
    pub reported: u64,
    pub data: DataChannels,
    /// Stream identifiers of the channels, once open.
    pub channels: [Option<u16>; DataChannel::ALL.len()],
    /// Tuples that passed a check; bounded by the peer.
    pub remotes: Vec<Route>,
    pub intake: Intake,
    pub stats: TransportStats,
}

impl Transport {
    pub fn binding(&self, ssrc: u32) -> Option<Binding> {
        let at = self.bindings.binary_search_by_key(&ssrc, |binding| binding.ssrc).ok()?;
        self.bindings.get(at).copied()
    }

    /// Remembers what an SSRC proved to be. False when there are too many.
    pub fn bind(&mut self, binding: Binding) -> bool {
        match self.bindings.binary_search_by_key(&binding.ssrc, |held| held.ssrc) {
            Ok(at) => self.bindings[at] = binding,
            Err(_) if self.bindings.len() >= BINDINGS_MAX => return false,
            Err(at) => self.bindings.insert(at, binding),
        }
        true
    }

    /// Media packets either way so far: what has not moved since the last report needs none.
    pub fn moved(&self) -> u64 {
        self.stats.packets_sent + self.stats.packets_received
    }

    /// The line whose media or repair SSRC is `ssrc`.
    pub fn line_of(&self, ssrc: u32) -> Option<SectionIndex> {
        let at = self.lines.iter().position(|line| line.ssrc == ssrc || line.repair_ssrc() == Some(ssrc))?;
        Some(SectionIndex(at as u16))
    }

    /// The SSRC under which this transport reports: a line's own if there is one (RFC 3550 §8: any unique value).
    pub fn feedback_ssrc(&self) -> u32 {
        self.lines.first().map_or(1, |line| line.ssrc)
    }

    pub const fn channel_slot(channel: DataChannel) -> usize {
        match channel {
            DataChannel::Reliable => 0,
            DataChannel::Lossy => 1,
            DataChannel::Track => 2,
        }
    }

    pub fn channel_of(&self, stream: u16) -> Option<DataChannel> {
        DataChannel::ALL
            .into_iter()
            .find(|channel| self.channels[Self::channel_slot(*channel)] == Some(stream))
    }
}
