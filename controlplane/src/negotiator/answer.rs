//! Writing descriptions (RFC 8829 §5.2, §5.3): ICE-lite, DTLS server, one bundled transport, the client's numbers kept.

use std::fmt::{self, Write as _};

use auralink_proto::{
    Candidate, Encoding, ExtensionMap, ExtensionUri, Fingerprint, IceCredentials, MediaKind,
};

use super::codec;
use super::offer::{OfferedPayload, OfferedSection, SectionKind, Setup};
use super::slots::{Role, Section};

/// SCTP port and largest message told to clients (RFC 8841 §5, §6).
const SCTP_PORT: u16 = 5_000;
const MESSAGE_BYTES_MAX: u32 = 65_535;

/// Which of the two descriptions is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    Offer,
    Answer,
}

/// The stream of tracks that are not there yet.
const LATER: &str = "later";

/// What every section of a description shares.
#[derive(Clone, Copy, Debug)]
pub struct Shared<'a> {
    pub form: Form,
    pub session_id: u64,
    pub version: u32,
    pub ice: &'a IceCredentials,
    pub fingerprint: Fingerprint,
    pub candidates: &'a [Candidate],
    pub cname: &'a str,
    /// One- and two-byte header extensions may come on one stream.
    pub mixes_extensions: bool,
    pub setup: Setup,
    /// What comes later comes without another answer.
    pub offers_once: bool,
}

/// Extensions AuraLink writes towards a client.
const SENT: &[ExtensionUri] = &[
    ExtensionUri::Mid,
    ExtensionUri::AudioLevel,
    ExtensionUri::TransportCc,
    ExtensionUri::AbsSendTime,
    ExtensionUri::DependencyDescriptor,
    ExtensionUri::PlayoutDelay,
    ExtensionUri::AbsCaptureTime,
];

/// Of the extensions offered, those AuraLink will write on a section the client receives.
pub fn sent_extensions(offered: &ExtensionMap) -> ExtensionMap {
    let mut map = ExtensionMap::default();
    for uri in SENT {
        if let Some(id) = offered.id(*uri) {
            map.set(*uri, id);
        }
    }
    map
}

/// A description in the making. Each join makes everybody in the room negotiate anew, so lines are written into one text, not
/// gathered from pieces: what comes from an offer holds no end of a line, since an offer with one in the middle is refused.
pub(super) struct Text(pub(super) String);

impl Text {
    pub(super) fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.0.write_fmt(line);
        self.0.push_str("\r\n");
    }

    /// Items with `separator` between them, behind what `start` says.
    fn list(&mut self, start: &str, separator: &str, items: impl Iterator<Item = impl fmt::Display>) {
        self.0.push_str(start);
        for (index, item) in items.enumerate() {
            let _ = write!(self.0, "{}{item}", if index == 0 { "" } else { separator });
        }
        self.0.push_str("\r\n");
    }
}

macro_rules! line {
    ($text:expr, $($words:tt)*) => { $text.line(format_args!($($words)*)) };
}

/// A section's answer takes about this much.
const SECTION_BYTES: usize = 1_024;

/// Writes a description whose sections were decided.
pub fn write(shared: &Shared<'_>, sections: &[Section]) -> String {
    let mut text = Text(String::with_capacity(SECTION_BYTES * (sections.len() + 1)));
    line!(text, "v=0");
    line!(text, "o=- {} {} IN IP4 127.0.0.1", shared.session_id, shared.version);
    line!(text, "s=-");
    line!(text, "t=0 0");
    let bundled = sections.iter().filter(|section| section.offered.usable);
    text.list("a=group:BUNDLE ", " ", bundled.map(|section| section.offered.mid.as_str()));
    line!(text, "a=ice-lite");
    if shared.mixes_extensions {
        line!(text, "a=extmap-allow-mixed");
    }
    line!(text, "a=msid-semantic: WMS *");
    let transport = transport(shared);
    let mut candidates = shared.candidates;
    for section in sections {
        section_line(section, &mut text);
        if section.offered.usable {
            // One transport: the first bundled section names its candidates.
            super::candidates::write(std::mem::take(&mut candidates), &mut text);
            text.0.push_str(&transport);
            body(shared, section, &mut text);
        } else {
            line!(text, "a=mid:{}", section.offered.mid.as_str());
            line!(text, "a=inactive");
        }
    }
    text.0
}

fn section_line(section: &Section, text: &mut Text) {
    let offered = &section.offered;
    let port = if offered.usable { 9 } else { 0 };
    let _ = write!(text.0, "m={} {port} {} ", offered.media, offered.proto);
    match offered.kind {
        SectionKind::Media(_) if offered.usable => {
            let payloads = section.payloads().into_iter();
            text.list("", " ", payloads.flat_map(|p| std::iter::once(p.map.pt).chain(p.map.rtx_pt)));
        }
        _ => line!(text, "{}", offered.fmt),
    }
    line!(text, "c=IN IP4 0.0.0.0");
}

