//! sk_msg on connections that a name has opened and that have to speak TLS: what they send is held back until it has said
//! a server name whose rule is one that opened the address, and judged in a copy that the process cannot change.
//!
//! The packet hook lets out what was approved here, byte for byte, see `skb_tls`: `sk_msg` lists what passes a program
//! like this by.

use core::ffi::{c_long, c_void};

use agentnet_common::{
    abi::{
        AgentCfg, CACHED_NONE, HELLO_AWAITED, HELLO_BYTES, HELLO_CHANGED, HELLO_CLOSED, HELLO_OVER,
        HELLO_REFUSED, HELLO_SAID, HELLO_STEP, Hello, MODE_AUDIT, QUERY_BYTES, ROLE_NONE, ROLE_TLS,
        SPEAKS_ECH, SPEAKS_UNNAMED, Scratch, SockState,
    },
    addr::protocol,
    event::Kind,
    verdict::{Reason, RuleId, Verdict},
};
use aya_ebpf::{
    helpers::generated::{bpf_loop, bpf_msg_pull_data, bpf_probe_read_kernel},
    macros::sk_msg,
    programs::SkMsgContext,
};

use super::msg::{code, facts, pass, server, socket, wait_for};
use crate::{
    acts::is_granted,
    agent::{hello, sock_state},
    dns,
    emit::conclude_with,
    maps::AGENTS,
    pins::{is_opened_by, keep_name, rules_of, still_named},
    scratch::with_scratch,
    tls::{self, What},
};

/// As many bytes as a program can say that it need not be asked about (`apply_bytes`, net/core/skmsg.c, is signed
/// where it is compared).
const ALL: u32 = i32::MAX as u32;

#[sk_msg]
pub fn an_tls_msg(ctx: SkMsgContext) -> u32 {
    code(try_msg(&ctx))
}

#[inline(always)]
fn try_msg(ctx: &SkMsgContext) -> bool {
    let Some(sk) = socket(ctx) else { return false };
    let Some(state) = sock_state(sk, false) else { return false };
    if state.role != ROLE_TLS {
        return pass(ctx, ALL);
    }
    let (Some(hello), Some(cfg)) = (hello(sk, false), AGENTS.get(state.held_by)) else { return false };
    if !cfg.is_configured() {
        return false;
    }
    let audit = cfg.mode == MODE_AUDIT;
    match hello.stage {
        HELLO_OVER => return pass(ctx, ALL),
        HELLO_REFUSED => return audit,
        HELLO_CLOSED => return false,
        _ => {}
    }
    let size = ctx.size();
    match with_scratch(|scratch| step(ctx, cfg, state, hello, scratch, size)) {
        Some(Step::Pass(bytes)) => audit || pass(ctx, bytes),
        // An audit holds nothing back.
        Some(Step::Wait(bytes)) => audit || wait_for(ctx, bytes),
        Some(Step::Refuse) => audit,
        None => false,
    }
}

/// What becomes of a message.
enum Step {
    /// So many bytes of it are taken.
    Pass(u32),
    /// The program is called again when there are so many.
    Wait(u32),
    /// It is refused, and all behind it.
    Refuse,
}

/// Judges the next record, or the ClientHello.
#[inline(always)]
fn step(
    ctx: &SkMsgContext,
    cfg: &AgentCfg,
    state: &mut SockState,
    hello: &mut Hello,
    scratch: &mut Scratch,
    size: u32,
) -> Step {
    scratch.flags = 0;
    scratch.said_len = 0;
    let audit = cfg.mode == MODE_AUDIT;
    let judged = (&raw const hello.judged).cast_mut();
    // SAFETY: a field of the storage.
    let start = unsafe { judged.read_volatile() };
    // What was held back is there again.
    let from = if audit { hello.have } else { start };
    let room = (HELLO_BYTES as u32).saturating_sub(from);
    let bytes = if size < room { size } else { room };
    if !copy(ctx, hello, from, bytes) {
        return refuse(cfg, state, hello, scratch, Reason::TlsUnjudged, size);
    }
    hello.have = from + bytes;
    let next = tls::next(hello, scratch, hello.stage == HELLO_AWAITED, hello.have.wrapping_sub(start));
    let judged = match next.what {
        What::Wait if start + next.bytes > HELLO_BYTES as u32 => Err(Reason::TlsMalformed),
        What::Wait => return Step::Wait(next.bytes),
        What::Record => Ok(()),
        What::Change => {
            hello.stage = HELLO_CHANGED;
            Ok(())
        }
        What::Over => {
            hello.free = start;
            hello.stage = HELLO_OVER;
            return Step::Pass(ALL);
        }
        What::Hello => judge(cfg, state, hello, scratch, next.at, next.message).map(|()| {
            if hello.stage == HELLO_AWAITED {
                hello.stage = HELLO_SAID;
            }
        }),
        What::Refuse => Err(next.reason),
    };
    match judged {
        Ok(()) => {
            hello.judged = start + next.bytes;
            Step::Pass(next.bytes)
        }
        Err(reason) => refuse(cfg, state, hello, scratch, reason, size),
    }
}

