//! Socket options that would let packets pass a monitor by, and control messages that mean the same.

use std::net::{IpAddr, SocketAddr};

use super::{Args, Families, Operation, Outcome, Step as _, Trace, tcp, udp};
use crate::{
    lab::net::{self, Family},
    sys::{self, Message},
};

/// What this file offers.
pub const OPERATIONS: &[Operation] = &[
    Operation::new("opt-mark", Trace::Marker, "SO_MARK, then send", |args| {
        tune_and_send(args, libc::SOL_SOCKET, libc::SO_MARK, &7_i32.to_ne_bytes())
    })
    .privileged(),
    Operation::new("opt-bind-to-device", Trace::Marker, "SO_BINDTODEVICE, then send", |args| {
        tune_and_send(args, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, net::AGENT_INTERFACE.as_bytes())
    }),
    Operation::new("opt-ordinary", Trace::Nothing, "options that every client sets", |args| {
        let fd = tcp::socket(args.to)?;
        for (level, option) in [
            (libc::IPPROTO_TCP, libc::TCP_NODELAY),
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
            (libc::SOL_SOCKET, libc::SO_REUSEADDR),
        ] {
            sys::set_int(&fd, level, option, 1).step("setsockopt")?;
        }
        Ok(0)
    }),
    Operation::new("opt-zerocopy", Trace::Nothing, "only SO_ZEROCOPY", |args| {
        tune_tcp(args, libc::SOL_SOCKET, libc::SO_ZEROCOPY, &1_i32.to_ne_bytes())
    }),
    Operation::new("opt-tcp-repair", Trace::Nothing, "only TCP_REPAIR", |args| {
        tune_tcp(args, libc::IPPROTO_TCP, libc::TCP_REPAIR, &1_i32.to_ne_bytes())
    })
    .privileged(),
    Operation::new("opt-tcp-ulp", Trace::Nothing, "only TCP_ULP; ENOENT without a module for it", |args| {
        tune_tcp(args, libc::IPPROTO_TCP, libc::TCP_ULP, b"tls")
    }),
    Operation::new(
        "opt-transparent",
        Trace::Marker,
        "IP_TRANSPARENT and a source that is not the agent's",
        transparent,
    )
    .privileged(),
    Operation::new("opt-freebind", Trace::Marker, "IP_FREEBIND, then send", |args| {
        tune_and_send(args, sys::ip_level(args.to), free_bind(args.to), &1_i32.to_ne_bytes())
    }),
    Operation::new(
        "opt-reuseport-program",
        Trace::Nothing,
        "only SO_ATTACH_REUSEPORT_CBPF, a program that picks the receiver",
        |args| {
            // `ret 0`: always the first socket of the group.
            let code = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 };
            let program = libc::sock_fprog { len: 1, filter: (&raw const code).cast_mut() };
            let fd = udp::socket(args.to)?;
            sys::set_int(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).step("SO_REUSEPORT")?;
            // SAFETY: a plain C structure, read as bytes while both it and what it points to live.
            let bytes = unsafe {
                std::slice::from_raw_parts((&raw const program).cast::<u8>(), size_of_val(&program))
            };
            sys::set(&fd, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, bytes)
                .step("SO_ATTACH_REUSEPORT_CBPF")
                .map(|()| 0)
        },
    ),
    Operation::new("opt-source-route", Trace::Marker, "IP_OPTIONS with a loose source route", source_route)
        .only(Families::V4)
        .to_allowed()
        .privileged(),
    Operation::new(
        "opt-record-route",
        Trace::Marker,
        "IP_OPTIONS with a record route, no privilege needed",
        |args| tune_and_send(args, libc::IPPROTO_IP, libc::IP_OPTIONS, &[7, 7, 4, 0, 0, 0, 0, 0]),
    )
    .only(Families::V4),
    Operation::new("opt-header-included", Trace::Nothing, "only IP_HDRINCL on a raw socket", |args| {
        let fd = super::raw::socket(args.to, libc::IPPROTO_UDP)?;
        sys::set_int(&fd, sys::ip_level(args.to), header_included(args.to), 1).step("setsockopt").map(|()| 0)
    })
    .privileged(),
    Operation::new(
        "opt-routing-header",
        Trace::Elsewhere,
        "IPV6_RTHDR by the allowed host to the target",
        |args| {
            let header = segments(args.via.ip(), args.to.ip());
            tune_and_send(args, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &header)
        },
    )
    .only(Families::V6),
    Operation::new(
        "opt-routing-header-allowed",
        Trace::Marker,
        "IPV6_RTHDR by the target to the allowed host",
        |args| {
            let header = segments(args.to.ip(), args.via.ip());
            let to = SocketAddr::from((args.via.ip(), args.to.port()));
            tune_and_send(&Args { to, ..args.clone() }, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &header)
        },
    )
    .only(Families::V6)
    .to_allowed(),
    Operation::new("opt-hop-by-hop", Trace::Marker, "IPV6_HOPOPTS, then send", |args| {
        tune_and_send(args, libc::IPPROTO_IPV6, libc::IPV6_HOPOPTS, &PADDING_HEADER)
    })
    .only(Families::V6)
    .privileged(),
    Operation::new("opt-destination", Trace::Marker, "IPV6_DSTOPTS, then send", |args| {
        tune_and_send(args, libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, &PADDING_HEADER)
    })
    .only(Families::V6)
    .privileged(),
    Operation::new(
        "cmsg-routing-header",
        Trace::Elsewhere,
        "a mobile host's routing header as a control message",
        |args| {
            let header = home_address(args.via.ip());
            send_with(args, &sys::control(libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &header), args.to)
        },
    )
    .only(Families::V6),
    Operation::new("cmsg-hop-by-hop", Trace::Marker, "a hop-by-hop header as a control message", |args| {
        send_with(args, &sys::control(libc::IPPROTO_IPV6, libc::IPV6_HOPOPTS, &PADDING_HEADER), args.to)
    })
    .only(Families::V6)
    .privileged(),
    Operation::new("cmsg-destination", Trace::Marker, "a destination header as a control message", |args| {
        send_with(args, &sys::control(libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, &PADDING_HEADER), args.to)
    })
    .only(Families::V6)
    .privileged(),
    Operation::new("cmsg-ip-options", Trace::Marker, "IPv4 options as a control message", |args| {
        send_with(args, &sys::control(libc::IPPROTO_IP, libc::IP_RETOPTS, &[7, 7, 4, 0, 0, 0, 0, 0]), args.to)
    })
    .only(Families::V4),
    Operation::new("cmsg-source", Trace::Marker, "IP_PKTINFO with the agent's own source", source)
        .only(Families::V4),
];

