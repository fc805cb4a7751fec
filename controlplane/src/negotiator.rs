//! Offer and answer for one peer connection, as a state machine without I/O.
//!
//! The client always offers (LiveKit's single peer connection). Offers, wishes for tracks and acknowledgements of the shard
//! come in; specifications, answers and demands for more media sections come out. An answer leaves only after the shard has
//! acknowledged the specification it describes. RFC 8829 (JSEP), RFC 9429.

pub mod answer;
mod bind;
mod candidates;
pub mod catalogue;
pub mod codec;
pub mod offer;
pub mod offerer;
mod pace;
pub mod slots;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use auralink_proto::{
    Candidate, Codec, DataChannels, DtlsRole, Fingerprint, IceCredentials, MediaKind, Mid, PeerKeys, RoomId,
    TrackId, TransportId, TransportSpec,
};

use codec::{Enabled, Preference};
use offer::{Offer, OfferError, SECTIONS_MAX, SectionKind, Setup};
use pace::Pace;
use slots::{Role, Section, Ssrcs, bundle_extensions, can_carry};

/// After this long a demand for sections that brought no offer is forgotten, and made again if still needed.
const DEMAND_PATIENCE: Duration = Duration::from_secs(10);

/// Random values a negotiator needs.
pub trait Random {
    /// Any 32 bits.
    fn bits(&mut self) -> u32;
    /// A word of `len` letters and digits.
    fn word(&mut self, len: usize) -> String;
}

/// What a negotiator knows of its own side.
#[derive(Clone, Debug)]
pub struct Local {
    pub transport: TransportId,
    pub room: RoomId,
    pub fingerprint: Fingerprint,
    pub candidates: Vec<Candidate>,
    /// Codecs negotiated with this client.
    pub codecs: Enabled,
    /// The keys this client's certificate may have.
    pub peer_keys: PeerKeys,
    /// The client cannot be asked for another offer: it signals by HTTP. All it offers to receive on is answered as if media came,
    /// and tracks come and go there without its knowing.
    pub offers_once: bool,
}

/// A track the participant announced, to be recognised in its offers.
#[derive(Clone, Debug)]
pub struct Publication {
    pub track: TrackId,
    pub kind: MediaKind,
    /// Client-chosen identifiers, one of which an offer repeats in `a=msid`.
    pub cids: Vec<String>,
    pub muted: bool,
    /// Opus parameters to ask for, beginning with `;` when not empty.
    pub opus_extra: String,
    pub preference: Preference,
}

/// A track the participant shall receive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    pub track: TrackId,
    pub kind: MediaKind,
    pub codec: Codec,
    pub encrypted: bool,
    pub sid: String,
    pub publisher_sid: String,
}

/// What is to be done, in order.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Bring the shard to this specification.
    Apply(Box<TransportSpec>),
    /// Send this offer.
    Offer { id: u32, sdp: String, mid_to_track_id: HashMap<String, String> },
    /// The client owes an answer for too long.
    Stalled,
    /// Send this answer.
    Answer { id: u32, sdp: String, mid_to_track_id: HashMap<String, String> },
    /// Ask the client for this many more sections, or with zeros just for another offer.
    Demand { audios: u32, videos: u32 },
    /// An announced track has its section and simulcast layers.
    Bound { track: TrackId, mid: Mid, layers: usize },
    /// The client stopped sending an announced track.
    Unbound { track: TrackId },
    /// A wanted track passes through this section from now on.
    Attached { track: TrackId, mid: Mid },
    /// The client cannot decode a wanted track, which is wanted no longer.
    Unsupported { track: TrackId },
}

/// What became of an offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It will be answered.
    Accepted,
    /// A newer one was seen before; dropped.
    Stale,
}

