//! The policy on maps, and the verdict as the hooks ask for it.

use agentnet_common::{
    abi::{AgentCfg, Ruleset},
    addr::{Addr, Endpoint},
    verdict::{self, Reason, RuleId, Scope, Tables, Verdict},
};
use aya_ebpf::btf_maps::lpm_trie::Key;

use crate::{acts::Acts, maps::NETS, pins::pinned};

/// What one lookup found, for a verdict on the address that was looked up; and the name that was found on the way.
struct Found<'a> {
    rules: Option<&'a Ruleset>,
    netns: u32,
    /// Where the name goes that has opened the address. The caller's own place: stack is short here.
    named: *mut u64,
}

impl Tables for Found<'_> {
    #[inline(always)]
    fn net(&self, _slot: u32, _addr: &Addr) -> Option<&Ruleset> {
        self.rules
    }

    #[inline(always)]
    fn pinned(&self, cfg: &AgentCfg, endpoint: &Endpoint) -> Option<RuleId> {
        pinned(cfg, endpoint, self.named, self.netns)
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

/// [`Scope::Remote`] as an argument.
const REMOTE: u32 = 0;
/// [`Scope::OwnListener`].
const OWN: u32 = 1;
/// [`Scope::ForeignListener`].
const FOREIGN: u32 = 2;
/// Added to a place: it goes back to somebody who came.
const REPLY: u32 = 4;

/// Set in the word of a verdict that allows; the rest is the rule, or else the reason.
const ALLOWS: u64 = 1 << 16;

/// [`verdict::judge`], THE verdict: what was blocked by hand, replies, the policy and its names, what was allowed by hand;
/// given what was looked up for the endpoint's address. Writes the name that has opened the address, or 0, to `name`.
/// `place` is the scope, and in its upper half the network namespace, see [`agentnet_common::abi::Pin::netns`], or 0.
///
/// A function of its own to the kernel as well, which verifies it once, whatever its callers know: followed from each
/// of their states it would be walked a hundred times.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn an_decide(
    cfg: *const AgentCfg,
    rules: *const Ruleset,
    endpoint: *const Endpoint,
    place: u64,
    name: *mut u64,
) -> u64 {
    let nothing = Reason::NoPolicy as u64;
    // SAFETY: null, or what the caller has.
    let (Some(cfg), Some(endpoint), Some(name)) =
        (unsafe { (cfg.as_ref(), endpoint.as_ref(), name.as_mut()) })
    else {
        return nothing;
    };
    // SAFETY: as above.
    let found = Found { rules: unsafe { rules.as_ref() }, netns: (place >> 32) as u32, named: name };
    *name = 0;
    let (scope, reply) = (place as u32 & !REPLY, place as u32 & REPLY != 0);
    let scope = match scope {
        REMOTE => Scope::Remote,
        OWN => Scope::OwnListener,
        _ => Scope::ForeignListener,
    };
    let verdict = verdict::judge(&found, &Acts, cfg, endpoint, scope, reply);
    match verdict {
        Verdict::Allow(rule) => ALLOWS | u64::from(rule.0),
        Verdict::Deny(reason) => reason as u64,
    }
}

/// The reason in a word that a function of its own to the kernel gives back, which can give back nothing but integers.
///
/// # Safety
/// The lower two bytes are the code of a reason.
#[inline(always)]
pub const unsafe fn reason(word: u64) -> Reason {
    // SAFETY: a reason has two bytes, and the caller knows that these are one's.
    unsafe { core::mem::transmute::<u16, Reason>(word as u16) }
}

/// The verdict on `endpoint`, for whose address the policy has `rules`, and the name by which it is allowed, if by one.
/// With `reply` it goes back to somebody who came. Calls say in which network namespace; packets are of sockets whose calls
/// have, and say 0.
#[inline(always)]
pub fn decide(
    cfg: &AgentCfg,
    rules: Option<&Ruleset>,
    endpoint: &Endpoint,
    scope: Scope,
    reply: bool,
    netns: u32,
) -> (Verdict, u64) {
    let place = match scope {
        Scope::Remote => REMOTE,
        Scope::OwnListener => OWN,
        Scope::ForeignListener => FOREIGN,
    };
    let place = u64::from(netns) << 32 | u64::from(place | if reply { REPLY } else { 0 });
    let rules = rules.map_or(core::ptr::null(), core::ptr::from_ref);
    let mut name = 0;
    let code = an_decide(cfg, rules, endpoint, place, &raw mut name);
    if code & ALLOWS != 0 {
        return (Verdict::Allow(RuleId(code as u16)), name);
    }
    // SAFETY: the code of a reason.
    (Verdict::Deny(unsafe { reason(code) }), 0)
}

/// The verdict on what is not on this host, and the name by which it is allowed, if by one; in a network namespace, or 0.
#[inline(always)]
pub fn decide_remote(cfg: &AgentCfg, endpoint: &Endpoint, netns: u32) -> (Verdict, u64) {
    decide(cfg, look_up(cfg.slot, &endpoint.addr), endpoint, Scope::Remote, false, netns)
}
