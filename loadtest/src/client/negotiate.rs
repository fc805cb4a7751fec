//! Joining, offering, and following answers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use auralink_livekit::client_info::Sdk;
use auralink_livekit::signal_request::Message as Request;
use auralink_livekit::signal_response::Message as Response;
use auralink_livekit::{
    AddTrackRequest, ClientInfo, ConnectionSettings, JoinRequest, SessionDescription, SimulcastCodec,
    TrackSource, TrackType, VideoLayer,
};
use auralink_ring::client::prepare_client;
use auralink_rtc::dtls::{DtlsRole, PeerKeys};
use auralink_rtc::egress::Egress;
use auralink_rtc::ice::{CONSENT_TIMEOUT, IceCredentials, IceMode};
use auralink_rtc::peer::{Peer, PeerConfig};
use auralink_rtc::twcc::TwccRecorder;
use tokio::net::UdpSocket;

use super::{Client, JoinOptions, Joined, RECEIVE_BUFFER_BYTES, Shared, TransportCounters};
use crate::publish::{Outgoing, Publisher, RIDS};
use crate::receive::Line;
use crate::recording::SIZES;
use crate::sdp::{Answer, Offer, Section, parse_candidate};
use crate::signal::Signal;

/// Name of the tracks that carry the recording, so that others know what to expect.
pub(super) const RECORDING_NAME: &str = "auralink recording";
pub(crate) const PROTOCOL: i32 = 17;
/// Sections to receive on that the first offer brings.
pub(crate) const RECEIVE_SECTIONS: usize = 3;
const AUDIO_CID: &str = "generator-audio";
const VIDEO_CID: &str = "generator-video";
const BITRATES_BPS: [u32; 3] = [90_000, 220_000, 700_000];

impl Client {
    /// Joins and sends the first offer along; returns once the answer is there.
    ///
    /// # Errors
    /// When the server refuses, or its answer cannot be used.
    pub(crate) async fn join(options: &JoinOptions, shared: &Shared) -> Result<Self> {
        let opened = Instant::now();
        let offer = first_offer(options, shared.certificate.fingerprint());
        let outgoing = outgoing(&offer, options);
        let request = join_request(options, &offer);
        let (signal, join) = Signal::join(&options.url, &options.token, &request).await?;
        let identity = join.participant.map(|participant| participant.identity).unwrap_or_default();
        let mut pending = Vec::new();
        let Joined { signal, answer, first } = wait_for_answer(signal, &mut pending).await?;
        let server = *answer.candidates.first().context("the server named no candidate over UDP and IPv4")?;
        let socket = bind_towards(server).await?;
        let local = socket.local_addr().context("socket without address")?;
        let config = PeerConfig {
            local_ice: offer.ice.clone(),
            remote_ice: Some(answer.ice.clone()),
            remote_fingerprint: answer.fingerprint,
            remote_keys: PeerKeys::Ecdsa,
            role: DtlsRole::Client,
            ice: IceMode::Controlling,
            local_address: Some(local),
            remote_candidates: answer.candidates.clone(),
            data: true,
            consent_timeout: CONSENT_TIMEOUT,
        };
        let peer = Peer::new(opened, config, &shared.certificate, rand::random())?;
        let mut client = Self {
            identity,
            signal,
            peer,
            socket,
            server,
            server_ice: answer.ice.clone(),
            offer,
            is_offer_pending: false,
            is_offer_wanted: false,
            opened,
            connected_ms: None,
            local,
            egress: Egress::new(64),
            publisher: outgoing.map(|outgoing| Publisher::new(Arc::clone(&shared.recording), &outgoing)),
            recording: Arc::clone(&shared.recording),
            tracks: HashMap::new(),
            participants: HashMap::new(),
            lines: BTreeMap::new(),
            repairs: BTreeMap::new(),
            on_line: BTreeMap::new(),
            early: Vec::new(),
            twcc: TwccRecorder::new(),
            next_feedback: opened,
            next_report: opened,
            next_ping: opened + std::time::Duration::from_secs(5),
            channels: HashMap::new(),
            messages: Vec::new(),
            counters: TransportCounters::default(),
            sealed: Vec::new(),
            sent: VecDeque::with_capacity(64),
            closed: None,
        };
        client.note_participants(join.other_participants);
        client.apply(&answer, &first);
        for message in pending {
            client.handle_signal(Some(message)).await?;
        }
        Ok(client)
    }

