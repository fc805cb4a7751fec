//! A client's SDP offer, reduced to what AuraLink can negotiate. Hostile input: bounded before it is parsed, never trusted.
//!
//! RFC 8866 (SDP), RFC 8829 (JSEP), RFC 8843 (BUNDLE), RFC 8851 to 8853 (rid, simulcast), RFC 4588 (RTX), RFC 8122 (fingerprint).

use std::collections::HashSet;

use auralink_proto::{
    DtlsRole, ExtensionMap, ExtensionUri, Fingerprint, IceCredentials, MediaKind, Mid, PayloadMap, Rid,
};
use sdp_types::{Attribute, Media, Session};

use super::codec::{self, Enabled};

/// Bytes of an offer.
pub const OFFER_BYTES_MAX: usize = 512 << 10;
/// Lines of an offer.
pub const OFFER_LINES_MAX: usize = 10_000;
/// Media sections of an offer.
pub const SECTIONS_MAX: usize = 256;
/// Simulcast layers accepted of one section.
pub const RIDS_MAX: usize = 3;
/// Attribute that allows one- and two-byte header extensions side by side.
const MIXED: &str = "extmap-allow-mixed";
/// SSRCs kept of one section.
const SSRCS_MAX: usize = 16;

/// Why an offer was refused. The client's fault, all of them.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OfferError {
    #[error("offer has {0} bytes, at most {OFFER_BYTES_MAX} are accepted")]
    TooLong(usize),
    #[error("offer has {0} lines, at most {OFFER_LINES_MAX} are accepted")]
    TooManyLines(usize),
    #[error("offer has {0} media sections, at most {SECTIONS_MAX} are accepted")]
    TooManySections(usize),
    #[error("offer is not SDP: {0}")]
    Syntax(String),
    #[error("offer has no media section")]
    Empty,
    #[error("media section {0} has no a=mid, or one longer than 16 bytes")]
    NoMid(usize),
    #[error("a=mid {0} occurs twice")]
    DuplicateMid(String),
    #[error("offer has no usable a=ice-ufrag and a=ice-pwd")]
    NoIce,
    #[error("offer has no a=fingerprint with sha-256")]
    NoFingerprint,
    #[error("offer has a=setup:{0}: actpass, active or passive is possible")]
    Setup(String),
    #[error("offer says a=setup:{0}, but the DTLS session there is has the roles the other way round")]
    SetupChanged(&'static str),
    #[error("offer changes media section {0} into something else")]
    SectionChanged(usize),
}

/// Who starts the DTLS handshake, by the side that says it (RFC 8842 §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Setup {
    /// The other side may choose. Also what an offer without the attribute means here.
    #[default]
    ActPass,
    /// It does.
    Active,
    /// The other side does.
    Passive,
}

impl Setup {
    /// The attribute's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ActPass => "actpass",
            Self::Active => "active",
            Self::Passive => "passive",
        }
    }

    /// Our part, when the client says this. A session there is keeps its roles (RFC 8842 §5.5), `held`; where we may choose, we
    /// serve.
    ///
    /// # Errors
    /// [`OfferError::SetupChanged`]
    pub fn role(self, held: Option<DtlsRole>) -> Result<DtlsRole, OfferError> {
        let wanted = match self {
            Self::ActPass => held.unwrap_or(DtlsRole::Server),
            Self::Active => DtlsRole::Server,
            Self::Passive => DtlsRole::Client,
        };
        let is_held = held.is_none_or(|held| held == wanted);
        if is_held { Ok(wanted) } else { Err(OfferError::SetupChanged(self.as_str())) }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::ActPass, Self::Active, Self::Passive].into_iter().find(|setup| setup.as_str() == text.trim())
    }
}

/// Which way media flows, from the offerer's side (RFC 8866 §6.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

/// What a media section is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SectionKind {
    Media(MediaKind),
    /// Data channels over SCTP (RFC 8841).
    Data,
    /// Something AuraLink cannot do, rejected with port 0.
    Other,
}

