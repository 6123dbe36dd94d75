//! The policy on maps.

use core::cell::Cell;

use agentnet_common::{
    abi::{AgentCfg, Ruleset},
    addr::{Addr, Endpoint},
    verdict::{RuleId, Tables},
};
use aya_ebpf::btf_maps::lpm_trie::Key;

use crate::{maps::NETS, pins::pinned};

/// What one lookup found, for a verdict on the address that was looked up: a lookup costs as much as the rest
/// of a verdict.
pub struct Found(pub Option<&'static Ruleset>);

impl Tables for Found {
    #[inline(always)]
    fn net(&self, _slot: u32, _addr: &Addr) -> Option<&Ruleset> {
        self.0
    }

    #[inline(always)]
    fn pinned(&self, cfg: &AgentCfg, endpoint: &Endpoint) -> Option<RuleId> {
        pinned(cfg, endpoint).map(|(rule, _)| rule)
    }
}

/// The tables that the loader filled.
pub struct Maps {
    named: Cell<u64>,
}

impl Maps {
    /// For one verdict.
    #[inline(always)]
    pub const fn new() -> Self {
        Self { named: Cell::new(0) }
    }

    /// The name by which the verdict allows an endpoint; 0 if it does not, or by its address.
    #[inline(always)]
    pub const fn named(&self) -> u64 {
        self.named.get()
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn net(&self, slot: u32, addr: &Addr) -> Option<&Ruleset> {
        look_up(slot, addr)
    }

    #[inline(always)]
    fn pinned(&self, cfg: &AgentCfg, endpoint: &Endpoint) -> Option<RuleId> {
        let (rule, name) = pinned(cfg, endpoint)?;
        self.named.set(name);
        Some(rule)
    }
}

/// See [`Tables::net`].
#[inline(always)]
pub fn look_up(slot: u32, addr: &Addr) -> Option<&'static Ruleset> {
    let key = Key::new(128, *addr);
    // SAFETY: a trie of a slot in use is never written to; a reload fills another one.
    let trie = NETS.get(slot)?;
    trie.get(&key)
}
