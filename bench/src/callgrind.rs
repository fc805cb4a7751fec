//! Reading what callgrind wrote: inclusive costs of functions, from a dump without compressed names.

use std::collections::BTreeMap;

/// Costs of one dump, in instructions.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Profile {
    /// Everything collected.
    pub total: u64,
    /// What each function cost by itself.
    pub own: BTreeMap<String, u64>,
    /// What calls to each function cost, all they called included. A function that calls itself counts more than once.
    pub called: BTreeMap<String, u64>,
}

impl Profile {
    /// `text` was written with `--compress-strings=no --compress-pos=no`. `None` when it is something else.
    pub fn parse(text: &str) -> Option<Self> {
        if !text.lines().any(|line| line.starts_with("events: Ir")) {
            return None;
        }
        let mut profile = Self::default();
        let (mut function, mut callee) = (String::new(), None::<String>);
        let mut is_call = false;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                name.clone_into(&mut function);
            } else if let Some(name) = line.strip_prefix("cfn=") {
                callee = Some(name.to_owned());
            } else if line.starts_with("calls=") {
                is_call = true;
            } else if let Some(cost) = position_and_cost(line) {
                if std::mem::take(&mut is_call) {
                    *profile.called.entry(callee.take()?).or_default() += cost;
                } else {
                    profile.total += cost;
                    *profile.own.entry(function.clone()).or_default() += cost;
                }
            }
        }
        Some(profile)
    }

    /// What calls to functions whose name contains one of `parts` cost. They must not call each other.
    pub fn called(&self, parts: &[&str]) -> u64 {
        let named = self.called.iter().filter(|(name, _)| parts.iter().any(|part| name.contains(part)));
        named.map(|(_, cost)| cost).sum()
    }
}

/// A cost line is a line number (which may be relative or a star) and the instructions.
fn position_and_cost(line: &str) -> Option<u64> {
    let (position, cost) = line.split_once(' ')?;
    position
        .starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c))
        .then(|| cost.trim().parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "# callgrind format\nevents: Ir\n\nfl=a.rs\nfn=main\n16 400\ncfn=seal\ncalls=2 50\n16 1000\n17 5\n\n\
                        fn=seal\n50 900\nfi=inlined.rs\n51 100\n\ntotals: 1405\n";

    #[test]
    fn calls_cost_what_they_include_and_the_total_counts_once() {
        let profile = Profile::parse(DUMP).unwrap();
        assert_eq!(profile.total, 1_405);
        assert_eq!((profile.own["main"], profile.own["seal"]), (405, 1_000));
        assert_eq!((profile.called(&["sea"]), profile.called(&["open"])), (1_000, 0));
    }

    #[test]
    fn what_callgrind_did_not_write_is_refused() {
        assert_eq!(Profile::parse("nothing"), None);
    }
}
