//! What both packet hooks share: the socket, and reports of packets.

use core::ffi::c_void;

use agentnet_common::{abi::SockState, event::Hook};
use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_ktime_get_ns,
        generated::{bpf_get_socket_cookie, bpf_sk_fullsock},
    },
    programs::SkBuffContext,
};

use crate::{agent::owner, emit::Facts, packet::Packet};

/// The packet's socket, not null; a listener stands for its half-open children.
#[inline(always)]
pub fn socket(ctx: &SkBuffContext) -> Option<*mut c_void> {
    // SAFETY: the context is the kernel's.
    let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    // SAFETY: not null.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    if sk.is_null() { None } else { Some(sk.cast()) }
}

/// The cookie of the packet's socket, 0 without one.
#[inline(always)]
pub fn cookie(ctx: &SkBuffContext) -> u64 {
    // SAFETY: the context is the kernel's.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// What a report says of a packet.
#[inline(always)]
pub fn facts(ctx: &SkBuffContext, hook: Hook, packet: &Packet, state: Option<&SockState>) -> Facts {
    let flow = cookie(ctx);
    Facts {
        hook,
        remote: packet.remote,
        local: packet.local,
        process: state.map_or_else(|| owner(flow), |state| state.process),
        flow,
        bytes: ctx.len(),
        detail: 0,
        sent: state.map_or(0, |state| state.tx_bytes),
    }
}

/// What is remembered with a TCP socket begins.
#[inline(always)]
pub fn begin(ctx: &SkBuffContext, state: &mut SockState) {
    state.process = owner(cookie(ctx));
    // SAFETY: no arguments.
    state.began = unsafe { bpf_ktime_get_ns() };
}
