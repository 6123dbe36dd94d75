//! Networks of both families in one address space, as the trie of the kernel has them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use agentnet_common::addr::Addr;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A network of the 128-bit address space, IPv4 in its mapped form; host bits are zero.
///
/// The order puts a network before those inside it, and all of those right behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Net {
    bits: u128,
    prefix: u8,
}

/// Prefix length of the mapped IPv4 space (RFC 4291, 2.5.5.2).
const V4_PREFIX: u8 = 96;

impl Net {
    /// Every address, `::/0`.
    pub const ROOT: Self = Self { bits: 0, prefix: 0 };
    /// Every IPv4 address, `::ffff:0:0/96`.
    pub const V4: Self = Self::v4(Ipv4Addr::UNSPECIFIED, 0);

    /// An IPv4 network; `prefix` counts bits of the IPv4 address, 0 to 32. Host bits are dropped.
    pub const fn v4(ip: Ipv4Addr, prefix: u8) -> Self {
        Self::v6(ip.to_ipv6_mapped(), V4_PREFIX + prefix)
    }

    /// An IPv6 network; `prefix` 0 to 128. Host bits are dropped.
    pub const fn v6(ip: Ipv6Addr, prefix: u8) -> Self {
        Self { bits: ip.to_bits() & mask(prefix), prefix }
    }

    /// The network that holds just `ip`.
    pub fn host(ip: IpAddr) -> Self {
        Self::of(Addr::from(ip), 128)
    }

    /// The network of `prefix` bits (of 128) that holds `addr`.
    pub fn of(addr: Addr, prefix: u8) -> Self {
        Self { bits: u128::from_be_bytes(addr.octets()) & mask(prefix), prefix }
    }

    /// The network's address.
    pub const fn addr(self) -> Addr {
        Addr::from_octets(self.bits.to_be_bytes())
    }

    /// Prefix length in bits of the 128-bit address, 0 to 128.
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether all of `other` is inside.
    pub const fn contains(self, other: Self) -> bool {
        self.prefix <= other.prefix && other.bits & mask(self.prefix) == self.bits
    }

    /// Whether this is a network of IPv4 addresses.
    pub const fn is_v4(self) -> bool {
        Self::V4.contains(self)
    }

    /// Whether a rule for this network speaks about the addresses of `other`: those inside that are of the
    /// same family. `::/0` is every IPv6 address and no IPv4 one.
    pub const fn covers(self, other: Self) -> bool {
        self.contains(other) && self.is_v4() == other.is_v4()
    }
}

/// The bits of a prefix, `prefix` 0 to 128.
const fn mask(prefix: u8) -> u128 {
    match u128::MAX.checked_shl(128 - prefix as u32) {
        Some(mask) => mask,
        None => 0,
    }
}

impl From<IpNet> for Net {
    fn from(net: IpNet) -> Self {
        match net {
            IpNet::V4(net) => Self::v4(net.addr(), net.prefix_len()),
            IpNet::V6(net) => Self::v6(net.addr(), net.prefix_len()),
        }
    }
}

impl fmt::Display for Net {
    /// In the notation of its family: `10.0.0.0/8`, `2001:db8::/32`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_v4() {
            write!(f, "{}/{}", IpAddr::from(self.addr()), self.prefix - V4_PREFIX)
        } else {
            write!(f, "{}/{}", Ipv6Addr::from_bits(self.bits), self.prefix)
        }
    }
}

impl Serialize for Net {
    /// As it is shown.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Net {
    /// As it is shown.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse::<IpNet>().map(Self::from).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::Net;

    fn net(text: &str) -> Net {
        text.parse::<ipnet::IpNet>().unwrap().into()
    }

    #[test]
    fn both_families_are_shown_as_written() {
        for text in ["0.0.0.0/0", "10.0.0.0/8", "1.2.3.4/32", "::/0", "2001:db8::/32", "::1/128"] {
            assert_eq!(net(text).to_string(), text);
            let json = serde_json::to_string(&net(text)).unwrap();
            assert_eq!(serde_json::from_str::<Net>(&json).unwrap(), net(text));
        }
    }

    #[test]
    fn the_root_contains_ipv4_and_does_not_cover_it() {
        assert!(Net::ROOT.contains(net("10.0.0.0/8")));
        assert!(!Net::ROOT.covers(net("10.0.0.0/8")));
        assert!(Net::ROOT.covers(net("2001:db8::/32")));
        assert!(net("0.0.0.0/0").covers(net("10.0.0.0/8")));
        assert!(!net("10.0.0.0/8").covers(net("0.0.0.0/0")));
        assert!(!net("10.0.0.0/8").covers(net("11.0.0.0/8")));
    }
}
