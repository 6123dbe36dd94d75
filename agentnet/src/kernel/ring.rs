//! Reading the ring buffers.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use agentnet_common::user::{DecodeError, Record};
use aya::maps::{MapData, RingBuf};

/// The reader of one ring buffer. Readable, in the sense of poll(2), while there are records.
pub struct Ring {
    ring: RingBuf<MapData>,
}

impl Ring {
    pub(super) const fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// The next record, `None` when there is none at the moment. A record that cannot be decoded is an
    /// `Err`, consumed all the same.
    pub fn next_record(&mut self) -> Option<Result<Record, DecodeError>> {
        self.ring.next().map(|item| Record::decode(&item))
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