/// What is the same in every section of one transport.
fn transport(shared: &Shared<'_>) -> String {
    let mut text = Text(String::new());
    line!(text, "a=ice-ufrag:{}", shared.ice.ufrag);
    line!(text, "a=ice-pwd:{}", shared.ice.pwd);
    let bytes = shared.fingerprint.0.iter();
    text.list("a=fingerprint:sha-256 ", ":", bytes.map(|byte| format!("{byte:02X}")));
    line!(text, "a=setup:{}", shared.setup.as_str());
    text.0
}

fn body(shared: &Shared<'_>, section: &Section, text: &mut Text) {
    let offered = &section.offered;
    line!(text, "a=mid:{}", offered.mid.as_str());
    let SectionKind::Media(kind) = offered.kind else {
        line!(text, "a=sctp-port:{SCTP_PORT}");
        line!(text, "a=max-message-size:{MESSAGE_BYTES_MAX}");
        return;
    };
    line!(text, "a=rtcp-mux");
    line!(text, "a=rtcp-rsize");
    let sends = matches!(section.role, Role::Send);
    // Also those never written this way: Chromium never offers again, on any section, what one section refused,
    // and without rid extensions it cannot offer simulcast.
    for uri in ExtensionUri::ALL {
        if let Some(id) = offered.extensions.id(uri) {
            line!(text, "a=extmap:{id} {}", uri.as_str());
        }
    }
    for payload in section.payloads() {
        payload_lines(payload, kind, sends, section.opus_extra.as_str(), text);
    }
    match section.role {
        Role::Receive { .. } => {
            line!(text, "a=recvonly");
            simulcast_lines(offered, text);
        }
        Role::Send => match &section.attached {
            Some(attached) => {
                line!(text, "a=sendonly");
                line!(text, "a=msid:{}|{track} {track}", attached.publisher_sid, track = attached.sid);
                ssrc_lines(shared.cname, section, text);
            }
            None if shared.offers_once => {
                line!(text, "a=sendonly");
                line!(text, "a=msid:{LATER} {LATER}-{}", offered.mid.as_str());
                ssrc_lines(shared.cname, section, text);
            }
            None => {
                line!(text, "a=inactive");
                // Chromium forgets a stream whose SSRC is gone from the description, and when the same SSRC comes back
                // it decodes without showing.
                ssrc_lines(shared.cname, section, text);
            }
        },
        Role::Idle => line!(text, "a=inactive"),
    }
}

/// All that is said of one payload type, the same in an answer and in an offer of the server's own.
pub(super) fn payload_lines(
    payload: &OfferedPayload,
    kind: MediaKind,
    sends: bool,
    opus_extra: &str,
    text: &mut Text,
) {
    let (pt, encoding) = (payload.map.pt, payload.map.codec.encoding());
    if payload.map.transport_cc {
        line!(text, "a=rtcp-fb:{pt} transport-cc");
    }
    // Audio towards a client is never resent: by the time it came it would be late.
    if payload.map.nack && !(kind == MediaKind::Audio && sends) {
        line!(text, "a=rtcp-fb:{pt} nack");
    }
    if kind == MediaKind::Video {
        if payload.fir {
            line!(text, "a=rtcp-fb:{pt} ccm fir");
        }
        if payload.map.pli {
            line!(text, "a=rtcp-fb:{pt} nack pli");
        }
    }
    let (name, rate, channels) = (encoding.name(), encoding.clock_rate(), codec::channels(encoding));
    line!(text, "a=rtpmap:{pt} {name}/{rate}{channels}");
    let extra = if encoding == Encoding::Opus { opus_extra } else { "" };
    if let Some(fmtp) = codec::fmtp(encoding, &payload.fmtp) {
        line!(text, "a=fmtp:{pt} {fmtp}{extra}");
    }
    if let Some(rtx) = payload.map.rtx_pt {
        line!(text, "a=rtpmap:{rtx} rtx/90000");
        line!(text, "a=fmtp:{rtx} apt={pt}");
    }
}

fn simulcast_lines(offered: &OfferedSection, text: &mut Text) {
    if offered.rids.is_empty() {
        return;
    }
    for rid in &offered.rids {
        line!(text, "a=rid:{} recv", rid.as_str());
    }
    text.list("a=simulcast:recv ", ";", offered.rids.iter().map(|rid| rid.as_str()));
}

fn ssrc_lines(cname: &str, section: &Section, text: &mut Text) {
    let Some(ssrcs) = section.ssrcs else { return };
    let rtx = ssrcs.rtx.filter(|_| section.offered.payloads.iter().any(|p| p.map.rtx_pt.is_some()));
    if let Some(rtx) = rtx {
        line!(text, "a=ssrc-group:FID {} {rtx}", ssrcs.primary);
    }
    line!(text, "a=ssrc:{} cname:{cname}", ssrcs.primary);
    if let Some(rtx) = rtx {
        line!(text, "a=ssrc:{rtx} cname:{cname}");
    }
}
