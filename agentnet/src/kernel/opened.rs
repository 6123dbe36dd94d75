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

impl Kernel {
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
        let named: Named = sys::map_lookup(names.fd().as_fd(), &name).ok()?;
        let key = NameKey { len: usize::try_from(named.bits / 8).ok()?, bytes: named.key };
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
        let pins: Pins = sys::map_lookup(addresses.fd().as_fd(), &endpoint.addr).ok()?;
        // Of whichever network namespace: whether it was the socket's own, its calls were asked.
        let now = monotonic() / 1_000_000_000;
        let open = pins.pins.iter().filter(|pin| pin.name != 0 && u64::from(pin.expiry) > now);
        open.filter_map(|pin| self.rule_by(cfg, pin.name, endpoint)).next()
    }

    fn still_named(&self, cfg: &AgentCfg, name: u64, endpoint: &Endpoint) -> Option<RuleId> {
        if name == 0 { None } else { self.rule_by(cfg, name, endpoint) }
    }
}
