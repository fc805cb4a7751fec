//! LiveKit's signalling as a client speaks it: `join_request` on `/rtc/v1`, then protobuf frames both ways.

use anyhow::{Context as _, Result, bail};
use auralink_livekit::prost::Message as _;
use auralink_livekit::signal_request::Message as Request;
use auralink_livekit::signal_response::Message as Response;
use auralink_livekit::wrapped_join_request::Compression;
use auralink_livekit::{JoinRequest, JoinResponse, SignalRequest, SignalResponse, WrappedJoinRequest};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use flate2::write::GzEncoder;
use futures_util::{SinkExt as _, StreamExt as _};
use std::io::Write as _;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// How long the server may take to answer a close frame.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// An open signalling connection.
pub(crate) struct Signal {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Signal {
    /// Connects and waits for the join response.
    ///
    /// # Errors
    /// When the server refuses the connection, or says anything else first.
    pub(crate) async fn join(url: &str, token: &str, join: &JoinRequest) -> Result<(Self, JoinResponse)> {
        let base = url.trim_end_matches('/');
        let base = base.strip_prefix("http").map_or_else(|| base.to_owned(), |rest| format!("ws{rest}"));
        let mut request =
            format!("{base}/rtc/v1?join_request={}", wrap(join)?).into_client_request().context("bad URL")?;
        let bearer = format!("Bearer {token}").parse().context("token is not a header value")?;
        request.headers_mut().insert("authorization", bearer);
        let (socket, _) = tokio_tungstenite::connect_async(request).await.map_err(refusal)?;
        let mut signal = Self { socket };
        match signal.next().await? {
            Some(Response::Join(join)) => Ok((signal, join)),
            Some(Response::Leave(leave)) => bail!("the server refused the join: {:?}", leave.reason()),
            other => bail!("the server should answer a join, not with {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, message: Request) -> Result<()> {
        let bytes = SignalRequest { message: Some(message) }.encode_to_vec();
        self.socket.send(Message::binary(bytes)).await.context("signalling connection lost")
    }

    /// The closing handshake, so that what was sent before is not lost to a reset.
    pub(crate) async fn close(mut self) -> Result<()> {
        self.socket.close(None).await.context("signalling connection lost")?;
        let answered = async { while let Some(Ok(_)) = self.socket.next().await {} };
        tokio::time::timeout(CLOSE_PATIENCE, answered).await.context("the server does not close")
    }

    /// The next message; `None` when the server closed the connection.
    pub(crate) async fn next(&mut self) -> Result<Option<Response>> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Binary(bytes))) => {
                    let response = SignalResponse::decode(bytes).context("unreadable signal response")?;
                    if let Some(message) = response.message {
                        return Ok(Some(message));
                    }
                }
                Some(Ok(Message::Close(_))) | None => return Ok(None),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("signalling connection lost"),
            }
        }
    }
}

fn wrap(join: &JoinRequest) -> Result<String> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&join.encode_to_vec()).context("gzip")?;
    let join_request = encoder.finish().context("gzip")?;
    let wrapped = WrappedJoinRequest { compression: Compression::Gzip.into(), join_request };
    Ok(BASE64_URL_SAFE.encode(wrapped.encode_to_vec()))
}

/// The status and text of a refused upgrade, which say why.
fn refusal(error: tokio_tungstenite::tungstenite::Error) -> anyhow::Error {
    use tokio_tungstenite::tungstenite::Error;
    match error {
        Error::Http(response) => {
            let text = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            anyhow::anyhow!("the server refused the connection: {} {text}", response.status())
        }
        other => anyhow::Error::new(other).context("cannot connect"),
    }
}
