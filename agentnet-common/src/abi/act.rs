//! What was blocked and allowed by hand.

use crate::{addr::Endpoint, wire};

wire! {
    /// Whose block it is and of what, the key of [`maps::BLOCKS`](super::maps::BLOCKS) behind its prefix length: [`BLOCKED_PREFIX`] bits
    /// and those of the address. Every agent has nodes of its own, for what is blocked for all of them too: one
    /// lookup tells.
    #[derive(Default, Hash, PartialOrd, Ord)]
    pub struct Blocked {
        /// The agent.
        pub agent: u32,
        /// Zero. The value behind it is aligned because of it.
        pub pad: u32,
        /// The address, see [`Addr`](crate::addr::Addr).
        pub addr: [u32; 4],
    }
}

/// Bits before the address in [`Blocked`].
pub const BLOCKED_PREFIX: u32 = 64;
/// Nodes of [`maps::BLOCKS`](super::maps::BLOCKS), of all agents together.
pub const BLOCK_ENTRIES: u32 = 1 << 16;
/// The value of a node of [`maps::BLOCKS`](super::maps::BLOCKS) that blocks nothing: IPv4 below a block for IPv6, whose space it lies in.
pub const OPEN: u64 = 1;

/// Whether a node of [`maps::BLOCKS`](super::maps::BLOCKS) with this value blocks at this time.
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
