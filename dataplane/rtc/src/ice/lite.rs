//! ICE-lite (RFC 8445 §2.5): answer authenticated checks, follow the peer's nomination, notice when its checks stop.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{IceCredentials, IceError, IceEvent, TUPLES_MAX};
use crate::egress::Egress;
use crate::stun::{self, Binding, Class, Role, TransactionId};
use crate::units::{Protocol, Route};

/// A tuple not checked for this long may be forgotten for a new one. Browsers check idle pairs every 15 s at most.
const IDLE: Duration = Duration::from_secs(20);

/// A datagram tuple not checked for this long is forgotten: what a NAT or a network that is gone left behind. No client checks a pair
/// it still counts on so rarely.
const FORGOTTEN: Duration = Duration::from_secs(40);
/// The nominated tuple may be silent for this long before another mapping of its pair stands in. Clients check the pair they use
/// every 2.5 to 6 s, and all their pairs within less than a second of each other.
const REBOUND_AFTER: Duration = Duration::from_secs(1);

/// Checks remembered by transaction. At one check per pair in 2.5 s, minutes.
const SEEN_MAX: usize = 64;

#[derive(Debug)]
struct Tuple {
    route: Route,
    priority: u32,
    checked: Instant,
}

/// The lite agent of one peer.
#[derive(Debug)]
pub(crate) struct Lite {
    local: IceCredentials,
    remote: Option<IceCredentials>,
    /// Credentials from before a restart: the old path carries media until the new one is nominated.
    previous: Option<(IceCredentials, Option<IceCredentials>)>,
    tuples: Vec<Tuple>,
    nominated: Option<Route>,
    /// A tuple of lower priority that was named last while another is nominated.
    challenger: Option<Route>,
    consent_timeout: Duration,
    consent: Instant,
    /// Transactions of recent authentic checks and where they came from.
    seen: VecDeque<(TransactionId, SocketAddr, Protocol)>,
    events: VecDeque<IceEvent>,
}

impl Lite {
    pub(crate) fn new(
        now: Instant,
        local: IceCredentials,
        remote: Option<IceCredentials>,
        consent_timeout: Duration,
    ) -> Self {
        Self {
            local,
            remote,
            previous: None,
            tuples: Vec::new(),
            nominated: None,
            challenger: None,
            consent_timeout,
            consent: now,
            seen: VecDeque::with_capacity(SEEN_MAX),
            events: VecDeque::new(),
        }
    }

    pub(crate) fn handle(
        &mut self,
        now: Instant,
        route: &Route,
        datagram: &[u8],
        egress: &mut Egress,
    ) -> Result<(), IceError> {
        let message = Binding::parse(datagram).ok_or(IceError::Malformed)?;
        match message.class {
            Class::Request => {}
            // A keep-alive; it proves nothing and wants no answer.
            Class::Indication => return Ok(()),
            Class::Success | Class::Failure => return Err(IceError::Unexpected),
        }
        let is_current = self.authenticate(&message)?;
        self.refuse_replay(message.transaction, route)?;
        let mut out = [0; stun::RESPONSE_LEN_MAX];
        let pwd = match &self.previous {
            Some((previous, _)) if !is_current => &previous.pwd,
            _ => &self.local.pwd,
        };
        if message.role == Some(Role::Controlled) {
            // We never control, so it has to be the peer that yields, whatever the tie-breakers say.
            let len = stun::write_role_conflict(&mut out, message.transaction, pwd);
            egress.push(route, out.get(..len).unwrap_or_default());
            return Ok(());
        }
        let len = stun::write_success(&mut out, message.transaction, route.remote, pwd);
        self.touch(now, route, message.priority.unwrap_or_default())?;
        if message.use_candidate {
            self.nominate(route, is_current);
        } else if !is_current || self.previous.is_none() {
            self.follow_rebinding(now, route);
        }
        if self.nominated.is_none_or(|nominated| nominated == *route) {
            self.consent = now;
            self.forget_idle(now);
        }
        // Without room the answer is lost, and the peer asks again.
        egress.push(route, out.get(..len).unwrap_or_default());
        Ok(())
    }

    /// Whether the request is of the current generation; an error when it is of none.
    fn authenticate(&self, message: &Binding<'_>) -> Result<bool, IceError> {
        let (ours, theirs) = message.username.ok_or(IceError::Malformed)?;
        let is_of = |local: &IceCredentials, remote: &Option<IceCredentials>| {
            local.ufrag == ours && remote.as_ref().is_none_or(|remote| remote.ufrag == theirs)
        };
        let (pwd, is_current) = match &self.previous {
            _ if is_of(&self.local, &self.remote) => (&self.local.pwd, true),
            Some((local, remote)) if is_of(local, remote) => (&local.pwd, false),
            _ => return Err(IceError::UnknownUfrag),
        };
        if message.verify(pwd) { Ok(is_current) } else { Err(IceError::Integrity) }
    }

    /// Integrity does not cover the sender's address: whoever overhears a check could send it from elsewhere and draw the
    /// media there. A transaction belongs to the address it was first seen from.
    fn refuse_replay(&mut self, transaction: TransactionId, route: &Route) -> Result<(), IceError> {
        let sender = (route.remote, route.protocol);
        match self.seen.iter().find(|(seen, ..)| *seen == transaction) {
            Some((_, from, over)) if (*from, *over) == sender => return Ok(()),
            Some(_) => return Err(IceError::Replayed),
            None => {}
        }
        if self.seen.len() >= SEEN_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back((transaction, sender.0, sender.1));
        Ok(())
    }

