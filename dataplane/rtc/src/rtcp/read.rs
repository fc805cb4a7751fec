//! Reading a compound without allocating.

use super::*;

/// Walks the packets of a compound or reduced-size packet (RFC 3550 §6.1, RFC 5506). Ends at the first broken frame.
pub fn packets(compound: &[u8]) -> Packets<'_> {
    Packets { rest: compound }
}

/// See [`packets`].
#[derive(Clone, Debug)]
pub struct Packets<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Packets<'a> {
    type Item = Rtcp<'a>;

    fn next(&mut self) -> Option<Rtcp<'a>> {
        let ([b0, packet_type, l0, l1], behind) = self.rest.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_be_bytes([*l0, *l1])) * 4;
        let framed = (b0 >> 6 == 2).then(|| behind.split_at_checked(len)).flatten();
        let Some((body, rest)) = framed else {
            self.rest = &[];
            return None;
        };
        self.rest = rest;
        let (count, packet_type) = (b0 & 0x1f, *packet_type);
        let body = if b0 & 0x20 != 0 { without_padding(body) } else { Some(body) };
        Some(body.and_then(|body| read(packet_type, count, body)).unwrap_or(Rtcp::Malformed { packet_type }))
    }
}

fn without_padding(body: &[u8]) -> Option<&[u8]> {
    let count = crate::rtp::padding_len(body)?;
    body.get(..body.len() - count)
}

fn read(packet_type: u8, count: u8, body: &[u8]) -> Option<Rtcp<'_>> {
    Some(match (packet_type, count) {
        (SENDER_REPORT, _) => {
            let (ssrc, body) = word(body)?;
            let (ntp, body) = body.split_first_chunk::<8>()?;
            let (rtp_time, body) = word(body)?;
            let (packets, body) = word(body)?;
            let (octets, body) = word(body)?;
            let ntp = NtpTime(u64::from_be_bytes(*ntp));
            Rtcp::SenderReport { ssrc, ntp, rtp_time, packets, octets, reports: Reports::new(count, body)? }
        }
        (RECEIVER_REPORT, _) => {
            let (ssrc, body) = word(body)?;
            Rtcp::ReceiverReport { ssrc, reports: Reports::new(count, body)? }
        }
        (SDES, _) => Rtcp::Sdes(SdesChunks { rest: body, left: count }),
        (BYE, _) => Rtcp::Bye(Ssrcs { rest: body.get(..usize::from(count) * 4)? }),
        (TRANSPORT_FEEDBACK, FMT_NACK) => {
            let (sender, media, body) = two_words(body)?;
            Rtcp::Nack { sender, media, lost: Lost { rest: body, pid: 0, mask: 0 } }
        }
        (TRANSPORT_FEEDBACK, FMT_TWCC) => {
            let (sender, media, body) = two_words(body)?;
            Rtcp::TransportFeedback(TransportFeedback::parse(sender, media, body)?)
        }
        (PAYLOAD_FEEDBACK, FMT_PLI) => {
            let (sender, media, _) = two_words(body)?;
            Rtcp::Pli { sender, media }
        }
        (PAYLOAD_FEEDBACK, FMT_FIR) => {
            let (sender, _, body) = two_words(body)?;
            Rtcp::Fir { sender, targets: FirTargets { rest: body } }
        }
        (PAYLOAD_FEEDBACK, FMT_APPLICATION) => {
            let (sender, _, body) = two_words(body)?;
            let Some(body) = body.strip_prefix(b"REMB") else {
                return Some(Rtcp::Other { packet_type, count });
            };
            let ([ssrcs, exponent, m0, m1], body) = body.split_first_chunk::<4>()?;
            let mantissa = u64::from(u32::from_be_bytes([0, exponent & 0x03, *m0, *m1]));
            // An exponent of 63 overflows; what is above any real rate is the same as unlimited.
            let bitrate_bps = mantissa.saturating_mul(1 << (exponent >> 2));
            Rtcp::Remb { sender, bitrate_bps, ssrcs: Ssrcs { rest: body.get(..usize::from(*ssrcs) * 4)? } }
        }
        _ => Rtcp::Other { packet_type, count },
    })
}

