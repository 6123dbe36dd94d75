//! sockops: marks sockets that listen and those that accept() makes, and forgets refused data of sockets that
//! are gone.

use core::ffi::c_void;

use agentnet_common::{
    abi::{
        CACHED_NONE, HELLO_AWAITED, HELLO_NOT_FREE, ROLE_ACCEPTED, ROLE_ASKS, ROLE_NONE, ROLE_TLS, SockState,
    },
    addr::{Addr, Endpoint, protocol},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RTT_CB,
        BPF_SOCK_OPS_RTT_CB_FLAG, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_LISTEN_CB,
    },
    helpers::{
        bpf_ktime_get_ns,
        generated::{
            bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_map_delete_elem, bpf_sock_hash_update,
            bpf_sock_ops_cb_flags_set,
        },
    },
    macros::sock_ops,
    programs::SockOpsContext,
};

use super::{AF_INET, TCP_CLOSE};
use crate::{
    agent::{config, current_process, dialog, hello, sock_state},
    emit::{forget_refused, report_end},
    maps::{GATE, HELLOS},
};

#[sock_ops]
pub fn an_sockops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => {
            watch_state(&ctx);
            guard(&ctx);
        }
        BPF_SOCK_OPS_TCP_LISTEN_CB => mark_listener(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => {
            watch_state(&ctx);
            mark_accepted(&ctx);
        }
        BPF_SOCK_OPS_RTT_CB => let_go(&ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == TCP_CLOSE => forget_closed(&ctx),
        _ => {}
    }
    1
}

#[inline(always)]
fn watch_state(ctx: &SockOpsContext) {
    watch(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
}

/// What else the program is called for.
#[inline(always)]
fn watch(ctx: &SockOpsContext, flags: u32) {
    // SAFETY: the context is the kernel's. Failure would only leave entries until the end of the run, or a connection
    // slower than it might be.
    unsafe { bpf_sock_ops_cb_flags_set(ctx.ops, flags as i32) };
}

/// A connection is made on which what is sent has to be judged: from now on it is. Without room nothing of it is approved,
/// and nothing leaves.
#[inline(always)]
fn guard(ctx: &SockOpsContext) {
    let Some(sk) = socket(ctx) else { return };
    let Some(state) = sock_state(sk, false).filter(|state| matches!(state.role, ROLE_ASKS | ROLE_TLS)) else {
        return;
    };
    // SAFETY: the context is the kernel's.
    state.netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) } as u32;
    if state.role == ROLE_ASKS { guard_resolver(ctx, sk) } else { guard_name(ctx, sk) }
}

/// To a resolver, whose queries are judged.
#[inline(always)]
fn guard_resolver(ctx: &SockOpsContext, sk: *mut c_void) {
    let Some(dialog) = dialog(sk, true) else { return };
    // SAFETY: the context is the kernel's.
    (dialog.out, dialog.in_) = unsafe { ((*ctx.ops).snd_nxt, (*ctx.ops).rcv_nxt) };
    dialog.approved = 0;
    dialog.read = 0;
    dialog.have = 0;
    dialog.broken = 0;
    hold(ctx, (&raw const GATE).cast_mut().cast(), cookie(ctx));
}

/// To where a name has to be said in TLS.
#[inline(always)]
fn guard_name(ctx: &SockOpsContext, sk: *mut c_void) {
    let Some(hello) = hello(sk, true) else { return };
    // SAFETY: the context is the kernel's.
    hello.out = unsafe { (*ctx.ops).snd_nxt };
    hello.judged = 0;
    hello.left = 0;
    hello.free = HELLO_NOT_FREE;
    hello.have = 0;
    hello.flow = cookie(ctx);
    hello.stage = HELLO_AWAITED;
    hold(ctx, (&raw const HELLOS).cast_mut().cast(), hello.flow);
    watch(ctx, BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTT_CB_FLAG);
}

/// Puts the socket into `map`, whose program judges what it sends.
#[inline(always)]
fn hold(ctx: &SockOpsContext, map: *mut c_void, mut cookie: u64) {
    // SAFETY: the context is the kernel's.
    unsafe { bpf_sock_hash_update(ctx.ops, map, (&raw mut cookie).cast(), 0) };
}

/// The cookie of the socket.
#[inline(always)]
fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the context is the kernel's.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// Something was acknowledged. A connection that has said its name leaves the map: in it every call costs more.
#[inline(always)]
fn let_go(ctx: &SockOpsContext) {
    let Some(state) = state_of(ctx, false) else { return };
    if state.role == ROLE_TLS {
        return;
    }
    let mut cookie = cookie(ctx);
    // SAFETY: the kernel keeps what a call that is under way needs of the map until it ends; nothing is held back any more
    // that could be lost.
    unsafe { bpf_map_delete_elem((&raw const HELLOS).cast_mut().cast(), (&raw mut cookie).cast()) };
    watch_state(ctx);
}

/// The socket of the event, not null.
#[inline(always)]
fn socket(ctx: &SockOpsContext) -> Option<*mut c_void> {
    // SAFETY: the context is the kernel's.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() { None } else { Some(sk.cast()) }
}

/// What is remembered with the socket of the event; made if `create` and not there yet.
#[inline(always)]
fn state_of(ctx: &SockOpsContext, create: bool) -> Option<&'static mut SockState> {
    sock_state(socket(ctx)?, create)
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
        // Both ends have opened it at once: it is held to what it has to say, and says nothing.
        if state.role == ROLE_TLS {
            return;
        }
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
    let flow = cookie(ctx);
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
