//! THE verdict as the hooks ask for it, with what was blocked and allowed by hand. Both end by themselves at their
//! time, whether somebody looks after the agent then or not.
//!
//! What has a name here is a global function to the verifier: it is walked once, for whatever arguments, and how the
//! answer came about is forgotten. Inlined into the hooks, it made the verifier walk the rest of a hook four times
//! as often.

use agentnet_common::{
    abi::{AgentCfg, BLOCKED_PREFIX, Blocked, Granted, Ruleset, is_block},
    addr::{Addr, Endpoint},
    verdict::{self, Acts as _, Reason, RuleId, Scope, Verdict},
};
use aya_ebpf::{btf_maps::lpm_trie::Key, helpers::bpf_ktime_get_boot_ns};

use crate::{
    maps::{BLOCKS, GRANTS},
    tables::{Found, look_up},
};

/// What the loader has written.
struct Acts;

impl verdict::Acts for Acts {
    #[inline(always)]
    fn is_blocked(&self, agent: u32, addr: &Addr) -> bool {
        let key = Key::new(BLOCKED_PREFIX + 128, Blocked { agent, pad: 0, addr: addr.words });
        BLOCKS.get(&key).is_some_and(|value| is_block(*value, now()))
    }

    #[inline(always)]
    fn is_granted(&self, agent: u32, endpoint: &Endpoint, is_local: bool) -> bool {
        // SAFETY: an entry is replaced as a whole.
        let grant = unsafe { GRANTS.get(Granted { agent, endpoint: *endpoint }) };
        grant.is_some_and(|grant| grant.holds(now(), is_local))
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// The verdict on what goes to `endpoint`, see [`verdict::judge`].
#[inline(always)]
pub fn judge(cfg: &AgentCfg, endpoint: &Endpoint, scope: Scope, reply: bool) -> Verdict {
    judge_by(look_up(cfg.slot, &endpoint.addr), cfg, endpoint, scope, reply)
}

/// The same where `rules`, what the policy has for the address, were looked up already.
#[inline(always)]
pub fn judge_by(
    rules: Option<&Ruleset>,
    cfg: &AgentCfg,
    endpoint: &Endpoint,
    scope: Scope,
    reply: bool,
) -> Verdict {
    let place = match scope {
        Scope::Remote => REMOTE,
        Scope::OwnListener => OWN,
        Scope::ForeignListener => FOREIGN,
    };
    let rules = rules.map_or(core::ptr::null(), core::ptr::from_ref);
    let code = an_judge(cfg, rules, endpoint, place | if reply { REPLY } else { 0 });
    if code & ALLOW != 0 {
        return Verdict::Allow(RuleId(code as u16));
    }
    // SAFETY: what `an_judge` has returned, which is a reason.
    Verdict::Deny(unsafe { core::mem::transmute::<u16, Reason>(code as u16) })
}

/// Whether the agent may not talk to `addr`, see [`verdict::is_blocked`].
#[inline(always)]
pub fn is_blocked(cfg: &AgentCfg, addr: &Addr) -> bool {
    cfg.has_blocks() && an_is_blocked(cfg, addr) != 0
}

/// Whether something at `addr` was granted, so that its link-layer address may be asked for.
#[inline(always)]
pub fn is_reachable(cfg: &AgentCfg, addr: Addr) -> bool {
    cfg.has_grants() && Acts.is_granted(cfg.agent, &Endpoint::new(addr, 0, 0), false)
}

/// [`Scope::Remote`] as an argument.
const REMOTE: u32 = 0;
/// [`Scope::OwnListener`].
const OWN: u32 = 1;
/// [`Scope::ForeignListener`].
const FOREIGN: u32 = 2;
/// It goes back to somebody who came.
const REPLY: u32 = 4;

/// [`Verdict::Allow`] in an answer, the rule below it; else the answer is a reason.
const ALLOW: u32 = 1 << 16;

/// [`judge_by`] as a function of its own. Pointers are null or to one of what they say.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn an_judge(
    cfg: *const AgentCfg,
    rules: *const Ruleset,
    endpoint: *const Endpoint,
    place: u32,
) -> u32 {
    // SAFETY: the verifier checks at every call that each has the size of its type, and here that it is not null.
    let (cfg, rules, endpoint) = unsafe { (cfg.as_ref(), rules.as_ref(), endpoint.as_ref()) };
    let (Some(cfg), Some(endpoint)) = (cfg, endpoint) else { return Reason::NoPolicy as u32 };
    let scope = match place & !REPLY {
        REMOTE => Scope::Remote,
        OWN => Scope::OwnListener,
        _ => Scope::ForeignListener,
    };
    match verdict::judge(&Found(rules), &Acts, cfg, endpoint, scope, place & REPLY != 0) {
        Verdict::Allow(RuleId(rule)) => ALLOW | u32::from(rule),
        Verdict::Deny(reason) => reason as u32,
    }
}

/// [`is_blocked`] as a function of its own: 1 or 0. Pointers as for [`an_judge`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn an_is_blocked(cfg: *const AgentCfg, addr: *const Addr) -> u32 {
    // SAFETY: as in `an_judge`.
    let (cfg, addr) = unsafe { (cfg.as_ref(), addr.as_ref()) };
    let (Some(cfg), Some(addr)) = (cfg, addr) else { return 1 };
    u32::from(verdict::is_blocked(&Acts, cfg, addr))
}
