//! What is counted, sampled and told.

use super::QUERY_BYTES;
use crate::{event::VerdictEvent, verdict::REASON_SLOTS, wire};

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
        /// TCP sockets with refused data that did not fit into [`maps::REFUSED`](super::maps::REFUSED).
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
