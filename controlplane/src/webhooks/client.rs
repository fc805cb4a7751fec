//! Posting webhooks.

use std::time::Duration;

use axum::http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::config::Webhook;
use crate::https::{self, chain};

/// Longest one attempt may take, from connecting to the end of the reply.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a reply worth reading to keep its connection.
const REPLY_BYTES_MAX: usize = 64 << 10;

/// What LiveKit's receivers tell webhooks by.
const CONTENT_TYPE: &str = "application/webhook+json";
const USER_AGENT: &str = concat!("LiveKit AuraLink/", env!("CARGO_PKG_VERSION"));

/// Why webhooks cannot be sent at all. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("webhook.urls: `{0}` is not a URL")]
    Url(String),
    #[error("webhook.ca_file: {0} holds no certificate that can be read: {1}")]
    CaFile(String, String),
    #[error(
        "webhook.urls has an https URL and this host has no certificate authorities: install them \
         (ca-certificates) or set webhook.ca_file"
    )]
    NoAuthorities,
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// What became of one attempt.
pub(super) enum Attempt {
    Accepted,
    /// The receiver does not want it, and will not want it later.
    Refused(StatusCode),
    /// Worth another attempt.
    Failed(String),
}

/// A client. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub(super) struct Client {
    inner: https::Client,
}

impl Client {
    pub(super) fn new(config: &Webhook) -> Result<Self, ClientError> {
        Ok(Self { inner: https::client(authorities(config)?)? })
    }

    /// One attempt. Redirects are not followed: a signature is for one receiver.
    pub(super) async fn post(&self, url: &Uri, token: &str, body: Bytes) -> Attempt {
        let Ok(mut authorization) = HeaderValue::from_str(token) else {
            return Attempt::Refused(StatusCode::BAD_REQUEST);
        };
        authorization.set_sensitive(true);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        request.uri_mut().clone_from(url);
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        headers.insert(header::AUTHORIZATION, authorization);
        let answered = async {
            let reply = self.inner.request(request).await.map_err(|error| chain(&error))?;
            let status = reply.status();
            // Read to its end, a reply leaves its connection for the next event. What it says is of no interest.
            let _ = Limited::new(reply.into_body(), REPLY_BYTES_MAX).collect().await;
            Ok::<_, String>(status)
        };
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(status)) if status.is_success() => Attempt::Accepted,
            Ok(Ok(status)) if is_temporary(status) => Attempt::Failed(status.to_string()),
            Ok(Ok(status)) => Attempt::Refused(status),
            Ok(Err(error)) => Attempt::Failed(error),
            Err(_) => Attempt::Failed(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }
}

fn is_temporary(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

/// Who may vouch for receivers. Receivers without TLS need nobody.
fn authorities(config: &Webhook) -> Result<RootCertStore, ClientError> {
    let mut store = RootCertStore::empty();
    if !config.urls.iter().any(|url| url.to_ascii_lowercase().starts_with("https:")) {
        return Ok(store);
    }
    if let Some(path) = &config.ca_file {
        let unreadable = |error: String| ClientError::CaFile(path.clone(), error);
        let certificates =
            CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
            store.add(certificate).map_err(|error| unreadable(error.to_string()))?;
        }
        if store.is_empty() {
            return Err(unreadable("it is empty".into()));
        }
        return Ok(store);
    }
    let store = https::native_authorities();
    if store.is_empty() { Err(ClientError::NoAuthorities) } else { Ok(store) }
}
