//! The UI: the files of `controlplane/web/dist`, built into the binary.
//!
//! Pages are never cached and name assets by a hash of their content, which are cached for good (RFC 8246).

use std::io::Write as _;
use std::sync::OnceLock;

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;

include!(concat!(env!("OUT_DIR"), "/web_files.rs"));

/// Everything comes from this server, except media and, for tests against other servers, signalling.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; \
    img-src 'self' data: blob:; media-src 'self' blob:; worker-src 'self' blob:; object-src 'none'; \
    base-uri 'none'; form-action 'self'; frame-ancestors 'self'";
/// Bytes of a text worth compressing.
const COMPRESS_FROM: usize = 1_024;

/// A file, and its gzip where that is smaller by enough to matter.
struct File {
    path: &'static str,
    plain: &'static [u8],
    gzip: Option<Bytes>,
}

/// All files, compressed when the first is asked for.
fn files() -> &'static [File] {
    static COMPRESSED: OnceLock<Vec<File>> = OnceLock::new();
    COMPRESSED.get_or_init(|| {
        FILES.iter().map(|(path, plain)| File { path, plain, gzip: gzip(path, plain) }).collect()
    })
}

fn gzip(path: &str, plain: &[u8]) -> Option<Bytes> {
    let text =
        ["text/", "application/json", "image/svg"].iter().any(|kind| content_type(path).starts_with(kind));
    if !text || plain.len() < COMPRESS_FROM {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("json" | "map") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("woff2") => "font/woff2",
        Some("wasm") => "application/wasm",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

fn accepts(headers: &HeaderMap, name: header::HeaderName, what: &str) -> bool {
    headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains(what))
}

fn respond(path: &str, headers: &HeaderMap) -> Option<Response> {
    let file = files().iter().find(|file| file.path == path)?;
    // Names below `assets/` contain a hash of their content.
    let cache = if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    let common = [
        (header::CONTENT_TYPE, content_type(path)),
        (header::CACHE_CONTROL, cache),
        (header::VARY, "accept-encoding"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    Some(match &file.gzip {
        Some(gzip) if accepts(headers, header::ACCEPT_ENCODING, "gzip") => {
            (common, [(header::CONTENT_ENCODING, "gzip")], gzip.clone()).into_response()
        }
        _ => (common, Bytes::from_static(file.plain)).into_response(),
    })
}

/// `/`: the UI for browsers, `OK` for whoever checks that the server lives.
pub(super) async fn root(headers: HeaderMap) -> Response {
    accepts(&headers, header::ACCEPT, "text/html")
        .then(|| respond("index.html", &headers))
        .flatten()
        .unwrap_or_else(|| "OK".into_response())
}

/// A page of the UI, which routes by itself.
pub(super) async fn page(headers: HeaderMap) -> Response {
    respond("index.html", &headers).unwrap_or_else(|| {
        (StatusCode::NOT_FOUND, "this binary was built without the UI (controlplane/web/dist)")
            .into_response()
    })
}

/// A file of the UI, or nothing.
pub(super) async fn asset(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let path = uri.path().trim_start_matches('/');
    let reads = method == Method::GET || method == Method::HEAD;
    let found = if reads { respond(path, &headers) } else { None };
    found.unwrap_or_else(|| StatusCode::NOT_FOUND.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assets_are_cached_for_good_and_pages_are_not() {
        let script = files().iter().find(|file| file.path.starts_with("assets/")).unwrap().path;
        let cache =
            |path: &str| respond(path, &HeaderMap::new()).unwrap().headers()[header::CACHE_CONTROL].clone();
        assert!(cache(script).to_str().unwrap().contains("immutable"));
        assert_eq!(cache("index.html"), "no-cache");
    }

    #[test]
    fn every_file_carries_a_type_and_the_policy() {
        for file in files() {
            let response = respond(file.path, &HeaderMap::new()).unwrap();
            let headers = response.headers();
            assert_ne!(headers[header::CONTENT_TYPE], "application/octet-stream", "{}", file.path);
            assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
            assert!(headers.contains_key(header::CONTENT_SECURITY_POLICY));
        }
    }

    #[test]
    fn only_who_accepts_gzip_is_sent_it() {
        let large = files().iter().find(|file| file.gzip.is_some()).unwrap();
        let mut headers = HeaderMap::new();
        assert!(!respond(large.path, &headers).unwrap().headers().contains_key(header::CONTENT_ENCODING));
        headers.insert(header::ACCEPT_ENCODING, "br, gzip".parse().unwrap());
        assert_eq!(respond(large.path, &headers).unwrap().headers()[header::CONTENT_ENCODING], "gzip");
    }

    #[tokio::test]
    async fn unknown_files_and_other_methods_find_nothing() {
        for (method, path) in
            [(Method::GET, "/assets/none.js"), (Method::GET, "/../Cargo.toml"), (Method::POST, "/index.html")]
        {
            let answer = asset(method, path.parse().unwrap(), HeaderMap::new()).await;
            assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
        }
    }
}
