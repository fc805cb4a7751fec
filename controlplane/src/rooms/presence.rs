//! What is told of participants without being asked: who speaks, and how good connections are.

use std::collections::BTreeMap;

use auralink_livekit::{
    ConnectionQuality, ConnectionQualityInfo, ConnectionQualityUpdate, SpeakerInfo, SpeakersChanged,
    signal_response,
};
use auralink_proto::Level;

use super::participant::ParticipantKey;
use super::room::{Room, Turn};

impl Room {
    /// Speakers whose loudness changed by at least an eighth.
    pub(super) fn tell_levels(&mut self, levels: &[Level], turn: &mut Turn<'_>) {
        let mut changed: BTreeMap<ParticipantKey, u8> = BTreeMap::new();
        for participant in self.participants.values_mut() {
            let mut any = false;
            for track in &mut participant.tracks {
                let Some(level) = levels.iter().find(|level| level.track == track.id) else { continue };
                let loud = if level.active { level.level.clamp(0.0, 1.0) } else { 0.0 };
                let mut eighths = (loud * 8.0).round() as u8;
                if level.active {
                    eighths = eighths.max(1);
                }
                any |= track.level_eighths != eighths;
                track.level_eighths = eighths;
            }
            if any && participant.is_visible() {
                let loudest = participant.tracks.iter().map(|track| track.level_eighths).max();
                changed.insert(participant.key, loudest.unwrap_or(0));
            }
        }
        let speakers: Vec<SpeakerInfo> = changed
            .iter()
            .filter_map(|(key, eighths)| {
                let sid = self.participants.get(key)?.sid.clone();
                Some(SpeakerInfo { sid, level: f32::from(*eighths) / 8.0, active: *eighths > 0 })
            })
            .collect();
        if !speakers.is_empty() {
            let message = signal_response::Message::SpeakersChanged(SpeakersChanged { speakers });
            turn.signal_all(self.participants.keys().copied().collect(), message);
        }
    }

    /// Each participant learns its own quality and that of the publishers it receives.
    pub(super) fn tell_quality(&self, turn: &mut Turn<'_>) {
        for participant in self.participants.values().filter(|p| p.signal_closed.is_none()) {
            let received = |publisher: &&super::participant::Participant| {
                publisher.key == participant.key
                    || publisher.tracks.iter().any(|t| t.ids().any(|id| participant.mid_of(id).is_some()))
            };
            let updates = self
                .participants
                .values()
                .filter(received)
                .map(|publisher| ConnectionQualityInfo {
                    participant_sid: publisher.sid.clone(),
                    quality: quality(publisher.primary().1).into(),
                    score: if publisher.primary().1 { 5.0 } else { 0.0 },
                })
                .collect();
            let message = signal_response::Message::ConnectionQuality(ConnectionQualityUpdate { updates });
            turn.signal(participant.key, message);
        }
    }
}

fn quality(connected: bool) -> ConnectionQuality {
    if connected { ConnectionQuality::Excellent } else { ConnectionQuality::Lost }
}
