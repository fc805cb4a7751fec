//! As much of an HTTP/1.0 client as the checks need: one request, one whole response.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::metrics;

/// The server's HTTP side.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    authority: String,
}

impl Http {
    /// For a server named by any of its URLs.
    pub(crate) fn new(url: &str) -> Result<Self> {
        let (_, rest) = url.split_once("://").context("a URL has a scheme")?;
        let authority = rest.split('/').next().unwrap_or_default().to_owned();
        Ok(Self { authority })
    }

    /// The page of counters, if the server has one.
    pub(crate) async fn metrics(&self) -> Result<String> {
        self.request("GET", "/metrics", "", "").await
    }

    /// Packets dropped so far by reason, summed over shards; data messages under `data`.
    pub(crate) async fn drops(&self) -> Result<BTreeMap<String, u64>> {
        let drops = metrics::drops(&self.metrics().await?);
        ensure!(!drops.is_empty(), "the server's metrics name no dropped packets");
        Ok(drops)
    }

    /// Identities in a room.
    pub(crate) async fn participants(&self, token: &str, room: &str) -> Result<Vec<String>> {
        let body = serde_json::json!({ "room": room }).to_string();
        let path = "/twirp/livekit.RoomService/ListParticipants";
        let text = self.request("POST", path, token, &body).await?;
        let list: serde_json::Value = serde_json::from_str(&text).context("ListParticipants is not JSON")?;
        let participants = list.get("participants").and_then(|list| list.as_array());
        let identity = |p: &serde_json::Value| Some(p.get("identity")?.as_str()?.to_owned());
        Ok(participants.into_iter().flatten().filter_map(identity).collect())
    }

    async fn request(&self, method: &str, path: &str, token: &str, body: &str) -> Result<String> {
        let mut stream = TcpStream::connect(&self.authority).await.context("cannot connect")?;
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.authority,
            body.len()
        );
        stream.write_all(request.as_bytes()).await.context("cannot send a request")?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await.context("cannot read a response")?;
        let (head, body) = response.split_once("\r\n\r\n").context("no HTTP response")?;
        let status = head.split_whitespace().nth(1).unwrap_or_default();
        ensure!(status == "200", "{path} answers {status}: {body}");
        Ok(body.to_owned())
    }
}
