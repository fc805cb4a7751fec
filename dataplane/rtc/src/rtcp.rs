//! RTCP, read in place and written in place: reports (RFC 3550 §6.4), SDES and BYE, NACK, PLI and FIR (RFC 4585, RFC 5104),
//! REMB (draft-alvestrand-rmcat-remb) and transport-wide feedback (see [`crate::twcc`]).
//!
//! [`packets`] walks a compound that was opened and authenticated; its sender is still not trusted. [`RtcpWriter`] builds one
//! and never writes past its buffer.

mod read;
mod write;

pub use read::{FirTargets, Lost, Packets, Reports, SdesChunks, Ssrcs, packets};
pub use write::{RtcpWriter, SenderInfo};

use crate::twcc::TransportFeedback;
use crate::units::NtpTime;

pub(crate) const SENDER_REPORT: u8 = 200;
pub(crate) const RECEIVER_REPORT: u8 = 201;
pub(crate) const SDES: u8 = 202;
pub(crate) const BYE: u8 = 203;
pub(crate) const TRANSPORT_FEEDBACK: u8 = 205;
pub(crate) const PAYLOAD_FEEDBACK: u8 = 206;
/// Feedback message types, in the count field of 205 and 206.
pub(crate) const FMT_NACK: u8 = 1;
pub(crate) const FMT_TWCC: u8 = 15;
pub(crate) const FMT_PLI: u8 = 1;
pub(crate) const FMT_FIR: u8 = 4;
pub(crate) const FMT_APPLICATION: u8 = 15;
pub(crate) const SDES_CNAME: u8 = 1;

/// One packet of a compound.
#[derive(Clone, Debug)]
pub enum Rtcp<'a> {
    SenderReport {
        ssrc: u32,
        ntp: NtpTime,
        /// The media clock at `ntp`.
        rtp_time: u32,
        packets: u32,
        octets: u32,
        reports: Reports<'a>,
    },
    ReceiverReport {
        ssrc: u32,
        reports: Reports<'a>,
    },
    Sdes(SdesChunks<'a>),
    Bye(Ssrcs<'a>),
    Nack {
        sender: u32,
        media: u32,
        lost: Lost<'a>,
    },
    Pli {
        sender: u32,
        media: u32,
    },
    Fir {
        sender: u32,
        targets: FirTargets<'a>,
    },
    Remb {
        sender: u32,
        bitrate_bps: u64,
        ssrcs: Ssrcs<'a>,
    },
    TransportFeedback(TransportFeedback<'a>),
    /// Well framed, of a type we do not use.
    Other {
        packet_type: u8,
        count: u8,
    },
    /// Well framed, but the body does not fit its type. To be counted; the walk goes on.
    Malformed {
        packet_type: u8,
    },
}

/// What a receiver says about one source (RFC 3550 §6.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ReportBlock {
    pub ssrc: u32,
    /// Lost since the previous report, in 1/256.
    pub fraction_lost: u8,
    /// 24-bit signed: duplicates can make it negative.
    pub cumulative_lost: i32,
    /// Cycles in the upper 16 bits.
    pub highest_seq: u32,
    /// In units of the media clock.
    pub jitter: u32,
    /// Middle 32 bits of the last sender report's NTP time, 0 if none.
    pub lsr: u32,
    /// Delay since that report in 1/65,536 s.
    pub dlsr: u32,
}

impl ReportBlock {
    pub(crate) const LEN: usize = 24;

    fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let word = |at: usize| {
            bytes.get(at..).and_then(<[u8]>::first_chunk).map(|b| u32::from_be_bytes(*b)).unwrap_or_default()
        };
        let loss = word(4);
        Self {
            ssrc: word(0),
            fraction_lost: (loss >> 24) as u8,
            // Shifted up and down again to extend the sign of the 24-bit number.
            cumulative_lost: (loss << 8) as i32 >> 8,
            highest_seq: word(8),
            jitter: word(12),
            lsr: word(16),
            dlsr: word(20),
        }
    }

    fn to_words(self) -> [u32; 6] {
        let lost = self.cumulative_lost.clamp(-0x80_0000, 0x7f_ffff) as u32 & 0xff_ffff;
        let loss = u32::from(self.fraction_lost) << 24 | lost;
        [self.ssrc, loss, self.highest_seq, self.jitter, self.lsr, self.dlsr]
    }
}

#[cfg(test)]
mod tests;
