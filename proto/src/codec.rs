//! Codecs as far as forwarding must tell them apart: which of a receiver's payload types can carry what a publisher sends.

use crate::spec::{MediaKind, PayloadMap};

/// A codec by name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Encoding {
    Opus,
    /// Redundant audio (RFC 2198), here always of Opus.
    Red,
    Pcmu,
    Pcma,
    Vp8,
    Vp9,
    H264,
    Av1,
    H265,
}

impl Encoding {
    pub const ALL: [Self; 9] = [
        Self::Opus,
        Self::Red,
        Self::Pcmu,
        Self::Pcma,
        Self::Vp8,
        Self::Vp9,
        Self::H264,
        Self::Av1,
        Self::H265,
    ];

    /// Media type and name, as registered.
    pub const fn mime(self) -> &'static str {
        match self {
            Self::Opus => "audio/opus",
            Self::Red => "audio/red",
            Self::Pcmu => "audio/PCMU",
            Self::Pcma => "audio/PCMA",
            Self::Vp8 => "video/VP8",
            Self::Vp9 => "video/VP9",
            Self::H264 => "video/H264",
            Self::Av1 => "video/AV1",
            Self::H265 => "video/H265",
        }
    }

    /// The name in `a=rtpmap`.
    pub fn name(self) -> &'static str {
        self.mime().split_once('/').map_or("", |(_, name)| name)
    }

    /// RTP clock rate in hertz: RFC 7587 §4.1, RFC 3551 §4.5.14, and 90,000 for all video.
    pub const fn clock_rate(self) -> u32 {
        match self {
            Self::Opus | Self::Red => 48_000,
            Self::Pcmu | Self::Pcma => 8_000,
            Self::Vp8 | Self::Vp9 | Self::H264 | Self::Av1 | Self::H265 => 90_000,
        }
    }

    pub const fn kind(self) -> MediaKind {
        match self {
            Self::Opus | Self::Red | Self::Pcmu | Self::Pcma => MediaKind::Audio,
            Self::Vp8 | Self::Vp9 | Self::H264 | Self::Av1 | Self::H265 => MediaKind::Video,
        }
    }
}

/// The H.264 profiles that `profile-level-id` tells apart (RFC 6184 §8.1, table 5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum H264Profile {
    ConstrainedBaseline,
    Baseline,
    Main,
    Extended,
    ConstrainedHigh,
    High,
    /// One that only a receiver of the same `profile_idc` and `profile-iop` takes.
    Other(u8, u8),
}

impl H264Profile {
    /// From the first two octets of `profile-level-id`.
    pub const fn from_octets(idc: u8, iop: u8) -> Self {
        // The upper half of profile-iop are constraint_set0 to 3, bits 3 and 2 constraint_set4 and 5.
        match (idc, iop) {
            (0x42, iop) if iop & 0x4f == 0x40 => Self::ConstrainedBaseline,
            (0x4d, iop) if iop & 0x8f == 0x80 => Self::ConstrainedBaseline,
            (0x58, iop) if iop & 0xcf == 0xc0 => Self::ConstrainedBaseline,
            (0x42, iop) if iop & 0x4f == 0 => Self::Baseline,
            (0x58, iop) if iop & 0xcf == 0x80 => Self::Baseline,
            (0x4d, iop) if iop & 0xaf == 0 => Self::Main,
            (0x58, iop) if iop & 0xcf == 0 => Self::Extended,
            (0x64, 0) => Self::High,
            (0x64, 0x0c) => Self::ConstrainedHigh,
            (idc, iop) => Self::Other(idc, iop),
        }
    }

    const fn decodes(self, sent: Self) -> bool {
        use H264Profile::{Baseline, ConstrainedBaseline, ConstrainedHigh, Extended, High, Main};
        match (self, sent) {
            (Baseline | Main | Extended | ConstrainedHigh | High, ConstrainedBaseline)
            | (Extended, Baseline)
            | (High, Main | ConstrainedHigh) => true,
            // Const functions cannot compare; the six named profiles are equal when their discriminants are.
            (Self::Other(a, b), Self::Other(c, d)) => a == c && b == d,
            (Self::Other(..), _) | (_, Self::Other(..)) => false,
            (own, sent) => own.rank() == sent.rank(),
        }
    }

