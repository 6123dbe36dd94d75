//! Ways to make a resolver hear, or an agent learn, what was never judged.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    script::Failed,
    ways::{Flip, Sending, Way, connected, tcp, udp},
};
use crate::{
    lab::{netlink::Netlink, resolver::framed},
    sys::{self, PATIENCE, RawAddr},
};

/// One attack.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attack {
    /// An answer of the agent's own making, to the script's socket.
    Forge {
        /// Where it pretends to come from, an address of this host.
        from: SocketAddr,
        /// Connects the forging socket to this first: a search for the socket at `from` does not find it.
        hide: Option<SocketAddr>,
        /// The answer.
        message: Vec<u8>,
    },
    /// A write of two queries of which the second finds no room after it was judged; then something else instead of it.
    Instead {
        /// Where to.
        to: SocketAddr,
        /// Both queries, each behind its length.
        queries: Vec<u8>,
        /// What is written in place of the second, as long as that.
        other: Vec<u8>,
    },
    /// Something written before the connection is made, then a query that is as long.
    Early {
        /// Where to.
        to: SocketAddr,
        /// The former.
        first: Vec<u8>,
        /// Whether it waits to be sent until the other is judged.
        held: bool,
        /// The latter.
        then: Vec<u8>,
    },
    /// One call that makes datagrams of `size` bytes each of the message.
    Segments {
        /// Where to.
        to: SocketAddr,
        /// All bytes.
        message: Vec<u8>,
        /// Of a datagram.
        size: u16,
    },
    /// A datagram made by two calls, `MSG_MORE` between them.
    Corked {
        /// Where to.
        to: SocketAddr,
        /// What each call brings.
        parts: (Vec<u8>, Vec<u8>),
    },
    /// A datagram spliced from a file, whose bytes can change later.
    Spliced {
        /// Where to.
        to: SocketAddr,
        /// The datagram.
        message: Vec<u8>,
    },
    /// In a network of the agent's own, a device of its own answers the query. The script stays where it was.
    Abroad {
        /// The resolver, IPv4.
        to: SocketAddr,
        /// The query.
        message: Vec<u8>,
        /// The answer.
        answer: Vec<u8>,
    },
    /// Queries from one socket, all sent before any answer is read; how many answers came, in two bytes.
    All {
        /// Where to.
        to: SocketAddr,
        /// The queries.
        messages: Vec<Vec<u8>>,
    },
    /// Messages one after the other, over UDP from one socket or over TCP each on a connection of its own. A byte for each: 1 if
    /// it was taken.
    Volley {
        /// Where to.
        to: SocketAddr,
        /// Over TCP.
        tcp: bool,
        /// The messages.
        messages: Vec<Vec<u8>>,
    },
    /// A message over a new connection; the first that comes back.
    Dialog {
        /// Where to.
        to: SocketAddr,
        /// The message.
        message: Vec<u8>,
    },
    /// A message by one of many ways, see [`Way`].
    By {
        /// The way.
        way: Way,
        /// The resolver.
        to: SocketAddr,
        /// Where else the agent may send.
        via: SocketAddr,
        /// A query that may leave.
        good: Vec<u8>,
        /// The message.
        message: Vec<u8>,
    },
    /// A message that changes while it is sent, see [`Flip`]; how many calls succeeded, in four bytes.
    Flipped {
        /// How it is sent.
        flip: Flip,
        /// Where to.
        to: SocketAddr,
        /// Its two forms, of the same length.
        forms: (Vec<u8>, Vec<u8>),
        /// How often.
        rounds: usize,
    },
    /// Urgent data on a new connection.
    Urgent {
        /// Where to.
        to: SocketAddr,
        /// The data.
        message: Vec<u8>,
    },
}

/// Longer than it takes TCP to repeat what was not let out, a few times (RFC 6298, 2).
const REPEATS: Duration = Duration::from_millis(2500);

