//! Fresh tokens for participants, so that a call may outlast the token it was joined with.

use std::time::Duration;

use auralink_livekit::{participant_info, signal_response};

use super::participant::ParticipantKey;
use super::room::{Room, Turn};
use crate::auth::Claims;

/// How often each participant gets a fresh token.
const REFRESH_EVERY: Duration = Duration::from_secs(300);
/// Least life of a fresh token, in seconds.
const LIFE_S_MIN: f64 = 600.0;

impl Room {
    /// Sends a token with what the participant may do and is called now, living as long as the one it joined with and at
    /// least ten minutes.
    pub(super) fn refresh_token(&mut self, key: ParticipantKey, turn: &mut Turn<'_>) {
        let keys = self.params.keys.clone();
        let Some(participant) = self.participants.get_mut(&key) else { return };
        participant.refreshed = turn.now;
        let now_s = turn.unix_ms as f64 / 1_000.0;
        let kind = match participant.kind {
            participant_info::Kind::Standard => String::new(),
            kind => kind.as_str_name().to_ascii_lowercase(),
        };
        let claims = Claims {
            sub: participant.identity.clone(),
            name: participant.name.clone(),
            kind,
            nbf: Some(now_s),
            exp: Some(participant.token_expiry_s.max(now_s + LIFE_S_MIN)),
            video: participant.grant.clone(),
            metadata: participant.metadata.clone(),
            attributes: participant.attributes.clone(),
            ..Claims::default()
        };
        if let Some(token) = keys.first().and_then(|first| keys.sign(first, &claims)) {
            turn.signal(key, signal_response::Message::RefreshToken(token));
        }
    }

    /// Tokens whose time has come.
    pub(super) fn refresh_tokens(&mut self, turn: &mut Turn<'_>) {
        let due = |refreshed| turn.now.duration_since(refreshed) >= REFRESH_EVERY;
        let due: Vec<ParticipantKey> = self
            .participants
            .values()
            .filter(|p| p.signal_closed.is_none() && due(p.refreshed))
            .map(|p| p.key)
            .collect();
        for key in due {
            self.refresh_token(key, turn);
        }
    }
}
