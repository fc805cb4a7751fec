//! Refusing configurations: unknown keys with the nearest known one, and combinations that must not start.

use auralink_proto::Encoding;
use serde_json::Value;

use super::{CodecSpec, Config, DEV_KEY, Profile, turn};
use crate::negotiator::codec::encoding;

/// LiveKit lists it among the codecs; here every video codec is repaired where a client can be.
const RTX: &str = "video/rtx";

/// Why a configuration was refused. All of these are the operator's to mend, and each is one line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {error}")]
    Unreadable { path: String, error: std::io::Error },
    #[error("{source_name} is neither TOML nor YAML: {error}")]
    Syntax { source_name: String, error: String },
    #[error("unknown key `{key}`{}", nearest.as_ref().map(|n| format!(", did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey { key: String, nearest: Option<String> },
    #[error("{0}")]
    BadValue(String),
    #[error("no API keys: set `keys` in the configuration, or --keys, or start with --dev")]
    NoKeys,
    #[error("`{DEV_KEY}` is the well-known key of --dev and is refused elsewhere: choose another API key")]
    DevKey,
    #[error("API key `{0}` has an empty secret")]
    EmptySecret(String),
    #[error("key file {0} is readable by others: restrict it to its owner (chmod 600)")]
    KeyFileOpen(String),
    #[error("webhook.api_key is needed to use webhooks, and has to be one of `keys`")]
    WebhookKey,
    #[error("webhook.urls: `{0}` is neither an http nor an https URL")]
    WebhookUrl(String),
    #[error("{ports} UDP ports are too few for {shards} shards: give one port, or one port per shard")]
    TooFewPorts { ports: u16, shards: u8 },
}

/// Sections of LiveKit's file that mean nothing here yet. They are named in a warning and otherwise ignored.
const IGNORED: &[&str] = &[
    "development",
    "log_level",
    "redis",
    "prometheus_port",
    "prometheus",
    "ingress",
    "sip",
    "whip",
    "audio",
    "video",
    "psrpc",
    "signal_relay",
    "node_selector",
    "api",
    "debug_handler",
    "metric",
    "trace",
    "nodestats",
    "environment",
];

/// Within known sections, LiveKit's keys that mean nothing here yet.
const IGNORED_NESTED: &[(&str, &[&str])] = &[
    (
        "rtc",
        &[
            "port_range_start",
            "port_range_end",
            "use_external_ip",
            "use_ice_lite",
            "congestion_control",
            "packet_buffer_size",
            "packet_buffer_size_video",
            "packet_buffer_size_audio",
            "pli_throttle",
            "allow_tcp_fallback",
            "interfaces",
            "ips",
            "enable_loopback_candidate",
            "use_mdns",
            "strict_acks",
            "batch_io",
            "force_relay",
        ],
    ),
    ("room", &["playout_delay", "sync_streams", "max_metadata_size"]),
    ("limit", &["num_tracks", "bytes_per_sec", "subscription_limit_video", "subscription_limit_audio"]),
    ("logging", &["pion_level", "sample"]),
];

/// Removes what [`IGNORED`] names and returns it, for a warning.
pub(super) fn strip_ignored(value: &mut Value) -> Vec<String> {
    let mut found = Vec::new();
    let Some(root) = value.as_object_mut() else { return found };
    for key in IGNORED {
        if root.remove(*key).is_some() {
            found.push((*key).to_owned());
        }
    }
    for (section, keys) in IGNORED_NESTED {
        let Some(section_value) = root.get_mut(*section).and_then(Value::as_object_mut) else { continue };
        for key in *keys {
            if section_value.remove(*key).is_some() {
                found.push(format!("{section}.{key}"));
            }
        }
    }
    found
}

/// Fails on the first key the schema does not have. `known` is the default configuration, which has every key.
pub(super) fn refuse_unknown(value: &Value, known: &Value, path: &str) -> Result<(), ConfigError> {
    let (Some(given), Some(known)) = (value.as_object(), known.as_object()) else { return Ok(()) };
    // `keys` is the one table whose names are the operator's.
    if path == "keys" {
        return Ok(());
    }
    for (name, inner) in given {
        let full = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match known.get(name) {
            Some(known_inner) => refuse_unknown(inner, known_inner, &full)?,
            None => {
                let nearest = known
                    .keys()
                    .map(|k| (strsim::jaro_winkler(k, name), k))
                    .filter(|(likeness, _)| *likeness > 0.7)
                    .max_by(|a, b| a.0.total_cmp(&b.0))
                    .map(|(_, k)| if path.is_empty() { k.clone() } else { format!("{path}.{k}") });
                return Err(ConfigError::UnknownKey { key: full, nearest });
            }
        }
    }
    Ok(())
}

/// Refuses what must not start, in the order an operator would mend it.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    if config.keys.is_empty() {
        return Err(ConfigError::NoKeys);
    }
    if config.profile != Profile::Dev && config.keys.contains_key(DEV_KEY) {
        return Err(ConfigError::DevKey);
    }
    if let Some((key, _)) = config.keys.iter().find(|(_, secret)| secret.is_empty()) {
        return Err(ConfigError::EmptySecret(key.clone()));
    }
    let ports = config.rtc.udp_port.last - config.rtc.udp_port.first;
    if ports > 0 && u16::from(config.node.shards) > ports + 1 {
        return Err(ConfigError::TooFewPorts { ports: ports + 1, shards: config.node.shards });
    }
    if !config.webhook.urls.is_empty() && !config.keys.contains_key(&config.webhook.api_key) {
        return Err(ConfigError::WebhookKey);
    }
    if let Some(url) = config.webhook.urls.iter().find(|url| !is_http_url(url)) {
        return Err(ConfigError::WebhookUrl(url.clone()));
    }
    for CodecSpec { mime } in &config.room.enabled_codecs {
        if encoding(mime).is_none() && !mime.eq_ignore_ascii_case(RTX) {
            let known = Encoding::ALL.map(Encoding::mime).join(", ");
            let message = format!("room.enabled_codecs: `{mime}` is none of {known}");
            return Err(ConfigError::BadValue(message));
        }
    }
    if config.bind_addresses.is_empty() {
        return Err(ConfigError::BadValue("bind_addresses: at least one address is needed".into()));
    }
    turn::check(config)
}

fn is_http_url(text: &str) -> bool {
    let url = text.parse::<axum::http::Uri>();
    url.is_ok_and(|url| matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some())
}
