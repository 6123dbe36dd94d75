//! What is known at interfaces.

use crate::wire;

wire! {
    /// Whose container is behind an interface.
    #[derive(Default)]
    pub struct Uplink {
        /// The agent.
        pub agent: u32,
        /// The container's network namespace, see [`Pin::netns`](super::Pin::netns): what was resolved in another one opens nothing here.
        pub netns: u32,
    }
}

wire! {
    /// Somebody who came to an agent's container and may be answered.
    #[derive(Default, Hash, PartialOrd, Ord)]
    pub struct Visitor {
        /// Its address, see [`Addr`](crate::addr::Addr).
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
/// Interfaces that one set of maps can guard.
pub const IFACE_ENTRIES: u32 = 4096;
/// Visitors that are remembered; of more, those that were silent longest are no longer answered.
pub const VISITOR_ENTRIES: u32 = 1 << 14;
/// How deep in the tree the cgroup of an agent in the host's network namespace may be; the root is 0. Its
/// descendants may be as deep as they like.
pub const HOSTCG_DEPTH: u32 = 32;
