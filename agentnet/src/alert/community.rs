//! Community ID, version 1: one hash for a flow, the same in Zeek, Suricata, Wireshark and here.
//!
//! <https://github.com/corelight/community-id-spec>

use std::net::{IpAddr, SocketAddr};

use agentnet_common::addr::protocol;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha1::{Digest as _, Sha1};

/// SCTP (RFC 9260), which has ports as TCP and UDP do.
const SCTP: u8 = 132;

/// The Community ID with seed 0 of a flow between `one` and `other` over `protocol`, an IANA number.
///
/// Direction does not matter. `None` where the ends are of different families, where a port is missing
/// (0), and for ICMP, whose identifier needs the message type that records do not carry.
pub fn community_id(protocol: u8, one: SocketAddr, other: SocketAddr) -> Option<String> {
    let has_ports = match protocol {
        protocol::TCP | protocol::UDP | SCTP => true,
        protocol::ICMP | protocol::ICMPV6 => return None,
        _ => false,
    };
    if one.is_ipv4() != other.is_ipv4() || (has_ports && (one.port() == 0 || other.port() == 0)) {
        return None;
    }
    let (first, second) =
        if (one.ip(), one.port()) <= (other.ip(), other.port()) { (one, other) } else { (other, one) };
    let mut hash = Sha1::new();
    hash.update([0, 0]); // the seed
    for end in [first, second] {
        match end.ip() {
            IpAddr::V4(ip) => hash.update(ip.octets()),
            IpAddr::V6(ip) => hash.update(ip.octets()),
        }
    }
    hash.update([protocol, 0]);
    if has_ports {
        hash.update(first.port().to_be_bytes());
        hash.update(second.port().to_be_bytes());
    }
    Some(format!("1:{}", STANDARD.encode(hash.finalize())))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::community_id;

    fn end(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// From the baseline files of the specification's repository.
    #[test]
    fn the_vectors_of_the_specification_hold_both_ways_round() {
        for (protocol, one, other, expected) in [
            (6, "128.232.110.120:34855", "66.35.250.204:80", "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
            (17, "192.168.1.52:54585", "8.8.8.8:53", "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
            (
                6,
                "[2607:f8b0:400c:c03::1a]:25",
                "[2001:470:e5bf:dead:4957:2174:e82c:4887]:63943",
                "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4=",
            ),
            (132, "192.168.170.8:7", "192.168.170.56:7", "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs="),
        ] {
            let (one, other) = (end(one), end(other));
            assert_eq!(community_id(protocol, one, other).as_deref(), Some(expected), "{one} {other}");
            assert_eq!(community_id(protocol, other, one).as_deref(), Some(expected), "{other} {one}");
        }
    }

    #[test]
    fn what_is_not_known_has_none() {
        assert_eq!(community_id(6, end("10.0.0.1:0"), end("10.0.0.2:80")), None);
        assert_eq!(community_id(6, end("10.0.0.1:1"), end("[::1]:80")), None);
        assert_eq!(community_id(1, end("10.0.0.1:0"), end("10.0.0.2:0")), None);
        assert!(community_id(47, end("10.0.0.1:0"), end("10.0.0.2:0")).is_some());
    }
}
