//! Names: what is asked for, what is answered, and what that opens.

use crate::wire;

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
        /// The resolver's address, see [`Addr`](crate::addr::Addr).
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
/// Bytes of a DNS query that can be judged: a header, a name of 255 bytes, EDNS with the options that may pass.
pub const QUERY_BYTES: usize = 512;
/// Where the key of a name ends in [`Scratch::key`](super::Scratch::key).
pub const KEY_END: usize = 260;
