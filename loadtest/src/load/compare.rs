//! `compare`: the same workload on several servers, or on a server and the floor, in turns, so that what the machine does
//! meanwhile falls on all of them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::floor::{Floor, Place};
use super::options::{Common, Server, Turnover, Workload};
use super::point::Point;
use super::run::Run;
use crate::target::Credentials;

/// Measures one workload on several servers, or on one and the floor, in turns.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Compare {
    /// Servers.
    #[arg(required = true)]
    urls: Vec<String>,
    /// Their processes, in the same order.
    #[arg(long = "server-pid")]
    pids: Vec<u32>,
    #[command(flatten)]
    credentials: Credentials,
    /// Adds the floor to the comparison.
    #[arg(long)]
    floor: bool,
    #[command(flatten)]
    place: Place,
    /// Rounds counted; one more is run before them and not counted.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// JSON of an earlier comparison of the same servers, started and named in reverse: its rounds count with these.
    #[arg(long)]
    reversed: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "video")]
    workload: Workload,
    #[command(flatten)]
    common: Common,
}

/// Times a point is measured before it stands as invalid: other tenants of the machine take its processors now and then.
const ATTEMPTS_MAX: usize = 8;

/// One side of the comparison.
enum Side {
    Server(Box<Run>),
    Floor(Box<Floor>),
}

