//! Which addresses names have opened for an agent, read from outside as the programs read it.

use std::os::fd::AsFd as _;

use agentnet_common::{
    abi::{AgentCfg, Named, Pins, Ruleset, maps},
    addr::{Addr, Endpoint},
    name::NameKey,
    verdict::{RuleId, Tables, Verdict, decide_name},
};
use aya::maps::MapData;

use super::{Kernel, KernelError, sys};
use crate::{agent::process::monotonic, policy::compile::Compiled};

/// A policy with the addresses that an agent has opened by its names.
#[derive(Debug)]
pub struct Opened<'a> {
    policy: &'a Compiled,
    /// By address, and by the hashes of names; `None` if they cannot be read: then names open nothing.
    maps: Option<(MapData, MapData)>,
}

/// What an agent has resolved, as the kernel holds it at the moment.
#[derive(Debug)]
pub struct Resolved {
    addresses: MapData,
    names: MapData,
}

impl Resolved {
    /// The name with this hash.
    pub fn named(&self, hash: u64) -> Option<String> {
        Some(name_of(&self.names, hash)?.dotted())
    }

    /// The names that are open at this address, each once.
    pub fn at(&self, addr: &Addr) -> Vec<String> {
        let mut names: Vec<String> =
            pins_at(&self.addresses, addr).filter_map(|hash| self.named(hash)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// Hashes of the names that are open at an address, of whichever network namespace.
fn pins_at(addresses: &MapData, addr: &Addr) -> impl Iterator<Item = u64> + use<> {
    let pins: Pins = sys::map_lookup(addresses.fd().as_fd(), addr).unwrap_or_default();
    let now = monotonic() / 1_000_000_000;
    pins.pins.into_iter().filter(move |pin| pin.name != 0 && u64::from(pin.expiry) > now).map(|pin| pin.name)
}

fn name_of(names: &MapData, hash: u64) -> Option<NameKey> {
    let named: Named = sys::map_lookup(names.fd().as_fd(), &hash).ok()?;
    Some(NameKey { len: usize::try_from(named.bits / 8).ok()?, bytes: named.key })
}

impl Kernel {
    /// What `agent` has resolved, from now on.
    ///
    /// # Errors
    /// When it has no maps of its own.
    pub fn resolved(&self, agent: u32) -> Result<Resolved, KernelError> {
        Ok(Resolved { addresses: self.inner(maps::PINS, agent)?, names: self.inner(maps::NAMED, agent)? })
    }

    /// What names have opened for `agent` under its policy.
    pub fn opened<'a>(&self, agent: u32, policy: &'a Compiled) -> Opened<'a> {
        let maps = self.inner(maps::PINS, agent).and_then(|pins| Ok((pins, self.inner(maps::NAMED, agent)?)));
        let maps =
            maps.inspect_err(|error| tracing::warn!(%error, "what names have opened cannot be read")).ok();
        Opened { policy, maps }
    }

    pub(super) fn inner(&self, outer: &'static str, agent: u32) -> Result<MapData, KernelError> {
        let failed = |source| KernelError::Map { map: outer, source };
        let id: u32 = sys::map_lookup(self.map_fd(outer)?, &agent).map_err(|error| failed(error.into()))?;
        MapData::from_id(id).map_err(failed)
    }
}

impl Opened<'_> {
    fn rule_by(&self, cfg: &AgentCfg, name: u64, endpoint: &Endpoint) -> Option<RuleId> {
        let (_, names) = self.maps.as_ref()?;
        let key = name_of(names, name)?;
        match decide_name(self.policy, cfg.slot, &key, endpoint.protocol, endpoint.port) {
            Verdict::Allow(rule) => Some(rule),
            Verdict::Deny(_) => None,
        }
    }
}

impl Tables for Opened<'_> {
    fn net(&self, slot: u32, addr: &Addr) -> Option<&Ruleset> {
        self.policy.net(slot, addr)
    }

    fn pinned(&self, cfg: &AgentCfg, endpoint: &Endpoint) -> Option<RuleId> {
        let (addresses, _) = self.maps.as_ref()?;
        // Whether it was the socket's own network namespace, its calls were asked.
        pins_at(addresses, &endpoint.addr).filter_map(|name| self.rule_by(cfg, name, endpoint)).next()
    }

    fn still_named(&self, cfg: &AgentCfg, name: u64, endpoint: &Endpoint) -> Option<RuleId> {
        if name == 0 { None } else { self.rule_by(cfg, name, endpoint) }
    }
}
