//! Layouts of map keys and values, and the names of maps, programs and pins.

use crate::{
    addr::{Addr, Endpoint, protocols},
    event::VerdictEvent,
    verdict::{REASON_SLOTS, RuleId},
    wire,
};

/// Version of everything in this crate that crosses the kernel boundary. Part of the pin directory, so
/// that two versions never share a map.
pub const ABI_VERSION: u16 = 1;

/// Length of a task's `comm`, its terminating NUL included (`TASK_COMM_LEN`, include/linux/sched.h).
pub const COMM_BYTES: usize = 16;

/// Names of the maps, the same in the object, in the pin directory and in messages.
pub mod maps {
    /// Cgroup storage, key cgroup id, value [`super::AgentCfg`].
    pub const CFG: &str = "CFG";
    /// Array of LPM tries by policy slot: networks, value [`super::Ruleset`].
    pub const NETS: &str = "NETS";
    /// Array of LPM tries by policy slot: reversed names, value [`super::NameNode`].
    pub const NAMES: &str = "NAMES";
    /// Array of LRU hashes by agent: addresses that names were resolved to, value [`super::Pins`].
    pub const PINS: &str = "PINS";
    /// Array of LRU hashes by agent: names that were asked for, by [`crate::name::NameHash`], value [`super::Named`].
    pub const NAMED: &str = "NAMED";
    /// Socket storage, value [`super::Queries`].
    pub const QUERIES: &str = "QUERIES";
    /// Socket storage, value [`super::Dialog`].
    pub const DIALOG: &str = "DIALOG";
    /// Hash of sockets whose messages are judged before they are sent, by socket cookie.
    pub const GATE: &str = "GATE";
    /// Hash of sockets that have yet to say a name in TLS, by socket cookie.
    pub const HELLOS: &str = "HELLOS";
    /// Socket storage, value [`super::Hello`].
    pub const HELLO: &str = "HELLO";
    /// Per-CPU array, value [`super::Scratch`].
    pub const SCRATCH: &str = "SCRATCH";
    /// Socket storage, value [`super::SockState`].
    pub const SOCK: &str = "SOCK";
    /// Socket storage, value [`super::UdpPeers`].
    pub const PEERS: &str = "PEERS";
    /// Array by the low bits of a socket cookie, value [`super::Owner`].
    pub const OWNERS: &str = "OWNERS";
    /// Per-CPU array by agent, value [`super::AgentCounters`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Per-CPU array by a hash of the flow, value [`super::Series`].
    pub const SERIES: &str = "SERIES";
    /// Array of programs that packets out are handed to, by `TAIL_*`.
    pub const TAILS_OUT: &str = "TAILS_OUT";
    /// The same for packets in.
    pub const TAILS_IN: &str = "TAILS_IN";
    /// Array by agent, value [`super::Budget`].
    pub const BUDGETS: &str = "BUDGETS";
    /// Hash by socket cookie of TCP sockets that may hold refused data, value: the agent.
    pub const REFUSED: &str = "REFUSED";
    /// Hash by interface index of host sides of containers' interfaces, value [`super::Uplink`].
    pub const IFACE: &str = "IFACE";
    /// Hash by cgroup id of agents in the host's network namespace, value: the agent.
    pub const HOSTCG: &str = "HOSTCG";
    /// Array by agent of those that IFACE and HOSTCG name, value [`super::AgentCfg`].
    pub const AGENTS: &str = "AGENTS";
    /// LRU hash by [`super::Visitor`] of who came to a container, value: when that ends, nanoseconds of
    /// `CLOCK_MONOTONIC`.
    pub const VISITORS: &str = "VISITORS";
    /// Array of LPM tries by policy slot: names of Unix sockets, value [`super::Door`].
    pub const DOORS: &str = "DOORS";
    /// LPM trie by [`super::Blocked`] of what was blocked by hand, value: [`super::OPEN`], 0 for no end, or when it
    /// ends, nanoseconds of `CLOCK_BOOTTIME`. A node speaks for those above it as well: the longest match is the answer.
    pub const BLOCKS: &str = "BLOCKS";
    /// Hash by [`super::Granted`] of what was allowed by hand, value [`super::Grant`].
    pub const GRANTS: &str = "GRANTS";
    /// Ring buffer of refusals.
    pub const ALERTS: &str = "ALERTS";
    /// Ring buffer of everything else.
    pub const SAMPLES: &str = "SAMPLES";
}

