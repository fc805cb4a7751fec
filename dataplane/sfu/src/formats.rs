//! Payload types: what a publisher's mean, and what a line puts in their place.
//!
//! A packet carries the index of its format among those its publisher negotiated. When a line attaches, each format is given
//! the line's own payload type for it; a packet then costs one look-up by a small index.

use auralink_codecs::picture::Picture;
use auralink_codecs::red::Redundancy;
use auralink_codecs::{av1, h264, h265, vp8, vp9};
use auralink_proto::{Codec, PayloadMap};

use crate::stats::DropReason;

/// Formats of one track; a publisher that negotiates anew may add some.
pub const FORMATS_MAX: usize = 32;

/// One payload type of a publisher.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Format {
    pub pt: u8,
    pub codec: Codec,
    /// In hertz.
    pub clock_rate: u32,
}

/// What a publisher may send on one track. Indices stay what they mean: packets in the history carry them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Formats {
    list: Vec<Format>,
    pub encrypted: bool,
}

impl Formats {
    /// Takes over what a publisher negotiated. Whether anything is new.
    pub fn take(&mut self, payloads: &[PayloadMap], encrypted: bool) -> bool {
        let before = self.list.len();
        for map in payloads {
            if self.index(map.pt, map.codec).is_none() && self.list.len() < FORMATS_MAX {
                self.list.push(Format { pt: map.pt, codec: map.codec, clock_rate: map.codec.clock_rate() });
            }
        }
        let changed = self.list.len() != before || self.encrypted != encrypted;
        self.encrypted = encrypted;
        changed
    }

    fn index(&self, pt: u8, codec: Codec) -> Option<u8> {
        let same = |format: &Format| (format.pt, format.codec) == (pt, codec);
        self.list.iter().position(same).map(|index| index as u8)
    }

    pub fn get(&self, index: u8) -> Option<&Format> {
        self.list.get(usize::from(index))
    }

    /// In hertz; video's for an index that means nothing.
    pub fn clock_rate(&self, index: u8) -> u32 {
        self.get(index).map_or(90_000, |format| format.clock_rate)
    }

    /// Whether receivers of the format make use of the dependency descriptor. Others go by their payload descriptors or by
    /// sequence numbers, and do better without a second account of the same frames.
    pub fn uses_dependency(&self, index: u8) -> bool {
        self.get(index).is_some_and(|format| matches!(format.codec, Codec::Vp9 { .. } | Codec::Av1 { .. }))
    }

    /// The payload type redundant audio names in front of each of its frames.
    fn inner_pt(&self) -> Option<u8> {
        self.list.iter().find(|format| format.codec == Codec::Opus).map(|format| format.pt)
    }

    /// Reads the clear part of a payload in the format `index`.
    ///
    /// # Errors
    /// Redundant audio that is none, or has something else inside than was negotiated. Video whose descriptor cannot be read
    /// passes: it is only no place to join at.
    pub fn outline(&self, index: u8, payload: &[u8]) -> Result<Outline, DropReason> {
        let Some(format) = self.get(index) else { return Err(DropReason::UnknownPayloadType) };
        let picture = match format.codec {
            Codec::Vp8 => vp8::Descriptor::parse(payload).map(|read| read.picture()),
            Codec::Vp9 { .. } => vp9::Descriptor::parse(payload).map(|read| read.picture()),
            Codec::H264 { .. } => h264::Descriptor::parse(payload).map(|read| read.picture()),
            Codec::Av1 { .. } => av1::Descriptor::parse(payload).map(|read| read.picture()),
            Codec::H265 { .. } => h265::Descriptor::parse(payload).map(|read| read.picture()),
            // Encrypted, only its first octet is what it was.
            Codec::Red if !self.encrypted => {
                let redundancy = Redundancy::parse(payload).ok_or(DropReason::Malformed)?;
                let known = self.inner_pt() == Some(redundancy.pt);
                return known.then_some(Outline::Redundant(redundancy)).ok_or(DropReason::UnknownPayloadType);
            }
            Codec::Opus | Codec::Red | Codec::Pcmu | Codec::Pcma => None,
        };
        Ok(picture.map_or(Outline::Opaque, Outline::Picture))
    }

