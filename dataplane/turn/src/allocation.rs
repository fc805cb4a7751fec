//! One allocation: whose it is, whom it may talk to, and for how long (RFC 8656 §5).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;

use crate::Origin;
use crate::message::TransactionId;

/// How long a permission lasts (RFC 8656 §9).
pub(crate) const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
/// How long a channel stays bound (RFC 8656 §12).
pub(crate) const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);
/// Peers one allocation may talk to. Clients relay to one address of the node for each of its candidates.
pub(crate) const PERMISSIONS_MAX: usize = 32;
pub(crate) const CHANNELS_MAX: usize = 32;

/// A table of an allocation is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full;

/// What a channel cannot be bound to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BindError {
    /// The channel has another peer, or the peer another channel.
    Taken,
    Full,
}

#[derive(Debug)]
struct Permission {
    ip: IpAddr,
    /// Only the node's media ports may be reached there.
    media_only: bool,
    expires: Instant,
}

#[derive(Debug)]
struct Channel {
    number: u16,
    peer: SocketAddr,
    expires: Instant,
}

/// An Allocate request that waits for its socket.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Sockets that could not be opened so far.
    pub(crate) tries: u32,
    pub(crate) even_port: bool,
    pub(crate) lifetime: Duration,
    /// What else the response tells.
    pub(crate) extras: Extras,
}

/// What a response to Allocate has besides addresses.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Extras {
    pub(crate) fingerprint: bool,
    /// An address of a second family was asked for.
    pub(crate) additional_family: Option<u8>,
}

/// An allocation.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) origin: Origin,
    pub(crate) username: Box<[u8]>,
    pub(crate) key: hmac::Key,
    /// Of the request that made it; asked again, the answer is the same.
    pub(crate) transaction: TransactionId,
    pub(crate) relayed: SocketAddr,
    pub(crate) expires: Instant,
    /// Until its socket is open.
    pub(crate) pending: Option<Pending>,
    permissions: Vec<Permission>,
    channels: Vec<Channel>,
}

impl Allocation {
    pub(crate) fn new(
        origin: Origin,
        username: &[u8],
        key: hmac::Key,
        transaction: TransactionId,
        relayed: SocketAddr,
        (expires, pending): (Instant, Pending),
    ) -> Self {
        Self {
            origin,
            username: username.into(),
            key,
            transaction,
            relayed,
            expires,
            pending: Some(pending),
            permissions: Vec::new(),
            channels: Vec::new(),
        }
    }

    /// Whether so many peers more could be permitted.
    pub(crate) fn has_room_for(&self, now: Instant, peers: impl Iterator<Item = IpAddr>) -> bool {
        let is_new = |ip: &IpAddr| !self.permissions.iter().any(|held| held.ip == *ip && held.expires > now);
        let held = self.permissions.iter().filter(|held| held.expires > now).count();
        held + peers.filter(is_new).count() <= PERMISSIONS_MAX
    }

    /// Permits a peer, or goes on doing so.
    pub(crate) fn permit(&mut self, now: Instant, ip: IpAddr, media_only: bool) -> Result<(), Full> {
        let expires = now + PERMISSION_LIFETIME;
        self.permissions.retain(|held| held.expires > now);
        if let Some(held) = self.permissions.iter_mut().find(|held| held.ip == ip) {
            *held = Permission { ip, media_only, expires };
            return Ok(());
        }
        if self.permissions.len() >= PERMISSIONS_MAX {
            return Err(Full);
        }
        self.permissions.push(Permission { ip, media_only, expires });
        Ok(())
    }

    /// Whether datagrams to and from a peer are permitted, and then whether only if it is the node's media.
    pub(crate) fn permission(&self, now: Instant, ip: IpAddr) -> Option<bool> {
        let held = self.permissions.iter().find(|held| held.ip == ip && held.expires > now);
        held.map(|held| held.media_only)
    }

    /// Binds a channel, or goes on doing so.
    pub(crate) fn bind(&mut self, now: Instant, number: u16, peer: SocketAddr) -> Result<(), BindError> {
        let expires = now + CHANNEL_LIFETIME;
        self.channels.retain(|held| held.expires > now);
        for held in &mut self.channels {
            match (held.number == number, held.peer == peer) {
                (true, true) => {
                    held.expires = expires;
                    return Ok(());
                }
                (false, false) => {}
                _ => return Err(BindError::Taken),
            }
        }
        if self.channels.len() >= CHANNELS_MAX {
            return Err(BindError::Full);
        }
        self.channels.push(Channel { number, peer, expires });
        Ok(())
    }

    pub(crate) fn peer_of(&self, now: Instant, number: u16) -> Option<SocketAddr> {
        self.channels.iter().find(|held| held.number == number && held.expires > now).map(|held| held.peer)
    }

    pub(crate) fn channel_of(&self, now: Instant, peer: SocketAddr) -> Option<u16> {
        self.channels.iter().find(|held| held.peer == peer && held.expires > now).map(|held| held.number)
    }
}
