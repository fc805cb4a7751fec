//! A recorded stream: one packet a line, `microseconds payload-bytes flags timestamp`, lines that start with `#` say where it
//! is from. Flags are letters: `K` of a keyframe, `S` first of a frame, `M` last of it, `-` none of these.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::payload::{Kind, PAYLOAD_LEN_MIN};
use super::schedule::{Schedule, Step};

/// # Errors
/// When the file cannot be read or played.
pub(crate) fn read(path: &Path) -> Result<Schedule> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is no trace", path.display()))
}

/// A cycle that starts with the trace's first keyframe and lasts as long as the rest of the trace, with one mean frame between
/// its end and its next start.
pub(crate) fn parse(text: &str) -> Result<Schedule> {
    let mut steps = Vec::new();
    let lines =
        text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    for (at, line) in lines {
        steps.push(parse_line(line).with_context(|| format!("line {}: {line}", at + 1))?);
    }
    let first = steps.iter().position(|step| step.keyframe && step.frame_start);
    steps.drain(..first.context("no keyframe in it")?);
    // A frame that was cut by the end of the recording is left out.
    let last = steps.iter().rposition(|step| step.marker).context("no whole frame in it")?;
    steps.truncate(last + 1);
    let (start_ns, start) = steps.first().map(|step| (step.at_ns, step.timestamp)).unwrap_or_default();
    for step in &mut steps {
        step.at_ns = step.at_ns.checked_sub(start_ns).context("packets are not in order of time")?;
        step.timestamp = step.timestamp.wrapping_sub(start);
    }
    let frames = steps.iter().filter(|step| step.marker).count() as u64;
    ensure!(frames > 1, "less than two frames");
    let end = steps.last().map(|step| (step.at_ns, step.timestamp)).unwrap_or_default();
    Ok(Schedule {
        kind: Kind::Video,
        cycle_ns: end.0 + end.0 / (frames - 1),
        cycle_timestamp: end.1 + end.1 / (frames as u32 - 1),
        steps,
    })
}

fn parse_line(line: &str) -> Result<Step> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [at_us, len, flags, timestamp] = *words.as_slice() else {
        anyhow::bail!("four words: microseconds, bytes, flags, timestamp");
    };
    ensure!(flags.chars().all(|flag| "KSM-".contains(flag)), "flags are K, S, M or -");
    let len: u16 = len.parse().context("bytes")?;
    Ok(Step {
        at_ns: at_us.parse::<u64>().context("microseconds")?.saturating_mul(1_000),
        // A stamp has to fit; real packets below that are rare.
        len: len.max(PAYLOAD_LEN_MIN as u16),
        keyframe: flags.contains('K'),
        frame_start: flags.contains('S'),
        marker: flags.contains('M'),
        timestamp: timestamp.parse().context("timestamp")?,
    })
}

/// The lines of some packets, behind comments that say where they are from.
pub(crate) fn write(about: &str, steps: &[Step]) -> String {
    let mut text: String = about.lines().map(|line| format!("# {line}\n")).collect();
    for step in steps {
        let flags = [(step.keyframe, 'K'), (step.frame_start, 'S'), (step.marker, 'M')];
        let mut flags: String = flags.iter().filter(|(is, _)| *is).map(|(_, flag)| *flag).collect();
        if flags.is_empty() {
            flags.push('-');
        }
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {} {flags} {}", step.at_ns / 1_000, step.len, step.timestamp);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# from nowhere\n5 900 M 10\n1000 1100 KS 90\n1200 1101 KM 90\n34000 700 SM 3090\n67500 300 S 6090\n";

    #[test]
    fn a_trace_starts_with_its_keyframe_and_ends_with_a_whole_frame() {
        let schedule = parse(TEXT).unwrap();
        schedule.check().unwrap();
        let steps: Vec<_> =
            schedule.steps.iter().map(|s| (s.at_ns, s.len, s.keyframe, s.marker, s.timestamp)).collect();
        let expected = [
            (0, 1_100, true, false, 0),
            (200_000, 1_101, true, true, 0),
            (33_000_000, 700, false, true, 3_000),
        ];
        assert_eq!(steps, expected);
        assert_eq!((schedule.cycle_ns, schedule.cycle_timestamp), (66_000_000, 6_000));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let schedule = parse(TEXT).unwrap();
        assert_eq!(parse(&write("two\nlines", &schedule.steps)).unwrap(), schedule);
    }

    #[test]
    fn what_cannot_be_played_is_refused_with_its_line() {
        for (text, why) in [
            ("", "keyframe"),
            ("1 1 SM 1\n", "keyframe"),
            ("1 1000 KS 1\n", "whole frame"),
            ("1 1000 KSM 1\n", "two frames"),
            ("1 1000 KSM\n", "line 1"),
            ("1 1000 KSX 1\n", "flags"),
            ("9000 1000 KSM 1\n8000 1000 SM 1\n", "order"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }
}
