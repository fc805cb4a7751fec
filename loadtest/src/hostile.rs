//! `hostile`: sends a server what it must survive, while a healthy pair in another room shows that nobody else is harmed.
//! Every attack is bounded in count and time, and goes only to the server named.

mod attacks;
mod datagrams;
mod healthy;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::client::{Client, JoinOptions, Shared};
use crate::http::Http;
use crate::metrics::risen;
use crate::target::Target;
use healthy::Healthy;

/// After an attack, until what it did can be seen: the shards report four times a second.
const SETTLE: Duration = Duration::from_millis(800);
/// Consent of a client that vanished lasts 30 s (RFC 7675), then it is removed.
const VANISHED_MAX: Duration = Duration::from_secs(45);
/// Frames and sounds two healthy peers receive at least in [`SETTLE`].
const HEALTHY_MIN: u64 = 35;

/// Sends the server malformed, forged and too much of everything, and shows that others are not harmed.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Hostile {
    #[command(flatten)]
    target: Target,
    /// Only attacks whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

/// What every attack has at hand.
struct Stage {
    shared: Shared,
    target: Target,
    http: Http,
    healthy: Healthy,
    violations: Vec<String>,
    table: String,
}

impl Hostile {
    pub(crate) async fn run(self) -> Result<()> {
        let shared = Shared::new()?;
        let http = Http::new(&self.target.url)?;
        let healthy = Healthy::start(&self.target, &shared).await?;
        let target = self.target.clone();
        let mut stage = Stage { shared, target, http, healthy, violations: Vec::new(), table: String::new() };
        let vanished = stage.vanish().await?;
        for attack in attacks::ALL.iter().filter(|attack| attack.name.contains(&self.only)) {
            stage.suffer(attack).await?;
        }
        stage.expect_gone(vanished).await?;
        let Stage { healthy, mut violations, table, .. } = stage;
        violations.extend(healthy.stop().await);
        crate::output::print(&table)?;
        for violation in &violations {
            crate::output::print(&format!("VIOLATION {violation}\n"))?;
        }
        if !violations.is_empty() {
            bail!("{} violations", violations.len());
        }
        Ok(())
    }
}

impl Stage {
    /// One attack and what became of it.
    async fn suffer(&mut self, attack: &attacks::Attack) -> Result<()> {
        let before = self.http.drops().await?;
        let begun = Instant::now();
        let mut attacker = self.attacker(attack.name).await?;
        let sent = attacks::run(attack.kind, &mut attacker).await?;
        attacker.run_until(Instant::now() + SETTLE).await?;
        let survived = attacker.closed.is_none();
        drop(attacker);
        let frames = self.healthy.frames();
        tokio::time::sleep(SETTLE).await;
        let gained = self.healthy.frames() - frames;
        if gained < HEALTHY_MIN {
            self.violations.push(format!("{}: healthy peers received {gained} frames after it", attack.name));
        }
        let drops = risen(&before, &self.http.drops().await?);
        for reason in attack.drops {
            if !drops.contains_key(*reason) {
                self.violations.push(format!("{}: no drop counted as {reason}", attack.name));
            }
        }
        // Writing to a String cannot fail.
        let _ = writeln!(
            self.table,
            "{:<34} {sent:>7} sent in {:>4.1} s, healthy peers +{gained}, sender {}, drops {drops:?}",
            attack.name,
            begun.elapsed().as_secs_f32(),
            if survived { "stays" } else { "is gone" },
        );
        Ok(())
    }

    /// A client of its own room, connected and publishing.
    async fn attacker(&self, name: &str) -> Result<Client> {
        let room = format!("{} hostile", self.target.room);
        let identity = name.replace(' ', "-");
        let options = JoinOptions {
            url: self.target.url.clone(),
            token: self.target.token_for(&identity, &room)?,
            layers: 3,
            subscribes: true,
        };
        let mut client = Client::join(&options, &self.shared).await.context("attacker cannot join")?;
        client.connect().await?;
        client.run_until(Instant::now() + Duration::from_millis(500)).await?;
        Ok(client)
    }

    /// A client that stops existing: no good-bye on any layer.
    async fn vanish(&self) -> Result<Instant> {
        drop(self.attacker("vanished").await?);
        Ok(Instant::now())
    }

    async fn expect_gone(&mut self, since: Instant) -> Result<()> {
        let room = format!("{} hostile", self.target.room);
        let token = self.target.token_for("observer", &room)?;
        // A participant of the room keeps it from ending, so that an empty answer means what it says.
        let mut witness = self.attacker("witness").await?;
        loop {
            let there = self.http.participants(&token, &room).await?;
            if !there.iter().any(|identity| identity == "vanished") {
                let seconds = since.elapsed().as_secs();
                let _ = writeln!(self.table, "{:<34} removed within {seconds} s", "a client that vanished");
                return Ok(());
            }
            if since.elapsed() > VANISHED_MAX {
                self.violations.push(format!("vanished client still listed after {VANISHED_MAX:?}"));
                return Ok(());
            }
            witness.run_until(Instant::now() + Duration::from_millis(500)).await?;
        }
    }
}
