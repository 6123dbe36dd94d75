//! DNS queries. What is about to go to a resolver, or to the port of DNS anywhere, is handed to this program: it leaves
//! as a plain query for a name that a rule is about, or not at all.

use agentnet_common::{
    abi::{ASKS_DNS, AgentCfg, MODE_AUDIT, QUERIES_OPEN, QUERY_BYTES, Queries, Query, Scratch},
    addr::{Addr, protocol},
    event::{Hook, Way},
    verdict::{Question, Reason, RuleId, Verdict, decide_question},
};
use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, generated::bpf_skb_load_bytes},
    macros::cgroup_skb,
    programs::SkBuffContext,
};

use super::{
    code,
    skb::{facts, socket},
};
use crate::{
    acts::stopped,
    agent::{config, dialog, queries, sock_state},
    dns,
    emit::{conclude_query, count_allowed},
    packet::{Direction, Packet, parse},
    pins::{keep_name, rules_of},
    sample,
    scratch::with_scratch,
};

#[cgroup_skb(egress)]
pub fn an_dns_query(ctx: SkBuffContext) -> i32 {
    code(try_query(&ctx))
}

#[inline(always)]
fn try_query(ctx: &SkBuffContext) -> bool {
    let Some(cfg) = config() else { return false };
    let Some(sk) = socket(ctx) else { return false };
    let Some(state) = sock_state(sk, true) else { return false };
    let (packet, None) = parse(ctx, Direction::Egress) else { return false };
    let facts = facts(ctx, Hook::Egress, &packet, Some(state));
    let passes = with_scratch(|scratch| {
        let verdict = match judge(ctx, cfg, sk, &packet, scratch) {
            Ok(()) => Verdict::Allow(RuleId::RESOLVER),
            Err(reason) => Verdict::Deny(reason),
        };
        conclude_query(cfg, &facts, verdict, &scratch.message)
    });
    if passes != Some(true) {
        return false;
    }
    state.marks |= ASKS_DNS;
    count_allowed(cfg, ctx.len());
    state.tx_bytes = state.tx_bytes.wrapping_add(u64::from(ctx.len()));
    state.tx_packets = state.tx_packets.wrapping_add(1);
    sample::hand_over(ctx, Way::Out);
    true
}

/// Whether the payload is a query that may leave, which is then waited for.
#[inline(always)]
fn judge(
    ctx: &SkBuffContext,
    cfg: &AgentCfg,
    sk: *mut core::ffi::c_void,
    packet: &Packet,
    scratch: &mut Scratch,
) -> Result<(), Reason> {
    // Pages of a file or of the process could change after they were read.
    // SAFETY: the context is the kernel's.
    let linear = unsafe { (*ctx.skb.skb).data_end as u64 - (*ctx.skb.skb).data as u64 };
    if packet.remote.protocol != protocol::UDP {
        return if is_approved(ctx, sk, packet) { Ok(()) } else { Err(Reason::DnsShared) };
    }
    if linear != u64::from(ctx.len()) {
        return Err(Reason::DnsShared);
    }
    let len = ctx.len().wrapping_sub(packet.payload);
    if len < dns::HEADER as u32 || len > QUERY_BYTES as u32 {
        return Err(Reason::DnsMalformed);
    }
    // From 1 to the size of the array, in a form that the verifier follows.
    let len = (core::hint::black_box(len).wrapping_sub(1) & (QUERY_BYTES as u32 - 1)) + 1;
    // SAFETY: the array has room for `len` bytes.
    let loaded = unsafe {
        bpf_skb_load_bytes(ctx.skb.skb.cast(), packet.payload, (&raw mut scratch.message).cast(), len)
    };
    if loaded != 0 {
        return Err(Reason::DnsMalformed);
    }
    judge_query(cfg, sk, &packet.remote.addr, scratch, len)
}

/// Whether all that a segment carries was approved before TCP took it, see `sk_msg`.
#[inline(always)]
fn is_approved(ctx: &SkBuffContext, sk: *mut core::ffi::c_void, packet: &Packet) -> bool {
    let Some(dialog) = dialog(sk, false) else { return false };
    let payload = ctx.len().wrapping_sub(packet.payload);
    let end = packet.sequence.wrapping_sub(dialog.out).wrapping_add(payload);
    end <= dialog.approved
}

