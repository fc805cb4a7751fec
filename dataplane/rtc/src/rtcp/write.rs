//! Writing a compound. Each call appends one packet whole or, when it does not fit, nothing.

use super::*;

/// What a sender report says about its own stream.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SenderInfo {
    pub ssrc: u32,
    pub ntp: NtpTime,
    /// The media clock at `ntp`.
    pub rtp_time: u32,
    pub packets: u32,
    pub octets: u32,
}

/// Appends RTCP packets to a buffer. Every method says `false`, with the buffer as it was, when the packet does not fit or
/// is not expressible.
#[derive(Debug)]
pub struct RtcpWriter<'a> {
    out: &'a mut [u8],
    len: usize,
}

/// The most blocks, chunks or SSRCs the five-bit count field can say.
const COUNT_MAX: usize = 31;

impl<'a> RtcpWriter<'a> {
    pub fn new(out: &'a mut [u8]) -> Self {
        Self { out, len: 0 }
    }

    /// Bytes written.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that still fit.
    pub fn remaining(&self) -> usize {
        self.out.len() - self.len
    }

    /// The length of the compound in bytes.
    pub fn finish(self) -> usize {
        self.len
    }

    /// At most 31 report blocks.
    #[must_use]
    pub fn sender_report(&mut self, info: &SenderInfo, reports: &[ReportBlock]) -> bool {
        let ntp = info.ntp.0;
        let own = [info.ssrc, (ntp >> 32) as u32, ntp as u32, info.rtp_time, info.packets, info.octets];
        self.report(SENDER_REPORT, &own, reports)
    }

    /// At most 31 report blocks; none is a valid opening of a compound.
    #[must_use]
    pub fn receiver_report(&mut self, ssrc: u32, reports: &[ReportBlock]) -> bool {
        self.report(RECEIVER_REPORT, &[ssrc], reports)
    }

    fn report(&mut self, packet_type: u8, own: &[u32], reports: &[ReportBlock]) -> bool {
        if reports.len() > COUNT_MAX {
            return false;
        }
        let words = own.iter().copied().chain(reports.iter().flat_map(|report| report.to_words()));
        self.words(packet_type, reports.len() as u8, words)
    }

    /// One chunk with one CNAME of at most 255 bytes.
    #[must_use]
    pub fn sdes_cname(&mut self, ssrc: u32, cname: &str) -> bool {
        let Ok(cname_len) = u8::try_from(cname.len()) else { return false };
        // SSRC, item head, text and at least one zero byte to end the items.
        let body_len = (4 + 2 + cname.len() + 1).next_multiple_of(4);
        let Some(body) = self.packet(SDES, 1, body_len) else { return false };
        body.fill(0);
        let head = ssrc.to_be_bytes().into_iter().chain([SDES_CNAME, cname_len]).chain(cname.bytes());
        body.iter_mut().zip(head).for_each(|(place, byte)| *place = byte);
        true
    }

    /// At most 31 sources that leave.
    #[must_use]
    pub fn bye(&mut self, ssrcs: &[u32]) -> bool {
        ssrcs.len() <= COUNT_MAX && self.words(BYE, ssrcs.len() as u8, ssrcs.iter().copied())
    }

    /// Asks for lost packets; rising numbers pack best. Nothing lost writes nothing and is `false`.
    #[must_use]
    pub fn nack(&mut self, sender: u32, media: u32, lost: impl IntoIterator<Item = u16>) -> bool {
        let pairs = NackPairs { lost: lost.into_iter().peekable() };
        let before = self.len;
        let written = self.words(TRANSPORT_FEEDBACK, FMT_NACK, [sender, media].into_iter().chain(pairs));
        if written && self.len - before <= 12 {
            self.len = before;
            return false;
        }
        written
    }

    /// Picture loss indication (RFC 4585 §6.3.1).
    #[must_use]
    pub fn pli(&mut self, sender: u32, media: u32) -> bool {
        self.words(PAYLOAD_FEEDBACK, FMT_PLI, [sender, media])
    }

    /// Full intra request (RFC 5104 §4.3.1). `request` rises with each new wish.
    #[must_use]
    pub fn fir(&mut self, sender: u32, media: u32, request: u8) -> bool {
        self.words(PAYLOAD_FEEDBACK, FMT_FIR, [sender, 0, media, u32::from(request) << 24])
    }

    /// Receiver estimated maximum bitrate, rounded down to what its 18-bit mantissa can say.
    #[must_use]
    pub fn remb(&mut self, sender: u32, bitrate_bps: u64, ssrcs: &[u32]) -> bool {
        let Ok(count) = u8::try_from(ssrcs.len()) else { return false };
        let exponent = (64 - bitrate_bps.leading_zeros()).saturating_sub(18);
        let mantissa = (bitrate_bps >> exponent) as u32;
        let rate = u32::from(count) << 24 | exponent << 18 | mantissa;
        let head = [sender, 0, u32::from_be_bytes(*b"REMB"), rate];
        self.words(PAYLOAD_FEEDBACK, FMT_APPLICATION, head.into_iter().chain(ssrcs.iter().copied()))
    }

    /// Appends a packet header and gives the place of its body, a multiple of four bytes.
    pub(crate) fn packet(&mut self, packet_type: u8, count: u8, body_len: usize) -> Option<&mut [u8]> {
        let [l0, l1] = u16::try_from(body_len / 4).ok()?.to_be_bytes();
        let end = self.len + 4 + body_len;
        let (head, body) = self.out.get_mut(self.len..end)?.split_first_chunk_mut()?;
        *head = [0x80 | count, packet_type, l0, l1];
        self.len = end;
        Some(body)
    }

    fn words(&mut self, packet_type: u8, count: u8, words: impl IntoIterator<Item = u32>) -> bool {
        let Some((head, mut rest)) = self.out.get_mut(self.len..).and_then(<[u8]>::split_first_chunk_mut)
        else {
            return false;
        };
        let mut written: usize = 0;
        for word in words {
            let Some((place, behind)) = rest.split_first_chunk_mut() else { return false };
            *place = word.to_be_bytes();
            rest = behind;
            written += 1;
        }
        let Ok(length) = u16::try_from(written) else { return false };
        let [l0, l1] = length.to_be_bytes();
        *head = [0x80 | count, packet_type, l0, l1];
        self.len += 4 + written * 4;
        true
    }
}

/// Packs sequence numbers into (packet id, bitmask of following lost packets) pairs.
struct NackPairs<I: Iterator<Item = u16>> {
    lost: std::iter::Peekable<I>,
}

impl<I: Iterator<Item = u16>> Iterator for NackPairs<I> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let pid = self.lost.next()?;
        let mut mask = 0;
        while let Some(seq) = self.lost.next_if(|seq| (1..=16).contains(&seq.wrapping_sub(pid))) {
            mask |= 1 << (seq.wrapping_sub(pid) - 1);
        }
        Some(u32::from(pid) << 16 | mask)
    }
}
