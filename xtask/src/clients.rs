//! The real-client suites: livekit-client in real browsers, against the release binary, in private network namespaces.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::run;

/// File and Debian package of what the suites need.
const PACKAGES: [(&str, &str); 2] = [("/usr/lib/chromium/chromium", "chromium"), ("/sbin/ip", "iproute2")];

pub(crate) fn run(root: &Path, filter: Option<&str>) -> Result<()> {
    run::debian(root, &PACKAGES)?;
    run::run(
        root,
        "cargo",
        &["build", "--release", "--locked", "-p", "auralink-controlplane", "-p", "auralink-loadtest"],
    )?;
    let folder = root.join("loadtest/clients/browser");
    npm_ci(&folder)?;
    let mut arguments = vec!["run.mjs"];
    arguments.extend(filter);
    run::run(&folder, "node", &arguments)
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
