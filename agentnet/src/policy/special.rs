//! Special-purpose networks: an allow rule reaches into one only if it names it.
//!
//! A rule for `0.0.0.0/0` is meant for the internet. It must not open the cloud's metadata service, the
//! private network of the office or a tunnel prefix that leads to either.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::net::Net;

/// A network that a rule has to name.
#[derive(Clone, Copy, Debug)]
pub struct Special {
    /// The network.
    pub net: Net,
    /// What it is, as in "`name` is special".
    pub name: &'static str,
    /// Where it is defined.
    pub source: &'static str,
    /// Whether it is this host.
    pub local: bool,
    /// Whether it is where a cloud hands out a machine's credentials or controls it.
    pub metadata: bool,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8, name: &'static str, source: &'static str) -> Special {
    Special { net: Net::v4(Ipv4Addr::new(a, b, c, d), prefix), name, source, local: false, metadata: false }
}

const fn v6(ip: [u16; 8], prefix: u8, name: &'static str, source: &'static str) -> Special {
    let [a, b, c, d, e, f, g, h] = ip;
    Special {
        net: Net::v6(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix),
        name,
        source,
        local: false,
        metadata: false,
    }
}

const fn local(special: Special) -> Special {
    Special { local: true, ..special }
}

const fn metadata(special: Special) -> Special {
    Special { metadata: true, ..special }
}

/// Documentation of the clouds that put credentials or control behind a fixed address.
const AWS: &str = "AWS: EC2 and ECS user guides, instance metadata and task credentials";
const AWS_EKS: &str = "AWS: EKS user guide, Pod Identity agent";
const GCP: &str = "Google Cloud: Compute Engine, metadata server";
const AZURE: &str = "Azure: what is IP address 168.63.129.16";
const ALIBABA: &str = "Alibaba Cloud: ECS user guide, instance metadata";
const ORACLE: &str = "Oracle Cloud Classic: instance metadata";
const SCALEWAY: &str = "Scaleway: instance metadata";
const OPENSTACK: &str = "OpenStack: Nova user guide, metadata service";

/// Every special-purpose network, in the order of the addresses of each family.
#[rustfmt::skip]
pub const SPECIAL: &[Special] = &[
    v4(0, 0, 0, 0, 8, "this network (0.0.0.0/8)", "RFC 1122, 3.2.1.3"),
    local(v4(0, 0, 0, 0, 32, "this host (0.0.0.0)", "RFC 1122, 3.2.1.3")),
    v4(10, 0, 0, 0, 8, "the private network 10.0.0.0/8", "RFC 1918, 3"),
    v4(100, 64, 0, 0, 10, "the shared address space 100.64.0.0/10", "RFC 6598, 7"),
    metadata(v4(100, 100, 100, 200, 32, "the metadata service 100.100.100.200", ALIBABA)),
    local(v4(127, 0, 0, 0, 8, "loopback (127.0.0.0/8)", "RFC 1122, 3.2.1.3")),
    metadata(v4(168, 63, 129, 16, 32, "the platform service 168.63.129.16", AZURE)),
    v4(169, 254, 0, 0, 16, "link-local (169.254.0.0/16)", "RFC 3927, 2.1"),
    metadata(v4(169, 254, 42, 42, 32, "the metadata service 169.254.42.42", SCALEWAY)),
    metadata(v4(169, 254, 169, 254, 32, "the metadata service 169.254.169.254", AWS)),
    metadata(v4(169, 254, 170, 2, 32, "the credentials service 169.254.170.2", AWS)),
    metadata(v4(169, 254, 170, 23, 32, "the credentials service 169.254.170.23", AWS_EKS)),
    v4(172, 16, 0, 0, 12, "the private network 172.16.0.0/12", "RFC 1918, 3"),
    v4(192, 0, 0, 0, 24, "IETF protocol assignments (192.0.0.0/24)", "RFC 6890, 2.1"),
    metadata(v4(192, 0, 0, 192, 32, "the metadata service 192.0.0.192", ORACLE)),
    v4(192, 168, 0, 0, 16, "the private network 192.168.0.0/16", "RFC 1918, 3"),
    v4(224, 0, 0, 0, 4, "multicast (224.0.0.0/4)", "RFC 5771, 3"),
    v4(240, 0, 0, 0, 4, "reserved (240.0.0.0/4)", "RFC 1112, 4"),
    v4(255, 255, 255, 255, 32, "broadcast (255.255.255.255)", "RFC 919, 7"),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96, "IPv4-compatible (::/96)", "RFC 4291, 2.5.5.1"),
    local(v6([0, 0, 0, 0, 0, 0, 0, 0], 128, "this host (::)", "RFC 4291, 2.5.2")),
    local(v6([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback (::1)", "RFC 4291, 2.5.3")),
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, "NAT64 (64:ff9b::/96)", "RFC 6052, 2.1"),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "local NAT64 (64:ff9b:1::/48)", "RFC 8215, 3"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "Teredo (2001::/32)", "RFC 4380, 2.6"),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "6to4 (2002::/16)", "RFC 3056, 2"),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "unique local addresses (fc00::/7)", "RFC 4193, 3.1"),
    metadata(v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128, "the metadata service fd00:42::42", SCALEWAY)),
    metadata(v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23], 128, "the credentials service fd00:ec2::23", AWS_EKS)),
    metadata(v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, "the metadata service fd00:ec2::254", AWS)),
    metadata(v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, "the metadata service fd20:ce::254", GCP)),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local (fe80::/10)", "RFC 4291, 2.5.6"),
    metadata(v6([0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128, "the metadata service fe80::a9fe:a9fe", OPENSTACK)),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local (fec0::/10)", "RFC 3879, 4"),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast (ff00::/8)", "RFC 4291, 2.7"),
];

