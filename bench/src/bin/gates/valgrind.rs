//! Running a program of this package under callgrind.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use auralink_bench::callgrind::Profile;

use crate::sibling;

/// What the program printed, and what callgrind collected while its function `collected` ran: one profile for each time it
/// entered its function `next_part`, and one for the rest.
pub(crate) fn collect(program: &str, arguments: &[String]) -> Result<(String, Vec<Profile>)> {
    let folder = std::env::temp_dir().join(format!("auralink-callgrind-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let result = collect_in(&folder, program, arguments);
    std::fs::remove_dir_all(&folder)?;
    result
}

fn collect_in(folder: &Path, program: &str, arguments: &[String]) -> Result<(String, Vec<Profile>)> {
    let out = folder.join("out");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--compress-strings=no", "--compress-pos=no"])
        .arg(format!("--toggle-collect=*{program}::collected*"))
        .arg(format!("--dump-before=*{program}::next_part*"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(sibling(program)?)
        .args(arguments)
        .output()
        .context("valgrind cannot be started; it is the Debian package valgrind")?;
    ensure!(
        output.status.success(),
        "{program} under callgrind failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut profiles = Vec::new();
    // Dumps are numbered from one; what is left at the end has no number.
    for part in 1.. {
        let numbered = folder.join(format!("out.{part}"));
        let is_last = !numbered.exists();
        let text = std::fs::read_to_string(if is_last { &out } else { &numbered });
        let text = text.context("callgrind wrote no profile")?;
        profiles.push(Profile::parse(&text).context("callgrind wrote something else")?);
        if is_last {
            break;
        }
    }
    Ok((String::from_utf8(output.stdout)?, profiles))
}