/// One payload type with the parameters the answer repeats.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OfferedPayload {
    pub map: PayloadMap,
    /// `a=rtcp-fb:<pt> ccm fir` was offered.
    pub fir: bool,
    /// `a=fmtp` of the payload type, as offered.
    pub fmtp: String,
}

/// One media section of an offer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OfferedSection {
    pub mid: Mid,
    pub kind: SectionKind,
    /// The word after `m=`, to be repeated.
    pub media: String,
    pub proto: String,
    /// Formats as offered, to be repeated when rejecting.
    pub fmt: String,
    pub direction: Direction,
    /// Whether the section can be accepted at all.
    pub usable: bool,
    pub payloads: Vec<OfferedPayload>,
    pub extensions: ExtensionMap,
    /// Layers the client sends, lowest resolution first.
    pub rids: Vec<Rid>,
    pub ssrcs: Vec<(u32, Option<u32>)>,
    /// Track identifier of `a=msid`, by which an announced track is recognised.
    pub msid_track: Option<String>,
}

/// A whole offer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    pub ice: IceCredentials,
    pub fingerprint: Fingerprint,
    pub setup: Setup,
    pub sections: Vec<OfferedSection>,
    /// One- and two-byte header extensions may come on one stream (RFC 8285 §6).
    pub mixes_extensions: bool,
}

impl Offer {
    /// Reads an offer.
    ///
    /// # Errors
    /// [`OfferError`], naming the limit or the field.
    pub fn parse(sdp: &str) -> Result<Self, OfferError> {
        if sdp.len() > OFFER_BYTES_MAX {
            return Err(OfferError::TooLong(sdp.len()));
        }
        let (mut lines, mut sections) = (0_usize, 0_usize);
        for line in sdp.split('\n') {
            lines += 1;
            sections += usize::from(line.starts_with("m="));
        }
        if lines > OFFER_LINES_MAX {
            return Err(OfferError::TooManyLines(lines));
        }
        if sections > SECTIONS_MAX {
            return Err(OfferError::TooManySections(sections));
        }
        let session =
            Session::parse(sdp.as_bytes()).map_err(|error| OfferError::Syntax(error.to_string()))?;
        Self::read(&session)
    }

    /// Forgets payload types of codecs that are not enabled; a section left without any is rejected.
    pub fn keep(&mut self, codecs: &Enabled) {
        for section in &mut self.sections {
            section.payloads.retain(|payload| codecs.admits(payload.map.codec.encoding()));
            let is_empty = matches!(section.kind, SectionKind::Media(_)) && section.payloads.is_empty();
            section.usable &= !is_empty;
        }
    }

    fn read(session: &Session) -> Result<Self, OfferError> {
        if session.medias.is_empty() {
            return Err(OfferError::Empty);
        }
        let bundle: HashSet<&str> = values(&session.attributes, "group")
            .filter_map(|group| group.strip_prefix("BUNDLE"))
            .flat_map(str::split_whitespace)
            .collect();
        let mut seen = HashSet::new();
        let mut sections = Vec::with_capacity(session.medias.len());
        for (index, media) in session.medias.iter().enumerate() {
            let section = read_section(media, session, index, &bundle)?;
            if !seen.insert(section.mid) {
                return Err(OfferError::DuplicateMid(section.mid.as_str().to_owned()));
            }
            sections.push(section);
        }
        // One transport carries everything: its parameters stand in the first bundled section or above all sections.
        let tagged = sections.iter().position(|section| section.usable).unwrap_or(0);
        let tagged = session.medias.get(tagged).map_or(&[][..], |media| &media.attributes);
        let find = |name| value(tagged, name).or_else(|| value(&session.attributes, name));
        let setup = match find("setup") {
            Some(text) => {
                Setup::parse(text).ok_or_else(|| OfferError::Setup(text.trim().chars().take(16).collect()))?
            }
            None => Setup::default(),
        };
        let ice = IceCredentials {
            ufrag: find("ice-ufrag").unwrap_or_default().trim().to_owned(),
            pwd: find("ice-pwd").unwrap_or_default().trim().to_owned(),
        };
        // RFC 8839 §5.4: 4 to 256 and 22 to 256 characters.
        let whole = |text: &str, least: usize| {
            (least..=256).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
        };
        if !whole(&ice.ufrag, 4) || !whole(&ice.pwd, 22) {
            return Err(OfferError::NoIce);
        }
        let fingerprint = values(tagged, "fingerprint")
            .chain(values(&session.attributes, "fingerprint"))
            .find_map(parse_fingerprint)
            .ok_or(OfferError::NoFingerprint)?;
        let mixes_extensions = value(&session.attributes, MIXED).is_some();
        Ok(Self { ice, fingerprint, setup, sections, mixes_extensions })
    }
}

