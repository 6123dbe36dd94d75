//! Names of protocols, sockets and socket options, as manual pages have them.

use std::borrow::Cow;

use agentnet_common::addr::protocol;
use serde::{Deserialize, Serialize};

/// The lower-case name of an IANA protocol number; the number itself where there is no usual name.
pub fn protocol_name(number: u8) -> Cow<'static, str> {
    Cow::Borrowed(match number {
        protocol::ICMP => "icmp",
        2 => "igmp",
        4 => "ipip",
        protocol::TCP => "tcp",
        protocol::UDP => "udp",
        33 => "dccp",
        41 => "ipv6",
        47 => "gre",
        50 => "esp",
        51 => "ah",
        protocol::ICMPV6 => "icmpv6",
        132 => "sctp",
        136 => "udplite",
        255 => "raw",
        other => return Cow::Owned(other.to_string()),
    })
}

/// What kind of socket a process asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// Address family, such as `AF_INET6`.
    pub family: Cow<'static, str>,
    /// Type, such as `SOCK_RAW`.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// Protocol, such as `icmp` or `mptcp`; `ip` if none was asked for.
    pub protocol: Cow<'static, str>,
}

impl Socket {
    /// Reads `family << 16 | type << 8 | protocol`.
    ///
    /// MPTCP's number, 262, has nine bits: its low eight are TCP's, the ninth falls on a bit of the type
    /// that `SOCK_STREAM` has set anyway. A refused stream socket "of TCP" therefore is one of MPTCP.
    pub fn from_detail(detail: u32) -> Self {
        let [_, family, kind, number] = detail.to_be_bytes();
        let family = match i32::from(family) {
            libc::AF_INET => Cow::Borrowed("AF_INET"),
            libc::AF_INET6 => Cow::Borrowed("AF_INET6"),
            libc::AF_PACKET => Cow::Borrowed("AF_PACKET"),
            libc::AF_XDP => Cow::Borrowed("AF_XDP"),
            libc::AF_VSOCK => Cow::Borrowed("AF_VSOCK"),
            other => Cow::Owned(format!("family {other}")),
        };
        let stream = i32::from(kind) == libc::SOCK_STREAM;
        let kind = match i32::from(kind) {
            libc::SOCK_STREAM => Cow::Borrowed("SOCK_STREAM"),
            libc::SOCK_DGRAM => Cow::Borrowed("SOCK_DGRAM"),
            libc::SOCK_RAW => Cow::Borrowed("SOCK_RAW"),
            libc::SOCK_SEQPACKET => Cow::Borrowed("SOCK_SEQPACKET"),
            libc::SOCK_DCCP => Cow::Borrowed("SOCK_DCCP"),
            other => Cow::Owned(format!("type {other}")),
        };
        let protocol = match number {
            0 => Cow::Borrowed("ip"),
            protocol::TCP if stream => Cow::Borrowed("mptcp"),
            other => protocol_name(other),
        };
        Self { family, kind, protocol }
    }
}

impl std::fmt::Display for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.family, self.kind, self.protocol)
    }
}

/// A socket option that a process asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketOption {
    /// `level` of setsockopt(2).
    pub level: u16,
    /// `optname` of setsockopt(2).
    pub option: u16,
    /// Its name, such as `PACKET_QDISC_BYPASS`, where it has one here.
    pub name: Option<Cow<'static, str>>,
}

impl SocketOption {
    /// Reads `level << 16 | option`.
    pub fn from_detail(detail: u32) -> Self {
        let [l0, l1, o0, o1] = detail.to_be_bytes();
        let (level, option) = (u16::from_be_bytes([l0, l1]), u16::from_be_bytes([o0, o1]));
        let name = match (i32::from(level), i32::from(option)) {
            (libc::SOL_IP, libc::IP_OPTIONS) => "IP_OPTIONS",
            (libc::SOL_IP, libc::IP_HDRINCL) => "IP_HDRINCL",
            (libc::SOL_IP, libc::IP_TRANSPARENT) => "IP_TRANSPARENT",
            (libc::SOL_IPV6, libc::IPV6_HOPOPTS) => "IPV6_HOPOPTS",
            (libc::SOL_IPV6, libc::IPV6_RTHDR) => "IPV6_RTHDR",
            (libc::SOL_IPV6, libc::IPV6_RTHDRDSTOPTS) => "IPV6_RTHDRDSTOPTS",
            (libc::SOL_IPV6, libc::IPV6_DSTOPTS) => "IPV6_DSTOPTS",
            (libc::SOL_IPV6, libc::IPV6_TRANSPARENT) => "IPV6_TRANSPARENT",
            (libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS) => "PACKET_QDISC_BYPASS",
            (libc::SOL_PACKET, libc::PACKET_TX_RING) => "PACKET_TX_RING",
            (libc::SOL_XDP, libc::XDP_UMEM_REG) => "XDP_UMEM_REG",
            (libc::SOL_XDP, libc::XDP_TX_RING) => "XDP_TX_RING",
            (libc::SOL_SOCKET, libc::SO_MARK) => "SO_MARK",
            (libc::SOL_SOCKET, libc::SO_BINDTODEVICE) => "SO_BINDTODEVICE",
            (libc::SOL_TCP, libc::TCP_REPAIR) => "TCP_REPAIR",
            (libc::SOL_TCP, libc::TCP_ULP) => "TCP_ULP",
            _ => return Self { level, option, name: None },
        };
        Self { level, option, name: Some(Cow::Borrowed(name)) }
    }
}

impl std::fmt::Display for SocketOption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}"),
            None => write!(f, "option {} of level {}", self.option, self.level),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{Socket, SocketOption, protocol_name};

    #[rstest]
    #[case(2 << 16 | 3 << 8 | 1, "AF_INET SOCK_RAW icmp")]
    #[case(10 << 16 | 2 << 8 | 58, "AF_INET6 SOCK_DGRAM icmpv6")]
    #[case(10 << 16 | 2 << 8 | 136, "AF_INET6 SOCK_DGRAM udplite")]
    #[case(2 << 16 | 1 << 8 | 262, "AF_INET SOCK_STREAM mptcp")]
    #[case(2 << 16 | 1 << 8 | 6, "AF_INET SOCK_STREAM mptcp")]
    #[case(2 << 16 | 3 << 8, "AF_INET SOCK_RAW ip")]
    #[case(99 << 16 | 77 << 8 | 200, "family 99 type 77 200")]
    fn sockets_have_the_names_of_the_manual(#[case] detail: u32, #[case] expected: &str) {
        assert_eq!(Socket::from_detail(detail).to_string(), expected);
    }

    #[rstest]
    #[case(263 << 16 | 20, "PACKET_QDISC_BYPASS")]
    #[case(41 << 16 | 57, "IPV6_RTHDR")]
    #[case(4, "IP_OPTIONS")]
    #[case(283 << 16 | 77, "option 77 of level 283")]
    fn options_have_the_names_of_the_manual(#[case] detail: u32, #[case] expected: &str) {
        assert_eq!(SocketOption::from_detail(detail).to_string(), expected);
    }

    #[test]
    fn a_protocol_without_a_name_is_its_number() {
        assert_eq!(protocol_name(6), "tcp");
        assert_eq!(protocol_name(253), "253");
    }
}
