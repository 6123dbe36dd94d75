//! From verdict to consequence: what a refusal means is written here, once, and what is reported of it.
//!
//! Reports are best effort and numbered; a verdict never waits for one.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use agentnet_common::{
    abi::{
        ABI_VERSION, ALERTS_PER_SECOND, AgentCfg, AgentCounters, MODE_AUDIT, Process, QUERY_BYTES,
        ROLE_ACCEPTED, SUN_PATH, SockState,
    },
    addr::Endpoint,
    event::{DoorEvent, FlowEnd, Header, Hook, Kind, Outcome, QUESTION_BYTES, QueryEvent, VerdictEvent},
    verdict::{REASON_SLOTS, Reason, RuleId, Verdict},
};
use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{
        bpf_get_smp_processor_id, bpf_ktime_get_ns,
        generated::{bpf_ringbuf_reserve, bpf_ringbuf_submit},
    },
};

use crate::{
    maps::{ALERTS, COUNTERS, REFUSED, SAMPLES},
    series,
};

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
pub fn add(counter: *mut u64, value: u64) -> u64 {
    // SAFETY: the pointer comes from a map value, is aligned and outlives the run.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(counter, value) }
}

#[inline(always)]
pub fn counters(agent: u32) -> Option<*mut AgentCounters> {
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
        Verdict::Deny(reason) => conclude_denied(cfg, facts, reason as u8),
    }
}

/// The same of a refusal, by the code of its reason.
#[inline(always)]
pub fn conclude_denied(cfg: &AgentCfg, facts: &Facts, reason: u8) -> bool {
    let audit = only_audits(cfg, reason);
    report_denied(cfg, facts, reason, audit);
    audit
}

