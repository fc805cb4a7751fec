//! Writing the SDP answer (RFC 8829 §5.3): ICE-lite, DTLS-passive, one bundled transport, the client's numbers kept.

use auralink_proto::{Candidate, ExtensionMap, ExtensionUri, Fingerprint, IceCredentials, MediaKind};
use sdp_types::{Attribute, Connection, Media, Origin, Session, Time};

use super::offer::{OfferedPayload, OfferedSection, SectionKind};
use super::slots::{Role, Section};

/// SCTP port and largest message told to clients (RFC 8841 §5, §6).
const SCTP_PORT: u16 = 5_000;
const MESSAGE_BYTES_MAX: u32 = 65_535;

/// What every section of an answer shares.
#[derive(Clone, Copy, Debug)]
pub struct Shared<'a> {
    pub session_id: u64,
    pub version: u32,
    pub ice: &'a IceCredentials,
    pub fingerprint: Fingerprint,
    pub candidates: &'a [Candidate],
    pub cname: &'a str,
}

/// Extensions AuraLink writes towards a client.
const SENT: &[ExtensionUri] =
    &[ExtensionUri::Mid, ExtensionUri::AudioLevel, ExtensionUri::TransportCc, ExtensionUri::AbsSendTime];

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

/// Writes the answer to an offer whose sections were decided.
pub fn write(shared: &Shared<'_>, sections: &[Section]) -> String {
    let origin = Origin::with_ip_addr(
        shared.session_id,
        u64::from(shared.version),
        std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    );
    let mut session = Session::new(origin, "-");
    session.times.push(Time { start_time: 0, stop_time: 0, repeats: Vec::new() });
    let bundle: Vec<&str> =
        sections.iter().filter(|s| s.offered.usable).map(|s| s.offered.mid.as_str()).collect();
    session.attributes.push(with("group", format!("BUNDLE {}", bundle.join(" "))));
    session.attributes.push(flag("ice-lite"));
    session.attributes.push(with("msid-semantic", " WMS *".into()));
    let mut candidates = shared.candidates;
    for section in sections {
        let mut media = section_line(section);
        if section.offered.usable {
            transport(shared, candidates, &mut media.attributes);
            // One transport: the first bundled section names its candidates.
            candidates = &[];
            body(shared, section, &mut media);
        } else {
            media.attributes.push(with("mid", section.offered.mid.as_str().to_owned()));
            media.attributes.push(flag("inactive"));
        }
        session.medias.push(media);
    }
    let mut bytes = Vec::new();
    // Writing to a vector cannot fail, and what is written was UTF-8 before.
    let _ = session.write(&mut bytes);
    String::from_utf8(bytes).unwrap_or_default()
}

fn with(name: &str, value: String) -> Attribute {
    Attribute { attribute: name.to_owned(), value: Some(value) }
}

fn flag(name: &str) -> Attribute {
    Attribute { attribute: name.to_owned(), value: None }
}

fn section_line(section: &Section) -> Media {
    let offered = &section.offered;
    let fmt = match offered.kind {
        SectionKind::Media(_) if offered.usable => {
            let pts = offered.payloads.iter().flat_map(|p| std::iter::once(p.map.pt).chain(p.map.rtx_pt));
            pts.map(|pt| pt.to_string()).collect::<Vec<_>>().join(" ")
        }
        _ => offered.fmt.clone(),
    };
    Media {
        media: offered.media.clone(),
        port: if offered.usable { 9 } else { 0 },
        num_ports: None,
        proto: offered.proto.clone(),
        fmt,
        media_title: None,
        connections: vec![Connection::from_ip_addr(std::net::Ipv4Addr::UNSPECIFIED)],
        bandwidths: Vec::new(),
        key: None,
        attributes: Vec::new(),
    }
}

fn transport(shared: &Shared<'_>, candidates: &[Candidate], out: &mut Vec<Attribute>) {
    for (index, candidate) in candidates.iter().enumerate() {
        // RFC 8445 §5.1.2.1: host candidates, the local preference falling in order.
        let preference = 65_535 - index as u32;
        let priority = (126 << 24) + (preference << 8) + 255;
        let (ip, port) = (candidate.address.ip(), candidate.address.port());
        out.push(with("candidate", format!("{} 1 udp {priority} {ip} {port} typ host", index + 1)));
    }
    if !candidates.is_empty() {
        out.push(flag("end-of-candidates"));
    }
    out.push(with("ice-ufrag", shared.ice.ufrag.clone()));
    out.push(with("ice-pwd", shared.ice.pwd.clone()));
    let digits: Vec<String> = shared.fingerprint.0.iter().map(|byte| format!("{byte:02X}")).collect();
    out.push(with("fingerprint", format!("sha-256 {}", digits.join(":"))));
    out.push(with("setup", "passive".into()));
}

