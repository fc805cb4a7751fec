//! One picture in two codecs.

use auralink_livekit::{SimulcastCodec, TrackPublishedResponse, request_response::Reason};

use super::*;

const VP8: &str = "a=rtpmap:96 VP8/90000\r\n";
const VP9: &str = "a=rtpmap:98 VP9/90000\r\na=fmtp:98 profile-id=0\r\n";

/// An offer of video sections, in VP8 and perhaps VP9.
fn film(id: u32, vp9: bool, receiving: usize, sending: &[&str]) -> SessionDescription {
    let (formats, codecs) = if vp9 { ("96 98", format!("{VP8}{VP9}")) } else { ("96", VP8.to_owned()) };
    let audio = offer(id, receiving, sending);
    let sdp = audio
        .sdp
        .replace("m=audio 9 UDP/TLS/RTP/SAVPF 111", &format!("m=video 9 UDP/TLS/RTP/SAVPF {formats}"));
    SessionDescription { sdp: sdp.replace(ONE, &format!("a=rtcp-mux\r\n{codecs}")), ..audio }
}

fn codec(codec: &str, cid: &str) -> SimulcastCodec {
    SimulcastCodec { codec: codec.into(), cid: cid.into(), ..SimulcastCodec::default() }
}

impl Stage {
    fn enter(&mut self, identity: &str, vp9: bool) -> ParticipantKey {
        let settings = ConnectionSettings { auto_subscribe: true, ..ConnectionSettings::default() };
        let offer = Some(film(1, vp9, 1, &[]));
        let params = JoinParams { identity: identity.into(), settings, offer, ..JoinParams::default() };
        let key = self.try_join(params).unwrap();
        let transport = self.transport(key);
        self.event(Event::TransportConnected { transport });
        key
    }

