//! The signalling half of one of the generator's clients: joins, offers, follows answers, keeps the WebSocket alive. What
//! crosses the peer connection is the threads' business from the first datagram on.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use auralink_livekit::client_info::Sdk;
use auralink_livekit::signal_request::Message as Request;
use auralink_livekit::signal_response::Message as Response;
use auralink_livekit::{
    ClientInfo, ConnectionSettings, DisconnectReason, JoinRequest, LeaveRequest, Ping, SessionDescription,
};
use auralink_ring::client::monotonic_ns;
use auralink_rtc::dtls::{Certificate, DtlsRole, PeerKeys};
use auralink_rtc::ice::{CONSENT_TIMEOUT, IceCredentials, IceMode};
use auralink_rtc::peer::{Peer, PeerConfig};
use tokio::sync::watch;

use super::link::{Keys, Link, Milestones, connect_towards};
use super::outgoing::StreamIdentity;
use super::receiver::Receiver;
use super::record::Recorder;
use super::sink::{Loss, Sink};
use super::tracks::{Publish, outgoing, sections, track_requests};
use crate::client::Joined;
use crate::client::negotiate::{PROTOCOL, describe, wait_for_answer, word};
use crate::sdp::{Answer, Offer, Section};
use crate::signal::Signal;

/// From the WebSocket's opening to whatever is waited for.
pub(crate) const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Who joins, and for what.
#[derive(Clone, Debug)]
pub(crate) struct SessionConfig {
    pub(crate) url: String,
    pub(crate) token: String,
    /// Unique in a run; streams published carry `id * 4` and up.
    pub(crate) id: u64,
    pub(crate) publish: Publish,
    pub(crate) subscribes: bool,
    /// Publishers whose media belongs into this room.
    pub(crate) publishers: Range<u32>,
    /// Share of packets lost on the way to us.
    pub(crate) loss_percent: f64,
    /// Whether they are asked for again.
    pub(crate) asks_again: bool,
    pub(crate) recorder: Option<Arc<Recorder>>,
}

/// A joined client.
pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) link: Arc<Link>,
    /// What it publishes.
    pub(crate) streams: Vec<StreamIdentity>,
    /// CLOCK_MONOTONIC when the WebSocket was about to be opened.
    pub(crate) opened_ns: u64,
    signal: Signal,
    offer: Offer,
    is_offer_pending: bool,
    is_offer_wanted: bool,
    receiver: Arc<Receiver>,
    repairs: Vec<(u32, u32)>,
    /// SSRCs that carry a track now.
    carrying: HashSet<u32>,
    next_ping: Instant,
}

