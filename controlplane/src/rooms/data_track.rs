//! Data tracks: streams of small frames a participant publishes by name, on a channel of their own. A publisher names its track
//! in each frame by a handle of its choosing; subscribers see one of the room's.

use std::collections::HashMap;

use auralink_livekit::data_track_subscriber_handles::PublishedDataTrack;
use auralink_livekit::request_response::{Reason, Request};
use auralink_livekit::{
    DataTrackInfo, DataTrackSubscriberHandles, PublishDataTrackRequest, PublishDataTrackResponse,
    RequestResponse, UnpublishDataTrackRequest, UnpublishDataTrackResponse, UpdateDataSubscription,
    signal_response,
};
use auralink_proto::DataChannel;
use bytes::Bytes;

use super::participant::ParticipantKey;
use super::room::{Room, Turn};
use crate::telemetry::count;

/// Bytes of a data track's name.
const NAME_BYTES_MAX: usize = 256;
/// Wishes kept per participant, and changes taken from one message.
const SUBSCRIPTIONS_MAX: usize = 1_024;
/// A frame's header, in which the handle stands behind the flags.
const HEADER_LEN: usize = 12;
const HANDLE: std::ops::Range<usize> = 2..4;

/// A published data track.
#[derive(Clone, Debug)]
pub struct DataTrack {
    pub info: DataTrackInfo,
    /// What subscribers know it by.
    pub handle: u16,
}

impl Room {
    pub(super) fn publish_data_track(
        &mut self,
        key: ParticipantKey,
        request: PublishDataTrackRequest,
        turn: &mut Turn<'_>,
    ) {
        let tracks_max = self.params.limit.tracks_max;
        let handle = self.free_data_handle();
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let held = &participant.data_tracks;
        let refusal = if !participant.grant.may_publish_data() {
            Some(Reason::NotAllowed)
        } else if !(1..=u32::from(u16::MAX)).contains(&request.pub_handle) {
            Some(Reason::InvalidHandle)
        } else if request.name.is_empty() || request.name.len() > NAME_BYTES_MAX {
            Some(Reason::InvalidName)
        } else if held.iter().any(|track| track.info.pub_handle == request.pub_handle) {
            Some(Reason::DuplicateHandle)
        } else if held.iter().any(|track| track.info.name == request.name) {
            Some(Reason::DuplicateName)
        } else if held.len() >= tracks_max {
            Some(Reason::LimitExceeded)
        } else {
            None
        };
        let (Some(handle), None) = (handle, refusal) else {
            let reason = refusal.unwrap_or(Reason::LimitExceeded);
            refuse(key, reason, Request::PublishDataTrack(request), turn);
            return;
        };
        let info = DataTrackInfo {
            pub_handle: request.pub_handle,
            sid: turn.mint.sid("DTR_"),
            name: request.name,
            encryption: request.encryption,
            frame_encoding: request.frame_encoding,
            schema: request.schema,
        };
        participant.data_tracks.push(DataTrack { info: info.clone(), handle });
        let sid = info.sid.clone();
        let response = PublishDataTrackResponse { info: Some(info) };
        turn.signal(key, signal_response::Message::PublishDataTrackResponse(response));
        self.announce(key, turn);
        for other in self.others(key) {
            if self.participants.get(&other).is_some_and(|other| other.wishes_data(&sid)) {
                self.tell_data_handles(other, turn);
            }
        }
    }

