//! Who may depend on whom, and what the packet path may not name. The invariants of `docs/ARCHITECTURE.md`.

use std::path::Path;

use anyhow::{Result, bail};

use crate::source;

/// Package folder and the workspace packages it may name as dependencies (not for tests).
const MAY_DEPEND: [(&str, &[&str]); 9] = [
    ("codecs", &[]),
    ("proto", &[]),
    ("dataplane/ring", &[]),
    ("dataplane/rtc", &[]),
    ("dataplane/sfu", &["auralink-codecs", "auralink-proto", "auralink-rtc"]),
    ("dataplane/node", &["auralink-proto", "auralink-ring", "auralink-rtc", "auralink-sfu"]),
    ("dataplane/sim", &["auralink-codecs", "auralink-proto", "auralink-rtc", "auralink-sfu"]),
    ("dataplane/turn", &[]),
    ("controlplane", &["auralink-livekit", "auralink-node", "auralink-proto", "auralink-turn"]),
];

/// What [`SANS_IO`] never names: runtimes, kernels, clocks, locks, waiting.
const FORBIDDEN_SANS_IO: [&str; 16] = [
    "tokio",
    "io_uring",
    "libc::",
    "Instant::now",
    "SystemTime",
    "Mutex",
    "RwLock",
    "Condvar",
    "thread::",
    "async fn",
    ".await",
    "UdpSocket",
    "println!",
    "Atomic",
    "Rc<",
    "RefCell",
];

/// Packages that are told the time and own no sockets.
const SANS_IO: [&str; 3] = ["dataplane/rtc/src/", "dataplane/sfu/src/", "dataplane/turn/src/"];

/// The only files of control that know the data plane.
const MEDIA_DOORS: [&str; 2] = ["controlplane/src/media.rs", "controlplane/src/main.rs"];

pub(crate) fn check(root: &Path) -> Result<()> {
    let mut faults = Vec::new();
    for (folder, allowed) in MAY_DEPEND {
        let manifest = source::read(&root.join(folder).join("Cargo.toml"))?;
        faults.extend(dependency_faults(folder, allowed, &manifest));
    }
    for path in source::files(root, &[".rs"])? {
        let relative = path.strip_prefix(root)?.to_string_lossy().into_owned();
        let text = source::read(&path)?;
        faults.extend(source_faults(&relative, &text));
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

fn dependency_faults(folder: &str, allowed: &[&str], manifest: &str) -> Vec<String> {
    let mut section = "";
    let mut faults = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line.trim();
        }
        let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
        if section == "[dependencies]" && name.starts_with("auralink-") && !allowed.contains(&name) {
            faults.push(format!("{folder} may not depend on {name}"));
        }
    }
    faults
}

fn source_faults(relative: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let sans_io = SANS_IO.iter().any(|folder| relative.starts_with(folder));
    let is_test_file = relative.ends_with("/tests.rs") || relative.contains("/tests/");
    let lines = source::product_lines(text);
    for (index, line) in lines.iter().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let place = || format!("{relative}:{}", index + 1);
        if sans_io && !is_test_file {
            let named = FORBIDDEN_SANS_IO.iter().find(|word| code.contains(**word));
            faults.extend(named.map(|word| format!("{}: rtc, sfu and turn never name {word}", place())));
        }
        let is_control = relative.starts_with("controlplane/src/");
        if is_control && code.contains("auralink_node") && !MEDIA_DOORS.contains(&relative) {
            faults.push(format!("{}: only {} know the data plane", place(), MEDIA_DOORS.join(" and ")));
        }
        let is_unsafe = ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|word| code.contains(word));
        let may_be_unsafe = relative.starts_with("dataplane/ring/") || relative.starts_with("xtask/");
        if is_unsafe && !may_be_unsafe {
            faults.push(format!("{}: unsafe lives in dataplane/ring only", place()));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_in_the_packet_path_is_found() {
        let text = "use std::time::Instant;\nfn f() { Instant::now(); }\n";
        assert_eq!(source_faults("dataplane/sfu/src/shard.rs", text).len(), 1);
        assert_eq!(source_faults("dataplane/turn/src/server.rs", text).len(), 1);
        assert!(source_faults("dataplane/node/src/worker.rs", text).is_empty());
        let in_test = format!("#[cfg(test)]\nmod tests {{\n{text}}}\n");
        assert!(source_faults("dataplane/sfu/src/shard.rs", &in_test).is_empty());
    }

    #[test]
    fn a_dependency_upwards_is_found() {
        let manifest =
            "[dependencies]\nauralink-proto.workspace = true\n[dev-dependencies]\nauralink-sfu = \"1\"\n";
        assert_eq!(
            dependency_faults("dataplane/rtc", &[], manifest),
            ["dataplane/rtc may not depend on auralink-proto"]
        );
    }

    #[test]
    fn control_reaches_the_data_plane_through_its_door_only() {
        let text = "use auralink_node::Handle;\n";
        assert_eq!(source_faults("controlplane/src/rooms.rs", text).len(), 1);
        assert!(source_faults("controlplane/src/media.rs", text).is_empty());
    }
}
