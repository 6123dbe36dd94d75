//! cgroup/sock_create: only sockets whose packets the other hooks can judge, and who made them.
//!
//! The kernel calls it for AF_INET and AF_INET6 alone; other families are the launcher's seccomp filter's.

use agentnet_common::{
    abi::{AgentCfg, CFG_ICMP},
    addr::{Addr, Endpoint, protocol},
    event::Hook,
    verdict::{Reason, RuleId, Verdict},
};
use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_ktime_get_ns,
        generated::{bpf_get_socket_cookie, bpf_set_retval},
    },
    macros::cgroup_sock,
    programs::SockContext,
};

use super::code;
use crate::{
    agent::{config, current_process, sock_state},
    emit::{Facts, conclude},
};

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const SOCK_RAW: u32 = 3;
/// "Protocol not supported": clients of MPTCP, SCTP and the like fall back to TCP on it.
const EPROTONOSUPPORT: i32 = 93;

#[cgroup_sock(sock_create)]
pub fn an_sock_create(ctx: SockContext) -> i32 {
    code(try_sock_create(&ctx))
}

#[inline(always)]
fn try_sock_create(ctx: &SockContext) -> bool {
    let Some(cfg) = config() else { return false };
    // SAFETY: the context is the kernel's.
    let (family, kind, proto) = unsafe { ((*ctx.sock).family, (*ctx.sock).type_, (*ctx.sock).protocol) };
    let mut verdict = judge(cfg, kind, proto);
    if matches!(verdict, Verdict::Allow(_)) && kind == SOCK_STREAM {
        // What is to be remembered with it is made when there is something.
        return true;
    }
    let process = current_process();
    match sock_state(ctx.as_ptr(), true) {
        Some(state) => {
            state.agent = cfg.agent;
            state.process = process;
            // SAFETY: no arguments.
            state.began = unsafe { bpf_ktime_get_ns() };
        }
        None => verdict = Verdict::Deny(Reason::StorageFull),
    }
    let facts = Facts {
        hook: Hook::SockCreate,
        remote: Endpoint::new(Addr::UNSPECIFIED, 0, proto as u8),
        local: Endpoint::new(Addr::UNSPECIFIED, 0, proto as u8),
        process,
        // SAFETY: the context is the kernel's.
        flow: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        bytes: 0,
        detail: (family & 0xff) << 16 | (kind & 0xff) << 8 | proto & 0xff,
        sent: 0,
    };
    let allow = conclude(cfg, &facts, verdict, false);
    if !allow && matches!(verdict, Verdict::Deny(Reason::SocketType)) {
        // SAFETY: an errno the kernel accepts.
        unsafe { bpf_set_retval(-EPROTONOSUPPORT) };
    }
    allow
}

/// Plain TCP and UDP; ping sockets where a rule allows ICMP. Raw sockets never: they could send what no
/// header check foresees.
#[inline(always)]
fn judge(cfg: &AgentCfg, kind: u32, proto: u32) -> Verdict {
    const TCP: u32 = protocol::TCP as u32;
    const UDP: u32 = protocol::UDP as u32;
    const ICMP: u32 = protocol::ICMP as u32;
    const ICMPV6: u32 = protocol::ICMPV6 as u32;
    match (kind, proto) {
        (SOCK_STREAM, TCP) | (SOCK_DGRAM, UDP) => Verdict::Allow(RuleId::NOTHING_SENT),
        (SOCK_DGRAM, ICMP | ICMPV6) if cfg.flags & CFG_ICMP != 0 => Verdict::Allow(RuleId::NOTHING_SENT),
        (SOCK_DGRAM, ICMP | ICMPV6) => Verdict::Deny(Reason::PingSocket),
        (SOCK_RAW, _) => Verdict::Deny(Reason::RawSocket),
        _ => Verdict::Deny(Reason::SocketType),
    }
}