    pub(super) async fn handle_answer(&mut self, description: SessionDescription) -> Result<()> {
        if description.id != 0 && description.id != self.offer.id {
            return Ok(());
        }
        self.is_offer_pending = false;
        let answer = Answer::parse(&description.sdp)?;
        self.apply(&answer, &description);
        self.offer_if_wanted().await
    }

    pub(super) fn add_sections(&mut self, audios: u32, videos: u32) {
        let audios = std::iter::repeat_n(Section::ReceiveAudio, audios as usize);
        let videos = std::iter::repeat_n(Section::ReceiveVideo, videos as usize);
        self.offer.sections.extend(audios.chain(videos));
    }

    /// Offers again, one offer at a time.
    pub(super) async fn offer_if_wanted(&mut self) -> Result<()> {
        if self.is_offer_pending || !std::mem::take(&mut self.is_offer_wanted) {
            return Ok(());
        }
        self.is_offer_pending = true;
        self.offer.id += 1;
        let description = describe(&self.offer);
        self.signal.send(Request::Offer(description)).await
    }

    /// Follows what the answer says of the sections we receive on.
    fn apply(&mut self, answer: &Answer, description: &SessionDescription) {
        for incoming in &answer.incoming {
            let line = self
                .lines
                .entry(incoming.ssrc)
                .or_insert_with(|| Line::new(incoming.is_video, self.opened, Arc::clone(&self.recording)));
            self.repairs.extend(incoming.repair_ssrc.map(|repair| (repair, incoming.ssrc)));
            let Some(sid) = description.mid_to_track_id.get(&incoming.mid) else { continue };
            let before = self.on_line.insert(incoming.ssrc, sid.clone());
            if before.is_some_and(|before| before != *sid) {
                line.restart();
            }
        }
        self.name_lines();
        self.take_early();
    }

    /// Tells lines whether what they carry is the recording.
    pub(super) fn name_lines(&mut self) {
        for (ssrc, sid) in &self.on_line {
            if let (Some(line), Some(track)) = (self.lines.get_mut(ssrc), self.tracks.get(sid)) {
                line.is_recording = track.is_recording;
            }
        }
    }
}

/// The answer may come behind other messages, which are kept.
pub(crate) async fn wait_for_answer(mut signal: Signal, pending: &mut Vec<Response>) -> Result<Joined> {
    let mut candidates: Vec<SocketAddr> = Vec::new();
    loop {
        match signal.next().await? {
            Some(Response::Answer(first)) => {
                let mut answer = Answer::parse(&first.sdp)?;
                answer.candidates.extend(candidates);
                if answer.candidates.is_empty() {
                    answer.candidates.push(next_candidate(&mut signal, pending).await?);
                }
                return Ok(Joined { signal, answer, first });
            }
            Some(Response::Trickle(trickle)) => candidates.extend(read_trickle(&trickle.candidate_init)),
            Some(Response::Leave(leave)) => bail!("the server ended the join: {:?}", leave.reason()),
            Some(other) => pending.push(other),
            None => bail!("the server closed the connection before it answered"),
        }
    }
}

/// Servers that trickle name their candidates after the answer.
async fn next_candidate(signal: &mut Signal, pending: &mut Vec<Response>) -> Result<SocketAddr> {
    loop {
        match signal.next().await? {
            Some(Response::Trickle(trickle)) => {
                if let Some(candidate) = read_trickle(&trickle.candidate_init) {
                    return Ok(candidate);
                }
            }
            Some(other) => pending.push(other),
            None => bail!("the server closed the connection before it named a candidate"),
        }
    }
}

fn read_trickle(init: &str) -> Option<SocketAddr> {
    let init: serde_json::Value = serde_json::from_str(init).ok()?;
    parse_candidate(init.get("candidate")?.as_str()?.strip_prefix("candidate:")?)
}

/// A socket on the address from which the server is reached.
async fn bind_towards(server: SocketAddr) -> Result<UdpSocket> {
    let probe = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.context("cannot bind")?;
    probe.connect(server).await.with_context(|| format!("no route to {server}"))?;
    let local = probe.local_addr().context("socket without address")?;
    let socket = std::net::UdpSocket::bind((local.ip(), 0)).context("cannot bind")?;
    // What this process is too late to read must not pass for what the server lost.
    prepare_client(&socket, RECEIVE_BUFFER_BYTES).context("cannot prepare a socket")?;
    UdpSocket::from_std(socket).context("cannot watch a socket")
}

