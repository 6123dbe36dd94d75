//! What the programs of another build know of an agent, for those of this one, as far as both keep it in the same form.
//!
//! The maps of the two are never one: each is opened by its pin, and read only if its keys and values have the sizes
//! that are expected here.

use std::{io, os::fd::AsFd as _, path::Path};

use agentnet_common::{
    abi::{Named, Pins, maps},
    addr::Addr,
};
use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError, RingBuf},
};
use zerocopy::{Immutable, IntoBytes};

use super::{Kernel, KernelError, Ring, links, pins, sys};
use crate::agent::AgentName;

impl Kernel {
    /// Takes over what the engine whose pins are below `theirs` knows of `agent`, which has the same number there: the
    /// names that it has resolved with their addresses, and its sockets that may hold refused data. To be called between
    /// [`Kernel::prepare`] and [`Kernel::enforce`].
    ///
    /// # Errors
    /// If something of it is not there in the same form; what was taken over before stays.
    pub fn inherit(&self, theirs: &Path, agent: u32) -> Result<(), KernelError> {
        // First of all: what was held back is destroyed with the agent's end, whatever else is known.
        for (cookie, of) in pins::refused_sockets(theirs)? {
            if of == agent {
                let failed = |error: io::Error| KernelError::Map { map: maps::REFUSED, source: error.into() };
                sys::map_update(self.map_fd(maps::REFUSED)?, &cookie, &of).map_err(failed)?;
            }
        }
        self.copy::<u64, Named>(theirs, maps::NAMED, agent)?;
        self.copy::<Addr, Pins>(theirs, maps::PINS, agent)
    }

    /// Copies the agent's own map in the array `outer`.
    fn copy<K, V>(&self, theirs: &Path, outer: &'static str, agent: u32) -> Result<(), KernelError>
    where
        K: Pod + IntoBytes + Immutable,
        V: Pod + IntoBytes + Immutable,
    {
        let failed = |source| KernelError::Map { map: outer, source };
        let to = self.inner(outer, agent)?;
        let array = pins::open_map(theirs, outer, size_of::<u32>(), size_of::<u32>())
            .map_err(|error| failed(error.into()))?;
        let id: u32 = sys::map_lookup(array.as_fd(), &agent).map_err(|error| failed(error.into()))?;
        // The sizes are compared by it.
        let from = Map::LruHashMap(MapData::from_id(id).map_err(failed)?);
        let from = HashMap::<_, K, V>::try_from(&from).map_err(failed)?;
        for entry in &from {
            let (key, value) = entry.map_err(failed)?;
            sys::map_update(to.fd().as_fd(), &key, &value).map_err(|error| failed(error.into()))?;
        }
        Ok(())
    }
}

/// Whether what `theirs` has pinned of an agent guards a cgroup that is gone, and so nothing any more.
pub fn is_over(theirs: &Path, agent: &AgentName) -> bool {
    links::guarded(theirs, agent) == Some(0)
}

/// Readers of the rings of another engine that is gone, for what it did not get to read.
///
/// # Errors
/// If they are not there.
pub fn rings(theirs: &Path) -> Result<[Ring; 2], KernelError> {
    let open = |map: &'static str| {
        let failed = |source: MapError| KernelError::Map { map, source };
        let data = MapData::from_pin(pins::map_path(theirs, map)).map_err(failed)?;
        RingBuf::try_from(Map::RingBuf(data)).map(Ring::new).map_err(failed)
    };
    Ok([open(maps::ALERTS)?, open(maps::SAMPLES)?])
}
