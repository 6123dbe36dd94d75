//! What a link needs besides the agent's traffic, and no more: the form in which ARP, IPv6 neighbour discovery and
//! group membership pass on the host's side of a container's interface.
//!
//! All of them carry fields that their sender fills at will, so each passes only in the shortest form that kernels
//! send, and only to where the link ends: a router does not pass them on. What is left to a sender on the same
//! link is a few bytes a packet; docs/limitations.md says so.

use crate::addr::Addr;

/// Bytes of ARP for IPv4 over Ethernet (RFC 826).
pub const ARP_BYTES: u32 = 28;
/// Group records that a report may have: the groups that the kernel itself joins on an interface with several
/// addresses.
pub const MLD_RECORDS: u32 = 8;

/// Router solicitation (RFC 4861, 4.1).
pub const ROUTER_SOLICITATION: u8 = 133;
/// Neighbour solicitation (4.3).
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// Neighbour advertisement (4.4).
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Option of a neighbour discovery message, type and length in units of eight bytes: source link-layer address.
const SOURCE_ADDRESS: u16 = 0x0101;
/// Target link-layer address.
const TARGET_ADDRESS: u16 = 0x0201;
/// Nonce of duplicate address detection (RFC 3971, 5.3.2; RFC 7527).
const NONCE: u16 = 0x0e01;

const fn v6(first: u32, third: u32, last: u32) -> Addr {
    Addr { words: [first.to_be(), 0, third.to_be(), last.to_be()] }
}

const ALL_NODES: Addr = v6(0xff02_0000, 0, 1);
const ALL_ROUTERS: Addr = v6(0xff02_0000, 0, 2);
const MLD_ROUTERS: Addr = v6(0xff02_0000, 0, 0x16);

/// Whether the first eight bytes of an ARP packet, in network byte order, are those of a request or reply for
/// IPv4 over Ethernet.
#[inline(always)]
pub const fn is_arp(words: [u32; 2]) -> bool {
    words[0] == 0x0001_0800_u32.to_be()
        && (words[1] == 0x0604_0001_u32.to_be() || words[1] == 0x0604_0002_u32.to_be())
}

/// A neighbour discovery message, as far as it is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Discovery {
    /// ICMPv6 type.
    pub kind: u8,
    /// ICMPv6 code.
    pub code: u8,
    /// Hop limit of the IPv6 header.
    pub hop_limit: u8,
    /// Bytes from the ICMPv6 header on.
    pub len: u32,
    /// The word after the checksum, host byte order: flags and what is reserved.
    pub flags: u32,
    /// Destination of the packet.
    pub destination: Addr,
    /// The target; anything for a router solicitation.
    pub target: Addr,
    /// Type and length of the first option; 0 if there is none.
    pub option: u16,
}

/// Whom a message may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It stays on the link: no router passes it on.
    Link,
    /// It asks whether its destination is still there: the agent must be allowed to talk to that.
    Probe,
    /// It answers: its destination must have asked.
    Answer,
}

impl Discovery {
    /// Where the message goes, if it is one that a link needs and has nothing in it but that.
    #[inline(always)]
    pub fn reach(&self) -> Option<Reach> {
        // 255 says that no router has passed it on (RFC 4861, 7.1).
        if self.code != 0 || self.hop_limit != 255 {
            return None;
        }
        let has = |fixed: u32, option: bool| {
            self.len == fixed && self.option == 0 || self.len == fixed + 8 && option
        };
        match self.kind {
            ROUTER_SOLICITATION => {
                (self.flags == 0 && self.destination == ALL_ROUTERS && has(8, self.option == SOURCE_ADDRESS))
                    .then_some(Reach::Link)
            }
            NEIGHBOUR_SOLICITATION => {
                if self.flags != 0 || !has(24, matches!(self.option, SOURCE_ADDRESS | NONCE)) {
                    return None;
                }
                if self.destination == solicited_node(&self.target) {
                    return Some(Reach::Link);
                }
                if self.destination != self.target || is_multicast(&self.target) {
                    return None;
                }
                Some(if is_link_local(&self.target) { Reach::Link } else { Reach::Probe })
            }
            NEIGHBOUR_ADVERTISEMENT => {
                // Router, solicited, override; the rest is reserved.
                if self.flags & 0x1fff_ffff != 0 || !has(24, self.option == TARGET_ADDRESS) {
                    return None;
                }
                if self.destination == ALL_NODES || is_link_local(&self.destination) {
                    return Some(Reach::Link);
                }
                (!is_multicast(&self.destination)).then_some(Reach::Answer)
            }
            _ => None,
        }
    }
}