/// Policy slots. A reload fills a free one, so one more than the policies in use.
pub const SLOTS: u32 = 256;
/// Rules of a policy file that can be told apart.
pub const MAX_RULES: usize = RuleId::FIRST_RESERVED as usize;
/// Port ranges at one node of the network or name trie.
pub const RULESET_ENTRIES: usize = 16;
/// UDP peers remembered per socket, to which it may reply.
pub const UDP_PEERS: usize = 4;

/// `[local]`: nobody.
pub const LOCAL_DENY: u8 = 0;
/// `[local]`: the agent itself (`loopback`), this host (`listen`).
pub const LOCAL_OWN: u8 = 1;
/// `[local]`: everybody.
pub const LOCAL_ANY: u8 = 2;

/// Refuse what is not allowed.
pub const MODE_ENFORCE: u8 = 0;
/// Report what would be refused and let it through.
pub const MODE_AUDIT: u8 = 1;
/// Refuse everything.
pub const MODE_QUARANTINE: u8 = 2;

/// The policy has a rule for ICMP: ping sockets may be made.
pub const CFG_ICMP: u8 = 1;
/// `[local] unix = "any"`: without it only Unix sockets in [`maps::DOORS`] may be connected and sent to.
pub const CFG_UNIX_ANY: u8 = 0x20;
/// The agent has entries in [`maps::BLOCKS`]. Without it the map is not asked.
pub const CFG_BLOCKS: u8 = 2;
/// The agent has entries in [`maps::GRANTS`]. Without it the map is not asked.
pub const CFG_GRANTS: u8 = 4;

wire! {
    /// Who is governed by a cgroup and how; the value of cgroup storage, written as a whole.
    ///
    /// All zero between the attachment of a program and the first write: such a cgroup sends nothing.
    #[derive(Default)]
    pub struct AgentCfg {
        /// The agent, from 1 to [`MAX_AGENTS`] - 1.
        pub agent: u32,
        /// The policy slot.
        pub slot: u32,
        /// Counts changes: verdicts remembered under another generation are void.
        pub generation: u32,
        /// `MODE_*`.
        pub mode: u8,
        /// `[local] loopback`, `LOCAL_*`.
        pub loopback: u8,
        /// `[local] listen`, `LOCAL_*`.
        pub listen: u8,
        /// `CFG_*`.
        pub flags: u8,
    }
}

impl AgentCfg {
    /// Whether a policy was written at all.
    #[inline(always)]
    pub const fn is_configured(&self) -> bool {
        self.agent != 0
    }

    /// Whether `[local] listen` lets somebody at this place talk to the agent.
    #[inline(always)]
    pub const fn may_come_in(&self, on_this_host: bool) -> bool {
        if self.is_quarantined() {
            return false;
        }
        if on_this_host { self.listen >= LOCAL_OWN } else { self.listen >= LOCAL_ANY }
    }

    /// Whether nothing may be sent at all.
    #[inline(always)]
    pub const fn is_quarantined(&self) -> bool {
        self.mode == MODE_QUARANTINE
    }

    /// Whether something may have been blocked by hand.
    #[inline(always)]
    pub const fn has_blocks(&self) -> bool {
        self.flags & CFG_BLOCKS != 0
    }

    /// Whether something may have been allowed by hand.
    #[inline(always)]
    pub const fn has_grants(&self) -> bool {
        self.flags & CFG_GRANTS != 0
    }
}

