//! The policy on maps.

use agentnet_common::{abi::Ruleset, addr::Addr, verdict::Tables};
use aya_ebpf::btf_maps::lpm_trie::Key;

use crate::maps::NETS;

/// The tables that the loader filled.
pub struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn net(&self, slot: u32, addr: &Addr) -> Option<&Ruleset> {
        let key = Key::new(128, *addr);
        // SAFETY: a trie of a slot in use is never written to; a reload fills another one.
        let trie = NETS.get(slot)?;
        trie.get(&key)
    }
}
