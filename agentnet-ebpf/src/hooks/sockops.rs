//! sockops: marks sockets that listen and those that accept() makes, and forgets refused data of sockets that
//! are gone.

use agentnet_common::{
    abi::{CACHED_NONE, ROLE_ACCEPTED, ROLE_ASKS, ROLE_NONE, SockState},
    addr::{Addr, Endpoint, protocol},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
        BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_LISTEN_CB,
    },
    helpers::{
        bpf_ktime_get_ns,
        generated::{bpf_get_socket_cookie, bpf_sock_hash_update, bpf_sock_ops_cb_flags_set},
    },
    macros::sock_ops,
    programs::SockOpsContext,
};

use super::TCP_CLOSE;
use crate::{
    agent::{config, current_process, dialog, sock_state},
    emit::{forget_refused, report_end},
    maps::GATE,
};

const AF_INET: u32 = 2;

#[sock_ops]
pub fn an_sockops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => {
            watch_state(&ctx);
            guard_resolver(&ctx);
        }
        BPF_SOCK_OPS_TCP_LISTEN_CB => mark_listener(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => {
            watch_state(&ctx);
            mark_accepted(&ctx);
        }
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == TCP_CLOSE => forget_closed(&ctx),
        _ => {}
    }
    1
}

#[inline(always)]
fn watch_state(ctx: &SockOpsContext) {
    // SAFETY: the context is the kernel's. Failure would only leave an entry until the end of the run.
    unsafe { bpf_sock_ops_cb_flags_set(ctx.ops, BPF_SOCK_OPS_STATE_CB_FLAG as i32) };
}

/// A connection to a resolver is made: from now on what it sends is judged. Without room nothing of it is approved,
/// and nothing leaves.
#[inline(always)]
fn guard_resolver(ctx: &SockOpsContext) {
    if state_of(ctx, false).is_none_or(|state| state.role != ROLE_ASKS) {
        return;
    }
    // SAFETY: the context is the kernel's.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() {
        return;
    }
    let Some(dialog) = dialog(sk.cast(), true) else { return };
    // SAFETY: the context is the kernel's.
    unsafe {
        dialog.out = (*ctx.ops).snd_nxt;
        dialog.in_ = (*ctx.ops).rcv_nxt;
        dialog.approved = 0;
        dialog.read = 0;
        dialog.have = 0;
        let mut cookie = bpf_get_socket_cookie(ctx.as_ptr());
        bpf_sock_hash_update(ctx.ops, (&raw const GATE).cast_mut().cast(), (&raw mut cookie).cast(), 0);
    }
}

/// What is remembered with the socket of the event; made if `create` and not there yet.
#[inline(always)]
fn state_of(ctx: &SockOpsContext, create: bool) -> Option<&'static mut SockState> {
    // SAFETY: the context is the kernel's.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() { None } else { sock_state(sk.cast(), create) }
}

/// Who sends to it on this host finds out by this whose it is. Without room it stays foreign to its own agent.
#[inline(always)]
fn mark_listener(ctx: &SockOpsContext) {
    let Some(cfg) = config() else { return };
    let Some(state) = state_of(ctx, true) else { return };
    state.agent = cfg.agent;
    state.process = current_process();
    // What its children begin with: it may have been connected before.
    state.role = ROLE_NONE;
    state.cached = CACHED_NONE;
}

/// The kernel says that the peer came to us: what goes back to it is a reply.
#[inline(always)]
fn mark_accepted(ctx: &SockOpsContext) {
    let Some(cfg) = config() else { return };
    // SAFETY: the context is the kernel's. Every field is read on its own and at a constant offset, before
    // the family is asked: the verifier refuses a context pointer that was computed.
    let (family, v4, v6, port) = unsafe {
        let ops = ctx.ops;
        let word = |index: usize| (&raw const (*ops).remote_ip6[index]).read_volatile();
        let v4 = (&raw const (*ops).remote_ip4).read_volatile();
        let v6 = [word(0), word(1), word(2), word(3)];
        (ctx.family(), v4, v6, u32::from_be((*ops).remote_port) as u16)
    };
    let peer = if family == AF_INET { Addr::from_v4_word(v4) } else { Addr { words: v6 } };
    if let Some(state) = state_of(ctx, true) {
        state.agent = cfg.agent;
        state.role = ROLE_ACCEPTED;
        state.peer = peer.words;
        state.peer_port = port;
        state.cached = CACHED_NONE;
        // Of what it inherits, its own is only who listened.
        state.refused = 0;
        begin_anew(state);
    }
}

/// A connection has ended: its queue is gone, and what it carried is told.
#[inline(always)]
fn forget_closed(ctx: &SockOpsContext) {
    let Some(state) = state_of(ctx, false) else { return };
    // SAFETY: the context is the kernel's.
    let flow = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if state.refused != 0 {
        forget_refused(flow);
        state.refused = 0;
    }
    let Some(cfg) = config() else { return };
    let (local, port) = local(ctx);
    report_end(cfg, flow, state, &Endpoint::new(local, port, protocol::TCP));
    // A socket can be connected again.
    begin_anew(state);
}

/// Nothing was sent, received or sampled yet.
#[inline(always)]
fn begin_anew(state: &mut SockState) {
    state.tx_bytes = 0;
    state.tx_packets = 0;
    state.rx_bytes = 0;
    state.rx_packets = 0;
    state.marks = 0;
    state.next = [0; 2];
    // SAFETY: no arguments.
    state.began = unsafe { bpf_ktime_get_ns() };
}

/// The near end: address and port.
#[inline(always)]
fn local(ctx: &SockOpsContext) -> (Addr, u16) {
    // SAFETY: as in `mark_accepted`.
    unsafe {
        let ops = ctx.ops;
        let word = |index: usize| (&raw const (*ops).local_ip6[index]).read_volatile();
        let v4 = (&raw const (*ops).local_ip4).read_volatile();
        let v6 = [word(0), word(1), word(2), word(3)];
        let addr = if ctx.family() == AF_INET { Addr::from_v4_word(v4) } else { Addr { words: v6 } };
        (addr, (*ops).local_port as u16)
    }
}