impl Attack {
    /// Carries it out; what came back of it.
    pub(super) fn run(&self, sockets: &(Option<UdpSocket>, Option<UdpSocket>)) -> Result<Vec<u8>, Failed> {
        match self {
            Self::Forge { from, hide, message } => forge(*from, *hide, message, sockets),
            Self::Instead { to, queries, other } => instead(*to, queries, other),
            Self::Early { to, first, held, then } => early(*to, first, *held, then),
            Self::Segments { to, message, size } => {
                let fd = udp(*to)?;
                sys::set_int(&fd, libc::IPPROTO_UDP, libc::UDP_SEGMENT, i32::from(*size))
                    .map_err(|error| ("setsockopt", error))?;
                sys::send_to(&fd, message, 0, *to).map_err(|error| ("sendto", error))?;
                Ok(Vec::new())
            }
            Self::Corked { to, parts: (first, second) } => {
                let fd = udp(*to)?;
                sys::send_to(&fd, first, libc::MSG_MORE, *to).map_err(|error| ("cork", error))?;
                sys::send_to(&fd, second, 0, *to).map_err(|error| ("sendto", error))?;
                answer(&fd)
            }
            Self::Spliced { to, message } => {
                let fd = udp(*to)?;
                sys::connect(&fd, *to).map_err(|error| ("connect", error))?;
                splice(&fd, message)?;
                answer(&fd)
            }
            Self::Abroad { to, message, answer } => abroad(*to, message, answer),
            Self::All { to, messages } => all(*to, messages),
            Self::Dialog { to, message } => dialog(*to, message),
            Self::Volley { to, tcp, messages } => volley(*to, *tcp, messages),
            Self::By { way, to, via, good, message } => {
                way.send(&Sending { to: *to, via: *via, good, message }).map(|()| Vec::new())
            }
            Self::Flipped { flip, to, forms: (one, other), rounds } => flip.run(*to, (one, other), *rounds),
            Self::Urgent { to, message } => {
                let fd = tcp(*to)?;
                sys::connect(&fd, *to).map_err(|error| ("connect", error))?;
                sys::send(&fd, message, libc::MSG_OOB).map_err(|error| ("send", error))?;
                answer(&fd)
            }
        }
    }
}

fn answer(fd: &impl std::os::fd::AsFd) -> Result<Vec<u8>, Failed> {
    let mut back = vec![0; 1 << 12];
    let length = sys::receive(fd, &mut back).map_err(|error| ("recv", error))?;
    back.truncate(length);
    Ok(back)
}

/// Fills a pipe with the message and splices it into the socket.
fn splice(fd: &impl std::os::fd::AsFd, message: &[u8]) -> Result<(), Failed> {
    let of = |error: rustix::io::Errno| ("splice", io::Error::from(error));
    let (reader, writer) = rustix::pipe::pipe().map_err(of)?;
    let length = rustix::io::write(&writer, message).map_err(of)?;
    rustix::pipe::splice(&reader, None, fd, None, length, rustix::pipe::SpliceFlags::empty()).map_err(of)?;
    Ok(())
}

fn forge(
    from: SocketAddr,
    hide: Option<SocketAddr>,
    message: &[u8],
    (v4, v6): &(Option<UdpSocket>, Option<UdpSocket>),
) -> Result<Vec<u8>, Failed> {
    let asking = if from.is_ipv4() { v4 } else { v6 };
    let port = asking
        .as_ref()
        .ok_or_else(|| io::ErrorKind::NotConnected.into())
        .and_then(UdpSocket::local_addr)
        .map_err(|error| ("getsockname", error))?
        .port();
    let socket = UdpSocket::bind(from).map_err(|error| ("bind", error))?;
    if let Some(peer) = hide {
        socket.connect(peer).map_err(|error| ("hide", error))?;
    }
    // Past the peer, if there is one: the standard library's call would do, too, but says less of what is meant.
    sys::send_to(&socket, message, 0, SocketAddr::from((from.ip(), port)))
        .map_err(|error| ("forge", error))?;
    Ok(Vec::new())
}

fn instead(to: SocketAddr, queries: &[u8], other: &[u8]) -> Result<Vec<u8>, Failed> {
    let fd = tcp(to)?;
    sys::connect(&fd, to).map_err(|error| ("connect", error))?;
    for (option, value) in [(libc::TCP_NOTSENT_LOWAT, 1), (libc::TCP_CORK, 1)] {
        sys::set_int(&fd, libc::IPPROTO_TCP, option, value).map_err(|error| ("setsockopt", error))?;
    }
    // The first is taken and held; for the second there is no room until it has left.
    let full = sys::send(&fd, queries, libc::MSG_EOR | libc::MSG_DONTWAIT);
    sys::set_int(&fd, libc::IPPROTO_TCP, libc::TCP_CORK, 0).map_err(|error| ("setsockopt", error))?;
    if full.as_ref().is_ok_and(|&taken| taken == queries.len()) {
        return Err(("full", io::ErrorKind::StorageFull.into()));
    }
    let first = answer(&fd)?;
    sys::send(&fd, other, 0).map_err(|error| ("send", error))?;
    thread::sleep(REPEATS);
    Ok(first)
}

fn early(to: SocketAddr, first: &[u8], held: bool, then: &[u8]) -> Result<Vec<u8>, Failed> {
    let fd = tcp(to)?;
    if held {
        sys::set_int(&fd, libc::IPPROTO_TCP, libc::TCP_CORK, 1).map_err(|error| ("setsockopt", error))?;
    }
    // Without a cookie of the other end's this connects and then writes, in one call that was never judged.
    let eor = if held { libc::MSG_EOR } else { 0 };
    sys::send_to(&fd, first, libc::MSG_FASTOPEN | eor, RawAddr::from(to))
        .map_err(|error| ("early", error))?;
    sys::send(&fd, then, 0).map_err(|error| ("send", error))?;
    if held {
        sys::set_int(&fd, libc::IPPROTO_TCP, libc::TCP_CORK, 0).map_err(|error| ("setsockopt", error))?;
    }
    thread::sleep(REPEATS.saturating_sub(PATIENCE));
    answer(&fd)
}

