//! Clients that come by TCP or TLS: bounded in number, in silence and in what waits for them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use auralink_turn::Origin;
use auralink_turn::framing::{MESSAGE_LEN_MAX, next_message};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

use super::report::Outcome;
use super::sink::{Outgoing, Sink};
use super::{ERROR_PAUSE, Shared, TurnError};
use crate::config::turn::Turn;

/// For the TLS handshake, and for being without an allocation.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a client to take what waits for it, at most a queue full.
const WRITE_PATIENCE: Duration = Duration::from_secs(8);
/// For saying goodbye.
const CLOSE_PATIENCE: Duration = Duration::from_millis(500);
/// Bytes read at once.
const READ_LEN: usize = 16 << 10;

/// What takes connections in.
pub(super) struct Door {
    shared: Arc<Shared>,
    /// None where a balancer before us ends TLS.
    tls: Option<TlsAcceptor>,
    places: Arc<Semaphore>,
    next: AtomicU64,
    stopped: watch::Receiver<bool>,
    alive: mpsc::Sender<()>,
}

impl Door {
    pub(super) fn new(
        turn: &Turn,
        shared: Arc<Shared>,
        stopped: watch::Receiver<bool>,
        alive: mpsc::Sender<()>,
    ) -> Result<Self, TurnError> {
        let tls = if turn.external_tls { None } else { Some(acceptor(turn)?) };
        let places = Arc::new(Semaphore::new(turn.connections_max.min(Semaphore::MAX_PERMITS)));
        Ok(Self { shared, tls, places, next: AtomicU64::new(1), stopped, alive })
    }

    pub(super) async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => self.admit(stream, remote),
                // Out of descriptors, most likely; some will be free again.
                Err(_) => tokio::time::sleep(ERROR_PAUSE).await,
            }
        }
    }

    fn admit(self: &Arc<Self>, stream: TcpStream, remote: SocketAddr) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.shared.traffic.ended(Outcome::Crowded);
            return;
        };
        self.shared.traffic.ended(Outcome::Accepted);
        tokio::spawn(Arc::clone(self).serve(stream, remote, place));
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, remote: SocketAddr, place: OwnedSemaphorePermit) {
        let (alive, mut stopped) = (self.alive.clone(), self.stopped.clone());
        let gauge = &self.shared.traffic.connections;
        gauge.fetch_add(1, Ordering::Relaxed);
        // Media is small packets that must not wait for each other.
        let _ = stream.set_nodelay(true);
        let origin = Origin::Stream { connection: self.next.fetch_add(1, Ordering::Relaxed), remote };
        let served = async {
            match &self.tls {
                None => converse(&self.shared, origin, stream).await,
                Some(tls) => match timeout(PATIENCE, tls.accept(stream)).await {
                    Ok(Ok(stream)) => converse(&self.shared, origin, stream).await,
                    _ => Some(Outcome::Handshake),
                },
            }
        };
        let outcome = tokio::select! {
            outcome = served => outcome,
            _ = stopped.wait_for(|stop| *stop) => None,
        };
        self.shared.origin_gone(&origin);
        if let Some(outcome) = outcome {
            self.shared.traffic.ended(outcome);
        }
        gauge.fetch_sub(1, Ordering::Relaxed);
        drop((alive, place));
    }
}

/// Certificate and key from their files.
fn acceptor(turn: &Turn) -> Result<TlsAcceptor, TurnError> {
    let path = |file: &Option<String>| file.clone().unwrap_or_default();
    let (cert, key) = (path(&turn.cert_file), path(&turn.key_file));
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&cert).and_then(Iterator::collect);
    let chain = chain.map_err(|error| TurnError::Certificate { path: cert, error })?;
    let key = PrivateKeyDer::from_pem_file(&key).map_err(|error| TurnError::Key { path: key, error })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Speaks with one client until one of the two is done; why, where that was not the client's wish.
async fn converse<S>(shared: &Arc<Shared>, origin: Origin, stream: S) -> Option<Outcome>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (reader, mut writer) = tokio::io::split(stream);
    let outgoing = Arc::new(Outgoing::default());
    let outcome = tokio::select! {
        outcome = read(shared, origin, reader, Sink::Stream(Arc::clone(&outgoing))) => outcome,
        outcome = write(&outgoing, &mut writer) => outcome,
    };
    let _ = timeout(CLOSE_PATIENCE, writer.shutdown()).await;
    outcome
}

