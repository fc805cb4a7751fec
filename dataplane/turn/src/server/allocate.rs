//! Allocate (RFC 8656 §7.2): checks, a port, a socket from the caller, the answer.

use std::net::SocketAddr;
use std::time::Instant;

use rand::RngExt as _;

use super::request::{Caller, lifetime};
use super::{Action, Server};
use crate::allocation::{Allocation, Extras, Pending};
use crate::code::ErrorCode;
use crate::message::{Class, Message, Method, kind};
use crate::write::Writer;
use crate::{Moment, Origin, RelayId};

/// IANA's number of UDP, the one transport of relayed addresses.
const UDP: u8 = 17;
/// Numbers of address families in REQUESTED-ADDRESS-FAMILY.
const IPV4: u8 = 1;
const IPV6: u8 = 2;
/// Ports tried before a client is told that there is none: other programs may have some of the range.
const TRIES_MAX: u32 = 16;

impl Server {
    pub(super) fn allocate(
        &mut self,
        at: Moment,
        origin: &Origin,
        request: &Message<'_>,
        caller: &Caller,
        reply: &mut Vec<u8>,
    ) -> Result<Action, ErrorCode> {
        let extras =
            Extras { fingerprint: request.has_fingerprint, additional_family: request.additional_family };
        if let Some(relay) = caller.relay {
            return self.allocate_again(at.now, relay, request, caller, extras, reply);
        }
        // Time-limited: who holds an allocation keeps it, nobody gets a new one.
        if caller.expiry_s.is_none_or(|expiry_s| expiry_s <= at.unix_s) {
            return Err(ErrorCode::Unauthenticated);
        }
        match request.requested_transport {
            Some(UDP) => {}
            Some(_) => return Err(ErrorCode::UnsupportedTransport),
            None => return Err(ErrorCode::BadRequest),
        }
        check_options(request)?;
        let ip = self.relay_ip(request.requested_family.unwrap_or(IPV4));
        let ip = ip.ok_or(ErrorCode::AddressFamilyNotSupported)?;
        let username = request.username.unwrap_or_default();
        if self.table.held_by(username) >= self.config.per_user_max {
            return Err(ErrorCode::AllocationQuotaReached);
        }
        if self.table.len() >= self.config.allocations_max {
            return Err(ErrorCode::InsufficientCapacity);
        }
        let even_port = request.even_port.is_some();
        let port = self.table.take_port(self.random.random(), even_port);
        let address = SocketAddr::new(ip, port.ok_or(ErrorCode::InsufficientCapacity)?);
        let lifetime = lifetime(request.lifetime_s);
        let pending = Pending { tries: 1, even_port, lifetime, extras };
        let expires = at.now + lifetime;
        let (key, transaction) = (caller.key.clone(), request.transaction);
        let allocation = Allocation::new(*origin, username, key, transaction, address, (expires, pending));
        Ok(Action::Open { relay: self.table.insert(allocation), address })
    }

    /// The 5-tuple has an allocation already: only the request that made it, sent again, is answered well.
    fn allocate_again(
        &self,
        now: Instant,
        relay: RelayId,
        request: &Message<'_>,
        caller: &Caller,
        extras: Extras,
        reply: &mut Vec<u8>,
    ) -> Result<Action, ErrorCode> {
        let held = self.table.get(relay).ok_or(ErrorCode::AllocationMismatch)?;
        if !caller.is_owner || held.transaction != request.transaction {
            return Err(ErrorCode::AllocationMismatch);
        }
        if held.pending.is_some() {
            return Ok(Action::Nothing);
        }
        self.confirm(now, held, extras, reply);
        Ok(Action::Reply)
    }

    /// The socket of an [`Action::Open`] is open.
    pub fn relay_opened(&mut self, now: Instant, relay: RelayId, reply: &mut Vec<u8>) -> Action {
        let Some(allocation) = self.table.get_mut(relay) else { return Action::Nothing };
        let Some(pending) = allocation.pending.take() else { return Action::Nothing };
        self.stats.allocated += 1;
        self.table.set_expiry(relay, now + pending.lifetime);
        if let Some(allocation) = self.table.get(relay) {
            self.confirm(now, allocation, pending.extras, reply);
        }
        Action::Reply
    }

    /// The socket of an [`Action::Open`] could not be opened: another port is tried, or the client is told.
    pub fn relay_failed(&mut self, relay: RelayId, reply: &mut Vec<u8>) -> Action {
        let Some(allocation) = self.table.get(relay) else { return Action::Nothing };
        let Some(pending) = &allocation.pending else { return Action::Nothing };
        let (tries, even_port, failed) = (pending.tries, pending.even_port, allocation.relayed);
        if tries < TRIES_MAX {
            // The port that failed stays taken until another is found.
            let port = self.table.take_port(self.random.random(), even_port);
            self.table.give_port(failed.port());
            if let (Some(port), Some(allocation)) = (port, self.table.get_mut(relay)) {
                allocation.relayed.set_port(port);
                allocation.pending.iter_mut().for_each(|pending| pending.tries += 1);
                return Action::Open { relay, address: allocation.relayed };
            }
        }
        self.give_up(relay, reply);
        Action::Reply
    }

    fn give_up(&mut self, relay: RelayId, reply: &mut Vec<u8>) {
        let Some(allocation) = self.table.get(relay) else { return };
        let fingerprint = allocation.pending.as_ref().is_some_and(|pending| pending.extras.fingerprint);
        self.stats.refuse(ErrorCode::InsufficientCapacity);
        let mut writer = Writer::new(reply, Class::Failure, Method::Allocate, allocation.transaction);
        writer.error(ErrorCode::InsufficientCapacity);
        writer.finish(Some(&allocation.key), fingerprint);
        self.table.remove(relay);
    }

    /// Tells a client its addresses.
    fn confirm(&self, now: Instant, allocation: &Allocation, extras: Extras, reply: &mut Vec<u8>) {
        let left_s = allocation.expires.saturating_duration_since(now).as_secs() as u32;
        let mut writer = Writer::new(reply, Class::Success, Method::Allocate, allocation.transaction);
        writer.xor_address(kind::XOR_RELAYED_ADDRESS, allocation.relayed);
        writer.attribute(kind::LIFETIME, &left_s.to_be_bytes());
        writer.xor_address(kind::XOR_MAPPED_ADDRESS, allocation.origin.remote());
        if let Some(family) = extras.additional_family {
            // One allocation has one relayed address (RFC 8656 §7.2 leaves that to the server).
            writer.address_error(family, ErrorCode::AddressFamilyNotSupported);
        }
        writer.finish(Some(&allocation.key), extras.fingerprint);
    }
}

/// EVEN-PORT, RESERVATION-TOKEN and address families: what excludes what, and what there is not.
fn check_options(request: &Message<'_>) -> Result<(), ErrorCode> {
    let names_family = request.requested_family.is_some() || request.additional_family.is_some();
    if request.has_reservation_token {
        // Nothing is ever reserved, so no token is ours.
        let excluded = names_family || request.even_port.is_some();
        return Err(if excluded { ErrorCode::BadRequest } else { ErrorCode::InsufficientCapacity });
    }
    if let Some(additional) = request.additional_family {
        let excluded = request.requested_family.is_some() || request.even_port == Some(true);
        if excluded || additional != IPV6 {
            return Err(ErrorCode::BadRequest);
        }
    }
    if request.even_port == Some(true) { Err(ErrorCode::InsufficientCapacity) } else { Ok(()) }
}
