//! Counting what happens to every packet. Whatever is not forwarded is dropped under one of these names: there is no "other".

use crate::quality::Quality;

/// Why a datagram or packet went no further.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum DropReason {
    /// Not STUN, DTLS, RTP or RTCP (RFC 7983).
    Unclassified,
    /// From an address that has passed no connectivity check.
    UnknownTuple,
    /// STUN for a user name fragment that names nobody here.
    UnknownUfrag,
    /// STUN that failed its integrity check or is no binding request.
    StunRefused,
    /// DTLS or SCTP that the peer's state machine refused.
    DtlsRefused,
    /// RTP or RTCP before the handshake gave keys.
    NoKeys,
    /// A header that cannot be RTP or RTCP.
    Malformed,
    /// SRTP or SRTCP authentication failed.
    Forged,
    /// An SRTP or SRTCP index seen before.
    Replayed,
    /// More synchronisation sources than one transport may have.
    StreamsExhausted,
    /// An SSRC that neither its MID, its RID nor the description assigns to a section.
    UnknownSsrc,
    /// A payload type that was not negotiated for its section.
    UnknownPayloadType,
    /// A packet in a format that its subscriber has no payload type for.
    CodecUnsupported,
    /// A packet that arrived twice.
    Duplicate,
    /// A retransmission of something no longer wanted, or padding alone on the repair stream.
    RtxUnused,
    /// A packet older than the history ring reaches.
    TooOld,
    /// More than one transport may send in a second.
    OverLimit,
    /// A payload too large to forward in one datagram.
    TooLarge,
    /// Waited before a shard that cannot keep up: media too late to be worth its place.
    Late,
    /// No train buffer was free.
    EgressFull,
    /// The queue of the connection (ICE-TCP) to a client was full.
    StreamFull,
    /// The cipher refused: an index would have been used twice.
    SealRefused,
    /// More handshakes and data at once than the slow lane holds.
    SlowLaneFull,
    /// A lane to another shard was full.
    LaneFull,
    /// A lane packet for a track this shard no longer follows.
    LaneUnwanted,
    /// A retransmission asked for that the history no longer holds.
    HistoryGone,
    /// A data message for a channel that is not open.
    ChannelClosed,
    /// A data message the association has no room for.
    ChannelFull,
}

impl DropReason {
    pub const ALL: [Self; 28] = [
        Self::Unclassified,
        Self::UnknownTuple,
        Self::UnknownUfrag,
        Self::StunRefused,
        Self::DtlsRefused,
        Self::NoKeys,
        Self::Malformed,
        Self::Forged,
        Self::Replayed,
        Self::StreamsExhausted,
        Self::UnknownSsrc,
        Self::UnknownPayloadType,
        Self::CodecUnsupported,
        Self::Duplicate,
        Self::RtxUnused,
        Self::TooOld,
        Self::OverLimit,
        Self::TooLarge,
        Self::Late,
        Self::EgressFull,
        Self::StreamFull,
        Self::SealRefused,
        Self::SlowLaneFull,
        Self::LaneFull,
        Self::LaneUnwanted,
        Self::HistoryGone,
        Self::ChannelClosed,
        Self::ChannelFull,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unclassified => "unclassified",
            Self::UnknownTuple => "unknown_tuple",
            Self::UnknownUfrag => "unknown_ufrag",
            Self::StunRefused => "stun_refused",
            Self::DtlsRefused => "dtls_refused",
            Self::NoKeys => "no_keys",
            Self::Malformed => "malformed",
            Self::Forged => "forged",
            Self::Replayed => "replayed",
            Self::StreamsExhausted => "streams_exhausted",
            Self::UnknownSsrc => "unknown_ssrc",
            Self::UnknownPayloadType => "unknown_payload_type",
            Self::CodecUnsupported => "codec_unsupported",
            Self::Duplicate => "duplicate",
            Self::RtxUnused => "rtx_unused",
            Self::TooOld => "too_old",
            Self::OverLimit => "over_limit",
            Self::TooLarge => "too_large",
            Self::Late => "late",
            Self::EgressFull => "egress_full",
            Self::StreamFull => "stream_full",
            Self::SealRefused => "seal_refused",
            Self::SlowLaneFull => "slow_lane_full",
            Self::LaneFull => "lane_full",
            Self::LaneUnwanted => "lane_unwanted",
            Self::HistoryGone => "history_gone",
            Self::ChannelClosed => "channel_closed",
            Self::ChannelFull => "channel_full",
        }
    }
}

/// Counters of one shard since it started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardStats {
    drops: [u64; DropReason::ALL.len()],
    pub packets_received: u64,
    pub packets_sent: u64,
    pub retransmitted: u64,
    /// Among `packets_received`, those of repair streams (RFC 4588).
    pub repairs_received: u64,
    /// Octets of the datagrams counted by `packets_received`.
    pub octets_received: u64,
    /// Octets of the datagrams counted by `repairs_received`.
    pub octets_of_repairs_received: u64,
    /// Octets of the datagrams counted by `packets_sent`.
    pub octets_sent: u64,
    /// Octets of the datagrams counted by `retransmitted`.
    pub octets_retransmitted: u64,
    /// Packets asked for again, each time it was.
    pub nacks_sent: u64,
    pub plis_sent: u64,
    pub lane_sent: u64,
    pub lane_received: u64,
    pub lane_lost: u64,
    /// Datagrams that landed on this shard but belong to another.
    pub steered: u64,
    /// Packets that a line was offered and neither sent, filtered nor dropped, or did twice: a bug if not zero.
    pub unaccounted: u64,
    /// Calls that panicked and cost a peer.
    pub panics: u64,
    pub quality: Quality,
}

impl Default for ShardStats {
    fn default() -> Self {
        Self {
            drops: [0; DropReason::ALL.len()],
            packets_received: 0,
            packets_sent: 0,
            retransmitted: 0,
            repairs_received: 0,
            octets_received: 0,
            octets_of_repairs_received: 0,
            octets_sent: 0,
            octets_retransmitted: 0,
            nacks_sent: 0,
            plis_sent: 0,
            lane_sent: 0,
            lane_received: 0,
            lane_lost: 0,
            steered: 0,
            unaccounted: 0,
            panics: 0,
            quality: Quality::default(),
        }
    }
}

impl ShardStats {
    pub(crate) fn drop(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    pub(crate) fn drop_many(&mut self, reason: DropReason, count: u64) {
        self.drops[reason as usize] += count;
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_place_and_name() {
        let mut names = std::collections::HashSet::new();
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            assert!(names.insert(reason.as_str()));
        }
    }
}
