//! The RTP header, read in place and written in place (RFC 3550 §5.1, RFC 8285).
//!
//! Reading allocates nothing and bounds everything; what comes behind the header (padding too) is still encrypted when
//! [`RtpHeader::parse`] runs, so padding is checked later with [`padding_len`].

use crate::ext::{Extensions, Form};

/// Bytes of a header without contributing sources and extension.
pub const FIXED_HEADER_LEN: usize = 12;

/// What a received RTP header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RtpHeader {
    pub marker: bool,
    /// The padding bit. The padding itself is only readable once the packet is opened.
    pub padding: bool,
    /// Payload type, 0..=127.
    pub pt: u8,
    pub seq: u16,
    /// In units of the codec's clock rate.
    pub timestamp: u32,
    pub ssrc: u32,
    /// Bytes of the whole header, contributing sources and extension included.
    pub len: usize,
    /// The 16 bits "defined by profile" that open the extension, if the extension bit is set.
    pub extension_profile: Option<u16>,
    /// Bytes of the extension block behind its four-byte head; it ends where the header ends.
    pub extension_len: usize,
}

impl RtpHeader {
    /// Reads the header at the start of `datagram`. `None` when it is not version 2 or does not fit.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let (fixed, rest) = datagram.split_first_chunk::<FIXED_HEADER_LEN>()?;
        let [b0, b1, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3] = *fixed;
        if b0 >> 6 != 2 {
            return None;
        }
        let csrc_len = usize::from(b0 & 0x0f) * 4;
        let rest = rest.get(csrc_len..)?;
        let mut header = Self {
            marker: b1 & 0x80 != 0,
            padding: b0 & 0x20 != 0,
            pt: b1 & 0x7f,
            seq: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([c0, c1, c2, c3]),
            len: FIXED_HEADER_LEN + csrc_len,
            extension_profile: None,
            extension_len: 0,
        };
        if b0 & 0x10 != 0 {
            let ([p0, p1, l0, l1], rest) = rest.split_first_chunk::<4>()?;
            let extension_len = usize::from(u16::from_be_bytes([*l0, *l1])) * 4;
            rest.get(..extension_len)?;
            header.extension_profile = Some(u16::from_be_bytes([*p0, *p1]));
            header.extension_len = extension_len;
            header.len += 4 + extension_len;
        }
        Some(header)
    }

    /// The extension elements of the datagram this header was read from, `(id, value)`, one- and two-byte form alike.
    /// Malformed elements end the iteration.
    pub fn extensions<'a>(&self, datagram: &'a [u8]) -> Extensions<'a> {
        let block = datagram.get(self.len.saturating_sub(self.extension_len)..self.len).unwrap_or_default();
        Extensions::new(self.extension_profile, block)
    }

    /// The value of one extension element.
    pub fn extension<'a>(&self, datagram: &'a [u8], id: u8) -> Option<&'a [u8]> {
        self.extensions(datagram).find(|(found, _)| *found == id).map(|(_, value)| value)
    }
}

/// The fields of a header to be written.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RtpFields {
    pub marker: bool,
    pub padding: bool,
    /// Payload type, 0..=127.
    pub pt: u8,
    pub seq: u16,
    pub timestamp: u32,
    pub ssrc: u32,
}

/// Writes a header and its extension block (RFC 8285 §4), element by element.
#[derive(Debug)]
pub struct HeaderWriter<'a> {
    out: &'a mut [u8],
    len: usize,
    form: Form,
}

/// The extension block's head: profile and length.
pub const EXTENSION_HEAD_LEN: usize = 4;

impl<'a> HeaderWriter<'a> {
    /// Starts a header at the start of `out`, its elements in the one-byte form. `None` when `out` is shorter than a header.
    pub fn new(out: &'a mut [u8], fields: &RtpFields) -> Option<Self> {
        Self::with_form(out, fields, Form::OneByte)
    }