wire! {
    /// One port range of a ruleset.
    #[derive(Default)]
    pub struct PortRule {
        /// First port, host byte order.
        pub first: u16,
        /// Last port, included.
        pub last: u16,
        /// The rule that allows it, see [`RuleId`].
        pub rule: u16,
        /// Set of protocols, see [`protocols`]; ports do not matter to ICMP.
        pub protocols: u8,
        /// What a TCP connection that a name opens has to speak, `SPEAKS_*`.
        pub speaks: u8,
    }
}

/// TLS, with the name of the server in the clear (RFC 6066, 3), whose rule is one that opened the address.
pub const SPEAKS_TLS: u8 = 1;
/// HTTP/1 (RFC 9112), whose requests have such a name as their host.
pub const SPEAKS_HTTP: u8 = 2;
/// TLS without a name may pass (`sni = "off"`); one that is there is held to the rules all the same.
pub const SPEAKS_UNNAMED: u8 = 4;
/// TLS with an encrypted ClientHello may pass (`ech = "allow"`): of its two names the outer one is held to the rules.
pub const SPEAKS_ECH: u8 = 8;

/// The node is inside a special-purpose network (RFC 6890 and the clouds' metadata addresses).
pub const RULESET_SPECIAL: u16 = 1;
/// The node is an address of this host.
pub const RULESET_LOCAL: u16 = 2;
/// A search list makes this name of one that a rule allows: it may be asked for, and its answer opens nothing.
pub const RULESET_SEARCH: u16 = 4;
/// The node is the address of a resolver: whatever goes there has to be a plain query, whatever the port.
pub const RULESET_RESOLVER: u16 = 8;

wire! {
    /// What is allowed at one node of a trie: the union of the rules of the node and its ancestors, denied
    /// ranges taken out.
    #[derive(Default)]
    pub struct Ruleset {
        /// Entries in use, at most [`RULESET_ENTRIES`].
        pub len: u16,
        /// `RULESET_*`.
        pub flags: u16,
        /// The ranges; for one protocol they do not overlap.
        pub rules: [PortRule; RULESET_ENTRIES],
    }
}

impl Ruleset {
    /// Whether the node is inside a special-purpose network.
    #[inline(always)]
    pub const fn is_special(&self) -> bool {
        self.flags & RULESET_SPECIAL != 0
    }

    /// Whether the node is an address of this host.
    #[inline(always)]
    pub const fn is_local(&self) -> bool {
        self.flags & RULESET_LOCAL != 0
    }

    /// Whether the node is an address of a resolver.
    #[inline(always)]
    pub const fn is_resolver(&self) -> bool {
        self.flags & RULESET_RESOLVER != 0
    }

    /// Whether the name may be asked for and opens nothing.
    #[inline(always)]
    pub const fn is_search(&self) -> bool {
        self.flags & RULESET_SEARCH != 0
    }

    /// The rule that allows `port` (host byte order) over `protocol` (an IANA number).
    #[inline(always)]
    pub fn find(&self, protocol: u8, port: u16) -> Option<RuleId> {
        self.find_spoken(protocol, port).map(|(rule, _)| rule)
    }

    /// The same, with what has to be spoken, `SPEAKS_*`.
    #[inline(always)]
    pub fn find_spoken(&self, protocol: u8, port: u16) -> Option<(RuleId, u8)> {
        let set = protocols::of(protocol);
        let (mut found, mut speaks) = (RuleId::NONE.0, 0);
        // All entries, not `len` of them: unused ones have no protocol, and the bound stays constant for
        // the verifier.
        for entry in &self.rules {
            let fits = entry.protocols & set != 0
                && (set == protocols::ICMP || (entry.first <= port && port <= entry.last));
            if fits {
                found = entry.rule;
                speaks = entry.speaks;
            }
        }
        if found == RuleId::NONE.0 { None } else { Some((RuleId(found), speaks)) }
    }
}

