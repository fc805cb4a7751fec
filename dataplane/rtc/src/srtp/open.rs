//! Opening what arrives: authentication, decryption, the roll-over counter and replay protection of each source.

use super::cipher::{Cipher, Message, Protocol};
use super::kdf::Kdf;
use super::window::Window;
use super::{KeyError, Profile};
use crate::rtp::RtpHeader;
use crate::units::SeqNo;

/// The clear start of an SRTCP packet: one RTCP header and the sender's SSRC.
const RTCP_CLEAR_LEN: usize = 8;
/// The E bit and 31-bit index behind an SRTCP packet.
const RTCP_TRAILER_LEN: usize = 4;
const ENCRYPTED: u32 = 1 << 31;
/// One cycle of sequence numbers: what [`SeqNo::first`] adds.
const CYCLE: u64 = 0x1_0000;
const INDEX_MAX: u64 = (1 << 48) - 1;

/// Why a packet was not opened. All of it is the sender's or the network's doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum SrtpError {
    #[error("packet is shorter than its headers and tag")]
    TooShort,
    #[error("authentication failed")]
    Authentication,
    #[error("packet was seen before or is too old to tell")]
    Replayed,
    #[error("peer sends from more SSRCs than it may")]
    StreamsExhausted,
    #[error("SRTCP without encryption")]
    Unencrypted,
    #[error("the key's packet indices are used up")]
    KeyExhausted,
    #[error("output is shorter than the payload")]
    OutputTooShort,
}

/// SSRCs remembered for each one followed closely. A long session uses up many, one after the other.
const REMEMBERED_PER_FOLLOWED: usize = 16;

#[derive(Debug)]
struct Source {
    ssrc: u32,
    window: Window,
    /// When a packet of it was opened last, in packets.
    used: u64,
}

/// The sources of one protocol, ordered by SSRC: the cost of a look-up does not depend on which SSRCs a peer picks.
#[derive(Debug)]
struct Sources {
    sources: Vec<Source>,
    wide: usize,
    wide_max: usize,
    clock: u64,
}

impl Sources {
    fn new(wide_max: usize) -> Self {
        Self { sources: Vec::new(), wide: 0, wide_max, clock: 0 }
    }

    /// Where the source is, or where it would go.
    fn find(&self, ssrc: u32) -> Result<(usize, &Window), usize> {
        let at = self.sources.binary_search_by_key(&ssrc, |source| source.ssrc)?;
        self.sources.get(at).map(|source| (at, &source.window)).ok_or(at)
    }

    fn is_full(&self) -> bool {
        self.sources.len() >= self.wide_max * REMEMBERED_PER_FOLLOWED
    }

    /// Marks an authenticated packet of the source at `at`, which was found there.
    fn note(&mut self, at: usize, index: u64) {
        self.clock += 1;
        let Some(source) = self.sources.get_mut(at) else { return };
        source.used = self.clock;
        let was_wide = source.window.is_wide();
        source.window.note(index);
        if !was_wide {
            self.widened();
        }
    }

    /// Follows a new source, whose place is `at`, from its first authenticated packet on.
    fn insert(&mut self, at: usize, ssrc: u32, index: u64) {
        self.clock += 1;
        self.sources.insert(at, Source { ssrc, window: Window::new(index), used: self.clock });
        self.widened();
    }

    /// One more source is followed closely; the one not heard for longest makes place.
    fn widened(&mut self) {
        self.wide += 1;
        if self.wide > self.wide_max {
            let wide = self.sources.iter_mut().filter(|source| source.window.is_wide());
            if let Some(oldest) = wide.min_by_key(|source| source.used) {
                oldest.window.narrow();
                self.wide -= 1;
            }
        }
    }
}

/// The receiving half of one DTLS-SRTP session.
pub struct SrtpOpen {
    rtp: Cipher,
    rtcp: Cipher,
    tag_len: usize,
    sources: Sources,
    rtcp_sources: Sources,
}

impl std::fmt::Debug for SrtpOpen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SrtpOpen").field("sources", &self.sources_len()).finish_non_exhaustive()
    }
}

impl SrtpOpen {
    /// Expands the session keys of one master key. `sources_max` SSRCs are followed closely; of sixteen times as many the
    /// highest number is remembered, so that a source that comes back cannot be replayed. More are refused.
    pub fn new(profile: Profile, key: &[u8], salt: &[u8], sources_max: usize) -> Result<Self, KeyError> {
        let kdf = Kdf::new(profile, key, salt)?;
        Ok(Self {
            rtp: Cipher::new(profile, &kdf, Protocol::Rtp)?,
            rtcp: Cipher::new(profile, &kdf, Protocol::Rtcp)?,
            tag_len: profile.tag_len(),
            sources: Sources::new(sources_max),
            rtcp_sources: Sources::new(sources_max),
        })
    }