fn body(shared: &Shared<'_>, section: &Section, media: &mut Media) {
    let offered = &section.offered;
    let out = &mut media.attributes;
    out.push(with("mid", offered.mid.as_str().to_owned()));
    let SectionKind::Media(kind) = offered.kind else {
        out.push(with("sctp-port", SCTP_PORT.to_string()));
        out.push(with("max-message-size", MESSAGE_BYTES_MAX.to_string()));
        return;
    };
    out.push(flag("rtcp-mux"));
    out.push(flag("rtcp-rsize"));
    let sends = matches!(section.role, Role::Send);
    // Also those never written this way: Chromium never offers again, on any section, what one section refused,
    // and without rid extensions it cannot offer simulcast.
    for uri in ExtensionUri::ALL {
        if let Some(id) = offered.extensions.id(uri) {
            out.push(with("extmap", format!("{id} {}", uri.as_str())));
        }
    }
    for payload in &offered.payloads {
        payload_lines(payload, kind, sends, section.opus_extra.as_str(), out);
    }
    match section.role {
        Role::Receive { .. } => {
            out.push(flag("recvonly"));
            simulcast_lines(offered, out);
        }
        Role::Send => match &section.attached {
            Some(attached) => {
                out.push(flag("sendonly"));
                let (publisher, track) = (&attached.publisher_sid, &attached.sid);
                out.push(with("msid", format!("{publisher}|{track} {track}")));
                ssrc_lines(shared.cname, section, out);
            }
            None => {
                out.push(flag("inactive"));
                // Chromium forgets a stream whose SSRC is gone from the description, and when the same SSRC comes back
                // it decodes without showing.
                ssrc_lines(shared.cname, section, out);
            }
        },
        Role::Idle => out.push(flag("inactive")),
    }
}

fn payload_lines(
    payload: &OfferedPayload,
    kind: MediaKind,
    sends: bool,
    opus_extra: &str,
    out: &mut Vec<Attribute>,
) {
    let pt = payload.map.pt;
    let mut feedback = |what: &str| out.push(with("rtcp-fb", format!("{pt} {what}")));
    if payload.map.transport_cc {
        feedback("transport-cc");
    }
    // Audio towards a client is never resent: by the time it came it would be late.
    if payload.map.nack && !(kind == MediaKind::Audio && sends) {
        feedback("nack");
    }
    if kind == MediaKind::Video {
        if payload.fir {
            feedback("ccm fir");
        }
        if payload.map.pli {
            feedback("nack pli");
        }
    }
    match kind {
        MediaKind::Audio => {
            out.push(with("rtpmap", format!("{pt} opus/48000/2")));
            out.push(with("fmtp", format!("{pt} {}{opus_extra}", opus_parameters(&payload.fmtp))));
        }
        MediaKind::Video => {
            out.push(with("rtpmap", format!("{pt} VP8/90000")));
            if let Some(rtx) = payload.map.rtx_pt {
                out.push(with("rtpmap", format!("{rtx} rtx/90000")));
                out.push(with("fmtp", format!("{rtx} apt={pt}")));
            }
        }
    }
}

/// The offered parameters that mean the same both ways (RFC 7587 §6.1); those of the sender's choosing are left out.
fn opus_parameters(offered: &str) -> String {
    let kept: Vec<&str> = offered
        .split(';')
        .map(str::trim)
        .filter(|p| p.starts_with("minptime=") || p.starts_with("useinbandfec="))
        .collect();
    if kept.is_empty() { "useinbandfec=1".to_owned() } else { kept.join(";") }
}

fn simulcast_lines(offered: &OfferedSection, out: &mut Vec<Attribute>) {
    if offered.rids.is_empty() {
        return;
    }
    for rid in &offered.rids {
        out.push(with("rid", format!("{} recv", rid.as_str())));
    }
    let list: Vec<&str> = offered.rids.iter().map(|rid| rid.as_str()).collect();
    out.push(with("simulcast", format!("recv {}", list.join(";"))));
}

fn ssrc_lines(cname: &str, section: &Section, out: &mut Vec<Attribute>) {
    let Some(ssrcs) = section.ssrcs else { return };
    let rtx = ssrcs.rtx.filter(|_| section.offered.payloads.iter().any(|p| p.map.rtx_pt.is_some()));
    if let Some(rtx) = rtx {
        out.push(with("ssrc-group", format!("FID {} {rtx}", ssrcs.primary)));
    }
    out.push(with("ssrc", format!("{} cname:{cname}", ssrcs.primary)));
    if let Some(rtx) = rtx {
        out.push(with("ssrc", format!("{rtx} cname:{cname}")));
    }
}
