//! What the kernel holds for agents whose engine is gone, read from its pins alone.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use agentnet_common::{
    abi::{AgentCfg, AgentCounters, Blocked, Grant, Granted, Ruleset, is_block, maps},
    addr::{Addr, Endpoint},
    verdict::Acts,
};
use aya::maps::{LpmTrie, Map, MapData, PerCpuArray};

use super::{KernelError, acts::BlockKey, links, pins, sys};
use crate::{
    act,
    agent::AgentName,
    policy::{
        compile::{NetEntry, Nets},
        net::Net,
    },
};

/// The pinned maps of one engine.
#[derive(Clone, Debug)]
pub struct Held {
    pins: PathBuf,
}

impl Held {
    /// Those below `pins`.
    pub fn at(pins: &Path) -> Self {
        Self { pins: pins.to_owned() }
    }

    /// The id of the cgroup that the links of `agent` guard, 0 if it is gone; `None` if it has no links.
    pub fn cgroup(&self, agent: &AgentName) -> Option<u64> {
        links::guarded(&self.pins, agent)
    }

    /// The configuration of the cgroup with this id.
    ///
    /// # Errors
    /// If there is none, or it is not one that this build can read.
    pub fn configuration(&self, cgroup: u64) -> io::Result<AgentCfg> {
        sys::map_lookup(self.open::<u64, AgentCfg>(maps::CFG)?.as_fd(), &cgroup)
    }

    /// The policy at `slot`.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn policy(&self, slot: u32) -> Result<Nets, KernelError> {
        let failed = |source| KernelError::Map { map: maps::NETS, source };
        let id: u32 = self
            .open::<u32, u32>(maps::NETS)
            .and_then(|nets| sys::map_lookup(nets.as_fd(), &slot))
            .map_err(|error| failed(error.into()))?;
        let trie = MapData::from_id(id).map_err(failed)?;
        let trie = LpmTrie::<_, Addr, Ruleset>::try_from(Map::LpmTrie(trie)).map_err(failed)?;
        let mut nodes = Vec::new();
        for entry in &trie {
            let (key, rules) = entry.map_err(failed)?;
            let prefix = u8::try_from(key.prefix_len()).unwrap_or(u8::MAX).min(128);
            nodes.push(NetEntry { addr: key.data(), prefix, rules });
        }
        Ok(Nets::new(nodes))
    }

    /// Whether more sockets of the agent hold refused data than could be remembered.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn has_overflown(&self, agent: u32) -> Result<bool, KernelError> {
        let failed = |source| KernelError::Map { map: maps::COUNTERS, source };
        let data = MapData::from_pin(pins::map_path(&self.pins, maps::COUNTERS)).map_err(failed)?;
        let counters = PerCpuArray::<_, AgentCounters>::try_from(Map::PerCpuArray(data)).map_err(failed)?;
        let values = counters.get(&agent, 0).map_err(failed)?;
        Ok(values.iter().any(|counters| counters.refused_overflow > 0))
    }

    fn open<K, V>(&self, map: &str) -> io::Result<OwnedFd> {
        pins::open_map(&self.pins, map, size_of::<K>(), size_of::<V>())
    }
}

impl Acts for Held {
    /// What cannot be read blocks.
    fn is_blocked(&self, agent: u32, addr: &Addr) -> bool {
        let key = BlockKey::new(agent, Net::of(*addr, 128));
        let value = self
            .open::<BlockKey, u64>(maps::BLOCKS)
            .and_then(|blocks| sys::map_lookup::<_, u64>(blocks.as_fd(), &key));
        match value {
            Ok(value) => is_block(value, act::now()),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    fn is_granted(&self, agent: u32, endpoint: &Endpoint, is_local: bool) -> bool {
        let key = Granted { agent, endpoint: *endpoint };
        let grant = self
            .open::<Granted, Grant>(maps::GRANTS)
            .and_then(|grants| sys::map_lookup::<_, Grant>(grants.as_fd(), &key));
        grant.is_ok_and(|grant| grant.holds(act::now(), is_local))
    }
}

const _: () = assert!(size_of::<BlockKey>() == 4 + size_of::<Blocked>());