/// Whether the query of `len` bytes in the scratch may go to `server`; it is then waited for.
#[inline(always)]
pub fn judge_query(
    cfg: &AgentCfg,
    sk: *mut core::ffi::c_void,
    server: &Addr,
    scratch: &mut Scratch,
    len: u32,
) -> Result<(), Reason> {
    if let Some(reason) = stopped(cfg, server) {
        return Err(reason);
    }
    let question = dns::query(scratch, len)?;
    dns::close_key(scratch);
    let audit = cfg.mode == MODE_AUDIT;
    let found = decide_question(rules_of(cfg.slot, dns::key(scratch)));
    if !matches!(found, Question::Search) && (audit || matches!(found, Question::Opens)) {
        if !keep_name(cfg, scratch.hash, dns::key(scratch)) {
            return Err(Reason::DnsRoom);
        }
    }
    let query = Query {
        name: scratch.hash,
        server: server.words,
        // SAFETY: no arguments.
        time: unsafe { bpf_ktime_get_ns() },
        id: dns::id(scratch),
        kind: question.kind,
        search: matches!(found, Question::Search).into(),
        pad: 0,
    };
    match found {
        Question::Refused if !audit => Err(Reason::NameNotAllowed),
        _ if !wait_for(sk, query) => Err(Reason::DnsRoom),
        Question::Refused => Err(Reason::NameNotAllowed),
        Question::Opens | Question::Search => Ok(()),
    }
}

/// Notes a query: in the place of one with its identifier, else of the oldest.
#[inline(always)]
fn wait_for(sk: *mut core::ffi::c_void, query: Query) -> bool {
    queries(sk, true).is_some_and(|queries| an_wait_for(queries, &raw const query) != 0)
}

/// Notes a query among others of its socket: 1 if it was. A function of its own to the kernel as well, see
/// [`crate::tables::an_decide`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn an_wait_for(queries: *mut Queries, query: *const Query) -> u64 {
    // SAFETY: null, or what the caller has.
    let (Some(Queries { open }), Some(query)) = (unsafe { (queries.as_mut(), query.as_ref()) }) else {
        return 0;
    };
    let mut place = 0;
    let mut oldest = u64::MAX;
    for (index, known) in open.iter().enumerate() {
        if known.id == query.id && known.name != 0 {
            place = index;
            break;
        }
        if known.time < oldest {
            oldest = known.time;
            place = index;
        }
    }
    let Some(known) = open.get_mut(place & (QUERIES_OPEN - 1)) else { return 0 };
    // Nothing is waited for at this place until all of it is written.
    let name = &raw mut known.name;
    // SAFETY: a field of the storage, aligned.
    unsafe { name.write_volatile(0) };
    known.server = query.server;
    known.time = query.time;
    known.id = query.id;
    known.kind = query.kind;
    known.search = query.search;
    // SAFETY: as above.
    unsafe { name.write_volatile(query.name) };
    1
}

/// The query of `sk` with this identifier that went to this resolver, if it is waited for.
#[inline(always)]
pub fn awaited(sk: *mut core::ffi::c_void, server: &Addr, id: u16) -> Option<&'static mut Query> {
    let queries = queries(sk, false)?;
    let index = an_awaited(queries, server, id.into());
    if index >= QUERIES_OPEN as u64 {
        return None;
    }
    queries.open.get_mut(index as usize & (QUERIES_OPEN - 1))
}

/// Where among the queries of a socket the one with this identifier is that went to this resolver; [`QUERIES_OPEN`] if
/// none is waited for. A function of its own to the kernel as well, see [`crate::tables::an_decide`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn an_awaited(queries: *const Queries, server: *const Addr, id: u32) -> u64 {
    let none = QUERIES_OPEN as u64;
    // SAFETY: null, or what the caller has.
    let (Some(queries), Some(server)) = (unsafe { (queries.as_ref(), server.as_ref()) }) else { return none };
    let mut found = none;
    for (index, query) in queries.open.iter().enumerate() {
        if query.name != 0 && u32::from(query.id) == id && query.server == server.words {
            found = index as u64;
        }
    }
    found
}
