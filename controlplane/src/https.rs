//! HTTP/1.1 as a client (RFC 9112), in the clear or with TLS, on connections that are kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};

/// An idle connection is closed after this.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Cheap to clone; clones share their connections.
pub(crate) type Client = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client that trusts these authorities.
pub(crate) fn client(authorities: RootCertStore) -> Result<Client, rustls::Error> {
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    Ok(legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_MAX)
        .build(connector))
}

/// The authorities this host trusts; none where it has no list.
pub(crate) fn native_authorities() -> RootCertStore {
    let mut store = RootCertStore::empty();
    // Some of a host's authorities are always beyond what can be parsed.
    let _ = store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    store
}

/// An error with its causes, which say what really went wrong.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