    pub(super) fn unpublish_data_track(
        &mut self,
        key: ParticipantKey,
        request: UnpublishDataTrackRequest,
        turn: &mut Turn<'_>,
    ) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let mut tracks = participant.data_tracks.iter();
        let Some(index) = tracks.position(|track| track.info.pub_handle == request.pub_handle) else {
            refuse(key, Reason::InvalidHandle, Request::UnpublishDataTrack(request), turn);
            return;
        };
        let info = participant.data_tracks.remove(index).info;
        self.forget_data_track(&info.sid);
        let response = UnpublishDataTrackResponse { info: Some(info) };
        turn.signal(key, signal_response::Message::UnpublishDataTrackResponse(response));
        self.announce(key, turn);
    }

    /// Wishes for a track that is no more would fill the place of others.
    pub(super) fn forget_data_track(&mut self, sid: &str) {
        for participant in self.participants.values_mut() {
            participant.data_subscriptions.remove(sid);
        }
    }

    /// The publisher may not publish data any more.
    pub(super) fn end_data_tracks(&mut self, key: ParticipantKey, turn: &mut Turn<'_>) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        for DataTrack { info, .. } in std::mem::take(&mut participant.data_tracks) {
            self.forget_data_track(&info.sid);
            let response = UnpublishDataTrackResponse { info: Some(info) };
            turn.signal(key, signal_response::Message::UnpublishDataTrackResponse(response));
        }
    }

    pub(super) fn update_data_subscription(
        &mut self,
        key: ParticipantKey,
        update: &UpdateDataSubscription,
        turn: &mut Turn<'_>,
    ) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        for update in update.updates.iter().take(SUBSCRIPTIONS_MAX) {
            let known = participant.data_subscriptions.contains_key(&update.track_sid);
            if known || participant.data_subscriptions.len() < SUBSCRIPTIONS_MAX {
                participant.data_subscriptions.insert(update.track_sid.clone(), update.subscribe);
            }
        }
        self.tell_data_handles(key, turn);
    }

    /// Which handle stands for which track, all of those a participant receives.
    pub(super) fn tell_data_handles(&self, key: ParticipantKey, turn: &mut Turn<'_>) {
        let Some(subscriber) = self.participants.get(&key) else { return };
        let mut sub_handles = HashMap::new();
        for publisher in self.participants.values().filter(|publisher| publisher.key != key) {
            for track in &publisher.data_tracks {
                if subscriber.wishes_data(&track.info.sid) {
                    let published = PublishedDataTrack {
                        publisher_identity: publisher.identity.clone(),
                        publisher_sid: publisher.sid.clone(),
                        track_sid: track.info.sid.clone(),
                    };
                    sub_handles.insert(u32::from(track.handle), published);
                }
            }
        }
        let handles = DataTrackSubscriberHandles { sub_handles };
        turn.signal(key, signal_response::Message::DataTrackSubscriberHandles(handles));
    }

    /// One packet of a data track, to its subscribers.
    pub(super) fn route_data_frame(&mut self, key: ParticipantKey, packet: &Bytes, turn: &mut Turn<'_>) {
        let own = packet.get(HANDLE).filter(|_| packet.len() >= HEADER_LEN);
        let own = own.and_then(|handle| Some(u32::from(u16::from_be_bytes(handle.try_into().ok()?))));
        let publisher = self.participants.get(&key);
        let track = publisher.and_then(|p| p.data_tracks.iter().find(|t| Some(t.info.pub_handle) == own));
        let Some(track) = track else {
            count(&turn.telemetry.counters.data_dropped);
            return;
        };
        let subscribed = |other: &&ParticipantKey| {
            self.participants.get(other).is_some_and(|other| other.wishes_data(&track.info.sid))
        };
        let to: Vec<ParticipantKey> = self.others(key).iter().filter(subscribed).copied().collect();
        let mut bytes = packet.to_vec();
        if let Some(handle) = bytes.get_mut(HANDLE) {
            handle.copy_from_slice(&track.handle.to_be_bytes());
        }
        count(&turn.telemetry.counters.data_packets);
        self.deliver(&to, DataChannel::Track, &bytes.into(), turn);
    }

    fn free_data_handle(&self) -> Option<u16> {
        let taken = |handle: u16| {
            self.participants.values().flat_map(|p| &p.data_tracks).any(|track| track.handle == handle)
        };
        (1..=u16::MAX).find(|handle| !taken(*handle))
    }
}

fn refuse(key: ParticipantKey, reason: Reason, request: Request, turn: &mut Turn<'_>) {
    let response = RequestResponse { reason: reason.into(), request: Some(request), ..Default::default() };
    turn.signal(key, signal_response::Message::RequestResponse(response));
}
