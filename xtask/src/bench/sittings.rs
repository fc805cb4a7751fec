//! A comparison in two sittings: the servers are started in one order, measured in turns, and started anew in the other order,
//! since what starts first finds other memory and costs a few per cent more or less than its like.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::net::Server;
use super::{Bench, Rooms, SERVER_NS, Side, Task, address, finish, load};

/// Numbers of a point, by name: where they stand in its JSON, and what they are multiplied by.
const MEASURES: [(&str, &str, f64); 8] = [
    ("CPU \u{b5}s per packet", "/cpu_us_per_packet", 1.0),
    ("core share %", "/server/core_share", 100.0),
    ("softirq share %", "/server/machine_softirq_share", 100.0),
    ("packets/s", "/forwarded_per_second", 1.0),
    ("gaps", "/arrived/gaps", 1.0),
    ("latency p50 ms", "/latency_us/p50", 0.001),
    ("latency p99 ms", "/latency_us/p99", 0.001),
    ("RSS MB", "/server/rss_bytes", 1e-6),
];

/// All sides in both orders; the table at the end is of all rounds.
pub(super) fn compare(bench: &Bench<'_>) -> Result<()> {
    let forward: Vec<&Side> = bench.row.sides.iter().collect();
    let mut backward = forward.clone();
    backward.reverse();
    let rounds = bench.how.rounds.div_ceil(2);
    let mut rooms = None;
    let mut files = Vec::new();
    for (sides, suffix) in [(&forward, ""), (&backward, "-reversed")] {
        let mut servers = Vec::new();
        for (index, side) in sides.iter().enumerate() {
            servers.push(Server::start(bench, index, side)?);
        }
        let rooms = match rooms {
            Some(rooms) => rooms,
            None => *rooms.insert(load::rooms(bench, &servers)?),
        };
        sitting(bench, &servers, rooms, rounds, suffix)?;
        files.push(bench.json(suffix));
    }
    print(bench, &files)
}

fn sitting(bench: &Bench<'_>, servers: &[Server], rooms: u32, rounds: u32, suffix: &str) -> Result<()> {
    let half = matches!(bench.row.rooms, Rooms::LoadOnHalf(_));
    let _half = half.then(|| load::Half::hold(servers)).transpose()?;
    let mut command = bench.generator("compare", rooms);
    for server in servers {
        command.args([&server.url, "--server-pid", &server.pid()]);
    }
    command.args(["--rounds", &rounds.to_string(), "--seconds", &bench.how.seconds.to_string()]);
    if bench.row.task == Task::CompareWithFloor {
        let prefix = format!("ip netns exec {SERVER_NS}");
        let ip = address(bench.row.wire, 0);
        command.args(["--floor", "--floor-ip", &ip, "--floor-cpu", "1", "--floor-prefix", &prefix]);
    }
    finish(command.arg("--json").arg(bench.json(suffix)))
}

/// Least, median and largest of each side over both sittings.
fn print(bench: &Bench<'_>, files: &[PathBuf]) -> Result<()> {
    let sittings = files.iter().map(read).collect::<Result<Vec<_>>>()?;
    let sides = bench.row.sides.len();
    let mut names: Vec<String> = bench.row.sides.iter().map(|side| side.flags.join(" ")).collect();
    if bench.row.task == Task::CompareWithFloor {
        names.push("floor".into());
    }
    println!("{}, both orders: least / median / largest", bench.row.name);
    for (at, name) in names.iter().enumerate() {
        println!("  {name}");
        // The second sitting has the servers in reverse, and the floor where it was.
        let places = [at, if at < sides { sides - 1 - at } else { at }];
        for (measure, pointer, factor) in MEASURES {
            let mut values = Vec::new();
            for (sitting, place) in sittings.iter().zip(places) {
                let points = sitting.pointer(&format!("/sides/{place}/points")).and_then(Value::as_array);
                let Some(points) = points else { bail!("a sitting without points of {name}") };
                values.extend(points.iter().filter_map(|point| point.pointer(pointer)?.as_f64()));
            }
            if let Some([least, median, largest]) = spread(&mut values) {
                let [least, median, largest] = [least, median, largest].map(|value| value * factor);
                println!("    {measure:<20} {least:.3} / {median:.3} / {largest:.3}");
            }
        }
    }
    Ok(())
}

fn read(file: impl AsRef<Path>) -> Result<Value> {
    let file = file.as_ref();
    let text = std::fs::read_to_string(file).with_context(|| format!("no {}", file.display()))?;
    Ok(serde_json::from_str(&text)?)
}

fn spread(values: &mut [f64]) -> Option<[f64; 3]> {
    values.sort_by(f64::total_cmp);
    let (first, last) = (values.first()?, values.last()?);
    let (lower, upper) = (values.get((values.len() - 1) / 2)?, values.get(values.len() / 2)?);
    Some([*first, f64::midpoint(*lower, *upper), *last])
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn the_middle_of_an_even_number_lies_between_two() {
        assert_eq!(spread(&mut [4.0, 1.0, 9.0, 2.0]), Some([1.0, 3.0, 9.0]));
        assert_eq!(spread(&mut [5.0, 1.0, 3.0]), Some([1.0, 3.0, 5.0]));
        assert_eq!(spread(&mut []), None);
    }
}
