//! A comparison in two sittings: the servers are started in one order, measured in turns, and started anew in the other order,
//! since what starts first finds other memory and costs a few per cent more or less than its like.

use anyhow::Result;

use super::net::Server;
use super::{Bench, Rooms, SERVER_NS, Side, Task, address, finish, load};

/// What the JSON of the first sitting is called after the row's name; that of the second has the rounds of both.
const FIRST: &str = "-first";

/// All sides in both orders; the last table is of all rounds.
pub(super) fn compare(bench: &Bench<'_>) -> Result<()> {
    let mut sides: Vec<&Side> = bench.row.sides.iter().collect();
    let servers = start(bench, &sides)?;
    let rooms = load::rooms(bench, &servers)?;
    sitting(bench, &servers, rooms, true)?;
    drop(servers);
    sides.reverse();
    sitting(bench, &start(bench, &sides)?, rooms, false)
}

fn start(bench: &Bench<'_>, sides: &[&Side]) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    for (index, side) in sides.iter().enumerate() {
        let server = Server::start(bench, index, side)?;
        println!("{} has {}", server.url, side.flags.join(" "));
        servers.push(server);
    }
    Ok(servers)
}

fn sitting(bench: &Bench<'_>, servers: &[Server], rooms: u32, is_first: bool) -> Result<()> {
    let half = matches!(bench.row.rooms, Rooms::LoadOnHalf(_));
    let _half = half.then(|| load::Half::hold(servers)).transpose()?;
    let rounds = bench.how.rounds.div_ceil(2);
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
    if !is_first {
        command.arg("--reversed").arg(bench.json(FIRST));
    }
    finish(command.arg("--json").arg(bench.json(if is_first { FIRST } else { "" })))
}