wire! {
    /// One node of the name trie. Its key is a [`crate::name::NameKey`].
    #[derive(Default)]
    pub struct NameNode {
        /// Bytes of the node's own key: a name that is as long is this name, a longer one is below it.
        pub len: u32,
        /// For the name itself.
        pub this: Ruleset,
        /// For every name below it.
        pub below: Ruleset,
    }
}

impl NameNode {
    /// The rules for a name whose key is `len` bytes long, and for which this is the node of the longest suffix.
    #[inline(always)]
    pub const fn rules(&self, len: usize) -> &Ruleset {
        if self.len as usize == len { &self.this } else { &self.below }
    }
}

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

wire! {
    /// Somebody who came to an agent's container and may be answered.
    #[derive(Default, Hash, PartialOrd, Ord)]
    pub struct Visitor {
        /// Its address, see [`Addr`].
        pub addr: [u32; 4],
        /// The agent it came to.
        pub agent: u32,
        /// Its port, host byte order; 0 for ICMP.
        pub port: u16,
        /// The port it came to, host byte order; for ICMPv6 [`VISITOR_SOLICITED`] or 0.
        pub local_port: u16,
        /// IANA number of the protocol.
        pub protocol: u32,
    }
}

/// `local_port` of a neighbour that asked for the container's link-layer address: the type of the question
/// (RFC 4861, 4.3).
pub const VISITOR_SOLICITED: u16 = 135;

wire! {
    /// Whose container is behind an interface.
    #[derive(Default)]
    pub struct Uplink {
        /// The agent.
        pub agent: u32,
        /// The container's network namespace, see [`Pin::netns`]: what was resolved in another one opens nothing here.
        pub netns: u32,
    }
}

/// Interfaces that one set of maps can guard.
pub const IFACE_ENTRIES: u32 = 4096;
/// Visitors that are remembered; of more, those that were silent longest are no longer answered.
pub const VISITOR_ENTRIES: u32 = 1 << 14;
/// How deep in the tree the cgroup of an agent in the host's network namespace may be; the root is 0. Its
/// descendants may be as deep as they like.
pub const HOSTCG_DEPTH: u32 = 32;

wire! {
    /// Whose block it is and of what, the key of [`maps::BLOCKS`] behind its prefix length: [`BLOCKED_PREFIX`] bits
    /// and those of the address. Every agent has nodes of its own, for what is blocked for all of them too: one
    /// lookup tells.
    #[derive(Default, Hash, PartialOrd, Ord)]
    pub struct Blocked {
        /// The agent.
        pub agent: u32,
        /// Zero. The value behind it is aligned because of it.
        pub pad: u32,
        /// The address, see [`Addr`].
        pub addr: [u32; 4],
    }
}

/// Bits before the address in [`Blocked`].
pub const BLOCKED_PREFIX: u32 = 64;
/// Nodes of [`maps::BLOCKS`], of all agents together.
pub const BLOCK_ENTRIES: u32 = 1 << 16;
/// The value of a node of [`maps::BLOCKS`] that blocks nothing: IPv4 below a block for IPv6, whose space it lies in.
pub const OPEN: u64 = 1;

/// Whether a node of [`maps::BLOCKS`] with this value blocks at this time.
#[inline(always)]
pub const fn is_block(value: u64, now: u64) -> bool {
    value == 0 || value > now
}

wire! {
    /// Whose grant it is and of what. An endpoint of port and protocol 0 stands for all grants of its address: whether
    /// its link-layer address may be asked for.
    #[derive(Hash, PartialOrd, Ord)]
    pub struct Granted {
        /// The agent.
        pub agent: u32,
        /// The endpoint.
        pub endpoint: Endpoint,
    }
}

wire! {
    /// Something that was allowed by hand.
    #[derive(Default)]
    pub struct Grant {
        /// When it ends, nanoseconds of `CLOCK_BOOTTIME`: time asleep counts.
        pub expiry: u64,
        /// Which act it was, see `agentnet status`.
        pub act: u32,
        /// 1 if it is for something on this host, else 0.
        pub is_local: u32,
    }
}

