//! `auralink`: reads the command line and the configuration, starts the data plane, then the control plane.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;

use auralink_controlplane::auth::{Claims, Keys, VideoGrant};
use auralink_controlplane::cli;
use auralink_controlplane::config::flags::{Cli, Role, ServeArgs, TokenArgs, TokenRole};
use auralink_controlplane::config::{Config, DEV_KEY, DEV_SECRET, Profile, source};
use auralink_controlplane::media::{self, Media};
use auralink_controlplane::rooms::actor::unix_ms;
use auralink_controlplane::server::{self, Control};
use auralink_controlplane::telemetry;
use auralink_controlplane::turn::Turn;
use auralink_node::Node;
use clap::Parser as _;

/// HS256 wants a secret as long as its hash (RFC 7518 §3.2).
const SECRET_BYTES_SAFE: usize = 32;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            let _ = writeln!(std::io::stderr(), "auralink: {line} (--help lists what there is)");
            return ExitCode::from(2);
        }
        // Help and version were asked for.
        Err(error) => error.exit(),
    };
    let bare_is_dev = cli.role.is_none();
    let done = match cli.role.unwrap_or(Role::Serve(cli.serve)) {
        Role::Serve(args) => serve(&args, bare_is_dev),
        Role::Token(TokenRole::Create(args)) => create_token(&args),
        Role::Rooms(args) => cli::rooms::run(&args).and_then(|answer| say(&answer)),
        Role::CheckConfig(args) => load(&args, false).and_then(|_| say("the configuration is good")),
        Role::PrintConfig(args) => {
            load(&args, false).and_then(|config| say(source::print(&config).trim_end()))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The last words of the process; nobody is left to tell if they cannot be written.
            let _ = writeln!(std::io::stderr(), "auralink: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One line, or several, for whoever started the program.
fn say(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

fn load(args: &ServeArgs, bare_is_dev: bool) -> anyhow::Result<Config> {
    let loaded = source::load(args, std::env::vars(), bare_is_dev)?;
    for key in loaded.ignored {
        writeln!(std::io::stderr(), "auralink: `{key}` has no effect in this version")?;
    }
    Ok(loaded.config)
}

fn serve(args: &ServeArgs, bare_is_dev: bool) -> anyhow::Result<()> {
    let config = load(args, bare_is_dev)?;
    telemetry::start_logs(&config.logging).map_err(anyhow::Error::msg)?;
    for (key, _) in config.keys.iter().filter(|(_, secret)| secret.len() < SECRET_BYTES_SAFE) {
        if config.profile != Profile::Dev {
            tracing::warn!(%key, "an API secret shorter than {SECRET_BYTES_SAFE} bytes can be guessed");
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("control").build()?;
    runtime.block_on(async {
        server::check_file_limit()?;
        // The port is tried first: it is what most often cannot be had.
        let listeners = server::listen(&config).await?;
        let turn = Turn::start(&config).await?;
        let (node, handle, events) = Node::start(&media::node_config(&config))?;
        let reports = node.reports();
        let media = Media::new(handle);
        let reports = media.reports(reports);
        let mut control = Control::new(config.clone(), media, Some(reports))?;
        control.attach(turn);
        greet(&config)?;
        control.run(listeners, events, stop_signal()?).await?;
        anyhow::Ok(())
    })
}

/// Ctrl-C, or what service managers send.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Where the server is and, in dev, how to get in.
fn greet(config: &Config) -> anyhow::Result<()> {
    let host = match config.bind_addresses.first() {
        Some(ip) if ip.is_loopback() => "localhost".to_owned(),
        Some(ip) if !ip.is_unspecified() => in_url(*ip),
        _ => config.advertise().first().map_or_else(|| "localhost".into(), |ip| in_url(*ip)),
    };
    let port = config.port;
    say(&format!("AuraLink {} listens", env!("CARGO_PKG_VERSION")))?;
    say(&format!("  URL     ws://{host}:{port}"))?;
    if config.profile == Profile::Dev && config.keys.get(DEV_KEY).is_some_and(|s| s == DEV_SECRET) {
        say(&format!("  key     {DEV_KEY}"))?;
        say(&format!("  secret  {DEV_SECRET}"))?;
    }
    say(&format!("  Meet    http://{host}:{port}/meet"))
}

/// An address as URLs write it (RFC 3986 §3.2.2).
fn in_url(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn create_token(args: &TokenArgs) -> anyhow::Result<()> {
    let (key, secret) = match (&args.api_key, &args.api_secret) {
        (Some(key), Some(secret)) => (key.clone(), secret.clone()),
        _ if args.dev => (DEV_KEY.to_owned(), DEV_SECRET.to_owned()),
        _ => anyhow::bail!("token create needs --api-key and --api-secret, or --dev"),
    };
    if args.join && (args.room.is_empty() || args.identity.is_empty()) {
        anyhow::bail!("--join needs --room and --identity");
    }
    let now_s = unix_ms() as f64 / 1_000.0;
    let claims = Claims {
        sub: args.identity.clone(),
        name: args.name.clone(),
        nbf: Some(now_s),
        exp: Some(now_s + args.valid_for_s as f64),
        video: VideoGrant {
            room_join: args.join,
            room: args.room.clone(),
            room_create: args.create,
            room_list: args.list,
            room_admin: args.admin,
            ..VideoGrant::default()
        },
        ..Claims::default()
    };
    let keys = Keys::new([(key.clone(), secret)].into());
    let token = keys.sign(&key, &claims).ok_or_else(|| anyhow::anyhow!("the token could not be signed"))?;
    say(&token)
}