    const fn rank(self) -> u8 {
        match self {
            Self::ConstrainedBaseline => 0,
            Self::Baseline => 1,
            Self::Main => 2,
            Self::Extended => 3,
            Self::ConstrainedHigh => 4,
            Self::High => 5,
            Self::Other(..) => u8::MAX,
        }
    }
}

/// A codec with those of its parameters that decide whether a receiver can decode it. Levels are not among them: browsers
/// state one and decode beyond it, so a stream is never withheld for its level (a deviation from RFC 6184 §8.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Codec {
    Opus,
    Red,
    Pcmu,
    Pcma,
    Vp8,
    /// `profile-id` (RFC 9628 §7).
    Vp9 {
        profile: u8,
    },
    /// `profile-level-id` less the level, and `packetization-mode`.
    H264 {
        profile: H264Profile,
        mode: u8,
    },
    /// `profile` and `tier`.
    Av1 {
        profile: u8,
        tier: u8,
    },
    /// `profile-id` and `tier-flag` (RFC 7798 §7.1).
    H265 {
        profile: u8,
        tier: u8,
    },
}

impl Codec {
    pub const fn encoding(self) -> Encoding {
        match self {
            Self::Opus => Encoding::Opus,
            Self::Red => Encoding::Red,
            Self::Pcmu => Encoding::Pcmu,
            Self::Pcma => Encoding::Pcma,
            Self::Vp8 => Encoding::Vp8,
            Self::Vp9 { .. } => Encoding::Vp9,
            Self::H264 { .. } => Encoding::H264,
            Self::Av1 { .. } => Encoding::Av1,
            Self::H265 { .. } => Encoding::H265,
        }
    }

    pub const fn clock_rate(self) -> u32 {
        self.encoding().clock_rate()
    }

    pub const fn kind(self) -> MediaKind {
        self.encoding().kind()
    }

    /// Whether a receiver that negotiated `self` can decode a stream of `sent`.
    pub fn decodes(self, sent: Self) -> bool {
        match (self, sent) {
            // Single NAL units, all that mode 0 has, are part of mode 1 (RFC 6184 §5.4).
            (Self::H264 { profile: own, mode: own_mode }, Self::H264 { profile, mode }) => {
                own.decodes(profile) && mode <= own_mode
            }
            // Each AV1 profile decodes those below it (AV1 §6.4.1).
            (Self::Av1 { profile: own, tier: own_tier }, Self::Av1 { profile, tier }) => {
                profile <= own && tier <= own_tier
            }
            // Main 10 decoders decode Main (H.265 A.3.3).
            (Self::H265 { profile: own, tier: own_tier }, Self::H265 { profile, tier }) => {
                (own == profile || (own, profile) == (2, 1)) && tier <= own_tier
            }
            (own, sent) => own == sent,
        }
    }

