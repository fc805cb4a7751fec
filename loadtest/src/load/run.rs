//! `run`: one workload against one server.

use std::sync::Arc;

use anyhow::{Result, bail};
use auralink_rtc::srtp::Profile;

use super::link::Milestones;
use super::options::{Common, Server, Turnover, Workload};
use super::point::Point;
use super::schedule::Schedule;
use super::session::SessionConfig;
use super::stage::{Part, Ready, Stage, is_set};
use super::tracks::{Publish, STREAMS_PER_CLIENT, layer_schedule};
use super::{churn, join, memory};
use crate::http::Http;

/// The only profile measured, on both sides.
pub(crate) const PROFILE: Profile = Profile::AeadAes128Gcm;

/// Measures one workload on any LiveKit-compatible server.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) server: Server,
    #[arg(long, value_enum, default_value = "video")]
    pub(crate) workload: Workload,
    #[command(flatten)]
    pub(crate) turnover: Turnover,
    #[command(flatten)]
    pub(crate) common: Common,
}

impl Run {
    pub(crate) fn run(self) -> Result<()> {
        self.common.check()?;
        self.common.pin()?;
        match self.workload {
            Workload::Churn => return super::on_runtime(churn::run(&self)),
            Workload::Memory => return super::on_runtime(memory::run(&self)),
            Workload::Join => return super::on_runtime(join::run(&self)),
            _ => {}
        }
        let point = super::on_runtime(self.point())?;
        finish(&[point], self.common.json.as_deref())
    }

    /// One point: join, warm up, measure, leave.
    ///
    /// # Errors
    /// When it could not be measured at all.
    pub(crate) async fn point(&self) -> Result<Point> {
        let http = Http::new(&self.server.target.url)?;
        let mut stage = Stage::new(&self.common, Some(http), self.server.server_pid)?;
        let plan = self.plan()?;
        stage.publisher.publish_slowly(true);
        for parts in plan.waves {
            stage.enter(parts).await?;
        }
        let measured = stage.measure(self.common.warmup, self.common.seconds).await;
        stage.leave().await?;
        let mut point = Point {
            who: self.server.target.url.clone(),
            workload: self.workload.to_string(),
            pattern: self.common.pattern.to_string(),
            rooms: self.common.rooms,
            publishers: plan.publishers,
            subscribers: plan.subscribers,
            gaps_ppm: self.common.gaps_ppm,
            ..measured?
        };
        point.conclude(plan.silent);
        Ok(point)
    }

    fn plan(&self) -> Result<Plan> {
        match self.workload {
            Workload::Video | Workload::Audio => self.one_to_many(),
            Workload::Meeting => self.meeting(),
            Workload::Idle => self.idle(),
            other => bail!("the workload {other} is not measured by this command"),
        }
    }

    /// Publishers first, then everybody who receives them.
    fn one_to_many(&self) -> Result<Plan> {
        let (common, workload) = (&self.common, self.workload);
        let schedule = common.schedule(workload)?;
        let publishers = common.publishers(workload);
        let publish = if workload == Workload::Audio { Publish::AUDIO } else { Publish::VIDEO };
        let mut ids = 0..u64::MAX;
        let mut next = || ids.next().unwrap_or_default();
        let (mut senders, mut sinks) = (Vec::new(), Vec::new());
        for room in 0..common.rooms {
            let first = (room * publishers) as u64;
            let range = streams_of(first..first + publishers as u64);
            for _ in 0..publishers {
                let id = next();
                let config = self.config(id, room, publish, false, range.clone())?;
                senders.push(part(config, vec![Arc::clone(&schedule)], Arc::new(|_, _| true)));
            }
        }
        for room in 0..common.rooms {
            let first = (room * publishers) as u64;
            let range = streams_of(first..first + publishers as u64);
            let ready = receives(workload, publishers);
            for _ in 0..common.subscribers {
                let config = self.config(next(), room, Publish::NOTHING, true, range.clone())?;
                sinks.push(part(config, Vec::new(), Arc::clone(&ready)));
            }
        }
        Ok(Plan {
            publishers: senders.len(),
            subscribers: sinks.len(),
            waves: vec![senders, sinks],
            silent: false,
        })
    }

