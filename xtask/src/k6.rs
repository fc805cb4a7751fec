//! The k6 scenarios at small size, against the release binary.

use std::path::Path;

use anyhow::Result;

use crate::run;

/// A Go program from the Go module proxy, installed into the ignored `.tools`.
const PACKAGE: &str = "go.k6.io/k6@v1.8.1";

pub(crate) fn run(root: &Path, scenario: Option<&str>) -> Result<()> {
    let tools = root.join(".tools/bin");
    if !tools.join("k6").exists() {
        let folder = tools.to_string_lossy().into_owned();
        run::run_with(root, "go", &["install", PACKAGE], &[("GOBIN", &folder)])?;
    }
    run::run(root, "cargo", &["build", "--release", "--locked", "-p", "auralink-controlplane"])?;
    let mut arguments = vec!["loadtest/k6/run.sh"];
    arguments.extend(scenario);
    run::run(root, "sh", &arguments)
}