/// The state machine.
#[derive(Debug)]
pub struct Negotiator {
    local: Local,
    local_ice: IceCredentials,
    cname: String,
    session_id: u64,
    version: u32,
    remote: Option<(IceCredentials, Fingerprint)>,
    /// Of the one DTLS session there is; the first offer decides.
    dtls_role: DtlsRole,
    mixes_extensions: bool,
    sections: Vec<Section>,
    publications: Vec<Publication>,
    wanted: Vec<Wanted>,
    /// Identifier of the offer to be answered, and the version its answer waits for.
    pending: Option<(u32, u32)>,
    last_offer: u32,
    answers: u32,
    /// The specification in force differs from the state.
    dirty: bool,
    /// Sections asked for and not yet offered.
    outstanding: [u32; 2],
    /// When an offer was last asked for, if none came since.
    demanded: Option<Instant>,
    pace: Pace,
    ssrcs: HashSet<u32>,
}

impl Negotiator {
    pub fn new(local: Local, random: &mut dyn Random) -> Self {
        Self {
            local_ice: IceCredentials { ufrag: local.transport.ufrag(), pwd: random.word(24) },
            cname: random.word(16),
            session_id: u64::from(random.bits()) << 16 | 1,
            local,
            version: 0,
            remote: None,
            dtls_role: DtlsRole::Server,
            mixes_extensions: false,
            sections: Vec::new(),
            publications: Vec::new(),
            wanted: Vec::new(),
            pending: None,
            last_offer: 0,
            answers: 0,
            dirty: false,
            outstanding: [0; 2],
            demanded: None,
            pace: Pace::default(),
            ssrcs: HashSet::new(),
        }
    }

    /// The section a wanted track passes through.
    pub fn mid_of(&self, track: TrackId) -> Option<Mid> {
        let section = self.sections.iter().find(|s| s.attached.as_ref().is_some_and(|a| a.track == track))?;
        Some(section.offered.mid)
    }

    /// Whether the client was asked for an offer that has not come yet.
    pub fn is_waiting(&self) -> bool {
        self.demanded.is_some()
    }

    /// When to call [`Self::poll`] if nothing changes before.
    pub fn due(&self) -> Option<Instant> {
        self.pace.due()
    }

    /// Announces a track of the participant's own, before the offer that carries it.
    pub fn publish(&mut self, publication: Publication) {
        self.publications.push(publication);
    }

    /// Forgets an announced track; its section falls idle.
    pub fn unpublish(&mut self, track: TrackId) {
        self.publications.retain(|publication| publication.track != track);
        for section in &mut self.sections {
            if section.role == (Role::Receive { track }) {
                section.role = Role::Idle;
                self.dirty = true;
            }
        }
    }

    /// Says whether an announced track is muted.
    pub fn mute(&mut self, track: TrackId, muted: bool) {
        if let Some(publication) = self.publications.iter_mut().find(|p| p.track == track) {
            self.dirty |= publication.muted != muted;
            publication.muted = muted;
        }
    }

    /// The participant shall receive this track. Whether that is news.
    pub fn want(&mut self, wanted: Wanted) -> bool {
        let is_new = self.wanted.iter().all(|known| known.track != wanted.track);
        if is_new {
            self.wanted.push(wanted);
        }
        is_new
    }

    /// The participant shall no longer receive this track. The shard stops at once, the client learns with its next offer.
    pub fn unwant(&mut self, track: TrackId) {
        self.wanted.retain(|wanted| wanted.track != track);
        for section in &mut self.sections {
            if section.attached.as_ref().is_some_and(|attached| attached.track == track) {
                section.attached = None;
                self.dirty = true;
            }
        }
    }

    /// Takes an offer.
    ///
    /// # Errors
    /// [`OfferError`], the client's fault; nothing has changed then.
    pub fn handle_offer(
        &mut self,
        id: u32,
        sdp: &str,
        random: &mut dyn Random,
        out: &mut Vec<Action>,
    ) -> Result<Taken, OfferError> {
        if id != 0 && id <= self.last_offer {
            return Ok(Taken::Stale);
        }
        let mut offer = Offer::parse(sdp)?;
        offer.keep(&self.local.codecs);
        self.check_continuity(&offer)?;
        self.dtls_role = offer.setup.role(self.remote.as_ref().map(|_| self.dtls_role))?;
        self.last_offer = id;
        self.outstanding = [0; 2];
        self.demanded = None;
        if self.remote.as_ref().is_some_and(|(ice, _)| *ice != offer.ice) {
            // An ICE restart changes both sides' credentials (RFC 8839 §4.4.1.1.1).
            self.local_ice.pwd = random.word(24);
        }
        self.remote = Some((offer.ice, offer.fingerprint));
        self.mixes_extensions = offer.mixes_extensions;
        let mut events = Vec::new();
        self.take_sections(offer.sections, &mut events);
        self.bind_by_kind(&mut events);
        self.mint_ssrcs(random);
        self.attach_wanted(&mut events);
        let version = self.apply(out);
        self.pending = Some((id, version));
        out.append(&mut events);
        Ok(Taken::Accepted)
    }