/// An IPv6 extension header that holds only padding (RFC 8200, 4.2); the kernel fills in what follows.
const PADDING_HEADER: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];

/// `IPV6_HDRINCL` (include/uapi/linux/in6.h).
const IPV6_HDRINCL: i32 = 36;

fn header_included(to: SocketAddr) -> i32 {
    if to.is_ipv4() { libc::IP_HDRINCL } else { IPV6_HDRINCL }
}

fn free_bind(to: SocketAddr) -> i32 {
    if to.is_ipv4() { libc::IP_FREEBIND } else { libc::IPV6_FREEBIND }
}

/// A segment routing header (RFC 8754) from `first` to `last`; anybody may ask for one. The kernel puts
/// `first` into the packet's destination whatever the socket was told.
fn segments(first: IpAddr, last: IpAddr) -> Vec<u8> {
    const SEGMENT_ROUTING: u8 = 4;
    let mut bytes = vec![0, 4, SEGMENT_ROUTING, 1, 1, 0, 0, 0];
    bytes.extend_from_slice(&octets(last));
    bytes.extend_from_slice(&octets(first));
    bytes
}

/// A type 2 routing header (RFC 6275, 6.4) by `stop`; control messages may hold no other.
fn home_address(stop: IpAddr) -> Vec<u8> {
    const HOME_ADDRESS: u8 = 2;
    let mut bytes = vec![0, 2, HOME_ADDRESS, 1, 0, 0, 0, 0];
    bytes.extend_from_slice(&octets(stop));
    bytes
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V6(ip) => ip.octets(),
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
    }
}

/// Sets an option and sends regardless of the answer; the report is the option's if that was refused.
fn tune_and_send(args: &Args, level: i32, option: i32, value: &[u8]) -> Outcome {
    let fd = udp::socket(args.to)?;
    let allowed = sys::set(&fd, level, option, value).step("setsockopt");
    let sent = sys::send_to(&fd, args.secret(), 0, args.to).step("sendto");
    allowed.and(sent)
}

fn tune_tcp(args: &Args, level: i32, option: i32, value: &[u8]) -> Outcome {
    sys::set(&tcp::socket(args.to)?, level, option, value).step("setsockopt").map(|()| 0)
}

fn send_with(args: &Args, control: &[u8], to: SocketAddr) -> Outcome {
    let message = Message::new(Some(to.into()), args.secret(), control);
    sys::send_message(&udp::socket(args.to)?, &message, 0).step("sendmsg")
}

fn transparent(args: &Args) -> Outcome {
    let option = if args.to.is_ipv4() { libc::IP_TRANSPARENT } else { libc::IPV6_TRANSPARENT };
    let fd = udp::socket(args.to)?;
    sys::set_int(&fd, sys::ip_level(args.to), option, 1).step("setsockopt")?;
    sys::bind(&fd, SocketAddr::from((Family::of(args.to.ip()).elsewhere(), 0))).step("bind")?;
    sys::send_to(&fd, args.secret(), 0, args.to).step("sendto")
}

/// Sends to the allowed endpoint; the route in the options leads to the target, and so does the header.
fn source_route(args: &Args) -> Outcome {
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    let IpAddr::V4(hop) = args.to.ip() else { return Ok(0) };
    let mut options = vec![LOOSE_SOURCE_ROUTE, 7, 4];
    options.extend_from_slice(&hop.octets());
    options.push(0);
    let fd = udp::socket(args.to)?;
    let allowed = sys::set(&fd, libc::IPPROTO_IP, libc::IP_OPTIONS, &options).step("setsockopt");
    let sent =
        sys::send_to(&fd, args.secret(), 0, SocketAddr::from((args.via.ip(), args.to.port()))).step("sendto");
    allowed.and(sent)
}

fn source(args: &Args) -> Outcome {
    let IpAddr::V4(own) = Family::V4.agent() else { return Ok(0) };
    let mut info = 0_u32.to_ne_bytes().to_vec();
    info.extend_from_slice(&own.octets());
    info.extend_from_slice(&[0; 4]);
    send_with(args, &sys::control(libc::IPPROTO_IP, libc::IP_PKTINFO, &info), args.to)
}
