//! The agent having a conversation: with a server, with itself, with the kernel about a route.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
};

use super::{Args, Failure, Operation, Outcome, Step as _, Trace, tcp, udp};
use crate::{lab::net::Family, sys};

/// What this file offers.
pub const OPERATIONS: &[Operation] = &[
    Operation::new("tcp-echo", Trace::Marker, "sends and wants the same back", |args| {
        let fd = tcp::socket(args.to)?;
        sys::connect(&fd, args.to).step("connect")?;
        sys::send(&fd, args.secret(), 0).step("send")?;
        compare_received(&fd, args)
    }),
    Operation::new("udp-echo", Trace::Marker, "the same with a datagram", |args| {
        let fd = udp::socket(args.to)?;
        sys::send_to(&fd, args.secret(), 0, args.to).step("sendto")?;
        compare_received(&fd, args)
    }),
    Operation::new("own-listener", Trace::Nothing, "a TCP listener of its own on loopback", |args| {
        tcp_echo(args, loopback(args))
    }),
    Operation::new(
        "own-listener-address",
        Trace::Nothing,
        "the same on the agent's network address",
        |args| tcp_echo(args, Family::of(args.to.ip()).agent()),
    ),
    Operation::new("own-udp", Trace::Nothing, "a UDP exchange with itself on loopback", |args| {
        udp_echo(args, loopback(args))
    }),
    Operation::new("own-udp-address", Trace::Nothing, "the same on the agent's network address", |args| {
        udp_echo(args, Family::of(args.to.ip()).agent())
    }),
    Operation::new(
        "route-probe",
        Trace::Nothing,
        "connect() of a UDP socket to port 0, as resolvers do",
        |args| {
            let fd = udp::socket(args.to)?;
            sys::connect(&fd, SocketAddr::from((args.to.ip(), 0))).step("connect")?;
            sys::local_addr(&fd).step("getsockname").map(|_| 0)
        },
    ),
];

fn loopback(args: &Args) -> IpAddr {
    if args.to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

fn compare(got: &[u8], args: &Args) -> Outcome {
    if got == args.secret() {
        return Ok(got.len());
    }
    Err(Failure::new("compare", io::ErrorKind::InvalidData))
}

fn compare_received(fd: &OwnedFd, args: &Args) -> Outcome {
    let mut buffer = [0; 256];
    let got = sys::receive(fd, &mut buffer).step("receive")?;
    compare(&buffer[..got], args)
}

fn tcp_echo(args: &Args, ip: IpAddr) -> Outcome {
    let server = tcp::socket(args.to)?;
    sys::bind(&server, SocketAddr::from((ip, 0))).step("bind")?;
    sys::listen(&server).step("listen")?;
    let client = tcp::socket(args.to)?;
    sys::connect(&client, sys::local_addr(&server).step("getsockname")?).step("connect")?;
    let peer = sys::accept(&server).step("accept")?;
    let mut buffer = [0; 256];
    sys::send(&client, args.secret(), 0).step("send")?;
    let got = sys::receive(&peer, &mut buffer).step("receive")?;
    sys::send(&peer, &buffer[..got], 0).step("reply")?;
    let got = sys::receive(&client, &mut buffer).step("receive reply")?;
    compare(&buffer[..got], args)
}

fn udp_echo(args: &Args, ip: IpAddr) -> Outcome {
    let (server, client) = (udp::socket(args.to)?, udp::socket(args.to)?);
    for fd in [&server, &client] {
        sys::bind(fd, SocketAddr::from((ip, 0))).step("bind")?;
    }
    let (server_addr, client_addr) =
        (sys::local_addr(&server).step("getsockname")?, sys::local_addr(&client).step("getsockname")?);
    let mut buffer = [0; 256];
    sys::send_to(&client, args.secret(), 0, server_addr).step("sendto")?;
    let got = sys::receive(&server, &mut buffer).step("receive")?;
    sys::send_to(&server, &buffer[..got], 0, client_addr).step("reply")?;
    let got = sys::receive(&client, &mut buffer).step("receive reply")?;
    compare(&buffer[..got], args)
}