    /// The shard has put a version into force.
    pub fn handle_applied(&mut self, version: u32, out: &mut Vec<Action>) {
        let Some((id, waits_for)) = self.pending else { return };
        if version < waits_for {
            return;
        }
        self.pending = None;
        self.answers += 1;
        let shared = answer::Shared {
            form: answer::Form::Answer,
            session_id: self.session_id,
            version: self.answers,
            ice: &self.local_ice,
            fingerprint: self.local.fingerprint,
            candidates: &self.local.candidates,
            cname: &self.cname,
            mixes_extensions: self.mixes_extensions,
            offers_once: self.local.offers_once,
            setup: match self.dtls_role {
                DtlsRole::Server => Setup::Passive,
                DtlsRole::Client => Setup::Active,
            },
        };
        let sdp = answer::write(&shared, &self.sections);
        let mut mid_to_track_id = HashMap::new();
        for section in &mut self.sections {
            section.answered = section.attached.as_ref().map(|attached| attached.track);
            if let Some(attached) = &section.attached {
                mid_to_track_id.insert(section.offered.mid.as_str().to_owned(), attached.sid.clone());
            }
        }
        out.push(Action::Answer { id, sdp, mid_to_track_id });
    }

    /// Brings the shard up to date and asks the client for what is missing. Called after every change.
    pub fn poll(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.local.offers_once {
            self.attach_unasked(out);
        }
        if self.dirty && self.remote.is_some() {
            self.apply(out);
        }
        self.give_up_unsupported(out);
        self.demand(now, out);
    }

    /// JSEP: sections stay in place; only a rejected one may be replaced (RFC 8829 §5.3.1).
    fn check_continuity(&self, offer: &Offer) -> Result<(), OfferError> {
        if offer.sections.len() < self.sections.len() {
            return Err(OfferError::SectionChanged(offer.sections.len()));
        }
        for (index, (old, new)) in self.sections.iter().zip(&offer.sections).enumerate() {
            let same = old.offered.mid == new.mid && old.offered.kind == new.kind;
            if old.offered.usable && !same {
                return Err(OfferError::SectionChanged(index));
            }
        }
        Ok(())
    }

    fn take_sections(&mut self, offered: Vec<offer::OfferedSection>, events: &mut Vec<Action>) {
        let mut old = std::mem::take(&mut self.sections).into_iter();
        for new in offered {
            let mut section = match old.next() {
                Some(mut kept) if kept.offered.mid == new.mid => {
                    kept.offered = new;
                    kept
                }
                _ => Section::new(new),
            };
            if let Role::Receive { track } = section.role
                && (!section.client_sends() || self.publications.iter().all(|p| p.track != track))
            {
                section.role = Role::Idle;
                self.publications.retain(|publication| publication.track != track);
                events.push(Action::Unbound { track });
            }
            if !section.client_receives() {
                // A section the client takes back loses its track first; the track then looks for another.
                section.attached = None;
            }
            match section.role {
                Role::Receive { .. } => {}
                _ if section.client_receives() => section.role = Role::Send,
                _ => section.role = Role::Idle,
            }
            self.sections.push(section);
        }
        self.bind_by_cid(events);
    }

