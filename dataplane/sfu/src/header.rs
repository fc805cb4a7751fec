//! The RTP header of everything a line sends: written once, patched per packet.
//!
//! Its length is constant, so that equal payloads give equal datagrams and a frame is one train. Only packets that pass on
//! elements of their publisher's have a header of their own.

use auralink_codecs::dependency::DependencyDescriptor;
use auralink_proto::{ExtensionMap, ExtensionUri, Mid};
use auralink_rtc::ext::Form;
use auralink_rtc::rtp::{EXTENSION_HEAD_LEN, FIXED_HEADER_LEN, HeaderWriter, RtpFields};

use crate::elements::{DEPENDENCY, ElementIds, PASSED, stored};

/// Bytes of the largest header: fixed part (12), extension head (4), mid (17), transport-wide number (3), level (2), padded.
pub const HEADER_BYTES_MAX: usize = 40;

/// One set of extension elements.
#[derive(Clone, Copy, Debug)]
struct Template {
    bytes: [u8; HEADER_BYTES_MAX],
    len: usize,
    /// Where the value of the transport-wide number stands; `None` when it was not negotiated.
    twcc_at: Option<usize>,
    level_at: Option<usize>,
    /// Elements, and bytes of their values together.
    elements: usize,
    value_bytes: usize,
}

/// The header of one line, with and without an audio level: a publisher sends it always or never.
#[derive(Clone, Copy, Debug)]
pub struct HeaderTemplate {
    plain: Template,
    with_level: Template,
    mid: Mid,
    mid_id: u8,
    twcc_id: u8,
    level_id: u8,
    /// Identifiers of what is passed on, 0 for what this client did not negotiate.
    passed: [u8; PASSED.len()],
}

impl HeaderTemplate {
    pub fn new(mid: &Mid, extensions: &ExtensionMap) -> Self {
        Self {
            plain: Template::new(mid, extensions, false),
            with_level: Template::new(mid, extensions, true),
            mid: *mid,
            mid_id: extensions.id(ExtensionUri::Mid).unwrap_or(0),
            twcc_id: extensions.id(ExtensionUri::TransportCc).unwrap_or(0),
            level_id: extensions.id(ExtensionUri::AudioLevel).unwrap_or(0),
            passed: ElementIds::new(extensions).passed,
        }
    }

    /// Whether this client is passed on anything at all.
    #[inline]
    pub fn passes(&self) -> bool {
        self.passed != [0; PASSED.len()]
    }

