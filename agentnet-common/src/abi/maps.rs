//! Names of the maps, the same in the object, in the pin directory and in messages.

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