fn read_section(
    media: &Media,
    session: &Session,
    index: usize,
    bundle: &HashSet<&str>,
) -> Result<OfferedSection, OfferError> {
    let attributes = &media.attributes;
    let mid_text = value(attributes, "mid").unwrap_or_default().trim();
    let mid = Mid::new(mid_text.as_bytes()).ok_or(OfferError::NoMid(index))?;
    let kind = match (media.media.as_str(), media.proto.as_str()) {
        ("audio", "UDP/TLS/RTP/SAVPF") => SectionKind::Media(MediaKind::Audio),
        ("video", "UDP/TLS/RTP/SAVPF") => SectionKind::Media(MediaKind::Video),
        ("application", "UDP/DTLS/SCTP" | "DTLS/SCTP") if media.fmt.trim() == "webrtc-datachannel" => {
            SectionKind::Data
        }
        _ => SectionKind::Other,
    };
    let direction = direction(attributes).or_else(|| direction(&session.attributes));
    let bundle_only = value(attributes, "bundle-only").is_some();
    let mut section = OfferedSection {
        mid,
        kind,
        media: media.media.clone(),
        proto: media.proto.clone(),
        fmt: media.fmt.clone(),
        direction: direction.unwrap_or(Direction::SendRecv),
        usable: bundle.contains(mid_text) && (media.port != 0 || bundle_only),
        payloads: Vec::new(),
        extensions: ExtensionMap::default(),
        rids: Vec::new(),
        ssrcs: Vec::new(),
        msid_track: None,
    };
    match kind {
        SectionKind::Media(kind) => {
            section.payloads = codec::payloads(media, kind);
            section.extensions = extensions(attributes, &session.attributes);
            section.rids = rids(attributes);
            section.ssrcs = ssrcs(attributes);
            section.msid_track =
                value(attributes, "msid").and_then(|msid| msid.split_whitespace().nth(1)).map(str::to_owned);
            let mux = value(attributes, "rtcp-mux").is_some();
            section.usable &= mux && !section.payloads.is_empty();
        }
        SectionKind::Data => {}
        SectionKind::Other => section.usable = false,
    }
    Ok(section)
}

/// Values of every attribute of that name; an attribute without a value counts as an empty one.
pub(super) fn values<'a>(attributes: &'a [Attribute], name: &'a str) -> impl Iterator<Item = &'a str> {
    attributes.iter().filter(move |a| a.attribute == name).map(|a| a.value.as_deref().unwrap_or(""))
}

fn value<'a>(attributes: &'a [Attribute], name: &'a str) -> Option<&'a str> {
    values(attributes, name).next()
}

fn direction(attributes: &[Attribute]) -> Option<Direction> {
    attributes.iter().find_map(|a| match a.attribute.as_str() {
        "sendrecv" => Some(Direction::SendRecv),
        "sendonly" => Some(Direction::SendOnly),
        "recvonly" => Some(Direction::RecvOnly),
        "inactive" => Some(Direction::Inactive),
        _ => None,
    })
}

/// `sha-256 AB:CD:…` (RFC 8122 §5); `None` for other hashes.
fn parse_fingerprint(text: &str) -> Option<Fingerprint> {
    let (hash, digits) = text.trim().split_once(' ')?;
    if !hash.eq_ignore_ascii_case("sha-256") {
        return None;
    }
    let mut bytes = [0; 32];
    let mut parts = digits.trim().split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(Fingerprint(bytes))
}

