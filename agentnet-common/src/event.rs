//! Records that the kernel programs write to the ring buffers.

use crate::{
    abi::{Process, SUN_PATH},
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
        /// [`SampleHead`] and bytes.
        Sample = 2 => "sample",
        /// [`FlowEnd`].
        FlowEnd = 3 => "flow_end",
        /// [`QueryEvent`].
        Query = 4 => "query",
        /// [`DoorEvent`].
        Door = 5 => "door",
        /// [`QueryEvent`] whose message is the server name of TLS, of `detail` bytes.
        ServerName = 6 => "server_name",
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
        /// cgroup/connect_unix.
        ConnectUnix = 10 => "connect_unix",
        /// cgroup/sendmsg_unix.
        SendmsgUnix = 11 => "sendmsg_unix",
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
        /// [`crate::verdict::RuleId`], if allowed; of [`Kind::ServerName`] the rule that had opened the address.
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
        /// socket option, `type << 16 | bytes of the name` of a Unix socket, else 0.
        pub detail: u32,
        /// How many of the kind there were up to now, this one included; more than 1 only for [`Outcome::Allowed`],
        /// where a record ends a series, see [`crate::abi::Series`].
        pub total: u32,
        /// Bytes this socket had sent before, IP headers included; of TCP from its first data on.
        pub sent: u64,
    }
}

/// Bytes of a DNS message that a record holds: its header and the longest question (RFC 1035, 4.1).
pub const QUESTION_BYTES: usize = 272;

wire! {
    /// A verdict on a DNS message that was refused.
    pub struct QueryEvent {
        /// The verdict; its header's kind is [`Kind::Query`].
        pub verdict: VerdictEvent,
        /// The message's beginning; behind its end, anything.
        pub message: [u8; QUESTION_BYTES],
    }
}

wire! {
    /// A verdict on a Unix socket that was refused.
    pub struct DoorEvent {
        /// The verdict; its header's kind is [`Kind::Door`].
        pub verdict: VerdictEvent,
        /// The name as the process wrote it, zero behind its end; an abstract one begins with a zero.
        pub name: [u8; SUN_PATH],
        /// Zero.
        pub pad: u32,
    }
}

codes! {
    /// Which way sampled bytes went.
    pub enum Way: u8 {
        /// Out of the agent.
        Out = 1 => "out",
        /// Into the agent.
        In = 2 => "in",
    }
}

/// [`SampleHead::flags`]: more of the stream follows as far as the budget reaches, so that a jump in `offset` is a gap.
pub const SAMPLE_STREAM: u8 = 1;

/// Most payload bytes in a record, by size of record: the kernel reserves room of constant size only.
pub const SAMPLE_BYTES: [usize; 3] = [256, 1024, 4096];

wire! {
    /// Payload that was let through; `len` bytes of it follow, the rest of the record is unused.
    pub struct SampleHead {
        /// See [`Header`].
        pub header: Header,
        /// Who made or connected the socket.
        pub process: Process,
        /// The far end.
        pub endpoint: Endpoint,
        /// The local address.
        pub local: Addr,
        /// The local port.
        pub local_port: u16,
        /// [`Way`].
        pub way: u8,
        /// `SAMPLE_*`.
        pub flags: u8,
        /// TCP: where the bytes begin in what the connection carries this way. Else: how many datagrams went this way
        /// before.
        pub offset: u64,
        /// Payload bytes of the packet from here on.
        pub payload: u32,
        /// Those that follow, at most [`SAMPLE_BYTES`].
        pub len: u32,
        /// [`crate::verdict::RuleId`] of the rule that allows the flow, where it is known.
        pub rule: u16,
        /// Zero.
        pub pad: [u16; 3],
    }
}

wire! {
    /// A flow that has ended: a TCP connection that carried data, or a socket of UDP or ICMP that sent some.
    pub struct FlowEnd {
        /// See [`Header`].
        pub header: Header,
        /// Who made or connected the socket.
        pub process: Process,
        /// The far end; of a socket that talked to several, the last.
        pub endpoint: Endpoint,
        /// The local address, zero where it is not known.
        pub local: Addr,
        /// The local port.
        pub local_port: u16,
        /// [`crate::verdict::RuleId`] of the rule that allowed it.
        pub rule: u16,
        /// When its first data went, nanoseconds of `CLOCK_MONOTONIC`.
        pub began: u64,
        /// Bytes out, IP headers included.
        pub tx_bytes: u64,
        /// Packets out, before segmentation.
        pub tx_packets: u64,
        /// Bytes in, IP headers included; of TCP those of segments with data.
        pub rx_bytes: u64,
        /// Packets in.
        pub rx_packets: u64,
        /// TCP: hash of the name that has opened the far end, see [`crate::name::NameHash`]; 0 if no name has.
        pub name: u64,
    }
}

const _: () = {
    assert!(size_of::<SampleHead>() == 128);
    assert!(size_of::<FlowEnd>() == 152);
    assert!(size_of::<QueryEvent>() == 128 + QUESTION_BYTES);
    assert!(size_of::<Header>() == 40);
    assert!(size_of::<VerdictEvent>() == 128);
    assert!(size_of::<DoorEvent>() == 240);
};