pub(crate) fn word(len: usize) -> String {
    use rand::RngExt as _;
    rand::rng().sample_iter(rand::distr::Alphanumeric).take(len).map(char::from).collect()
}

fn first_offer(options: &JoinOptions, fingerprint: [u8; 32]) -> Offer {
    let mut sections = vec![Section::Data];
    if options.layers > 0 {
        let rids = if options.layers > 1 { RIDS.to_vec() } else { Vec::new() };
        let (ssrc, repair_ssrc) = (rand::random(), rand::random());
        sections.push(Section::SendAudio { cid: AUDIO_CID.into(), ssrc: rand::random() });
        sections.push(Section::SendVideo { cid: VIDEO_CID.into(), rids, ssrc, repair_ssrc });
    }
    if options.subscribes {
        sections.extend(std::iter::repeat_n(Section::ReceiveAudio, RECEIVE_SECTIONS));
        sections.extend(std::iter::repeat_n(Section::ReceiveVideo, RECEIVE_SECTIONS));
    }
    Offer { ice: IceCredentials { ufrag: word(8), pwd: word(24) }, fingerprint, sections, id: 1 }
}

/// The streams that belong to the offer's sending sections.
fn outgoing(offer: &Offer, options: &JoinOptions) -> Option<Outgoing> {
    let mut found = None;
    for (mid, section) in offer.sections.iter().enumerate() {
        match section {
            Section::SendAudio { ssrc, .. } => {
                found = Some(Outgoing {
                    audio_mid: mid.to_string(),
                    audio_ssrc: *ssrc,
                    video_mid: String::new(),
                    layers: Vec::new(),
                });
            }
            Section::SendVideo { ssrc, repair_ssrc, .. } => {
                let outgoing = found.as_mut()?;
                outgoing.video_mid = mid.to_string();
                outgoing.layers = if options.layers > 1 {
                    (0..RIDS.len()).map(|layer| (rand::random(), rand::random(), layer)).collect()
                } else {
                    // Alone, the middle layer goes out.
                    vec![(*ssrc, *repair_ssrc, 1)]
                };
            }
            _ => {}
        }
    }
    found
}

pub(crate) fn describe(offer: &Offer) -> SessionDescription {
    SessionDescription { r#type: "offer".into(), sdp: offer.write(), id: offer.id, ..Default::default() }
}

fn join_request(options: &JoinOptions, offer: &Offer) -> JoinRequest {
    JoinRequest {
        client_info: Some(ClientInfo {
            sdk: Sdk::Rust.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            protocol: PROTOCOL,
            ..Default::default()
        }),
        connection_settings: Some(ConnectionSettings {
            auto_subscribe: options.subscribes,
            ..Default::default()
        }),
        add_track_requests: track_requests(options.layers),
        publisher_offer: Some(describe(offer)),
        ..Default::default()
    }
}

fn track_requests(layers: usize) -> Vec<AddTrackRequest> {
    if layers == 0 {
        return Vec::new();
    }
    let sizes = if layers > 1 { &SIZES[..] } else { &SIZES[1..2] };
    let described: Vec<VideoLayer> = sizes
        .iter()
        .enumerate()
        .map(|(index, (width, height))| VideoLayer {
            quality: index as i32,
            width: *width,
            height: *height,
            bitrate: BITRATES_BPS.get(index).copied().unwrap_or_default(),
            spatial_layer: index as i32,
            rid: RIDS.get(index).filter(|_| layers > 1).map(|rid| (*rid).to_owned()).unwrap_or_default(),
            ..Default::default()
        })
        .collect();
    let (width, height) = sizes.last().copied().unwrap_or_default();
    let audio = AddTrackRequest {
        cid: AUDIO_CID.into(),
        name: format!("{RECORDING_NAME}: tone"),
        r#type: TrackType::Audio.into(),
        source: TrackSource::Microphone.into(),
        disable_red: true,
        ..Default::default()
    };
    let codec = SimulcastCodec {
        codec: "vp8".into(),
        cid: VIDEO_CID.into(),
        layers: described.clone(),
        ..Default::default()
    };
    let video = AddTrackRequest {
        cid: VIDEO_CID.into(),
        name: format!("{RECORDING_NAME}: picture"),
        r#type: TrackType::Video.into(),
        source: TrackSource::Camera.into(),
        width,
        height,
        layers: described,
        simulcast_codecs: vec![codec],
        ..Default::default()
    };
    vec![audio, video]
}
