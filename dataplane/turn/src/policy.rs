//! Which peers may be reached: a relay stands inside of the operator's network and must not be a way into it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

/// Addresses with a common beginning, such as `10.0.0.0/8`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cidr {
    network: IpAddr,
    prefix_len: u8,
}

/// Not a range of addresses; the operator's to mend.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not a range of addresses such as 10.0.0.0/8")]
pub struct CidrError(String);

impl std::str::FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let wrong = || CidrError(text.to_owned());
        let (ip, prefix) = text.split_once('/').unzip();
        let network: IpAddr = ip.unwrap_or(text).parse().map_err(|_| wrong())?;
        let widest = if network.is_ipv4() { 32 } else { 128 };
        let prefix_len = prefix.map_or(Ok(widest), str::parse).map_err(|_| wrong())?;
        if prefix_len > widest {
            return Err(wrong());
        }
        Ok(Self { network, prefix_len })
    }
}

impl Cidr {
    const fn v4(a: u8, b: u8, c: u8, prefix_len: u8) -> Self {
        Self { network: IpAddr::V4(Ipv4Addr::new(a, b, c, 0)), prefix_len }
    }

    const fn v6(first: u16, second: u16, prefix_len: u8) -> Self {
        Self { network: IpAddr::V6(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, 0)), prefix_len }
    }

    /// Whether the address is one of these.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let len = u32::from(self.prefix_len);
        match (self.network, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                (u32::from(network) ^ u32::from(ip)).checked_shr(32 - len).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                (u128::from(network) ^ u128::from(ip)).checked_shr(128 - len).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// This network, private, shared (CGNAT), loopback, link-local, protocol assignments, benchmarking, multicast, reserved.
const RESTRICTED_V4: [Cidr; 11] = [
    Cidr::v4(0, 0, 0, 8),
    Cidr::v4(10, 0, 0, 8),
    Cidr::v4(100, 64, 0, 10),
    Cidr::v4(127, 0, 0, 8),
    Cidr::v4(169, 254, 0, 16),
    Cidr::v4(172, 16, 0, 12),
    Cidr::v4(192, 0, 0, 24),
    Cidr::v4(192, 168, 0, 16),
    Cidr::v4(198, 18, 0, 15),
    Cidr::v4(224, 0, 0, 4),
    Cidr::v4(240, 0, 0, 4),
];

/// Unspecified, loopback and old mappings (::/96), NAT64, discard, Teredo, unique local, link-local, site-local,
/// multicast.
const RESTRICTED_V6: [Cidr; 8] = [
    Cidr::v6(0, 0, 96),
    Cidr::v6(0x64, 0xff9b, 32),
    Cidr::v6(0x100, 0, 64),
    Cidr::v6(0x2001, 0, 32),
    Cidr::v6(0xfc00, 0, 7),
    Cidr::v6(0xfe80, 0, 10),
    Cidr::v6(0xfec0, 0, 10),
    Cidr::v6(0xff00, 0, 8),
];

/// Whether an address is nobody's on the public internet, whatever it is written as.
fn is_restricted(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => RESTRICTED_V4.iter().any(|cidr| cidr.contains(ip)),
        IpAddr::V6(v6) => {
            // 6to4 leads to the IPv4 address within.
            let [_, a, b, ..] = v6.segments();
            let within = Ipv4Addr::from(u32::from(a) << 16 | u32::from(b));
            let is_6to4 = Cidr::v6(0x2002, 0, 16).contains(ip);
            RESTRICTED_V6.iter().any(|cidr| cidr.contains(ip)) || (is_6to4 && is_restricted(within.into()))
        }
    }
}

/// What may be sent to an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Refused,
    /// The node's own media ports alone.
    MediaOnly,
    Allowed,
}

