//! What publishers are told of the qualities wanted.

use auralink_livekit::{SubscriptionPermission, VideoQuality};

use super::*;

impl Stage {
    /// Publishes a camera that is live. Gives its sid and identifier.
    fn film(&mut self, key: ParticipantKey) -> (String, TrackId) {
        self.ask(
            key,
            Ask::AddTrack(AddTrackRequest { cid: "film".into(), r#type: 1, ..AddTrackRequest::default() }),
        );
        let track = self.room.participants[&key].tracks.last().unwrap().id;
        self.event(Event::TrackLive { track, codec: Codec::Vp8 });
        (self.room.participants[&key].tracks.last().unwrap().info.sid.clone(), track)
    }

    /// How many qualities a publisher was told are wanted, newest last.
    fn wanted(&self, key: ParticipantKey) -> Vec<usize> {
        let updates = self.told(key).into_iter().filter_map(|told| match told {
            Told::SubscribedQualityUpdate(update) => Some(&update.subscribed_codecs[0]),
            _ => None,
        });
        updates.map(|codec| codec.qualities.iter().filter(|quality| quality.enabled).count()).collect()
    }

    fn look(&mut self, key: ParticipantKey, sid: &str, quality: VideoQuality, disabled: bool) {
        let track_sids = vec![sid.to_owned()];
        let settings =
            UpdateTrackSettings { track_sids, quality: quality.into(), disabled, ..Default::default() };
        self.ask(key, Ask::TrackSetting(settings));
    }
}

#[test]
fn more_is_asked_for_at_once_and_less_after_a_while() {
    let mut stage = Stage::new();
    let (alice, bob, carol) = (stage.join("alice"), stage.join("bob"), stage.join("carol"));
    let (sid, _) = stage.film(alice);
    stage.look(bob, &sid, VideoQuality::Low, false);
    stage.look(carol, &sid, VideoQuality::Medium, false);
    stage.pass(Duration::from_secs(9));
    assert_eq!(stage.wanted(alice), [0; 0], "a new track is left alone");
    stage.pass(Duration::from_secs(2));
    assert_eq!(stage.wanted(alice), [2]);
    stage.look(carol, &sid, VideoQuality::Low, false);
    stage.pass(Duration::from_secs(4));
    stage.look(carol, &sid, VideoQuality::Medium, false);
    stage.pass(Duration::from_secs(9));
    assert_eq!(stage.wanted(alice), [2], "who looks away for a moment costs nothing");
    stage.look(bob, &sid, VideoQuality::High, false);
    assert_eq!(stage.wanted(alice), [2, 3]);
    stage.look(bob, &sid, VideoQuality::High, true);
    stage.look(carol, &sid, VideoQuality::High, true);
    stage.pass(Duration::from_secs(5));
    assert_eq!(stage.wanted(alice), [2, 3, 0], "nobody looks");
}

#[test]
fn who_leaves_or_may_not_wants_nothing() {
    let mut stage = Stage::new();
    let (alice, bob, carol) = (stage.join("alice"), stage.join("bob"), stage.join("carol"));
    let (sid, _) = stage.film(alice);
    stage.look(bob, &sid, VideoQuality::Low, false);
    stage.pass(Duration::from_secs(11));
    assert_eq!(stage.wanted(alice), [3]);
    stage.ask(carol, Ask::Leave(Default::default()));
    stage.pass(Duration::from_secs(6));
    assert_eq!(stage.wanted(alice), [3, 1]);
    stage.ask(alice, Ask::SubscriptionPermission(SubscriptionPermission::default()));
    stage.pass(Duration::from_secs(6));
    assert_eq!(stage.wanted(alice), [3, 1, 0]);
}

#[test]
fn what_is_muted_is_not_spoken_of() {
    let mut stage = Stage::new();
    let (alice, bob) = (stage.join("alice"), stage.join("bob"));
    let (sid, _) = stage.film(alice);
    stage.ask(alice, Ask::Mute(auralink_livekit::MuteTrackRequest { sid: sid.clone(), muted: true }));
    stage.look(bob, &sid, VideoQuality::Low, false);
    stage.pass(Duration::from_secs(30));
    assert_eq!(stage.wanted(alice), [0; 0]);
    stage.ask(alice, Ask::Mute(auralink_livekit::MuteTrackRequest { sid, muted: false }));
    stage.pass(Duration::from_secs(11));
    assert_eq!(stage.wanted(alice), [1]);
}
