//! Reading a server's page of metrics in Prometheus' text format.

use std::collections::BTreeMap;

/// One line.
struct Sample<'a> {
    name: &'a str,
    /// The label of that name.
    reason: Option<&'a str>,
    value: f64,
}

fn samples(page: &str) -> impl Iterator<Item = Sample<'_>> {
    page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let reason = labels.split("reason=\"").nth(1).and_then(|rest| rest.split('"').next());
        Some(Sample { name, reason, value: value.parse().ok()? })
    })
}

/// Sums of the counters over shards, by name; where a reason is given, by reason too.
pub(crate) fn counters(page: &str) -> BTreeMap<String, u64> {
    let mut counters = BTreeMap::new();
    for Sample { name, reason, value } in samples(page).filter(|sample| sample.name.ends_with("_total")) {
        let name = name.strip_prefix("auralink_").unwrap_or(name);
        let key = reason.map_or_else(|| name.to_owned(), |reason| format!("{name}: {reason}"));
        *counters.entry(key).or_default() += value.max(0.0) as u64;
    }
    counters
}

/// Packets dropped so far by reason, and data messages under `data`.
pub(crate) fn drops(page: &str) -> BTreeMap<String, u64> {
    let counters = counters(page).into_iter();
    let named = counters.filter_map(|(name, count)| match name.strip_prefix("packets_dropped_total: ") {
        Some(reason) => Some((reason.to_owned(), count)),
        None => (name == "data_packets_dropped_total").then(|| ("data".to_owned(), count)),
    });
    named.collect()
}

/// The sum of a gauge over shards; 0 where there is none.
pub(crate) fn gauge(page: &str, name: &str) -> u64 {
    samples(page).filter(|sample| sample.name == name).map(|sample| sample.value).sum::<f64>() as u64
}

/// By how much each counter rose, those that did not left out.
pub(crate) fn risen(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let rise = |(name, count): (&String, &u64)| {
        let by = count.saturating_sub(before.get(name).copied().unwrap_or_default());
        (by > 0).then(|| (name.clone(), by))
    };
    after.iter().filter_map(rise).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_over_shards_and_split_by_reason() {
        let page = "# TYPE auralink_syscalls_total counter\nauralink_syscalls_total{shard=\"0\"} 5\n\
            auralink_syscalls_total{shard=\"1\"} 7\nauralink_rooms 3\n\
            auralink_packets_dropped_total{shard=\"0\",reason=\"replay\"} 2\n\
            auralink_packets_dropped_total{shard=\"1\",reason=\"replay\"} 1\n";
        let summed = counters(page);
        assert_eq!((gauge(page, "auralink_rooms"), gauge(page, "auralink_syscalls_total")), (3, 12));
        assert_eq!(gauge(page, "auralink_room"), 0);
        assert_eq!(summed.len(), 2);
        assert_eq!(summed.get("syscalls_total"), Some(&12));
        assert_eq!(summed.get("packets_dropped_total: replay"), Some(&3));
        let later = BTreeMap::from([("syscalls_total".to_owned(), 20)]);
        assert_eq!(risen(&summed, &later), BTreeMap::from([("syscalls_total".to_owned(), 8)]));
    }

    #[test]
    fn what_was_dropped_is_named_by_its_reason_alone() {
        let page = "auralink_packets_dropped_total{shard=\"0\",reason=\"replay\"} 2\n\
            auralink_data_packets_dropped_total 3\nauralink_joins_total 4\n";
        let expected = [("data".to_owned(), 3), ("replay".to_owned(), 2)];
        assert_eq!(drops(page), BTreeMap::from(expected));
    }
}
