//! From verdict to consequence: what a refusal means is written here, once, and what is reported of it.
//!
//! Reports are best effort and numbered; a verdict never waits for one.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use agentnet_common::{
    abi::{ABI_VERSION, ALERTS_PER_SECOND, AgentCfg, AgentCounters, MODE_AUDIT, Process},
    addr::Endpoint,
    event::{Header, Hook, Kind, Outcome, VerdictEvent},
    verdict::{REASON_SLOTS, Reason, RuleId, Verdict},
};
use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
};

use crate::maps::{ALERTS, COUNTERS, REFUSED, SAMPLES};

const SECOND: u64 = 1_000_000_000;

/// Every so many records of an agent on a CPU the reader of the sample ring is woken: a fraction of what the
/// ring holds, on machines of up to a hundred CPUs.
const WAKE_EVERY: u64 = 128;

/// What a report says besides the verdict.
pub struct Facts {
    pub hook: Hook,
    pub remote: Endpoint,
    pub local: Endpoint,
    pub process: Process,
    /// Socket cookie, 0 if there is none.
    pub flow: u64,
    /// Bytes of the packet, 0 where there is none.
    pub bytes: u32,
    /// See [`VerdictEvent::detail`].
    pub detail: u32,
    /// Bytes the socket has sent already.
    pub sent: u64,
}

/// Adds to a counter that a softirq on the same CPU may also add to; returns the value before.
///
/// Sequentially consistent because LLVM compiles a relaxed add whose result is used to one that does not
/// fetch.
#[inline(always)]
fn add(counter: *mut u64, value: u64) -> u64 {
    // SAFETY: the pointer comes from a map value, is aligned and outlives the run.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(counter, value) }
}

#[inline(always)]
fn counters(agent: u32) -> Option<*mut AgentCounters> {
    COUNTERS.get_ptr_mut(agent)
}

/// Counts what was let through.
#[inline(always)]
pub fn count_allowed(cfg: &AgentCfg, bytes: u32) {
    if let Some(counters) = counters(cfg.agent) {
        // SAFETY: the map value outlives the run.
        unsafe {
            add(&raw mut (*counters).allowed_packets, 1);
            add(&raw mut (*counters).allowed_bytes, u64::from(bytes));
        }
    }
}

/// Acts on a verdict: counts it, reports it, and says whether to let the operation through.
///
/// `fresh` tells an allowed flow that begins from one that goes on; only the first is reported.
#[inline(always)]
pub fn conclude(cfg: &AgentCfg, facts: &Facts, verdict: Verdict, fresh: bool) -> bool {
    match verdict {
        Verdict::Allow(rule) => {
            if fresh {
                report_allowed(cfg, facts, rule);
            }
            true
        }
        Verdict::Deny(reason) => {
            // Somebody blocked it now and by hand, whatever the policy is for.
            let audit = cfg.mode == MODE_AUDIT && !matches!(reason, Reason::Blocked);
            report_denied(cfg, facts, reason, audit);
            audit
        }
    }
}

/// Remembers that the TCP socket `cookie` may hold refused data: the kernel keeps what a hook drops in
/// the send queue and would deliver it once the hook is gone. Whoever stops enforcing destroys it first.
#[inline(always)]
pub fn remember_refused(cfg: &AgentCfg, cookie: u64) {
    if REFUSED.insert(cookie, cfg.agent, 0).is_err()
        && let Some(counters) = counters(cfg.agent)
    {
        // SAFETY: the map value outlives the run.
        unsafe { add(&raw mut (*counters).refused_overflow, 1) };
    }
}

/// Forgets a socket that was closed: its queue is gone.
#[inline(always)]
pub fn forget_refused(cookie: u64) {
    // An error means that it was not there, which is what is wanted.
    let _ = REFUSED.remove(cookie);
}

#[inline(always)]
fn report_allowed(cfg: &AgentCfg, facts: &Facts, rule: RuleId) {
    let Some(counters) = counters(cfg.agent) else { return };
    // SAFETY: the map value outlives the run.
    let seq = unsafe { add(&raw mut (*counters).samples, 1) };
    let Some(mut entry) = SAMPLES.reserve(0) else {
        // SAFETY: as above.
        unsafe { add(&raw mut (*counters).samples_lost, 1) };
        return;
    };
    fill(entry.as_mut_ptr(), cfg, facts, seq, Outcome::Allowed, rule.0, 0, bpf_now());
    // Waking the reader costs ten times as much as the rest of connect(), and nobody waits for this: the
    // reader looks several times a second, and is woken where the ring might fill up before.
    entry.submit(
        if seq % WAKE_EVERY == WAKE_EVERY - 1 { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }.into(),
    );
}

#[inline(always)]
fn report_denied(cfg: &AgentCfg, facts: &Facts, reason: Reason, audit: bool) {
    let Some(counters) = counters(cfg.agent) else { return };
    // SAFETY: the map value outlives the run; a reason is smaller than the array, and what is read back is cut to
    // its size.
    unsafe {
        let place = &raw mut (*counters).reason;
        place.write_volatile(reason as u64);
        let index = place.read_volatile() as usize & (REASON_SLOTS - 1);
        add((&raw mut (*counters).denied).cast::<u64>().add(index), 1);
    }
    let now = bpf_now();
    if !within_rate(counters, now) {
        // SAFETY: as above.
        unsafe { add(&raw mut (*counters).suppressed, 1) };
        return;
    }
    // SAFETY: as above.
    let seq = unsafe { add(&raw mut (*counters).alerts, 1) };
    let Some(mut entry) = ALERTS.reserve(0) else {
        // SAFETY: as above.
        unsafe { add(&raw mut (*counters).alerts_lost, 1) };
        return;
    };
    let outcome = if audit { Outcome::Audited } else { Outcome::Blocked };
    fill(entry.as_mut_ptr(), cfg, facts, seq, outcome, RuleId::NONE.0, reason as u8, now);
    entry.submit(0);
}

/// Whether the agent may write another alert record in this second on this CPU.
#[inline(always)]
fn within_rate(counters: *mut AgentCounters, now: u64) -> bool {
    // SAFETY: the map value outlives the run; a race with a softirq at worst restarts the window twice.
    unsafe {
        if now.saturating_sub((*counters).window_start) >= SECOND {
            (*counters).window_start = now;
            (*counters).window_count = 0;
        }
        add(&raw mut (*counters).window_count, 1) < ALERTS_PER_SECOND
    }
}

#[inline(always)]
fn bpf_now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the fields of one record, inlined")]
fn fill(
    record: *mut VerdictEvent,
    cfg: &AgentCfg,
    facts: &Facts,
    seq: u64,
    outcome: Outcome,
    rule: u16,
    reason: u8,
    time: u64,
) {
    // SAFETY: the ring reserved room for one record, aligned to eight bytes.
    unsafe {
        record.write(VerdictEvent {
            header: Header {
                abi: ABI_VERSION,
                kind: Kind::Verdict as u16,
                len: size_of::<VerdictEvent>() as u32,
                seq,
                time,
                agent: cfg.agent,
                cpu: bpf_get_smp_processor_id(),
                flow: facts.flow,
            },
            process: facts.process,
            endpoint: facts.remote,
            local: facts.local.addr,
            local_port: facts.local.port,
            rule,
            reason,
            hook: facts.hook as u8,
            outcome: outcome as u8,
            pad: 0,
            bytes: facts.bytes,
            detail: facts.detail,
            pad2: 0,
            sent: facts.sent,
        });
    }
}
