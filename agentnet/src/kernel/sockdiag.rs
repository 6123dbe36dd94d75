//! Sockets as the kernel lists them (sock_diag(7)), and their destruction.
//!
//! Refused TCP data stays in a socket's send queue and leaves as soon as nobody refuses it any more, also
//! after the process is gone. Whoever stops enforcing destroys such sockets first.

use std::{
    collections::HashSet,
    fmt, io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_ALIGNTO, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, Nla as _,
};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, SockDiagDestroy, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use rustix::{
    io::{Errno, retry_on_intr},
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
        netlink::{SOCK_DIAG, SocketAddrNetlink},
    },
    thread::LinkNameSpaceType,
};

/// Attribute with the socket's cgroup id, since Linux 5.9 (include/uapi/linux/inet_diag.h).
const INET_DIAG_CGROUP_ID: u16 = 21;

/// Larger than any datagram of a dump: the kernel fills 32 KiB at most (`netlink_dump`, af_netlink.c).
const DATAGRAM_BYTES: usize = 1 << 16;

/// How often a listing is tried that the kernel says changed under it.
const LIST_ATTEMPTS: usize = 16;

/// How often the selected sockets are listed and destroyed before those that are still there are an error.
const DESTROY_ROUNDS: usize = 8;

/// State of a socket (include/net/tcp_states.h). UDP sockets are [`Established`](Self::Established) when
/// connected, else [`Close`](Self::Close).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names of RFC 9293")]
pub enum State {
    Established,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    /// A state this build does not know.
    Other(u8),
}

impl From<u8> for State {
    fn from(code: u8) -> Self {
        match code {
            1 => Self::Established,
            2 => Self::SynSent,
            // TCP_SYN_RECV, and TCP_NEW_SYN_RECV of a handshake that has no socket of its own yet.
            3 | 12 => Self::SynReceived,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Close,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            other => Self::Other(other),
        }
    }
}

/// One TCP or UDP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InetSocket {
    /// Its state.
    pub state: State,
    /// Its own end; an IPv6 socket that speaks IPv4 has IPv4-mapped addresses.
    pub local: SocketAddr,
    /// The other end; unspecified if not connected.
    pub remote: SocketAddr,
    /// Index of the interface it is bound to, 0 if none.
    pub interface: u32,
    /// What `bpf_get_socket_cookie` returns for it; never used again while the host is up.
    pub cookie: u64,
    /// Id of the cgroup it was made in. `None` for a connection without a whole socket: half open
    /// (`SynReceived`) or over (`TimeWait`).
    pub cgroup: Option<u64>,
    /// Inode of the socket, 0 if no process holds it.
    pub inode: u32,
    /// User id of its owner.
    pub uid: u32,
    /// TCP: bytes sent or to be sent and not acknowledged; UDP: memory of unsent datagrams. A listener:
    /// the length of its backlog.
    pub tx_queue: u32,
    /// Bytes received and not read. A listener: connections not accepted.
    pub rx_queue: u32,
    /// As the kernel wrote it: what destroys exactly this socket.
    id: SocketId,
}

/// Why sockets could not be listed or destroyed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SockDiagError {
    /// The network namespace cannot be entered.
    #[error("cannot enter the network namespace: {0}; it takes CAP_SYS_ADMIN")]
    Namespace(#[source] io::Error),
    /// The netlink socket cannot be made or used.
    #[error("cannot ask the kernel for its sockets ({call}): {source}")]
    Netlink {
        /// The call that failed.
        call: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The kernel has no listing for the protocol.
    #[error("this kernel cannot list {0} sockets; it takes CONFIG_INET_DIAG and CONFIG_INET_{0}_DIAG")]
    NoListing(Protocol),
    /// The kernel cannot destroy sockets.
    #[error("this kernel cannot destroy sockets; it takes CONFIG_INET_DIAG_DESTROY")]
    NoDestroy,
    /// The caller may not destroy sockets.
    #[error("destroying sockets takes CAP_NET_ADMIN in their network namespace")]
    NotPermitted,
    /// The kernel refused a request.
    #[error("the kernel refused to {what}: {source}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A reply is larger than anything the kernel sends.
    #[error("a reply of {0} bytes was cut off")]
    Truncated(usize),
    /// A reply cannot be understood.
    #[error("a reply of the kernel cannot be understood: {0}")]
    Malformed(String),
    /// The sockets changed each time they were listed.
    #[error("the sockets changed during each of {LIST_ATTEMPTS} listings")]
    Interrupted,
    /// Sockets that were to be destroyed are still there.
    #[error("{0} sockets could not be destroyed: others share their address")]
    Remaining(usize),
}

/// A protocol with sockets of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP, without UDP-Lite.
    Udp,
}

