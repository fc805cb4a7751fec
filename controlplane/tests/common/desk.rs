//! A control plane on a free port, a shard played by a task, and clients that speak the wire.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use auralink_controlplane::auth::{Claims, Keys, VideoGrant};
use auralink_controlplane::config::Config;
use auralink_controlplane::media::Media;
use auralink_controlplane::rooms::actor::unix_ms;
use auralink_controlplane::server::Control;
use auralink_livekit::prost::Message as _;
use auralink_livekit::{
    ClientInfo, ConnectionSettings, JoinRequest, JoinResponse, Ping, SessionDescription, SignalRequest,
    SignalResponse, WrappedJoinRequest, signal_request, signal_response,
};
use auralink_node::{Spill, mailbox};
use auralink_proto::{Candidate, Command, DataChannel, Event, Fingerprint, TransportSpec};
use base64::Engine as _;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// Nothing here takes longer unless something is wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

type Told = signal_response::Message;

#[derive(Default)]
struct Shard {
    commands: Vec<Command>,
    specs: HashMap<u64, TransportSpec>,
}

/// The server under test.
pub(crate) struct Desk {
    pub(crate) address: SocketAddr,
    pub(crate) keys: Keys,
    shard: Arc<Mutex<Shard>>,
    events: tokio::sync::mpsc::UnboundedSender<Event>,
    pub(crate) media: Media,
    pub(crate) telemetry: Arc<auralink_controlplane::telemetry::Telemetry>,
}

