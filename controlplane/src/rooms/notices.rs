//! What a room tells the world outside of it: whoever runs webhooks or agents hears of these.

use auralink_livekit::{ParticipantInfo, Room as RoomInfo, RoomAgentDispatch, RoomEndReason, TrackInfo};

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
}

impl Room {
    /// Tells the world.
    pub(super) fn notice(&self, what: Happened, turn: &mut Turn<'_>) {
        let notice = Notice { unix_ms: turn.unix_ms, room: self.info(), what };
        turn.out.push(Output::Notice(Box::new(notice)));
    }

    /// The last words of a room; nobody is in it any more.
    pub fn finish(&self, turn: &mut Turn<'_>) {
        self.notice(Happened::RoomFinished(self.end_reason), turn);
    }
}
