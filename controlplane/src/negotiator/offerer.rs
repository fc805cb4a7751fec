//! The subscriber connection of clients that receive on a peer connection of its own, as a state machine without I/O: here the
//! server offers and the client answers.
//!
//! Wishes for tracks and answers come in; offers and specifications go out. A track reaches the shard only once the client has
//! answered for it; one that is no longer wanted leaves the shard at once. One offer at a time (RFC 8829 §4.1.2).

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use auralink_proto::{
    DataChannels, DtlsRole, ExtensionMap, ExtensionUri, Fingerprint, IceCredentials, MediaKind, Mid, TrackId,
    TransportSpec,
};

use super::answer::{self, Form};
use super::catalogue;
use super::offer::{Direction, Offer, OfferError, OfferedSection, SECTIONS_MAX, SectionKind, Setup};
use super::pace::Pace;
use super::slots::{Attached, Role, Section, Ssrcs, can_carry};
use super::{Action, Local, Random, Taken, Wanted};

/// How long a client may take to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(15);

/// Our numbers for header extensions, the same in every section (RFC 8843 §9).
const EXTENSIONS: [(ExtensionUri, u8); 7] = [
    (ExtensionUri::AudioLevel, 1),
    (ExtensionUri::AbsSendTime, 2),
    (ExtensionUri::TransportCc, 3),
    (ExtensionUri::Mid, 4),
    (ExtensionUri::PlayoutDelay, 5),
    (ExtensionUri::AbsCaptureTime, 6),
    (ExtensionUri::DependencyDescriptor, 7),
];

/// The state machine.
#[derive(Debug)]
pub struct Offerer {
    local: Local,
    local_ice: IceCredentials,
    cname: String,
    session_id: u64,
    version: u32,
    remote: Option<(IceCredentials, Fingerprint)>,
    /// Of the one DTLS session there is; the first answer decides.
    dtls_role: DtlsRole,
    sections: Vec<Section>,
    wanted: Vec<Wanted>,
    /// Identifier of the last offer.
    offered: u32,
    /// Since when its answer is awaited, and what it says of each section.
    pending: Option<(Instant, Vec<Option<TrackId>>)>,
    /// Sections answered so far.
    negotiated: usize,
    /// An offer is due whatever the sections say.
    forced: bool,
    /// The specification in force differs from the state.
    dirty: bool,
    ssrcs: HashSet<u32>,
    pace: Pace,
}

impl Offerer {
    /// Without `at_once`, nothing is offered before there is a track to receive.
    pub fn new(local: Local, at_once: bool, random: &mut dyn Random) -> Self {
        Self {
            local_ice: IceCredentials { ufrag: local.transport.ufrag(), pwd: random.word(24) },
            cname: random.word(16),
            session_id: u64::from(random.bits()) << 16 | 1,
            local,
            version: 0,
            remote: None,
            dtls_role: DtlsRole::Server,
            sections: vec![Section::new(data_section())],
            wanted: Vec::new(),
            offered: 0,
            pending: None,
            negotiated: 0,
            forced: at_once,
            dirty: false,
            ssrcs: HashSet::new(),
            pace: Pace::default(),
        }
    }

    /// The section a wanted track passes through.
    pub fn mid_of(&self, track: TrackId) -> Option<Mid> {
        let section = self.sections.iter().find(|s| s.attached.as_ref().is_some_and(|a| a.track == track))?;
        Some(section.offered.mid)
    }

    /// When to call [`Self::poll`] if nothing changes before.
    pub fn due(&self) -> Option<Instant> {
        let answer = self.pending.as_ref().map(|(since, _)| *since + ANSWER_PATIENCE);
        [self.pace.due(), answer].into_iter().flatten().min()
    }

    /// The participant shall receive this track. Whether that is news.
    pub fn want(&mut self, wanted: Wanted) -> bool {
        let is_new = self.wanted.iter().all(|known| known.track != wanted.track);
        if is_new {
            self.wanted.push(wanted);
        }
        is_new
    }

    /// The participant shall no longer receive this track. The shard stops at once, the client learns with the next offer.
    pub fn unwant(&mut self, track: TrackId) {
        self.wanted.retain(|wanted| wanted.track != track);
        for section in &mut self.sections {
            if section.attached.as_ref().is_some_and(|attached| attached.track == track) {
                section.attached = None;
                self.dirty = true;
            }
        }
    }