    fn mint_ssrcs(&mut self, random: &mut dyn Random) {
        let theirs: HashSet<u32> = self
            .sections
            .iter()
            .flat_map(|s| s.offered.ssrcs.iter())
            .flat_map(|(primary, rtx)| std::iter::once(*primary).chain(*rtx))
            .collect();
        let ours = &mut self.ssrcs;
        let mut mint = || loop {
            let ssrc = random.bits();
            if ssrc != 0 && !theirs.contains(&ssrc) && ours.insert(ssrc) {
                return ssrc;
            }
        };
        for section in &mut self.sections {
            if section.role == Role::Send && section.ssrcs.is_none() {
                let rtx = (section.media() == Some(MediaKind::Video)).then(&mut mint);
                section.ssrcs = Some(Ssrcs { primary: mint(), rtx });
            }
        }
    }

    /// Gives up wanted tracks that nothing the client receives on can carry.
    fn give_up_unsupported(&mut self, out: &mut Vec<Action>) {
        let Self { wanted, sections, .. } = self;
        let hopeless = |wanted: &Wanted| can_carry(sections, wanted) == Some(false);
        out.extend(wanted.iter().filter(|w| hopeless(w)).map(|w| Action::Unsupported { track: w.track }));
        wanted.retain(|wanted| !hopeless(wanted));
    }

    fn apply(&mut self, out: &mut Vec<Action>) -> u32 {
        self.dirty = false;
        let Some((remote_ice, remote_fingerprint)) = self.remote.clone() else { return self.version };
        self.version += 1;
        let is_muted = |track| {
            self.publications.iter().any(|publication| publication.track == track && publication.muted)
        };
        let bundle = bundle_extensions(&self.sections);
        let data = self.sections.iter().any(|s| s.offered.usable && s.offered.kind == SectionKind::Data);
        let receive = self.sections.iter().filter_map(|section| match section.role {
            Role::Receive { track } => section.receive(is_muted(track), bundle),
            _ => None,
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
            receive: receive.collect(),
            send: self.sections.iter().filter_map(Section::send).collect(),
            data: if data { DataChannels::Accepted } else { DataChannels::Off },
        })));
        self.version
    }

    /// Asks the client for what is missing, or for an answer's worth of news, when it is time.
    fn demand(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.remote.is_none() || self.local.offers_once {
            return;
        }
        if self.demanded.is_some_and(|at| now.duration_since(at) > DEMAND_PATIENCE) {
            self.demanded = None;
            self.outstanding = [0; 2];
        }
        let ([audios, videos], unattached) = self.missing();
        // With an answer on its way, what it will say is not stale yet.
        let stale = self.pending.is_none() && self.sections.iter().any(Section::is_stale);
        let lacks_sections = audios + videos > 0;
        if !lacks_sections && (self.demanded.is_some() || !(unattached || stale)) {
            self.pace.rest();
        } else if self.pace.is_time(lacks_sections || unattached, now) {
            self.demanded = Some(now);
            let [audio, video] = &mut self.outstanding;
            *audio += audios;
            *video += videos;
            out.push(Action::Demand { audios, videos });
        }
    }

    /// Needed sections, audio and video, are those wanted, less those free, less those already asked for. Also whether a track
    /// waits for a section that is free or asked for.
    fn missing(&self) -> ([u32; 2], bool) {
        let mut unattached = false;
        let mut room = SECTIONS_MAX.saturating_sub(self.sections.len()) as u32;
        let mut count = |kind, outstanding: u32| {
            let waiting = self.wanted.iter().filter(|w| w.kind == kind && self.mid_of(w.track).is_none());
            let waiting = waiting.count() as u32;
            let free = self.sections.iter().filter(|s| s.is_free(kind)).count() as u32;
            unattached |= waiting > 0 && free + outstanding > 0;
            // More sections do not help a client that cannot decode what we forward.
            let incapable =
                |s: &Section| s.offered.kind == SectionKind::Media(kind) && s.offered.payloads.is_empty();
            if self.sections.iter().any(incapable) {
                return 0;
            }
            let needed = waiting.saturating_sub(free + outstanding).min(room);
            room -= needed;
            needed
        };
        let [audio, video] = self.outstanding;
        let needed = [count(MediaKind::Audio, audio), count(MediaKind::Video, video)];
        (needed, unattached)
    }
}