    /// Opens one SRTP packet out of place. `header` was parsed from `datagram`; the plaintext payload (padding included) goes
    /// to the start of `out`, which holds at least `datagram.len() - header.len` bytes. Gives the extended sequence number
    /// and the payload's length. A source's state is made and moved only by authentic packets.
    pub fn open_rtp(
        &mut self,
        header: &RtpHeader,
        datagram: &[u8],
        out: &mut [u8],
    ) -> Result<(SeqNo, usize), SrtpError> {
        let (head, body) = datagram.split_at_checked(header.len).ok_or(SrtpError::TooShort)?;
        let payload_len = body.len().checked_sub(self.tag_len).ok_or(SrtpError::TooShort)?;
        let (ciphertext, tag) = body.split_at_checked(payload_len).ok_or(SrtpError::TooShort)?;
        let out = out.get_mut(..payload_len).ok_or(SrtpError::OutputTooShort)?;
        let cipher = &self.rtp;
        let mut open = |seq: SeqNo| open_at(cipher, header.ssrc, seq, head, ciphertext, tag, out);
        match self.sources.find(header.ssrc) {
            Ok((at, window)) => {
                let seq = guess(SeqNo(window.highest()), header.seq);
                if !window.admits(seq.0) {
                    return Err(SrtpError::Replayed);
                }
                open(seq)?;
                self.sources.note(at, seq.0);
                Ok((seq, payload_len))
            }
            Err(_) if self.sources.is_full() => Err(SrtpError::StreamsExhausted),
            Err(at) => {
                let mut seq = SeqNo::first(header.seq);
                let first_try = open(seq);
                // A stream that began just below the wrap and lost its first packets is already in its second cycle.
                if first_try == Err(SrtpError::Authentication) && header.seq < 0x8000 {
                    seq.0 += CYCLE;
                    open(seq)?;
                } else {
                    first_try?;
                }
                self.sources.insert(at, header.ssrc, seq.0);
                Ok((seq, payload_len))
            }
        }
    }

    /// Opens one SRTCP packet out of place into the start of `out`, headers included, and gives the compound's length.
    /// `out` holds at least `datagram.len()` bytes less tag and index.
    pub fn open_rtcp(&mut self, datagram: &[u8], out: &mut [u8]) -> Result<usize, SrtpError> {
        let compound_len =
            datagram.len().checked_sub(self.tag_len + RTCP_TRAILER_LEN).ok_or(SrtpError::TooShort)?;
        let (header, body) = datagram.split_first_chunk::<RTCP_CLEAR_LEN>().ok_or(SrtpError::TooShort)?;
        let payload_len = compound_len.checked_sub(RTCP_CLEAR_LEN).ok_or(SrtpError::TooShort)?;
        let (ciphertext, tail) = body.split_at_checked(payload_len).ok_or(SrtpError::TooShort)?;
        let (trailer, tag) = split_rtcp_tail(&self.rtcp, tail).ok_or(SrtpError::TooShort)?;
        let word = u32::from_be_bytes(trailer);
        if word & ENCRYPTED == 0 {
            return Err(SrtpError::Unencrypted);
        }
        let index = u64::from(word & !ENCRYPTED);
        let [_, _, _, _, ssrc @ ..] = *header;
        let ssrc = u32::from_be_bytes(ssrc);
        let found = match self.rtcp_sources.find(ssrc) {
            Ok((_, window)) if !window.admits(index) => return Err(SrtpError::Replayed),
            Ok((at, _)) => Ok(at),
            Err(_) if self.rtcp_sources.is_full() => return Err(SrtpError::StreamsExhausted),
            Err(at) => Err(at),
        };
        let (clear, payload) = out
            .get_mut(..compound_len)
            .and_then(|out| out.split_first_chunk_mut::<RTCP_CLEAR_LEN>())
            .ok_or(SrtpError::OutputTooShort)?;
        let aad = rtcp_aad(*header, trailer);
        let message = Message { ssrc, index, header, trailer, aad: &aad };
        self.rtcp.open(&message, ciphertext, tag, payload).map_err(|_| SrtpError::Authentication)?;
        *clear = *header;
        match found {
            Ok(at) => self.rtcp_sources.note(at, index),
            Err(at) => self.rtcp_sources.insert(at, ssrc, index),
        }
        Ok(compound_len)
    }

    /// SSRCs from which authentic RTP came.
    pub fn sources_len(&self) -> usize {
        self.sources.sources.len()
    }
}

/// Tries one packet at one extended sequence number.
fn open_at(
    cipher: &Cipher,
    ssrc: u32,
    seq: SeqNo,
    head: &[u8],
    ciphertext: &[u8],
    tag: &[u8],
    out: &mut [u8],
) -> Result<(), SrtpError> {
    let index = seq.0.saturating_sub(CYCLE);
    if index > INDEX_MAX {
        return Err(SrtpError::KeyExhausted);
    }
    let trailer = ((index >> 16) as u32).to_be_bytes();
    let message = Message { ssrc, index, header: head, trailer, aad: head };
    cipher.open(&message, ciphertext, tag, out).map_err(|_| SrtpError::Authentication)
}

/// RFC 3711 §3.3.1 in extended numbers. A roll-over counter below zero does not exist, so such a packet is taken for a long
/// jump ahead in the first cycle.
fn guess(highest: SeqNo, wire: u16) -> SeqNo {
    let nearest = highest.nearest(wire);
    if nearest.0 < CYCLE { SeqNo::first(wire) } else { nearest }
}

/// What follows the ciphertext of SRTCP: GCM puts the tag before the E bit and index, counter mode behind it.
fn split_rtcp_tail<'a>(cipher: &Cipher, tail: &'a [u8]) -> Option<([u8; RTCP_TRAILER_LEN], &'a [u8])> {
    match cipher {
        Cipher::Gcm { .. } => tail.split_last_chunk().map(|(tag, trailer)| (*trailer, tag)),
        Cipher::CmSha1 { .. } => tail.split_first_chunk().map(|(trailer, tag)| (*trailer, tag)),
    }
}

/// RFC 7714 §9.2: the clear header, the E bit and the index.
pub(super) fn rtcp_aad(header: [u8; RTCP_CLEAR_LEN], trailer: [u8; RTCP_TRAILER_LEN]) -> [u8; 12] {
    let mut aad = [0; 12];
    aad.iter_mut().zip(header.iter().chain(&trailer)).for_each(|(place, byte)| *place = *byte);
    aad
}