    /// Of the elements `kept` in the history those this client negotiated, under its own identifiers.
    fn passed<'a>(&self, kept: &'a [u8]) -> impl Iterator<Item = (usize, u8, &'a [u8])> {
        let ids = self.passed;
        stored(kept).filter_map(move |(place, value)| {
            let id = *ids.get(place)?;
            (id != 0).then_some((place, id, value))
        })
    }

    /// The form all elements can be written in, and the header's length with them.
    fn shape(&self, has_level: bool, kept: &[u8]) -> (Form, usize) {
        let template = self.choose(has_level);
        let (mut elements, mut bytes, mut form) = (template.elements, template.value_bytes, Form::OneByte);
        for (_, id, value) in self.passed(kept) {
            elements += 1;
            bytes += value.len();
            if !Form::OneByte.takes(id, value.len()) {
                form = Form::TwoByte;
            }
        }
        if elements == 0 {
            return (form, FIXED_HEADER_LEN);
        }
        let block = bytes + elements * form.head_len();
        (form, FIXED_HEADER_LEN + EXTENSION_HEAD_LEN + block.next_multiple_of(4))
    }

    /// Bytes of the header of a packet that passes on the elements `kept` in the history.
    pub fn len_passing(&self, has_level: bool, kept: &[u8]) -> usize {
        self.shape(has_level, kept).1
    }

    /// Writes such a header at the start of `place`, which has room for it; returns its length. `frame_number` goes into the
    /// dependency descriptor.
    pub fn write_passing(
        &self,
        place: &mut [u8],
        fields: &RtpFields,
        level: Option<u8>,
        twcc: u16,
        kept: &[u8],
        frame_number: Option<u16>,
    ) -> usize {
        let (form, len) = self.shape(level.is_some(), kept);
        let Some(mut writer) = HeaderWriter::with_form(place, fields, form) else { return 0 };
        let mut write = |id: u8, value: &[u8]| id == 0 || writer.extension(id, value);
        let mut is_whole = write(self.mid_id, self.mid.as_bytes());
        is_whole &= write(self.twcc_id, &twcc.to_be_bytes());
        if let Some(level) = level {
            is_whole &= write(self.level_id, &[level]);
        }
        for (place, id, value) in self.passed(kept) {
            let mut copy = [0; u8::MAX as usize];
            let renumbered = frame_number.filter(|_| place == DEPENDENCY).zip(copy.get_mut(..value.len()));
            is_whole &= match renumbered {
                Some((number, copy)) => {
                    copy.copy_from_slice(value);
                    DependencyDescriptor::renumber(copy, number) && write(id, copy)
                }
                None => write(id, value),
            };
        }
        let written = writer.finish();
        debug_assert!(is_whole && written == len);
        written
    }

    /// Bytes of the header of a packet with or without audio level.
    pub fn len(&self, has_level: bool) -> usize {
        self.choose(has_level).len
    }

    /// Whether headers carry a transport-wide sequence number.
    pub fn has_twcc(&self) -> bool {
        self.plain.twcc_at.is_some()
    }

    /// Writes the header at the start of `place`, which has room for it; returns its length.
    pub fn write(&self, place: &mut [u8], fields: &RtpFields, level: Option<u8>, twcc: u16) -> usize {
        let template = self.choose(level.is_some());
        // Copying all of it is one step of constant size; what is behind the header is written afterwards.
        match place.first_chunk_mut::<HEADER_BYTES_MAX>() {
            Some(start) => *start = template.bytes,
            None => place[..template.len].copy_from_slice(&template.bytes[..template.len]),
        }
        if let Some([b0, b1, seq_timestamp_ssrc @ ..]) = place.first_chunk_mut::<12>() {
            *b0 |= u8::from(fields.padding) << 5;
            *b1 = u8::from(fields.marker) << 7 | fields.pt & 0x7f;
            let numbers =
                u128::from(fields.seq) << 64 | u128::from(fields.timestamp) << 32 | u128::from(fields.ssrc);
            let [_, _, _, _, _, _, bytes @ ..] = numbers.to_be_bytes();
            *seq_timestamp_ssrc = bytes;
        }
        if let Some(at) = template.twcc_at {
            place[at..at + 2].copy_from_slice(&twcc.to_be_bytes());
        }
        if let Some((at, level)) = template.level_at.zip(level) {
            place[at] = level;
        }
        template.len
    }

    fn choose(&self, has_level: bool) -> &Template {
        if has_level { &self.with_level } else { &self.plain }
    }
}