impl Grant {
    /// Whether it allows something at this time, which is on this host or not.
    #[inline(always)]
    pub const fn holds(&self, now: u64, is_local: bool) -> bool {
        self.expiry > now && (!is_local || self.is_local != 0)
    }
}

/// Grants of all agents together; each address takes one more.
pub const GRANT_ENTRIES: u32 = 1 << 12;

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
        /// The rule behind `cached`, see [`RuleId`].
        pub rule: u16,
        /// `CACHED_*`.
        pub cached: u8,
        /// `ROLE_*`.
        pub role: u8,
        /// 1 if the socket is in [`maps::REFUSED`], else 0.
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
        /// Network namespace of a socket that asks a resolver, see [`Pin::netns`]; 0 where nobody could tell.
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

/// TCP: bytes of each flow that are sampled, each way.
pub const SAMPLE_TCP_BYTES: u64 = 4096;
/// UDP and ICMP: datagrams of each socket that are sampled, each way; later ones now and then.
pub const SAMPLE_DATAGRAMS: u64 = 16;
/// Of later datagrams one in so many is sampled, a power of two.
pub const SAMPLE_EVERY: u64 = 64;
/// Payload bytes that may be sampled of an agent's streams in a second. Heads of flows, datagrams and DNS have as
/// much again, which streams cannot take from them.
pub const SAMPLE_BUDGET: u64 = 8 << 20;

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

wire! {
    /// Allowed flows that one process begins to one endpoint by one rule, one after the other. The first is written
    /// to the ring, the rest only counted here, until another series takes the place: then a record tells the total.
    pub struct Series {
        /// The record of the first; its time and CPU name the series, its `total` counts.
        pub first: VerdictEvent,
        /// Generation of the agent's configuration.
        pub generation: u32,
        /// Zero.
        pub pad: u32,
    }
}

wire! {
    /// What was sampled of an agent in a second.
    #[derive(Default)]
    pub struct Budget {
        /// When the second began, nanoseconds of `CLOCK_MONOTONIC`.
        pub since: u64,
        /// Payload bytes sampled in it.
        pub bytes: u64,
        /// Most payload bytes of streams in a second; for all else there is twice that. 0 stands for [`SAMPLE_BUDGET`].
        pub most: u64,
    }
}

/// Bytes of the name of a Unix socket (`sun_path`, unix(7)).
pub const SUN_PATH: usize = 108;

wire! {
    /// A name that an agent may connect to, or a directory whose sockets it may. The key is the name and a NUL, or the
    /// path of the directory with its last slash; an abstract name is behind a NUL and ends anywhere.
    #[derive(Default)]
    pub struct Door {
        /// Bytes of the name; 0 for a directory.
        pub len: u32,
    }
}

/// Index of the program that samples a packet which was let through.
pub const TAIL_SAMPLE: u32 = 0;
/// Index of the program that judges a DNS query, or learns from an answer.
pub const TAIL_DNS: u32 = 1;
/// Index of the program that reports on a packet, see [`TOLD_DENIED`].
pub const TAIL_REPORT: u32 = 2;
/// Index of the program that learns from answers over TCP.
pub const TAIL_DNS_STREAM: u32 = 3;
/// Index of the program that lets out what was judged of a connection which has yet to say a name.
pub const TAIL_TLS: u32 = 4;
/// What the program that reports is told of a packet, in the first word of its control block: this and a reason.
pub const TOLD_DENIED: u32 = 1 << 16;
/// The same of one that was let through and begins a flow: this and a rule.
pub const TOLD_ALLOWED: u32 = 2 << 16;
/// Places for such programs.
pub const TAILS: u32 = 8;

/// Names that opened one address at the same time; one more takes the place of the one that ends first.
pub const PIN_NAMES: usize = 8;
/// Addresses that an agent may have open by name; of more, those that were used longest ago are closed.
pub const PIN_ENTRIES: u32 = 1024;
/// Names that an agent has asked for lately; of more, those that were used longest ago open nothing any more.
pub const NAMED_ENTRIES: u32 = 512;
/// How long an address stays open after it was resolved, however short its TTL; seconds. Clients keep addresses for
/// longer than they may.
pub const PIN_LEAST: u32 = 300;
/// The longest TTL that is believed, seconds.
pub const PIN_MOST_SECONDS: u32 = 86_400;

