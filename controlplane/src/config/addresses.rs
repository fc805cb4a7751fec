//! The addresses clients are told: those configured, else the host's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{Config, Profile};

/// Addresses of one family in candidates: each client checks every one of them.
const PER_FAMILY_MAX: usize = 8;

/// An address of each family, or of one: `203.0.113.7`, `203.0.113.7,2001:db8::7`, or LiveKit's `{v4: 203.0.113.7, v6: "2001:db8::7"}`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "NodeIpText", into = "String")]
pub struct NodeIp {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NodeIpText {
    Text(String),
    Families {
        #[serde(default)]
        v4: String,
        #[serde(default)]
        v6: String,
    },
}

impl TryFrom<NodeIpText> for NodeIp {
    type Error = String;

    fn try_from(text: NodeIpText) -> Result<Self, String> {
        match text {
            NodeIpText::Text(text) => text.parse(),
            NodeIpText::Families { v4, v6 } => {
                let ip: Self = [v4.as_str(), &v6].join(",").parse()?;
                let is_misplaced = ip.v4.is_some() == v4.trim().is_empty();
                if is_misplaced {
                    Err(format!("`{v4}` under v4, `{v6}` under v6: not of that family"))
                } else {
                    Ok(ip)
                }
            }
        }
    }
}

impl std::str::FromStr for NodeIp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut ip = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let wrong = || format!("`{part}` is not an address of a host that clients could reach");
            let is_second = match part.parse::<IpAddr>().map_err(|_| wrong())?.to_canonical() {
                address if address.is_unspecified() || address.is_multicast() => return Err(wrong()),
                IpAddr::V4(address) => ip.v4.replace(address).is_some(),
                IpAddr::V6(address) => ip.v6.replace(address).is_some(),
            };
            if is_second {
                return Err(format!("`{text}` has two addresses of one family"));
            }
        }
        if ip == Self::default() { Err("an address is missing".into()) } else { Ok(ip) }
    }
}

impl std::fmt::Display for NodeIp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.v4, self.v6) {
            (Some(v4), Some(v6)) => write!(f, "{v4},{v6}"),
            (Some(v4), None) => write!(f, "{v4}"),
            (None, Some(v6)) => write!(f, "{v6}"),
            (None, None) => Ok(()),
        }
    }
}

impl From<NodeIp> for String {
    fn from(ip: NodeIp) -> Self {
        ip.to_string()
    }
}

impl Config {
    /// Addresses for candidates, IPv4 first: the configured ones, else the one bound to, else the host's own, and loopback last
    /// in dev.
    pub fn advertise(&self) -> Vec<IpAddr> {
        if let Some(ip) = self.rtc.node_ip {
            return ip.v4.map(IpAddr::V4).into_iter().chain(ip.v6.map(IpAddr::V6)).collect();
        }
        if let Some(ip) = self.rtc.bind.filter(|ip| !ip.is_unspecified()) {
            return vec![ip];
        }
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let mut addresses = local_v4(&read("/proc/net/fib_trie"));
        addresses.extend(local_v6(&read("/proc/net/if_inet6")));
        if self.profile != Profile::Dev && addresses.iter().any(|ip| !ip.is_loopback()) {
            addresses.retain(|ip| !ip.is_loopback());
        }
        if addresses.is_empty() {
            addresses.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        addresses
    }
}

/// The host's IPv4 addresses in the kernel's forwarding table: leaves marked `/32 host LOCAL`, loopback last and once.
fn local_v4(fib_trie: &str) -> Vec<IpAddr> {
    let mut addresses: Vec<Ipv4Addr> = Vec::new();
    let mut leaf = None;
    for line in fib_trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if line.starts_with("/32 host LOCAL")
            && let Some(address) = leaf
            && !addresses.contains(&address)
            && (!address.is_loopback() || address == Ipv4Addr::LOCALHOST)
            && !address.is_link_local()
        {
            addresses.push(address);
        }
    }
    addresses.sort_by_key(Ipv4Addr::is_loopback);
    addresses.truncate(PER_FAMILY_MAX);
    addresses.into_iter().map(IpAddr::V4).collect()
}

