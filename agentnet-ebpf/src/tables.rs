//! The policy on maps.

use agentnet_common::{abi::Ruleset, addr::Addr, verdict::Tables};
use aya_ebpf::btf_maps::lpm_trie::Key;

use crate::maps::NETS;

/// What one lookup found, for a verdict on the address that was looked up: a lookup costs as much as the rest
/// of a verdict.
pub struct Found<'a>(pub Option<&'a Ruleset>);

impl Tables for Found<'_> {
    #[inline(always)]
    fn net(&self, _slot: u32, _addr: &Addr) -> Option<&Ruleset> {
        self.0
    }
}

/// What the policy at `slot` has for `addr`, see [`Tables::net`].
#[inline(always)]
pub fn look_up(slot: u32, addr: &Addr) -> Option<&'static Ruleset> {
    let key = Key::new(128, *addr);
    // SAFETY: a trie of a slot in use is never written to; a reload fills another one.
    let trie = NETS.get(slot)?;
    trie.get(&key)
}
