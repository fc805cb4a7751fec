//! Laying sources over each other: defaults or the dev profile, then a file or text, then the environment, then flags.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::check::{self, ConfigError};
use super::flags::ServeArgs;
use super::{Config, Profile};

/// Prefix of environment variables: `AURALINK__RTC__UDP_PORT=7900` sets `rtc.udp_port`.
const ENV_PREFIX: &str = "AURALINK__";

/// A configuration and what in its sources was understood but has no effect.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub ignored: Vec<String>,
}

/// Reads everything an invocation names. `bare_is_dev` is set when the program was started without a role.
///
/// # Errors
/// [`ConfigError`], always the operator's to mend.
pub fn load(
    args: &ServeArgs,
    env: impl Iterator<Item = (String, String)>,
    bare_is_dev: bool,
) -> Result<Loaded, ConfigError> {
    let mut given = Value::Object(Map::new());
    if let Some(path) = &args.config {
        let name = path.display().to_string();
        let text = read(path)?;
        given = parse(&text, &name)?;
    } else if let Some(text) = &args.config_body {
        given = parse(text, "the configuration text")?;
    }
    lay_environment(&mut given, env)?;
    let ignored = check::strip_ignored(&mut given);
    let bare = args.is_bare() && bare_is_dev && given.as_object().is_some_and(Map::is_empty);
    let dev = args.dev || bare || given.get("profile").and_then(Value::as_str) == Some("dev");
    let base = if dev { Config::dev() } else { Config::default() };
    let mut merged = serde_json::to_value(&base).map_err(|error| ConfigError::BadValue(error.to_string()))?;
    check::refuse_unknown(&given, &merged, "")?;
    if given.get("keys").is_some_and(|keys| !keys.is_null())
        && let Some(root) = merged.as_object_mut()
    {
        // Keys given replace the dev pair rather than join it.
        root.insert("keys".into(), Value::Object(Map::new()));
    }
    lay(&mut merged, given);
    let mut config: Config =
        serde_json::from_value(merged).map_err(|error| ConfigError::BadValue(error.to_string()))?;
    lay_flags(&mut config, args, dev)?;
    if let Some(path) = config.key_file.clone() {
        config.keys = read_key_file(&path)?;
    }
    for server in &mut config.rtc.turn_servers {
        if let Some(path) = &server.secret_file {
            server.secret = read(Path::new(path))?.trim().to_owned();
        }
    }
    check::check(&config)?;
    Ok(Loaded { config, ignored })
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Unreadable { path: path.display().to_string(), error })
}

/// TOML when it parses as TOML, else YAML. A YAML mapping is never valid TOML and the reverse.
fn parse(text: &str, name: &str) -> Result<Value, ConfigError> {
    let toml_error = match toml::from_str::<toml::Table>(text) {
        Ok(table) => {
            return serde_json::to_value(table)
                .map_err(|error| ConfigError::Syntax { source_name: name.into(), error: error.to_string() });
        }
        Err(error) => error.message().to_owned(),
    };
    match serde_yaml_ng::from_str::<Value>(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(Value::Null) => Ok(Value::Object(Map::new())),
        Ok(_) => Err(ConfigError::Syntax { source_name: name.into(), error: toml_error }),
        Err(error) => Err(ConfigError::Syntax { source_name: name.into(), error: error.to_string() }),
    }
}

