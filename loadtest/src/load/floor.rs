//! `floor`: the least the same packets can cost on this machine: the schedule, sizes, destinations and sinks of `run`, with a
//! sender that only seals and sends.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use auralink_ring::client::monotonic_ns;

use super::floor_sender::{Outcome, Plan, opener};
use super::link::{Keys, Link, connect_towards};
use super::options::{Common, Workload};
use super::point::Point;
use super::run::finish;
use super::sink::Sink;
use super::stage::Stage;

/// How and where the sender runs.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Place {
    /// Address the sender sends from.
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) floor_ip: IpAddr,
    /// CPU of the sender: the one the servers have.
    #[arg(long)]
    pub(crate) floor_cpu: Option<usize>,
    /// Command in front of the sender's, for another network namespace: "ip netns exec NAME".
    #[arg(long, default_value = "")]
    pub(crate) floor_prefix: String,
}

/// Measures what sealing and sending alone cost.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Floor {
    #[command(flatten)]
    pub(crate) place: Place,
    #[arg(long, value_enum, default_value = "video")]
    pub(crate) workload: Workload,
    #[command(flatten)]
    pub(crate) common: Common,
}

impl Floor {
    pub(crate) fn run(self) -> Result<()> {
        self.common.check()?;
        self.common.pin()?;
        let point = super::on_runtime(self.point())?;
        finish(&[point], self.common.json.as_deref())
    }

    /// One point.
    ///
    /// # Errors
    /// When it could not be measured at all.
    pub(crate) async fn point(&self) -> Result<Point> {
        let common = &self.common;
        if !matches!(self.workload, Workload::Video | Workload::Audio) {
            bail!("there is a floor of the workloads video and audio only");
        }
        let publishers = common.publishers(self.workload);
        let (mut sender, port) = SenderProcess::start(&self.place)?;
        let mut stage = Stage::new(common, None, Some(sender.child.id()))?;
        let server = SocketAddr::new(self.place.floor_ip, port);
        let mut plan = Plan {
            schedule: (*common.schedule(self.workload)?).clone(),
            origin_ns: monotonic_ns(),
            publishers: vec![Vec::new(); common.rooms * publishers],
            destinations: Vec::new(),
        };
        for room in 0..common.rooms {
            let heard = room * publishers..(room + 1) * publishers;
            for _ in 0..common.subscribers {
                let place = plan.destinations.len();
                let link = Link::new(connect_towards(server)?, Keys::Fixed(Box::new(opener(place)?)))?;
                let link = Arc::new(link);
                plan.destinations.push(link.local);
                plan.publishers.get_mut(heard.clone()).into_iter().flatten().for_each(|to| to.push(place));
                stage.receiver.add(place as u64, Sink::new(link, heard.start as u32..heard.end as u32, None));
            }
        }
        sender.begin(&plan)?;
        let measured = stage.measure(common.warmup, common.seconds).await;
        let outcome = sender.end()?;
        stage.leave().await?;
        let mut point = Point {
            who: "floor".into(),
            workload: self.workload.to_string(),
            pattern: common.pattern.to_string(),
            rooms: common.rooms,
            publishers: plan.publishers.len(),
            subscribers: plan.destinations.len(),
            ..measured?
        };
        point.conclude(false);
        if outcome.unsent > 0 {
            point.invalid.push(format!("the kernel did not take {} packets of the sender", outcome.unsent));
        }
        Ok(point)
    }
}

/// The sending child. Killed if we fail before its end.
struct SenderProcess {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl SenderProcess {
    fn start(place: &Place) -> Result<(Self, u16)> {
        let program = std::env::current_exe().context("where are we?")?;
        let mut words: Vec<String> = place.floor_prefix.split_whitespace().map(str::to_owned).collect();
        words.push(program.to_str().context("our path is not UTF-8")?.to_owned());
        words.extend(["floor-sender".to_owned(), "--bind".to_owned(), place.floor_ip.to_string()]);
        if let Some(cpu) = place.floor_cpu {
            words.extend(["--cpu".to_owned(), cpu.to_string()]);
        }
        let (command, arguments) = words.split_first().context("no command")?;
        let mut child = Command::new(command)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command}"))?;
        let output = BufReader::new(child.stdout.take().context("no output of the sender")?);
        let mut sender = Self { child, output };
        let port = sender.line()?.trim().parse().context("the sender named no port")?;
        Ok((sender, port))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the sender ended");
        Ok(line)
    }

    fn begin(&mut self, plan: &Plan) -> Result<()> {
        let input = self.child.stdin.as_mut().context("no input of the sender")?;
        writeln!(input, "{}", serde_json::to_string(plan)?).context("the sender ended")
    }

    fn end(&mut self) -> Result<Outcome> {
        drop(self.child.stdin.take());
        let outcome = serde_json::from_str(&self.line()?).context("the sender's last word is unreadable")?;
        ensure!(self.child.wait()?.success(), "the sender failed");
        Ok(outcome)
    }
}

impl Drop for SenderProcess {
    fn drop(&mut self) {
        // It has usually ended; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
