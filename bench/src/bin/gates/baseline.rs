//! The committed numbers that a gate compares with.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("baselines").join(name)
}

pub(crate) fn read<T: DeserializeOwned>(name: &str) -> Result<T> {
    let text = std::fs::read_to_string(path(name))
        .with_context(|| format!("bench/baselines/{name} cannot be read"))?;
    serde_json::from_str(&text)
        .with_context(|| format!("bench/baselines/{name} is not what this gate writes"))
}

pub(crate) fn write<T: Serialize>(name: &str, baseline: &T) -> Result<()> {
    std::fs::write(path(name), serde_json::to_string_pretty(baseline)? + "\n")?;
    println!("wrote bench/baselines/{name}; commit it with the reason");
    Ok(())
}

pub(crate) fn how_to_update(gate: &str) -> String {
    format!(
        "If this is the price of something wanted, take it as the new baseline and say so in the commit:\n    \
         cargo xtask gates --update   (this one: {gate})"
    )
}
