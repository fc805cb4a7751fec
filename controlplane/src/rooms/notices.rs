//! What a room tells the world outside of it: whoever runs webhooks or agents hears of these.

use std::time::Duration;

use auralink_livekit::{Job, ParticipantInfo, Room as RoomInfo, RoomAgentDispatch, RoomEndReason, TrackInfo};

use super::room::{Output, Room, Turn};

/// Something that happened in a room, with the room as it was then.
#[derive(Clone, PartialEq, Debug)]
pub struct Notice {
    /// Milliseconds since 1970.
    pub unix_ms: i64,
    pub room: RoomInfo,
    pub what: Happened,
}

/// What happened.
#[derive(Clone, PartialEq, Debug)]
pub enum Happened {
    /// The room exists; these agents were asked for with it.
    RoomStarted(Vec<RoomAgentDispatch>),
    RoomFinished(RoomEndReason),
    /// A participant's media is up.
    Joined(ParticipantInfo),
    /// A participant whose media was up has left.
    Left(ParticipantInfo),
    /// A participant left whose media was never up.
    Aborted(ParticipantInfo),
    Published(ParticipantInfo, TrackInfo),
    Unpublished(ParticipantInfo, TrackInfo),
    /// A worker has taken a job in the room.
    JobStarted(Box<Job>),
    /// A job that a worker had taken is over.
    JobEnded(Box<Job>),
}

impl Room {
    /// Tells the world, and counts it.
    pub(super) fn notice(&self, what: Happened, turn: &mut Turn<'_>) {
        let calls = &turn.telemetry.calls;
        match &what {
            Happened::Published(_, track) => calls.published(track),
            Happened::Unpublished(_, track) => calls.unpublished(track),
            Happened::RoomFinished(_) => {
                let lived_ms = turn.unix_ms.saturating_sub(self.params.created_unix_ms);
                calls.room_ended(Duration::from_millis(lived_ms.try_into().unwrap_or_default()));
            }
            _ => {}
        }
        let notice = Notice { unix_ms: turn.unix_ms, room: self.info(), what };
        turn.out.push(Output::Notice(Box::new(notice)));
    }

    /// The last words of a room; nobody is in it any more.
    pub fn finish(&self, turn: &mut Turn<'_>) {
        self.notice(Happened::RoomFinished(self.end_reason), turn);
    }
}
