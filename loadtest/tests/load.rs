//! The generator against a server of the same build, on free ports of loopback: what it says of a good run, and that it sees
//! what is wrong with a bad one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may fail as tests do")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const KEY: &str = "testkey";
const SECRET: &str = "a-secret-of-this-test-only-0123456789-abcdef";

/// A server of its own for each test.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start() -> Self {
        let (http, media) = (free_tcp_port(), free_udp_port());
        let mut child = Command::new(server_binary())
            .args(["serve", "--keys", &format!("{KEY}: {SECRET}"), "--node-ip", "127.0.0.1"])
            .args(["--bind", "127.0.0.1", "--port", &http.to_string()])
            .args(["--udp-port", &media.to_string(), "--tcp-port", "0", "--shards", "1"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(("127.0.0.1", http)).is_err() {
            if let Some(status) = child.try_wait().unwrap() {
                let mut said = String::new();
                child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("the server ended: {status} {said}");
            }
            assert!(Instant::now() < deadline, "the server does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        let stderr = BufReader::new(child.stderr.take().unwrap());
        // A full pipe would stop the server.
        std::thread::spawn(move || stderr.lines().count());
        Self { child, url: format!("ws://127.0.0.1:{http}") }
    }

    /// Runs the generator on it; whether it was content, and what it wrote.
    fn run(&self, name: &str, arguments: &[&str]) -> (bool, serde_json::Value) {
        let json = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.json"));
        // Left from an earlier run, it would be taken for this one's.
        let _ = std::fs::remove_file(&json);
        let output = Command::new(env!("CARGO_BIN_EXE_auralink-loadtest"))
            .args(["run", "--url", &self.url, "--key", KEY, "--secret", SECRET])
            .args(["--server-pid", &self.child.id().to_string(), "--json", json.to_str().unwrap()])
            .args(arguments)
            .output()
            .expect("the generator starts");
        let text = std::fs::read_to_string(&json).unwrap_or_else(|error| {
            let said = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            panic!("{error}: {}{}", said.0, said.1)
        });
        (output.status.success(), serde_json::from_str(&text).unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `cargo test --workspace` builds it beside us; building it from here would build half of the workspace a second time.
fn server_binary() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_auralink-loadtest")).with_file_name("auralink");
    assert!(binary.exists(), "{} is missing: cargo build -p auralink-controlplane", binary.display());
    binary
}

fn free_tcp_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn free_udp_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn number(point: &serde_json::Value, path: &str) -> f64 {
    point.pointer(path).and_then(serde_json::Value::as_f64).unwrap_or_else(|| panic!("no {path}: {point}"))
}

#[test]
fn video_arrives_whole_and_what_it_cost_is_known() {
    let server = Server::start();
    // A test machine has other things to do than to publish in time: only the server is judged here.
    let (_, points) = server.run("whole", &["--subscribers", "5", "--seconds", "3", "--warmup", "1"]);
    let point = &points[0];
    assert_eq!(point["failures"], serde_json::json!([]), "{point}");
    assert_eq!(number(point, "/arrived/gaps"), 0.0);
    assert!(
        number(point, "/arrived/compared") > 10.0 && number(point, "/arrived/mismatched") == 0.0,
        "{point}"
    );
    assert!(number(point, "/forwarded") > 3_000.0, "{point}");
    assert!(number(point, "/cpu_us_per_packet") > 0.0 && number(point, "/latency_us/p50") > 0.0, "{point}");
    assert!(number(point, "/syscalls_per_packet") > 0.0, "{point}");
}

#[test]
fn losses_are_repaired_when_asked_for_and_gaps_when_not() {
    let server = Server::start();
    let lossy = ["--subscribers", "3", "--seconds", "3", "--warmup", "1", "--loss", "5"];
    let (_, points) = server.run("repaired", &lossy);
    let point = &points[0];
    assert!(number(point, "/arrived/dropped") > 20.0 && number(point, "/arrived/repaired") > 10.0, "{point}");
    let (is_content, points) = server.run("lost", &[&lossy[..], &["--no-nack"]].concat());
    let point = &points[0];
    assert!(number(point, "/arrived/gaps") > 20.0, "{point}");
    let failures = point["failures"].to_string();
    assert!(!is_content && failures.contains("gaps"), "{point}");
}

#[test]
fn clients_come_and_go_and_idle_and_meet() {
    let server = Server::start();
    let (is_content, report) =
        server.run("churn", &["--workload", "churn", "--rooms", "2", "--subscribers", "3", "--count", "10"]);
    assert!(is_content && number(&report, "/cpu_ms") > 0.0 && number(&report, "/failed") == 0.0, "{report}");
    let arguments = ["--workload", "join", "--subscribers", "2", "--count", "5", "--joining", "1"];
    let (_, report) = server.run("join", &arguments);
    assert_eq!(number(&report, "/keyframe_us/count"), 5.0, "{report}");
    let arguments = ["--workload", "idle", "--subscribers", "4", "--seconds", "1", "--warmup", "0"];
    let (_, points) = server.run("idle", &arguments);
    assert!(points[0]["server"]["core_share"].is_number() && points[0]["forwarded"] == 0, "{points}");
    let arguments = ["--workload", "meeting", "--subscribers", "3", "--seconds", "2", "--warmup", "1"];
    let (_, points) = server.run("meeting", &arguments);
    assert!(number(&points[0], "/arrived/compared") > 10.0, "{points}");
    assert_eq!(points[0]["failures"], serde_json::json!([]), "{points}");
}
