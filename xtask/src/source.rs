//! Reading the tree's own sources.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Folders that hold no sources of ours.
const SKIPPED: [&str; 8] =
    ["target", ".git", "node_modules", "dist", ".tools", ".venv", "corpus", "artifacts"];

/// Every file below `folder` with one of these endings, sorted.
pub(crate) fn files(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if path.is_dir() {
                if !SKIPPED.contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A Rust file's lines before its `#[cfg(test)]` module.
pub(crate) fn product_lines(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0].trim() == "#[cfg(test)]" && pair[1].trim_start().starts_with("mod ") && pair[1].contains('{')
    });
    lines[..tests.unwrap_or(lines.len())].to_vec()
}

/// Whether a file is product code, as opposed to tests, benches, tools and generated code.
pub(crate) fn is_product(relative: &str) -> bool {
    let parts: Vec<&str> = relative.split('/').collect();
    let in_folder = |names: &[&str]| parts.iter().any(|part| names.contains(part));
    let name = parts.last().copied().unwrap_or_default();
    !in_folder(&["tests", "benches", "fuzz", "sim", "scenarios", "dist", "clients", "k6"])
        && name != "tests.rs"
        && !name.ends_with("_tests.rs")
        && !name.contains(".test.")
        && !name.contains(".spec.")
        && !name.ends_with(".d.ts")
        && !name.contains(".config.")
}
