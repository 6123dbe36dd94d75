//! What was blocked and allowed by hand, in the maps that the programs ask.

use std::{collections::BTreeMap, io, os::fd::BorrowedFd};

use agentnet_common::{
    abi::{BLOCKED_PREFIX, Blocked, Grant, Granted, maps},
    addr::{Addr, Endpoint},
};
use aya::maps::{HashMap, LpmTrie, MapError, lpm_trie::Key};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Kernel, KernelError, sys};
use crate::policy::net::Net;

/// What the kernel holds for one agent: nodes of the trie of blocks with their values, see [`maps::BLOCKS`], and
/// what is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Blocks.
    pub blocks: BTreeMap<Net, u64>,
    /// Grants.
    pub grants: BTreeMap<Endpoint, Grant>,
}

impl Written {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.grants.is_empty()
    }
}

/// A key of the trie as the kernel has it: the prefix length in bits, then the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(in crate::kernel) struct BlockKey {
    prefix: u32,
    data: Blocked,
}

impl BlockKey {
    pub(super) fn new(agent: u32, net: Net) -> Self {
        let prefix = BLOCKED_PREFIX + u32::from(net.prefix());
        Self { prefix, data: Blocked { agent, pad: 0, addr: net.addr().words } }
    }
}

impl Kernel {
    /// Turns what the kernel holds for `agent` from `before` into `after`. At no moment something is open that was
    /// closed before and is after. The configuration is to say whether there is any, see [`Kernel::configure`].
    ///
    /// # Errors
    /// When a map is full or cannot be written; what was closed still is, and what is to be closed may not be yet.
    pub fn write_acts(&self, agent: u32, before: &Written, after: &Written) -> Result<(), KernelError> {
        let (blocks, grants) = (self.map_fd(maps::BLOCKS)?, self.map_fd(maps::GRANTS)?);
        let granted = |endpoint: &Endpoint| Granted { agent, endpoint: *endpoint };
        for endpoint in before.grants.keys().filter(|endpoint| !after.grants.contains_key(endpoint)) {
            delete(grants, maps::GRANTS, &granted(endpoint))?;
        }
        // The narrower first, and the wider first to go: IPv4 below a block for IPv6 does not notice.
        for (net, value) in changed(&before.blocks, &after.blocks).rev() {
            update(blocks, maps::BLOCKS, &BlockKey::new(agent, *net), value)?;
        }
        for net in before.blocks.keys().filter(|net| !after.blocks.contains_key(net)) {
            delete(blocks, maps::BLOCKS, &BlockKey::new(agent, *net))?;
        }
        for (endpoint, grant) in changed(&before.grants, &after.grants) {
            update(grants, maps::GRANTS, &granted(endpoint), grant)?;
        }
        Ok(())
    }

    /// What the kernel holds, by agent.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn written_acts(&self) -> Result<BTreeMap<u32, Written>, KernelError> {
        let mut all: BTreeMap<u32, Written> = BTreeMap::new();
        let failed = |source| KernelError::Map { map: maps::BLOCKS, source };
        let blocks = LpmTrie::<_, Blocked, u64>::try_from(self.map(maps::BLOCKS)?).map_err(failed)?;
        for entry in &blocks {
            let (key, value): (Key<Blocked>, u64) = entry.map_err(failed)?;
            let (prefix, data) = (key.prefix_len(), key.data());
            let prefix = u8::try_from(prefix.saturating_sub(BLOCKED_PREFIX)).unwrap_or(u8::MAX).min(128);
            let net = Net::of(Addr { words: data.addr }, prefix);
            all.entry(data.agent).or_default().blocks.insert(net, value);
        }
        let failed = |source| KernelError::Map { map: maps::GRANTS, source };
        let grants = HashMap::<_, Granted, Grant>::try_from(self.map(maps::GRANTS)?).map_err(failed)?;
        for entry in &grants {
            let (key, grant) = entry.map_err(failed)?;
            all.entry(key.agent).or_default().grants.insert(key.endpoint, grant);
        }
        Ok(all)
    }
}

/// What is new or different in `after`.
fn changed<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> impl DoubleEndedIterator<Item = (&'a K, &'a V)> {
    after.iter().filter(|(key, value)| before.get(key) != Some(value))
}

fn update<K: IntoBytes + Immutable, V: IntoBytes + Immutable>(
    fd: BorrowedFd<'_>,
    map: &'static str,
    key: &K,
    value: &V,
) -> Result<(), KernelError> {
    sys::map_update(fd, key, value).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOSPC | libc::E2BIG) => KernelError::Full { map },
        _ => KernelError::Map { map, source: MapError::IoError(error) },
    })
}

/// What is not there any more is what is wanted.
fn delete<K: IntoBytes + Immutable>(
    fd: BorrowedFd<'_>,
    map: &'static str,
    key: &K,
) -> Result<(), KernelError> {
    match sys::map_delete(fd, key) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::Map { map, source: MapError::IoError(error) })
        }
        _ => Ok(()),
    }
}
