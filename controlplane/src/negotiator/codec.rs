//! Codecs in SDP: what a payload type means, which of them a room negotiates, and which comes first.
//!
//! RFC 3551 (static types), RFC 2198 (RED), RFC 4588 (RTX), RFC 7587 (Opus), RFC 9628 (VP9), RFC 6184 (H.264), RFC 7798 (H.265),
//! and the RTP Payload Format For AV1.

use auralink_proto::{Codec, Encoding, H264Profile, MediaKind, PayloadMap};
use sdp_types::Media;

use super::offer::{OfferedPayload, values};

/// Payload types kept of one section.
const PAYLOADS_MAX: usize = 32;
/// Formats of one `m=` line that are looked at; there are only 128.
const FORMATS_MAX: usize = 256;

/// A codec by its media type (`video/VP8`) or its name alone (`vp8`), in any case.
pub fn encoding(text: &str) -> Option<Encoding> {
    let named =
        |known: &Encoding| known.mime().eq_ignore_ascii_case(text) || known.name().eq_ignore_ascii_case(text);
    Encoding::ALL.into_iter().find(named)
}

/// The codecs a room negotiates, in its operator's order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Enabled(Vec<Encoding>);

impl Default for Enabled {
    /// All, in LiveKit's order.
    fn default() -> Self {
        use Encoding::{Av1, H264, H265, Opus, Pcma, Pcmu, Red, Vp8, Vp9};
        Self(vec![Pcmu, Pcma, Opus, Red, Vp8, H264, Vp9, Av1, H265])
    }
}

impl Enabled {
    /// Those named, or all if none is. Names of what is no codec of its own, such as `video/rtx`, say nothing.
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut list = Vec::new();
        for named in names.filter_map(encoding) {
            if !list.contains(&named) {
                list.push(named);
            }
        }
        if list.is_empty() { Self::default() } else { Self(list) }
    }

    pub fn admits(&self, encoding: Encoding) -> bool {
        self.0.contains(&encoding)
    }

    /// The same without one.
    pub fn without(mut self, encoding: Encoding) -> Self {
        self.0.retain(|enabled| *enabled != encoding);
        self
    }

    /// In the order clients are told: VP8 and H264, which all can publish, the other video codecs, then audio.
    pub fn told(&self) -> Vec<Encoding> {
        let rank = |encoding: &Encoding| match encoding {
            Encoding::Vp8 => 0,
            Encoding::H264 => 1,
            other if other.kind() == MediaKind::Video => 2,
            _ => 3,
        };
        let mut list = self.0.clone();
        list.sort_by_key(rank);
        list
    }
}

/// What the answer to a publisher says of one track's codecs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Preference {
    /// The codec it announced.
    pub codec: Option<Encoding>,
    /// Redundant audio is welcome.
    pub red: bool,
    /// Payloads are encrypted end to end: they could not be taken out of redundant audio for those who do not know it.
    pub encrypted: bool,
}

impl Preference {
    /// The payload types offered in the order of the answer.
    pub fn arrange<'a>(&self, offered: &'a [OfferedPayload]) -> Vec<&'a OfferedPayload> {
        let redundant = self.red && matches!(self.codec, None | Some(Encoding::Opus | Encoding::Red));
        let rank = |payload: &&OfferedPayload| match payload.map.codec.encoding() {
            Encoding::Red if redundant => 0,
            Encoding::Red => 3,
            encoding if self.codec == Some(encoding) => 1,
            _ => 2,
        };
        let is_fit = |payload: &&OfferedPayload| !(self.encrypted && payload.map.codec == Codec::Red);
        let mut payloads: Vec<_> = offered.iter().filter(is_fit).collect();
        payloads.sort_by_key(rank);
        payloads
    }
}