impl Protocol {
    const fn number(self) -> u8 {
        match self {
            Self::Tcp => IPPROTO_TCP,
            Self::Udp => IPPROTO_UDP,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// All sockets of `protocol`, IPv4 and IPv6, in every state, in the network namespace `netns` or that of
/// the calling thread. Those that no process holds any more are among them.
///
/// # Errors
///
/// See [`SockDiagError`]. Listing takes no privilege, entering a namespace does.
pub fn sockets(netns: Option<BorrowedFd<'_>>, protocol: Protocol) -> Result<Vec<InetSocket>, SockDiagError> {
    Diag::open(netns)?.list(protocol)
}

/// All TCP sockets, see [`sockets`].
///
/// # Errors
///
/// As [`sockets`].
pub fn tcp_sockets(netns: Option<BorrowedFd<'_>>) -> Result<Vec<InetSocket>, SockDiagError> {
    sockets(netns, Protocol::Tcp)
}

/// Destroys the sockets of `protocol` that `select` picks, in the network namespace `netns` or that of the
/// calling thread, and returns how many.
///
/// What they had queued is gone, their peers get a reset (TCP) and their owners `ECONNABORTED`. Each is named
/// by its cookie: no other is hit, even if its ports were taken over in the meantime. When it returns `Ok`,
/// a listing made after the last destruction held no socket that `select` picked, save those destroyed: so
/// one that came up meanwhile, or that a listing missed because its hash bucket changed, is found as well.
///
/// # Errors
///
/// See [`SockDiagError`]; the sockets destroyed until then stay destroyed.
pub fn destroy(
    netns: Option<BorrowedFd<'_>>,
    protocol: Protocol,
    select: &dyn Fn(&InetSocket) -> bool,
) -> Result<usize, SockDiagError> {
    let mut diag = Diag::open(netns)?;
    let mut destroyed = HashSet::new();
    let mut remaining = 0;
    for _ in 0..DESTROY_ROUNDS {
        let selected: Vec<InetSocket> = diag
            .list(protocol)?
            .into_iter()
            // Before Linux 6.11 a destroyed socket without a process lingers on, its queue empty.
            .filter(|socket| !destroyed.contains(&socket.cookie) && select(socket))
            .collect();
        if selected.is_empty() {
            return Ok(destroyed.len());
        }
        remaining = selected.len();
        for socket in selected {
            if diag.destroy(protocol, &socket)? {
                destroyed.insert(socket.cookie);
                remaining -= 1;
            }
        }
    }
    Err(SockDiagError::Remaining(remaining))
}

/// Destroys the TCP sockets that `select` picks, see [`destroy`].
///
/// # Errors
///
/// As [`destroy`].
pub fn destroy_tcp(
    netns: Option<BorrowedFd<'_>>,
    select: &dyn Fn(&InetSocket) -> bool,
) -> Result<usize, SockDiagError> {
    destroy(netns, Protocol::Tcp, select)
}

/// A netlink socket to sock_diag. It belongs to the network namespace it was made in.
struct Diag {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// How a listing ended.
#[derive(PartialEq)]
enum Dump {
    Complete,
    Interrupted,
}

impl Diag {
    fn open(netns: Option<BorrowedFd<'_>>) -> Result<Self, SockDiagError> {
        let socket = match netns {
            None => connect()?,
            // Only the socket is made over there, by a thread that ends at once: nothing to switch back.
            Some(netns) => std::thread::scope(|scope| {
                let entered = scope.spawn(|| {
                    rustix::thread::move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
                        .map_err(|errno| SockDiagError::Namespace(errno.into()))?;
                    connect()
                });
                entered.join().unwrap_or_else(|_| Err(SockDiagError::Namespace(Errno::IO.into())))
            })?,
        };
        Ok(Self { socket, sequence: 0, buffer: vec![0; DATAGRAM_BYTES] })
    }

    fn list(&mut self, protocol: Protocol) -> Result<Vec<InetSocket>, SockDiagError> {
        'attempt: for _ in 0..LIST_ATTEMPTS {
            let mut found = Vec::new();
            for family in [AF_INET, AF_INET6] {
                match self.dump(protocol, family, &mut found) {
                    Ok(Dump::Complete) => {}
                    Ok(Dump::Interrupted) => continue 'attempt,
                    // A kernel that was started without IPv6 has none of its sockets either.
                    Err(SockDiagError::NoListing(_)) if family == AF_INET6 => {}
                    Err(error) => return Err(error),
                }
            }
            return Ok(found);
        }
        Err(SockDiagError::Interrupted)
    }

    fn dump(
        &mut self,
        protocol: Protocol,
        family: u8,
        found: &mut Vec<InetSocket>,
    ) -> Result<Dump, SockDiagError> {
        let request = request(protocol, family, SocketId::new_v4());
        let sequence = self.send(SockDiagMessage::InetRequest(request), NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut dump = Dump::Complete;
        loop {
            let mut end = None;
            self.receive::<SockDiagMessage>(sequence, |header, payload| {
                if header.flags & NLM_F_DUMP_INTR != 0 {
                    dump = Dump::Interrupted;
                }
                match payload {
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                        found.push(InetSocket::from(*response));
                        Ok(())
                    }
                    NetlinkPayload::Done(done) => {
                        end = Some(done.code);
                        Ok(())
                    }
                    NetlinkPayload::Error(error) => {
                        end = Some(error.raw_code());
                        Ok(())
                    }
                    other => Err(unexpected(&other)),
                }
            })?;
            match end {
                None => {}
                Some(0) => return Ok(dump),
                Some(code) => {
                    let source = io::Error::from_raw_os_error(code.wrapping_neg());
                    return Err(match Errno::from_io_error(&source) {
                        Some(Errno::NOENT) => SockDiagError::NoListing(protocol),
                        _ => SockDiagError::Refused { what: "list sockets", source },
                    });
                }
            }
        }
    }

    /// Destroys one socket; `false` if there is none of that address and cookie.
    fn destroy(&mut self, protocol: Protocol, socket: &InetSocket) -> Result<bool, SockDiagError> {
        let family = if socket.local.is_ipv4() { AF_INET } else { AF_INET6 };
        let request = request(protocol, family, socket.id.clone());
        let message = SockDiagDestroy::new(SockDiagMessage::InetRequest(request));
        let sequence = self.send(message, NLM_F_REQUEST | NLM_F_ACK)?;
        loop {
            let mut reply = None;
            self.receive::<SockDiagMessage>(sequence, |_, payload| match payload {
                NetlinkPayload::Error(error) => {
                    reply = Some(error.to_io());
                    Ok(())
                }
                other => Err(unexpected(&other)),
            })?;
            let Some(source) = reply else { continue };
            return match (source.raw_os_error(), Errno::from_io_error(&source)) {
                (Some(0), _) => Ok(true),
                // ESTALE: the address is there, but with another cookie.
                (_, Some(Errno::NOENT | Errno::STALE)) => Ok(false),
                (_, Some(Errno::PERM | Errno::ACCESS)) => Err(SockDiagError::NotPermitted),
                (_, Some(Errno::OPNOTSUPP)) => Err(SockDiagError::NoDestroy),
                _ => Err(SockDiagError::Refused { what: "destroy a socket", source }),
            };
        }
    }

    /// Sends one request and returns the number its replies carry.
    fn send<M>(&mut self, message: M, flags: u16) -> Result<u32, SockDiagError>
    where
        M: NetlinkSerializable + Into<NetlinkPayload<M>>,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, message.into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        retry_on_intr(|| rustix::net::send(&self.socket, &bytes, SendFlags::empty()))
            .map_err(|errno| netlink("send", errno))?;
        Ok(self.sequence)
    }

    /// Receives one datagram and hands over its messages that answer request `sequence`.
    fn receive<M: NetlinkDeserializable + fmt::Debug>(
        &mut self,
        sequence: u32,
        mut each: impl FnMut(&NetlinkHeader, NetlinkPayload<M>) -> Result<(), SockDiagError>,
    ) -> Result<(), SockDiagError> {
        // With TRUNC the kernel says how long the datagram really was.
        let (_, length) = retry_on_intr(|| {
            rustix::net::recv(self.socket.as_fd(), self.buffer.as_mut_slice(), RecvFlags::TRUNC)
        })
        .map_err(|errno| netlink("recv", errno))?;
        let mut rest = self.buffer.get(..length).ok_or(SockDiagError::Truncated(length))?;
        while !rest.is_empty() {
            // Checks that the message is as long as it says, and no longer than what is left.
            let (header, payload) = NetlinkMessage::<M>::deserialize(rest)
                .map_err(|error| SockDiagError::Malformed(error.to_string()))?
                .into_parts();
            let length = usize::try_from(header.length).unwrap_or(usize::MAX);
            rest = rest.get(length.next_multiple_of(usize::from(NLMSG_ALIGNTO))..).unwrap_or_default();
            // What is left of an earlier request that ended in an error.
            if header.sequence_number == sequence {
                each(&header, payload)?;
            }
        }
        Ok(())
    }
}

/// A netlink socket connected to the kernel, so that no other process can put messages into it.
fn connect() -> Result<OwnedFd, SockDiagError> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(SOCK_DIAG),
    )
    .map_err(|errno| netlink("socket", errno))?;
    rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))
        .map_err(|errno| netlink("connect", errno))?;
    Ok(socket)
}