    /// Publishes a camera in VP9 that could be had in VP8, too; it is live.
    fn film_with_backup(&mut self, key: ParticipantKey) -> (String, TrackId) {
        let simulcast_codecs = vec![codec("vp9", "one"), codec("vp8", "")];
        let request =
            AddTrackRequest { cid: "one".into(), r#type: 1, simulcast_codecs, ..Default::default() };
        self.ask(key, Ask::AddTrack(request));
        self.ask(key, Ask::Offer(film(2, true, 1, &["one"])));
        let track = self.room.participants[&key].tracks[0].id;
        self.event(Event::TrackLive { track, codec: Codec::Vp9 { profile: 0 } });
        (self.room.participants[&key].tracks[0].info.sid.clone(), track)
    }

    fn add_backup(&mut self, key: ParticipantKey, sid: &str) {
        let simulcast_codecs = vec![codec("vp8", "two")];
        let (cid, sid) = ("two".into(), sid.into());
        let request = AddTrackRequest { cid, sid, r#type: 1, simulcast_codecs, ..Default::default() };
        self.ask(key, Ask::AddTrack(request));
    }

    /// Which codecs a publisher was told are wanted, and in how many qualities; the newest news.
    fn codecs_wanted(&self, key: ParticipantKey) -> Vec<(String, usize)> {
        let updates = self.told(key).into_iter().filter_map(|told| match told {
            Told::SubscribedQualityUpdate(update) => Some(&update.subscribed_codecs),
            _ => None,
        });
        let count = |codec: &auralink_livekit::SubscribedCodec| {
            (codec.codec.clone(), codec.qualities.iter().filter(|quality| quality.enabled).count())
        };
        updates
            .collect::<Vec<_>>()
            .last()
            .map(|codecs| codecs.iter().map(count).collect())
            .unwrap_or_default()
    }

    fn response_to(&self, key: ParticipantKey, cid: &str) -> Option<&TrackPublishedResponse> {
        self.told(key).into_iter().find_map(|told| match told {
            Told::TrackPublished(published) if published.cid == cid => Some(published),
            _ => None,
        })
    }

    fn refused(&self, key: ParticipantKey) -> Vec<Reason> {
        let responses = self.told(key).into_iter().filter_map(|told| match told {
            Told::RequestResponse(response) => Some(response.reason()),
            _ => None,
        });
        responses.collect()
    }
}

fn wants(vp9: usize, vp8: usize) -> Vec<(String, usize)> {
    vec![("vp9".into(), vp9), ("vp8".into(), vp8)]
}

#[test]
fn who_cannot_decode_a_track_gets_its_backup() {
    let mut stage = Stage::new();
    let (alice, bob, carol) =
        (stage.enter("alice", true), stage.enter("bob", false), stage.enter("carol", true));
    let (sid, track) = stage.film_with_backup(alice);
    stage.ask(carol, Ask::Offer(film(2, true, 1, &[])));
    assert_eq!((stage.passed(carol), stage.passed(bob)), (vec![track], vec![]));
    assert_eq!(stage.codecs_wanted(alice), wants(3, 3), "the backup is asked for at once");
    assert!(!stage.told(bob).iter().any(|told| matches!(told, Told::SubscriptionResponse(_))), "it may come");

    stage.add_backup(alice, &sid);
    let published = stage.response_to(alice, "two").expect("announced").track.clone().unwrap();
    assert_eq!((published.sid.as_str(), published.codecs[1].cid.as_str()), (sid.as_str(), "two"));
    stage.ask(alice, Ask::Offer(film(3, true, 1, &["one", "two"])));
    let backup = stage.room.participants[&alice].tracks[0].backup.id.unwrap();
    stage.event(Event::TrackLive { track: backup, codec: Codec::Vp8 });
    assert!(stage.news(bob, "alice").unwrap().tracks.len() == 1, "it is one track");
    stage.ask(bob, Ask::Offer(film(2, false, 1, &[])));
    assert_eq!((stage.passed(bob), stage.passed(carol)), (vec![backup], vec![track]));

    stage.ask(bob, Ask::Leave(Default::default()));
    stage.pass(Duration::from_secs(11));
    assert_eq!(stage.codecs_wanted(alice), wants(3, 0), "nobody needs it any more");
}

#[test]
fn a_backup_ends_by_itself_and_with_its_track() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.enter("alice", true), stage.enter("bob", false));
    let (sid, _) = stage.film_with_backup(alice);
    let routed = stage.routed.len();
    for id in [3, 5] {
        stage.add_backup(alice, &sid);
        stage.ask(alice, Ask::Offer(film(id, true, 1, &["one", "two"])));
        let backup = stage.room.participants[&alice].tracks[0].backup.id.unwrap();
        stage.event(Event::TrackLive { track: backup, codec: Codec::Vp8 });
        stage.ask(bob, Ask::Offer(film(id, false, 1, &[])));
        assert_eq!(stage.passed(bob), [backup]);
        assert_eq!(stage.routed.len(), routed + 1);
        if id == 3 {
            stage.ask(alice, Ask::Offer(film(4, true, 1, &["one", ""])));
            assert_eq!((stage.passed(bob), stage.routed.len()), (vec![], routed));
            // A section is answered inactive once before another track may use it.
            stage.ask(bob, Ask::Offer(film(4, false, 1, &[])));
        }
    }
    stage.ask(alice, Ask::Offer(film(6, true, 1, &["", "two"])));
    assert_eq!((stage.passed(bob), stage.routed.len()), (vec![], routed - 1), "nothing is left of it");
}

#[test]
fn what_is_no_backup_is_refused() {
    let mut stage = Stage::new();
    let (alice, _) = (stage.enter("alice", true), stage.enter("bob", false));
    let (sid, _) = stage.film_with_backup(alice);
    stage.add_backup(alice, "TR_unknown");
    stage.add_backup(alice, &sid);
    stage.add_backup(alice, &sid);
    let simulcast_codecs = vec![codec("h264", "three")];
    let request = AddTrackRequest { sid, r#type: 1, simulcast_codecs, ..Default::default() };
    stage.ask(alice, Ask::AddTrack(request));
    assert_eq!(stage.refused(alice), [Reason::NotFound, Reason::LimitExceeded, Reason::UnsupportedType]);
}
