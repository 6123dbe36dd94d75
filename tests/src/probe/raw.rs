//! Raw IP sockets: headers of the agent's own making.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
};

use super::{Args, Failure, Families, Operation, Outcome, Step as _, Trace};
use crate::{lab::net::Family, sys};

/// What this file offers.
pub const OPERATIONS: &[Operation] = &[
    Operation::new("raw-udp", Trace::Marker, "a UDP datagram from a raw socket", udp).privileged(),
    Operation::new("raw-tcp", Trace::Marker, "a TCP segment from a raw socket", tcp).privileged(),
    Operation::new("raw-unknown", Trace::Marker, "protocol 253, reserved for experiments", unknown)
        .privileged(),
    Operation::new("raw-header", Trace::Marker, "IPPROTO_RAW with a hand-made header", header).privileged(),
    Operation::new("raw-other-header", Trace::Marker, "the header says another address than sendto()", lie)
        .only(Families::V4)
        .privileged(),
    Operation::new("raw-spoofed", Trace::Marker, "from an address that is not the agent's", spoofed)
        .privileged(),
    Operation::new("raw-fragment", Trace::Marker, "a fragment that is not the first", fragment).privileged(),
    Operation::new("raw-options", Trace::Marker, "IPv4 options or an IPv6 hop-by-hop header", options)
        .privileged(),
    Operation::new("raw-ip-in-ip", Trace::Marker, "a packet within a packet (IP in IP)", ip_in_ip)
        .privileged(),
    Operation::new("raw-connected", Trace::Marker, "connect() and send() on a raw socket", connected)
        .privileged(),
];

/// Reserved for experiments (RFC 3692).
const EXPERIMENT: u8 = 253;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_TCP: u8 = 6;

/// A raw socket of the target's family.
pub(super) fn socket(to: SocketAddr, protocol: i32) -> Result<OwnedFd, Failure> {
    sys::socket(sys::family(to), libc::SOCK_RAW, protocol).step("socket")
}

/// The Internet checksum (RFC 1071) of `bytes`.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap_or(0)
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

/// A UDP datagram; the checksum 0 says that there is none, which receivers of IPv6 may refuse and the
/// wire does not.
pub fn datagram(port: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + data.len());
    bytes.extend_from_slice(&40_000_u16.to_be_bytes());
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes.extend_from_slice(&length(8 + data.len()));
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(data);
    bytes
}

/// A TCP segment (PSH, ACK) outside of any connection.
fn tcp_segment(port: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + data.len());
    bytes.extend_from_slice(&40_000_u16.to_be_bytes());
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend_from_slice(data);
    bytes
}

/// What a hand-made header says besides its addresses.
#[derive(Default)]
struct Shape<'a> {
    protocol: u8,
    /// Offset in units of 8 bytes; nothing says that more fragments follow.
    fragment: u16,
    /// Options or extension headers before `protocol`.
    options: &'a [u8],
}

/// An IP packet.
fn packet(source: IpAddr, to: IpAddr, shape: &Shape<'_>, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match (source, to) {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            let words = 5 + u8::try_from(shape.options.len() / 4).unwrap_or(0);
            bytes.extend_from_slice(&[0x40 | words, 0]);
            bytes.extend_from_slice(&length(20 + shape.options.len() + data.len()));
            bytes.extend_from_slice(&[0, 1]);
            bytes.extend_from_slice(&shape.fragment.to_be_bytes());
            bytes.extend_from_slice(&[64, shape.protocol, 0, 0]);
            bytes.extend_from_slice(&source.octets());
            bytes.extend_from_slice(&to.octets());
            bytes.extend_from_slice(shape.options);
            let sum = checksum(&bytes);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        _ => {
            let fragment_header = if shape.fragment > 0 { 8 } else { 0 };
            let next = match (shape.options.is_empty(), shape.fragment) {
                (false, _) => 0,
                (true, 0) => shape.protocol,
                (true, _) => 44,
            };
            bytes.extend_from_slice(&[0x60, 0, 0, 0]);
            bytes.extend_from_slice(&length(shape.options.len() + fragment_header + data.len()));
            bytes.extend_from_slice(&[next, 64]);
            for ip in [source, to] {
                match ip {
                    IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
                    IpAddr::V4(ip) => bytes.extend_from_slice(&ip.to_ipv6_mapped().octets()),
                }
            }
            bytes.extend_from_slice(shape.options);
            if shape.fragment > 0 {
                bytes.extend_from_slice(&[shape.protocol, 0]);
                bytes.extend_from_slice(&(shape.fragment << 3).to_be_bytes());
                bytes.extend_from_slice(&[0, 0, 0, 1]);
            }
        }
    }
    bytes.extend_from_slice(data);
    bytes
}