    /// The client lost its way here: new credentials are offered at once (RFC 8839 §4.4.1.1.1).
    pub fn restart_ice(&mut self, random: &mut dyn Random) {
        if self.offered > 0 {
            self.local_ice.pwd = random.word(24);
            self.forced = true;
            // What was offered before is void, also when its answer still comes.
            self.pending = None;
        }
    }

    /// Takes an answer.
    ///
    /// # Errors
    /// [`OfferError`], the client's fault; nothing has changed then.
    pub fn handle_answer(&mut self, id: u32, sdp: &str, out: &mut Vec<Action>) -> Result<Taken, OfferError> {
        // Clients of old protocols repeat no identifier.
        let current = id == 0 || id == self.offered;
        let Some((_, told)) = self.pending.as_ref().filter(|_| current) else { return Ok(Taken::Stale) };
        let mut answer = Offer::parse(sdp)?;
        answer.keep(&self.local.codecs);
        if answer.sections.len() != told.len() {
            return Err(OfferError::SectionChanged(answer.sections.len().min(told.len())));
        }
        for (index, (ours, theirs)) in self.sections.iter().zip(&answer.sections).enumerate() {
            if ours.offered.mid != theirs.mid || ours.offered.kind != theirs.kind {
                return Err(OfferError::SectionChanged(index));
            }
        }
        self.dtls_role = answer.setup.role(self.remote.as_ref().map(|_| self.dtls_role))?;
        let Some((_, told)) = self.pending.take() else { return Ok(Taken::Stale) };
        self.negotiated = told.len();
        self.remote = Some((answer.ice, answer.fingerprint));
        let mut events = Vec::new();
        for ((section, theirs), told) in self.sections.iter_mut().zip(answer.sections).zip(told) {
            let news = told != section.answered;
            section.answered = told;
            section.offered = theirs;
            // Whatever flows now, the client receives here when it is offered something.
            section.offered.direction = Direction::RecvOnly;
            if let Some(track) = told.filter(|_| news)
                && section.attached.as_ref().is_some_and(|attached| attached.track == track)
            {
                events.push(Action::Attached { track, mid: section.offered.mid });
            }
        }
        // What the client has shown that it cannot decode is wanted no longer.
        let Self { wanted, sections, .. } = self;
        let lacks = |wanted: &Wanted| can_carry(sections, wanted) == Some(false);
        let lacking: Vec<TrackId> = wanted.iter().filter(|w| lacks(w)).map(|w| w.track).collect();
        for track in lacking {
            self.unwant(track);
            events.push(Action::Unsupported { track });
        }
        self.apply(out);
        out.append(&mut events);
        Ok(Taken::Accepted)
    }

    /// Brings the shard up to date and offers what the client does not know. Called after every change.
    pub fn poll(&mut self, now: Instant, random: &mut dyn Random, out: &mut Vec<Action>) {
        if self.dirty && self.remote.is_some() {
            self.apply(out);
        }
        if let Some((since, _)) = &self.pending {
            if now.duration_since(*since) >= ANSWER_PATIENCE {
                self.pending = None;
                out.push(Action::Stalled);
            }
            return;
        }
        let waiting = self.waiting().next().is_some();
        let stale = self.sections.iter().any(Section::is_stale);
        if !self.forced && !waiting && !stale {
            self.pace.rest();
        } else if self.forced || self.pace.is_time(waiting, now) {
            self.offer(now, random, out);
        }
    }

    /// Wanted tracks without a section for which there is one or may be one.
    fn waiting(&self) -> impl Iterator<Item = &Wanted> {
        self.wanted.iter().filter(|wanted| {
            let free = |s: &Section| s.is_free(wanted.kind) && s.carries(wanted);
            // A client that refused a section of this kind would refuse another.
            let refused =
                |s: &Section| s.offered.kind == SectionKind::Media(wanted.kind) && !s.offered.usable;
            self.mid_of(wanted.track).is_none()
                && (self.sections.iter().any(free)
                    || self.sections.len() < SECTIONS_MAX && !self.sections.iter().any(refused))
        })
    }

