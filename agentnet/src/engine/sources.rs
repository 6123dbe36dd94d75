//! Where events come from, as futures that may be dropped and called again without losing any.

use std::{
    fs::File,
    io, iter,
    os::fd::{AsRawFd, OwnedFd},
};

use agentnet_common::user::{DecodeError, Record};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{agent::cgroup::Cgroup, kernel::Ring};

/// Records taken from a ring before other events get their turn.
const BATCH: usize = 256;

/// Most records taken at the end, when nobody is left to make new ones but the kernel's own retries.
const LAST: usize = 1 << 17;

/// A record, or why it cannot be read.
pub type Item = Result<Record, DecodeError>;

/// Records of a ring buffer.
pub struct Records {
    ring: AsyncFd<Ring>,
}

impl Records {
    /// Reads `ring`.
    ///
    /// # Errors
    /// If it cannot be polled.
    pub fn new(ring: Ring) -> io::Result<Self> {
        Ok(Self { ring: register(ring, Interest::READABLE)? })
    }

    /// Waits for records and takes some.
    ///
    /// # Errors
    /// If they cannot be waited for.
    pub async fn next(&mut self) -> io::Result<Vec<Item>> {
        let mut guard = self.ring.readable_mut().await?;
        let batch = take(guard.get_inner_mut(), BATCH);
        // Only an empty ring announces the next record.
        if batch.len() < BATCH {
            guard.clear_ready();
        }
        Ok(batch)
    }

    /// Takes what is there now.
    pub fn rest(&mut self) -> Vec<Item> {
        take(self.ring.get_mut(), LAST)
    }
}

fn take(ring: &mut Ring, most: usize) -> Vec<Item> {
    iter::from_fn(|| ring.next_record()).take(most).collect()
}

/// Whether a cgroup has processes, and when that changes.
#[derive(Debug)]
pub struct Population {
    cgroup: Cgroup,
    events: AsyncFd<OwnedFd>,
}

impl Population {
    /// Watches `cgroup`.
    ///
    /// # Errors
    /// If its events cannot be polled.
    pub fn new(cgroup: Cgroup) -> io::Result<Self> {
        let events = OwnedFd::from(File::open(cgroup.events())?);
        Ok(Self { cgroup, events: register(events, Interest::PRIORITY)? })
    }

    /// Waits until something may have changed, and says whether there are processes; as long as the kernel
    /// does not say, there are.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub async fn changed(&mut self) -> io::Result<bool> {
        // Cleared before the file is read: what changes after the reading wakes again.
        self.events.ready(Interest::PRIORITY).await?.clear_ready();
        Ok(self.now())
    }

    /// Whether there are processes now; as long as the kernel does not say, there are.
    pub fn now(&self) -> bool {
        // The kernel tells a change since the last reading *of this open file*.
        rustix::io::pread(self.events.get_ref(), &mut [0; 64], 0).ok();
        self.cgroup.is_populated().unwrap_or(true)
    }
}

/// Polls `source` for `interest`.
pub(super) fn register<T: AsRawFd>(source: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: `source` owns its descriptor, which stays open until the `AsyncFd` that owns `source` is
    // dropped, and neither `Ring` nor `OwnedFd` ever answers `as_raw_fd` with another one.
    Ok(unsafe { AsyncFd::register_with_interest(source, interest) }?)
}
