//! Addresses and endpoints, in one form for both families.

use crate::wire;

wire! {
    /// An IPv4 or IPv6 address, IPv4 in its mapped form `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
    ///
    /// Four words in network byte order: the same sixteen bytes as on the wire, so that the kernel compares
    /// four registers instead of calling `memcmp`.
    #[derive(Hash, PartialOrd, Ord)]
    pub struct Addr {
        /// The address, most significant word first, each word in network byte order.
        pub words: [u32; 4],
    }
}

/// The third word of an IPv4-mapped address, in network byte order.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl Addr {
    /// `::`.
    pub const UNSPECIFIED: Self = Self { words: [0; 4] };
    /// `::1`.
    pub const LOOPBACK_V6: Self = Self { words: [0, 0, 0, 1_u32.to_be()] };
    /// `127.0.0.1`.
    pub const LOOPBACK_V4: Self = Self::from_v4_word(0x7f00_0001_u32.to_be());

    /// The mapped form of an IPv4 address given as one word in network byte order.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self { words: [0, 0, MAPPED, word] }
    }

    /// The address whose sixteen bytes on the wire are `octets`.
    #[inline(always)]
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self {
            words: [
                u32::from_ne_bytes([a, b, c, d]),
                u32::from_ne_bytes([e, f, g, h]),
                u32::from_ne_bytes([i, j, k, l]),
                u32::from_ne_bytes([m, n, o, p]),
            ],
        }
    }

    /// The sixteen bytes on the wire.
    pub const fn octets(self) -> [u8; 16] {
        let [a, b, c, d] = self.words;
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a.to_ne_bytes(), b.to_ne_bytes());
        let ([c0, c1, c2, c3], [d0, d1, d2, d3]) = (c.to_ne_bytes(), d.to_ne_bytes());
        [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3]
    }

    /// Whether this is an IPv4 address in mapped form.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED
    }

    /// Whether the kernel takes this destination for the host itself: 127.0.0.0/8, 0.0.0.0/8 (only 0.0.0.0
    /// can be connected to, and means loopback), `::1` and `::` (likewise).
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            let first = self.words[3] & 0xff00_0000_u32.to_be();
            return first == 0x7f00_0000_u32.to_be() || self.words[3] == 0;
        }
        self.words[0] == 0
            && self.words[1] == 0
            && self.words[2] == 0
            && (self.words[3] == 1_u32.to_be() || self.words[3] == 0)
    }
}

/// IANA protocol numbers of the layers that rules can name.
pub mod protocol {
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// ICMP for IPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
}

/// Sets of protocols, as rules hold them.
pub mod protocols {
    /// TCP.
    pub const TCP: u8 = 1;
    /// UDP.
    pub const UDP: u8 = 2;
    /// ICMP and ICMPv6.
    pub const ICMP: u8 = 4;

    /// The set that holds just `protocol`, an IANA number; empty for a protocol that no rule can name.
    #[inline(always)]
    pub const fn of(protocol: u8) -> u8 {
        match protocol {
            super::protocol::TCP => TCP,
            super::protocol::UDP => UDP,
            super::protocol::ICMP | super::protocol::ICMPV6 => ICMP,
            _ => 0,
        }
    }
}

wire! {
    /// The far end of a flow.
    #[derive(Hash, PartialOrd, Ord)]
    pub struct Endpoint {
        /// The address.
        pub addr: Addr,
        /// The port in host byte order; 0 for ICMP.
        pub port: u16,
        /// The IANA protocol number, see [`protocol`].
        pub protocol: u8,
        /// Zero.
        pub pad: u8,
    }
}

impl Endpoint {
    /// An endpoint; `port` in host byte order, `protocol` an IANA number.
    #[inline(always)]
    pub const fn new(addr: Addr, port: u16, protocol: u8) -> Self {
        Self { addr, port, protocol, pad: 0 }
    }
}

#[cfg(any(test, feature = "user"))]
mod std_conversions {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::Addr;

    impl From<Ipv4Addr> for Addr {
        fn from(ip: Ipv4Addr) -> Self {
            Self::from_octets(ip.to_ipv6_mapped().octets())
        }
    }

    impl From<Ipv6Addr> for Addr {
        fn from(ip: Ipv6Addr) -> Self {
            Self::from_octets(ip.octets())
        }
    }

    impl From<IpAddr> for Addr {
        fn from(ip: IpAddr) -> Self {
            match ip {
                IpAddr::V4(ip) => ip.into(),
                IpAddr::V6(ip) => ip.into(),
            }
        }
    }

    impl From<Addr> for IpAddr {
        /// A mapped IPv4 address comes back as IPv4.
        fn from(addr: Addr) -> Self {
            Ipv6Addr::from(addr.octets()).to_canonical()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::Addr;

    #[test]
    fn both_families_survive_the_round_trip() {
        for text in ["0.0.0.0", "10.1.2.3", "255.255.255.255", "::", "::1", "2001:db8::7", "fe80::1"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Addr::from(ip)), ip);
        }
    }

    #[test]
    fn loopback_is_what_the_kernel_takes_for_the_host_itself() {
        for (text, expected) in [
            ("127.0.0.1", true),
            ("127.255.255.254", true),
            ("0.0.0.0", true),
            ("::1", true),
            ("::", true),
            ("::ffff:127.0.0.1", true),
            ("126.0.0.1", false),
            ("0.0.0.1", false),
            ("::2", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(Addr::from(text.parse::<IpAddr>().unwrap()).is_loopback(), expected, "{text}");
        }
    }
}
