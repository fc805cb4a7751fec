//! Running other programs, and installing what is missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The workspace's folder.
pub(crate) fn root() -> Result<PathBuf> {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest.parent().context("xtask lies in the workspace")?.to_path_buf())
}

/// Runs a program in `folder` and fails when it does.
pub(crate) fn run(folder: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    run_with(folder, program, arguments, &[])
}

/// The same with environment variables added.
pub(crate) fn run_with(
    folder: &Path,
    program: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> Result<()> {
    let status = Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(folder)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {program}"))?;
    if !status.success() {
        bail!("{program} {} failed: {status}", arguments.join(" "));
    }
    Ok(())
}

/// Builds server and generator. Apart, so that the server is what people build: together they would share the generator's
/// features.
pub(crate) fn release(root: &Path) -> Result<()> {
    run(root, "cargo", &["build", "--release", "--locked"])?;
    run(root, "cargo", &["build", "--release", "--locked", "-p", "auralink-loadtest"])
}

/// What a program prints.
pub(crate) fn output(folder: &Path, program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).current_dir(folder).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!("{program} {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Installs those Debian packages whose file is missing: pairs of (file, package).
pub(crate) fn debian(root: &Path, wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> =
        wanted.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    run(root, "apt-get", &["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(missing);
    run_with(root, "apt-get", &arguments, &[("DEBIAN_FRONTEND", "noninteractive")])
}

/// Installs a cargo tool of exactly this version into `.tools`, unless it is there; returns its path.
pub(crate) fn cargo_tool(root: &Path, name: &str, version: &str) -> Result<String> {
    let tools = root.join(".tools");
    let binary = tools.join("bin").join(name);
    let is_there = Command::new(&binary)
        .arg("--version")
        .output()
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(version));
    if !is_there {
        let tools = tools.to_string_lossy().into_owned();
        run(
            root,
            "cargo",
            // Without optimisation: that would take longer than they run.
            &["install", "--debug", "--locked", "--quiet", "--root", &tools, "--version", version, name],
        )?;
    }
    Ok(binary.to_string_lossy().into_owned())
}