impl Template {
    fn new(mid: &Mid, extensions: &ExtensionMap, has_level: bool) -> Self {
        let mut template = Self {
            bytes: [0; HEADER_BYTES_MAX],
            len: 0,
            twcc_at: None,
            level_at: None,
            elements: 0,
            value_bytes: 0,
        };
        let Some(mut writer) = HeaderWriter::new(&mut template.bytes, &RtpFields::default()) else {
            return template;
        };
        if let Some(id) = extensions.id(ExtensionUri::Mid)
            && writer.extension(id, mid.as_bytes())
        {
            template.elements += 1;
            template.value_bytes += mid.as_bytes().len();
        }
        if let Some(id) = extensions.id(ExtensionUri::TransportCc) {
            template.twcc_at = writer.extension(id, &[0; 2]).then(|| writer.position() - 2);
        }
        if let Some(id) = extensions.id(ExtensionUri::AudioLevel).filter(|_| has_level) {
            template.level_at = writer.extension(id, &[0]).then(|| writer.position() - 1);
        }
        template.len = writer.finish();
        let (twcc, level) = (template.twcc_at.is_some(), template.level_at.is_some());
        template.elements += usize::from(twcc) + usize::from(level);
        template.value_bytes += usize::from(twcc) * 2 + usize::from(level);
        template
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use auralink_rtc::rtp::{RtpHeader, write_header};

    const FIELDS: RtpFields = RtpFields {
        marker: true,
        padding: false,
        pt: 96,
        seq: 0x1234,
        timestamp: 0x5566_7788,
        ssrc: 0xdead_beef,
    };

    fn extensions() -> ExtensionMap {
        let mut extensions = ExtensionMap::default();
        extensions.set(ExtensionUri::Mid, 4);
        extensions.set(ExtensionUri::TransportCc, 3);
        extensions.set(ExtensionUri::AudioLevel, 1);
        extensions
    }

    #[test]
    fn patched_is_as_written_element_by_element() {
        let mid = Mid::new(b"a0").unwrap();
        let template = HeaderTemplate::new(&mid, &extensions());
        for (level, padding) in [(None, false), (Some(0x85), false), (Some(1), true)] {
            let fields = RtpFields { padding, ..FIELDS };
            let level_value = level.unwrap_or_default();
            let elements: [(u8, &[u8]); 3] = [(4, b"a0"), (3, &[0xab, 0xcd]), (1, &[level_value])];
            let elements = if level.is_some() { &elements[..] } else { &elements[..2] };
            let mut expected = [0; 64];
            let len = write_header(&mut expected, &fields, elements).unwrap();
            for room in [len, 64] {
                let mut place = vec![0xff; room];
                assert_eq!(template.write(&mut place, &fields, level, 0xabcd), len);
                assert_eq!((&place[..len], template.len(level.is_some())), (&expected[..len], len));
            }
        }
    }

    /// A dependency descriptor of `len` octets and a playout delay, as the history keeps them.
    fn kept(len: u8) -> Vec<u8> {
        let mut kept = vec![0, len, 0x81, 0x12, 0x34];
        kept.resize(2 + usize::from(len), 0x55);
        kept.extend([1, 3, 7, 8, 9]);
        kept
    }

    #[test]
    fn what_is_passed_on_has_the_clients_identifiers_and_the_lines_frame_number() {
        let mid = Mid::new(b"a0").unwrap();
        for (dependency_id, len, profile) in
            [(9, 5, 0xbede), (9, 16, 0xbede), (9, 17, 0x1000), (15, 5, 0x1000)]
        {
            let mut extensions = extensions();
            extensions.set(ExtensionUri::DependencyDescriptor, dependency_id);
            extensions.set(ExtensionUri::PlayoutDelay, 6);
            let template = HeaderTemplate::new(&mid, &extensions);
            assert!(template.passes());
            for level in [None, Some(0x85)] {
                let kept = kept(len);
                let mut place = [0xff; 128];
                let written = template.write_passing(&mut place, &FIELDS, level, 0xabcd, &kept, Some(0x7777));
                assert_eq!(written, template.len_passing(level.is_some(), &kept));
                let header = RtpHeader::parse(&place[..written]).unwrap();
                assert_eq!((header.len, header.extension_profile), (written, Some(profile)));
                let find = |id| header.extension(&place[..written], id);
                let mut dependency = kept[2..2 + usize::from(len)].to_vec();
                dependency[1..3].fill(0x77);
                assert_eq!(find(dependency_id), Some(&dependency[..]));
                assert_eq!((find(4), find(3)), (Some(&b"a0"[..]), Some(&[0xab, 0xcd][..])));
                assert_eq!(find(6), Some(&[7, 8, 9][..]));
                assert_eq!(find(1).map(<[u8]>::to_vec), level.map(|level| vec![level]));
            }
        }
    }

    #[test]
    fn what_was_not_negotiated_is_not_passed_on() {
        let mid = Mid::new(b"a0").unwrap();
        let template = HeaderTemplate::new(&mid, &extensions());
        assert!(!template.passes());
        let (mut passing, mut plain) = ([0; 64], [0; 64]);
        let written = template.write_passing(&mut passing, &FIELDS, None, 0xabcd, &kept(5), None);
        assert_eq!(written, template.write(&mut plain, &FIELDS, None, 0xabcd));
        assert_eq!(passing[..written], plain[..written]);
        let bare = HeaderTemplate::new(&mid, &ExtensionMap::default());
        assert_eq!(bare.len_passing(true, &kept(5)), 12);
        assert_eq!(bare.write_passing(&mut passing, &FIELDS, Some(1), 7, &kept(5), None), 12);
    }

    #[test]
    fn without_extensions_it_is_the_fixed_part() {
        let mid = Mid::new(b"0").unwrap();
        let template = HeaderTemplate::new(&mid, &ExtensionMap::default());
        let mut place = [0; 12];
        assert_eq!(template.write(&mut place, &FIELDS, Some(9), 7), 12);
        assert_eq!((place[0], place[1], template.has_twcc()), (0x80, 0xe0, false));
    }

    #[test]
    fn the_longest_mid_fits() {
        let mid = Mid::new(b"0123456789abcdef").unwrap();
        let template = HeaderTemplate::new(&mid, &extensions());
        assert_eq!(template.len(true), HEADER_BYTES_MAX);
        assert!(template.has_twcc() && template.with_level.level_at.is_some());
    }
}
