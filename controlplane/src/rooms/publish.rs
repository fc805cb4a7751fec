//! Publishing: announcing tracks, their going live, muting, and their end.

use auralink_livekit::{
    AddTrackRequest, MuteTrackRequest, RequestResponse, SessionDescription, TrackPublishedResponse,
    TrackSubscribed, UpdateLocalAudioTrack, UpdateLocalVideoTrack, leave_request, request_response,
    signal_response,
};
use auralink_livekit::{DisconnectReason, request_response::Reason};
use auralink_proto::{Codec, Command, MediaKind, Mid, TrackId};

use super::notices::Happened;
use super::participant::ParticipantKey;
use super::room::{Output, Room, Turn, kind_name};
use super::track::{Track, intent, media_kind, opus_extra, preference, sid_prefix, track_info};
use crate::negotiator::{Publication, Taken};
use crate::telemetry::count;

/// Tracks announced and not yet sent that one participant may have.
const PENDING_MAX: usize = 20;
/// Bytes of names and client identifiers of tracks.
const TRACK_NAME_BYTES_MAX: usize = 256;

impl Room {
    /// An offer of the client.
    pub(super) fn handle_offer(
        &mut self,
        key: ParticipantKey,
        offer: &SessionDescription,
        turn: &mut Turn<'_>,
    ) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let mut actions = Vec::new();
        let taken = participant.negotiator.handle_offer(offer.id, &offer.sdp, turn.mint, &mut actions);
        match taken {
            Ok(Taken::Accepted) => count(&turn.telemetry.counters.offers),
            Ok(Taken::Stale) => count(&turn.telemetry.counters.offers_stale),
            Err(error) => {
                count(&turn.telemetry.counters.offers_refused);
                tracing::debug!(room = %self.params.name, participant = %participant.sid, %error, "offer refused");
                self.remove(key, DisconnectReason::JoinFailure, leave_request::Action::Disconnect, turn);
                return;
            }
        }
        self.act(key, actions, turn);
        self.touched.insert(key);
    }

    /// The client's answer to an offer of ours.
    pub(super) fn handle_answer(
        &mut self,
        key: ParticipantKey,
        answer: &SessionDescription,
        turn: &mut Turn<'_>,
    ) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let Some(downlink) = &mut participant.downlink else {
            count(&turn.telemetry.counters.signal_unexpected);
            return;
        };
        let mut actions = Vec::new();
        match downlink.negotiator.handle_answer(answer.id, &answer.sdp, &mut actions) {
            Ok(Taken::Accepted) => count(&turn.telemetry.counters.offers),
            Ok(Taken::Stale) => count(&turn.telemetry.counters.offers_stale),
            Err(error) => {
                count(&turn.telemetry.counters.offers_refused);
                tracing::debug!(room = %self.params.name, participant = %participant.sid, %error, "answer refused");
                self.remove(key, DisconnectReason::JoinFailure, leave_request::Action::Disconnect, turn);
                return;
            }
        }
        self.act(key, actions, turn);
        self.touched.insert(key);
    }

    /// A client announces a track.
    pub(super) fn add_track(&mut self, key: ParticipantKey, request: AddTrackRequest, turn: &mut Turn<'_>) {
        if !request.sid.is_empty() {
            if let Err(reason) = self.add_backup(key, &request, turn) {
                refuse_track(key, request, reason, turn);
            }
            return;
        }
        let tracks_max = self.params.limit.tracks_max;
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let pending = participant.tracks.iter().filter(|track| !track.live).count();
        let refusal = if media_kind(&request).is_none() {
            Some(Reason::UnsupportedType)
        } else if !participant.grant.may_publish_source(request.source()) {
            Some(Reason::NotAllowed)
        } else if participant.tracks.len() >= tracks_max
            || pending >= PENDING_MAX
            || request.cid.len() > TRACK_NAME_BYTES_MAX
            || request.name.len() > TRACK_NAME_BYTES_MAX
            || request.stream.len() > TRACK_NAME_BYTES_MAX
            || request.simulcast_codecs.len() > 8
        {
            Some(Reason::LimitExceeded)
        } else {
            None
        };
        let (Some(kind), None) = (media_kind(&request), refusal) else {
            refuse_track(key, request, refusal.unwrap_or(Reason::UnsupportedType), turn);
            return;
        };
        let sid = turn.mint.sid(&sid_prefix(kind, request.source()));
        let info = track_info(sid, kind, &request);
        let id = turn.mint.track(participant.transport);
        let mut cids = vec![request.cid.clone()];
        cids.extend(request.simulcast_codecs.iter().map(|codec| codec.cid.clone()));
        let opus_extra = if kind == MediaKind::Audio { opus_extra(&info) } else { String::new() };
        let preference = preference(kind, &request);
        let muted = info.muted;
        participant.negotiator.publish(Publication { track: id, kind, cids, muted, opus_extra, preference });
        tracing::debug!(room = %self.params.name, participant = %participant.sid, track = %info.sid,
            kind = kind_name(kind), "track announced");
        turn.telemetry.calls.announced(&info);
        let track = Track {
            id,
            kind,
            info: info.clone(),
            codec: None,
            live: false,
            layers: 1,
            subscribed: false,
            level_eighths: 0,
            demand: Default::default(),
            backup: Default::default(),
        };
        participant.tracks.push(track);
        turn.out.push(Output::RouteTrack(id, true));
        let published = TrackPublishedResponse { cid: request.cid, track: Some(info) };
        turn.signal(key, signal_response::Message::TrackPublished(published));
    }

    /// First media of a track: from now on others see it and may receive it.
    pub(super) fn track_live(&mut self, id: TrackId, codec: Codec, turn: &mut Turn<'_>) {
        let Some((key, is_backup)) =
            self.find_track(id).map(|(publisher, track)| (publisher.key, track.id != id))
        else {
            return;
        };
        if is_backup {
            self.backup_live(key, id, codec, turn);
            return;
        }
        let participant = self.participants.get_mut(&key);
        let Some(track) = participant.and_then(|p| p.tracks.iter_mut().find(|t| t.id == id && !t.live))
        else {
            return;
        };
        track.live = true;
        track.set_codec(codec);
        let mime = track.info.mime_type.as_str();
        tracing::debug!(room = %self.params.name, track = %track.info.sid, mime, "track live");
        let published = track.info.clone();
        if let Some(publisher) = self.participants.get(&key).map(|p| p.info()) {
            self.notice(Happened::Published(publisher, published), turn);
        }
        self.announce(key, turn);
        self.offer_track_to_all(key, id, turn);
        self.demand_changed(id);
    }

    /// A publisher mutes or unmutes its own track.
    pub(super) fn mute_track(
        &mut self,
        key: ParticipantKey,
        request: &MuteTrackRequest,
        turn: &mut Turn<'_>,
    ) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let Some(track) = participant.tracks.iter_mut().find(|t| t.info.sid == request.sid) else { return };
        if track.info.muted == request.muted {
            return;
        }
        track.info.muted = request.muted;
        let (id, live) = (track.id, track.live);
        track.ids().for_each(|id| participant.negotiator.mute(id, request.muted));
        self.demands_changed.insert(id);
        self.touched.insert(key);
        if live {
            self.announce(key, turn);
        }
    }

    /// A publisher says what its microphone's processing does.
    pub(super) fn update_audio_track(
        &mut self,
        key: ParticipantKey,
        update: UpdateLocalAudioTrack,
        turn: &mut Turn<'_>,
    ) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let Some(track) = participant.tracks.iter_mut().find(|t| t.info.sid == update.track_sid) else {
            return;
        };
        track.info.audio_features = update.features;
        track.info.audio_features.truncate(16);
        if track.live {
            self.announce(key, turn);
        }
    }

    /// A publisher says that its video's size changed.
    pub(super) fn update_video_track(
        &mut self,
        key: ParticipantKey,
        update: &UpdateLocalVideoTrack,
        turn: &mut Turn<'_>,
    ) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let Some(track) = participant.tracks.iter_mut().find(|t| t.info.sid == update.track_sid) else {
            return;
        };
        (track.info.width, track.info.height) = (update.width, update.height);
        if track.live {
            self.announce(key, turn);
        }
    }

    /// The client stopped sending a track: it is unpublished.
    pub(super) fn drop_track(&mut self, key: ParticipantKey, id: TrackId, turn: &mut Turn<'_>) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let Some(index) = participant.tracks.iter().position(|track| track.id == id) else {
            self.drop_backup(key, id, turn);
            return;
        };
        let track = participant.tracks.remove(index);
        track.ids().for_each(|id| participant.negotiator.unpublish(id));
        let publisher = participant.info();
        if track.live {
            self.notice(Happened::Unpublished(publisher, track.info.clone()), turn);
        }
        turn.out.extend(track.ids().map(|id| Output::RouteTrack(id, false)));
        for other in self.participants.values_mut() {
            track.ids().for_each(|id| other.unwant(id));
            other.subscriptions.remove(&track.info.sid);
            other.track_settings.remove(&track.info.sid);
            self.touched.insert(other.key);
        }
        if track.live {
            self.announce(key, turn);
        }
    }

    /// A subscriber's section now carries a track: say what is wanted of it, and tell its publisher once.
    pub(super) fn track_attached(&mut self, key: ParticipantKey, id: TrackId, mid: Mid, turn: &mut Turn<'_>) {
        let (Some(subscriber), Some((publisher, track))) = (self.participants.get(&key), self.find_track(id))
        else {
            return;
        };
        let settings = subscriber.track_settings.get(&track.info.sid);
        let intent = intent(&track.info, settings, subscriber.settings.adaptive_stream);
        let transport = subscriber.receiving_transport();
        turn.out.push(Output::Command(transport.shard(), Command::SetIntent { transport, mid, intent }));
        let (subscription, publisher) = (turn.telemetry.calls.subscribed(&track.info), publisher.key);
        if let Some(subscriber) = self.participants.get_mut(&key) {
            subscriber.receives(id, subscription);
        }
        let participant = self.participants.get_mut(&publisher);
        if let Some(track) = participant.and_then(|p| p.tracks.iter_mut().find(|t| t.is(id)))
            && !track.subscribed
        {
            track.subscribed = true;
            let told = TrackSubscribed { track_sid: track.info.sid.clone() };
            turn.signal(publisher, signal_response::Message::TrackSubscribed(told));
        }
    }
}

/// An announced track that cannot be.
fn refuse_track(key: ParticipantKey, request: AddTrackRequest, reason: Reason, turn: &mut Turn<'_>) {
    let response = RequestResponse {
        request_id: 0,
        reason: reason.into(),
        message: String::new(),
        request: Some(request_response::Request::AddTrack(request)),
    };
    turn.signal(key, signal_response::Message::RequestResponse(response));
}
