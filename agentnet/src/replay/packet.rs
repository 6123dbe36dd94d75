//! A captured packet: addresses, ports and payload, whatever carried it.

use std::net::{IpAddr, SocketAddr};

use agentnet_common::addr::protocol;
use etherparse::{EtherType, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use pcap_parser::Linktype;

use super::pcap::Frame;

/// A packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Source; the port is 0 for protocols without ports.
    pub source: SocketAddr,
    /// Destination.
    pub target: SocketAddr,
    /// IANA number of the protocol.
    pub protocol: u8,
    /// Bytes of the IP packet.
    pub len: u32,
    /// What the transport says.
    pub transport: Transport<'a>,
}

/// What a transport header says.
#[derive(Clone, Copy, Debug)]
pub enum Transport<'a> {
    /// TCP.
    Tcp {
        /// Sequence number of the first byte.
        sequence: u32,
        /// The flag SYN.
        syn: bool,
        /// The flag ACK.
        ack: bool,
        /// FIN or RST.
        end: bool,
        /// Bytes as far as they were captured.
        payload: &'a [u8],
    },
    /// UDP.
    Udp {
        /// Bytes it has.
        len: u32,
        /// Bytes as far as they were captured.
        payload: &'a [u8],
    },
    /// ICMP or ICMPv6.
    Icmp {
        /// Type.
        kind: u8,
        /// The second four bytes.
        rest: [u8; 4],
        /// Bytes behind the header.
        len: u32,
        /// The same, as far as they were captured.
        payload: &'a [u8],
    },
    /// Another protocol, or a fragment that is not the first one.
    Other,
}

/// Link types that etherparse has no entry for.
const LOOPBACK_LENGTH: usize = 4;
const SLL2: i32 = 276;
const SLL2_LENGTH: usize = 20;
const SLL_LENGTH: usize = 16;
const PPP: i32 = 9;

/// The packet of a frame; `None` if it is none of IP.
pub fn packet<'a>(frame: &Frame<'a>) -> Option<Packet<'a>> {
    let bytes = frame.bytes;
    let sliced = match frame.link {
        Linktype::ETHERNET => LaxSlicedPacket::from_ethernet(bytes).ok()?,
        Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 | Linktype(12 | 14) => ip(bytes)?,
        Linktype::NULL | Linktype::LOOP => ip(bytes.get(LOOPBACK_LENGTH..)?)?,
        Linktype::LINUX_SLL => {
            let kind = bytes.get(SLL_LENGTH - 2..SLL_LENGTH)?;
            ether(kind, bytes.get(SLL_LENGTH..)?)
        }
        Linktype(SLL2) => ether(bytes.get(..2)?, bytes.get(SLL2_LENGTH..)?),
        // Protocol numbers of PPP (RFC 1661, 2), address and control left out or not.
        Linktype(PPP) => ip(bytes.strip_prefix(b"\xff\x03").unwrap_or(bytes).get(2..)?)?,
        _ => return None,
    };
    read(&sliced)
}

fn ip(bytes: &[u8]) -> Option<LaxSlicedPacket<'_>> {
    LaxSlicedPacket::from_ip(bytes).ok()
}

fn ether<'a>(kind: &[u8], bytes: &'a [u8]) -> LaxSlicedPacket<'a> {
    let kind = kind.first_chunk().map_or(0, |kind| u16::from_be_bytes(*kind));
    LaxSlicedPacket::from_ether_type(EtherType(kind), bytes)
}

fn read<'a>(sliced: &LaxSlicedPacket<'a>) -> Option<Packet<'a>> {
    let (source, target, protocol, payload, len): (IpAddr, IpAddr, _, _, _) = match sliced.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header();
            let payload = ip.payload();
            let len = u32::from(header.total_len());
            (header.source_addr().into(), header.destination_addr().into(), payload.ip_number, payload, len)
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header();
            let payload = ip.payload();
            let len = u32::from(header.payload_length()) + 40;
            (header.source_addr().into(), header.destination_addr().into(), payload.ip_number, payload, len)
        }
        LaxNetSlice::Arp(_) => return None,
    };
    let protocol = protocol.0;
    // What the headers say there is, whether it was captured or not.
    let headers = |captured: usize| {
        let missing = if payload.incomplete {
            len.saturating_sub(u32::try_from(payload.payload.len()).unwrap_or(u32::MAX))
        } else {
            0
        };
        u32::try_from(captured).unwrap_or(u32::MAX).saturating_add(missing)
    };
    let (ports, transport) = match &sliced.transport {
        _ if payload.fragmented => ((0, 0), Transport::Other),
        Some(TransportSlice::Tcp(tcp)) => (
            (tcp.source_port(), tcp.destination_port()),
            Transport::Tcp {
                sequence: tcp.sequence_number(),
                syn: tcp.syn(),
                ack: tcp.ack(),
                end: tcp.fin() || tcp.rst(),
                payload: tcp.payload(),
            },
        ),
        Some(TransportSlice::Udp(udp)) => (
            (udp.source_port(), udp.destination_port()),
            Transport::Udp { len: u32::from(udp.length()).saturating_sub(8), payload: udp.payload() },
        ),
        Some(TransportSlice::Icmpv4(icmp)) => ((0, 0), {
            // The library takes timestamps apart; here all is header of eight bytes and data.
            let payload = icmp.slice().get(8..).unwrap_or_default();
            let (kind, rest) = (icmp.type_u8(), icmp.bytes5to8());
            Transport::Icmp { kind, rest, len: headers(payload.len()), payload }
        }),
        Some(TransportSlice::Icmpv6(icmp)) => ((0, 0), {
            let payload = icmp.slice().get(8..).unwrap_or_default();
            let (kind, rest) = (icmp.type_u8(), icmp.bytes5to8());
            Transport::Icmp { kind, rest, len: headers(payload.len()), payload }
        }),
        _ => (ports_of(protocol, payload.payload), Transport::Other),
    };
    Some(Packet {
        source: SocketAddr::new(source, ports.0),
        target: SocketAddr::new(target, ports.1),
        protocol,
        len,
        transport,
    })
}

/// Ports of a protocol that has them where TCP has, or of a header that was cut.
fn ports_of(number: u8, payload: &[u8]) -> (u16, u16) {
    const SCTP: u8 = 132;
    match (number, payload) {
        (protocol::TCP | protocol::UDP | SCTP, &[s0, s1, d0, d1, ..]) => {
            (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]))
        }
        _ => (0, 0),
    }
}
