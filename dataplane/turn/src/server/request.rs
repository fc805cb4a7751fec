//! Requests with credentials (RFC 8489 §9.2), and those that keep an allocation and its peers (RFC 8656 §8, §10, §12).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;

use super::{Action, Server};
use crate::allocation::{Allocation, BindError};
use crate::code::ErrorCode;
use crate::message::{Class, Message, Method, kind};
use crate::policy::Verdict;
use crate::write::Writer;
use crate::{Moment, Origin, RelayId};

/// How long an allocation lasts that nobody refreshes; the RFC's default, and the longest a client may ask for.
const LIFETIME: Duration = Duration::from_secs(600);
const LIFETIME_MAX: Duration = Duration::from_secs(3_600);

/// Channels that can be bound. RFC 8656 §12 has clients use 0x4000 to 0x4fff; those of RFC 5766 go on to 0x7fff, and nothing else
/// on our ports begins with these bits.
const CHANNELS: std::ops::RangeInclusive<u16> = 0x4000..=0x7fff;

/// Who made an authentic request.
pub(super) struct Caller {
    pub(super) key: hmac::Key,
    /// When its credentials end, in seconds since 1970; `None` where the allocation vouches for it.
    pub(super) expiry_s: Option<u64>,
    /// The allocation of its 5-tuple.
    pub(super) relay: Option<RelayId>,
    /// Whether it made that allocation.
    pub(super) is_owner: bool,
}

/// How long a client gets that asks for so many seconds, or does not say.
pub(super) fn lifetime(asked_s: Option<u32>) -> Duration {
    asked_s.map_or(LIFETIME, |seconds| Duration::from_secs(seconds.into()).clamp(LIFETIME, LIFETIME_MAX))
}

impl Server {
    /// Any request but Binding.
    pub(super) fn request(
        &mut self,
        at: Moment,
        origin: &Origin,
        request: &Message<'_>,
        reply: &mut Vec<u8>,
    ) -> Action {
        let caller = match self.authenticate(at, origin, request) {
            Ok(caller) => caller,
            Err(code) => {
                self.refuse_stranger(at, origin, request, code, reply);
                return Action::Reply;
            }
        };
        let done = if !request.unknown.is_empty() {
            Err(ErrorCode::UnknownAttribute)
        } else if request.is_malformed || request.peers.is_overfull() {
            Err(ErrorCode::BadRequest)
        } else {
            match request.method {
                Method::Allocate => self.allocate(at, origin, request, &caller, reply),
                Method::Refresh => self.refresh(at.now, request, &caller, reply),
                Method::CreatePermission => self.create_permission(at.now, request, &caller, reply),
                Method::ChannelBind => self.channel_bind(at.now, request, &caller, reply),
                // Never come this far.
                Method::Binding | Method::Send | Method::Data => Err(ErrorCode::BadRequest),
            }
        };
        match done {
            Ok(action) => action,
            Err(ErrorCode::Unauthenticated) => {
                self.refuse_stranger(at, origin, request, ErrorCode::Unauthenticated, reply);
                Action::Reply
            }
            Err(code) => {
                self.stats.refuse(code);
                let mut writer = Writer::answer(reply, request, Class::Failure);
                writer.error(code);
                write_unknown(&mut writer, code, request);
                writer.finish(Some(&caller.key), request.has_fingerprint);
                Action::Reply
            }
        }
    }

    /// Who asks, once it has proved it. The nonce comes first: whoever has none of ours costs no key.
    fn authenticate(&self, at: Moment, origin: &Origin, request: &Message<'_>) -> Result<Caller, ErrorCode> {
        if !request.has_integrity() {
            return Err(ErrorCode::Unauthenticated);
        }
        let (Some(username), Some(realm), Some(nonce)) = (request.username, request.realm, request.nonce)
        else {
            return Err(ErrorCode::BadRequest);
        };
        if !self.nonces.is_valid(nonce, at.unix_s, origin) {
            return Err(ErrorCode::StaleNonce);
        }
        if realm != self.authority.realm() {
            return Err(ErrorCode::Unauthenticated);
        }
        let relay = self.table.of(origin);
        let allocation = relay.and_then(|relay| self.table.get(relay));
        let caller = match allocation.filter(|allocation| *allocation.username == *username) {
            Some(own) => Caller { key: own.key.clone(), expiry_s: None, relay, is_owner: true },
            None => {
                let known = self.authority.key_of(username).ok_or(ErrorCode::Unauthenticated)?;
                Caller { key: known.key, expiry_s: Some(known.expiry_s), relay, is_owner: false }
            }
        };
        if request.verify(&caller.key) { Ok(caller) } else { Err(ErrorCode::Unauthenticated) }
    }

    /// Refuses a request of unproven origin, with what it needs to try again.
    fn refuse_stranger(
        &mut self,
        at: Moment,
        origin: &Origin,
        request: &Message<'_>,
        code: ErrorCode,
        reply: &mut Vec<u8>,
    ) {
        self.stats.refuse(code);
        let mut writer = Writer::answer(reply, request, Class::Failure);
        writer.error(code);
        if matches!(code, ErrorCode::Unauthenticated | ErrorCode::StaleNonce) {
            writer.attribute(kind::REALM, self.authority.realm());
            writer.attribute(kind::NONCE, &self.nonces.mint(at.unix_s, origin));
        }
        writer.finish(None, request.has_fingerprint);
    }