    /// The same with elements in the form given.
    pub fn with_form(out: &'a mut [u8], fields: &RtpFields, form: Form) -> Option<Self> {
        let fixed = out.first_chunk_mut::<FIXED_HEADER_LEN>()?;
        let [s0, s1] = fields.seq.to_be_bytes();
        let [t0, t1, t2, t3] = fields.timestamp.to_be_bytes();
        let [c0, c1, c2, c3] = fields.ssrc.to_be_bytes();
        let b0 = 0x80 | u8::from(fields.padding) << 5;
        let b1 = u8::from(fields.marker) << 7 | fields.pt & 0x7f;
        *fixed = [b0, b1, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3];
        Some(Self { out, len: FIXED_HEADER_LEN, form })
    }

    /// Appends one element. `false`, with nothing written, when the form does not take it or it does not fit.
    #[must_use]
    pub fn extension(&mut self, id: u8, value: &[u8]) -> bool {
        if !self.form.takes(id, value.len()) {
            return false;
        }
        let start = if self.len == FIXED_HEADER_LEN { self.len + EXTENSION_HEAD_LEN } else { self.len };
        let end = start + self.form.head_len() + value.len();
        // The block is padded to whole words; room for that is claimed now so that `finish` cannot fail.
        if end.next_multiple_of(4) > self.out.len() {
            return false;
        }
        let place = self.out.get_mut(start..end);
        let Some((head, place)) = place.and_then(|place| place.split_at_mut_checked(self.form.head_len()))
        else {
            return false;
        };
        match head {
            [head] => *head = id << 4 | (value.len() - 1) as u8,
            [head, len] => (*head, *len) = (id, value.len() as u8),
            _ => return false,
        }
        place.copy_from_slice(value);
        self.len = end;
        true
    }

    /// Bytes written so far: the next element follows here.
    pub fn position(&self) -> usize {
        self.len
    }

    /// Pads the extension block, sets the extension bit if there is one and gives the header's length in bytes.
    pub fn finish(self) -> usize {
        let Self { out, len, form } = self;
        if len == FIXED_HEADER_LEN {
            return len;
        }
        let end = len.next_multiple_of(4);
        if let Some(padding) = out.get_mut(len..end) {
            padding.fill(0);
        }
        let words = ((end - FIXED_HEADER_LEN - EXTENSION_HEAD_LEN) / 4) as u16;
        let [p0, p1] = form.profile().to_be_bytes();
        let [l0, l1] = words.to_be_bytes();
        if let Some((fixed, head)) =
            out.split_first_chunk_mut::<FIXED_HEADER_LEN>().and_then(|(f, r)| Some((f, r.first_chunk_mut()?)))
        {
            let [b0, ..] = fixed;
            *b0 |= 0x10;
            *head = [p0, p1, l0, l1];
        }
        end
    }
}

/// Writes a whole header with its extensions in the order given and returns its length in bytes. `None` when it does not fit
/// or an element is not expressible in the one-byte form.
pub fn write_header(out: &mut [u8], fields: &RtpFields, extensions: &[(u8, &[u8])]) -> Option<usize> {
    let mut writer = HeaderWriter::new(out, fields)?;
    extensions.iter().all(|(id, value)| writer.extension(*id, value)).then(|| writer.finish())
}

