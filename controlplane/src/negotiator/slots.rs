//! Slots: the media sections of one transport, what each is for, and which track passes through it.
//!
//! A slot is not a track. A slot's SSRCs stay with it for the life of the transport; tracks come and go. A slot that still
//! names a departed track in the client's description must be answered `inactive` once before another track may use it,
//! since native clients announce a track only when a section starts to receive.

use auralink_proto::{ExtensionMap, ExtensionUri, MediaKind, ReceiveSection, SendSection, TrackId};

use super::Wanted;
use super::answer::sent_extensions;
use super::codec::Preference;
use super::offer::{Direction, OfferedPayload, OfferedSection, SectionKind};

/// What a section is for, from the server's side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The client sends this track.
    Receive { track: TrackId },
    /// The client receives.
    Send,
    /// Nothing flows.
    Idle,
}

/// A track passed through a section towards the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    pub track: TrackId,
    /// `TR_…`
    pub sid: String,
    /// `PA_…`
    pub publisher_sid: String,
}

impl Attached {
    pub fn new(wanted: &Wanted) -> Self {
        Self { track: wanted.track, sid: wanted.sid.clone(), publisher_sid: wanted.publisher_sid.clone() }
    }
}

/// SSRCs AuraLink sends with on one section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ssrcs {
    pub primary: u32,
    /// Minted always, used when the client can be repaired.
    pub rtx: Option<u32>,
}

/// One media section, kept from offer to offer.
#[derive(Clone, Debug)]
pub struct Section {
    pub offered: OfferedSection,
    pub role: Role,
    pub attached: Option<Attached>,
    /// Track the client was last told about for this section.
    pub answered: Option<TrackId>,
    pub ssrcs: Option<Ssrcs>,
    /// Opus parameters asked of a publisher, beginning with `;` when not empty.
    pub opus_extra: String,
    /// What a publisher announced of its codec.
    pub preference: Preference,
}

impl Section {
    /// A section seen for the first time.
    pub fn new(offered: OfferedSection) -> Self {
        Self {
            offered,
            role: Role::Idle,
            attached: None,
            answered: None,
            ssrcs: None,
            opus_extra: String::new(),
            preference: Preference::default(),
        }
    }

    /// The kind of media, when the section can carry any.
    pub fn media(&self) -> Option<MediaKind> {
        match self.offered.kind {
            SectionKind::Media(kind) if self.offered.usable => Some(kind),
            _ => None,
        }
    }

    /// Whether the client means to send on it.
    pub fn client_sends(&self) -> bool {
        self.media().is_some() && matches!(self.offered.direction, Direction::SendOnly | Direction::SendRecv)
    }

    /// Whether the client means to receive on it.
    pub fn client_receives(&self) -> bool {
        self.media().is_some() && self.offered.direction == Direction::RecvOnly
    }

    /// Whether a track of this kind may be attached in the next answer.
    pub fn is_free(&self, kind: MediaKind) -> bool {
        self.role == Role::Send
            && self.media() == Some(kind)
            && self.attached.is_none()
            && self.answered.is_none()
    }

    /// Payload types in the order of the answer: where the client sends, that says what it shall send.
    pub fn payloads(&self) -> Vec<&OfferedPayload> {
        match self.role {
            Role::Receive { .. } => self.preference.arrange(&self.offered.payloads),
            Role::Send | Role::Idle => self.offered.payloads.iter().collect(),
        }
    }

    /// Whether the client can receive a track of that codec here.
    pub fn carries(&self, wanted: &Wanted) -> bool {
        let offered = self.offered.payloads.iter().map(|payload| &payload.map);
        wanted.codec.is_receivable(wanted.encrypted, offered)
    }

    /// Whether the client's description names another track than passes now.
    pub fn is_stale(&self) -> bool {
        self.answered != self.attached.as_ref().map(|attached| attached.track)
    }

    /// The shard's view, when the client sends here; `extensions` are those of the whole bundle.
    pub fn receive(&self, muted: bool, extensions: ExtensionMap) -> Option<ReceiveSection> {
        let Role::Receive { track } = self.role else { return None };
        Some(ReceiveSection {
            mid: self.offered.mid,
            kind: self.media()?,
            track,
            payloads: self.payloads().into_iter().map(|payload| payload.map).collect(),
            encrypted: self.preference.encrypted,
            extensions,
            rids: self.offered.rids.clone(),
            ssrcs: self.offered.ssrcs.clone(),
            muted,
        })
    }

    /// The shard's view, when the client receives here.
    pub fn send(&self) -> Option<SendSection> {
        let ssrcs = self.ssrcs.filter(|_| self.role == Role::Send)?;
        let kind = self.media()?;
        let mut payloads: Vec<_> = self.offered.payloads.iter().map(|payload| payload.map).collect();
        for payload in &mut payloads {
            payload.nack &= kind == MediaKind::Video;
        }
        let repaired = payloads.iter().any(|payload| payload.rtx_pt.is_some());
        Some(SendSection {
            mid: self.offered.mid,
            kind,
            ssrc: ssrcs.primary,
            rtx_ssrc: ssrcs.rtx.filter(|_| repaired),
            payloads,
            extensions: sent_extensions(&self.offered.extensions),
            track: self.attached.as_ref().map(|attached| attached.track),
        })
    }
}

/// Whether any section the client receives on can carry a track; unknown without such a section.
pub fn can_carry(sections: &[Section], wanted: &Wanted) -> Option<bool> {
    let receiving = |s: &&Section| s.role == Role::Send && s.media() == Some(wanted.kind);
    let mut receiving = sections.iter().filter(receiving).peekable();
    receiving.peek()?;
    Some(receiving.any(|section| section.carries(wanted)))
}

/// What header extension identifiers mean on a transport. A bundle has one map (RFC 8843 §9): a packet's section is not known
/// before its extensions are read.
pub fn bundle_extensions(sections: &[Section]) -> ExtensionMap {
    let mut bundle = ExtensionMap::default();
    for section in sections.iter().filter(|section| section.media().is_some()) {
        for uri in ExtensionUri::ALL {
            if let (Some(id), None) = (section.offered.extensions.id(uri), bundle.id(uri))
                && bundle.uri(id).is_none()
            {
                bundle.set(uri, id);
            }
        }
    }
    bundle
}