impl Session {
    /// Opens the WebSocket, sends the offer along, and hands the connection to the receiving thread once it is answered.
    ///
    /// # Errors
    /// When the server refuses, or its answer cannot be used.
    pub(crate) async fn join(
        config: &SessionConfig,
        certificate: &Certificate,
        receiver: &Arc<Receiver>,
    ) -> Result<Self> {
        let opened_ns = monotonic_ns();
        let offer = Offer {
            ice: IceCredentials { ufrag: word(8), pwd: word(24) },
            fingerprint: certificate.fingerprint(),
            sections: sections(config.publish, config.subscribes),
            id: 1,
        };
        let streams = outgoing(&offer, config.id);
        let request = join_request(config, &offer);
        let (signal, _) = Signal::join(&config.url, &config.token, &request).await?;
        let mut pending = Vec::new();
        let Joined { signal, answer, first } = wait_for_answer(signal, &mut pending).await?;
        let link = Arc::new(connect(&answer, &offer, certificate)?);
        let loss = Loss::new(config.loss_percent, config.id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let publishers = if config.subscribes { config.publishers.clone() } else { 0..0 };
        let mut sink = Sink::new(Arc::clone(&link), publishers, loss);
        sink.asks_again = config.asks_again;
        sink.recorder.clone_from(&config.recorder);
        receiver.add(config.id, sink);
        let mut session = Self {
            id: config.id,
            link,
            streams,
            opened_ns,
            signal,
            offer,
            is_offer_pending: false,
            is_offer_wanted: false,
            receiver: Arc::clone(receiver),
            repairs: Vec::new(),
            carrying: HashSet::new(),
            next_ping: Instant::now() + PING_INTERVAL,
        };
        session.apply(&answer, &first);
        for message in pending {
            session.handle(Some(message)).await?;
        }
        Ok(session)
    }

    /// Serves signalling until `done` says so.
    ///
    /// # Errors
    /// When the server ends the session, or time runs out.
    pub(crate) async fn wait_for(
        &mut self,
        what: &str,
        done: impl Fn(&Milestones, usize) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + JOIN_TIMEOUT;
        let link = Arc::clone(&self.link);
        loop {
            let changed = link.milestones.changed.notified();
            if done(&link.milestones, self.carrying.len()) {
                return Ok(());
            }
            if link.milestones.is_closed() {
                bail!("the connection ended before {what}");
            }
            tokio::select! {
                message = self.signal.next() => self.handle(message?).await?,
                () = changed => {}
                () = tokio::time::sleep_until(self.next_ping.into()) => self.ping().await?,
                () = tokio::time::sleep_until(deadline.into()) => bail!("no {what} within {JOIN_TIMEOUT:?}"),
            }
        }
    }

    /// Serves signalling until told to stop, then leaves.
    ///
    /// # Errors
    /// When the server ends the session.
    pub(crate) async fn serve(mut self, mut stop: watch::Receiver<bool>) -> Result<()> {
        loop {
            tokio::select! {
                message = self.signal.next() => self.handle(message?).await?,
                () = tokio::time::sleep_until(self.next_ping.into()) => self.ping().await?,
                () = stopped(&mut stop) => return self.leave().await,
            }
        }
    }

    /// Serves signalling for a while.
    ///
    /// # Errors
    /// When the server ends the session.
    pub(crate) async fn serve_for(&mut self, time: Duration) -> Result<()> {
        let deadline = Instant::now() + time;
        loop {
            tokio::select! {
                message = self.signal.next() => self.handle(message?).await?,
                () = tokio::time::sleep_until(self.next_ping.into()) => self.ping().await?,
                () = tokio::time::sleep_until(deadline.into()) => return Ok(()),
            }
        }
    }

    /// Leaves as a client does: says so, closes.
    pub(crate) async fn leave(mut self) -> Result<()> {
        let reason = DisconnectReason::ClientInitiated.into();
        let sent = self.signal.send(Request::Leave(LeaveRequest { reason, ..Default::default() })).await;
        self.receiver.remove(self.id);
        sent?;
        self.signal.close().await
    }

    async fn ping(&mut self) -> Result<()> {
        self.next_ping = Instant::now() + PING_INTERVAL;
        let timestamp = (monotonic_ns() / 1_000_000) as i64;
        self.signal.send(Request::PingReq(Ping { timestamp, rtt: 0 })).await
    }

    async fn handle(&mut self, message: Option<Response>) -> Result<()> {
        match message {
            None => bail!("the server closed the signalling connection"),
            Some(Response::Leave(leave)) => bail!("the server ended the session: {:?}", leave.reason()),
            Some(Response::Answer(answer)) if answer.id == 0 || answer.id == self.offer.id => {
                self.is_offer_pending = false;
                self.apply(&Answer::parse(&answer.sdp)?, &answer);
                self.offer_if_wanted().await?;
            }
            Some(Response::MediaSectionsRequirement(needed)) => {
                let audios = std::iter::repeat_n(Section::ReceiveAudio, needed.num_audios as usize);
                let videos = std::iter::repeat_n(Section::ReceiveVideo, needed.num_videos as usize);
                self.offer.sections.extend(audios.chain(videos));
                self.is_offer_wanted = true;
                self.offer_if_wanted().await?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn offer_if_wanted(&mut self) -> Result<()> {
        if self.is_offer_pending || !std::mem::take(&mut self.is_offer_wanted) {
            return Ok(());
        }
        self.is_offer_pending = true;
        self.offer.id += 1;
        self.signal.send(Request::Offer(describe(&self.offer))).await
    }

    fn apply(&mut self, answer: &Answer, description: &SessionDescription) {
        let carries = |mid: &String| description.mid_to_track_id.contains_key(mid);
        self.carrying =
            answer.incoming.iter().filter(|line| carries(&line.mid)).map(|line| line.ssrc).collect();
        let repairs = answer.incoming.iter().filter_map(|line| Some((line.repair_ssrc?, line.ssrc)));
        let repairs: Vec<(u32, u32)> = repairs.collect();
        if repairs != self.repairs {
            self.repairs.clone_from(&repairs);
            self.receiver.name_repairs(self.id, repairs);
        }
        self.link.milestones.changed.notify_waiters();
    }
}

/// Returns once we are told to stop, or whoever could tell us is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn connect(answer: &Answer, offer: &Offer, certificate: &Certificate) -> Result<Link> {
    let server = *answer.candidates.first().context("the server named no candidate over UDP and IPv4")?;
    let socket = connect_towards(server)?;
    let config = PeerConfig {
        local_ice: offer.ice.clone(),
        remote_ice: Some(answer.ice.clone()),
        remote_fingerprint: answer.fingerprint,
        remote_keys: PeerKeys::Ecdsa,
        role: DtlsRole::Client,
        ice: IceMode::Controlling,
        local_address: Some(socket.local_addr().context("socket without address")?),
        remote_candidates: vec![server],
        data: true,
        consent_timeout: CONSENT_TIMEOUT,
    };
    let peer = Peer::new(Instant::now(), config, certificate, rand::random())?;
    Link::new(socket, Keys::Peer(Box::new(peer)))
}

fn join_request(config: &SessionConfig, offer: &Offer) -> JoinRequest {
    JoinRequest {
        client_info: Some(ClientInfo {
            sdk: Sdk::Rust.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            protocol: PROTOCOL,
            ..Default::default()
        }),
        connection_settings: Some(ConnectionSettings {
            auto_subscribe: config.subscribes,
            ..Default::default()
        }),
        add_track_requests: track_requests(config.publish),
        publisher_offer: Some(describe(offer)),
        ..Default::default()
    }
}
