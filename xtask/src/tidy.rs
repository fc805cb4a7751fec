//! What a compiler does not check: sizes of files and functions, unfinished work, traces of a machine.

use std::path::Path;

use anyhow::{Result, bail};

use crate::source;

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// Words of unfinished work. Split so that this file does not contain them.
const UNFINISHED: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("unimple", "mented!"),
    concat!("to", "do!("),
    concat!("XX", "X:"),
];

/// What computes a hash by hand: tables have whole keys, because two addresses, transports or tracks can share a hash.
const HASHES: [&str; 4] = [
    concat!("Default", "Hasher"),
    concat!("Build", "Hasher"),
    concat!("Random", "State"),
    concat!("hash_", "one"),
];

pub(crate) fn check(root: &Path) -> Result<()> {
    let mut faults = Vec::new();
    for path in source::files(root, &[".rs", ".ts", ".tsx", ".mjs"])? {
        let relative = path.strip_prefix(root)?.to_string_lossy().into_owned();
        let text = source::read(&path)?;
        faults.extend(unfinished(&relative, &text));
        if relative.ends_with("/mod.rs") {
            faults.push(format!("{relative}: use a file named like the module"));
        }
        if !source::is_product(&relative) {
            continue;
        }
        let lines = source::product_lines(&text);
        if lines.len() > FILE_LINES_MAX {
            faults.push(format!("{relative}: {} lines, at most {FILE_LINES_MAX}", lines.len()));
        }
        if relative.ends_with(".rs") {
            if !text.starts_with("//!") {
                faults.push(format!("{relative}: does not say what lives here (//!)"));
            }
            faults.extend(long_functions(&relative, &lines));
            if relative.starts_with("dataplane/") {
                faults.extend(hashes(&relative, &lines));
            }
        }
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

fn unfinished(relative: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if let Some(word) = UNFINISHED.iter().find(|word| line.contains(**word)) {
            faults.push(format!("{relative}:{}: {word}", index + 1));
        }
    }
    faults
}

fn hashes(relative: &str, lines: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        if let Some(word) = HASHES.iter().find(|word| without_text(line).contains(**word)) {
            faults.push(format!("{relative}:{}: {word}: a hash is no identity", index + 1));
        }
    }
    faults
}

/// Functions longer than they may be. Counts braces outside of strings and comments.
fn long_functions(relative: &str, lines: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut start = 0;
    while start < lines.len() {
        let Some(name) = function_name(lines[start]) else {
            start += 1;
            continue;
        };
        let (mut depth, mut opened, mut end) = (0_i32, false, start);
        while end < lines.len() {
            let line = without_text(lines[end]);
            let [opens, closes] = ['{', '}'].map(|brace| line.matches(brace).count() as i32);
            depth += opens - closes;
            opened |= opens > 0;
            if (opened && depth <= 0) || (!opened && line.trim_end().ends_with(';')) {
                break;
            }
            end += 1;
        }
        let length = end - start + 1;
        if length > FUNCTION_LINES_MAX {
            faults.push(format!(
                "{relative}:{}: fn {name} has {length} lines, at most {FUNCTION_LINES_MAX}",
                start + 1
            ));
        }
        start += 1;
    }
    faults
}

fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    loop {
        if let Some(after) = rest.strip_prefix("fn ") {
            return after.split(['(', '<']).next();
        }
        let (word, after) = rest.split_once(' ')?;
        if !(word.starts_with("pub") || ["const", "async", "unsafe", "extern", "\"C\""].contains(&word)) {
            return None;
        }
        rest = after;
    }
}

/// The line without string contents and comment.
fn without_text(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    let mut in_string = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string => {
                chars.next();
            }
            '"' => in_string = !in_string,
            '\'' if !in_string => {
                // A character literal such as '{'; lifetimes have no closing quote two characters on.
                let literal: Vec<char> = chars.clone().take(3).collect();
                let len = if literal.first() == Some(&'\\') { 3 } else { 2 };
                if literal.get(len - 1) == Some(&'\'') {
                    chars.by_ref().take(len).for_each(drop);
                } else {
                    out.push(c);
                }
            }
            '/' if !in_string && chars.peek() == Some(&'/') => break,
            _ if !in_string => out.push(c),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_function_is_found_and_a_long_string_is_not() {
        let long =
            format!("    pub async fn slow<T>(x: T) {{\n{}    }}\n", "        let a = \"{\";\n".repeat(70));
        let lines: Vec<&str> = long.lines().collect();
        assert_eq!(long_functions("a.rs", &lines).len(), 1);
        let short: Vec<&str> = lines[..lines.len() - 3].iter().copied().chain(["    }"]).collect();
        assert!(long_functions("a.rs", &short).is_empty());
    }

    #[test]
    fn unfinished_work_is_found() {
        let text = format!("fn f() {{\n    // {} later\n}}\n", UNFINISHED[0]);
        assert_eq!(unfinished("a.rs", &text), [format!("a.rs:2: {}", UNFINISHED[0])]);
        assert!(unfinished("a.rs", "fn f() {}").is_empty());
    }

    #[test]
    fn a_hash_made_by_hand_is_found() {
        let line = format!("let key = {}::new();", HASHES[0]);
        assert_eq!(hashes("a.rs", &["", &line]).len(), 1);
        assert!(hashes("a.rs", &["let table = HashMap::<SocketAddr, u32>::new();"]).is_empty());
    }

    #[test]
    fn braces_in_characters_and_comments_do_not_count() {
        assert_eq!(without_text("let a = '{'; // {"), "let a = ; ");
        assert_eq!(without_text("fn f<'a>(x: &'a str) {"), "fn f<'a>(x: &'a str) {");
    }
}
