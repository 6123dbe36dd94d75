//! sk_msg on connections to resolvers: a query is judged before TCP takes it, in a copy that the process cannot change.
//! The packet hook lets out what was approved here, and nothing else: what passes this program by (a send that began
//! before the connection was made, fast open) stays.

use core::ffi::c_void;

use agentnet_common::{
    abi::{AgentCfg, QUERY_BYTES, Scratch, SockState},
    addr::{Addr, Endpoint, protocol},
    event::Hook,
    verdict::{Reason, RuleId, Verdict},
};
use aya_ebpf::{
    helpers::generated::{bpf_msg_apply_bytes, bpf_msg_cork_bytes, bpf_msg_pull_data, bpf_probe_read_kernel},
    macros::sk_msg,
    programs::SkMsgContext,
};

use super::skb_query::judge_query;
use crate::{
    agent::{current_process, dialog, sock_state},
    dns,
    emit::{Facts, conclude_query},
    maps::AGENTS,
    scratch::with_scratch,
};

/// Take it (include/uapi/linux/bpf.h).
const SK_PASS: u32 = 1;
/// The call gets EACCES.
const SK_DROP: u32 = 0;
/// Bytes of the length before a message (RFC 1035, 4.2.2).
const LENGTH: u32 = 2;

#[sk_msg]
pub fn an_dns_msg(ctx: SkMsgContext) -> u32 {
    if try_msg(&ctx) { SK_PASS } else { SK_DROP }
}

#[inline(always)]
fn try_msg(ctx: &SkMsgContext) -> bool {
    // SAFETY: the context is the kernel's.
    let sk = unsafe { (*ctx.msg).__bindgen_anon_3.sk };
    if sk.is_null() {
        return false;
    }
    let sk = sk.cast();
    let (Some(state), Some(dialog)) = (sock_state(sk, false), dialog(sk, false)) else { return false };
    let Some(cfg) = AGENTS.get(state.agent).filter(|cfg| cfg.is_configured()) else { return false };
    let size = ctx.size();
    if size < LENGTH {
        return wait_for(ctx, LENGTH);
    }
    let Some(len) = length(ctx) else { return false };
    let sound = len >= dns::HEADER as u32 && len <= QUERY_BYTES as u32;
    if sound && size < LENGTH + len {
        return wait_for(ctx, LENGTH + len);
    }
    let facts = Facts {
        hook: Hook::Sendmsg,
        remote: Endpoint::new(state.peer_addr(), state.peer_port, protocol::TCP),
        local: Endpoint::new(Addr::UNSPECIFIED, 0, protocol::TCP),
        process: current_process(),
        flow: 0,
        bytes: size,
        detail: 0,
        sent: state.tx_bytes,
    };
    let passes = with_scratch(|scratch| {
        let judged = if sound { judge(ctx, cfg, sk, state, scratch, len) } else { Err(Reason::DnsMalformed) };
        let verdict = match judged {
            Ok(()) => Verdict::Allow(RuleId::RESOLVER),
            Err(reason) => Verdict::Deny(reason),
        };
        conclude_query(cfg, &facts, verdict, &scratch.message)
    });
    if passes != Some(true) {
        return false;
    }
    // What comes behind a message is one of its own. What is no message passes in an audit alone, as a whole.
    let taken = if sound { LENGTH + len } else { size };
    dialog.approved = dialog.approved.wrapping_add(taken);
    // SAFETY: the context is the kernel's.
    unsafe { bpf_msg_apply_bytes(ctx.msg, taken) == 0 }
}

/// Has the program called again when there are so many bytes.
#[inline(always)]
fn wait_for(ctx: &SkMsgContext, bytes: u32) -> bool {
    // SAFETY: the context is the kernel's.
    unsafe { bpf_msg_cork_bytes(ctx.msg, bytes) == 0 }
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
    judge_query(cfg, sk, &state.peer_addr(), scratch, len)
}
