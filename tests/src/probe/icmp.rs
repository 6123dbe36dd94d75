//! ICMP, without and with a raw socket.

use std::net::SocketAddr;

use super::{Args, Failure, Families, Operation, Outcome, Step as _, Trace, raw};
use crate::sys;

/// What this file offers.
pub const OPERATIONS: &[Operation] = &[
    Operation::new("ping", Trace::Marker, "an echo request from a ping socket, no privilege needed", ping),
    Operation::new("ping-connected", Trace::Marker, "the same, connected first", ping_connected),
    Operation::new("raw-icmp", Trace::Marker, "an echo request from a raw socket", raw_echo).privileged(),
    Operation::new("raw-icmp-redirect", Trace::Marker, "an ICMP redirect from a raw socket", raw_redirect)
        .only(Families::V4)
        .privileged(),
];

/// Type of an echo request in ICMP (RFC 792) and ICMPv6 (RFC 4443).
fn echo_type(to: SocketAddr) -> u8 {
    if to.is_ipv4() { 8 } else { 128 }
}

/// The protocol of a family's ICMP.
fn protocol(to: SocketAddr) -> i32 {
    if to.is_ipv4() { libc::IPPROTO_ICMP } else { libc::IPPROTO_ICMPV6 }
}

/// An ICMP message with the secret as its payload.
fn message(kind: u8, args: &Args) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0, 0, 7, 0, 1];
    bytes.extend_from_slice(args.secret());
    let sum = raw::checksum(&bytes);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn port_zero(to: SocketAddr) -> SocketAddr {
    SocketAddr::from((to.ip(), 0))
}

fn ping(args: &Args) -> Outcome {
    let fd = sys::socket(sys::family(args.to), libc::SOCK_DGRAM, protocol(args.to)).step("socket")?;
    sys::send_to(&fd, &message(echo_type(args.to), args), 0, port_zero(args.to)).step("sendto")
}

fn ping_connected(args: &Args) -> Outcome {
    let fd = sys::socket(sys::family(args.to), libc::SOCK_DGRAM, protocol(args.to)).step("socket")?;
    sys::connect(&fd, port_zero(args.to)).step("connect")?;
    sys::send(&fd, &message(echo_type(args.to), args), 0).step("send")
}

fn send_raw(kind: u8, args: &Args) -> Outcome {
    let fd = raw::socket(args.to, protocol(args.to))?;
    sys::send_to(&fd, &message(kind, args), 0, port_zero(args.to)).step("sendto")
}

fn raw_echo(args: &Args) -> Outcome {
    send_raw(echo_type(args.to), args)
}

fn raw_redirect(args: &Args) -> Result<usize, Failure> {
    send_raw(5, args)
}