/// The payload types AuraLink forwards, in the order offered, each with the RTX type that repairs it.
pub(super) fn payloads(media: &Media, kind: MediaKind) -> Vec<OfferedPayload> {
    let (rtpmaps, fmtps) = (by_type(media, "rtpmap"), by_type(media, "fmtp"));
    let at = |table: &[Option<_>; 128], pt: u8| table.get(usize::from(pt)).copied().flatten();
    let mut found: Vec<OfferedPayload> = Vec::new();
    let mut repairs: Vec<(u8, u8)> = Vec::new();
    let offered = media.fmt.split_whitespace().take(FORMATS_MAX);
    for pt in offered.filter_map(|pt| pt.parse::<u8>().ok()).filter(|pt| *pt < 128) {
        let Some(rtpmap) = at(&rtpmaps, pt).or(static_rtpmap(pt)) else { continue };
        let fmtp: &str = at(&fmtps, pt).unwrap_or_default();
        if kind == MediaKind::Video && rtpmap.eq_ignore_ascii_case("rtx/90000") {
            repairs.extend(parameter(fmtp, "apt").and_then(|apt| Some((pt, apt.parse().ok()?))));
            continue;
        }
        let Some(codec) = read(kind, rtpmap, fmtp) else { continue };
        if found.len() < PAYLOADS_MAX && found.iter().all(|payload| payload.map.pt != pt) {
            let map = PayloadMap { pt, codec, rtx_pt: None, nack: false, pli: false, transport_cc: false };
            found.push(OfferedPayload { map, fir: false, fmtp: fmtp.to_owned() });
        }
    }
    for (pt, apt) in repairs {
        if let Some(payload) = found.iter_mut().find(|payload| payload.map.pt == apt) {
            payload.map.rtx_pt.get_or_insert(pt);
        }
    }
    keep_red_of_opus(&mut found);
    take_feedback(media, &mut found);
    found
}

/// Values of `a=<name>:<payload type> …`; the first counts.
fn by_type<'a>(media: &'a Media, name: &'a str) -> [Option<&'a str>; 128] {
    let mut table = [None; 128];
    for line in values(&media.attributes, name) {
        let Some((pt, value)) = line.trim().split_once(' ') else { continue };
        if let Some(place) = pt.parse::<u8>().ok().and_then(|pt| table.get_mut(usize::from(pt))) {
            place.get_or_insert(value.trim());
        }
    }
    table
}

/// What a payload type means without `a=rtpmap` (RFC 3551 §6).
fn static_rtpmap(pt: u8) -> Option<&'static str> {
    match pt {
        0 => Some("PCMU/8000"),
        8 => Some("PCMA/8000"),
        _ => None,
    }
}

/// One parameter of `a=fmtp`.
fn parameter<'a>(fmtp: &'a str, name: &str) -> Option<&'a str> {
    fmtp.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// A small number among the parameters, or what its absence means; `None` when it is no such number.
fn number(fmtp: &str, name: &str, absent: u8) -> Option<u8> {
    parameter(fmtp, name).map_or(Some(absent), |value| value.parse().ok())
}

/// The format `a=rtpmap` and `a=fmtp` describe; `None` for one that is not forwarded.
pub(super) fn read(kind: MediaKind, rtpmap: &str, fmtp: &str) -> Option<Codec> {
    let mut words = rtpmap.split('/');
    let named = encoding(words.next()?).filter(|named| named.kind() == kind)?;
    let channels = match named {
        Encoding::Opus | Encoding::Red => "2",
        _ => "1",
    };
    let same_rate = words.next()?.parse() == Ok(named.clock_rate());
    if !same_rate || words.next().unwrap_or("1") != channels {
        return None;
    }
    Some(match named {
        Encoding::Opus => Codec::Opus,
        Encoding::Red => Codec::Red,
        Encoding::Pcmu => Codec::Pcmu,
        Encoding::Pcma => Codec::Pcma,
        Encoding::Vp8 => Codec::Vp8,
        Encoding::Vp9 => Codec::Vp9 { profile: number(fmtp, "profile-id", 0)? },
        Encoding::H264 => h264(fmtp)?,
        Encoding::Av1 => Codec::Av1 { profile: number(fmtp, "profile", 0)?, tier: number(fmtp, "tier", 0)? },
        Encoding::H265 => h265(fmtp)?,
    })
}