    /// For each format what a line that negotiated `offered` makes of it.
    pub fn map(&self, offered: &[PayloadMap]) -> Vec<Option<Mapped>> {
        self.list.iter().map(|format| self.map_one(format, offered)).collect()
    }

    fn map_one(&self, format: &Format, offered: &[PayloadMap]) -> Option<Mapped> {
        let as_it_is =
            |map: &PayloadMap| Mapped { pt: map.pt, rtx_pt: map.rtx_pt, redundancy: Redundant::Keep };
        if format.codec != Codec::Red {
            return format.codec.carried_by(offered).map(as_it_is);
        }
        let inner = Codec::Opus.carried_by(offered);
        match (Codec::Red.carried_by(offered), inner) {
            (Some(red), Some(inner)) if self.inner_pt() == Some(inner.pt) => Some(as_it_is(red)),
            // What is encrypted can be neither renumbered nor taken apart.
            _ if self.encrypted => None,
            (Some(red), Some(inner)) => {
                Some(Mapped { redundancy: Redundant::Renumber(inner.pt), ..as_it_is(red) })
            }
            (_, inner) => inner.map(|inner| Mapped { redundancy: Redundant::Strip, ..as_it_is(inner) }),
        }
    }
}

/// The clear part of a payload, as far as forwarding needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Outline {
    /// Audio, and video whose descriptor could not be read.
    #[default]
    Opaque,
    Picture(Picture),
    Redundant(Redundancy),
}

/// What a line makes of redundant audio.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Redundant {
    /// Nothing; also for all that is not redundant audio.
    Keep,
    /// The receiver calls the codec inside by this payload type.
    Renumber(u8),
    /// The receiver knows only the codec inside: it gets the present frame.
    Strip,
}

/// A line's own payload type for one format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapped {
    pub pt: u8,
    pub rtx_pt: Option<u8>,
    pub redundancy: Redundant,
}

const UNKNOWN: u8 = 0xff;
const REPAIR: u8 = 0x80;

/// What each payload type of a section means: a format, or the repair of one.
#[derive(Clone, Debug)]
pub struct PayloadTypes([u8; 128]);

impl Default for PayloadTypes {
    fn default() -> Self {
        Self([UNKNOWN; 128])
    }
}

impl PayloadTypes {
    /// `formats` have taken `payloads`.
    pub fn new(formats: &Formats, payloads: &[PayloadMap]) -> Self {
        let Self(mut table) = Self::default();
        for map in payloads {
            let Some(index) = formats.index(map.pt, map.codec) else { continue };
            if let Some(place) = table.get_mut(usize::from(map.pt)) {
                *place = index;
            }
            if let Some(place) = map.rtx_pt.and_then(|pt| table.get_mut(usize::from(pt))) {
                *place = index | REPAIR;
            }
        }
        Self(table)
    }

