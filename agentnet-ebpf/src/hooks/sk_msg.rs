//! sk_msg on connections to resolvers: a query is judged before TCP takes it, in a copy that the process cannot change.
//! The packet hook lets out what was approved here, byte for byte, and nothing else. What passes this program by stays:
//! a send that began before the connection was made, fast open, and what the kernel takes on the strength of a verdict
//! on something else, for which there was no room after all (`psock->eval` in tcp_bpf_send_verdict, net/ipv4/tcp_bpf.c).

use core::ffi::{c_long, c_void};

use agentnet_common::{
    abi::{AgentCfg, Dialog, JUDGED_BYTES, QUERY_BYTES, Scratch, SockState},
    verdict::{Reason, RuleId, Verdict},
};
use aya_ebpf::{
    helpers::generated::{bpf_loop, bpf_msg_pull_data, bpf_probe_read_kernel},
    macros::sk_msg,
    programs::SkMsgContext,
};

use super::{
    msg::{code, facts, pass, server, socket, wait_for},
    skb_query::judge_query,
};
use crate::{
    agent::{dialog, sock_state},
    dns,
    emit::conclude_query,
    maps::AGENTS,
    scratch::with_scratch,
};

/// Bytes of the length before a message (RFC 1035, 4.2.2).
const LENGTH: u32 = 2;

#[sk_msg]
pub fn an_dns_msg(ctx: SkMsgContext) -> u32 {
    code(try_msg(&ctx))
}

#[inline(always)]
fn try_msg(ctx: &SkMsgContext) -> bool {
    let Some(sk) = socket(ctx) else { return false };
    let (Some(state), Some(dialog)) = (sock_state(sk, false), dialog(sk, false)) else { return false };
    let Some(cfg) = AGENTS.get(state.agent).filter(|cfg| cfg.is_configured()) else { return false };
    if dialog.broken != 0 {
        return false;
    }
    let size = ctx.size();
    if size < LENGTH {
        return wait_for(ctx, LENGTH);
    }
    let Some(len) = length(ctx) else { return false };
    let sound = len >= dns::HEADER as u32 && len <= QUERY_BYTES as u32;
    if sound && size < LENGTH + len {
        return wait_for(ctx, LENGTH + len);
    }
    let facts = facts(state, 0, size, 0);
    let passes = with_scratch(|scratch| {
        let judged = if sound { judge(ctx, cfg, sk, state, scratch, len) } else { Err(Reason::DnsMalformed) };
        let verdict = match judged {
            Ok(()) => Verdict::Allow(RuleId::RESOLVER),
            Err(reason) => Verdict::Deny(reason),
        };
        keep(dialog, scratch, len);
        conclude_query(cfg, &facts, verdict, &scratch.message)
    });
    if passes != Some(true) {
        return false;
    }
    // What comes behind a message is one of its own. What is no message passes in an audit alone, as a whole.
    let taken = if sound { LENGTH + len } else { size };
    dialog.approved = dialog.approved.wrapping_add(taken);
    pass(ctx, taken)
}

/// What is kept of a message that was judged.
#[repr(C)]
struct Keep {
    dialog: *mut Dialog,
    scratch: *const Scratch,
    /// Bytes of the message, without those of its length.
    len: u32,
}

/// Keeps the message of `len` bytes in the scratch, and its length before it, at its place in the stream.
#[inline(always)]
fn keep(dialog: &mut Dialog, scratch: &Scratch, len: u32) {
    let mut keep = Keep { dialog, scratch, len };
    let bytes = LENGTH + if len > QUERY_BYTES as u32 { QUERY_BYTES as u32 } else { len };
    // SAFETY: the callback has the signature that the helper wants, and the context is of the type it takes.
    unsafe { bpf_loop(bytes, keep_byte as *mut _, (&raw mut keep).cast(), 0) };
}

/// Keeps one byte. A loop of its own, so that the verifier walks it once.
extern "C" fn keep_byte(index: u32, keep: *mut c_void) -> c_long {
    // SAFETY: `bpf_loop` hands through what it was given; elements of arrays, as the masks see to.
    unsafe {
        let keep = &*keep.cast::<Keep>();
        let byte = match index {
            0 => (keep.len >> 8) as u8,
            1 => keep.len as u8,
            _ => {
                let at = (index - LENGTH) as usize & (QUERY_BYTES - 1);
                (&raw const (*keep.scratch).message).cast::<u8>().add(at).read_volatile()
            }
        };
        let place = (*keep.dialog).approved.wrapping_add(index) as usize & (JUDGED_BYTES - 1);
        (&raw mut (*keep.dialog).judged).cast::<u8>().add(place).write_volatile(byte);
    }
    0
}

/// The length before the message.
#[inline(always)]
fn length(ctx: &SkMsgContext) -> Option<u32> {
    // SAFETY: the context is the kernel's; the bounds are checked.
    unsafe {
        if bpf_msg_pull_data(ctx.msg, 0, LENGTH, 0) != 0 {
            return None;
        }
        let data = ctx.data();
        if data + LENGTH as usize > ctx.data_end() {
            return None;
        }
        let head = data as *const u8;
        Some(u32::from(head.read()) << 8 | u32::from(head.add(1).read()))
    }
}

/// Whether the message of `len` bytes behind the length may leave.
#[inline(always)]
fn judge(
    ctx: &SkMsgContext,
    cfg: &AgentCfg,
    sk: *mut c_void,
    state: &SockState,
    scratch: &mut Scratch,
    len: u32,
) -> Result<(), Reason> {
    // SAFETY: the context is the kernel's.
    let pulled = unsafe { bpf_msg_pull_data(ctx.msg, 0, LENGTH + len, 0) };
    let (data, end) = (ctx.data() as u64, ctx.data_end() as u64);
    if pulled != 0 || end - data < u64::from(LENGTH + len) {
        return Err(Reason::DnsShared);
    }
    // From 1 to the size of the array, in a form that the verifier follows.
    let len = (core::hint::black_box(len).wrapping_sub(1) & (QUERY_BYTES as u32 - 1)) + 1;
    // SAFETY: the array has room for `len` bytes, and so many are behind the length.
    let read = unsafe {
        bpf_probe_read_kernel(
            (&raw mut scratch.message).cast(),
            len,
            (data + u64::from(LENGTH)) as *const c_void,
        )
    };
    if read != 0 {
        return Err(Reason::DnsShared);
    }
    judge_query(cfg, sk, state.netns, &server(state), scratch, len)
}
