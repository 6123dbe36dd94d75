//! Packets as the sniffer records them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a packet's headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IANA number of what follows the IP header and its extension headers.
    pub protocol: u8,
    /// Destination port of TCP, UDP and UDP-Lite in an unfragmented packet or first fragment; else 0.
    pub port: u16,
}

/// A packet that came from the agent's side.
#[derive(Clone, Debug)]
pub struct Packet {
    /// All bytes from the IP header on.
    pub bytes: Vec<u8>,
    /// Its headers, unless it is something else than IP or cannot be read.
    pub header: Option<Header>,
}

impl Packet {
    /// Reads what was captured.
    pub fn new(bytes: Vec<u8>) -> Self {
        let header = parse(&bytes);
        Self { bytes, header }
    }

    /// Whether these bytes are in it, anywhere.
    pub fn holds(&self, needle: &[u8]) -> bool {
        !needle.is_empty() && self.bytes.windows(needle.len()).any(|window| window == needle)
    }

    /// Whether the kernel sends such packets by itself to keep a link alive: neighbour discovery, router
    /// solicitation and group membership. ARP is no IP and has no header here.
    pub fn is_housekeeping(&self) -> bool {
        const IGMP: u8 = 2;
        const ICMPV6: u8 = 58;
        let Some(header) = self.header else { return true };
        match header.protocol {
            IGMP => true,
            ICMPV6 => matches!(self.transport().first(), Some(130..=132 | 133..=136 | 143)),
            _ => false,
        }
    }

    /// Whether the transport header follows the IP header at once, whole: no options, no extension headers,
    /// no fragment.
    pub fn is_plain(&self) -> bool {
        match (self.bytes.as_slice(), self.header) {
            ([0x45, ..], Some(_)) => {
                self.bytes.get(6..8).is_some_and(|bytes| bytes[0] & 0x3f == 0 && bytes[1] == 0)
            }
            ([first, _, _, _, _, _, next, ..], Some(header)) => first >> 4 == 6 && *next == header.protocol,
            _ => false,
        }
    }

    fn transport(&self) -> &[u8] {
        transport(&self.bytes).map_or(&[], |(_, _, rest)| rest)
    }
}

fn parse(bytes: &[u8]) -> Option<Header> {
    let (source, destination) = match bytes.first()? >> 4 {
        4 => (
            Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(12..16)?).ok()?).into(),
            Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(16..20)?).ok()?).into(),
        ),
        6 => (
            Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?).into(),
            Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(24..40)?).ok()?).into(),
        ),
        _ => return None,
    };
    let (protocol, first, rest) = transport(bytes)?;
    let port = match (protocol, rest.get(2..4)) {
        (6 | 17 | 136, Some(&[high, low])) if first => u16::from_be_bytes([high, low]),
        _ => 0,
    };
    Some(Header { source, destination, protocol, port })
}

/// The transport protocol, whether this is its beginning (no fragment with an offset), and its bytes.
fn transport(bytes: &[u8]) -> Option<(u8, bool, &[u8])> {
    if bytes.first()? >> 4 == 4 {
        let length = usize::from(bytes.first()? & 0xf) * 4;
        let offset = u16::from_be_bytes([*bytes.get(6)?, *bytes.get(7)?]) & 0x1fff;
        return Some((*bytes.get(9)?, offset == 0, bytes.get(length..)?));
    }
    let (mut next, mut rest, mut first) = (*bytes.get(6)?, bytes.get(40..)?, true);
    loop {
        let length = match next {
            // Hop-by-hop, routing, destination options (RFC 8200, 4).
            0 | 43 | 60 => (usize::from(*rest.get(1)?) + 1) * 8,
            44 => {
                first &= u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]) >> 3 == 0;
                8
            }
            _ => return Some((next, first, rest)),
        };
        next = *rest.first()?;
        rest = rest.get(length..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::{Header, Packet};
    use crate::probe::raw::datagram;

    fn v6(next: u8, rest: &[u8]) -> Packet {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        bytes.extend_from_slice(&[0; 31]);
        bytes.push(1);
        bytes.extend_from_slice(rest);
        Packet::new(bytes)
    }

    #[test]
    fn a_port_is_found_behind_extension_headers() {
        let mut rest = vec![43, 0, 1, 4, 0, 0, 0, 0, 17, 0, 4, 0, 0, 0, 0, 0];
        rest.extend_from_slice(&datagram(53, b"secret"));
        let packet = v6(0, &rest);
        let expected = Header {
            source: "::".parse().unwrap(),
            destination: "::1".parse().unwrap(),
            protocol: 17,
            port: 53,
        };
        assert_eq!(packet.header, Some(expected));
        assert!(packet.holds(b"secret") && !packet.holds(b"secrets"));
    }

    #[test]
    fn a_later_fragment_has_no_port() {
        let packet = v6(44, &[17, 0, 0, 8, 0, 0, 0, 1, 0, 1, 0, 2, 0, 3, 0, 4]);
        assert_eq!(packet.header.map(|header| (header.protocol, header.port)), Some((17, 0)));
    }

    #[test]
    fn an_extension_header_is_not_plain() {
        assert!(v6(17, &datagram(1, b"")).is_plain());
        assert!(!v6(0, &[17, 0, 1, 4, 0, 0, 0, 0]).is_plain());
    }

    #[test]
    fn an_echo_request_is_no_housekeeping() {
        assert!(v6(58, &[135, 0, 0, 0]).is_housekeeping());
        assert!(!v6(58, &[128, 0, 0, 0]).is_housekeeping());
        assert!(!v6(17, &datagram(1, b"")).is_housekeeping());
    }
}