wire! {
    /// A name that was resolved to an address.
    #[derive(Default)]
    pub struct Pin {
        /// Hash of the name, see [`crate::name::NameHash`]; 0 is an empty place.
        pub name: u64,
        /// When it ends, seconds of `CLOCK_MONOTONIC`.
        pub expiry: u32,
        /// Low half of the cookie of the network namespace in which it was resolved, the only one in which the address is
        /// open: in one of its own making an agent is the resolver. Cookies are counted up from 1.
        pub netns: u32,
    }
}

wire! {
    /// The names that were resolved to an address.
    #[derive(Default)]
    pub struct Pins {
        /// In no order.
        pub pins: [Pin; PIN_NAMES],
    }
}

wire! {
    /// A name that was asked for and that a rule allows.
    pub struct Named {
        /// Its bytes as a key; the length in bits comes first, as tries want it.
        pub bits: u32,
        /// See [`crate::name`].
        pub key: [u8; crate::name::KEY_BYTES],
    }
}

/// Queries of a socket that are waited for at the same time, a power of two.
pub const QUERIES_OPEN: usize = 64;

/// How long an answer is waited for, nanoseconds. No client waits longer: glibc's limit for `timeout:` is 30 seconds
/// (`RES_MAXRETRANS`, resolv.h).
pub const QUERY_PATIENCE: u64 = 30_000_000_000;

wire! {
    /// A query that an answer is waited for.
    #[derive(Default)]
    pub struct Query {
        /// Hash of the name, 0 for an empty place.
        pub name: u64,
        /// The resolver's address, see [`Addr`].
        pub server: [u32; 4],
        /// When it left, nanoseconds of `CLOCK_MONOTONIC`.
        pub time: u64,
        /// The message's identifier, in host byte order.
        pub id: u16,
        /// The type that was asked for.
        pub kind: u16,
        /// 1 if the answer opens nothing.
        pub search: u16,
        /// The port it went to.
        pub port: u16,
        /// Network namespace it left from, see [`Pin::netns`].
        pub netns: u32,
        /// Zero.
        pub pad: u32,
    }
}

wire! {
    /// The queries of one socket.
    pub struct Queries {
        /// In no order.
        pub open: [Query; QUERIES_OPEN],
    }
}

/// Bytes of a DNS message over TCP that can be read, a power of two.
pub const DIALOG_BYTES: usize = 16384;

/// Bytes sent to a resolver over TCP that may be under way at once, a power of two. What is older cannot be repeated.
pub const JUDGED_BYTES: usize = 4096;
/// What is compared with them at a time, a power of two.
pub const JUDGED_STEP: usize = 32;

/// Priority of packets that an agent's socket sends to this host, by which it is known there that none is a resolver's.
/// Nobody reads priorities on `lo`, which has no queue.
pub const OWN_PRIORITY: u32 = 0x616e_6574;

wire! {
    /// A connection to a resolver: what of it was judged.
    pub struct Dialog {
        /// Sequence number of the first byte out.
        pub out: u32,
        /// Bytes out, from the first on, that were judged to be queries that may leave.
        pub approved: u32,
        /// Sequence number of the first byte in.
        pub in_: u32,
        /// Bytes in, from the first on, that were read.
        pub read: u32,
        /// Bytes of `frame` that are there: the beginning of a message that came in, its length first.
        pub have: u32,
        /// 1 once something was to leave that was not judged: nothing leaves any more.
        pub broken: u32,
        /// See `have`.
        pub frame: [u8; DIALOG_BYTES],
        /// The bytes last judged, each where its place in the stream is, modulo the length. What leaves has to be the
        /// same: the kernel may take something else in place of what was judged.
        pub judged: [u8; JUDGED_BYTES],
    }
}