/// Header extensions understood, with the client's identifiers (RFC 8285 §5). A dependency descriptor may be longer than the
/// one-byte form takes: it counts only where both forms may be mixed, and there its identifier too may be one of the longer
/// form.
fn extensions(section: &[Attribute], session: &[Attribute]) -> ExtensionMap {
    let mixed = value(section, MIXED).or(value(session, MIXED)).is_some();
    let mut map = ExtensionMap::default();
    for extmap in values(section, "extmap").chain(values(session, "extmap")) {
        let mut words = extmap.split_whitespace();
        let (Some(id), Some(uri)) = (words.next(), words.next()) else { continue };
        let Some(id) = id.split('/').next().and_then(|id| id.parse::<u8>().ok()) else { continue };
        let Some(uri) = ExtensionUri::ALL.into_iter().find(|known| known.as_str() == uri) else { continue };
        let admitted = match uri {
            ExtensionUri::DependencyDescriptor => mixed && id != 0,
            _ => (1..=14).contains(&id),
        };
        if admitted && map.id(uri).is_none() && map.uri(id).is_none() {
            map.set(uri, id);
        }
    }
    map
}

/// Place of a layer by the names clients use: `q h f`, or `2 1 0`.
fn layer_rank(rid: &str) -> Option<u8> {
    match rid {
        "q" | "2" => Some(0),
        "h" | "1" => Some(1),
        "f" | "0" => Some(2),
        _ => None,
    }
}

/// The rids sent, lowest first: by name where all names are known, else in the order of `a=simulcast`.
fn rids(attributes: &[Attribute]) -> Vec<Rid> {
    let declared: Vec<&str> = values(attributes, "rid")
        .filter_map(|rid| {
            let mut words = rid.split_whitespace();
            let name = words.next()?;
            (words.next() == Some("send")).then_some(name)
        })
        .take(64)
        .collect();
    let simulcast = value(attributes, "simulcast").unwrap_or_default();
    let mut words = simulcast.split_whitespace();
    let mut streams = "";
    while let (Some(way), Some(list)) = (words.next(), words.next()) {
        if way == "send" {
            streams = list;
        }
    }
    let mut rids: Vec<Rid> = Vec::new();
    for stream in streams.split(';') {
        // Of alternatives only the first is taken; `~` marks a layer that starts paused.
        let name = stream.split(',').next().unwrap_or_default().trim_start_matches('~');
        let Some(rid) = Rid::new(name.as_bytes()) else { continue };
        if declared.contains(&name) && !rids.contains(&rid) && rids.len() < RIDS_MAX {
            rids.push(rid);
        }
    }
    if rids.iter().all(|rid| layer_rank(rid.as_str()).is_some()) {
        rids.sort_by_key(|rid| layer_rank(rid.as_str()));
    }
    rids
}

/// Primary SSRCs announced, each with the SSRC that repairs it (RFC 5576 §4.2, RFC 4588 §8.8).
fn ssrcs(attributes: &[Attribute]) -> Vec<(u32, Option<u32>)> {
    let pairs: Vec<(u32, u32)> = values(attributes, "ssrc-group")
        .filter_map(|group| {
            let mut words = group.strip_prefix("FID")?.split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        })
        .take(SSRCS_MAX)
        .collect();
    let mut found: Vec<(u32, Option<u32>)> = Vec::new();
    for line in values(attributes, "ssrc") {
        let Some(ssrc) = line.split_whitespace().next().and_then(|ssrc| ssrc.parse().ok()) else { continue };
        let repairs = pairs.iter().any(|(_, repair)| *repair == ssrc);
        if repairs || found.len() >= SSRCS_MAX || found.iter().any(|(known, _)| *known == ssrc) {
            continue;
        }
        let repair = pairs.iter().find(|(primary, _)| *primary == ssrc).map(|(_, repair)| *repair);
        found.push((ssrc, repair));
    }
    found
}
