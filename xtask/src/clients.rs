//! The real-client suites: livekit-client in real browsers, LiveKit's native SDKs and its agent framework, coturn's client,
//! against the release binary, in private network namespaces.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::run;

/// Where the suites are.
const CLIENTS: &str = "loadtest/clients";

/// File and Debian package of what the suites need.
const PACKAGES: [(&str, &str); 13] = [
    ("/usr/lib/chromium/chromium", "chromium"),
    ("/usr/bin/firefox-esr", "firefox-esr"),
    ("/sbin/ip", "iproute2"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/lib/x86_64-linux-gnu/gstreamer-1.0/libgstopus.so", "gstreamer1.0-plugins-base"),
    ("/usr/lib/x86_64-linux-gnu/gstreamer-1.0/libgstvpx.so", "gstreamer1.0-plugins-good"),
    ("/usr/lib/x86_64-linux-gnu/gstreamer-1.0/libgstwebrtc.so", "gstreamer1.0-plugins-bad"),
    ("/usr/lib/x86_64-linux-gnu/gstreamer-1.0/libgstnice.so", "gstreamer1.0-nice"),
    ("/usr/lib/python3/dist-packages/gi/overrides/Gst.py", "python3-gst-1.0"),
    ("/usr/lib/x86_64-linux-gnu/girepository-1.0/GstWebRTC-1.0.typelib", "gir1.2-gst-plugins-bad-1.0"),
    ("/usr/bin/openssl", "openssl"),
    ("/usr/bin/certutil", "libnss3-tools"),
    ("/usr/bin/turnutils_uclient", "coturn"),
];

/// A suite, by the folder it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Suite {
    Browser,
    Node,
    Python,
    Agents,
    Whip,
    Go,
    Turn,
}

impl Suite {
    const ALL: [Self; 7] =
        [Self::Turn, Self::Browser, Self::Node, Self::Python, Self::Agents, Self::Whip, Self::Go];

    fn folder(self, clients: &Path) -> PathBuf {
        clients.join(format!("{self:?}").to_lowercase())
    }
}

/// Installs what the suites need and this machine lacks.
pub(crate) fn equip_all(root: &Path) -> Result<()> {
    run::debian(root, &PACKAGES)?;
    for suite in Suite::ALL {
        equip(&root.join(CLIENTS), suite)?;
    }
    Ok(())
}

/// Runs one suite, or all of them.
pub(crate) fn run(root: &Path, chosen: Option<Suite>, filter: Option<&str>) -> Result<()> {
    run::debian(root, &PACKAGES)?;
    run::release(root)?;
    let clients = root.join(CLIENTS);
    let mut failed = Vec::new();
    for suite in Suite::ALL {
        if chosen.is_some_and(|chosen| chosen != suite) {
            continue;
        }
        if let Err(error) = run_suite(&clients, suite, filter) {
            println!("{suite:?}: {error:#}");
            failed.push(suite);
        }
    }
    if !failed.is_empty() {
        bail!("suites that failed: {failed:?}");
    }
    Ok(())
}

fn run_suite(clients: &Path, suite: Suite, filter: Option<&str>) -> Result<()> {
    let (program, script) = equip(clients, suite)?;
    let mut arguments = vec![script];
    arguments.extend(filter);
    run::run(&suite.folder(clients), &program, &arguments)
}

/// Installs the packages of a suite's own language; the program and script that run it.
fn equip(clients: &Path, suite: Suite) -> Result<(String, &'static str)> {
    let folder = suite.folder(clients);
    Ok(match suite {
        Suite::Browser | Suite::Node => {
            // The Node suite uses parts of the browsers'.
            npm_ci(&clients.join("browser"))?;
            npm_ci(&folder)?;
            ("node".into(), "run.mjs")
        }
        Suite::Python | Suite::Agents | Suite::Whip => (python(&folder)?, "run.py"),
        Suite::Go => {
            run::run(&folder, "go", &["build", "-o", "peer", "."])?;
            // What it sends is seen and heard through the Python suite's participant.
            (python(&clients.join("python"))?, "run.py")
        }
        Suite::Turn => ("python3".into(), "run.py"),
    })
}

/// A Python with exactly the packages of `requirements.txt`, in a folder of its own.
fn python(folder: &Path) -> Result<String> {
    let wanted = std::fs::read_to_string(folder.join("requirements.txt"))?;
    let stamp = folder.join(".venv/requirements.txt");
    let program = folder.join(".venv/bin/python");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(program.display().to_string());
    }
    run::run(folder, "python3", &["-m", "venv", "--clear", ".venv"])?;
    let install =
        ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"];
    run::run(folder, &program.display().to_string(), &install)?;
    std::fs::write(&stamp, wanted)?;
    Ok(program.display().to_string())
}

/// Builds the UI into the folder that is committed and embedded.
pub(crate) fn build_web(root: &Path) -> Result<()> {
    let folder = root.join("controlplane/web");
    npm_ci(&folder)?;
    run::run(&folder, "npm", &["run", "--silent", "check"])?;
    run::run(&folder, "npm", &["run", "--silent", "build"])
}

/// The committed build is what the sources give.
pub(crate) fn check_web(root: &Path) -> Result<()> {
    build_web(root)?;
    let changed = run::output(root, "git", &["status", "--porcelain", "--", "controlplane/web/dist"])?;
    if !changed.is_empty() {
        bail!(
            "controlplane/web/dist is not what the sources build; run `cargo xtask web` and commit:\n{changed}"
        );
    }
    Ok(())
}

/// Installs exactly what the lock file says, unless that is already there.
fn npm_ci(folder: &Path) -> Result<()> {
    let lock = folder.join("package-lock.json");
    let stamp = folder.join("node_modules/.package-lock.json");
    let time = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    let wanted = time(&lock).with_context(|| format!("{} is missing", lock.display()))?;
    if time(&stamp).is_ok_and(|installed| installed >= wanted) {
        return Ok(());
    }
    run::run(folder, "npm", &["ci", "--no-audit", "--no-fund", "--loglevel=error"])
}
