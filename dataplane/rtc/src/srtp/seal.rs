//! Sealing what is sent. The guard lives here: the index of a stream only rises, and an SSRC serves once per key.

use std::collections::BTreeSet;

use super::cipher::{Cipher, Message, Protocol};
use super::kdf::Kdf;
use super::open::rtcp_aad;
use super::window::Window;
use super::{KeyError, Profile};
use crate::units::SeqNo;

const RTCP_CLEAR_LEN: usize = 8;
const RTCP_TRAILER_LEN: usize = 4;
const ENCRYPTED: u32 = 1 << 31;
const INDEX_MAX: u64 = (1 << 48) - 1;
/// A receiver guesses the roll-over counter within half a cycle; beyond that it would lose the stream.
const GAP_MAX: u64 = 0x7fff;

/// Why nothing was sealed. All of it is the caller's doing, except that keys wear out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum SealError {
    #[error("the SSRC already served under this key")]
    SsrcReused,
    #[error("more SSRCs than one key may serve")]
    StreamsExhausted,
    #[error("no such stream")]
    UnknownStream,
    #[error("the packet index was used, or is too old to tell")]
    IndexReused,
    #[error("the packet index jumps further than a receiver can follow")]
    GapTooLarge,
    #[error("the key's packet indices are used up")]
    KeyExhausted,
    #[error("the header in place does not carry the stream's SSRC and sequence number")]
    HeaderMismatch,
    #[error("the place does not have the packet's exact length")]
    Length,
    #[error("the cipher refused")]
    Cipher,
}

/// Handle of a registered egress SSRC.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SealStream(u32);

#[derive(Debug)]
struct Stream {
    ssrc: u32,
    /// Extended numbers sealed so far, and what to subtract from one for its packet index.
    sealed: Option<(Window, u64)>,
}

/// The sending half of one DTLS-SRTP session.
pub struct SrtpSeal {
    rtp: Cipher,
    rtcp: Cipher,
    tag_len: usize,
    streams: Vec<Stream>,
    ssrcs: BTreeSet<u32>,
    streams_max: usize,
    rtcp_index: u32,
}

impl std::fmt::Debug for SrtpSeal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SrtpSeal").field("streams", &self.streams.len()).finish_non_exhaustive()
    }
}

impl SrtpSeal {
    /// Expands the session keys of one master key. At most `streams_max` SSRCs ever serve under it.
    pub fn new(profile: Profile, key: &[u8], salt: &[u8], streams_max: usize) -> Result<Self, KeyError> {
        let kdf = Kdf::new(profile, key, salt)?;
        Ok(Self {
            rtp: Cipher::new(profile, &kdf, Protocol::Rtp)?,
            rtcp: Cipher::new(profile, &kdf, Protocol::Rtcp)?,
            tag_len: profile.tag_len(),
            streams: Vec::new(),
            ssrcs: BTreeSet::new(),
            streams_max,
            rtcp_index: 0,
        })
    }

    /// Bytes SRTP adds to an RTP packet.
    pub fn overhead_rtp(&self) -> usize {
        self.tag_len
    }

    /// Bytes SRTCP adds to an RTCP compound.
    pub fn overhead_rtcp(&self) -> usize {
        self.tag_len + RTCP_TRAILER_LEN
    }

    /// Registers an egress SSRC. Once only in the life of the key: a second numbering under the same SSRC would repeat
    /// indices.
    pub fn stream(&mut self, ssrc: u32) -> Result<SealStream, SealError> {
        if self.streams.len() >= self.streams_max {
            return Err(SealError::StreamsExhausted);
        }
        if !self.ssrcs.insert(ssrc) {
            return Err(SealError::SsrcReused);
        }
        self.streams.push(Stream { ssrc, sealed: None });
        Ok(SealStream((self.streams.len() - 1) as u32))
    }

    /// Whether number `seq` of a stream was sealed, or is too old to tell.
    pub fn has_sealed(&self, stream: SealStream, seq: SeqNo) -> bool {
        let sealed = self.streams.get(stream.0 as usize).and_then(|stream| stream.sealed.as_ref());
        sealed.is_some_and(|(window, base)| seq.0 < *base || !window.admits(seq.0))
    }

