//! The client's SDP: writing an offer (RFC 8829) of one bundled transport, reading what matters of the answer.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use auralink_rtc::ice::IceCredentials;

/// Payload types and extension identifiers: our choice, the server keeps them.
pub(crate) const OPUS_PT: u8 = 111;
pub(crate) const VP8_PT: u8 = 96;
pub(crate) const RTX_PT: u8 = 97;
pub(crate) const MID_ID: u8 = 1;
pub(crate) const RID_ID: u8 = 2;
pub(crate) const REPAIRED_RID_ID: u8 = 3;
pub(crate) const LEVEL_ID: u8 = 4;
pub(crate) const TWCC_ID: u8 = 5;

const EXTENSIONS: [(u8, &str); 5] = [
    (MID_ID, "urn:ietf:params:rtp-hdrext:sdes:mid"),
    (RID_ID, "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"),
    (REPAIRED_RID_ID, "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id"),
    (LEVEL_ID, "urn:ietf:params:rtp-hdrext:ssrc-audio-level"),
    (TWCC_ID, "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"),
];

/// What one media section is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Section {
    Data,
    /// We send the track announced under this client id.
    SendAudio {
        cid: String,
        ssrc: u32,
    },
    /// With `rids` (lowest layer first) simulcast, else one stream of the given SSRCs.
    SendVideo {
        cid: String,
        rids: Vec<&'static str>,
        ssrc: u32,
        repair_ssrc: u32,
    },
    ReceiveAudio,
    ReceiveVideo,
}

/// Our side of the description. Sections are only ever added.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) ice: IceCredentials,
    pub(crate) fingerprint: [u8; 32],
    pub(crate) sections: Vec<Section>,
    /// Rises with each offer.
    pub(crate) id: u32,
}

impl Offer {
    pub(crate) fn write(&self) -> String {
        let mids: Vec<String> = (0..self.sections.len()).map(|mid| mid.to_string()).collect();
        let mut sdp = format!(
            "v=0\r\no=- 4711 {} IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\na=msid-semantic: WMS *\r\n",
            self.id,
            mids.join(" ")
        );
        for (mid, section) in self.sections.iter().enumerate() {
            self.write_section(&mut sdp, mid, section);
        }
        sdp
    }

    // Writing to a String cannot fail.
    fn write_section(&self, sdp: &mut String, mid: usize, section: &Section) {
        let line = match section {
            Section::Data => "application 9 UDP/DTLS/SCTP webrtc-datachannel".to_owned(),
            Section::SendAudio { .. } | Section::ReceiveAudio => {
                format!("audio 9 UDP/TLS/RTP/SAVPF {OPUS_PT}")
            }
            Section::SendVideo { .. } | Section::ReceiveVideo => {
                format!("video 9 UDP/TLS/RTP/SAVPF {VP8_PT} {RTX_PT}")
            }
        };
        let digits: Vec<String> = self.fingerprint.iter().map(|byte| format!("{byte:02X}")).collect();
        let _ = write!(
            sdp,
            "m={line}\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:{}\r\na=ice-pwd:{}\r\na=ice-options:trickle\r\n\
             a=fingerprint:sha-256 {}\r\na=setup:actpass\r\na=mid:{mid}\r\n",
            self.ice.ufrag,
            self.ice.pwd,
            digits.join(":")
        );
        if *section == Section::Data {
            sdp.push_str("a=sctp-port:5000\r\na=max-message-size:65536\r\n");
            return;
        }
        for (id, uri) in EXTENSIONS {
            let _ = write!(sdp, "a=extmap:{id} {uri}\r\n");
        }
        sdp.push_str("a=rtcp-mux\r\na=rtcp-rsize\r\n");
        write_codecs(sdp, matches!(section, Section::SendVideo { .. } | Section::ReceiveVideo));
        match section {
            Section::SendAudio { cid, ssrc } => {
                let _ = write!(sdp, "a=sendonly\r\na=msid:- {cid}\r\na=ssrc:{ssrc} cname:generator\r\n");
            }
            Section::SendVideo { cid, rids, ssrc, repair_ssrc } => {
                let _ = write!(sdp, "a=sendonly\r\na=msid:- {cid}\r\n");
                for rid in rids {
                    let _ = write!(sdp, "a=rid:{rid} send\r\n");
                }
                if rids.is_empty() {
                    let _ = write!(
                        sdp,
                        "a=ssrc-group:FID {ssrc} {repair_ssrc}\r\na=ssrc:{ssrc} cname:generator\r\n\
                         a=ssrc:{repair_ssrc} cname:generator\r\n"
                    );
                } else {
                    let _ = write!(sdp, "a=simulcast:send {}\r\n", rids.join(";"));
                }
            }
            _ => sdp.push_str("a=recvonly\r\n"),
        }
    }
}

