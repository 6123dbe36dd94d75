//! Records that the kernel programs write to the ring buffers.

use crate::{
    abi::Process,
    addr::{Addr, Endpoint},
    codes, wire,
};

wire! {
    /// Begins every record.
    pub struct Header {
        /// [`crate::abi::ABI_VERSION`].
        pub abi: u16,
        /// [`Kind`].
        pub kind: u16,
        /// Bytes of the record, this header included.
        pub len: u32,
        /// Number of the record among those of its agent, ring and CPU, from 0: a gap is a loss.
        pub seq: u64,
        /// Nanoseconds of `CLOCK_MONOTONIC`.
        pub time: u64,
        /// The agent.
        pub agent: u32,
        /// The CPU that wrote it.
        pub cpu: u32,
        /// Socket cookie (`SO_COOKIE`), 0 if there is no socket.
        pub flow: u64,
    }
}

codes! {
    /// What a record is.
    pub enum Kind: u8 {
        /// [`VerdictEvent`].
        Verdict = 1 => "verdict",
    }
}

codes! {
    /// Where a verdict was reached.
    pub enum Hook: u8 {
        /// cgroup/connect4 and connect6.
        Connect = 1 => "connect",
        /// cgroup/sendmsg4 and sendmsg6.
        Sendmsg = 2 => "sendmsg",
        /// cgroup/sock_create.
        SockCreate = 3 => "sock_create",
        /// cgroup/setsockopt.
        Setsockopt = 4 => "setsockopt",
        /// cgroup_skb/egress.
        Egress = 5 => "skb_egress",
        /// cgroup_skb/ingress.
        Ingress = 6 => "skb_ingress",
        /// tcx on the host's side of a container's interface, on what the container sends.
        TcxFrom = 7 => "tcx_from",
        /// The same on what is sent to the container.
        TcxTo = 8 => "tcx_to",
        /// tcx on the host's interfaces, on frames of packet sockets.
        TcxFrame = 9 => "tcx_frame",
    }
}

codes! {
    /// What became of it.
    pub enum Outcome: u8 {
        /// Let through by a rule.
        Allowed = 1 => "allowed",
        /// Refused.
        Blocked = 2 => "blocked",
        /// Would have been refused; the policy only audits.
        Audited = 3 => "audited",
    }
}

wire! {
    /// A verdict on a connection, a datagram or a packet.
    pub struct VerdictEvent {
        /// See [`Header`].
        pub header: Header,
        /// Who did it; for packets, who made or connected the socket.
        pub process: Process,
        /// The far end: the destination, or for [`Hook::Ingress`] and [`Hook::TcxTo`] the source.
        pub endpoint: Endpoint,
        /// The local address, zero where it is not known yet.
        pub local: Addr,
        /// The local port, 0 where it is not known yet.
        pub local_port: u16,
        /// [`crate::verdict::RuleId`], if allowed.
        pub rule: u16,
        /// [`crate::verdict::Reason`], if not allowed; else 0.
        pub reason: u8,
        /// [`Hook`].
        pub hook: u8,
        /// [`Outcome`].
        pub outcome: u8,
        /// Zero.
        pub pad: u8,
        /// Bytes of the packet, 0 for hooks that see none.
        pub bytes: u32,
        /// What the reason needs: `family << 16 | type << 8 | protocol` of a socket, `level << 16 | option` of a
        /// socket option, else 0.
        pub detail: u32,
        /// How many of the kind there were up to now, this one included; more than 1 only for [`Outcome::Allowed`],
        /// where a record ends a series, see [`crate::abi::Series`].
        pub total: u32,
        /// Bytes this socket had sent before, IP headers included; of TCP from its first data on.
        pub sent: u64,
    }
}

const _: () = {
    assert!(size_of::<Header>() == 40);
    assert!(size_of::<VerdictEvent>() == 128);
};
