//! Sockets as the kernel lists them (sock_diag(7)), and the destruction of TCP's.
//!
//! Refused TCP data stays in a socket's send queue and leaves as soon as nobody refuses it any more, also
//! after the process is gone. Whoever stops enforcing destroys such sockets first.

mod netlink;

use std::{
    collections::HashSet,
    fmt, io,
    net::{IpAddr, SocketAddr},
    os::fd::BorrowedFd,
};

use netlink_packet_core::Nla as _;
use netlink_packet_sock_diag::{
    IPPROTO_TCP, IPPROTO_UDP,
    inet::{InetResponse, SocketId, nlas::Nla},
};

use self::netlink::Diag;

/// Attribute with the socket's cgroup id, since Linux 5.9 (include/uapi/linux/inet_diag.h).
const INET_DIAG_CGROUP_ID: u16 = 21;

/// How often the selected sockets are listed and destroyed while new ones keep coming up.
const DESTROY_ROUNDS: usize = 256;

/// How often in a row none of them could be destroyed before those that are still there are an error.
const STALLED_ROUNDS: usize = 3;

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
    #[error("the sockets changed during each of {0} listings")]
    Interrupted(usize),
    /// Sockets that were to be destroyed are still there: of several at one address the kernel finds but
    /// one, or new ones kept coming up.
    #[error("{0} sockets could not be destroyed: others share their address, or new ones keep coming up")]
    Remaining(usize),
}

/// A protocol with sockets of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// Destroys the TCP sockets that `select` picks, in the network namespace `netns` or that of the calling
/// thread, and returns how many.
///
/// What they had queued is gone, their peers get a reset and their owners `ECONNABORTED`. Each is named by its
/// cookie: no other is hit, even if its ports were taken over in the meantime. When it returns `Ok`, a listing
/// made after the last destruction held no socket that `select` picked, save those destroyed: so one that came
/// up meanwhile, or that a listing missed because its hash bucket changed, is found as well.
///
/// # Errors
///
/// See [`SockDiagError`]; the sockets destroyed until then stay destroyed.
pub fn destroy_tcp(
    netns: Option<BorrowedFd<'_>>,
    select: &dyn Fn(&InetSocket) -> bool,
) -> Result<usize, SockDiagError> {
    destroy(netns, Protocol::Tcp, select)
}

/// As [`destroy_tcp`], for sockets of either protocol.
///
/// A UDP socket is disconnected and its owner told (`ECONNABORTED`), no more: it queues nothing, and the kernel
/// lets it live on (`udp_abort`, net/ipv4/udp.c).
///
/// # Errors
///
/// As [`destroy_tcp`].
pub fn destroy(
    netns: Option<BorrowedFd<'_>>,
    protocol: Protocol,
    select: &dyn Fn(&InetSocket) -> bool,
) -> Result<usize, SockDiagError> {
    let mut diag = Diag::open(netns)?;
    let mut destroyed = HashSet::new();
    let (mut remaining, mut stalled) = (0, 0);
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
        let before = destroyed.len();
        for socket in &selected {
            if diag.destroy(protocol, socket)? {
                destroyed.insert(socket.cookie);
            }
        }
        remaining = selected.len() - (destroyed.len() - before);
        stalled = if destroyed.len() == before { stalled + 1 } else { 0 };
        if stalled == STALLED_ROUNDS {
            break;
        }
    }
    Err(SockDiagError::Remaining(remaining))
}

#[cfg(test)]
impl InetSocket {
    /// A socket that no kernel has listed.
    pub(crate) fn for_tests(state: State, local: SocketAddr, remote: SocketAddr, cgroup: u64) -> Self {
        let (interface, cookie, inode, uid, tx_queue, rx_queue) = (0, 0, 0, 0, 0, 0);
        let id = SocketId::new_v4();
        let cgroup = Some(cgroup);
        Self { state, local, remote, interface, cookie, cgroup, inode, uid, tx_queue, rx_queue, id }
    }
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