fn write_codecs(sdp: &mut String, is_video: bool) {
    let _ = if is_video {
        write!(
            sdp,
            "a=rtpmap:{VP8_PT} VP8/90000\r\na=rtcp-fb:{VP8_PT} transport-cc\r\na=rtcp-fb:{VP8_PT} ccm fir\r\n\
             a=rtcp-fb:{VP8_PT} nack\r\na=rtcp-fb:{VP8_PT} nack pli\r\na=rtpmap:{RTX_PT} rtx/90000\r\n\
             a=fmtp:{RTX_PT} apt={VP8_PT}\r\n"
        )
    } else {
        write!(
            sdp,
            "a=rtpmap:{OPUS_PT} opus/48000/2\r\na=rtcp-fb:{OPUS_PT} transport-cc\r\n\
             a=fmtp:{OPUS_PT} minptime=10;useinbandfec=1\r\n"
        )
    };
}

/// One section of the answer on which the server sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Incoming {
    pub(crate) mid: String,
    pub(crate) is_video: bool,
    pub(crate) ssrc: u32,
    pub(crate) repair_ssrc: Option<u32>,
}

/// What a client needs of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    pub(crate) ice: IceCredentials,
    pub(crate) fingerprint: [u8; 32],
    pub(crate) candidates: Vec<SocketAddr>,
    pub(crate) incoming: Vec<Incoming>,
}

impl Answer {
    /// # Errors
    /// Naming what is missing.
    pub(crate) fn parse(sdp: &str) -> Result<Self> {
        let find = |name: &str| sdp.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let ice = IceCredentials {
            ufrag: find("a=ice-ufrag:").context("answer without a=ice-ufrag")?.to_owned(),
            pwd: find("a=ice-pwd:").context("answer without a=ice-pwd")?.to_owned(),
        };
        let fingerprint = find("a=fingerprint:sha-256 ").and_then(parse_fingerprint);
        let candidates = sdp.lines().filter_map(|line| line.strip_prefix("a=candidate:"));
        let mut sections = sdp.split("\nm=");
        sections.next();
        Ok(Self {
            ice,
            fingerprint: fingerprint.context("answer without a=fingerprint sha-256")?,
            candidates: candidates.filter_map(parse_candidate).collect(),
            incoming: sections.filter_map(parse_incoming).collect(),
        })
    }
}

fn parse_fingerprint(digits: &str) -> Option<[u8; 32]> {
    let bytes: Option<Vec<u8>> = digits.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes?.try_into().ok()
}

/// A host candidate over UDP and IPv4.
pub(crate) fn parse_candidate(line: &str) -> Option<SocketAddr> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, "1", transport, _, ip, port, ..] = words.as_slice() else { return None };
    let address = SocketAddr::new(ip.parse().ok()?, port.parse().ok()?);
    (transport.eq_ignore_ascii_case("udp") && address.is_ipv4()).then_some(address)
}

fn parse_incoming(section: &str) -> Option<Incoming> {
    let find = |name: &str| section.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    section.lines().find(|line| matches!(line.trim(), "a=sendonly" | "a=sendrecv"))?;
    let group: Option<Vec<u32>> = find("a=ssrc-group:FID ")
        .map(|group| group.split_whitespace().filter_map(|ssrc| ssrc.parse().ok()).collect());
    let ssrc = find("a=ssrc:")?.split_whitespace().next()?.parse().ok()?;
    Some(Incoming {
        mid: find("a=mid:")?.to_owned(),
        is_video: section.starts_with("video"),
        ssrc: group.as_ref().and_then(|group| group.first().copied()).unwrap_or(ssrc),
        repair_ssrc: group.and_then(|group| group.get(1).copied()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_gives_its_transport_and_what_is_sent_to_us() {
        let sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=ice-lite\r\n\
            m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\na=candidate:1 1 udp 2130706431 10.77.0.1 7882 typ host\r\n\
            a=candidate:2 1 tcp 1 10.77.0.1 7881 typ host tcptype passive\r\na=ice-ufrag:abcd\r\n\
            a=ice-pwd:0123456789012345678901\r\n\
            a=fingerprint:sha-256 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:FF\r\n\
            a=mid:3\r\na=sendonly\r\na=ssrc-group:FID 11 12\r\na=ssrc:11 cname:x\r\na=ssrc:12 cname:x\r\n\
            m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:4\r\na=inactive\r\n";
        let answer = Answer::parse(sdp).unwrap();
        assert_eq!(answer.candidates, ["10.77.0.1:7882".parse::<SocketAddr>().unwrap()]);
        assert_eq!((answer.ice.ufrag.as_str(), answer.fingerprint[31]), ("abcd", 0xff));
        let video = Incoming { mid: "3".into(), is_video: true, ssrc: 11, repair_ssrc: Some(12) };
        assert_eq!(answer.incoming, [video]);
        assert!(Answer::parse("v=0\r\n").is_err());
    }
}
