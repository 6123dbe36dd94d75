//! What both packet hooks share: the socket, and reports of packets.

use core::{ffi::c_void, ptr::NonNull};

use agentnet_common::{abi::SockState, event::Hook};
use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_socket_cookie, bpf_sk_fullsock},
    programs::SkBuffContext,
};

use crate::{agent::owner, emit::Facts, packet::Packet};

/// The packet's socket; a listener stands for its half-open children. Null for none, in one register: what `None`
/// leaves undefined of two, LLVM may spill and the verifier refuses to see read.
#[inline(always)]
pub fn socket(ctx: &SkBuffContext) -> Option<NonNull<c_void>> {
    // SAFETY: the context is the kernel's.
    let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    // SAFETY: not null.
    NonNull::new(unsafe { bpf_sk_fullsock(sk) }.cast())
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