fn word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    bytes.split_first_chunk().map(|(word, rest)| (u32::from_be_bytes(*word), rest))
}

fn two_words(bytes: &[u8]) -> Option<(u32, u32, &[u8])> {
    let (first, rest) = word(bytes)?;
    let (second, rest) = word(rest)?;
    Some((first, second, rest))
}

/// Report blocks of a sender or receiver report.
#[derive(Clone, Debug)]
pub struct Reports<'a> {
    rest: &'a [u8],
}

impl<'a> Reports<'a> {
    fn new(count: u8, body: &'a [u8]) -> Option<Self> {
        body.get(..usize::from(count) * ReportBlock::LEN).map(|rest| Self { rest })
    }
}

impl Iterator for Reports<'_> {
    type Item = ReportBlock;

    fn next(&mut self) -> Option<ReportBlock> {
        let (block, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(ReportBlock::from_bytes(block))
    }
}

/// A list of SSRCs.
#[derive(Clone, Debug)]
pub struct Ssrcs<'a> {
    rest: &'a [u8],
}

impl Iterator for Ssrcs<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let (ssrc, rest) = word(self.rest)?;
        self.rest = rest;
        Some(ssrc)
    }
}

/// Sequence numbers a NACK asks for, in the order it lists them (RFC 4585 §6.2.1).
#[derive(Clone, Debug)]
pub struct Lost<'a> {
    rest: &'a [u8],
    pid: u16,
    /// Bits of the current pair not yielded yet; bit 0 is `pid` itself.
    mask: u32,
}

impl Iterator for Lost<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        if self.mask == 0 {
            let (pair, rest) = word(self.rest)?;
            self.rest = rest;
            self.pid = (pair >> 16) as u16;
            self.mask = (pair & 0xffff) << 1 | 1;
        }
        let bit = self.mask.trailing_zeros();
        self.mask &= self.mask - 1;
        Some(self.pid.wrapping_add(bit as u16))
    }
}

/// `(ssrc, request number)` of a full intra request (RFC 5104 §4.3.1); the same number asks for the same keyframe again.
#[derive(Clone, Debug)]
pub struct FirTargets<'a> {
    rest: &'a [u8],
}

impl Iterator for FirTargets<'_> {
    type Item = (u32, u8);

    fn next(&mut self) -> Option<(u32, u8)> {
        let (ssrc, entry, rest) = two_words(self.rest)?;
        self.rest = rest;
        Some((ssrc, (entry >> 24) as u8))
    }
}

/// `(ssrc, cname)` of each source description chunk that has a CNAME (RFC 3550 §6.5).
#[derive(Clone, Debug)]
pub struct SdesChunks<'a> {
    rest: &'a [u8],
    left: u8,
}

impl<'a> SdesChunks<'a> {
    /// Reads one chunk: its SSRC and, if present, its CNAME.
    fn chunk(&mut self) -> Option<(u32, Option<&'a [u8]>)> {
        let (ssrc, mut rest) = word(self.rest)?;
        let items_len = rest.len();
        let mut cname = None;
        loop {
            let (&item, behind) = rest.split_first()?;
            if item == 0 {
                // The end marker and padding up to the next word.
                let used = items_len - behind.len();
                let padding = used.next_multiple_of(4) - used;
                self.rest = behind.get(padding..)?;
                return Some((ssrc, cname));
            }
            let (&len, behind) = behind.split_first()?;
            let (value, behind) = behind.split_at_checked(usize::from(len))?;
            if item == SDES_CNAME {
                cname = Some(value);
            }
            rest = behind;
        }
    }
}

impl<'a> Iterator for SdesChunks<'a> {
    type Item = (u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            if let (ssrc, Some(cname)) = self.chunk()? {
                return Some((ssrc, cname));
            }
        }
        None
    }
}