async fn read<R>(shared: &Arc<Shared>, origin: Origin, mut reader: R, sink: Sink) -> Option<Outcome>
where
    R: AsyncRead + Unpin,
{
    let mut received = Vec::with_capacity(READ_LEN + MESSAGE_LEN_MAX);
    let mut chunk = vec![0; READ_LEN];
    let mut reply = Vec::new();
    let mut held = Instant::now();
    loop {
        if shared.holds(&origin) {
            held = Instant::now();
        } else if held.elapsed() >= PATIENCE {
            return Some(Outcome::Idle);
        }
        let len = match timeout(PATIENCE, reader.read(&mut chunk)).await {
            Ok(Ok(0) | Err(_)) => return None,
            Ok(Ok(len)) => len,
            Err(_) => continue,
        };
        received.extend_from_slice(chunk.get(..len).unwrap_or_default());
        let mut start = 0;
        while let Some(rest) = received.get(start..) {
            let (message, taken) = match next_message(rest) {
                Ok(Some(cut)) => cut,
                Ok(None) => break,
                Err(_) => return Some(Outcome::Strange),
            };
            let bytes = rest.get(message).unwrap_or_default();
            if shared.handle_client(origin, &sink, bytes, &mut reply) {
                sink.send(&reply, &shared.traffic);
            }
            start += taken;
        }
        // What is left is less than a message.
        received.drain(..start);
    }
}

async fn write<W: AsyncWrite + Unpin>(outgoing: &Outgoing, writer: &mut W) -> Option<Outcome> {
    let mut batch = Vec::new();
    loop {
        outgoing.take(&mut batch).await;
        let written = async {
            writer.write_all(&batch).await?;
            writer.flush().await
        };
        match timeout(WRITE_PATIENCE, written).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return None,
            Err(_) => return Some(Outcome::Slow),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use auralink_turn::server::Server;
    use tokio::io::duplex;

    use super::*;
    use crate::config::Config;
    use crate::turn::report::Traffic;
    use crate::turn::{State, server_config};

    /// A Binding request (RFC 8489 §5) and the length of its answer, one XOR-MAPPED-ADDRESS.
    const BINDING: [u8; 20] = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    const ANSWER_LEN: usize = 32;
    const ORIGIN: Origin = Origin::Stream {
        connection: 1,
        remote: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9),
    };

    fn shared() -> Arc<Shared> {
        let server = Server::new(server_config(&Config::dev(), &[], (None, None)), [1; 32]);
        let state = Mutex::new(State { server, relays: HashMap::new() });
        Arc::new(Shared { state, traffic: Traffic::default(), foreign: Vec::new() })
    }

    #[tokio::test(start_paused = true)]
    async fn messages_are_answered_however_they_are_cut() {
        let (mut client, server) = duplex(4_096);
        let served = tokio::spawn(async move { converse(&shared(), ORIGIN, server).await });
        let two = [BINDING, BINDING].concat();
        for piece in two.chunks(7) {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut answers = [0; 2 * ANSWER_LEN];
        client.read_exact(&mut answers).await.unwrap();
        assert_eq!((answers[..2].to_vec(), answers[ANSWER_LEN..][..2].to_vec()), (vec![1, 1], vec![1, 1]));
        drop(client);
        assert_eq!(served.await.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_speaks_something_else_or_gets_no_allocation_is_sent_away() {
        let (mut client, server) = duplex(4_096);
        let served = tokio::spawn(async move { converse(&shared(), ORIGIN, server).await });
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        assert_eq!(served.await.unwrap(), Some(Outcome::Strange));
        let (mut client, server) = duplex(4_096);
        let (start, served) =
            (Instant::now(), tokio::spawn(async move { converse(&shared(), ORIGIN, server).await }));
        // Keep-alives are no allocation.
        for _ in 0..4 {
            client.write_all(&BINDING).await.unwrap();
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        let outcome = timeout(3 * PATIENCE, served).await.unwrap().unwrap();
        assert_eq!(outcome, Some(Outcome::Idle));
        assert!(start.elapsed() < 2 * PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_dropped() {
        let (mut client, server) = duplex(64);
        let (start, served) =
            (Instant::now(), tokio::spawn(async move { converse(&shared(), ORIGIN, server).await }));
        for _ in 0..8 {
            client.write_all(&BINDING).await.unwrap();
        }
        let outcome = timeout(2 * WRITE_PATIENCE, served).await.unwrap().unwrap();
        assert_eq!(outcome, Some(Outcome::Slow));
        assert!(start.elapsed() >= WRITE_PATIENCE);
    }
}
