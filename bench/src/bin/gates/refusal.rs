//! Refusing a message costs the same wherever its tag is wrong: else whoever sends many could find a tag octet by octet.

use anyhow::{Result, ensure};

use crate::valgrind;

/// What is refused, and the first and the last octet of its tag.
const REFUSED: [(&str, [usize; 2]); 2] = [("stun", [0, 19]), ("srtcp", [0, 9])];

pub(crate) fn run() -> Result<()> {
    for (what, octets) in REFUSED {
        let mut counted = Vec::new();
        for octet in octets {
            let (_, parts) = valgrind::collect("refuse", &[what.into(), octet.to_string()])?;
            counted.push(parts.iter().map(|part| part.total).sum::<u64>());
        }
        println!("{what}: {counted:?} instructions where the tag's octets {octets:?} are wrong");
        ensure!(counted[0] > 0, "nothing was collected: callgrind does not know the functions' names");
        ensure!(counted[0] == counted[1], "{what}: what is refused tells how much of its tag is right");
    }
    Ok(())
}
