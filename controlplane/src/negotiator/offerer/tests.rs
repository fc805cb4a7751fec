//! A model client that answers, against the offering side.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use auralink_proto::{
    Candidate, DataChannels, DtlsRole, Fingerprint, MediaKind, RoomId, ShardId, TransportId, TransportSpec,
};
use proptest::prelude::*;

use super::{ANSWER_PATIENCE, Action, Local, Offerer, Taken};
use crate::negotiator::offer::OfferError;
use crate::negotiator::tests::{Counted, track, wanted};

/// The answer of a browser: every section taken, what is sent received; a `refused` kind rejected.
fn answer(offer: &str, refused: Option<&str>) -> String {
    let mut text = String::new();
    let mut rejecting = false;
    for line in offer.lines() {
        if let Some(media) = line.strip_prefix("m=") {
            rejecting = refused.is_some_and(|kind| media.starts_with(kind));
        }
        let line = match line {
            "a=ice-lite" => continue,
            "a=sendonly" => "a=recvonly".to_owned(),
            "a=setup:actpass" => "a=setup:active".to_owned(),
            _ if line.starts_with("a=candidate") || line.starts_with("a=ssrc") => continue,
            _ if line.starts_with("a=ice-ufrag") => "a=ice-ufrag:client".to_owned(),
            _ if line.starts_with("a=ice-pwd") => "a=ice-pwd:0123456789abcdefghijkl".to_owned(),
            _ if rejecting && line.starts_with("m=") => line.replacen(" 9 ", " 0 ", 1),
            _ => line.to_owned(),
        };
        text += &line;
        text += "\r\n";
    }
    text
}

struct Desk {
    offerer: Offerer,
    random: Counted,
    now: Instant,
}

impl Desk {
    fn new(at_once: bool) -> Self {
        let mut random = Counted(0);
        let local = Local {
            transport: TransportId::new(ShardId(0), 77),
            room: RoomId::new(ShardId(0), 5),
            fingerprint: Fingerprint([0xAB; 32]),
            codecs: Default::default(),
            peer_keys: Default::default(),
            offers_once: false,
            candidates: vec![Candidate::udp("10.77.0.1:7882".parse().unwrap())],
        };
        let offerer = Offerer::new(local, at_once, &mut random);
        Self { offerer, random, now: Instant::now() }
    }

    fn poll(&mut self) -> Vec<Action> {
        let mut out = Vec::new();
        self.offerer.poll(self.now, &mut self.random, &mut out);
        out
    }

    /// What it says within the time it paces itself.
    fn wait(&mut self) -> Vec<Action> {
        let mut out = self.poll();
        self.now += Duration::from_millis(260);
        out.append(&mut self.poll());
        out
    }

    fn offer(&mut self) -> (u32, String) {
        let said = self.wait();
        let Some(Action::Offer { id, sdp, .. }) = said.last().cloned() else { panic!("no offer: {said:?}") };
        let mut written = Vec::new();
        sdp_types::Session::parse(sdp.as_bytes()).unwrap().write(&mut written).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), sdp);
        (id, sdp)
    }

    fn answer(&mut self, id: u32, sdp: &str) -> (TransportSpec, Vec<Action>) {
        let mut out = Vec::new();
        assert_eq!(self.offerer.handle_answer(id, sdp, &mut out), Ok(Taken::Accepted));
        let Action::Apply(spec) = out.remove(0) else { panic!() };
        (*spec, out)
    }

    fn exchange(&mut self) -> (String, TransportSpec, Vec<Action>) {
        let (id, offer) = self.offer();
        let (spec, events) = self.answer(id, &answer(&offer, None));
        (offer, spec, events)
    }
}

#[test]
fn the_first_offer_comes_at_once_with_nothing_but_data() {
    let mut desk = Desk::new(true);
    let said = desk.poll();
    let [Action::Offer { id: 1, sdp, .. }] = said.as_slice() else { panic!("{said:?}") };
    for line in ["a=ice-lite", "a=setup:actpass", "m=application 9 UDP/DTLS/SCTP webrtc-datachannel"] {
        assert!(sdp.lines().any(|l| l == line), "{line} missing in\n{sdp}");
    }
    let (spec, events) = desk.answer(1, &answer(sdp, None));
    assert_eq!((spec.data, spec.remote_ice.ufrag.as_str()), (DataChannels::Opened, "client"));
    assert_eq!((desk.wait(), events), (vec![], vec![]));
}

