//! What is remembered with a socket, and who made it.

use crate::{
    addr::{Addr, Endpoint},
    wire,
};

/// Length of a task's `comm`, its terminating NUL included (`TASK_COMM_LEN`, include/linux/sched.h).
pub const COMM_BYTES: usize = 16;
/// UDP peers remembered per socket, to which it may reply.
pub const UDP_PEERS: usize = 4;

wire! {
    /// The process behind an operation.
    #[derive(Default)]
    pub struct Process {
        /// Process id (thread group id) in the initial namespace; 0 if not known.
        pub pid: u32,
        /// User id in the initial user namespace.
        pub uid: u32,
        /// Command name, NUL-terminated.
        pub comm: [u8; COMM_BYTES],
    }
}

wire! {
    /// A UDP peer that was let in and may be answered.
    #[derive(Default)]
    pub struct UdpPeer {
        /// Its address, see [`Addr`].
        pub addr: [u32; 4],
        /// Its port, host byte order.
        pub port: u16,
        /// 1 if it came by `lo`, else 0.
        pub on_this_host: u16,
        /// Zero.
        pub pad: u32,
        /// When the permission ends, nanoseconds of `CLOCK_MONOTONIC`.
        pub expiry: u64,
    }
}

/// Nothing is remembered.
pub const CACHED_NONE: u8 = 0;
/// The remembered peer was allowed, and still is under the same generation.
pub const CACHED_ALLOW: u8 = 1;
/// The remembered peer was allowed and reported, but is to be judged again with every packet.
pub const CACHED_JUDGE: u8 = 2;
/// An ordinary socket.
pub const ROLE_NONE: u8 = 0;
/// A TCP socket that accept() made; `peer` may be answered.
pub const ROLE_ACCEPTED: u8 = 1;
/// A TCP socket that connects to a resolver: it may send queries.
pub const ROLE_ASKS: u8 = 2;
/// A TCP socket that has yet to say in TLS which server it wants: what leaves was judged before.
pub const ROLE_TLS: u8 = 3;
/// A TCP socket that has said so, and is by `name` what it may be: it may send anything.
pub const ROLE_SAID: u8 = 4;

wire! {
    /// What is remembered with a socket.
    ///
    /// TCP sockets have it from the first packet on that carries data or stays on this host, or from listen() on:
    /// making it costs more than all verdicts of a short connection.
    #[derive(Default)]
    pub struct SockState {
        /// The agent that made it.
        pub agent: u32,
        /// Generation under which `cached` was decided.
        pub generation: u32,
        /// Address to which `cached` and `role` belong, see [`Addr`].
        pub peer: [u32; 4],
        /// Its port, host byte order.
        pub peer_port: u16,
        /// The rule behind `cached`, see [`RuleId`](crate::verdict::RuleId).
        pub rule: u16,
        /// `CACHED_*`.
        pub cached: u8,
        /// `ROLE_*`.
        pub role: u8,
        /// 1 if the socket is in [`maps::REFUSED`](super::maps::REFUSED), else 0.
        pub refused: u8,
        /// `SAMPLED_*` and [`ASKS_DNS`].
        pub marks: u8,
        /// Whoever made it listen, or last connected it; of a UDP socket else the maker.
        pub process: Process,
        /// Bytes let out since this was made, IP headers included.
        pub tx_bytes: u64,
        /// Packets let out since this was made, before segmentation.
        pub tx_packets: u64,
        /// Bytes that came in, IP headers included; of TCP those of segments with data.
        pub rx_bytes: u64,
        /// Packets that came in; of TCP those with data.
        pub rx_packets: u64,
        /// When this was made, nanoseconds of `CLOCK_MONOTONIC`.
        pub began: u64,
        /// TCP: hash of the name that has opened the peer's address, 0 if no name has; of [`ROLE_SAID`] the name that
        /// was said.
        pub name: u64,
        /// Network namespace of a socket that asks a resolver, see [`Pin::netns`](super::Pin::netns); 0 where nobody could tell.
        pub netns: u32,
        /// The agent whose names [`ROLE_TLS`] and [`ROLE_SAID`] are about: of agents one below the other each has its own.
        pub held_by: u32,
        /// TCP: sequence number of the first byte that was sampled, by way out and in.
        pub base: [u32; 2],
        /// TCP: offset behind the last byte that was seen with data, by way.
        pub next: [u64; 2],
    }
}

/// `base` is set for the way out; for the way in the next bit.
pub const SAMPLED_OUT: u8 = 1;
/// `base` is set for the way in.
pub const SAMPLED_IN: u8 = 2;
/// The socket has sent a DNS query: what comes from a resolver is an answer to it, or nothing.
pub const ASKS_DNS: u8 = 4;

wire! {
    /// Who connected a TCP socket lately, until its [`SockState`] is made. A later socket may take the place.
    #[derive(Default)]
    pub struct Owner {
        /// Socket cookie; 0 while the rest is written.
        pub flow: u64,
        /// Who connected it.
        pub process: Process,
    }
}

/// Sockets whose owner is remembered, a power of two.
pub const OWNERS: u32 = 1 << 12;
/// Priority of packets that an agent's socket sends to this host, by which it is known there that none is a resolver's.
/// Nobody reads priorities on `lo`, which has no queue.
pub const OWN_PRIORITY: u32 = 0x616e_6574;

wire! {
    /// Whom a UDP socket may answer. Storage of its own, made when somebody is let in: few sockets need it,
    /// and what every socket has is allocated with every socket.
    #[derive(Default)]
    pub struct UdpPeers {
        /// The peers; an empty place has ended long ago.
        pub peers: [UdpPeer; UDP_PEERS],
    }
}

impl SockState {
    /// Whether the remembered peer is `remote`, whatever the protocol.
    #[inline(always)]
    pub fn is_peer(&self, remote: &Endpoint) -> bool {
        self.peer_port == remote.port && self.peer == remote.addr.words
    }

    /// The remembered peer.
    #[inline(always)]
    pub const fn peer_addr(&self) -> Addr {
        Addr { words: self.peer }
    }
}