    /// Of a receiver's payload types the one under which it can be sent `self` as it is: the same format, else one that
    /// decodes it.
    pub fn carried_by<'a>(
        self,
        offered: impl IntoIterator<Item = &'a PayloadMap, IntoIter: Clone>,
    ) -> Option<&'a PayloadMap> {
        let mut offered = offered.into_iter();
        let same = offered.clone().find(|map| map.codec == self);
        same.or_else(|| offered.find(|map| map.codec.decodes(self)))
    }

    /// Whether a receiver can be sent a track of this codec at all. Redundant audio is stripped for one that knows only the
    /// codec inside, unless it is encrypted.
    pub fn is_receivable<'a>(
        self,
        encrypted: bool,
        offered: impl IntoIterator<Item = &'a PayloadMap, IntoIter: Clone>,
    ) -> bool {
        let offered = offered.into_iter();
        self.carried_by(offered.clone()).is_some()
            || (self == Self::Red && !encrypted && Self::Opus.carried_by(offered).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h264(idc: u8, iop: u8, mode: u8) -> Codec {
        Codec::H264 { profile: H264Profile::from_octets(idc, iop), mode }
    }

    fn payload(pt: u8, codec: Codec) -> PayloadMap {
        PayloadMap { pt, codec, rtx_pt: None, nack: false, pli: false, transport_cc: false }
    }

    #[test]
    fn profiles_are_told_apart_as_the_rfcs_table_does() {
        use H264Profile::*;
        for (idc, iop, profile) in [
            (0x42, 0xe0, ConstrainedBaseline),
            (0x42, 0xc0, ConstrainedBaseline),
            (0x4d, 0x80, ConstrainedBaseline),
            (0x58, 0xf0, ConstrainedBaseline),
            (0x42, 0x00, Baseline),
            (0x42, 0x80, Baseline),
            (0x58, 0x80, Baseline),
            (0x4d, 0x00, Main),
            (0x4d, 0x40, Main),
            (0x58, 0x00, Extended),
            (0x64, 0x00, High),
            (0x64, 0x0c, ConstrainedHigh),
            (0xf4, 0x00, Other(0xf4, 0)),
            (0x64, 0x10, Other(0x64, 0x10)),
            (0x42, 0x41, Other(0x42, 0x41)),
        ] {
            assert_eq!(H264Profile::from_octets(idc, iop), profile, "{idc:02x}{iop:02x}");
        }
    }

    #[test]
    fn a_richer_profile_and_mode_take_a_poorer_one_but_not_the_reverse() {
        let (poor, rich) = (h264(0x42, 0xe0, 0), h264(0x64, 0, 1));
        assert!(rich.decodes(poor) && !poor.decodes(rich));
        assert!(h264(0x42, 0, 1).decodes(h264(0x42, 0xe0, 1)));
        assert!(!h264(0x42, 0xe0, 0).decodes(h264(0x42, 0xe0, 1)));
        assert!(!h264(0x4d, 0, 1).decodes(h264(0x42, 0, 1)), "baseline has tools that main lacks");
        assert!(h264(0xf4, 0, 1).decodes(h264(0xf4, 0, 1)) && !rich.decodes(h264(0xf4, 0, 1)));
        assert!(Codec::Av1 { profile: 1, tier: 0 }.decodes(Codec::Av1 { profile: 0, tier: 0 }));
        assert!(!Codec::Av1 { profile: 0, tier: 0 }.decodes(Codec::Av1 { profile: 0, tier: 1 }));
        assert!(Codec::H265 { profile: 2, tier: 1 }.decodes(Codec::H265 { profile: 1, tier: 0 }));
        assert!(!Codec::H265 { profile: 1, tier: 0 }.decodes(Codec::H265 { profile: 2, tier: 0 }));
        assert!(!Codec::Vp9 { profile: 2 }.decodes(Codec::Vp9 { profile: 0 }));
    }

    #[test]
    fn the_same_format_is_preferred_to_one_that_also_decodes_it() {
        let offered = [payload(100, h264(0x64, 0, 1)), payload(101, h264(0x42, 0xe0, 1))];
        assert_eq!(h264(0x42, 0xe0, 1).carried_by(&offered).unwrap().pt, 101);
        assert_eq!(h264(0x4d, 0, 1).carried_by(&offered).unwrap().pt, 100);
        assert_eq!(Codec::Vp8.carried_by(&offered), None);
    }

    #[test]
    fn redundant_audio_reaches_those_who_know_only_what_is_inside_unless_encrypted() {
        let opus = [payload(111, Codec::Opus)];
        assert!(Codec::Red.is_receivable(false, &opus) && !Codec::Red.is_receivable(true, &opus));
        assert!(Codec::Red.is_receivable(true, &[payload(63, Codec::Red)]));
        assert!(!Codec::Red.is_receivable(false, &[payload(0, Codec::Pcmu)]));
    }
}