#[test]
fn a_client_that_answers_passive_is_called() {
    let mut desk = Desk::new(true);
    let (id, offer) = desk.offer();
    let passive = |offer: &str| answer(offer, None).replace("a=setup:active", "a=setup:passive");
    assert_eq!(desk.answer(id, &passive(&offer)).0.dtls_role, DtlsRole::Client);
    desk.offerer.want(wanted(1, MediaKind::Audio));
    let (id, offer) = desk.offer();
    let changed = desk.offerer.handle_answer(id, &answer(&offer, None), &mut Vec::new());
    assert_eq!(changed, Err(OfferError::SetupChanged("active")), "roles stay");
}

#[test]
fn nothing_is_offered_to_who_receives_nothing() {
    let mut desk = Desk::new(false);
    assert_eq!(desk.wait(), []);
    desk.offerer.want(wanted(1, MediaKind::Audio));
    desk.exchange();
}

#[test]
fn a_track_reaches_the_shard_when_the_client_has_answered_for_it() {
    let mut desk = Desk::new(true);
    desk.exchange();
    desk.offerer.want(wanted(1, MediaKind::Audio));
    desk.offerer.want(wanted(2, MediaKind::Video));
    assert_eq!(desk.poll(), [], "what comes together is offered together");
    let (offer, spec, events) = desk.exchange();
    assert!(offer.contains("a=msid:PA_2|TR_2 TR_2\r\n") && offer.contains("a=ssrc-group:FID "));
    assert_eq!(spec.send.iter().map(|s| s.track).collect::<Vec<_>>(), [Some(track(1)), Some(track(2))]);
    let mid = |n| desk.offerer.mid_of(track(n)).unwrap();
    let attached = |n| Action::Attached { track: track(n), mid: mid(n) };
    assert_eq!(events, [attached(1), attached(2)]);
}

#[test]
fn a_departed_track_stops_at_once_and_its_section_is_reused_after_an_answer() {
    let mut desk = Desk::new(true);
    desk.offerer.want(wanted(1, MediaKind::Audio));
    let (_, before, _) = desk.exchange();
    desk.offerer.unwant(track(1));
    desk.offerer.want(wanted(2, MediaKind::Audio));
    let said = desk.poll();
    let [Action::Apply(spec)] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!(spec.send[0].track, None);
    let (offer, spec, _) = desk.exchange();
    assert!(offer.contains("m=audio") && offer.matches("m=audio").count() == 2, "a section of its own");
    assert_eq!(spec.send.iter().map(|s| s.track).collect::<Vec<_>>(), [None, Some(track(2))]);
    desk.offerer.want(wanted(3, MediaKind::Audio));
    let (offer, spec, _) = desk.exchange();
    assert_eq!(offer.matches("m=audio").count(), 2);
    assert_eq!(spec.send[0].track, Some(track(3)));
    assert_eq!(spec.send[0].ssrc, before.send[0].ssrc, "a section keeps its SSRC");
}

#[test]
fn a_track_unwanted_while_its_offer_is_under_way_never_flows() {
    let mut desk = Desk::new(true);
    desk.offerer.want(wanted(1, MediaKind::Audio));
    let (id, offer) = desk.offer();
    desk.offerer.unwant(track(1));
    let (spec, events) = desk.answer(id, &answer(&offer, None));
    assert_eq!((spec.send[0].track, events), (None, vec![]));
    let (offer, ..) = desk.exchange();
    assert!(offer.contains("a=inactive"));
    assert_eq!(desk.wait(), []);
}

#[test]
fn answers_to_other_offers_are_dropped() {
    let mut desk = Desk::new(true);
    let (id, offer) = desk.offer();
    let mut out = Vec::new();
    assert_eq!(desk.offerer.handle_answer(id + 1, &answer(&offer, None), &mut out), Ok(Taken::Stale));
    desk.answer(id, &answer(&offer, None));
    assert_eq!(desk.offerer.handle_answer(id, &answer(&offer, None), &mut out), Ok(Taken::Stale));
    assert_eq!(out, []);
}

