//! Which addresses are open because the agent has resolved an allowed name to them.

use core::ffi::{c_long, c_void};

use agentnet_common::{
    abi::{
        AgentCfg, NameNode, Named, PIN_LEAST, PIN_MOST_SECONDS, PIN_NAMES, Pin, Pins, Ruleset, SPEAKS_TLS,
    },
    addr::{Addr, Endpoint},
    name::KEY_BYTES,
    verdict::RuleId,
};
use aya_ebpf::{
    btf_maps::lpm_trie::Key,
    helpers::{bpf_ktime_get_ns, generated::bpf_loop},
};

use crate::maps::{NAMED, NAMES, NameBytes, PINS};

const SECOND: u64 = 1_000_000_000;

/// Seconds of `CLOCK_MONOTONIC`.
#[inline(always)]
fn now() -> u32 {
    // SAFETY: no arguments.
    (unsafe { bpf_ktime_get_ns() } / SECOND) as u32
}

/// The rules of policy `slot` about the name whose key, its length in bits first, is at `key`: readable for as many
/// bytes as a key of the trie has.
#[inline(always)]
pub fn rules_of(slot: u32, key: *const u8) -> Option<&'static Ruleset> {
    // SAFETY: packed, so that any address will do; the verifier checks the bounds.
    let key = unsafe { &*key.cast::<Key<NameBytes>>() };
    let bits = key.prefix_len;
    // SAFETY: a trie of a slot in use is never written to; a reload fills another one.
    let node: &'static NameNode = NAMES.get(slot)?.get(key)?;
    Some(node.rules((bits / 8) as usize))
}

/// The rule by which a name that was asked for allows an endpoint, if the rule is about it, and what it wants spoken there.
#[inline(always)]
fn rule_by(agent: u32, slot: u32, name: u64, protocol: u8, port: u16) -> Option<(RuleId, u8)> {
    // SAFETY: an element may be taken for another of the agent's names meanwhile: also one that it may use.
    let named: &Named = unsafe { NAMED.get(agent)?.get(&name) }?;
    let rules = rules_of(slot, core::ptr::from_ref(named).cast())?;
    if rules.is_search() { None } else { rules.find_spoken(protocol, port) }
}

/// A search through the names of an address.
#[repr(C)]
struct Search {
    pins: *const Pins,
    /// The name that was found, 0 before.
    name: u64,
    now: u32,
    /// The network namespace, 0 for any.
    netns: u32,
    agent: u32,
    slot: u32,
    port: u32,
    protocol: u32,
    /// Its rule.
    rule: u32,
    /// The only rule that counts, or [`RuleId::NONE`].
    wanted: u32,
}

/// Looks at one name; 1 when no other one need be looked at. A loop of its own, so that the verifier walks it once.
extern "C" fn look(index: u32, search: *mut c_void) -> c_long {
    // SAFETY: `bpf_loop` hands through what it was given.
    let search = unsafe { &mut *search.cast::<Search>() };
    // SAFETY: a map value; the index is below the number of places.
    let pin = unsafe {
        (&raw const (*search.pins).pins).cast::<Pin>().add(index as usize & (PIN_NAMES - 1)).read()
    };
    if pin.name == 0 || pin.expiry <= search.now || search.netns != 0 && pin.netns != search.netns {
        return 0;
    }
    let found = rule_by(search.agent, search.slot, pin.name, search.protocol as u8, search.port as u16);
    let Some((rule, speaks)) = found else { return 0 };
    if search.wanted != RuleId::NONE.0.into() && search.wanted != rule.0.into() {
        return 0;
    }
    // One that does not want TLS goes before one that does: what opens the address opens it for all that it allows.
    let free = speaks & SPEAKS_TLS == 0;
    if free || search.name == 0 {
        search.rule = rule.0.into();
        search.name = pin.name;
    }
    (free || search.wanted == rule.0.into()).into()
}