/// Whether what is refused for this reason passes all the same. Not what somebody has blocked now and by hand, whatever
/// the policy is for.
#[inline(always)]
const fn only_audits(cfg: &AgentCfg, reason: u8) -> bool {
    cfg.mode == MODE_AUDIT && reason != Reason::Blocked as u8
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

/// Reports an allowed flow, or counts it if it goes on with a series.
#[inline(always)]
fn report_allowed(cfg: &AgentCfg, facts: &Facts, rule: RuleId) {
    let Some(counters) = counters(cfg.agent) else { return };
    let place = series::place(facts);
    if series::goes_on(place, cfg, facts, rule) {
        // SAFETY: the map value outlives the run.
        unsafe { add(&raw mut (*counters).repeats, 1) };
        return;
    }
    // SAFETY: as above.
    let Some(place) = (unsafe { place.as_mut() }) else { return };
    if place.first.total > 1 {
        submit_allowed(&place.first);
    }
    place.generation = cfg.generation;
    // A map value, aligned.
    fill(&raw mut place.first, cfg, facts, 0, Outcome::Allowed, rule.0, 0, bpf_now());
    submit_allowed(&place.first);
}

/// Writes the record of a series, under the next number of its agent.
#[inline(always)]
fn submit_allowed(record: &VerdictEvent) {
    let Some(counters) = counters(record.header.agent) else { return };
    // SAFETY: the map value outlives the run.
    let seq = unsafe { add(&raw mut (*counters).samples, 1) };
    let Some(mut entry) = SAMPLES.reserve(0) else {
        // SAFETY: as above.
        unsafe { add(&raw mut (*counters).samples_lost, 1) };
        return;
    };
    // SAFETY: the ring reserved room for one record, aligned to eight bytes.
    unsafe {
        entry.as_mut_ptr().write(*record);
        (*entry.as_mut_ptr()).header.seq = seq;
    }
    entry.submit(wake(seq).into());
}

/// Reports a flow that has ended, if it carried anything. `local` has the protocol as well.
#[inline(always)]
pub fn report_end(cfg: &AgentCfg, flow: u64, state: &SockState, local: &Endpoint) {
    if state.tx_bytes == 0 && state.rx_bytes == 0 {
        return;
    }
    let Some(counters) = counters(cfg.agent) else { return };
    // SAFETY: the map value outlives the run.
    let seq = unsafe { add(&raw mut (*counters).samples, 1) };
    // SAFETY: the size is constant.
    let record = unsafe {
        bpf_ringbuf_reserve((&raw const SAMPLES).cast_mut().cast(), size_of::<FlowEnd>() as u64, 0)
    };
    if record.is_null() {
        // SAFETY: as above.
        unsafe { add(&raw mut (*counters).samples_lost, 1) };
        return;
    }
    let rule = if state.role == ROLE_ACCEPTED { RuleId::REPLY.0 } else { state.rule };
    // SAFETY: room for one record was reserved, aligned to eight bytes.
    unsafe {
        record.cast::<FlowEnd>().write(FlowEnd {
            header: Header {
                abi: ABI_VERSION,
                kind: Kind::FlowEnd as u16,
                len: size_of::<FlowEnd>() as u32,
                seq,
                time: bpf_now(),
                agent: cfg.agent,
                cpu: bpf_get_smp_processor_id(),
                flow,
            },
            process: state.process,
            endpoint: Endpoint::new(state.peer_addr(), state.peer_port, local.protocol),
            local: local.addr,
            local_port: local.port,
            rule,
            began: state.began,
            tx_bytes: state.tx_bytes,
            tx_packets: state.tx_packets,
            rx_bytes: state.rx_bytes,
            rx_packets: state.rx_packets,
            name: if state.role == ROLE_ACCEPTED { 0 } else { state.name },
        });
        bpf_ringbuf_submit(record, wake(seq).into());
    }
}

/// Waking the reader costs ten times as much as the rest of connect(), and nobody waits for these: the reader looks
/// several times a second, and is woken where the ring might fill up before.
#[inline(always)]
const fn wake(seq: u64) -> u32 {
    if seq % WAKE_EVERY == WAKE_EVERY - 1 { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }
}

/// As [`conclude`], of a DNS message that the packet carries. What was let through is told by its sample.
#[inline(always)]
pub fn conclude_query(cfg: &AgentCfg, facts: &Facts, verdict: Verdict, message: &[u8; QUERY_BYTES]) -> bool {
    conclude_with(cfg, facts, verdict, Kind::Query, RuleId::NONE, message)
}

/// As [`conclude`], of what was said in a refused message to where `rule` had opened the way.
#[inline(always)]
pub fn conclude_with(
    cfg: &AgentCfg,
    facts: &Facts,
    verdict: Verdict,
    kind: Kind,
    rule: RuleId,
    message: &[u8; QUERY_BYTES],
) -> bool {
    let Verdict::Deny(reason) = verdict else { return true };
    let audit = only_audits(cfg, reason as u8);
    if let Some((seq, time)) = count_denied(cfg, reason as u8) {
        // SAFETY: the size is constant.
        let record = unsafe {
            bpf_ringbuf_reserve((&raw const ALERTS).cast_mut().cast(), size_of::<QueryEvent>() as u64, 0)
        };
        if record.is_null() {
            lose_alert(cfg);
            return audit;
        }
        let record = record.cast::<QueryEvent>();
        // SAFETY: room for one record was reserved, aligned to eight bytes; the message is longer than its beginning.
        unsafe {
            let verdict = &raw mut (*record).verdict;
            fill(verdict, cfg, facts, seq, outcome(audit), rule.0, reason as u8, time);
            (*verdict).header.kind = kind as u16;
            (*verdict).header.len = size_of::<QueryEvent>() as u32;
            let (from, to) = (message.as_ptr().cast::<u64>(), (&raw mut (*record).message).cast::<u64>());
            for index in 0..QUESTION_BYTES / 8 {
                to.add(index).write_volatile(from.add(index).read_volatile());
            }
            bpf_ringbuf_submit(record.cast(), 0);
        }
    }
    audit
}

/// As [`conclude`], of a Unix socket that is refused.
#[inline(always)]
pub fn conclude_door(cfg: &AgentCfg, facts: &Facts, reason: Reason, name: &[u8; SUN_PATH]) -> bool {
    let audit = cfg.mode == MODE_AUDIT;
    let Some((seq, time)) = count_denied(cfg, reason as u8) else { return audit };
    // SAFETY: the size is constant.
    let record = unsafe {
        bpf_ringbuf_reserve((&raw const ALERTS).cast_mut().cast(), size_of::<DoorEvent>() as u64, 0)
    };
    if record.is_null() {
        lose_alert(cfg);
        return audit;
    }
    let record = record.cast::<DoorEvent>();
    // SAFETY: room for one record was reserved, aligned to eight bytes.
    unsafe {
        let verdict = &raw mut (*record).verdict;
        fill(verdict, cfg, facts, seq, outcome(audit), RuleId::NONE.0, reason as u8, time);
        (*verdict).header.kind = Kind::Door as u16;
        (*verdict).header.len = size_of::<DoorEvent>() as u32;
        (*record).name = *name;
        (*record).pad = 0;
        bpf_ringbuf_submit(record.cast(), 0);
    }
    audit
}

const fn outcome(audit: bool) -> Outcome {
    if audit { Outcome::Audited } else { Outcome::Blocked }
}

/// Counts a refusal. Gives number and time of the record that tells of it, unless the agent had too many in this second.
#[inline(always)]
fn count_denied(cfg: &AgentCfg, reason: u8) -> Option<(u64, u64)> {
    let counters = counters(cfg.agent)?;
    // SAFETY: the map value outlives the run; a reason is smaller than the array, and what is read back is cut to
    // its size.
    unsafe {
        let place = &raw mut (*counters).reason;
        place.write_volatile(reason.into());
        let index = place.read_volatile() as usize & (REASON_SLOTS - 1);
        add((&raw mut (*counters).denied).cast::<u64>().add(index), 1);
    }
    let now = bpf_now();
    if !within_rate(counters, now) {
        // SAFETY: as above.
        unsafe { add(&raw mut (*counters).suppressed, 1) };
        return None;
    }
    // SAFETY: as above.
    Some((unsafe { add(&raw mut (*counters).alerts, 1) }, now))
}

#[inline(always)]
fn lose_alert(cfg: &AgentCfg) {
    if let Some(counters) = counters(cfg.agent) {
        // SAFETY: the map value outlives the run.
        unsafe { add(&raw mut (*counters).alerts_lost, 1) };
    }
}

#[inline(always)]
fn report_denied(cfg: &AgentCfg, facts: &Facts, reason: u8, audit: bool) {
    let Some((seq, time)) = count_denied(cfg, reason) else { return };
    let Some(mut entry) = ALERTS.reserve(0) else { return lose_alert(cfg) };
    fill(entry.as_mut_ptr(), cfg, facts, seq, outcome(audit), RuleId::NONE.0, reason, time);
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
            total: 1,
            sent: facts.sent,
        });
    }
}
