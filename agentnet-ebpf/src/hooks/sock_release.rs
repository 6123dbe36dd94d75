//! cgroup/sock_release: tells of a socket of UDP or ICMP that ends. Those of TCP live on after close(): sockops tells.

use agentnet_common::addr::{Addr, Endpoint, protocol};
use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_socket_cookie, macros::cgroup_sock, programs::SockContext,
};

use super::ALLOW;
use crate::{
    agent::{config, sock_state},
    emit::report_end,
};

/// The kernel does not ask: a socket is closed whatever this returns.
#[cgroup_sock(sock_release)]
pub fn an_sock_release(ctx: SockContext) -> i32 {
    // SAFETY: the context is the kernel's.
    let proto = unsafe { (*ctx.sock).protocol } as u8;
    if proto != protocol::TCP
        && let Some(cfg) = config()
        && let Some(state) = sock_state(ctx.as_ptr(), false)
    {
        // SAFETY: the context is the kernel's.
        let flow = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
        // Which port it had, this hook may not read.
        report_end(cfg, flow, state, &Endpoint::new(Addr::UNSPECIFIED, 0, proto));
    }
    ALLOW
}