/// Searches the names of an address.
#[inline(always)]
fn search(agent: u32, slot: u32, endpoint: &Endpoint, netns: u32, wanted: RuleId) -> Option<Search> {
    // SAFETY: as in `rule_by`.
    let pins = unsafe { PINS.get(agent)?.get(&endpoint.addr) }?;
    let mut search = Search {
        pins,
        name: 0,
        now: now(),
        netns,
        agent,
        slot,
        port: endpoint.port.into(),
        protocol: endpoint.protocol.into(),
        rule: RuleId::NONE.0.into(),
        wanted: wanted.0.into(),
    };
    // SAFETY: the callback has the signature that the helper wants, and the context is of the type it takes.
    unsafe { bpf_loop(PIN_NAMES as u32, look as *mut _, (&raw mut search).cast(), 0) };
    Some(search)
}

/// The rule by which a name opens `endpoint` for an agent in a network namespace (0 for any), and the name into `name`;
/// [`RuleId::NONE`] if none does.
///
/// A function of its own to the kernel as well, which verifies it once, whatever its callers know.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn an_pinned(
    agent: u32,
    slot: u32,
    endpoint: *const Endpoint,
    name: *mut u64,
    netns: u32,
) -> u64 {
    let none = u64::from(RuleId::NONE.0);
    // SAFETY: null, or what the caller has on its stack.
    let (Some(endpoint), Some(name)) = (unsafe { endpoint.as_ref() }, unsafe { name.as_mut() }) else {
        return none;
    };
    let Some(search) = search(agent, slot, endpoint, netns, RuleId::NONE) else { return none };
    *name = search.name;
    search.rule.into()
}

/// Whether a name that `rule` is about opens `endpoint` for the agent in a network namespace: 1, else 0. Likewise.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn an_opened_by(
    agent: u32,
    slot: u32,
    endpoint: *const Endpoint,
    rule: u32,
    netns: u32,
) -> u64 {
    // SAFETY: null, or what the caller has on its stack.
    let Some(endpoint) = (unsafe { endpoint.as_ref() }) else { return 0 };
    search(agent, slot, endpoint, netns, RuleId(rule as u16)).is_some_and(|search| search.name != 0).into()
}

/// Set in the word that says by which rule a name allows an endpoint; the rest is the rule, and what has to be spoken
/// from bit 24 on.
const FOUND: u64 = 1 << 16;

/// The rule by which a name allows an endpoint, however long ago it was resolved, and what it wants spoken; 0 if none does.
/// Likewise.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn an_named(agent: u32, slot: u32, name: u64, endpoint: *const Endpoint) -> u64 {
    // SAFETY: null, or what the caller has.
    let Some(endpoint) = (unsafe { endpoint.as_ref() }) else { return 0 };
    match rule_by(agent, slot, name, endpoint.protocol, endpoint.port) {
        Some((rule, speaks)) => FOUND | u64::from(rule.0) | u64::from(speaks) << 24,
        None => 0,
    }
}

/// The rule by which the endpoint's address is open; the name, or 0, goes to `name`.
#[inline(always)]
pub fn pinned(cfg: &AgentCfg, endpoint: &Endpoint, name: *mut u64, netns: u32) -> Option<RuleId> {
    let rule = RuleId(an_pinned(cfg.agent, cfg.slot, endpoint, name, netns) as u16);
    if rule == RuleId::NONE { None } else { Some(rule) }
}

/// Whether one of the names that open the endpoint is one that `rule` is about.
#[inline(always)]
pub fn is_opened_by(cfg: &AgentCfg, endpoint: &Endpoint, rule: RuleId, netns: u32) -> bool {
    an_opened_by(cfg.agent, cfg.slot, endpoint, rule.0.into(), netns) != 0
}

/// The rule by which a name allows the endpoint, however long ago it was resolved: for a connection that has been open
/// since; and what it wants spoken there, `SPEAKS_*`.
#[inline(always)]
pub fn still_named(cfg: &AgentCfg, name: u64, endpoint: &Endpoint) -> Option<(RuleId, u8)> {
    if name == 0 {
        return None;
    }
    let found = an_named(cfg.agent, cfg.slot, name, endpoint);
    if found & FOUND != 0 { Some((RuleId(found as u16), (found >> 24) as u8)) } else { None }
}