/// Everything that was measured.
#[derive(Debug, Serialize, Deserialize)]
struct Comparison {
    sides: Vec<SideReport>,
    /// Of each side to the last one, for the median of what is compared.
    #[serde(skip_deserializing)]
    ratios: Vec<(String, f64)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SideReport {
    who: String,
    /// By name: least, median, largest of the rounds.
    #[serde(skip_deserializing)]
    spread: Vec<(String, [f64; 3])>,
    points: Vec<Point>,
}

/// A number a point may give.
type Measure = (&'static str, fn(&Point) -> Option<f64>);

const MEASURES: [Measure; 8] = [
    ("CPU µs per packet", |p| p.cpu_us_per_packet),
    ("core share %", |p| Some(p.server.as_ref()?.core_share * 100.0)),
    ("softirq share %", |p| Some(p.server.as_ref()?.machine_softirq_share * 100.0)),
    ("packets/s", |p| Some(p.forwarded_per_second)),
    ("gaps", |p| Some(p.arrived.gaps as f64)),
    ("latency p50 µs", |p| Some(p.latency_us.p50 as f64)),
    ("latency p99 µs", |p| Some(p.latency_us.p99 as f64)),
    ("RSS MB", |p| Some(p.server.as_ref()?.rss_bytes as f64 / 1e6)),
];

impl Side {
    /// Measures until the generator kept up, a few times at most. What the server did wrong is never measured again.
    fn valid_point(&self, round: &str) -> Result<Point> {
        let mut attempts = 0;
        loop {
            let point = super::on_runtime(async {
                match self {
                    Self::Server(run) => run.point().await,
                    Self::Floor(floor) => floor.point().await,
                }
            })?;
            crate::output::complain(&format!("{round}: {}", point.table()))?;
            attempts += 1;
            if point.invalid.is_empty() || !point.failures.is_empty() || attempts == ATTEMPTS_MAX {
                return Ok(point);
            }
            crate::output::print(&format!("{round} is measured again: {}\n", point.invalid.join(", ")))?;
        }
    }
}

impl Compare {
    pub(crate) fn run(self) -> Result<()> {
        self.common.check()?;
        self.common.pin()?;
        if !self.pids.is_empty() && self.pids.len() != self.urls.len() {
            bail!("as many --server-pid as servers, or none");
        }
        if self.rounds == 0 || self.urls.len() + usize::from(self.floor) < 2 {
            bail!("at least one round and two sides: name two servers, or one and --floor");
        }
        let sides = self.sides();
        let mut points: Vec<Vec<Point>> = match &self.reversed {
            Some(path) => Comparison::read(path)?.turned_about(self.urls.len()),
            None => sides.iter().map(|_| Vec::new()).collect(),
        };
        if points.len() != sides.len() {
            bail!("the earlier comparison has {} sides, this one has {}", points.len(), sides.len());
        }
        for round in 0..=self.rounds {
            for turn in 0..sides.len() {
                // There and back again, so that no side always comes behind the same other one.
                let at = if round % 2 == 0 { turn } else { sides.len() - 1 - turn };
                let (Some(side), Some(points)) = (sides.get(at), points.get_mut(at)) else { continue };
                let counts = if round == 0 { " (not counted)" } else { "" };
                let point = side.valid_point(&format!("round {round}{counts}"))?;
                if round > 0 {
                    points.push(point);
                }
            }
        }
        let comparison = Comparison::of(points);
        crate::output::print(&comparison.table())?;
        if let Some(path) = &self.common.json {
            super::write_json(path, &comparison)?;
        }
        let bad =
            comparison.sides.iter().flat_map(|side| &side.points).filter(|point| !point.is_good()).count();
        if bad > 0 {
            bail!("{bad} points are invalid or failed");
        }
        Ok(())
    }

    fn sides(&self) -> Vec<Side> {
        let mut common = self.common.clone();
        common.json = None;
        let servers = self.urls.iter().enumerate().map(|(at, url)| {
            let server =
                Server { target: self.credentials.target(url), server_pid: self.pids.get(at).copied() };
            let turnover = Turnover::default();
            Side::Server(Box::new(Run { server, workload: self.workload, turnover, common: common.clone() }))
        });
        let floor = self.floor.then(|| {
            let (place, workload, common) = (self.place.clone(), self.workload, common.clone());
            Side::Floor(Box::new(Floor { place, workload, common }))
        });
        servers.chain(floor).collect()
    }
}

impl Comparison {
    fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no comparison", path.display()))
    }

    /// Its points in the order of a comparison that names the servers in reverse; a floor stays behind them.
    fn turned_about(self, servers: usize) -> Vec<Vec<Point>> {
        let mut points: Vec<Vec<Point>> = self.sides.into_iter().map(|side| side.points).collect();
        let servers = servers.min(points.len());
        points[..servers].reverse();
        points
    }

    fn of(points: Vec<Vec<Point>>) -> Self {
        let sides: Vec<SideReport> = points.into_iter().map(SideReport::of).collect();
        let mut ratios = Vec::new();
        if let Some((last, others)) = sides.split_last() {
            for other in others {
                for ((name, theirs), (_, ours)) in other.spread.iter().zip(&last.spread) {
                    let ([_, theirs, _], [_, ours, _]) = (theirs, ours);
                    if *ours > 0.0 {
                        ratios.push((format!("{name}: {} / {}", other.who, last.who), theirs / ours));
                    }
                }
            }
        }
        Self { sides, ratios }
    }

    fn table(&self) -> String {
        let mut text = format!("{:<22}", "min / median / max");
        // Writing to a String cannot fail.
        for side in &self.sides {
            let _ = write!(text, "{:>36}", side.who);
        }
        text.push('\n');
        for (at, (name, _)) in MEASURES.iter().enumerate() {
            let _ = write!(text, "{name:<22}");
            for side in &self.sides {
                let spread = side.spread.get(at).map(|(_, spread)| *spread);
                let cell = match spread {
                    Some([least, median, most]) if median.is_finite() => {
                        format!("{least:.3} / {median:.3} / {most:.3}")
                    }
                    _ => "-".into(),
                };
                let _ = write!(text, "{cell:>36}");
            }
            text.push('\n');
        }
        for (name, ratio) in &self.ratios {
            let _ = writeln!(text, "ratio of medians  {name} = {ratio:.3}");
        }
        for side in &self.sides {
            for (round, point) in side.points.iter().enumerate() {
                for reason in point.invalid.iter().chain(&point.failures) {
                    let _ = writeln!(text, "round {}, {}: {reason}", round + 1, side.who);
                }
            }
        }
        text
    }
}

impl SideReport {
    fn of(points: Vec<Point>) -> Self {
        let spread = MEASURES.iter().map(|(name, measure)| {
            let mut values: Vec<f64> = points.iter().filter_map(measure).collect();
            ((*name).to_owned(), spread(&mut values))
        });
        let spread = spread.collect();
        Self { who: points.last().map(|point| point.who.clone()).unwrap_or_default(), spread, points }
    }
}

/// Least, median, largest; not numbers where there are none.
fn spread(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (values.first(), values.last()) else { return [f64::NAN; 3] };
    let half = values.len() / 2;
    let upper = values.get(half).copied().unwrap_or(*last);
    let lower = values
        .get(half.saturating_sub(usize::from(values.len().is_multiple_of(2))))
        .copied()
        .unwrap_or(upper);
    [*first, (lower + upper) / 2.0, *last]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(who: &str, latency: u64) -> Point {
        let mut point = Point { who: who.into(), ..Point::default() };
        point.latency_us.p50 = latency;
        point
    }

    #[test]
    fn spreads_are_least_median_largest() {
        assert_eq!(spread(&mut [5.0, 1.0, 3.0]), [1.0, 3.0, 5.0]);
        assert_eq!(spread(&mut [4.0, 1.0, 2.0, 9.0]), [1.0, 3.0, 9.0]);
        assert!(spread(&mut []).iter().all(|value| value.is_nan()));
    }

    #[test]
    fn rounds_of_both_orders_belong_to_the_same_server() {
        let earlier = Comparison::of(vec![vec![point("a", 1)], vec![point("b", 2)], vec![point("floor", 3)]]);
        let text = serde_json::to_string(&earlier).unwrap();
        let mut points = serde_json::from_str::<Comparison>(&text).unwrap().turned_about(2);
        // What was second is first now, and listens where the first did.
        for (points, later) in points.iter_mut().zip([point("a", 20), point("b", 10), point("floor", 30)]) {
            points.push(later);
        }
        let comparison = Comparison::of(points);
        let latencies: Vec<(&str, Vec<u64>)> = comparison
            .sides
            .iter()
            .map(|side| (side.who.as_str(), side.points.iter().map(|p| p.latency_us.p50).collect()))
            .collect();
        assert_eq!(latencies, [("a", vec![2, 20]), ("b", vec![1, 10]), ("floor", vec![3, 30])]);
    }

    #[test]
    fn the_ratio_is_of_the_medians_and_to_the_last_side() {
        let points = vec![
            vec![point("a", 30), point("a", 10), point("a", 1_000)],
            vec![point("b", 10), point("b", 10), point("b", 20)],
        ];
        let comparison = Comparison::of(points);
        let ratio = comparison.ratios.iter().find(|(name, _)| name == "latency p50 µs: a / b").unwrap();
        assert!((ratio.1 - 3.0).abs() < 1e-9);
        let table = comparison.table();
        assert!(table.contains("10.000 / 30.000 / 1000.000"), "{table}");
    }
}