/// Packetization mode 2 (interleaved) is not forwarded: nobody sends it.
fn h264(fmtp: &str) -> Option<Codec> {
    // RFC 6184 §8.1: without one, Baseline at level 1 is meant.
    let id = parameter(fmtp, "profile-level-id").unwrap_or("42000a");
    let id = u32::from_str_radix(id, 16).ok().filter(|_| id.len() == 6)?;
    let [_, idc, iop, _] = id.to_be_bytes();
    let mode = number(fmtp, "packetization-mode", 0).filter(|mode| *mode <= 1)?;
    Some(Codec::H264 { profile: H264Profile::from_octets(idc, iop), mode })
}

/// Only one stream on one transport, and the general profile space: nobody offers another.
fn h265(fmtp: &str) -> Option<Codec> {
    let is_single = parameter(fmtp, "tx-mode").is_none_or(|mode| mode.eq_ignore_ascii_case("SRST"));
    let is_general = number(fmtp, "profile-space", 0) == Some(0);
    // RFC 7798 §7.1: without them, Main profile and the lower tier are meant.
    let (profile, tier) = (number(fmtp, "profile-id", 1)?, number(fmtp, "tier-flag", 0)?);
    (is_single && is_general).then_some(Codec::H265 { profile, tier })
}

/// Redundant audio is known by what is inside: only Opus that was offered beside it.
fn keep_red_of_opus(found: &mut Vec<OfferedPayload>) {
    let opus: Vec<u8> = found.iter().filter(|p| p.map.codec == Codec::Opus).map(|p| p.map.pt).collect();
    found.retain(|payload| {
        let mut inside = payload.fmtp.split('/').map(str::parse);
        payload.map.codec != Codec::Red || inside.all(|pt| pt.is_ok_and(|pt| opus.contains(&pt)))
    });
}

fn take_feedback(media: &Media, found: &mut [OfferedPayload]) {
    for feedback in values(&media.attributes, "rtcp-fb") {
        let Some((pt, what)) = feedback.trim().split_once(' ') else { continue };
        for payload in &mut *found {
            if pt != "*" && pt.parse() != Ok(payload.map.pt) {
                continue;
            }
            match what.trim() {
                "nack" => payload.map.nack = true,
                "nack pli" => payload.map.pli = true,
                "ccm fir" => payload.fir = true,
                "transport-cc" => payload.map.transport_cc = true,
                _ => {}
            }
        }
    }
}

/// What `a=rtpmap` says behind the clock rate of a codec.
pub(super) fn channels(encoding: Encoding) -> &'static str {
    if matches!(encoding, Encoding::Opus | Encoding::Red) { "/2" } else { "" }
}

