//! Packets of connections that have yet to say a name in TLS are handed to this program: what leaves is what `tls_msg` has
//! judged, byte for byte, or nothing leaves any more.

use core::ffi::{c_long, c_void};

use agentnet_common::{
    abi::{
        AgentCfg, HELLO_BYTES, HELLO_CLOSED, HELLO_OVER, HELLO_REFUSED, HELLO_STEP, Hello, MODE_AUDIT,
        ROLE_SAID, SockState,
    },
    event::Way,
    verdict::{Reason, Verdict},
};
use aya_ebpf::{
    helpers::generated::{bpf_loop, bpf_skb_load_bytes},
    macros::cgroup_skb,
    programs::SkBuffContext,
};

use super::{
    code,
    skb::{let_out_judged, socket},
    skb_report::{report, told},
};
use crate::{
    agent::{config, forget_hello, hello, sock_state},
    packet::{Direction, Packet, parse},
};

#[cgroup_skb(egress)]
pub fn an_tls_out(ctx: SkBuffContext) -> i32 {
    code(try_out(&ctx))
}

#[inline(always)]
fn try_out(ctx: &SkBuffContext) -> bool {
    let Some(cfg) = config() else { return false };
    let Some(sk) = socket(ctx) else { return false };
    let Some(state) = sock_state(sk, false) else { return false };
    let (packet, None) = parse(ctx, Direction::Egress) else { return false };
    if !may_leave(ctx, cfg, sk, state, &packet) {
        return report(ctx, Way::Out, told(ctx, Verdict::Deny(Reason::TlsUnjudged)));
    }
    let_out_judged(ctx, cfg, Some(state), &packet)
}

/// Whether the packet may leave. The last one of those that are judged opens the connection.
#[inline(always)]
fn may_leave(
    ctx: &SkBuffContext,
    cfg: &AgentCfg,
    sk: *mut c_void,
    state: &mut SockState,
    packet: &Packet,
) -> bool {
    // Another agent's audit, around the one that holds the connection to a name, ends nothing of that.
    let audit = cfg.mode == MODE_AUDIT && state.held_by == cfg.agent;
    let Some(hello) = hello(sk, false) else { return audit };
    if !audit {
        if matches!(hello.stage, HELLO_CLOSED | HELLO_REFUSED) {
            return false;
        }
        if packet.is_urgent() || !is_judged(ctx, hello, packet) {
            hello.stage = HELLO_REFUSED;
            return false;
        }
    }
    // Not by a refusal, which stays one when an audit ends.
    if hello.stage == HELLO_OVER && (audit || hello.left >= hello.free) {
        state.role = ROLE_SAID;
        forget_hello(sk);
    }
    true
}

/// Whether all that a packet carries was judged before TCP took it, as far as it is judged at all.
#[inline(always)]
fn is_judged(ctx: &SkBuffContext, hello: &mut Hello, packet: &Packet) -> bool {
    let payload = ctx.len().wrapping_sub(packet.payload);
    let start = packet.sequence.wrapping_sub(hello.out);
    // What comes before has left, and was looked at.
    if start > hello.left {
        return false;
    }
    let end = start.wrapping_add(payload);
    let end = if hello.stage == HELLO_OVER && end > hello.free { hello.free } else { end };
    if end > hello.judged || end > HELLO_BYTES as u32 {
        return false;
    }
    if start < end && !is_same(ctx, hello, packet.payload, start, end - start) {
        return false;
    }
    if end > hello.left {
        hello.left = end;
    }
    true
}

/// Words that are compared at a time.
const WORDS: usize = HELLO_STEP / 8;

/// A comparison of what a packet carries with what was judged.
#[repr(C)]
struct Comparison {
    skb: *mut c_void,
    hello: *const Hello,
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
fn is_same(ctx: &SkBuffContext, hello: &Hello, at: u32, start: u32, len: u32) -> bool {
    let mut comparison = Comparison { skb: ctx.skb.skb.cast(), hello, at, start, len, same: 1 };
    let steps = len.div_ceil(HELLO_STEP as u32);
    // SAFETY: the callback has the signature that the helper wants, and the context is of the type it takes.
    let done = unsafe { bpf_loop(steps, compare as *mut _, (&raw mut comparison).cast(), 0) };
    done == c_long::from(steps) && comparison.same == 1
}

/// Compares one step; 1 when it differs. A loop of its own, so that the verifier walks it once.
extern "C" fn compare(index: u32, comparison: *mut c_void) -> c_long {
    // SAFETY: `bpf_loop` hands through what it was given.
    let comparison = unsafe { &mut *comparison.cast::<Comparison>() };
    let from = index.wrapping_mul(HELLO_STEP as u32);
    let rest = comparison.len.wrapping_sub(from);
    let size = if rest > HELLO_STEP as u32 { HELLO_STEP as u32 } else { rest };
    let size = (core::hint::black_box(size).wrapping_sub(1) & (HELLO_STEP as u32 - 1)) + 1;
    let mut words = [0_u64; WORDS];
    // SAFETY: the array has room for `size` bytes.
    let loaded = unsafe {
        bpf_skb_load_bytes(comparison.skb, comparison.at.wrapping_add(from), words.as_mut_ptr().cast(), size)
    };
    let place = comparison.start.wrapping_add(from) as usize & (HELLO_BYTES - 1);
    // SAFETY: the array has a step of room behind every place.
    let judged = unsafe { (&raw const (*comparison.hello).bytes).cast::<u8>().add(place) };
    let mut differs = u64::from(loaded != 0);
    for (number, word) in words.iter().enumerate() {
        // SAFETY: as above. Anywhere in memory: where the kernel wants words aligned it does not load this.
        let other = unsafe { judged.cast::<u64>().add(number).read_volatile() };
        // The bytes of this word that are meant, of which the first is the lowest (the target is little-endian).
        let bytes = u64::from(size).saturating_sub(8 * number as u64);
        let mask = if bytes >= 8 { u64::MAX } else { (1 << (8 * bytes)) - 1 };
        differs |= (word ^ other) & mask;
    }
    if differs != 0 {
        comparison.same = 0;
        return 1;
    }
    0
}