    /// Notes an authenticated check, in place of an idle tuple when there are too many.
    fn touch(&mut self, now: Instant, route: &Route, priority: u32) -> Result<(), IceError> {
        if let Some(tuple) = self.tuples.iter_mut().find(|tuple| tuple.route == *route) {
            tuple.checked = now;
            tuple.priority = priority;
            return Ok(());
        }
        if self.tuples.len() >= TUPLES_MAX {
            let idle = self.tuples.iter().position(|tuple| {
                Some(tuple.route) != self.nominated && now.saturating_duration_since(tuple.checked) >= IDLE
            });
            let evicted = self.tuples.swap_remove(idle.ok_or(IceError::TuplesExhausted)?);
            if !self.is_validated(&evicted.route) {
                self.events.push_back(IceEvent::Evicted(evicted.route));
            }
        }
        if !self.is_validated(route) {
            self.events.push_back(IceEvent::Validated(*route));
        }
        self.tuples.push(Tuple { route: *route, priority, checked: now });
        Ok(())
    }

    /// Follows USE-CANDIDATE. Regular nomination names one tuple, and the last one counts. Aggressive nomination names all of
    /// them in turn; the highest priority wins, so a lower one has to be named twice without the present one in between.
    fn nominate(&mut self, route: &Route, is_current: bool) {
        let is_first_of_generation = is_current && self.previous.take().is_some();
        let priority = |route: &Route| {
            self.tuples.iter().find(|tuple| tuple.route == *route).map(|tuple| tuple.priority)
        };
        let yields = match self.nominated {
            None => true,
            Some(nominated) if nominated == *route => {
                self.challenger = None;
                return;
            }
            Some(nominated) => {
                is_first_of_generation
                    || priority(route) >= priority(&nominated)
                    || self.challenger == Some(*route)
            }
        };
        if yields {
            self.nominated = Some(*route);
            self.challenger = None;
            self.events.push_back(IceEvent::Nominated(*route));
        } else {
            self.challenger = Some(*route);
        }
    }

    /// A NAT gave the nominated pair another mapping. The peer knows nothing of it and names nothing anew: it checks as ever, and
    /// we see another address. What tells is that the old one is silent, and that the same local candidate (by its local
    /// preference) checks the same address of ours.
    fn follow_rebinding(&mut self, now: Instant, route: &Route) {
        let tuple = |route: &Route| self.tuples.iter().find(|tuple| tuple.route == *route);
        let (Some(old), Some(new)) = (self.nominated.as_ref().and_then(tuple), tuple(route)) else { return };
        // Without the type preference: some clients' later checks say "host" where the first ones said "peer-reflexive".
        let is_same_pair = old.priority << 8 == new.priority << 8
            && old.route.local == new.route.local
            && (old.route.protocol, new.route.protocol) == (Protocol::Udp, Protocol::Udp);
        let silence = now.saturating_duration_since(old.checked);
        if old.route != new.route && is_same_pair && silence >= REBOUND_AFTER {
            self.nominated = Some(*route);
            self.challenger = None;
            self.events.push_back(IceEvent::Nominated(*route));
        }
    }

    /// Datagram tuples that nobody checks any more. Connections say themselves when they end.
    fn forget_idle(&mut self, now: Instant) {
        let Self { tuples, nominated, events, .. } = self;
        tuples.retain(|tuple| {
            let is_kept = Some(tuple.route) == *nominated
                || tuple.route.protocol == Protocol::Tcp
                || now.saturating_duration_since(tuple.checked) < FORGOTTEN;
            if !is_kept {
                events.push_back(IceEvent::Evicted(tuple.route));
            }
            is_kept
        });
    }

    pub(crate) fn poll_event(&mut self) -> Option<IceEvent> {
        self.events.pop_front()
    }

    pub(crate) fn consent_expiry(&self) -> Instant {
        self.consent + self.consent_timeout
    }

    pub(crate) fn route(&self) -> Option<Route> {
        self.nominated
    }

    pub(crate) fn is_validated(&self, route: &Route) -> bool {
        self.tuples.iter().any(|tuple| tuple.route.is_to(route))
    }

    /// A connection that ended carries nothing any more. If it was the nominated one, what was checked last stands in until
    /// the peer names another.
    pub(crate) fn forget(&mut self, route: &Route) {
        let held = self.tuples.len();
        self.tuples.retain(|tuple| !tuple.route.is_to(route));
        if self.tuples.len() == held {
            return;
        }
        self.events.push_back(IceEvent::Evicted(*route));
        self.challenger = self.challenger.filter(|challenger| !challenger.is_to(route));
        if self.nominated.is_some_and(|nominated| nominated.is_to(route)) {
            self.nominated = self.tuples.iter().max_by_key(|tuple| tuple.checked).map(|tuple| tuple.route);
            self.events.extend(self.nominated.map(IceEvent::Nominated));
        }
    }

    pub(crate) fn local(&self) -> &IceCredentials {
        &self.local
    }

    pub(crate) fn set_remote(&mut self, remote: IceCredentials) {
        self.remote = Some(remote);
    }

    /// New credentials; the old ones stay valid until the new generation nominates.
    pub(crate) fn restart(&mut self, now: Instant, local: IceCredentials, remote: Option<IceCredentials>) {
        let local = std::mem::replace(&mut self.local, local);
        let remote = std::mem::replace(&mut self.remote, remote);
        self.previous = Some((local, remote));
        // The peer gathers anew; its consent must not run out while it does.
        self.consent = now;
    }
}