/// The offered parameters that mean the same both ways; those of a sender's own choosing are left out.
pub(super) fn fmtp(encoding: Encoding, offered: &str) -> Option<String> {
    let names: &[&str] = match encoding {
        Encoding::Opus => &["minptime", "useinbandfec"],
        Encoding::Red => return Some(offered.to_owned()),
        Encoding::Pcmu | Encoding::Pcma | Encoding::Vp8 => &[],
        Encoding::Vp9 => &["profile-id"],
        Encoding::H264 => &["level-asymmetry-allowed", "packetization-mode", "profile-level-id"],
        Encoding::Av1 => &["level-idx", "profile", "tier"],
        Encoding::H265 => &["level-id", "profile-id", "tier-flag", "tx-mode"],
    };
    let is_kept = |pair: &&str| pair.split_once('=').is_some_and(|(name, _)| names.contains(&name));
    let kept: Vec<&str> = offered.split(';').map(str::trim).filter(is_kept).collect();
    match encoding {
        Encoding::Opus if kept.is_empty() => Some("useinbandfec=1".to_owned()),
        _ => (!kept.is_empty()).then(|| kept.join(";")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codecs_are_known_by_media_type_and_by_name() {
        assert_eq!((encoding("video/vp8"), encoding("H264")), (Some(Encoding::Vp8), Some(Encoding::H264)));
        assert_eq!((encoding("audio/vp8"), encoding("rtx"), encoding("")), (None, None, None));
    }

    #[test]
    fn formats_are_read_with_the_parameters_that_matter() {
        let video = |rtpmap, fmtp| read(MediaKind::Video, rtpmap, fmtp);
        let h264 = |profile, mode| Some(Codec::H264 { profile, mode });
        assert_eq!(
            video("H264/90000", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"),
            h264(H264Profile::ConstrainedBaseline, 1)
        );
        assert_eq!(video("h264/90000", ""), h264(H264Profile::Baseline, 0));
        assert_eq!(
            video("H264/90000", "profile-level-id=640c1f; packetization-mode=0"),
            h264(H264Profile::ConstrainedHigh, 0)
        );
        for refused in [
            "packetization-mode=2",
            "profile-level-id=42e0",
            "profile-level-id=42e01fa",
            "profile-level-id=xyzxyz",
        ] {
            assert_eq!(video("H264/90000", refused), None, "{refused}");
        }
        assert_eq!(video("VP9/90000", "profile-id=2"), Some(Codec::Vp9 { profile: 2 }));
        assert_eq!(video("VP9/90000", ""), Some(Codec::Vp9 { profile: 0 }));
        assert_eq!(
            video("AV1/90000", "level-idx=5;profile=1;tier=0"),
            Some(Codec::Av1 { profile: 1, tier: 0 })
        );
        assert_eq!(
            video("H265/90000", "level-id=93;profile-id=2;tx-mode=SRST"),
            Some(Codec::H265 { profile: 2, tier: 0 })
        );
        assert_eq!((video("H265/90000", "tx-mode=MRST"), video("VP9/90000", "profile-id=x")), (None, None));
        let audio = |rtpmap| read(MediaKind::Audio, rtpmap, "");
        assert_eq!(
            (audio("opus/48000/2"), audio("PCMU/8000"), audio("PCMA/8000/1")),
            (Some(Codec::Opus), Some(Codec::Pcmu), Some(Codec::Pcma))
        );
        for refused in ["opus/48000", "opus/16000/2", "PCMU/16000", "VP8/90000", "red/8000", "opus"] {
            assert_eq!(audio(refused), None, "{refused}");
        }
    }

    #[test]
    fn an_answer_repeats_what_means_the_same_both_ways() {
        let offered = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f;sprop-parameter-sets=Z0LAHtkDxWhAAAADAEAAAAwDxYuS,aMuMsg==";
        let kept = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f";
        assert_eq!(fmtp(Encoding::H264, offered).as_deref(), Some(kept));
        assert_eq!(fmtp(Encoding::Opus, "stereo=1; minptime=10").as_deref(), Some("minptime=10"));
        assert_eq!(fmtp(Encoding::Opus, "").as_deref(), Some("useinbandfec=1"));
        assert_eq!((fmtp(Encoding::Vp8, "max-fr=30"), fmtp(Encoding::Vp9, "")), (None, None));
        assert_eq!(fmtp(Encoding::Red, "111/111").as_deref(), Some("111/111"));
        assert_eq!((channels(Encoding::Red), channels(Encoding::Pcmu)), ("/2", ""));
    }

    #[test]
    fn clients_are_told_vp8_then_h264_then_other_video_then_audio() {
        let told = |enabled: &Enabled| enabled.told().iter().map(|e| e.mime()).collect::<Vec<_>>().join(" ");
        assert_eq!(
            told(&Enabled::default()),
            "video/VP8 video/H264 video/VP9 video/AV1 video/H265 audio/PCMU audio/PCMA audio/opus audio/red"
        );
        let some =
            Enabled::new(["audio/opus", "video/rtx", "video/av1", "video/H264", "video/AV1"].into_iter());
        assert_eq!(told(&some), "video/H264 video/AV1 audio/opus");
        assert!(some.admits(Encoding::Av1) && !some.admits(Encoding::Vp8));
        assert_eq!(Enabled::new(std::iter::empty()), Enabled::default());
        assert_eq!(told(&some.without(Encoding::Opus)), "video/H264 video/AV1");
    }
}
