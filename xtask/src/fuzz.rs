//! Fuzz targets, built and run with cargo-fuzz. "Nothing found" counts only because the same run finds planted faults.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run;

const VERSION: &str = "0.13.2";
/// Targets that contain a fault on purpose, and the most seconds one may take to be found.
const PLANTED: &str = "planted_";
const PLANTED_SECONDS: u64 = 120;

pub(crate) fn run(root: &Path, target: Option<&str>, seconds: u64) -> Result<()> {
    let fuzz = run::cargo_tool(root, "cargo-fuzz", VERSION)?;
    let folder = root.join("dataplane/fuzz");
    let listed = run::output(&folder, &fuzz, &["list", "--fuzz-dir", "."])?;
    // The coverage flags are nightly's; the code under test is stable's.
    let environment = [("RUSTC_BOOTSTRAP", "1")];
    run::run_with(&folder, &fuzz, &["build", "--fuzz-dir", ".", "-s", "none"], &environment)?;
    for name in listed.lines().filter(|name| target.is_none_or(|target| target == *name)) {
        let planted = name.starts_with(PLANTED);
        let seconds = if planted { PLANTED_SECONDS } else { seconds };
        let found = find(&folder, &fuzz, name, seconds)?;
        match (planted, found) {
            (false, None) => println!("fuzz {name}: nothing in {seconds} s"),
            (true, Some(_)) => println!("fuzz {name}: found, as it must be"),
            (false, Some(account)) => bail!("fuzz {name} found a fault:\n{account}"),
            (true, None) => bail!("fuzz {name} did not find the planted fault in {seconds} s"),
        }
    }
    Ok(())
}

/// Runs one target from the committed seeds; what it prints when it finds something.
fn find(folder: &Path, fuzz: &str, name: &str, seconds: u64) -> Result<Option<String>> {
    let corpus = format!("corpus/{name}");
    let seeds = format!("seeds/{name}");
    for needed in [&corpus, &seeds] {
        std::fs::create_dir_all(folder.join(needed))?;
    }
    let limit = format!("-max_total_time={seconds}");
    let output = Command::new(fuzz)
        .args([
            "run",
            "--fuzz-dir",
            ".",
            "-s",
            "none",
            name,
            &corpus,
            &seeds,
            "--",
            &limit,
            "-rss_limit_mb=2048",
        ])
        .args(["-verbosity=0", "-timeout=10"])
        .env("RUSTC_BOOTSTRAP", "1")
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .context("cannot start cargo-fuzz")?;
    let account = String::from_utf8_lossy(&output.stderr).into_owned();
    let is_crash = account.contains("SUMMARY: libFuzzer") || account.contains("panicked at");
    match (output.status.success(), is_crash) {
        (true, _) => Ok(None),
        (false, true) => Ok(Some(account)),
        (false, false) => bail!("fuzz {name} did not run:\n{account}"),
    }
}