/// Connections whose messages are judged before they are sent.
pub const GATE_ENTRIES: u32 = 1 << 14;

/// Bytes that a connection may send until it has said a name and its handshake is over, a power of two.
pub const HELLO_BYTES: usize = 16384;
/// What is copied and compared of them at a time, a power of two.
pub const HELLO_STEP: usize = 128;
/// Where a ClientHello in several records is put together; each half has as much room.
pub const HELLO_HALF: usize = HELLO_BYTES / 2;

/// Nothing may leave yet.
pub const HELLO_CLOSED: u32 = 0;
/// A ClientHello has to come first.
pub const HELLO_AWAITED: u32 = 1;
/// One has come whose name may be reached.
pub const HELLO_SAID: u32 = 2;
/// And the client has changed its cipher: what it says from then on it may say in secret.
pub const HELLO_CHANGED: u32 = 3;
/// The handshake is over as far as it can be read.
pub const HELLO_OVER: u32 = 4;
/// Nothing leaves any more.
pub const HELLO_REFUSED: u32 = 5;
/// [`Hello::free`] before [`HELLO_OVER`].
pub const HELLO_NOT_FREE: u32 = u32::MAX;

wire! {
    /// A connection that has yet to say a name in TLS: what of it was judged. Gone when that is over.
    pub struct Hello {
        /// `HELLO_*`.
        pub stage: u32,
        /// Sequence number of the first byte out.
        pub out: u32,
        /// Bytes out, from the first on, that were judged, all in `bytes`.
        pub judged: u32,
        /// Bytes out, from the first on, that were found to be those which were judged as they left.
        pub left: u32,
        /// From this byte on nothing is judged.
        pub free: u32,
        /// Bytes in `bytes`; more than `judged` only in an audit, which holds nothing back.
        pub have: u32,
        /// Socket cookie.
        pub flow: u64,
        /// The bytes, and room for a step behind them.
        pub bytes: [u8; HELLO_BYTES + HELLO_STEP],
    }
}

/// Connections that have yet to say a name.
pub const HELLOS_ENTRIES: u32 = 1 << 16;

/// Bytes of a DNS query that can be judged: a header, a name of 255 bytes, EDNS with the options that may pass.
pub const QUERY_BYTES: usize = 512;
/// Where the key of a name ends in [`Scratch::key`].
pub const KEY_END: usize = 260;
/// Places to work in on each CPU: a task, and what interrupts it, and one that it was preempted by.
pub const SCRATCHES: u32 = 4;

wire! {
    /// Memory to work in, too large for a stack. Taken by one run at a time, see `busy`.
    pub struct Scratch {
        /// 1 while it is taken.
        pub busy: u64,
        /// Hash of the name.
        pub hash: u64,
        /// Bytes of the name's wire form without the root.
        pub name_len: u32,
        /// Bytes of the label that are still to come.
        pub left: u32,
        /// Where a loop is.
        pub at: u32,
        /// What a loop found.
        pub found: u32,
        /// Where a loop ends, or how much it has put together.
        pub end: u32,
        /// Where a ClientHello says its name.
        pub said_at: u32,
        /// Bytes of that name as it is said.
        pub said_len: u32,
        /// What else the ClientHello has.
        pub flags: u32,
        /// The message, or its beginning.
        pub message: [u8; QUERY_BYTES],
        /// The name's key: written from the end towards the beginning, its length in bits before it.
        pub key: [u8; 1024],
    }
}

/// Series that are followed on each CPU, a power of two.
pub const SERIES_PLACES: u32 = 64;

wire! {
    /// Whom a UDP socket may answer. Storage of its own, made when somebody is let in: few sockets need it,
    /// and what every socket has is allocated with every socket.
    #[derive(Default)]
    pub struct UdpPeers {
        /// The peers; an empty place has ended long ago.
        pub peers: [UdpPeer; UDP_PEERS],
    }
}

