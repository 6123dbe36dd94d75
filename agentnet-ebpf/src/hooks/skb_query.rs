//! DNS queries. What is about to go to a resolver, or to the port of DNS anywhere, is handed to this program: it leaves
//! as a plain query for a name that a rule is about, or not at all.

use agentnet_common::{
    abi::{
        ASKS_DNS, AgentCfg, Dialog, JUDGED_BYTES, JUDGED_STEP, MODE_AUDIT, QUERIES_OPEN, QUERY_BYTES,
        QUERY_PATIENCE, Queries, Query, Scratch,
    },
    addr::{Endpoint, protocol},
    event::{Hook, Way},
    verdict::{DNS_PORT, Question, Reason, Verdict, decide_question},
};
use aya_ebpf::{
    helpers::{
        bpf_ktime_get_ns,
        generated::{bpf_loop, bpf_skb_load_bytes},
    },
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
    opaque,
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
    let passes = with_scratch(|scratch| {
        let Err(reason) = judge(ctx, cfg, sk, state.netns, &packet, scratch) else { return true };
        let facts = facts(ctx, Hook::Egress, &packet, Some(state));
        conclude_query(cfg, &facts, Verdict::Deny(reason), &scratch.message)
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
    netns: u32,
    packet: &Packet,
    scratch: &mut Scratch,
) -> Result<(), Reason> {
    // Pages of a file or of the process could change after they were read.
    // SAFETY: the context is the kernel's.
    let linear = unsafe { (*ctx.skb.skb).data_end as u64 - (*ctx.skb.skb).data as u64 };
    if packet.remote.protocol != protocol::UDP {
        return if is_approved(ctx, cfg, sk, packet) { Ok(()) } else { Err(Reason::DnsShared) };
    }
    // And one call can make many datagrams of it (`UDP_SEGMENT`).
    // SAFETY: the context is the kernel's.
    if linear != u64::from(ctx.len()) || unsafe { (*ctx.skb.skb).gso_size } != 0 {
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
    judge_query(cfg, sk, netns, &packet.remote, scratch, len)
}

/// Whether all that a segment carries was approved before TCP took it, see `sk_msg`; else nothing more leaves on this
/// connection.
#[inline(always)]
fn is_approved(ctx: &SkBuffContext, cfg: &AgentCfg, sk: *mut core::ffi::c_void, packet: &Packet) -> bool {
    let Some(dialog) = dialog(sk, false) else { return false };
    let payload = ctx.len().wrapping_sub(packet.payload);
    let start = packet.sequence.wrapping_sub(dialog.out);
    // Both wrap, after 4 GiB.
    let judged = dialog.broken == 0
        && !packet.is_urgent()
        && payload <= JUDGED_BYTES as u32
        && dialog.approved.wrapping_sub(start.wrapping_add(payload)) as i32 >= 0;
    // An audit lets out what was not judged, and has told.
    let same = cfg.mode == MODE_AUDIT || is_same(ctx, dialog, packet.payload, start, payload);
    let approved = judged && same;
    if !approved && cfg.mode != MODE_AUDIT {
        dialog.broken = 1;
    }
    approved
}

/// A comparison of what a segment carries with what was judged.
#[repr(C)]
struct Comparison {
    skb: *mut core::ffi::c_void,
    dialog: *const Dialog,
    /// Where the payload begins in the packet.
    at: u32,
    /// Where it begins in the stream.
    start: u32,
    /// Its bytes.
    len: u32,
    /// 1 as long as nothing differs.
    same: u32,
}

#[inline(always)]
fn is_same(ctx: &SkBuffContext, dialog: &Dialog, at: u32, start: u32, len: u32) -> bool {
    let mut comparison = Comparison { skb: ctx.skb.skb.cast(), dialog, at, start, len, same: 1 };
    let steps = len.div_ceil(JUDGED_STEP as u32);
    // SAFETY: the callback has the signature that the helper wants, and the context is of the type it takes.
    let done = unsafe { bpf_loop(steps, compare as *mut _, (&raw mut comparison).cast(), 0) };
    done >= 0 && comparison.same == 1
}

/// Compares some bytes; 1 when they differ. A loop of its own, so that the verifier walks it once.
extern "C" fn compare(index: u32, comparison: *mut core::ffi::c_void) -> core::ffi::c_long {
    // SAFETY: `bpf_loop` hands through what it was given.
    let comparison = unsafe { &mut *comparison.cast::<Comparison>() };
    let from = index.wrapping_mul(JUDGED_STEP as u32);
    let rest = comparison.len.wrapping_sub(from);
    let size = if rest > JUDGED_STEP as u32 { JUDGED_STEP as u32 } else { rest };
    let size = (core::hint::black_box(size).wrapping_sub(1) & (JUDGED_STEP as u32 - 1)) + 1;
    let mut bytes = [0_u8; JUDGED_STEP];
    // SAFETY: the array has room for `size` bytes.
    let loaded = unsafe {
        bpf_skb_load_bytes(comparison.skb, comparison.at.wrapping_add(from), bytes.as_mut_ptr().cast(), size)
    };
    let mut differs = u8::from(loaded != 0);
    for (number, byte) in bytes.iter().enumerate() {
        let place = comparison.start.wrapping_add(from).wrapping_add(number as u32) as usize;
        // SAFETY: within the array, as the mask sees to.
        let judged = unsafe {
            (&raw const (*comparison.dialog).judged)
                .cast::<u8>()
                .add(place & (JUDGED_BYTES - 1))
                .read_volatile()
        };
        // All ones below the size, else 0: in arithmetic, so that the verifier has one way to follow.
        let counts = (number as u32).wrapping_sub(opaque::word(size, comparison.at)) as i32 >> 31;
        differs |= (byte ^ judged) & counts as u8;
    }
    if differs != 0 {
        comparison.same = 0;
        return 1;
    }
    0
}

/// Whether the query of `len` bytes in the scratch may go to `server`; it is then waited for.
#[inline(always)]
pub fn judge_query(
    cfg: &AgentCfg,
    sk: *mut core::ffi::c_void,
    netns: u32,
    server: &Endpoint,
    scratch: &mut Scratch,
    len: u32,
) -> Result<(), Reason> {
    if let Some(reason) = stopped(cfg, &server.addr) {
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
        server: server.addr.words,
        // SAFETY: no arguments.
        time: unsafe { bpf_ktime_get_ns() },
        netns,
        id: dns::id(scratch),
        kind: question.kind,
        search: matches!(found, Question::Search).into(),
        port: server.port,
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
    let mut search = Search {
        open: open.as_ptr(),
        oldest: u64::MAX,
        id: query.id.into(),
        port: 0,
        server: query.server,
        place: 0,
    };
    // SAFETY: the callback has the signature that the helper wants, and the context is of the type it takes.
    unsafe { bpf_loop(QUERIES_OPEN as u32, find_room as *mut _, (&raw mut search).cast(), 0) };
    let place = search.place as usize;
    let Some(known) = open.get_mut(place & (QUERIES_OPEN - 1)) else { return 0 };
    // Nothing is waited for at this place until all of it is written.
    let name = &raw mut known.name;
    // SAFETY: a field of the storage, aligned.
    unsafe { name.write_volatile(0) };
    known.server = query.server;
    known.time = query.time;
    known.netns = query.netns;
    known.id = query.id;
    known.kind = query.kind;
    known.search = query.search;
    known.port = query.port;
    // SAFETY: as above.
    unsafe { name.write_volatile(query.name) };
    1
}

/// The query of `sk` with this identifier that went to this resolver, if it is waited for.
#[inline(always)]
pub fn awaited(sk: *mut core::ffi::c_void, server: &Endpoint, id: u16) -> Option<&'static mut Query> {
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
pub extern "C" fn an_awaited(queries: *const Queries, server: *const Endpoint, id: u32) -> u64 {
    let none = QUERIES_OPEN as u64;
    // SAFETY: null, or what the caller has.
    let (Some(queries), Some(server)) = (unsafe { (queries.as_ref(), server.as_ref()) }) else { return none };
    let open = queries.open.as_ptr();
    let (port, server) = (server.port.into(), server.addr.words);
    // SAFETY: no arguments.
    let oldest = unsafe { bpf_ktime_get_ns() }.saturating_sub(QUERY_PATIENCE);
    let mut search = Search { open, id, port, server, place: none as u32, oldest };
    // SAFETY: the callback has the signature that the helper wants, and the context is of the type it takes.
    unsafe { bpf_loop(QUERIES_OPEN as u32, find_awaited as *mut _, (&raw mut search).cast(), 0) };
    search.place.into()
}

/// A search among the queries of a socket. Its loops are functions of their own, so that the verifier walks them once.
#[repr(C)]
struct Search {
    open: *const Query,
    /// The time of the oldest that was found, or that may be.
    oldest: u64,
    id: u32,
    port: u32,
    server: [u32; 4],
    /// What was found.
    place: u32,
}

/// The query at a place.
#[inline(always)]
fn query_at(search: &Search, index: u32) -> &'static Query {
    // SAFETY: an element of the storage, as the mask sees to.
    unsafe { &*search.open.add(index as usize & (QUERIES_OPEN - 1)) }
}

/// Looks whether a query with the identifier is at this place, or one that is older; 1 if the former.
extern "C" fn find_room(index: u32, search: *mut core::ffi::c_void) -> core::ffi::c_long {
    // SAFETY: `bpf_loop` hands through what it was given.
    let search = unsafe { &mut *search.cast::<Search>() };
    let known = query_at(search, index);
    if u32::from(known.id) == search.id && known.name != 0 {
        search.place = index;
        return 1;
    }
    if known.time < search.oldest {
        search.oldest = known.time;
        search.place = index;
    }
    0
}

/// Looks whether the query at this place is the one that was asked; 1 if so.
extern "C" fn find_awaited(index: u32, search: *mut core::ffi::c_void) -> core::ffi::c_long {
    // SAFETY: as above.
    let search = unsafe { &mut *search.cast::<Search>() };
    let known = query_at(search, index);
    // NAT may have rewritten the port on one of the ways.
    let port = search.port == u32::from(DNS_PORT) || search.port == u32::from(known.port);
    let waits = known.name != 0 && known.time >= search.oldest;
    if waits && u32::from(known.id) == search.id && known.server == search.server && port {
        search.place = index;
        return 1;
    }
    0
}