fn lay(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                lay(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

fn lay_environment(
    given: &mut Value,
    env: impl Iterator<Item = (String, String)>,
) -> Result<(), ConfigError> {
    for (name, text) in env {
        let Some(path) = name.strip_prefix(ENV_PREFIX) else { continue };
        let value = serde_yaml_ng::from_str::<Value>(&text).unwrap_or(Value::String(text));
        let mut nested = value;
        for (depth, part) in path.rsplit("__").enumerate() {
            // Names of API keys keep their case.
            let keep = depth == 0 && path.to_ascii_lowercase().starts_with("keys__");
            let part = if keep { part.to_owned() } else { part.to_ascii_lowercase() };
            if part.is_empty() {
                return Err(ConfigError::UnknownKey { key: name, nearest: None });
            }
            nested = Value::Object(Map::from_iter([(part, nested)]));
        }
        lay(given, nested);
    }
    Ok(())
}

fn lay_flags(config: &mut Config, args: &ServeArgs, dev: bool) -> Result<(), ConfigError> {
    if dev {
        config.profile = Profile::Dev;
    }
    if !args.bind.is_empty() {
        config.bind_addresses.clone_from(&args.bind);
    }
    if let Some(port) = args.port {
        config.port = port;
    }
    if let Some(ip) = args.node_ip {
        config.rtc.node_ip = Some(ip);
    }
    if let Some(ports) = args.udp_port {
        config.rtc.udp_port = ports;
    }
    if let Some(port) = args.tcp_port {
        config.rtc.tcp_port = port;
    }
    if let Some(keys) = &args.keys {
        config.keys = parse_keys(keys)?;
    }
    if let Some(path) = &args.key_file {
        config.key_file = Some(path.clone());
    }
    if let Some(path) = &args.turn_cert {
        config.turn.cert_file = Some(path.clone());
    }
    if let Some(path) = &args.turn_key {
        config.turn.key_file = Some(path.clone());
    }
    if let Some(region) = &args.region {
        config.region.clone_from(region);
    }
    if let Some(shards) = args.shards {
        config.node.shards = shards;
    }
    if let Some(spill) = args.spill {
        config.node.spill = spill;
    }
    if let Some(backend) = args.io_backend {
        config.node.io_backend = backend;
    }
    Ok(())
}

/// `key: secret` pairs separated by commas or lines.
fn parse_keys(text: &str) -> Result<BTreeMap<String, String>, ConfigError> {
    let pairs = text.split([',', '\n']).map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| match pair.split_once(':') {
            Some((key, secret)) if !key.trim().is_empty() && !secret.trim().is_empty() => {
                Ok((key.trim().to_owned(), secret.trim().trim_matches(['"', '\'']).to_owned()))
            }
            _ => Err(ConfigError::BadValue("keys: each must read `key: secret`".into())),
        })
        .collect()
}

fn read_key_file(path: &str) -> Result<BTreeMap<String, String>, ConfigError> {
    use std::os::unix::fs::PermissionsExt;
    let text = read(Path::new(path))?;
    let metadata =
        std::fs::metadata(path).map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
    if metadata.permissions().mode() & 0o007 != 0 {
        return Err(ConfigError::KeyFileOpen(path.to_owned()));
    }
    parse_keys(&text)
}

/// The configuration as TOML with every secret blanked.
pub fn print(config: &Config) -> String {
    let mut shown = config.clone();
    for secret in shown.keys.values_mut() {
        *secret = "…".into();
    }
    let servers = shown.rtc.turn_servers.iter_mut();
    for secret in servers.flat_map(|server| [&mut server.secret, &mut server.credential]) {
        if !secret.is_empty() {
            *secret = "…".into();
        }
    }
    toml::to_string_pretty(&shown).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_body(body: &str) -> Result<Config, ConfigError> {
        let args = ServeArgs { config_body: Some(body.into()), ..ServeArgs::default() };
        load(&args, std::iter::empty(), false).map(|loaded| loaded.config)
    }

    #[test]
    fn toml_and_livekits_yaml_mean_the_same() {
        let toml = from_body(
            "port = 7900\n[keys]\nAPIone = 'a long secret'\n[rtc]\nudp_port = '7882-7889'\n[room]\nauto_create = false",
        );
        let yaml = from_body(
            "port: 7900\nkeys:\n  APIone: a long secret\nrtc:\n  udp_port: 7882-7889\nroom:\n  auto_create: false\n",
        );
        let (toml, yaml) = (toml.unwrap(), yaml.unwrap());
        assert_eq!(print(&toml), print(&yaml));
        assert_eq!((toml.port, toml.rtc.udp_port.last, toml.room.auto_create), (7900, 7889, false));
    }

    #[test]
    fn unknown_keys_name_the_nearest_known_one() {
        let error = from_body("keys: {a: b}\nrtc:\n  udp_prot: 7882\n").unwrap_err().to_string();
        assert_eq!(error, "unknown key `rtc.udp_prot`, did you mean `rtc.udp_port`?");
    }

    #[test]
    fn codecs_are_enabled_by_media_type_or_in_livekits_words() {
        let yaml = "keys: {a: b}\nroom:\n  enabled_codecs:\n    - mime: audio/opus\n    - {mime: video/vp8, fmtp_line: ''}\n    - mime: video/rtx\n";
        let toml = "keys = {a = 'b'}\nroom = {enabled_codecs = ['audio/opus', 'video/vp8', 'video/rtx']}";
        let (yaml, toml) = (from_body(yaml).unwrap(), from_body(toml).unwrap());
        assert_eq!(yaml.room.enabled_codecs, toml.room.enabled_codecs);
        let names: Vec<&str> = toml.room.enabled_codecs.iter().map(|codec| codec.mime.as_str()).collect();
        assert_eq!(names, ["audio/opus", "video/vp8", "video/rtx"]);
        assert!(print(&toml).contains("\"video/vp8\""));
        assert_eq!(from_body("keys: {a: b}").unwrap().room.enabled_codecs, []);
        let error = from_body("keys: {a: b}\nroom: {enabled_codecs: [{mime: video/VP7}]}").unwrap_err();
        assert!(error.to_string().starts_with("room.enabled_codecs: `video/VP7` is none of audio/opus, "));
    }

    #[test]
    fn livekits_other_sections_are_reported_not_refused() {
        let body = "keys: {a: b}\nredis: {address: x}\nrtc: {use_mdns: true}\n";
        let args = ServeArgs { config_body: Some(body.into()), ..ServeArgs::default() };
        let loaded = load(&args, std::iter::empty(), false).unwrap();
        assert_eq!(loaded.ignored, ["redis", "rtc.use_mdns"]);
    }

    #[test]
    fn the_nodes_address_is_text_or_a_mapping_of_families() {
        let told = |body: &str| {
            from_body(&format!("keys: {{a: b}}\nrtc: {{{body}}}")).map(|config| config.rtc.node_ip)
        };
        let pair = "203.0.113.7,2001:db8::7".parse().ok();
        assert_eq!(told("node_ip: {v4: 203.0.113.7, v6: '2001:db8::7'}").unwrap(), pair);
        assert_eq!(told("node_ip: '203.0.113.7, 2001:db8::7'").unwrap(), pair);
        assert_eq!(told("node_ip: {v6: '2001:db8::7'}").unwrap(), "2001:db8::7".parse().ok());
        assert_eq!(told("node_ip: {v4: '', v6: '2001:db8::7'}").unwrap(), "2001:db8::7".parse().ok());
        for wrong in
            ["node_ip: {v6: 203.0.113.7}", "node_ip: {v4: '2001:db8::7'}", "node_ip: {}", "node_ip: nine"]
        {
            assert!(matches!(told(wrong), Err(ConfigError::BadValue(_))), "{wrong}");
        }
        let toml =
            from_body("keys = {a = 'b'}\nrtc.node_ip = {v4 = '203.0.113.7', v6 = '2001:db8::7'}").unwrap();
        assert!(print(&toml).contains("node_ip = \"203.0.113.7,2001:db8::7\""));
        let env = [("AURALINK__RTC__NODE_IP".to_owned(), "2001:db8::7".to_owned())].into_iter();
        let args = ServeArgs { config_body: Some("keys: {a: b}".into()), ..ServeArgs::default() };
        assert_eq!(load(&args, env, false).unwrap().config.rtc.node_ip, "2001:db8::7".parse().ok());
    }

    #[test]
    fn a_start_without_keys_is_refused_unless_nothing_was_asked() {
        let serve = load(&ServeArgs::default(), std::iter::empty(), false);
        assert!(matches!(serve, Err(ConfigError::NoKeys)));
        let bare = load(&ServeArgs::default(), std::iter::empty(), true).unwrap().config;
        assert_eq!(bare.profile, Profile::Dev);
        assert_eq!(bare.keys.get("devkey").map(String::as_str), Some("secret"));
    }

    #[test]
    fn the_dev_key_is_refused_outside_dev() {
        assert!(matches!(from_body("keys: {devkey: secret}"), Err(ConfigError::DevKey)));
        assert!(from_body("profile: dev\nkeys: {devkey: secret}").is_ok());
    }

    #[test]
    fn the_environment_lies_over_the_file_and_flags_over_both() {
        let env = [("AURALINK__RTC__UDP_PORT", "7950"), ("AURALINK__KEYS__APIone", "s3cret"), ("HOME", "/")];
        let env = env.map(|(k, v)| (k.to_owned(), v.to_owned()));
        let args =
            ServeArgs { port: Some(7999), config_body: Some("port: 1".into()), ..ServeArgs::default() };
        let config = load(&args, env.into_iter(), false).unwrap().config;
        assert_eq!((config.port, config.rtc.udp_port.first), (7999, 7950));
        assert_eq!(config.keys.get("APIone").map(String::as_str), Some("s3cret"));
    }

    #[test]
    fn webhooks_need_a_known_key_and_urls() {
        let yaml = |api_key: &str, url: &str| {
            format!("keys: {{APIone: s3cret}}\nwebhook:\n  api_key: {api_key}\n  urls: ['{url}']\n")
        };
        let config = from_body(&yaml("APIone", "https://example.org/hook")).unwrap();
        assert_eq!((config.webhook.api_key.as_str(), config.webhook.queue_max), ("APIone", 100));
        assert!(matches!(from_body(&yaml("other", "https://example.org/")), Err(ConfigError::WebhookKey)));
        for wrong in ["ftp://example.org/", "example.org", "/hook", ""] {
            let refused = from_body(&yaml("APIone", wrong));
            assert!(matches!(refused, Err(ConfigError::WebhookUrl(url)) if url == wrong), "{wrong}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let yaml = "keys: {APIone: verysecret}\nrtc:\n  turn_servers:\n    - {host: a.org, port: 1, secret: verysecret}\n    \
                    - {host: b.org, port: 1, username: known, credential: verysecret}\n";
        let printed = print(&from_body(yaml).unwrap());
        assert!(!printed.contains("verysecret"));
        assert!(printed.contains("b.org") && printed.contains("known"));
    }

    #[test]
    fn turn_is_configured_in_livekits_words() {
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(secret.path(), "from-a-file\n").unwrap();
        let yaml = format!(
            "keys: {{a: b}}\nrtc:\n  stun_servers: ['a.org:3478']\n  turn_servers:\n    - {{host: b.org, port: 443, protocol: \
             tls, secret_file: {}}}\nturn:\n  enabled: true\n  domain: turn.example.org\n  external_tls: true\n  \
             relay_range_start: 1024\n  relay_range_end: 3000\n  deny_peer_cidrs: ['203.0.113.0/24']\n",
            secret.path().display()
        );
        let config = from_body(&yaml).unwrap();
        assert_eq!(
            (config.turn.tls_port, config.turn.udp_port, config.turn.ttl_seconds),
            (5_349, 3_478, 300)
        );
        assert_eq!((config.turn.relay_range_start, config.turn.per_user_relay_allocation_limit), (1_024, 12));
        let server = &config.rtc.turn_servers[0];
        assert_eq!((server.secret.as_str(), server.ttl), ("from-a-file", 14_400));
        assert!(!from_body("keys: {a: b}").unwrap().turn.enabled);
        let error = from_body("keys: {a: b}\nturn: {enabled: true}").unwrap_err().to_string();
        assert!(error.starts_with("turn.domain is missing"), "{error}");
        let wrong = "keys: {a: b}\nrtc: {turn_servers: [{host: b.org, port: 1, pasword: x}]}";
        assert!(from_body(wrong).unwrap_err().to_string().contains("pasword"));
    }
}
