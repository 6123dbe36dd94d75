//! cgroup_skb/egress: the last word, on every packet, by the agent of its socket.

use agentnet_common::{
    abi::{AgentCfg, ROLE_ACCEPTED, ROLE_NONE, SockState},
    addr::protocol,
    event::Hook,
    verdict::{Reason, RuleId, Scope, Verdict, decide},
};
use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_socket_cookie, bpf_sk_fullsock},
    macros::cgroup_skb,
    programs::SkBuffContext,
};

use super::{
    TCP_LISTEN, code,
    skb::{NOBODY, unreadable},
    sock_addr::{is_cached, is_reply, is_reported, remember},
};
use crate::{
    agent::{config, sock_state},
    emit::{Facts, conclude, count_allowed, remember_refused},
    local::scope_on_host,
    packet::{Direction, Packet, parse},
    tables::Maps,
};

#[cgroup_skb(egress)]
pub fn an_skb_egress(ctx: SkBuffContext) -> i32 {
    code(try_egress(&ctx))
}

#[inline(always)]
fn try_egress(ctx: &SkBuffContext) -> bool {
    let Some(cfg) = config() else { return false };
    // SAFETY: the context is the kernel's.
    let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return unreadable(ctx, cfg, Hook::Egress, NOBODY, Reason::NoSocket);
    }
    // SAFETY: not null. The hook runs for full sockets only; a listener stands for its half-open children.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    if sk.is_null() {
        return unreadable(ctx, cfg, Hook::Egress, NOBODY, Reason::NoSocket);
    }
    let Some(state) = sock_state(sk.cast(), true) else {
        return unreadable(ctx, cfg, Hook::Egress, NOBODY, Reason::StorageFull);
    };
    state.agent = cfg.agent;
    let packet = match parse(ctx, Direction::Egress) {
        Ok(packet) => packet,
        Err(reason) => return unreadable(ctx, cfg, Hook::Egress, state.process, reason),
    };
    let tcp = packet.remote.protocol == protocol::TCP;
    let syn = tcp && packet.is_syn();
    // A connection that is under way, or more of the same to the same peer. What opens a connection is
    // judged afresh: on this host another listener may have taken the port.
    if !syn && (is_cached(state, cfg, &packet.remote) || is_accepted(state, cfg, &packet)) {
        account(cfg, state, &packet);
        return true;
    }
    let reported = is_reported(state, cfg, &packet.remote);
    if syn {
        state.role = ROLE_NONE;
    }
    // SAFETY: a full socket.
    let listening = tcp && unsafe { (*sk).state } == TCP_LISTEN;
    let scope = if packet.on_loopback {
        scope_on_host(ctx.as_ptr(), cfg, &packet.local, &packet.remote)
    } else {
        Scope::Remote
    };
    let half_open = listening && packet.is_syn_ack() && cfg.may_come_in(packet.on_loopback);
    let verdict = if half_open || is_reply(sk.cast(), cfg, &packet.remote, scope) {
        Verdict::Allow(RuleId::REPLY)
    } else {
        decide(&Maps, cfg, &packet.remote, scope)
    };
    // A listener's storage is what its children begin with: it must not carry a verdict. An accepted socket
    // keeps its peer.
    if !listening && state.role != ROLE_ACCEPTED {
        remember(state, cfg, &packet.remote, verdict);
    }
    let allowed = matches!(verdict, Verdict::Allow(_));
    let sent = state.tx_bytes;
    if allowed {
        account(cfg, state, &packet);
    }
    // SAFETY: the context is the kernel's.
    let flow = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if tcp && !allowed {
        remember_refused(cfg, flow);
    }
    let facts = Facts {
        hook: Hook::Egress,
        remote: packet.remote,
        local: packet.local,
        process: state.process,
        flow,
        bytes: packet.len,
        detail: 0,
        sent,
    };
    // What connect and sendmsg let through they have reported; a reply is the other side's flow.
    let fresh = !reported && !matches!(verdict, Verdict::Allow(RuleId::REPLY));
    conclude(cfg, &facts, verdict, fresh)
}

/// Counts what is let through, for the socket and for the agent.
#[inline(always)]
fn account(cfg: &AgentCfg, state: &mut SockState, packet: &Packet) {
    state.tx_bytes = state.tx_bytes.wrapping_add(u64::from(packet.len));
    state.tx_packets = state.tx_packets.wrapping_add(1);
    count_allowed(cfg, packet.len);
}

/// Whether the packet goes back to the peer whose connection this socket accepted.
#[inline(always)]
fn is_accepted(state: &SockState, cfg: &AgentCfg, packet: &Packet) -> bool {
    packet.remote.protocol == protocol::TCP
        && state.role == ROLE_ACCEPTED
        && state.peer_port == packet.remote.port
        && state.peer == packet.remote.addr.words
        && cfg.may_come_in(packet.on_loopback)
}
