//! Starting and stopping: sockets, the task that carries events, and the end.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use auralink_proto::Event;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::agents::Agents;
use crate::auth::Keys;
use crate::config::Config;
use crate::http::connection::BoundedListener;
use crate::http::{self, App};
use crate::media::Media;
use crate::notices::Notices;
use crate::rooms::Rooms;
use crate::rooms::join::server_info;
use crate::rooms::room::Mint as _;
use crate::signal::socket;
use crate::telemetry::livekit::Calls;
use crate::telemetry::{ShardReports, Telemetry};
use crate::turn::Turn;
use crate::webhooks::{ClientError, Webhooks};
use crate::whip::Resources;

/// After the rooms were ended, how long open connections may take to finish.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(3);

/// Files, sockets among them, below which a server is not worth starting.
const FILES_MIN: u64 = 512;

/// Why the HTTP port cannot be served; the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("TCP port {} on {} is in use: stop the other program, or choose another with --port", .0.port(), .0.ip())]
    PortInUse(SocketAddr),
    #[error("TCP port {} on {} may not be opened by this user", .0.port(), .0.ip())]
    Forbidden(SocketAddr),
    #[error("{} is not an address of this host", .0.ip())]
    NoSuchAddress(SocketAddr),
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    #[error("this user may open {0} files, at least {FILES_MIN} are needed: raise the limit with ulimit -n")]
    FileLimit(u64),
    #[error("none of the addresses to listen on exists on this host")]
    NoAddress,
}

/// Opens the HTTP port on every configured address. Loopback of a family the host lacks is passed over.
///
/// # Errors
/// [`ServeError`]
pub async fn listen(config: &Config) -> Result<Vec<TcpListener>, ServeError> {
    let mut listeners = Vec::new();
    for ip in &config.bind_addresses {
        let address = SocketAddr::new(*ip, config.port);
        match TcpListener::bind(address).await {
            Ok(listener) => listeners.push(listener),
            Err(error) => match error.kind() {
                ErrorKind::AddrInUse => return Err(ServeError::PortInUse(address)),
                ErrorKind::PermissionDenied => return Err(ServeError::Forbidden(address)),
                _ if *ip == IpAddr::V6(std::net::Ipv6Addr::LOCALHOST) => {}
                ErrorKind::AddrNotAvailable => return Err(ServeError::NoSuchAddress(address)),
                _ => return Err(ServeError::Listen(address, error)),
            },
        }
    }
    if listeners.is_empty() { Err(ServeError::NoAddress) } else { Ok(listeners) }
}

/// Refuses to start where a handful of clients would use up the limit of open files.
///
/// # Errors
/// [`ServeError::FileLimit`]
pub fn check_file_limit() -> Result<(), ServeError> {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    match open_files(&limits) {
        Some(files) if files < FILES_MIN => Err(ServeError::FileLimit(files)),
        _ => Ok(()),
    }
}

/// The soft limit of open files in the kernel's table; `None` when unlimited.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A control plane that is not listening yet.
pub struct Control {
    app: App,
    media: Media,
    notices: Notices,
    turn: Option<Turn>,
}

impl Control {
    /// Without `shards` there is nothing to watch; for tests that play the shard. To be called within a runtime.
    ///
    /// # Errors
    /// [`ClientError`]; the operator's to mend.
    pub fn new(config: Config, mut media: Media, shards: Option<ShardReports>) -> Result<Self, ClientError> {
        let node_sid = media.sid("ND_");
        let calls = Calls::new(&node_sid);
        let telemetry = Telemetry { shards, calls, node_sid: node_sid.clone(), ..Telemetry::default() };
        let telemetry = Arc::new(telemetry);
        let keys = Keys::new(config.keys.clone());
        let webhooks = Webhooks::start(&config.webhook, &keys, Arc::clone(&telemetry))?;
        let server = server_info(&config.region, &node_sid);
        let (told, counted) = (webhooks.clone(), Arc::clone(&telemetry));
        let agents = Agents::start(&config.agents, &config.limit, &keys, server, counted, told);
        let notices = Notices { webhooks, agents: agents.clone() };
        let rooms =
            Rooms::new(config.clone(), media.clone(), Arc::clone(&telemetry), notices.clone(), node_sid);
        let signal = socket::options(config.limit.signal_message_bytes_max);
        let app = App {
            config: Arc::new(config),
            keys,
            rooms,
            agents,
            telemetry,
            resources: Resources::default(),
            signal,
        };
        Ok(Self { app, media, notices, turn: None })
    }

    /// Takes a TURN server along: its metrics are shown, and it is stopped with the rest.
    pub fn attach(&mut self, turn: Option<Turn>) {
        if let Some(turn) = &turn {
            // Nobody set it before.
            let _ = self.app.telemetry.turn.set(turn.page());
        }
        self.turn = turn;
    }

    /// What handlers use; for tests.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Serves until `stop` completes, then ends every room and lets connections finish.
    ///
    /// # Errors
    /// A listener failed.
    pub async fn run(
        self,
        listeners: Vec<TcpListener>,
        events: mpsc::Receiver<Event>,
        stop: impl Future<Output = ()>,
    ) -> std::io::Result<()> {
        let telemetry = Arc::clone(&self.app.telemetry);
        let router_task = tokio::spawn(self.media.clone().route(events, Arc::clone(&telemetry)));
        let watchdog_task = tokio::spawn(async move { telemetry.watch_shards().await });
        let (stopping, stopped) = watch::channel(false);
        let mut servers = tokio::task::JoinSet::new();
        let places =
            Arc::new(Semaphore::new(self.app.config.limit.http_connections_max.min(Semaphore::MAX_PERMITS)));
        for listener in listeners {
            let mut stopped = stopped.clone();
            let listener = BoundedListener::new(listener, Arc::clone(&places));
            let server = axum::serve(listener, http::router(self.app.clone()))
                .with_graceful_shutdown(async move { drop(stopped.wait_for(|stop| *stop).await) });
            servers.spawn(server.into_future());
        }
        tokio::pin!(stop);
        let failed = tokio::select! {
            () = &mut stop => Ok(()),
            ended = servers.join_next() => ended.and_then(Result::ok).unwrap_or(Ok(())),
        };
        tracing::info!("stopping");
        self.app.rooms.end_all().await;
        if let Some(webhooks) = &self.notices.webhooks {
            webhooks.flush(SHUTDOWN_PATIENCE).await;
        }
        if let Some(turn) = self.turn {
            turn.stop().await;
        }
        let _ = stopping.send(true);
        let finish = async { while servers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(SHUTDOWN_PATIENCE, finish).await;
        router_task.abort();
        watchdog_task.abort();
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_of_open_files_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max processes             94969                94969                processes\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(open_files(limits), Some(1_024));
        assert_eq!(open_files("Max open files   unlimited   unlimited   files"), None);
    }
}