/// Whether the server may be spoken to that the ClientHello of `len` bytes at `at` is for.
#[inline(always)]
fn judge(
    cfg: &AgentCfg,
    state: &mut SockState,
    hello: &mut Hello,
    scratch: &mut Scratch,
    at: u32,
    len: u32,
) -> Result<(), Reason> {
    let has = tls::client_hello(hello, scratch, at, len)?;
    let server = server(state);
    let opened = still_named(cfg, state.name, &server);
    let speaks = if has & tls::NAMED == 0 {
        let speaks = opened.map_or(0, |(_, speaks)| speaks);
        if speaks & SPEAKS_UNNAMED == 0 {
            return Err(Reason::TlsNoName);
        }
        speaks
    } else {
        if !tls::said(hello, scratch) {
            return Err(Reason::TlsMalformed);
        }
        dns::close_key(scratch);
        let rules = rules_of(cfg.slot, dns::key(scratch)).filter(|rules| !rules.is_search());
        let Some((rule, speaks)) = rules.and_then(|rules| rules.find_spoken(protocol::TCP, server.port))
        else {
            return Err(Reason::TlsName);
        };
        // The name that the connection was opened by counts as long as it is open.
        let live = opened.is_some_and(|(opened, _)| opened.0 == rule.0)
            || is_opened_by(cfg, &server, rule, state.netns);
        if !live {
            return Err(Reason::TlsName);
        }
        // From now on it is open by this name.
        if scratch.hash != state.name {
            if !keep_name(cfg, scratch.hash, dns::key(scratch)) {
                return Err(Reason::DnsRoom);
            }
            state.name = scratch.hash;
            state.rule = rule.0;
        }
        speaks
    };
    if speaks & SPEAKS_ECH == 0 {
        if has & tls::ENCRYPTED != 0 {
            return Err(Reason::TlsEncrypted);
        }
        if has & tls::EARLY != 0 {
            return Err(Reason::TlsEarly);
        }
    }
    Ok(())
}

/// Refuses what was said, unless somebody has opened the address by hand, whatever is said to it.
#[inline(always)]
fn refuse(
    cfg: &AgentCfg,
    state: &mut SockState,
    hello: &mut Hello,
    scratch: &mut Scratch,
    reason: Reason,
    size: u32,
) -> Step {
    let server = server(state);
    if is_granted(cfg, &server) {
        // It is open by that alone, and ends with it.
        state.role = ROLE_NONE;
        state.name = 0;
        state.cached = CACHED_NONE;
        return Step::Pass(ALL);
    }
    hello.stage = HELLO_REFUSED;
    let len = if scratch.flags & tls::NAMED != 0 { scratch.said_len } else { 0 };
    tell_name(hello, scratch, len);
    let facts = facts(state, hello.flow, size, len);
    // It is told; what comes of it is the caller's.
    let opened_by = RuleId(state.rule);
    let _ = conclude_with(cfg, &facts, Verdict::Deny(reason), Kind::ServerName, opened_by, &scratch.message);
    Step::Refuse
}

/// Brings the name that was said, as it was said, to where it is told from.
#[inline(always)]
fn tell_name(hello: &Hello, scratch: &mut Scratch, len: u32) {
    if len == 0 {
        return;
    }
    let len = if len > QUERY_BYTES as u32 / 2 { QUERY_BYTES as u32 / 2 } else { len };
    // From 1 to half the size of the array, in a form that the verifier follows.
    let len = (core::hint::black_box(len).wrapping_sub(1) & (QUERY_BYTES as u32 / 2 - 1)) + 1;
    let at = scratch.said_at as usize & (HELLO_BYTES - 1);
    // SAFETY: the array has room for `len` bytes; the helper reads any memory of the kernel's.
    unsafe {
        let from = (&raw const hello.bytes).cast::<u8>().add(at);
        bpf_probe_read_kernel((&raw mut scratch.message).cast(), len, from.cast());
    }
}

/// What is copied, and where to.
#[repr(C)]
struct Copying {
    hello: *mut Hello,
    /// Address of the message.
    data: u64,
    /// Place of its first byte.
    to: u32,
    /// Its bytes.
    len: u32,
    /// 0 as long as nothing failed.
    failed: u32,
    /// Zero.
    pad: u32,
}

/// Copies the first `len` bytes of the message to place `to`.
#[inline(always)]
fn copy(ctx: &SkMsgContext, hello: &mut Hello, to: u32, len: u32) -> bool {
    if len == 0 {
        return true;
    }
    // SAFETY: the context is the kernel's.
    let pulled = unsafe { bpf_msg_pull_data(ctx.msg, 0, len, 0) };
    let (data, end) = (ctx.data() as u64, ctx.data_end() as u64);
    if pulled != 0 || end - data < u64::from(len) {
        return false;
    }
    let mut copying = Copying { hello, data, to, len, failed: 0, pad: 0 };
    let steps = len.div_ceil(HELLO_STEP as u32);
    // SAFETY: the callback has the signature that the helper wants, and the context is of the type it takes.
    let done = unsafe { bpf_loop(steps, copy_step as *mut _, (&raw mut copying).cast(), 0) };
    done >= 0 && copying.failed == 0
}

/// Copies one step. A loop of its own, so that the verifier walks it once.
extern "C" fn copy_step(index: u32, copying: *mut c_void) -> c_long {
    // SAFETY (of the block): `bpf_loop` hands through what it was given; the array has a step of room behind every
    // place, and the message has `len` bytes.
    unsafe {
        let copying = &mut *copying.cast::<Copying>();
        let from = index.wrapping_mul(HELLO_STEP as u32);
        let rest = copying.len.wrapping_sub(from);
        let size = if rest > HELLO_STEP as u32 { HELLO_STEP as u32 } else { rest };
        let size = (core::hint::black_box(size).wrapping_sub(1) & (HELLO_STEP as u32 - 1)) + 1;
        let place = copying.to.wrapping_add(from) as usize & (HELLO_BYTES - 1);
        let to = (&raw mut (*copying.hello).bytes).cast::<u8>().add(place);
        let from = copying.data.wrapping_add(u64::from(from));
        if bpf_probe_read_kernel(to.cast(), size, from as *const c_void) != 0 {
            copying.failed = 1;
            return 1;
        }
    }
    0
}