impl Desk {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::dev();
        change(&mut config);
        let candidates = vec![vec![Candidate::udp("127.0.0.1:7882".parse().unwrap())]];
        let wakers: Vec<mailbox::Waker> = vec![Arc::new(|| {})];
        let (handle, mut ends, events) =
            mailbox::mailboxes(candidates, wakers, Fingerprint([7; 32]), Spill::Home);
        let mut end = ends.pop().unwrap();
        let shard: Arc<Mutex<Shard>> = Arc::default();
        let (inject, mut injected) = tokio::sync::mpsc::unbounded_channel::<Event>();
        let played = Arc::clone(&shard);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    command = end.recv() => {
                        let Some(command) = command else { return };
                        if let Command::ApplyTransport(spec) = &command {
                            let (transport, version) = (spec.id, spec.version);
                            played.lock().unwrap().specs.insert(transport.as_u64(), (**spec).clone());
                            end.emit(Event::TransportApplied { transport, version });
                        }
                        if let Command::RemoveTransport(transport) = &command {
                            played.lock().unwrap().specs.remove(&transport.as_u64());
                        }
                        played.lock().unwrap().commands.push(command);
                    }
                    Some(event) = injected.recv() => end.emit(event),
                }
            }
        });
        let keys = Keys::new(config.keys.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let media = Media::new(handle);
        let control = Control::new(config, media.clone(), None).unwrap();
        let telemetry = Arc::clone(&control.app().telemetry);
        tokio::spawn(control.run(vec![listener], events, std::future::pending()));
        Self { address, keys, shard, events: inject, media, telemetry }
    }

    pub(crate) fn grant(room: &str) -> VideoGrant {
        VideoGrant { room_join: true, room: room.into(), ..VideoGrant::default() }
    }

    pub(crate) fn token(&self, identity: &str, video: VideoGrant) -> String {
        let exp = Some(unix_ms() as f64 / 1_000.0 + 60.0);
        let claims = Claims { sub: identity.into(), exp, video, ..Claims::default() };
        self.keys.sign("devkey", &claims).unwrap()
    }

    pub(crate) fn url(&self, token: &str, request: &JoinRequest) -> String {
        let wrapped = WrappedJoinRequest { compression: 0, join_request: request.encode_to_vec() };
        let text = base64::prelude::BASE64_URL_SAFE.encode(wrapped.encode_to_vec());
        format!("ws://{}/rtc/v1?access_token={token}&join_request={text}", self.address)
    }

    pub(crate) fn join_request(offer: Option<SessionDescription>) -> JoinRequest {
        JoinRequest {
            client_info: Some(ClientInfo { protocol: 17, ..ClientInfo::default() }),
            connection_settings: Some(ConnectionSettings {
                auto_subscribe: true,
                ..ConnectionSettings::default()
            }),
            publisher_offer: offer,
            ..JoinRequest::default()
        }
    }

    pub(crate) async fn join(&self, room: &str, identity: &str, offer: Option<SessionDescription>) -> Client {
        self.join_with(identity, Self::grant(room), Self::join_request(offer)).await
    }

    pub(crate) async fn join_with(&self, identity: &str, grant: VideoGrant, request: JoinRequest) -> Client {
        let mut client = self.open(&self.url(&self.token(identity, grant), &request)).await.unwrap();
        let Some(Told::Join(join)) = client.next().await else { panic!("no join") };
        client.join = Some(join);
        client
    }

    pub(crate) async fn resume(&self, room: &str, identity: &str) -> Client {
        let request =
            JoinRequest { reconnect: true, participant_sid: "PA_unknown".into(), ..JoinRequest::default() };
        self.open(&self.url(&self.token(identity, Self::grant(room)), &request)).await.unwrap()
    }

    /// Opens a WebSocket, or says with which status and text that was refused.
    pub(crate) async fn open(&self, url: &str) -> Result<Client, (u16, String)> {
        match tokio_tungstenite::connect_async(url).await {
            Ok((socket, _)) => Ok(Client { socket, join: None }),
            Err(Error::Http(response)) => {
                let body = response.body().clone().unwrap_or_default();
                Err((response.status().as_u16(), String::from_utf8_lossy(&body).into_owned()))
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) fn emit(&self, event: Event) {
        self.events.send(event).unwrap();
    }

    /// Waits until what was sent has been acted upon.
    pub(crate) async fn calm(&self) {
        let count = || self.shard.lock().unwrap().commands.len();
        let mut before = count();
        loop {
            tokio::time::sleep(Duration::from_millis(60)).await;
            if count() == before {
                return;
            }
            before = count();
        }
    }

    pub(crate) async fn specs(&self) -> Vec<TransportSpec> {
        self.calm().await;
        self.shard.lock().unwrap().specs.values().cloned().collect()
    }

    pub(crate) async fn commands(&self, wanted: impl Fn(&Command) -> bool) -> Vec<Command> {
        self.calm().await;
        self.shard.lock().unwrap().commands.iter().filter(|c| wanted(c)).cloned().collect()
    }

    pub(crate) async fn connect_all(&self) {
        for spec in self.specs().await {
            self.emit(Event::TransportConnected { transport: spec.id });
            self.emit(Event::DataOpen { transport: spec.id, channel: DataChannel::Reliable });
        }
        self.calm().await;
    }

    pub(crate) async fn all_tracks_live(&self) {
        for section in self.specs().await.iter().flat_map(|spec| &spec.receive) {
            let codec = section.payloads.first().unwrap().codec;
            self.emit(Event::TrackLive { track: section.track, codec });
        }
        self.calm().await;
    }
}

/// A participant's end of signalling.
pub(crate) struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub(crate) join: Option<JoinResponse>,
}

impl Client {
    pub(crate) async fn ask(&mut self, message: signal_request::Message) {
        let request = SignalRequest { message: Some(message) };
        self.send_bytes(request.encode_to_vec()).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: Vec<u8>) {
        // A server that has had enough may close at any moment.
        let _ = self.socket.send(Message::Binary(bytes.into())).await;
    }

