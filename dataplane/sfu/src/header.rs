//! The RTP header of everything a line sends: written once, patched per packet.
//!
//! Its length is constant, so that equal payloads give equal datagrams and a frame is one train.

use auralink_proto::{ExtensionMap, ExtensionUri, Mid};
use auralink_rtc::rtp::{HeaderWriter, RtpFields};

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
}

/// The header of one line, with and without an audio level: a publisher sends it always or never.
#[derive(Clone, Copy, Debug)]
pub struct HeaderTemplate {
    plain: Template,
    with_level: Template,
}

impl HeaderTemplate {
    pub fn new(mid: &Mid, extensions: &ExtensionMap) -> Self {
        Self {
            plain: Template::new(mid, extensions, false),
            with_level: Template::new(mid, extensions, true),
        }
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
        let mut template = Self { bytes: [0; HEADER_BYTES_MAX], len: 0, twcc_at: None, level_at: None };
        let Some(mut writer) = HeaderWriter::new(&mut template.bytes, &RtpFields::default()) else {
            return template;
        };
        if let Some(id) = extensions.id(ExtensionUri::Mid) {
            let _ = writer.extension(id, mid.as_bytes());
        }
        if let Some(id) = extensions.id(ExtensionUri::TransportCc) {
            template.twcc_at = writer.extension(id, &[0; 2]).then(|| writer.position() - 2);
        }
        if let Some(id) = extensions.id(ExtensionUri::AudioLevel).filter(|_| has_level) {
            template.level_at = writer.extension(id, &[0]).then(|| writer.position() - 1);
        }
        template.len = writer.finish();
        template
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use auralink_rtc::rtp::write_header;

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