fn all(to: SocketAddr, messages: &[Vec<u8>]) -> Result<Vec<u8>, Failed> {
    let fd = udp(to)?;
    for message in messages {
        sys::send_to(&fd, message, 0, to).map_err(|error| ("sendto", error))?;
    }
    let answers = (0..messages.len()).map_while(|_| answer(&fd).ok()).count();
    Ok(u16::try_from(answers).unwrap_or(u16::MAX).to_be_bytes().to_vec())
}

fn dialog(to: SocketAddr, message: &[u8]) -> Result<Vec<u8>, Failed> {
    let fd = connected(tcp(to)?, to)?;
    sys::send(&fd, &framed(message), 0).map_err(|error| ("send", error))?;
    let mut back = Vec::new();
    loop {
        if let [high, low, rest @ ..] = back.as_slice() {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if let Some(message) = rest.get(..length) {
                return Ok(message.to_vec());
            }
        }
        match answer(&fd)? {
            more if more.is_empty() => return Err(("recv", io::ErrorKind::UnexpectedEof.into())),
            more => back.extend(more),
        }
    }
}

fn volley(to: SocketAddr, over_tcp: bool, messages: &[Vec<u8>]) -> Result<Vec<u8>, Failed> {
    let datagrams = udp(to)?;
    let mut taken = Vec::new();
    for message in messages {
        let sent = if over_tcp {
            let fd = connected(tcp(to)?, to)?;
            sys::send(&fd, &framed(message), 0)
        } else {
            sys::send_to(&datagrams, message, 0, to)
        };
        match sent {
            Ok(_) => taken.push(1),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => taken.push(0),
            Err(error) => return Err(("send", error)),
        }
    }
    Ok(taken)
}

fn abroad(to: SocketAddr, message: &[u8], answer_: &[u8]) -> Result<Vec<u8>, Failed> {
    // A thread has a network namespace of its own, and the socket that asked is in it.
    thread::scope(|scope| {
        scope
            .spawn(|| ask_oneself(to, message, answer_))
            .join()
            .unwrap_or_else(|_| Err(("thread", io::ErrorKind::Other.into())))
    })
}

fn ask_oneself(to: SocketAddr, message: &[u8], forged: &[u8]) -> Result<Vec<u8>, Failed> {
    const DEVICE: &str = "own0";
    // SAFETY: this thread shares no descriptor table or file system state that the flag would change.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
        .map_err(|error| ("unshare", error.into()))?;
    let mut device = sys::tun_open().map_err(|error| ("open", error))?;
    sys::tun_attach(&device, DEVICE).map_err(|error| ("TUNSETIFF", error))?;
    let network = |step| move |error: anyhow::Error| (step, io::Error::other(format!("{error:#}")));
    let netlink = Netlink::open().map_err(network("netlink"))?;
    // The resolver is in the device's network.
    let IpAddr::V4(server) = to.ip() else { return Err(("family", io::ErrorKind::Unsupported.into())) };
    let [a, b, c, d] = server.octets();
    let own = Ipv4Addr::new(a, b, c, d ^ 1);
    netlink.add_address(DEVICE, own.into(), 24).map_err(network("address"))?;
    netlink.up(DEVICE).map_err(network("up"))?;
    let fd = udp(to)?;
    sys::send_to(&fd, message, 0, to).map_err(|error| ("sendto", error))?;
    let mut packet = vec![0; 1 << 11];
    // What the kernel itself says of the new device comes first.
    let port = loop {
        let length = device.read(&mut packet).map_err(|error| ("read", error))?;
        match packet.get(..length) {
            Some(packet) if packet.first() == Some(&0x45) && packet.get(9) == Some(&17) => {
                break [packet[20], packet[21]];
            }
            _ => {}
        }
    };
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
    let mut header = [
        &[0x45, 0][..],
        &length(28 + forged.len()),
        &[0, 0, 0, 0, 64, 17, 0, 0],
        &server.octets(),
        &own.octets(),
    ]
    .concat();
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(0);
    header[10..12].copy_from_slice(&folded.to_be_bytes());
    let datagram = [&to.port().to_be_bytes()[..], &port, &length(8 + forged.len()), &[0, 0], forged].concat();
    device.write_all(&[header, datagram].concat()).map_err(|error| ("write", error))?;
    answer(&fd)
}
