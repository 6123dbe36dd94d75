//! Sockets below IP and of other families than IP.

use std::os::fd::OwnedFd;

use super::{Args, Failure, Operation, Outcome, Step as _, Trace, raw};
use crate::{lab::net, sys};

/// What this file offers.
pub const OPERATIONS: &[Operation] = &[
    Operation::new("packet-send", Trace::Marker, "a frame from a packet socket", packet_send).privileged(),
    Operation::new("packet-tcp", Trace::Marker, "a TCP segment in a frame from a packet socket", packet_tcp)
        .privileged(),
    Operation::new("packet-dgram", Trace::Marker, "a packet from a cooked packet socket", packet_dgram)
        .privileged(),
    Operation::new("packet-bypass", Trace::Marker, "a frame past the queueing discipline", packet_bypass)
        .privileged(),
    Operation::new("packet-socket", Trace::Nothing, "only the packet socket", |_| {
        sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0).step("socket").map(|_| 0)
    })
    .privileged(),
    // Made and closed, never connected: what listens on the host's side of it is not ours.
    Operation::new("vsock-socket", Trace::Nothing, "only a VM socket", |_| {
        sys::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0).step("socket").map(|_| 0)
    }),
    Operation::new("xdp-socket", Trace::Nothing, "only an AF_XDP socket", |_| {
        sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0).step("socket").map(|_| 0)
    })
    .privileged(),
    Operation::new("sctp-socket", Trace::Nothing, "only an SCTP socket", |args| {
        sys::socket(sys::family(args.to), libc::SOCK_STREAM, libc::IPPROTO_SCTP).step("socket").map(|_| 0)
    }),
    Operation::new("dccp-socket", Trace::Nothing, "only a DCCP socket", |args| {
        sys::socket(sys::family(args.to), libc::SOCK_DCCP, libc::IPPROTO_DCCP).step("socket").map(|_| 0)
    }),
];

pub(super) const ETH_P_IP: u16 = 0x0800;
pub(super) const ETH_P_IPV6: u16 = 0x86dd;

fn ether_type(args: &Args) -> u16 {
    if args.to.is_ipv4() { ETH_P_IP } else { ETH_P_IPV6 }
}

/// The link-layer address of the server, in the form of `struct sockaddr_ll`.
fn link_address(args: &Args) -> Result<sys::RawAddr, Failure> {
    let interface = net::agent_interface().step("if_nametoindex")?;
    let mut bytes = Vec::with_capacity(20);
    bytes.extend_from_slice(&u16::try_from(libc::AF_PACKET).unwrap_or_default().to_ne_bytes());
    bytes.extend_from_slice(&ether_type(args).to_be_bytes());
    bytes.extend_from_slice(&interface.to_ne_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 6]);
    bytes.extend_from_slice(&net::SERVER_MAC);
    bytes.extend_from_slice(&[0, 0]);
    Ok(sys::RawAddr::from_bytes(&bytes))
}

fn frame(args: &Args, packet: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&net::SERVER_MAC);
    bytes.extend_from_slice(&net::AGENT_MAC);
    bytes.extend_from_slice(&ether_type(args).to_be_bytes());
    bytes.extend_from_slice(packet);
    bytes
}

fn socket(kind: i32) -> Result<OwnedFd, Failure> {
    sys::socket(libc::AF_PACKET, kind, 0).step("socket")
}

/// Sends a whole frame.
pub(super) fn send_frame(args: &Args, frame: &[u8]) -> Outcome {
    let fd = socket(libc::SOCK_RAW)?;
    sys::send_to(&fd, frame, 0, link_address(args)?).step("sendto")
}

fn packet_send(args: &Args) -> Outcome {
    send_frame(args, &frame(args, &raw::udp_packet(args)))
}

fn packet_tcp(args: &Args) -> Outcome {
    send_frame(args, &frame(args, &raw::tcp_packet(args)))
}

fn packet_dgram(args: &Args) -> Outcome {
    let fd = socket(libc::SOCK_DGRAM)?;
    sys::send_to(&fd, &raw::udp_packet(args), 0, link_address(args)?).step("sendto")
}

fn packet_bypass(args: &Args) -> Outcome {
    let fd = socket(libc::SOCK_RAW)?;
    let allowed = sys::set_int(&fd, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1).step("setsockopt");
    let sent =
        sys::send_to(&fd, &frame(args, &raw::udp_packet(args)), 0, link_address(args)?).step("sendto")?;
    allowed.map(|()| sent)
}