/// How many bytes at the end of an opened payload are padding when the padding bit is set (RFC 3550 §5.1). `None` when the
/// count is zero or larger than the payload.
pub fn padding_len(payload: &[u8]) -> Option<usize> {
    let count = usize::from(*payload.last()?);
    (1..=payload.len()).contains(&count).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIELDS: RtpFields = RtpFields {
        marker: true,
        padding: false,
        pt: 96,
        seq: 0x1234,
        timestamp: 0x5566_7788,
        ssrc: 0xdead_beef,
    };

    #[test]
    fn a_plain_header_is_twelve_golden_bytes() {
        let mut out = [0xff; 20];
        assert_eq!(write_header(&mut out, &FIELDS, &[]), Some(12));
        let golden = [0x80, 0xe0, 0x12, 0x34, 0x55, 0x66, 0x77, 0x88, 0xde, 0xad, 0xbe, 0xef];
        assert_eq!(out[..12], golden);
        assert_eq!(out[12..], [0xff; 8]);
    }

    #[test]
    fn extensions_are_written_in_the_one_byte_form_and_padded() {
        let mut out = [0xff; 32];
        assert_eq!(write_header(&mut out, &FIELDS, &[(1, b"a"), (14, &[1, 2, 3])]), Some(24));
        assert_eq!(out[0], 0x90);
        assert_eq!(out[12..24], [0xbe, 0xde, 0, 2, 0x10, b'a', 0xe2, 1, 2, 3, 0, 0]);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut out = [0; 64];
        let len = write_header(&mut out, &FIELDS, &[(3, &[9; 16]), (5, &[7])]).unwrap();
        let header = RtpHeader::parse(&out[..len]).unwrap();
        assert_eq!((header.marker, header.pt, header.seq), (true, 96, 0x1234));
        assert_eq!((header.timestamp, header.ssrc, header.len), (0x5566_7788, 0xdead_beef, len));
        let elements: Vec<_> = header.extensions(&out).collect();
        assert_eq!(elements, [(3, &[9; 16][..]), (5, &[7][..])]);
        assert_eq!(header.extension(&out, 5), Some(&[7][..]));
        assert_eq!(header.extension(&out, 6), None);
    }

    #[test]
    fn contributing_sources_are_part_of_the_header() {
        let mut datagram = vec![0x82, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        datagram.extend([0xaa; 8]);
        datagram.push(1);
        assert_eq!(RtpHeader::parse(&datagram).unwrap().len, 20);
        assert_eq!(RtpHeader::parse(&datagram[..19]), None);
    }

    #[test]
    fn every_truncation_of_a_header_is_refused() {
        let mut out = [0; 64];
        let len = write_header(&mut out, &FIELDS, &[(3, &[9; 16]), (5, &[7])]).unwrap();
        for short in 0..len {
            assert_eq!(RtpHeader::parse(&out[..short]), None, "{short} bytes");
        }
    }

    #[test]
    fn other_versions_are_refused() {
        for version in [0x00, 0x40, 0xc0] {
            assert_eq!(RtpHeader::parse(&[version, 96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        }
    }

    #[test]
    fn inexpressible_elements_are_refused_and_leave_no_trace() {
        let mut out = [0; 40];
        let mut writer = HeaderWriter::new(&mut out, &FIELDS).unwrap();
        assert!(!writer.extension(0, &[1]));
        assert!(!writer.extension(15, &[1]));
        assert!(!writer.extension(1, &[]));
        assert!(!writer.extension(1, &[0; 17]));
        assert_eq!(writer.finish(), 12);
        assert_eq!(write_header(&mut [0; 19], &FIELDS, &[(1, &[1, 2, 3, 4])]), None);
        assert_eq!(write_header(&mut [0; 11], &FIELDS, &[]), None);
        assert_eq!(write_header(&mut [0; 20], &FIELDS, &[(1, &[1, 2, 3])]), Some(20));
    }

    #[test]
    fn the_two_byte_form_takes_what_the_one_byte_form_cannot() {
        let mut out = [0xff; 64];
        let mut writer = HeaderWriter::with_form(&mut out, &FIELDS, Form::TwoByte).unwrap();
        assert!(!writer.extension(0, &[1]) && !writer.extension(1, &[0; 256]));
        assert!(writer.extension(4, b"a0") && writer.extension(15, &[7; 17]) && writer.extension(200, &[]));
        let len = writer.finish();
        assert_eq!(out[12..16], [0x10, 0x00, 0, 7]);
        let header = RtpHeader::parse(&out[..len]).unwrap();
        let elements: Vec<(u8, &[u8])> = header.extensions(&out[..len]).collect();
        assert_eq!(elements, [(4, &b"a0"[..]), (15, &[7; 17]), (200, &[])]);
    }

    #[test]
    fn padding_is_believed_only_when_it_fits() {
        assert_eq!(padding_len(&[1, 2, 0, 0, 3]), Some(3));
        assert_eq!(padding_len(&[1]), Some(1));
        assert_eq!(padding_len(&[1, 2, 0]), None);
        assert_eq!(padding_len(&[1, 2, 4]), None);
        assert_eq!(padding_len(&[]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), v in any::<bool>()) {
            let mut bytes = bytes;
            if let (true, Some(first)) = (v, bytes.first_mut()) {
                *first = *first & 0x3f | 0x80;
            }
            if let Some(header) = RtpHeader::parse(&bytes) {
                prop_assert!(header.len <= bytes.len());
                prop_assert!(header.extensions(&bytes).count() <= bytes.len());
            }
        }
    }
}
