//! Identifiers. Each carries its home shard in the top byte, so a look-up never needs a directory.

use std::fmt;

/// Index of a shard (one pinned thread) within one node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ShardId(pub u8);

macro_rules! sharded_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u64);

        impl $name {
            /// Joins a home shard with 56 bits chosen by control (random or counted, never by a client).
            pub const fn new(shard: ShardId, low: u64) -> Self {
                Self(((shard.0 as u64) << 56) | (low & 0x00ff_ffff_ffff_ffff))
            }

            /// The shard that owns the thing named.
            pub const fn shard(self) -> ShardId {
                ShardId((self.0 >> 56) as u8)
            }

            /// The whole identifier as a number, for tables and logs.
            pub const fn as_u64(self) -> u64 {
                self.0
            }

            /// The inverse of [`Self::as_u64`].
            pub const fn from_u64(value: u64) -> Self {
                Self(value)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:016x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }
    };
}

sharded_id!(
    /// A room. The shard is its home: where its state lives and its first transports are placed.
    RoomId
);
sharded_id!(
    /// One peer connection. The shard is where it lives.
    TransportId
);
sharded_id!(
    /// A published track. The shard is its publisher's transport's.
    TrackId
);

/// Index of an m-line in a transport's specification; stable for the life of the transport.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SectionIndex(pub u16);

const UFRAG_ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

impl TransportId {
    /// The ICE username fragment of this transport: the identifier in 13 characters of base 32, so that any shard can
    /// read from a STUN request which shard owns it. RFC 8839 §5.4 wants at least 4 characters of ALPHA / DIGIT.
    pub fn ufrag(self) -> String {
        (0..13).map(|i| UFRAG_ALPHABET[(self.0 >> (60 - 5 * i) & 31) as usize] as char).collect()
    }

    /// Reads a username fragment back; `None` for anything [`Self::ufrag`] cannot have written.
    pub fn from_ufrag(ufrag: &[u8]) -> Option<Self> {
        if ufrag.len() != 13 {
            return None;
        }
        let mut value = 0_u64;
        for (i, byte) in ufrag.iter().enumerate() {
            let digit = match byte {
                b'a'..=b'z' => byte - b'a',
                b'2'..=b'7' => byte - b'2' + 26,
                _ => return None,
            };
            if i == 0 && digit > 15 {
                return None;
            }
            value = value << 5 | u64::from(digit);
        }
        Some(Self(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ufrag_round_trips_and_names_the_shard() {
        for low in [0, 1, 0x00ff_ffff_ffff_ffff, 0x0012_3456_789a_bcde] {
            for shard in [0, 1, 7, 255] {
                let id = TransportId::new(ShardId(shard), low);
                let ufrag = id.ufrag();
                assert_eq!(ufrag.len(), 13);
                assert_eq!(TransportId::from_ufrag(ufrag.as_bytes()), Some(id));
                assert_eq!(id.shard(), ShardId(shard));
            }
        }
    }

    #[test]
    fn foreign_ufrags_are_refused() {
        for bad in [&b""[..], b"abc", b"aaaaaaaaaaaaaa", b"AAAAAAAAAAAAA", b"7aaaaaaaaaaaa", b"aaaaaaaaaaa a"]
        {
            assert_eq!(TransportId::from_ufrag(bad), None);
        }
    }
}