wire! {
    /// Counters of an agent on one CPU.
    pub struct AgentCounters {
        /// Records written to the alert ring; the next one's number.
        pub alerts: u64,
        /// Records written to the sample ring; the next one's number.
        pub samples: u64,
        /// Records lost because the alert ring was full.
        pub alerts_lost: u64,
        /// Records lost because the sample ring was full.
        pub samples_lost: u64,
        /// Refusals that were counted but not reported, because the agent made too many a second.
        pub suppressed: u64,
        /// Start of the second in which `window_count` counts, nanoseconds.
        pub window_start: u64,
        /// Alert records in this second.
        pub window_count: u64,
        /// Flows that were allowed and only counted, see [`Series`].
        pub repeats: u64,
        /// Payload bytes that should have been sampled and were not, because the agent's budget was used up.
        pub unsampled: u64,
        /// Packets let through.
        pub allowed_packets: u64,
        /// Bytes let through, IP headers included.
        pub allowed_bytes: u64,
        /// TCP sockets with refused data that did not fit into [`maps::REFUSED`].
        pub refused_overflow: u64,
        /// The reason being counted: through memory, because the verifier follows each value of an index that it
        /// knows through the rest of the program. A softirq in between at worst counts under another reason.
        pub reason: u64,
        /// Refusals by [`crate::verdict::Reason`].
        pub denied: [u64; REASON_SLOTS],
    }
}

impl Default for AgentCounters {
    /// All zero.
    fn default() -> Self {
        Self {
            alerts: 0,
            samples: 0,
            alerts_lost: 0,
            samples_lost: 0,
            suppressed: 0,
            window_start: 0,
            window_count: 0,
            repeats: 0,
            unsampled: 0,
            allowed_packets: 0,
            allowed_bytes: 0,
            refused_overflow: 0,
            reason: 0,
            denied: [0; REASON_SLOTS],
        }
    }
}

/// Alert records an agent may write a second on one CPU; more are counted as `suppressed`. A flood must
/// not push another agent's alerts out of the ring.
pub const ALERTS_PER_SECOND: u64 = 500;

/// Bytes of the alert ring, a power of two of pages.
pub const ALERT_RING_BYTES: u32 = 1 << 20;
/// Bytes of the sample ring, a power of two of pages.
pub const SAMPLE_RING_BYTES: u32 = 1 << 22;
/// TCP sockets with refused data that are remembered.
pub const REFUSED_ENTRIES: u32 = 1 << 16;
/// Agents that one set of maps can govern; identifiers are smaller, and 0 is nobody.
pub const MAX_AGENTS: u32 = 256;

impl SockState {
    /// The remembered peer.
    #[inline(always)]
    pub const fn peer_addr(&self) -> Addr {
        Addr { words: self.peer }
    }
}

const _: () = {
    assert!(size_of::<AgentCfg>() == 16);
    assert!(size_of::<PortRule>() == 8);
    assert!(size_of::<Ruleset>() == 132);
    assert!(size_of::<NameNode>() == 268);
    assert!(size_of::<SockState>() == 136);
    assert!(size_of::<UdpPeers>() == 128);
    assert!(size_of::<Owner>() == 32);
    assert!(OWNERS.is_power_of_two());
    assert!(size_of::<Series>() == 136);
    assert!(SERIES_PLACES.is_power_of_two());
    assert!(QUERIES_OPEN.is_power_of_two());
    assert!(HELLO_BYTES.is_power_of_two() && HELLO_STEP.is_power_of_two());
    assert!(REASON_SLOTS.is_power_of_two());
    assert!(size_of::<Named>() == 260);
    assert!(size_of::<Uplink>() == 8);
    assert!(size_of::<Visitor>() == 28);
    assert!(size_of::<Blocked>() == 24);
    assert!(size_of::<Granted>() == 24);
    assert!(size_of::<Grant>() == 16);
    assert!(size_of::<AgentCounters>() == 8 * (13 + REASON_SLOTS));
};