/// The group that is asked for `target` (RFC 4291, 2.7.1).
const fn solicited_node(target: &Addr) -> Addr {
    v6(0xff02_0000, 1, 0xff00_0000 | u32::from_be(target.words[3]))
}

/// Whether an address is in `fe80::/10`.
#[inline(always)]
pub const fn is_link_local(addr: &Addr) -> bool {
    addr.words[0] & 0xffc0_0000_u32.to_be() == 0xfe80_0000_u32.to_be()
}

const fn is_multicast(addr: &Addr) -> bool {
    addr.words[0] & 0xff00_0000_u32.to_be() == 0xff00_0000_u32.to_be()
}

/// A report of group membership (MLDv2, RFC 3810, 5.2) without its records.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Hop limit of the IPv6 header.
    pub hop_limit: u8,
    /// Destination of the packet.
    pub destination: Addr,
    /// Bytes after the IPv6 header.
    pub len: u32,
    /// The hop-by-hop header, network byte order.
    pub hop_by_hop: [u32; 2],
    /// The ICMPv6 header, network byte order.
    pub header: [u32; 2],
}

impl Report {
    /// How many records follow, if it is a report as kernels send them: [`MLD_RECORDS`] at most.
    #[inline(always)]
    pub const fn records(&self) -> Option<u32> {
        let count = u32::from_be(self.header[1]);
        let fits = count >= 1 && count <= MLD_RECORDS && self.len == 16 + 20 * count;
        // Followed by ICMPv6; router alert for MLD, and padding (RFC 2711).
        let alert =
            self.hop_by_hop[0] == 0x3a00_0502_u32.to_be() && self.hop_by_hop[1] == 0x0000_0100_u32.to_be();
        let report = u32::from_be(self.header[0]) >> 16 == 143 << 8;
        let [a, b, c, d] = self.destination.words;
        let [e, f, g, h] = MLD_ROUTERS.words;
        let to_routers = a == e && b == f && c == g && d == h;
        if fits && alert && report && to_routers && self.hop_limit == 1 { Some(count) } else { None }
    }
}