/// All sockets of a protocol and family, or the one of `id`.
fn request(protocol: Protocol, family: u8, socket_id: SocketId) -> InetRequest {
    // Every state up to TCP_NEW_SYN_RECV (12); TCP_BOUND_INACTIVE (13) are sockets that never connected.
    let states = StateFlags::from_bits_retain((1 << 13) - 2);
    InetRequest {
        family,
        protocol: protocol.number(),
        extensions: ExtensionFlags::empty(),
        states,
        socket_id,
    }
}

fn netlink(call: &'static str, errno: Errno) -> SockDiagError {
    SockDiagError::Netlink { call, source: errno.into() }
}

fn unexpected<M: fmt::Debug>(payload: &NetlinkPayload<M>) -> SockDiagError {
    SockDiagError::Malformed(format!("unexpected {payload:?}"))
}

impl From<InetResponse> for InetSocket {
    fn from(response: InetResponse) -> Self {
        let header = response.header;
        let id = header.socket_id;
        let cgroup = response.nlas.iter().find_map(|nla| match nla {
            Nla::Other(nla) if nla.kind() == INET_DIAG_CGROUP_ID => {
                let mut id = [0; size_of::<u64>()];
                (nla.value_len() == id.len()).then(|| {
                    nla.emit_value(&mut id);
                    u64::from_ne_bytes(id)
                })
            }
            _ => None,
        });
        Self {
            state: header.state.into(),
            local: endpoint(id.source_address, id.source_port, id.interface_id),
            remote: endpoint(id.destination_address, id.destination_port, id.interface_id),
            interface: id.interface_id,
            cookie: cookie(id.cookie),
            cgroup,
            inode: header.inode,
            uid: header.uid,
            tx_queue: header.send_queue,
            rx_queue: header.recv_queue,
            id,
        }
    }
}

fn endpoint(address: IpAddr, port: u16, interface: u32) -> SocketAddr {
    let mut endpoint = SocketAddr::new(address, port);
    if let SocketAddr::V6(v6) = &mut endpoint
        && v6.ip().is_unicast_link_local()
    {
        v6.set_scope_id(interface);
    }
    endpoint
}

/// The cookie as eBPF has it; netlink carries it as two words, the lower first (`sock_diag_save_cookie`).
fn cookie([a, b, c, d, e, f, g, h]: [u8; 8]) -> u64 {
    u64::from(u32::from_ne_bytes([e, f, g, h])) << 32 | u64::from(u32::from_ne_bytes([a, b, c, d]))
}