    /// Refuses a request that needs no credentials.
    pub(super) fn refuse_unauthenticated(
        &mut self,
        request: &Message<'_>,
        code: ErrorCode,
        reply: &mut Vec<u8>,
    ) {
        self.stats.refuse(code);
        let mut writer = Writer::answer(reply, request, Class::Failure);
        writer.error(code);
        write_unknown(&mut writer, code, request);
        writer.finish(None, request.has_fingerprint);
    }

    /// The caller's allocation, which it may change.
    fn own(&self, caller: &Caller) -> Result<(RelayId, &Allocation), ErrorCode> {
        let relay = caller.relay.ok_or(ErrorCode::AllocationMismatch)?;
        let allocation = self.table.get(relay).filter(|allocation| allocation.pending.is_none());
        let allocation = allocation.ok_or(ErrorCode::AllocationMismatch)?;
        if caller.is_owner { Ok((relay, allocation)) } else { Err(ErrorCode::WrongCredentials) }
    }

    fn refresh(
        &mut self,
        now: Instant,
        request: &Message<'_>,
        caller: &Caller,
        reply: &mut Vec<u8>,
    ) -> Result<Action, ErrorCode> {
        let (relay, allocation) = self.own(caller)?;
        let family = if allocation.relayed.is_ipv4() { 1 } else { 2 };
        if request.requested_family.is_some_and(|asked| asked != family) {
            return Err(ErrorCode::PeerAddressFamilyMismatch);
        }
        let granted = match request.lifetime_s {
            Some(0) => {
                self.table.remove(relay);
                Duration::ZERO
            }
            asked => {
                let granted = lifetime(asked);
                self.table.set_expiry(relay, now + granted);
                granted
            }
        };
        let mut writer = Writer::answer(reply, request, Class::Success);
        writer.attribute(kind::LIFETIME, &(granted.as_secs() as u32).to_be_bytes());
        writer.finish(Some(&caller.key), request.has_fingerprint);
        Ok(Action::Reply)
    }

    fn create_permission(
        &mut self,
        now: Instant,
        request: &Message<'_>,
        caller: &Caller,
        reply: &mut Vec<u8>,
    ) -> Result<Action, ErrorCode> {
        let (relay, allocation) = self.own(caller)?;
        if request.peers.is_empty() {
            return Err(ErrorCode::BadRequest);
        }
        // All of them or none (RFC 8656 §10.2).
        for peer in request.peers.iter() {
            self.admit(allocation, peer)?;
        }
        if !allocation.has_room_for(now, request.peers.iter().map(|peer| peer.ip())) {
            return Err(ErrorCode::InsufficientCapacity);
        }
        for peer in request.peers.iter() {
            self.permit(now, relay, peer)?;
        }
        Writer::answer(reply, request, Class::Success).finish(Some(&caller.key), request.has_fingerprint);
        Ok(Action::Reply)
    }

    fn channel_bind(
        &mut self,
        now: Instant,
        request: &Message<'_>,
        caller: &Caller,
        reply: &mut Vec<u8>,
    ) -> Result<Action, ErrorCode> {
        let (relay, allocation) = self.own(caller)?;
        let (Some(number), Some(peer)) = (request.channel, request.peers.first()) else {
            return Err(ErrorCode::BadRequest);
        };
        if !CHANNELS.contains(&number) {
            return Err(ErrorCode::BadRequest);
        }
        if self.admit(allocation, peer)? == Verdict::MediaOnly && !self.config.peers.is_media(peer) {
            return Err(ErrorCode::Forbidden);
        }
        if !allocation.has_room_for(now, std::iter::once(peer.ip())) {
            return Err(ErrorCode::InsufficientCapacity);
        }
        let allocation = self.table.get_mut(relay).ok_or(ErrorCode::AllocationMismatch)?;
        allocation.bind(now, number, peer).map_err(|error| match error {
            BindError::Taken => ErrorCode::BadRequest,
            BindError::Full => ErrorCode::InsufficientCapacity,
        })?;
        self.permit(now, relay, peer)?;
        Writer::answer(reply, request, Class::Success).finish(Some(&caller.key), request.has_fingerprint);
        Ok(Action::Reply)
    }

    /// Whether a peer may be permitted.
    fn admit(&self, allocation: &Allocation, peer: SocketAddr) -> Result<Verdict, ErrorCode> {
        if peer.is_ipv4() != allocation.relayed.is_ipv4() {
            return Err(ErrorCode::PeerAddressFamilyMismatch);
        }
        match self.config.peers.judge(peer.ip()) {
            Verdict::Refused => Err(ErrorCode::Forbidden),
            verdict => Ok(verdict),
        }
    }

    fn permit(&mut self, now: Instant, relay: RelayId, peer: SocketAddr) -> Result<(), ErrorCode> {
        let media_only = self.config.peers.judge(peer.ip()) == Verdict::MediaOnly;
        let allocation = self.table.get_mut(relay).ok_or(ErrorCode::AllocationMismatch)?;
        allocation.permit(now, peer.ip(), media_only).map_err(|_| ErrorCode::InsufficientCapacity)
    }
}

fn write_unknown(writer: &mut Writer<'_>, code: ErrorCode, request: &Message<'_>) {
    if code == ErrorCode::UnknownAttribute {
        let numbers: Vec<u8> = request.unknown.iter().flat_map(u16::to_be_bytes).collect();
        writer.attribute(kind::UNKNOWN_ATTRIBUTES, &numbers);
    }
}