/// Keeps a name that was asked for. Whether there is room, and the hash is not that of another name.
#[inline(always)]
pub fn keep_name(cfg: &AgentCfg, hash: u64, key: *const u8) -> bool {
    an_keep_name(cfg.agent, hash, key.cast()) != 0
}

/// [`keep_name`], a function of its own to the kernel as well, see [`crate::tables::an_decide`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn an_keep_name(agent: u32, hash: u64, named: *const Named) -> u64 {
    // SAFETY: null, or readable for as many bytes as a key has; bytes have no invalid values.
    let (Some(named), Some(names)) = (unsafe { named.as_ref() }, NAMED.get(agent)) else { return 0 };
    // SAFETY: as in `rule_by`.
    match unsafe { names.get(&hash) } {
        Some(known) => is_same(known, named).into(),
        None => names.insert(&hash, named, 0).is_ok().into(),
    }
}

/// Whether two names are the same. Behind their ends keys hold zeros.
#[inline(always)]
fn is_same(one: &Named, other: &Named) -> bool {
    let mut differs = one.bits ^ other.bits;
    let (one, other) = (one.key.as_ptr().cast::<u32>(), other.key.as_ptr().cast::<u32>());
    for index in 0..KEY_BYTES / 4 {
        // SAFETY: within the key.
        differs |= unsafe { one.add(index).read_unaligned() ^ other.add(index).read_unaligned() };
    }
    differs == 0
}

/// Opens `addr` for the name of this hash in a network namespace, for `ttl` seconds and no less than [`PIN_LEAST`].
/// Whether there was room.
///
/// `empty` are no names, for which there is no place on the stack where an answer is read.
#[inline(always)]
pub fn pin(agent: u32, addr: &Addr, name: u64, ttl: u32, netns: u32, empty: *const Pins) -> bool {
    an_pin(agent, addr, name, u64::from(netns) << 32 | u64::from(ttl), empty) != 0
}

/// [`pin`], a function of its own to the kernel as well, see [`crate::tables::an_decide`]. `netns` is in the upper half of
/// `ttl_in`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn an_pin(agent: u32, addr: *const Addr, name: u64, ttl_in: u64, empty: *const Pins) -> u64 {
    let (ttl, netns) = (ttl_in as u32, (ttl_in >> 32) as u32);
    // SAFETY: null, or readable for as many bytes as pins have; integers of any alignment are only copied.
    let Some(empty) = (unsafe { empty.as_ref() }) else { return 0 };
    // SAFETY: null, or what the caller has.
    let Some(addr) = (unsafe { addr.as_ref() }) else { return 0 };
    let now = now();
    // A second has begun.
    let expiry = now + 1 + PIN_LEAST.max(ttl.min(PIN_MOST_SECONDS));
    let Some(pins) = PINS.get(agent) else { return 0 };
    let known = match pins.get_ptr_mut(addr) {
        Some(known) => known,
        None => {
            if pins.insert(addr, empty, 0).is_err() {
                return 0;
            }
            let Some(known) = pins.get_ptr_mut(addr) else { return 0 };
            known
        }
    };
    // SAFETY: a map value; two answers at once may lose one of their names, which closes.
    let known = unsafe { &mut *known };
    let mut place = 0;
    let mut oldest = u32::MAX;
    for (index, pin) in known.pins.iter().enumerate() {
        if pin.name == name && pin.netns == netns {
            place = index;
            break;
        }
        if pin.expiry < oldest {
            oldest = pin.expiry;
            place = index;
        }
    }
    if let Some(pin) = known.pins.get_mut(place & (PIN_NAMES - 1)) {
        // An address must not be open for one name until the time of another.
        let ends = &raw mut pin.expiry;
        let later = if pin.name == name && pin.netns == netns { expiry.max(pin.expiry) } else { expiry };
        // SAFETY: a field of the map value, aligned.
        unsafe {
            ends.write_volatile(0);
            (&raw mut pin.name).write_volatile(name);
            (&raw mut pin.netns).write_volatile(netns);
            ends.write_volatile(later);
        }
    }
    1
}
