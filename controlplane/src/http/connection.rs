//! HTTP connections, bounded in number and in silence.
//!
//! A connection on which nothing was answered for a minute is closed: a request that never ends costs a file descriptor and
//! no more than that minute. WebSockets are pinged far more often.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Longest time without a byte written.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A listener whose connections count against a shared limit; at the limit, newcomers wait in the kernel's queue.
#[derive(Debug)]
pub struct BoundedListener {
    inner: TcpListener,
    places: Arc<Semaphore>,
}

impl BoundedListener {
    pub fn new(inner: TcpListener, places: Arc<Semaphore>) -> Self {
        Self { inner, places }
    }
}

impl Listener for BoundedListener {
    type Io = Watched<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The semaphore is never closed, so a missing permit cannot happen and would only mean one connection uncounted.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.inner).await;
        // Signalling messages are small and must not wait for each other.
        drop(stream.set_nodelay(true));
        (Watched::new(stream, place), address)
    }

    fn local_addr(&self) -> Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// A stream that fails to read once nothing was written for too long.
#[derive(Debug)]
pub struct Watched<T> {
    inner: T,
    patience: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl<T> Watched<T> {
    fn new(inner: T, place: Option<OwnedSemaphorePermit>) -> Self {
        Self { inner, patience: Box::pin(tokio::time::sleep(SILENCE_MAX)), _place: place }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        if self.patience.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(Error::from(ErrorKind::TimedOut)));
        }
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        if matches!(written, Poll::Ready(Ok(_))) {
            self.patience.as_mut().reset(Instant::now() + SILENCE_MAX);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    #[tokio::test(start_paused = true)]
    async fn a_request_that_never_ends_is_cut_off() {
        let (mut client, server) = duplex(64);
        let mut server = Watched::new(server, None);
        let start = Instant::now();
        // A byte every ten seconds, for ever.
        tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
        });
        let error = server.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_answered_lives() {
        let (mut client, server) = duplex(64);
        let mut server = Watched::new(server, None);
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(50)).await;
            client.write_all(b"?").await.unwrap();
            assert_eq!(server.read_u8().await.unwrap(), b'?');
            server.write_all(b"!").await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), b'!');
        }
    }
}