/// Judges peers.
#[derive(Clone, Default, Debug)]
pub struct Policy {
    /// Where the node itself takes media: what clients relay to, and always allowed.
    pub media: Vec<(IpAddr, RangeInclusive<u16>)>,
    /// The node's addresses: its other ports are as restricted as its loopback.
    pub own: Vec<IpAddr>,
    /// Restricted peers that are allowed.
    pub allow: Vec<Cidr>,
    /// Peers that are refused, whatever else is said.
    pub deny: Vec<Cidr>,
}

impl Policy {
    /// What may be sent to an address.
    pub fn judge(&self, ip: IpAddr) -> Verdict {
        let ip = ip.to_canonical();
        let within = |cidrs: &[Cidr]| cidrs.iter().any(|cidr| cidr.contains(ip));
        let restricted = is_restricted(ip) || self.own.contains(&ip);
        if !within(&self.deny) && (!restricted || within(&self.allow)) {
            Verdict::Allowed
        } else if self.media.iter().any(|(media, _)| *media == ip) {
            Verdict::MediaOnly
        } else {
            Verdict::Refused
        }
    }

    /// Whether the node takes media there.
    pub fn is_media(&self, peer: SocketAddr) -> bool {
        let ip = peer.ip().to_canonical();
        self.media.iter().any(|(media, ports)| *media == ip && ports.contains(&peer.port()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(policy: &Policy, ip: &str) -> Verdict {
        policy.judge(ip.parse().unwrap())
    }

    #[test]
    fn what_is_not_public_is_refused_in_every_spelling() {
        let policy = Policy::default();
        for ip in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:a00:1::1",
            "2001::1",
            "fd00::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert_eq!(judge(&policy, ip), Verdict::Refused, "{ip}");
        }
        for ip in [
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.32.0.1",
            "2600::1",
            "2002:808:808::1",
            "::ffff:8.8.8.8",
        ] {
            assert_eq!(judge(&policy, ip), Verdict::Allowed, "{ip}");
        }
    }

    #[test]
    fn operators_allow_and_deny() {
        let policy = Policy {
            allow: vec!["10.0.0.0/8".parse().unwrap()],
            deny: vec!["10.9.0.0/16".parse().unwrap(), "8.8.8.8".parse().unwrap()],
            ..Policy::default()
        };
        assert_eq!(judge(&policy, "10.1.0.1"), Verdict::Allowed);
        assert_eq!(judge(&policy, "10.9.0.1"), Verdict::Refused);
        assert_eq!(judge(&policy, "8.8.8.8"), Verdict::Refused);
        assert_eq!(judge(&policy, "192.168.0.1"), Verdict::Refused);
    }

    #[test]
    fn the_nodes_other_ports_are_restricted_though_it_is_public() {
        let own: IpAddr = "203.0.113.7".parse().unwrap();
        let policy = Policy { media: vec![(own, 7882..=7882)], own: vec![own], ..Policy::default() };
        assert_eq!(judge(&policy, "203.0.113.7"), Verdict::MediaOnly);
        assert_eq!(judge(&policy, "203.0.113.8"), Verdict::Allowed);
        let allow = vec!["203.0.113.7".parse().unwrap()];
        assert_eq!(judge(&Policy { allow, ..policy }, "203.0.113.7"), Verdict::Allowed);
    }

    #[test]
    fn the_nodes_own_media_is_always_allowed_and_its_other_ports_are_not() {
        let own: IpAddr = "203.0.113.7".parse().unwrap();
        let policy = Policy {
            media: vec![(own, 7882..=7883)],
            own: vec![own],
            deny: vec!["0.0.0.0/0".parse().unwrap()],
            ..Policy::default()
        };
        assert_eq!(judge(&policy, "203.0.113.7"), Verdict::MediaOnly);
        assert!(policy.is_media("203.0.113.7:7883".parse().unwrap()));
        assert!(!policy.is_media("203.0.113.7:7884".parse().unwrap()));
    }

    #[test]
    fn ranges_are_read_or_refused() {
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/-1", "10.0.0.0/8/8", "host"] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
        assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains("1.2.3.4".parse().unwrap()));
        assert!("::/0".parse::<Cidr>().unwrap().contains("2600::1".parse().unwrap()));
    }
}