/// The host's IPv6 addresses that stay (if_inet6: address, interface, prefix, scope, flags, name), those of the whole Internet before
/// unique local ones (RFC 4193). Not loopback or link-local, and none that is temporary, deprecated, or not yet verified.
fn local_v6(if_inet6: &str) -> Vec<IpAddr> {
    const GLOBAL: u8 = 0;
    // linux/if_addr.h: IFA_F_TEMPORARY, IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE.
    const UNUSABLE: u8 = 0x01 | 0x08 | 0x20 | 0x40;
    let hexadecimal = |field: Option<&str>| u8::from_str_radix(field?, 16).ok();
    let mut addresses: Vec<Ipv6Addr> = Vec::new();
    for line in if_inet6.lines() {
        let mut fields = line.split_ascii_whitespace();
        let address = fields.next().and_then(|text| u128::from_str_radix(text, 16).ok());
        let (scope, flags) = (hexadecimal(fields.nth(2)), hexadecimal(fields.next()));
        if let (Some(bits), Some(GLOBAL), Some(flags)) = (address, scope, flags)
            && flags & UNUSABLE == 0
        {
            addresses.push(Ipv6Addr::from_bits(bits));
        }
    }
    addresses.sort_by_key(Ipv6Addr::is_unique_local);
    addresses.dedup();
    addresses.truncate(PER_FAMILY_MAX);
    addresses.into_iter().map(IpAddr::V6).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_hosts_addresses_come_before_loopback() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.77.0.0\n        /24 link UNICAST\n     \
                     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 10.77.0.1\n        /32 host LOCAL\n     \
                     |-- 10.77.0.255\n        /32 link BROADCAST\nLocal:\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(local_v4(table), ips(&["10.77.0.1", "127.0.0.1"]));
    }

    #[test]
    fn of_ipv6_only_addresses_that_stay_and_lead_somewhere_are_told() {
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n\
                     fd000000000000000000000000000002 04 40 00 82     eth0\n\
                     20010db8000000000000000000000001 04 40 00 00     eth0\n\
                     20010db8000000000000000000000002 04 40 00 01     eth0\n\
                     20010db8000000000000000000000003 04 40 00 20     eth0\n\
                     20010db8000000000000000000000004 04 40 00 40     eth0\n\
                     20010db8000000000000000000000005 04 40 00 48     eth0\n\
                     20010db8000000000000000000000006 04 40 00 80     eth0\n\
                     nonsense\n20010db8 04\n";
        assert_eq!(local_v6(table), ips(&["2001:db8::1", "2001:db8::6", "fd00::2"]));
        assert!(local_v6("").is_empty());
    }

    #[test]
    fn a_node_has_an_address_of_each_family_at_most() {
        let both = NodeIp { v4: Some([203, 0, 113, 7].into()), v6: Some("2001:db8::7".parse().unwrap()) };
        for text in ["203.0.113.7,2001:db8::7", " 2001:db8::7 , ::ffff:203.0.113.7"] {
            assert_eq!(text.parse(), Ok(both));
        }
        assert_eq!("203.0.113.7".parse(), Ok(NodeIp { v6: None, ..both }));
        assert_eq!("2001:db8::7".parse(), Ok(NodeIp { v4: None, ..both }));
        for wrong in
            ["", ",", "host", "10.0.0.1,10.0.0.2", "0.0.0.0", "::", "ff02::1", "10.0.0.1:7882", "[::1]"]
        {
            assert!(wrong.parse::<NodeIp>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_told_follows_the_configuration() {
        let mut config = Config::default();
        config.rtc.bind = Some([10, 0, 0, 1].into());
        assert_eq!(config.advertise(), ips(&["10.0.0.1"]));
        config.rtc.node_ip = "2001:db8::7,203.0.113.7".parse().ok();
        assert_eq!(config.advertise(), ips(&["203.0.113.7", "2001:db8::7"]));
    }
}
