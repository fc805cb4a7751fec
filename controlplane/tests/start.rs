//! Starting the binary: one clear line for whatever an operator can get wrong.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may fail as tests do")]

use std::process::{Command, Output};

fn auralink(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_auralink"));
    command.args(arguments).env_clear().output().unwrap()
}

/// What a failed start said, which must be one line.
fn complaint(arguments: &[&str]) -> String {
    let output = auralink(arguments);
    assert!(!output.status.success(), "{arguments:?} should not have started");
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    text.trim_end().to_owned()
}

#[test]
fn a_port_in_use_is_named() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let text = complaint(&["serve", "--dev", "--port", &port]);
    assert!(text.starts_with(&format!("auralink: TCP port {port} on 127.0.0.1 is in use")), "{text}");
}

#[test]
fn a_udp_port_in_use_is_named() {
    let holder = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let text = complaint(&["--dev", "--port", &free_port(), "--udp-port", &port]);
    assert!(text.contains(&port) && text.contains("in use"), "{text}");
}

#[test]
fn what_keeps_the_turn_server_from_starting_is_said() {
    let serve = |turn: &str| complaint(&["--dev", "--port", &free_port(), "--config-body", turn]);
    assert!(serve("turn: {enabled: true}").contains("turn.domain is missing"));
    let files = "domain: a.org, cert_file: /nonexistent.pem, key_file: /nonexistent.key";
    let text = serve(&format!("turn: {{enabled: true, udp_port: 0, {files}}}"));
    assert!(text.contains("turn.cert_file: /nonexistent.pem holds no certificate"), "{text}");
    let (udp, tcp) =
        (std::net::UdpSocket::bind("0.0.0.0:0").unwrap(), std::net::TcpListener::bind("0.0.0.0:0").unwrap());
    let port = udp.local_addr().unwrap().port();
    let range = "relay_range_start: 1024, relay_range_end: 1025";
    let text = serve(&format!("turn: {{enabled: true, tls_port: 0, udp_port: {port}, {range}}}"));
    assert!(text.contains(&format!("UDP port {port} on 0.0.0.0 is in use")), "{text}");
    assert!(text.contains("turn.udp_port"), "{text}");
    let port = tcp.local_addr().unwrap().port();
    let tls =
        format!("turn: {{enabled: true, domain: a.org, external_tls: true, udp_port: 0, tls_port: {port}}}");
    assert!(serve(&tls).contains(&format!("TCP port {port} on 0.0.0.0 is in use")));
    let text = serve("turn: {enabled: true, tls_port: 0, bind_addresses: [192.0.2.1]}");
    assert!(text.contains("192.0.2.1 is not an address of this host"), "{text}");
}

fn free_port() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

#[test]
fn missing_keys_bad_flags_and_bad_files_are_one_line_each() {
    assert!(complaint(&["serve"]).contains("no API keys"));
    assert!(complaint(&["--bogus"]).contains("--bogus"));
    assert!(complaint(&["--shards", "x"]).contains("--shards"));
    assert!(complaint(&["--udp-port", "9-1"]).contains("9-1"));
    assert!(complaint(&["--config", "/nonexistent.toml"]).contains("cannot read /nonexistent.toml"));
    assert!(complaint(&["--keys", "devkey: secret"]).contains("devkey"));
    let typo = complaint(&["--dev", "--config-body", "prot = 1"]);
    assert!(typo.contains("unknown key `prot`, did you mean `port`?"), "{typo}");
}

#[test]
fn addresses_that_no_client_could_use_are_one_line_each() {
    assert!(complaint(&["--node-ip", "10.0.0.1,10.0.0.2"]).contains("two addresses of one family"));
    assert!(complaint(&["--node-ip", "::"]).contains("`::` is not an address"));
    let body = "[rtc]\nbind = '127.0.0.1'\nudp_port = 7999\ntcp_port = 0\n";
    let text =
        complaint(&["--dev", "--port", &free_port(), "--node-ip", "2001:db8::7", "--config-body", body]);
    assert!(text.contains("no address to advertise of the families media is bound to"), "{text}");
}

#[test]
fn the_configuration_is_checked_and_printed_without_secrets() {
    assert!(auralink(&["check-config", "--dev"]).status.success());
    let printed = auralink(&["print-config", "--keys", "APIone: verysecret", "--udp-port", "7882-7889"]);
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(text.contains("udp_port = \"7882-7889\"") && text.contains("APIone"), "{text}");
    assert!(!text.contains("verysecret"));
}

#[test]
fn a_token_is_three_words_of_base64() {
    let output = auralink(&["token", "create", "--dev", "--join", "--room", "r", "--identity", "alice"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.trim().split('.').count(), 3, "{text}");
    assert!(complaint(&["token", "create", "--dev", "--join", "--room", "r"]).contains("--identity"));
}
