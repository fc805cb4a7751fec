//! What a publisher's numbers mean, and who must be told when that changes.

use auralink_proto::ReceiveSection;

use super::{Output, Shard};
use crate::elements::ElementIds;
use crate::formats::PayloadTypes;
use crate::lanes::LaneSignal;
use crate::transport::Uplink;

impl Shard {
    /// A section with what its numbers mean.
    pub(super) fn uplink(&self, track: u32, section: ReceiveSection) -> Uplink {
        let formats = self.tracks.get(track).map(|held| PayloadTypes::new(&held.formats, &section.payloads));
        Uplink {
            types: formats.unwrap_or_default(),
            elements: ElementIds::new(&section.extensions),
            section,
            track,
        }
    }

    /// A track takes over what its section negotiated. Whether anything is new.
    pub(super) fn take_formats(&mut self, slot: u32, section: &ReceiveSection) -> bool {
        let track = self.tracks.get_mut(slot);
        track.is_some_and(|track| track.formats.take(&section.payloads, section.encrypted))
    }

    /// Tells the shards that follow a track what has changed about it.
    pub(super) fn describe(&self, slot: u32, out: &mut Output<'_>) {
        let Some(track) = self.tracks.get(slot) else { return };
        for follower in &track.lane_followers {
            let _ = out.lanes.signal(follower.shard, LaneSignal::Described(Box::new(track.describe())));
        }
    }

    /// Every line that follows a track decides anew what becomes of each of its formats.
    pub(super) fn map_followers(&mut self, slot: u32) {
        let Some(track) = self.tracks.get(slot) else { return };
        for follower in &track.followers {
            let transport = self.transports.get_mut(follower.transport);
            if let Some(line) =
                transport.and_then(|transport| transport.lines.get_mut(usize::from(follower.line)))
            {
                line.map(&track.formats);
            }
        }
    }
}
