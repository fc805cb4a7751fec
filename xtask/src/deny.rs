//! Licences, sources, forbidden crates and known advisories of every dependency (`deny.toml`).
//!
//! The advisory database is fetched where the machine can reach it; elsewhere the committed snapshot of it is used, and that
//! is said.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::run;

const VERSION: &str = "0.20.2";
/// Where cargo-deny keeps the database (`deny.toml`); the folder's name is its own.
const DATABASE: &str = "target/advisory-db/advisory-db-3157b0e258782691";
/// RustSec's database (CC0), as of August 2026.
const SNAPSHOT: &str = "xtask/advisory-db.tgz";

pub(crate) fn check(root: &Path) -> Result<()> {
    let deny = run::cargo_tool(root, "cargo-deny", VERSION)?;
    // Every platform's crates have to be here for the offline check.
    run::run(root, "cargo", &["fetch", "--locked"])?;
    run::run(root, &deny, &["--offline", "--all-features", "check", "licenses", "bans", "sources"])?;
    if run::output(root, &deny, &["check", "advisories"]).is_ok() {
        println!("advisories: none in the database of today");
        return Ok(());
    }
    println!(
        "advisories: today's database cannot be had or lists something; using the snapshot in {SNAPSHOT}"
    );
    unpack(root)?;
    run::run(root, &deny, &["--offline", "--all-features", "check", "advisories"])
}

/// The database has to be a git repository with a commit as old as its fetch.
fn unpack(root: &Path) -> Result<()> {
    let folder = root.join(DATABASE);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let snapshot = root.join(SNAPSHOT);
    run::run(&folder, "tar", &["xzf", &snapshot.to_string_lossy()])?;
    let git = ["-c", "user.name=auralink", "-c", "user.email=ci@localhost"];
    run::run(&folder, "git", &["init", "--quiet"])?;
    run::run(&folder, "git", &["add", "."])?;
    run::run(&folder, "git", &[&git[..], &["commit", "--quiet", "--message", "snapshot"]].concat())?;
    fs::copy(folder.join(".git/HEAD"), folder.join(".git/FETCH_HEAD"))?;
    Ok(())
}
