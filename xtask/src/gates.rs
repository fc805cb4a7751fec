//! Gates on what a packet costs that hold on a noisy machine: instructions, system calls, the work of idle peers.

use std::path::Path;

use anyhow::Result;

use crate::run;

/// Each, and whether it has a baseline.
const GATES: [(&str, bool); 4] =
    [("instructions", true), ("idle", true), ("syscalls", true), ("refusal", false)];

/// Runs every gate; with `update` what is measured becomes the baseline.
pub(crate) fn run(root: &Path, update: bool) -> Result<()> {
    run::debian(root, &[("/usr/bin/valgrind", "valgrind")])?;
    run::run(root, "cargo", &["build", "--release", "--locked", "-p", "auralink-bench", "--bins"])?;
    let gates = root.join("target/release/gates");
    for (gate, has_baseline) in GATES {
        let mut arguments = vec![gate];
        arguments.extend((update && has_baseline).then_some("--update"));
        run::run(root, &gates.to_string_lossy(), &arguments)?;
    }
    Ok(())
}