    pub(crate) async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::Text(text.into())).await.unwrap();
    }

    async fn frame(&mut self) -> Option<Message> {
        match tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("the server is silent") {
            Some(Ok(frame)) => Some(frame),
            Some(Err(_)) | None => None,
        }
    }

    /// The next message; `None` when the connection is closed.
    pub(crate) async fn next(&mut self) -> Option<Told> {
        loop {
            match self.frame().await? {
                Message::Binary(bytes) => return SignalResponse::decode(bytes).unwrap().message,
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    pub(crate) async fn text(&mut self) -> String {
        loop {
            match self.frame().await.expect("closed") {
                Message::Text(text) => return text.to_string(),
                Message::Close(_) => panic!("closed"),
                _ => {}
            }
        }
    }

    /// Reads on until a message is the one meant.
    pub(crate) async fn until(&mut self, meant: impl Fn(&Told) -> bool) -> Told {
        loop {
            let told = self.next().await.expect("closed before the message meant came");
            if meant(&told) {
                return told;
            }
        }
    }

    pub(crate) async fn answer(&mut self) -> SessionDescription {
        match self.until(|told| matches!(told, Told::Answer(_))).await {
            Told::Answer(answer) => answer,
            _ => unreachable!(),
        }
    }

    /// WebSocket pings that come within this time; with `asking`, a message goes out every second meanwhile.
    pub(crate) async fn pings(&mut self, within: Duration, asking: bool) -> usize {
        let (mut pings, mut second) = (0, tokio::time::interval(Duration::from_secs(1)));
        let end = tokio::time::Instant::now() + within;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(end) => return pings,
                _ = second.tick(), if asking => {
                    self.ask(signal_request::Message::PingReq(Ping::default())).await;
                }
                frame = self.socket.next() => match frame {
                    Some(Ok(frame)) => pings += usize::from(frame.is_ping()),
                    Some(Err(_)) | None => panic!("closed"),
                },
            }
        }
    }

    /// Ends the connection as a process that is killed does, with unread messages waiting.
    pub(crate) fn reset(self) {
        if let MaybeTlsStream::Plain(stream) = self.socket.get_ref() {
            stream.set_zero_linger().unwrap();
        }
    }

    /// Answers the server's close and counts what still comes behind it.
    pub(crate) async fn bytes_after_close(mut self) -> usize {
        while let Some(frame) = self.frame().await {
            if frame.is_close() {
                break;
            }
        }
        let _ = self.socket.flush().await;
        let MaybeTlsStream::Plain(stream) = self.socket.get_mut() else { return 0 };
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        rest.len()
    }

    /// Reads to the end of the connection.
    pub(crate) async fn closed(&mut self) {
        while self.next().await.is_some() {}
    }
}

const HEAD: &str = "c=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\na=ice-pwd:0123456789abcdefghijkl\r\n\
    a=setup:actpass\r\na=fingerprint:sha-256 ";
const AUDIO: &str = "a=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n\
    a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\n";

fn offer(id: u32, audio: &[String]) -> SessionDescription {
    let mids: Vec<String> = (0..=audio.len()).map(|mid| mid.to_string()).collect();
    let head = format!("{HEAD}{}\r\n", ["0A"; 32].join(":"));
    let mut sdp = format!(
        "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\n\
         m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:0\r\n{head}a=sctp-port:5000\r\n",
        mids.join(" ")
    );
    for (index, lines) in audio.iter().enumerate() {
        let _ = write!(sdp, "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:{}\r\n{head}{AUDIO}{lines}", index + 1);
    }
    SessionDescription { r#type: "offer".into(), sdp, id, ..SessionDescription::default() }
}

/// Data channels and one section to receive audio.
pub(crate) fn offer_receiving(id: u32) -> SessionDescription {
    offer(id, &["a=recvonly\r\n".into()])
}

/// The same and a section for each of the tracks named.
pub(crate) fn offer_sending(id: u32, cids: &[&str]) -> SessionDescription {
    let mut lines = vec!["a=recvonly\r\n".to_owned()];
    lines.extend(cids.iter().map(|cid| format!("a=sendonly\r\na=msid:s {cid}\r\n")));
    offer(id, &lines)
}

/// An HTTP reply, whole.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Desk {
    /// One HTTP request on a connection of its own.
    pub(crate) async fn http(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        use tokio::io::AsyncWriteExt as _;
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            let _ = write!(request, "{name}: {value}\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        // A server that refuses early may have closed already.
        let _ = stream.write_all(body).await;
        let mut bytes = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.unwrap();
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("no reply");
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head, body: bytes[end + 4..].to_vec() }
    }

    /// One call of RoomService in JSON.
    pub(crate) async fn api(&self, grant: VideoGrant, method: &str, body: &str) -> Reply {
        self.call(grant, &format!("RoomService/{method}"), body).await
    }

    /// One call of a server API in JSON.
    pub(crate) async fn call(&self, grant: VideoGrant, method: &str, body: &str) -> Reply {
        let bearer = format!("Bearer {}", self.token("admin", grant));
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        self.http("POST", &format!("/twirp/livekit.{method}"), &headers, body.as_bytes()).await
    }
}