#[test]
fn an_answer_to_something_else_is_refused() {
    let mut desk = Desk::new(true);
    desk.offerer.want(wanted(1, MediaKind::Audio));
    let (id, offer) = desk.offer();
    let good = answer(&offer, None);
    for (bad, index) in [
        (good.replace("a=mid:1", "a=mid:7"), 1),
        (good.replace("m=audio", "m=video"), 1),
        (good.replace("m=application", "m=text"), 0),
    ] {
        let refused = desk.offerer.handle_answer(id, &bad, &mut Vec::new());
        assert_eq!(refused, Err(OfferError::SectionChanged(index)));
    }
    desk.answer(id, &good);
}

#[test]
fn a_client_that_refuses_a_kind_is_not_offered_more_of_it() {
    let mut desk = Desk::new(true);
    desk.offerer.want(wanted(1, MediaKind::Video));
    let (id, offer) = desk.offer();
    let (spec, _) = desk.answer(id, &answer(&offer, Some("video")));
    assert_eq!(spec.send, []);
    desk.offerer.want(wanted(2, MediaKind::Video));
    assert_eq!(desk.wait(), []);
}

#[test]
fn a_restart_offers_new_credentials_at_once_and_voids_the_old_offer() {
    let mut desk = Desk::new(true);
    let (_, before, _) = desk.exchange();
    desk.offerer.want(wanted(1, MediaKind::Audio));
    let (id, old) = desk.offer();
    desk.offerer.restart_ice(&mut desk.random);
    let said = desk.poll();
    let [Action::Offer { id: next, sdp, .. }] = said.as_slice() else { panic!("{said:?}") };
    let mut out = Vec::new();
    assert_eq!(desk.offerer.handle_answer(id, &answer(&old, None), &mut out), Ok(Taken::Stale));
    let (after, _) = desk.answer(*next, &answer(sdp, None));
    assert_ne!(before.local_ice.pwd, after.local_ice.pwd);
    assert_eq!(after.send[0].track, Some(track(1)));
}

#[test]
fn a_client_that_never_answers_is_given_up() {
    let mut desk = Desk::new(true);
    desk.offer();
    assert_eq!(desk.poll(), []);
    desk.now = desk.offerer.due().unwrap();
    assert_eq!(desk.poll(), [Action::Stalled]);
    assert!(ANSWER_PATIENCE > Duration::from_secs(10));
}

proptest! {
    #[test]
    fn random_wishes_converge(steps in prop::collection::vec((0_u8..5, 0_u64..6), 1..36)) {
        let mut desk = Desk::new(true);
        let mut wishes: BTreeMap<u64, MediaKind> = BTreeMap::new();
        let mut under_way: Option<(u32, String)> = None;
        let mut applied: Option<Box<TransportSpec>> = None;
        let kind_of = |n: u64| if n.is_multiple_of(2) { MediaKind::Audio } else { MediaKind::Video };
        for (step, n) in steps.into_iter().chain((0..20).map(|i| (3 + i % 2, 0))) {
            match step {
                0 => {
                    wishes.insert(n, kind_of(n));
                    desk.offerer.want(wanted(n, kind_of(n)));
                }
                1 => {
                    wishes.remove(&n);
                    desk.offerer.unwant(track(n));
                }
                2 => desk.offerer.restart_ice(&mut desk.random),
                3 => {
                    if let Some((id, offer)) = under_way.take() {
                        let mut out = Vec::new();
                        let taken = desk.offerer.handle_answer(id, &answer(&offer, None), &mut out);
                        assert!(taken.is_ok());
                        applied = out.into_iter().find_map(|a| match a { Action::Apply(s) => Some(s), _ => None }).or(applied);
                    }
                }
                _ => {}
            }
            for action in desk.wait() {
                match action {
                    Action::Offer { id, sdp, .. } => under_way = Some((id, sdp)),
                    Action::Apply(spec) => applied = Some(spec),
                    other => panic!("{other:?}"),
                }
            }
        }
        let mut flowing: Vec<u64> = applied.unwrap().send.iter().filter_map(|s| s.track).map(|t| t.as_u64()).collect();
        flowing.sort_unstable();
        let mut wished: Vec<u64> = wishes.keys().map(|n| track(*n).as_u64()).collect();
        wished.sort_unstable();
        assert_eq!(flowing, wished);
    }
}