/// Whether a record of a report names a group and nothing else: no sources, no auxiliary data.
#[inline(always)]
pub const fn is_plain_record(words: &[u32; 5]) -> bool {
    let head = u32::from_be(words[0]);
    let kind = head >> 24;
    kind >= 1 && kind <= 6 && head & 0x00ff_ffff == 0 && u32::from_be(words[1]) >> 24 == 0xff
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse::<Ipv6Addr>().unwrap().into()
    }

    fn discovery(kind: u8, destination: &str, target: &str) -> Discovery {
        Discovery {
            kind,
            code: 0,
            hop_limit: 255,
            len: 32,
            flags: 0,
            destination: addr(destination),
            target: addr(target),
            option: if kind == NEIGHBOUR_ADVERTISEMENT { TARGET_ADDRESS } else { SOURCE_ADDRESS },
        }
    }

    #[test]
    fn what_kernels_send_passes() {
        let resolve = discovery(NEIGHBOUR_SOLICITATION, "ff02::1:ff00:2", "2001:db8:18::2");
        assert_eq!(resolve.reach(), Some(Reach::Link));
        assert_eq!(Discovery { option: NONCE, ..resolve }.reach(), Some(Reach::Link));
        assert_eq!(Discovery { option: 0, len: 24, ..resolve }.reach(), Some(Reach::Link));
        let near = discovery(NEIGHBOUR_SOLICITATION, "fe80::2", "fe80::2");
        assert_eq!(near.reach(), Some(Reach::Link));
        let probe = discovery(NEIGHBOUR_SOLICITATION, "2001:db8:18::2", "2001:db8:18::2");
        assert_eq!(probe.reach(), Some(Reach::Probe));
        let answer = discovery(NEIGHBOUR_ADVERTISEMENT, "2001:db8:18::2", "2001:db8:18::1");
        assert_eq!(Discovery { flags: 0x6000_0000, ..answer }.reach(), Some(Reach::Answer));
        let told = discovery(NEIGHBOUR_ADVERTISEMENT, "ff02::1", "fe80::1");
        assert_eq!(Discovery { flags: 0x2000_0000, ..told }.reach(), Some(Reach::Link));
        let router = discovery(ROUTER_SOLICITATION, "ff02::2", "::");
        assert_eq!(Discovery { len: 16, ..router }.reach(), Some(Reach::Link));
        assert_eq!(Discovery { len: 8, option: 0, ..router }.reach(), Some(Reach::Link));
    }

    #[test]
    fn what_could_carry_more_does_not() {
        let base = discovery(NEIGHBOUR_SOLICITATION, "ff02::1:ff00:2", "2001:db8:18::2");
        let changed = [
            ("a code", Discovery { code: 1, ..base }),
            ("a hop limit of a routed packet", Discovery { hop_limit: 64, ..base }),
            ("two options", Discovery { len: 40, ..base }),
            ("an option without room", Discovery { len: 24, ..base }),
            ("room without an option", Discovery { option: 0, ..base }),
            ("a long option", Discovery { option: 0x0102, ..base }),
            ("another option", Discovery { option: 0x0301, ..base }),
            ("reserved bits", Discovery { flags: 1, ..base }),
            ("the group of another target", Discovery { target: addr("2001:db8:18::3"), ..base }),
            ("a wider group", Discovery { destination: addr("ff0e::1:ff00:2"), ..base }),
            ("a destination that is not the target", Discovery { destination: addr("2001:db8::1"), ..base }),
            ("an advertisement to a wider group", discovery(NEIGHBOUR_ADVERTISEMENT, "ff0e::1", "fe80::1")),
            ("a router's advertisement", discovery(134, "ff02::1", "fe80::1")),
            ("a redirect", discovery(137, "fe80::2", "fe80::1")),
            ("a solicitation to a host", discovery(ROUTER_SOLICITATION, "2001:db8::1", "::")),
        ];
        for (what, message) in changed {
            assert_eq!(message.reach(), None, "{what}");
        }
        let answer = discovery(NEIGHBOUR_ADVERTISEMENT, "fe80::2", "fe80::1");
        assert_eq!(Discovery { flags: 0x1000_0000, ..answer }.reach(), None);
    }

    #[test]
    fn reports_name_few_groups_and_nothing_else() {
        let report = Report {
            hop_limit: 1,
            destination: addr("ff02::16"),
            len: 56,
            hop_by_hop: [0x3a00_0502_u32.to_be(), 0x0000_0100_u32.to_be()],
            header: [0x8f00_abcd_u32.to_be(), 2_u32.to_be()],
        };
        assert_eq!(report.records(), Some(2));
        assert_eq!(Report { len: 57, ..report }.records(), None);
        assert_eq!(Report { hop_limit: 255, ..report }.records(), None);
        assert_eq!(Report { destination: addr("ff0e::16"), ..report }.records(), None);
        assert_eq!(Report { hop_by_hop: [0x3a00_0502_u32.to_be(), 1], ..report }.records(), None);
        let many = Report { len: 16 + 20 * 9, header: [report.header[0], 9_u32.to_be()], ..report };
        assert_eq!(many.records(), None);

        let group = addr("ff02::1:ff00:1").words;
        let record = |head: u32, group: [u32; 4]| [head.to_be(), group[0], group[1], group[2], group[3]];
        assert!(is_plain_record(&record(0x0400_0000, group)));
        assert!(!is_plain_record(&record(0x0401_0000, group)));
        assert!(!is_plain_record(&record(0x0400_0001, group)));
        assert!(!is_plain_record(&record(0x0400_0000, addr("2001:db8::1").words)));
    }

    #[test]
    fn arp_is_for_ipv4_over_ethernet() {
        assert!(is_arp([0x0001_0800_u32.to_be(), 0x0604_0002_u32.to_be()]));
        assert!(!is_arp([0x0001_0800_u32.to_be(), 0x0604_0003_u32.to_be()]));
        assert!(!is_arp([0x0001_86dd_u32.to_be(), 0x0604_0001_u32.to_be()]));
    }
}
