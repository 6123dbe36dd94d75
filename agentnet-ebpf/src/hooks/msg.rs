//! What the sk_msg programs share: the socket, what becomes of a message, and what a report says of it.

use core::ffi::c_void;

use agentnet_common::{
    abi::SockState,
    addr::{Addr, Endpoint, protocol},
    event::Hook,
};
use aya_ebpf::{
    helpers::generated::{bpf_msg_apply_bytes, bpf_msg_cork_bytes},
    programs::SkMsgContext,
};

use crate::{agent::current_process, emit::Facts};

/// Take it (include/uapi/linux/bpf.h).
const SK_PASS: u32 = 1;
/// The call gets EACCES.
const SK_DROP: u32 = 0;

/// The return value of a program.
pub const fn code(pass: bool) -> u32 {
    if pass { SK_PASS } else { SK_DROP }
}

/// The message's socket, not null.
#[inline(always)]
pub fn socket(ctx: &SkMsgContext) -> Option<*mut c_void> {
    // SAFETY: the context is the kernel's.
    let sk = unsafe { (*ctx.msg).__bindgen_anon_3.sk };
    if sk.is_null() { None } else { Some(sk.cast()) }
}

/// Lets so many bytes be taken without asking again.
#[inline(always)]
pub fn pass(ctx: &SkMsgContext, bytes: u32) -> bool {
    // SAFETY: the context is the kernel's.
    unsafe { bpf_msg_apply_bytes(ctx.msg, bytes) == 0 }
}

/// Has the program called again when there are so many bytes.
#[inline(always)]
pub fn wait_for(ctx: &SkMsgContext, bytes: u32) -> bool {
    // SAFETY: the context is the kernel's.
    unsafe { bpf_msg_cork_bytes(ctx.msg, bytes) == 0 }
}

/// Whom the connection is to.
#[inline(always)]
pub fn server(state: &SockState) -> Endpoint {
    Endpoint::new(state.peer_addr(), state.peer_port, protocol::TCP)
}

/// What a report says of a message of `bytes` bytes.
#[inline(always)]
pub fn facts(state: &SockState, flow: u64, bytes: u32, detail: u32) -> Facts {
    Facts {
        hook: Hook::Sendmsg,
        remote: server(state),
        local: Endpoint::new(Addr::UNSPECIFIED, 0, protocol::TCP),
        process: current_process(),
        flow,
        bytes,
        detail,
        sent: state.tx_bytes,
    }
}