    fn offer(&mut self, now: Instant, random: &mut dyn Random, out: &mut Vec<Action>) {
        self.forced = false;
        let waiting: Vec<Wanted> = self.waiting().cloned().collect();
        for wanted in waiting {
            let place = self.sections.iter().position(|s| s.is_free(wanted.kind) && s.carries(&wanted));
            let place = place.unwrap_or_else(|| self.add_section(wanted.kind, random));
            if let Some(section) = self.sections.get_mut(place) {
                section.attached = Some(Attached::new(&wanted));
            }
        }
        self.offered += 1;
        let shared = answer::Shared {
            form: Form::Offer,
            mixes_extensions: true,
            session_id: self.session_id,
            version: self.offered,
            ice: &self.local_ice,
            fingerprint: self.local.fingerprint,
            candidates: &self.local.candidates,
            cname: &self.cname,
            // An offer has to leave the choice (RFC 8842 §5.2); whoever answers chooses to be the client.
            setup: Setup::ActPass,
            offers_once: false,
        };
        let sdp = answer::write(&shared, &self.sections);
        let mut mid_to_track_id = HashMap::new();
        for section in &self.sections {
            if let Some(attached) = &section.attached {
                mid_to_track_id.insert(section.offered.mid.as_str().to_owned(), attached.sid.clone());
            }
        }
        let told = self.sections.iter().map(|s| s.attached.as_ref().map(|attached| attached.track));
        self.pending = Some((now, told.collect()));
        out.push(Action::Offer { id: self.offered, sdp, mid_to_track_id });
    }

    /// One more section, without a track; past the limit none, and the last one's place.
    fn add_section(&mut self, kind: MediaKind, random: &mut dyn Random) -> usize {
        let place = self.sections.len();
        let mid = place.to_string();
        if let Some(mid) = Mid::new(mid.as_bytes()).filter(|_| place < SECTIONS_MAX) {
            let mut section = Section::new(self.media_section(kind, mid));
            section.role = Role::Send;
            let rtx = (kind == MediaKind::Video).then(|| self.mint(random));
            section.ssrcs = Some(Ssrcs { primary: self.mint(random), rtx });
            self.sections.push(section);
        }
        place
    }

    /// A section as a client would ask for it that can do everything we can.
    fn media_section(&self, kind: MediaKind, mid: Mid) -> OfferedSection {
        let mut extensions = ExtensionMap::default();
        for (uri, id) in EXTENSIONS {
            let fits = match uri {
                ExtensionUri::AudioLevel => kind == MediaKind::Audio,
                ExtensionUri::DependencyDescriptor | ExtensionUri::PlayoutDelay => kind == MediaKind::Video,
                _ => true,
            };
            if fits {
                extensions.set(uri, id);
            }
        }
        OfferedSection {
            mid,
            kind: SectionKind::Media(kind),
            media: if kind == MediaKind::Audio { "audio" } else { "video" }.into(),
            proto: "UDP/TLS/RTP/SAVPF".into(),
            fmt: String::new(),
            direction: Direction::RecvOnly,
            usable: true,
            payloads: catalogue::payloads(kind, &self.local.codecs),
            extensions,
            rids: Vec::new(),
            ssrcs: Vec::new(),
            msid_track: None,
        }
    }

    fn mint(&mut self, random: &mut dyn Random) -> u32 {
        loop {
            let ssrc = random.bits();
            if ssrc != 0 && self.ssrcs.insert(ssrc) {
                return ssrc;
            }
        }
    }

    fn apply(&mut self, out: &mut Vec<Action>) {
        self.dirty = false;
        let Some((remote_ice, remote_fingerprint)) = self.remote.clone() else { return };
        self.version += 1;
        let send = self.sections.iter().take(self.negotiated).filter_map(|section| {
            let mut send = section.send()?;
            // The client has to have answered for the track that passes.
            send.track = send.track.filter(|track| section.answered == Some(*track));
            Some(send)
        });
        out.push(Action::Apply(Box::new(TransportSpec {
            id: self.local.transport,
            version: self.version,
            room: self.local.room,
            local_ice: self.local_ice.clone(),
            remote_ice,
            remote_fingerprint,
            remote_keys: self.local.peer_keys,
            dtls_role: self.dtls_role,
            cname: self.cname.clone(),
            receive: Vec::new(),
            send: send.collect(),
            data: DataChannels::Opened,
        })));
    }
}

fn data_section() -> OfferedSection {
    OfferedSection {
        mid: Mid::new(b"0").expect("invariant: one byte fits"),
        kind: SectionKind::Data,
        media: "application".into(),
        proto: "UDP/DTLS/SCTP".into(),
        fmt: "webrtc-datachannel".into(),
        direction: Direction::SendRecv,
        usable: true,
        payloads: Vec::new(),
        extensions: ExtensionMap::default(),
        rids: Vec::new(),
        ssrcs: Vec::new(),
        msid_track: None,
    }
}

#[cfg(test)]
mod tests;
