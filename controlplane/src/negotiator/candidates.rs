//! Candidate lines: every address of the node is a host candidate.

use std::net::{IpAddr, SocketAddr};

use auralink_proto::{Candidate, Protocol};

use super::answer::Text;

/// Type preferences of host candidates (RFC 8445 §5.1.2.2, RFC 6544 §4.2: TCP below all of UDP).
const HOST: u32 = 126;
const HOST_TCP: u32 = 90;

pub(super) fn write(candidates: &[Candidate], text: &mut Text) {
    for (index, candidate) in candidates.iter().enumerate() {
        // RFC 8445 §5.1.2.1: the local preference falls in order.
        let rank = rank(candidates, candidate) as u32;
        let (ip, port) = (candidate.address.ip(), candidate.address.port());
        let (protocol, kind, preference, more) = match candidate.protocol {
            Protocol::Udp => ("udp", HOST, 65_535 - rank, ""),
            // RFC 6544 §4.2: direction preference 4 for a passive host candidate.
            Protocol::Tcp => ("tcp", HOST_TCP, (4 << 13) + 8_191 - rank, " tcptype passive"),
        };
        let priority = (kind << 24) + (preference << 8) + 255;
        text.line(format_args!(
            "a=candidate:{} 1 {protocol} {priority} {ip} {port} typ host{more}",
            index + 1
        ));
    }
    if !candidates.is_empty() {
        text.line(format_args!("a=end-of-candidates"));
    }
}

/// The candidate's place among those of its protocol, 0 being the best. Families are interleaved, so that one that leads nowhere does
/// not hold the other up (RFC 8421 §4): of the favoured family come so many, then one of the other, and so on.
fn rank(candidates: &[Candidate], candidate: &Candidate) -> usize {
    let alike = || candidates.iter().filter(|other| other.protocol == candidate.protocol).map(|c| c.address);
    // RFC 6724 §2.1: IPv6 of the whole Internet before IPv4, IPv4 before unique local addresses.
    let favours_v6 = alike().any(|address| is_global_v6(address.ip()));
    let is_favoured = |address: SocketAddr| address.is_ipv6() == favours_v6;
    let favoured = alike().filter(|address| is_favoured(*address)).count();
    let others = alike().count() - favoured;
    let place = alike()
        .filter(|address| address.is_ipv6() == candidate.address.is_ipv6())
        .position(|address| address == candidate.address)
        .unwrap_or_default();
    // RFC 8421 §4: as many as the favoured family has ahead of one of the other.
    let head_start = (favoured + others).checked_div(others).unwrap_or(favoured);
    if is_favoured(candidate.address) {
        place + (place / head_start.max(1)).min(others)
    } else {
        place + (head_start * (place + 1)).min(favoured)
    }
}

fn is_global_v6(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if !v6.is_unique_local() && !v6.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The candidates' addresses, best first, by the priorities written.
    fn order(candidates: &[Candidate]) -> Vec<String> {
        let mut text = Text(String::new());
        write(candidates, &mut text);
        let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mut lines: Vec<Vec<String>> =
            text.0.lines().filter(|line| line.starts_with("a=candidate")).map(fields).collect();
        lines.sort_by_key(|fields| std::cmp::Reverse(fields[3].parse::<u32>().unwrap()));
        let priorities: Vec<_> = lines.iter().map(|fields| fields[3].clone()).collect();
        assert!(priorities.windows(2).all(|pair| pair[0] != pair[1]), "{priorities:?}");
        lines.into_iter().map(|fields| format!("{} {}", fields[2], fields[4])).collect()
    }

    fn of(ips: &[&str]) -> Vec<Candidate> {
        let at = |port: u16| ips.iter().map(move |ip| SocketAddr::new(ip.parse().unwrap(), port));
        at(7_882).map(Candidate::udp).chain(at(7_881).map(Candidate::tcp)).collect()
    }

    #[test]
    fn families_take_turns_and_udp_stays_above_tcp() {
        assert_eq!(
            order(&of(&["10.0.0.1", "2001:db8::1"])),
            ["udp 2001:db8::1", "udp 10.0.0.1", "tcp 2001:db8::1", "tcp 10.0.0.1"]
        );
        // Two of IPv4 and six of IPv6: one of IPv4 after four of IPv6.
        let ips: Vec<String> = (1..7).map(|n| format!("2001:db8::{n}")).collect();
        let mut all = vec!["10.0.0.1", "10.0.0.2"];
        all.extend(ips.iter().map(String::as_str));
        let found = order(&of(&all));
        let expected = ["::1", "::2", "::3", "::4", "0.0.1", "::5", "::6", "0.0.2"];
        assert!(found.iter().zip(expected).all(|(found, end)| found.ends_with(end)), "{found:?}");
        assert!(found[8..].iter().all(|found| found.starts_with("tcp")));
    }

    #[test]
    fn a_unique_local_address_comes_after_ipv4() {
        assert_eq!(
            order(&of(&["10.0.0.1", "10.0.0.2", "fd00::1"]))[..3],
            ["udp 10.0.0.1", "udp 10.0.0.2", "udp fd00::1"].map(str::to_owned)
        );
        assert_eq!(order(&of(&["fd00::1"]))[0], "udp fd00::1");
        assert_eq!(order(&of(&["10.0.0.1"])), ["udp 10.0.0.1", "tcp 10.0.0.1"]);
    }
}