    /// Seals one RTP packet out of place: `place` is the header of `header_len` bytes, already written, and room for exactly
    /// `payload` and [`Self::overhead_rtp`]. `seq` is what the header says, extended; a stream may start anywhere.
    pub fn seal_rtp(
        &mut self,
        stream: SealStream,
        seq: SeqNo,
        header_len: usize,
        payload: &[u8],
        place: &mut [u8],
    ) -> Result<(), SealError> {
        if place.len() != header_len + payload.len() + self.tag_len {
            return Err(SealError::Length);
        }
        let (header, body) = place.split_at_mut_checked(header_len).ok_or(SealError::Length)?;
        let (out, tag) = body.split_at_mut_checked(payload.len()).ok_or(SealError::Length)?;
        let state = self.streams.get_mut(stream.0 as usize).ok_or(SealError::UnknownStream)?;
        let message = state.next_message(seq, header)?;
        self.rtp.seal(&message, payload, out, tag).map_err(|_| SealError::Cipher)
    }

    /// Seals one RTP packet whose payload already lies behind its header in `place`, with [`Self::overhead_rtp`] bytes of
    /// room at the end.
    pub fn seal_rtp_in_place(
        &mut self,
        stream: SealStream,
        seq: SeqNo,
        header_len: usize,
        place: &mut [u8],
    ) -> Result<(), SealError> {
        let (header, body) = place.split_at_mut_checked(header_len).ok_or(SealError::Length)?;
        let payload_len = body.len().checked_sub(self.tag_len).ok_or(SealError::Length)?;
        let (payload, tag) = body.split_at_mut_checked(payload_len).ok_or(SealError::Length)?;
        let state = self.streams.get_mut(stream.0 as usize).ok_or(SealError::UnknownStream)?;
        let message = state.next_message(seq, header)?;
        self.rtp.seal_in_place(&message, payload, tag).map_err(|_| SealError::Cipher)
    }

    /// Seals an RTCP compound into the start of `place` and gives the packet's length, `compound` plus
    /// [`Self::overhead_rtcp`].
    pub fn seal_rtcp(&mut self, compound: &[u8], place: &mut [u8]) -> Result<usize, SealError> {
        let len = compound.len() + self.overhead_rtcp();
        let (header, payload) = compound.split_first_chunk::<RTCP_CLEAR_LEN>().ok_or(SealError::Length)?;
        let (clear, body) = place
            .get_mut(..len)
            .and_then(|place| place.split_first_chunk_mut::<RTCP_CLEAR_LEN>())
            .ok_or(SealError::Length)?;
        let (out, tail) = body.split_at_mut_checked(payload.len()).ok_or(SealError::Length)?;
        if self.rtcp_index >= ENCRYPTED {
            return Err(SealError::KeyExhausted);
        }
        let trailer = (self.rtcp_index | ENCRYPTED).to_be_bytes();
        let (trailer_place, tag) = match &self.rtcp {
            Cipher::Gcm { .. } => tail.split_last_chunk_mut().map(|(tag, trailer)| (trailer, tag)),
            Cipher::CmSha1 { .. } => tail.split_first_chunk_mut(),
        }
        .ok_or(SealError::Length)?;
        *clear = *header;
        *trailer_place = trailer;
        let [_, _, _, _, ssrc @ ..] = *header;
        let index = u64::from(self.rtcp_index);
        self.rtcp_index += 1;
        let aad = rtcp_aad(*header, trailer);
        let message = Message { ssrc: u32::from_be_bytes(ssrc), index, header, trailer, aad: &aad };
        self.rtcp.seal(&message, payload, out, tag).map_err(|_| SealError::Cipher)?;
        Ok(len)
    }
}

impl Stream {
    /// The message at `seq`, if its index was never used. A late packet may still take the index it skipped, within the window
    /// a receiver keeps for replay; beyond that nothing goes back. The index is spent even if the cipher then refuses.
    fn next_message<'a>(&mut self, seq: SeqNo, header: &'a [u8]) -> Result<Message<'a>, SealError> {
        let [_, _, s0, s1, _, _, _, _, c0, c1, c2, c3, ..] = *header else {
            return Err(SealError::HeaderMismatch);
        };
        if u16::from_be_bytes([s0, s1]) != seq.wire() || u32::from_be_bytes([c0, c1, c2, c3]) != self.ssrc {
            return Err(SealError::HeaderMismatch);
        }
        // The receiver starts at roll-over counter zero, whatever cycle our numbering is in.
        let (window, base) =
            self.sealed.get_or_insert_with(|| (Window::empty(seq.0), seq.0 - u64::from(seq.wire())));
        if seq.0 < *base || !window.admits(seq.0) {
            return Err(SealError::IndexReused);
        }
        if seq.0.saturating_sub(window.highest()) > GAP_MAX {
            return Err(SealError::GapTooLarge);
        }
        let index = seq.0 - *base;
        if index > INDEX_MAX {
            return Err(SealError::KeyExhausted);
        }
        window.note(seq.0);
        let trailer = ((index >> 16) as u32).to_be_bytes();
        Ok(Message { ssrc: self.ssrc, index, header, trailer, aad: header })
    }
}
