//! What a TLS client has said.

use crate::wire;

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