/// One of this host's own addresses.
fn own(ip: IpAddr) -> Special {
    let net = Net::host(ip);
    Special { net, name: "an address of this host", source: "its interfaces", local: true, metadata: false }
}

/// The special-purpose networks of a host that has the addresses `local`.
///
/// An address of the loopback interface is part of loopback, not a network of its own: a rule for
/// `127.0.0.0/8` opens `127.0.0.1` on every host.
pub fn networks(local: &[IpAddr]) -> impl Iterator<Item = Special> {
    let loopback = |net: Net| SPECIAL.iter().any(|special| special.local && special.net.covers(net));
    let own = local.iter().copied().map(own).filter(move |special| !loopback(special.net));
    SPECIAL.iter().copied().chain(own)
}

/// The innermost special-purpose network that holds all of `net`.
pub fn innermost(net: Net, local: &[IpAddr]) -> Option<Special> {
    networks(local).filter(|special| special.net.covers(net)).max_by_key(|special| special.net.prefix())
}

/// Whether `ip` is where a cloud hands out a machine's credentials or controls it.
pub fn is_metadata(ip: IpAddr) -> bool {
    SPECIAL.iter().any(|special| special.metadata && special.net.covers(Net::host(ip)))
}

#[cfg(test)]
mod tests {
    use super::{Net, SPECIAL, innermost, is_metadata};

    #[test]
    fn the_table_is_in_order_and_names_each_network_once() {
        let (v4, v6): (Vec<_>, Vec<_>) =
            SPECIAL.iter().map(|special| special.net).partition(|net| net.is_v4());
        assert!(v4.is_sorted_by(|a, b| a < b));
        assert!(v6.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn the_innermost_network_counts() {
        let name = |ip: &str, local: &[_]| {
            innermost(Net::host(ip.parse().unwrap()), local).map(|special| special.name)
        };
        assert_eq!(name("169.254.169.254", &[]), Some("the metadata service 169.254.169.254"));
        assert_eq!(name("169.254.1.1", &[]), Some("link-local (169.254.0.0/16)"));
        assert_eq!(name("255.255.255.255", &[]), Some("broadcast (255.255.255.255)"));
        assert_eq!(name("::1", &[]), Some("loopback (::1)"));
        assert_eq!(name("::2", &[]), Some("IPv4-compatible (::/96)"));
        assert_eq!(name("192.0.2.1", &[]), None);
        let local = ["192.0.2.1".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        assert_eq!(name("192.0.2.1", &local), Some("an address of this host"));
        assert_eq!(name("127.0.0.1", &local), Some("loopback (127.0.0.0/8)"));
    }

    #[test]
    fn the_clouds_services_are_single_addresses() {
        let clouds: Vec<_> = SPECIAL.iter().filter(|special| special.metadata).collect();
        assert_eq!(clouds.len(), 12);
        assert!(clouds.iter().all(|special| special.net.prefix() == 128 && special.name.contains("service")));
        for (ip, metadata) in [
            ("169.254.169.254", true),
            ("::ffff:169.254.169.254", true),
            ("fd00:ec2::254", true),
            ("169.254.169.253", false),
            ("127.0.0.1", false),
            ("fe80::1", false),
        ] {
            assert_eq!(is_metadata(ip.parse().unwrap()), metadata, "{ip}");
        }
    }
}
