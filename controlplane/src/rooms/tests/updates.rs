//! When others hear of comings and goings.

use super::*;
use crate::rooms::updates::chunks;

const INTERVAL: Duration = Duration::from_secs(3);
/// More than are told of at once.
const CROWD: usize = 40;

impl Stage {
    fn crowd(&mut self) -> Vec<ParticipantKey> {
        (0..CROWD).map(|number| self.join(&format!("listener{number}"))).collect()
    }

    fn updates(&self, key: ParticipantKey) -> usize {
        self.told(key).iter().filter(|told| matches!(told, Told::Update(_))).count()
    }

    /// Three seconds later, without a tick.
    fn gather(&mut self) {
        self.now += INTERVAL;
        self.turn(|room, turn| room.handle_due(turn));
    }
}

#[test]
fn a_few_listeners_are_told_of_at_once() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    stage.forget();
    let bob = stage.join("bob");
    assert_eq!(stage.news(alice, "bob").unwrap().state(), participant_info::State::Active);
    stage.turn(|room, turn| room.handle_signal_closed(bob, turn));
    stage.turn(|room, turn| room.expel("bob", turn)).unwrap();
    assert_eq!(stage.news(alice, "bob").unwrap().state(), participant_info::State::Disconnected);
}

#[test]
fn a_crowd_is_told_of_together_and_completely() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    stage.forget();
    let crowd = stage.crowd();
    assert!(stage.updates(alice) <= 16, "{} updates", stage.updates(alice));
    assert_eq!(stage.news(alice, "listener39"), None);
    let told_itself = stage.news(crowd[39], "listener39").unwrap();
    assert_eq!(told_itself.state(), participant_info::State::Active);
    stage.gather();
    for number in 0..CROWD {
        let info = stage.news(alice, &format!("listener{number}")).unwrap();
        assert_eq!(info.state(), participant_info::State::Active);
    }
    assert!(stage.updates(alice) <= 17);
    stage.forget();
    for number in 0..CROWD {
        stage.turn(|room, turn| room.expel(&format!("listener{number}"), turn)).unwrap();
    }
    stage.gather();
    for number in 0..CROWD {
        let info = stage.news(alice, &format!("listener{number}")).unwrap();
        assert_eq!(info.state(), participant_info::State::Disconnected);
    }
    assert!(stage.updates(alice) <= 17);
    assert_eq!(stage.room.next_due(), None, "nothing is left to tell");
}

#[test]
fn what_somebody_does_is_told_at_once_in_a_crowd_too() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    let crowd = stage.crowd();
    stage.forget();
    stage.publish(crowd[39]);
    assert_eq!(stage.news(alice, "listener39").unwrap().tracks.len(), 1);
    let update = UpdateParticipantMetadata { metadata: "hand up".into(), ..Default::default() };
    stage.room.participants.get_mut(&crowd[38]).unwrap().grant.can_update_own_metadata = Some(true);
    stage.ask(crowd[38], Ask::UpdateMetadata(update));
    assert_eq!(stage.news(alice, "listener38").unwrap().metadata, "hand up");
    stage.turn(|room, turn| room.expel("listener39", turn)).unwrap();
    assert_eq!(stage.news(alice, "listener39").unwrap().state(), participant_info::State::Disconnected);
    stage.forget();
    stage.gather();
    assert_eq!(stage.news(alice, "listener39"), None, "what was told is not told again");
}

#[test]
fn that_one_left_is_told_before_it_is_back() {
    let mut stage = Stage::new();
    let alice = stage.join("alice");
    stage.crowd();
    stage.forget();
    let before = stage.room.participants.values().find(|p| p.identity == "listener39").unwrap().sid.clone();
    let back = stage.join("listener39");
    stage.publish(back);
    let states: Vec<(bool, participant_info::State)> = stage
        .told(alice)
        .into_iter()
        .filter_map(|told| match told {
            Told::Update(update) => Some(update.participants.iter()),
            _ => None,
        })
        .flatten()
        .filter(|info| info.identity == "listener39")
        .map(|info| (info.sid == before, info.state()))
        .collect();
    let expected = [(true, participant_info::State::Disconnected), (false, participant_info::State::Active)];
    assert_eq!(states, expected);
}

#[test]
fn long_news_comes_in_pieces() {
    let info = |number: usize| ParticipantInfo {
        identity: number.to_string(),
        metadata: "m".repeat(50 * 1_024),
        ..ParticipantInfo::default()
    };
    let pieces = chunks((0..5).map(info).collect());
    assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!(chunks(Vec::new()).len(), 0);
    let long = ParticipantInfo { metadata: "m".repeat(500 * 1_024), ..ParticipantInfo::default() };
    assert_eq!(chunks(vec![long, info(1)]).len(), 2, "one that is too long by itself goes alone");
}