    /// Everybody publishes audio and three layers, and receives the audio and one layer of everybody else.
    fn meeting(&self) -> Result<Plan> {
        let count = self.common.subscribers;
        let mut schedules = vec![Arc::new(Schedule::audio())];
        schedules.extend((0..3).map(|layer| Arc::new(layer_schedule(layer))));
        let mut parts = Vec::new();
        for room in 0..self.common.rooms {
            let first = (room * count) as u64;
            let range = streams_of(first..first + count as u64);
            for id in first..first + count as u64 {
                let config = self.config(id, room, Publish::MEETING, count > 1, range.clone())?;
                let ready: Ready = Arc::new(move |milestones, tracks| {
                    let is_alone = count == 1;
                    is_alone || tracks >= 2 * (count - 1) && is_set(&milestones.keyframe_ns)
                });
                parts.push(part(config, schedules.clone(), ready));
            }
        }
        Ok(Plan { publishers: parts.len(), subscribers: parts.len(), waves: vec![parts], silent: count == 1 })
    }

    /// Everybody is connected and would receive, and nothing is published.
    fn idle(&self) -> Result<Plan> {
        let mut parts = Vec::new();
        for room in 0..self.common.rooms {
            for place in 0..self.common.subscribers {
                let id = (room * self.common.subscribers + place) as u64;
                let config = self.config(id, room, Publish::NOTHING, true, 0..0)?;
                parts.push(part(config, Vec::new(), Arc::new(|_, _| true)));
            }
        }
        Ok(Plan { publishers: 0, subscribers: parts.len(), waves: vec![parts], silent: true })
    }

    pub(crate) fn config(
        &self,
        id: u64,
        room: usize,
        publish: Publish,
        subscribes: bool,
        publishers: std::ops::Range<u32>,
    ) -> Result<SessionConfig> {
        let target = &self.server.target;
        Ok(SessionConfig {
            url: target.url.clone(),
            token: target.token_for(&format!("load-{id}"), &format!("{} {room}", target.room))?,
            id,
            publish,
            subscribes,
            publishers,
            asks_again: !self.common.no_nack,
            recorder: None,
            loss_percent: if subscribes { self.common.loss } else { 0.0 },
        })
    }
}

/// Who joins, wave by wave.
struct Plan {
    waves: Vec<Vec<Part>>,
    publishers: usize,
    subscribers: usize,
    /// Whether it is in order that nothing is received.
    silent: bool,
}

/// Stream numbers of these clients.
pub(crate) fn streams_of(clients: std::ops::Range<u64>) -> std::ops::Range<u32> {
    (clients.start * STREAMS_PER_CLIENT) as u32..(clients.end * STREAMS_PER_CLIENT) as u32
}

pub(crate) fn part(config: SessionConfig, schedules: Vec<Arc<Schedule>>, ready: Ready) -> Part {
    let place = config.id as usize;
    Part { config, schedules, place, ready }
}

/// A receiver is ready once it is offered all tracks and media came: of video a whole keyframe.
fn receives(workload: Workload, publishers: usize) -> Ready {
    let heard = move |milestones: &Milestones| match workload {
        Workload::Audio => is_set(&milestones.media_ns),
        _ => is_set(&milestones.keyframe_ns),
    };
    Arc::new(move |milestones, tracks| tracks >= publishers && heard(milestones))
}

/// Prints and writes points; an error when one of them is not what it should be.
pub(crate) fn finish(points: &[Point], json: Option<&std::path::Path>) -> Result<()> {
    for point in points {
        crate::output::print(&point.table())?;
    }
    if let Some(path) = json {
        super::write_json(path, &points)?;
    }
    let bad = points.iter().filter(|point| !point.is_good()).count();
    if bad > 0 {
        bail!("{bad} of {} points are invalid or failed", points.len());
    }
    Ok(())
}