/// A whole UDP packet from the agent to the target.
pub fn udp_packet(args: &Args) -> Vec<u8> {
    udp_packet_from(own(args), args)
}

/// A whole TCP packet from the agent to the target, outside of any connection.
pub fn tcp_packet(args: &Args) -> Vec<u8> {
    let shape = Shape { protocol: IPPROTO_TCP, ..Shape::default() };
    packet(own(args), args.to.ip(), &shape, &tcp_segment(args.to.port(), args.secret()))
}

/// A whole UDP packet from another address.
pub fn udp_packet_from(source: IpAddr, args: &Args) -> Vec<u8> {
    let shape = Shape { protocol: IPPROTO_UDP, ..Shape::default() };
    packet(source, args.to.ip(), &shape, &datagram(args.to.port(), args.secret()))
}

fn own(args: &Args) -> IpAddr {
    Family::of(args.to.ip()).agent()
}

fn target(to: SocketAddr) -> SocketAddr {
    SocketAddr::from((to.ip(), 0))
}

fn send(args: &Args, protocol: u8, data: &[u8]) -> Outcome {
    let fd = socket(args.to, protocol.into())?;
    sys::send_to(&fd, data, 0, target(args.to)).step("sendto")
}

fn udp(args: &Args) -> Outcome {
    send(args, IPPROTO_UDP, &datagram(args.to.port(), args.secret()))
}

fn tcp(args: &Args) -> Outcome {
    send(args, IPPROTO_TCP, &tcp_segment(args.to.port(), args.secret()))
}

fn unknown(args: &Args) -> Outcome {
    send(args, EXPERIMENT, args.secret())
}

fn connected(args: &Args) -> Outcome {
    let fd = socket(args.to, IPPROTO_UDP.into())?;
    sys::connect(&fd, target(args.to)).step("connect")?;
    sys::send(&fd, &datagram(args.to.port(), args.secret()), 0).step("send")
}

/// Sends a whole packet through `IPPROTO_RAW`, addressed to `to`.
fn send_packet(to: SocketAddr, bytes: &[u8]) -> Outcome {
    let fd = socket(to, libc::IPPROTO_RAW)?;
    sys::send_to(&fd, bytes, 0, target(to)).step("sendto")
}

fn header(args: &Args) -> Outcome {
    send_packet(args.to, &udp_packet(args))
}

fn lie(args: &Args) -> Outcome {
    send_packet(args.via, &udp_packet(args))
}

/// A whole UDP packet to the target from an address that is not the agent's.
pub fn foreign_packet(args: &Args) -> Vec<u8> {
    let source = Family::of(args.to.ip()).elsewhere();
    let shape = Shape { protocol: IPPROTO_UDP, ..Shape::default() };
    packet(source, args.to.ip(), &shape, &datagram(args.to.port(), args.secret()))
}

fn spoofed(args: &Args) -> Outcome {
    send_packet(args.to, &foreign_packet(args))
}

fn fragment(args: &Args) -> Outcome {
    let shape = Shape { protocol: IPPROTO_UDP, fragment: 1, ..Shape::default() };
    let mut data = args.secret().to_vec();
    data.resize(data.len().next_multiple_of(8), b'.');
    send_packet(args.to, &packet(own(args), args.to.ip(), &shape, &data))
}

fn options(args: &Args) -> Outcome {
    // Router alert (RFC 2113); for IPv6 a hop-by-hop header that holds only padding (RFC 8200, 4.3).
    let (v4, v6): (&[u8], &[u8]) = (&[0x94, 4, 0, 0], &[IPPROTO_UDP, 0, 1, 4, 0, 0, 0, 0]);
    let options = if args.to.is_ipv4() { v4 } else { v6 };
    let shape = Shape { protocol: IPPROTO_UDP, options, ..Shape::default() };
    send_packet(args.to, &packet(own(args), args.to.ip(), &shape, &datagram(args.to.port(), args.secret())))
}

fn ip_in_ip(args: &Args) -> Outcome {
    const IPV4_IN_IP: u8 = 4;
    const IPV6_IN_IP: u8 = 41;
    let protocol = if args.to.is_ipv4() { IPV4_IN_IP } else { IPV6_IN_IP };
    let shape = Shape { protocol, ..Shape::default() };
    send_packet(args.to, &packet(own(args), args.to.ip(), &shape, &udp_packet(args)))
}

#[cfg(test)]
mod tests {
    use super::checksum;

    #[test]
    fn the_checksum_of_a_sealed_header_is_zero() {
        // The example header of RFC 1071's errata and many text books.
        let mut bytes =
            [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        let sum = checksum(&bytes);
        assert_eq!(sum, 0xb861);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(checksum(&bytes), 0);
    }
}