    /// The index of the format, and whether it is being repaired.
    pub fn look_up(&self, pt: u8) -> Option<(u8, bool)> {
        let entry = *self.0.get(usize::from(pt))?;
        (entry != UNKNOWN).then_some((entry & !REPAIR, entry & REPAIR != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use auralink_proto::H264Profile;

    const RED: [u8; 8] = [0xef, 0x0f, 0x00, 0x02, 0x6f, 1, 2, 3];

    fn payload(pt: u8, codec: Codec, rtx_pt: Option<u8>) -> PayloadMap {
        PayloadMap { pt, codec, rtx_pt, nack: false, pli: false, transport_cc: false }
    }

    fn formats(payloads: &[PayloadMap], encrypted: bool) -> Formats {
        let mut formats = Formats::default();
        assert!(formats.take(payloads, encrypted));
        formats
    }

    fn audio() -> [PayloadMap; 2] {
        [payload(63, Codec::Red, None), payload(111, Codec::Opus, None)]
    }

    #[test]
    fn each_format_gets_the_receivers_own_payload_type() {
        let high = Codec::H264 { profile: H264Profile::High, mode: 1 };
        let baseline = Codec::H264 { profile: H264Profile::ConstrainedBaseline, mode: 1 };
        let sent = formats(
            &[
                payload(96, Codec::Vp8, Some(97)),
                payload(102, baseline, Some(103)),
                payload(98, Codec::Vp9 { profile: 0 }, Some(99)),
            ],
            false,
        );
        let offered = [payload(120, high, Some(121)), payload(98, Codec::Vp8, None)];
        let mapped = |pt, rtx_pt| Some(Mapped { pt, rtx_pt, redundancy: Redundant::Keep });
        assert_eq!(sent.map(&offered), [mapped(98, None), mapped(120, Some(121)), None]);
    }

    #[test]
    fn redundant_audio_is_kept_renumbered_or_stripped() {
        let sent = formats(&audio(), false);
        let of = |offered: &[PayloadMap]| sent.map(offered)[0].map(|mapped| (mapped.pt, mapped.redundancy));
        assert_eq!(of(&audio()), Some((63, Redundant::Keep)));
        let other = [payload(96, Codec::Opus, None), payload(97, Codec::Red, None)];
        assert_eq!(of(&other), Some((97, Redundant::Renumber(96))));
        assert_eq!(of(&other[..1]), Some((96, Redundant::Strip)));
        assert_eq!(of(&[payload(0, Codec::Pcmu, None)]), None);
    }

    #[test]
    fn encrypted_redundant_audio_is_only_ever_kept() {
        let sent = formats(&audio(), true);
        assert_eq!(sent.map(&audio())[0].map(|mapped| mapped.redundancy), Some(Redundant::Keep));
        let other = [payload(96, Codec::Opus, None), payload(97, Codec::Red, None)];
        assert_eq!((sent.map(&other)[0], sent.map(&audio()[1..])[0]), (None, None));
        assert_eq!(sent.outline(0, &[1, 2, 3]), Ok(Outline::Opaque));
    }

    #[test]
    fn what_is_inside_redundant_audio_must_have_been_negotiated() {
        let sent = formats(&audio(), false);
        assert!(matches!(sent.outline(0, &RED), Ok(Outline::Redundant(_))));
        assert_eq!(sent.outline(0, &RED[..4]), Err(DropReason::Malformed));
        let other = formats(&[payload(63, Codec::Red, None), payload(96, Codec::Opus, None)], false);
        assert_eq!(other.outline(0, &RED), Err(DropReason::UnknownPayloadType));
        assert_eq!(sent.outline(9, &RED), Err(DropReason::UnknownPayloadType));
    }

    #[test]
    fn indices_keep_their_meaning_when_a_publisher_negotiates_anew() {
        let mut sent = formats(&audio(), false);
        assert!(!sent.take(&[audio()[1]], false));
        assert!(sent.take(&[payload(0, Codec::Pcmu, None), audio()[1]], false));
        assert_eq!([0, 1, 2].map(|index| sent.get(index).unwrap().pt), [63, 111, 0]);
        assert_eq!((sent.clock_rate(1), sent.clock_rate(2)), (48_000, 8_000));
        let types = PayloadTypes::new(&sent, &[payload(0, Codec::Pcmu, None)]);
        assert_eq!((types.look_up(0), types.look_up(111)), (Some((2, false)), None));
        for pt in 0..128 {
            sent.take(&[payload(pt, Codec::Vp8, None)], false);
        }
        assert_eq!(sent.list.len(), FORMATS_MAX);
    }

    #[test]
    fn payload_types_tell_media_from_its_repair() {
        let payloads = [payload(96, Codec::Vp8, Some(97)), payload(98, Codec::Vp9 { profile: 0 }, Some(99))];
        let types = PayloadTypes::new(&formats(&payloads, false), &payloads);
        assert_eq!(
            [96, 97, 98, 99].map(|pt| types.look_up(pt).unwrap()),
            [(0, false), (0, true), (1, false), (1, true)]
        );
        assert_eq!((types.look_up(100), types.look_up(200)), (None, None));
    }
}
