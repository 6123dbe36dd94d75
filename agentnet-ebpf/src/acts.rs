//! What was blocked and allowed by hand, on maps. Both end by themselves at their time, whether somebody looks after the
//! agent then or not. Their place in the verdict is [`crate::tables::an_decide`].

use agentnet_common::{
    abi::{AgentCfg, BLOCKED_PREFIX, Blocked, Granted, is_block},
    addr::{Addr, Endpoint},
    verdict::{self, Acts as _, Reason},
};
use aya_ebpf::{btf_maps::lpm_trie::Key, helpers::bpf_ktime_get_boot_ns};

use crate::maps::{BLOCKS, GRANTS};

/// What the loader has written.
pub struct Acts;

impl verdict::Acts for Acts {
    #[inline(always)]
    fn is_blocked(&self, agent: u32, addr: &Addr) -> bool {
        an_blocked(agent, addr) != 0
    }

    #[inline(always)]
    fn is_granted(&self, agent: u32, endpoint: &Endpoint, is_local: bool) -> bool {
        an_granted(agent, endpoint, is_local.into()) != 0
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Whether the agent may not talk to `addr`, see [`verdict::is_blocked`].
#[inline(always)]
pub fn is_blocked(cfg: &AgentCfg, addr: &Addr) -> bool {
    verdict::is_blocked(&Acts, cfg, addr)
}

/// Why nothing may pass between the agent and `addr`, whatever its policy says of it, if so.
#[inline(always)]
pub fn stopped(cfg: &AgentCfg, addr: &Addr) -> Option<Reason> {
    if cfg.is_quarantined() {
        return Some(Reason::Quarantined);
    }
    if is_blocked(cfg, addr) { Some(Reason::Blocked) } else { None }
}

/// Whether `endpoint`, which is not on this host, was allowed by hand.
#[inline(always)]
pub fn is_granted(cfg: &AgentCfg, endpoint: &Endpoint) -> bool {
    cfg.has_grants() && Acts.is_granted(cfg.agent, endpoint, false)
}

/// Whether something at `addr` was granted, so that its link-layer address may be asked for.
#[inline(always)]
pub fn is_reachable(cfg: &AgentCfg, addr: Addr) -> bool {
    cfg.has_grants() && Acts.is_granted(cfg.agent, &Endpoint::new(addr, 0, 0), false)
}

/// Whether `addr` is blocked for the agent: 1, else 0. A function of its own to the kernel as well, see
/// [`crate::tables::an_decide`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn an_blocked(agent: u32, addr: *const Addr) -> u64 {
    // SAFETY: null, or what the caller has.
    let Some(addr) = (unsafe { addr.as_ref() }) else { return 1 };
    let key = Key::new(BLOCKED_PREFIX + 128, Blocked { agent, pad: 0, addr: addr.words });
    BLOCKS.get(&key).is_some_and(|value| is_block(*value, now())).into()
}

/// Whether `endpoint` was allowed by hand: 1, else 0. Likewise, and what it keeps on the stack is not there while the
/// names of an address are searched.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn an_granted(agent: u32, endpoint: *const Endpoint, is_local: u32) -> u64 {
    // SAFETY: null, or what the caller has.
    let Some(endpoint) = (unsafe { endpoint.as_ref() }) else { return 0 };
    // SAFETY: an entry is replaced as a whole.
    let grant = unsafe { GRANTS.get(Granted { agent, endpoint: *endpoint }) };
    grant.is_some_and(|grant| grant.holds(now(), is_local != 0)).into()
}
