//! What the commands say.

use std::io::Write as _;

use anyhow::{Context as _, Result};

/// Writes `text` out at once.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")
}

/// Writes `text` to standard error.
pub(crate) fn complain(text: &str) -> Result<()> {
    std::io::stderr().lock().write_all(text.as_bytes()).context("cannot write to standard error")
}
