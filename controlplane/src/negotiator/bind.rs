//! Which section carries which track: those a client announced, and those it is to receive.

use auralink_proto::{MediaKind, TrackId};

use super::slots::{Attached, Role, Section};
use super::{Action, Negotiator};

impl Negotiator {
    fn unbound(&self, kind: MediaKind) -> Option<usize> {
        (0..self.sections.len()).find(|i| {
            self.sections
                .get(*i)
                .is_some_and(|s| s.role == Role::Idle && s.client_sends() && s.media() == Some(kind))
        })
    }

    fn is_bound(&self, track: TrackId) -> bool {
        self.sections.iter().any(|section| section.role == (Role::Receive { track }))
    }

    pub(super) fn bind_by_cid(&mut self, events: &mut Vec<Action>) {
        for index in 0..self.publications.len() {
            let Some(publication) = self.publications.get(index) else { continue };
            if self.is_bound(publication.track) {
                continue;
            }
            let matching = self.sections.iter().position(|section| {
                section.role == Role::Idle
                    && section.client_sends()
                    && section.media() == Some(publication.kind)
                    && section.offered.msid_track.as_ref().is_some_and(|id| publication.cids.contains(id))
            });
            if let Some(section) = matching {
                self.bind(section, index, events);
            }
        }
    }

    /// Clients that rename their tracks in SDP are matched by kind, in order of announcement.
    pub(super) fn bind_by_kind(&mut self, events: &mut Vec<Action>) {
        for index in 0..self.publications.len() {
            let Some(publication) = self.publications.get(index) else { continue };
            if self.is_bound(publication.track) {
                continue;
            }
            if let Some(section) = self.unbound(publication.kind) {
                self.bind(section, index, events);
            }
        }
    }

    fn bind(&mut self, section: usize, publication: usize, events: &mut Vec<Action>) {
        let (Some(section), Some(publication)) =
            (self.sections.get_mut(section), self.publications.get(publication))
        else {
            return;
        };
        section.role = Role::Receive { track: publication.track };
        section.opus_extra.clone_from(&publication.opus_extra);
        section.preference = publication.preference;
        events.push(Action::Bound {
            track: publication.track,
            mid: section.offered.mid,
            layers: section.offered.rids.len().max(1),
        });
    }

    /// Gives what is wanted the sections that are free, which the client was answered for before.
    pub(super) fn attach_unasked(&mut self, events: &mut Vec<Action>) {
        let attached = |s: &Section| s.attached.as_ref().map(|attached| attached.track);
        self.sections.iter_mut().for_each(|section| section.answered = attached(section));
        let before = events.len();
        self.attach_wanted(events);
        self.dirty |= events.len() > before;
        self.sections.iter_mut().for_each(|section| section.answered = attached(section));
    }

    pub(super) fn attach_wanted(&mut self, events: &mut Vec<Action>) {
        for wanted in &self.wanted {
            let there = |s: &Section| s.attached.as_ref().is_some_and(|a| a.track == wanted.track);
            if self.sections.iter().any(there) {
                continue;
            }
            let again = |s: &&mut Section| {
                s.role == Role::Send && s.attached.is_none() && s.answered == Some(wanted.track)
            };
            let mut place = self.sections.iter_mut().find(again);
            if place.is_none() {
                place = self.sections.iter_mut().find(|s| s.is_free(wanted.kind) && s.carries(wanted));
            }
            if let Some(section) = place {
                section.attached = Some(Attached::new(wanted));
                events.push(Action::Attached { track: wanted.track, mid: section.offered.mid });
            }
        }
    }
}
