//! cgroup_skb/egress: the last word, on every packet, by the agent of its socket.

use core::ffi::c_void;

use agentnet_common::{
    abi::{AgentCfg, CACHED_ALLOW, CACHED_NONE, ROLE_ACCEPTED, ROLE_NONE, SockState},
    addr::protocol,
    event::Hook,
    verdict::{Reason, RuleId, Scope, Verdict},
};
use aya_ebpf::{EbpfContext as _, bindings::bpf_sock, macros::cgroup_skb, programs::SkBuffContext};

use super::{
    TCP_LISTEN, code,
    skb::{cookie, facts, socket},
    sock_addr::{is_reply, is_reported, remember},
};
use crate::{
    acts,
    agent::{config, owner, sock_state},
    emit::{conclude, count_allowed, remember_refused},
    local::scope_on_host,
    packet::{Direction, Packet, on_loopback, parse, segment},
};

#[cgroup_skb(egress)]
pub fn an_skb_egress(ctx: SkBuffContext) -> i32 {
    code(try_egress(&ctx))
}

#[inline(always)]
fn try_egress(ctx: &SkBuffContext) -> bool {
    let Some(cfg) = config() else { return false };
    let sk = socket(ctx);
    let mut state = sk.and_then(|sk| sock_state(sk.as_ptr(), false));
    if let Some(state) = &mut state
        && goes_on(ctx, cfg, state)
    {
        account(cfg, Some(state), ctx.len());
        return true;
    }
    let (packet, unreadable) = parse(ctx, Direction::Egress);
    let (verdict, fresh) = match (sk, unreadable) {
        (None, _) => (Verdict::Deny(Reason::NoSocket), false),
        (_, Some(reason)) => (Verdict::Deny(reason), false),
        (Some(sk), None) => judge(ctx, cfg, sk.as_ptr(), &packet, &mut state),
    };
    if matches!(verdict, Verdict::Allow(_)) {
        account(cfg, state.as_deref_mut(), ctx.len());
        if !fresh {
            return true;
        }
    }
    let facts = facts(ctx, Hook::Egress, &packet, state.as_deref());
    // Whatever protocol an unreadable packet has: destroying asks TCP sockets only.
    if let (Verdict::Deny(_), Some(sk)) = (verdict, sk)
        && (unreadable.is_some() || facts.remote.protocol == protocol::TCP)
    {
        remember_refused(cfg, facts.flow);
        if let Some(state) = sock_state(sk.as_ptr(), true) {
            state.refused = 1;
        }
    }
    conclude(cfg, &facts, verdict, fresh)
}

/// Whether the packet belongs to a TCP connection that is under way and was allowed, or accepted. What opens
/// one is never among them: on this host another listener may have taken the port.
#[inline(always)]
fn goes_on(ctx: &SkBuffContext, cfg: &AgentCfg, state: &SockState) -> bool {
    let cached = state.cached == CACHED_ALLOW && state.generation == cfg.generation && !cfg.is_quarantined();
    // Who came stays welcome whatever changes, but not whom somebody blocks.
    let accepted = state.role == ROLE_ACCEPTED && !cfg.has_blocks() && cfg.may_come_in(on_loopback(ctx));
    let known = cached || accepted;
    known
        && state.agent == cfg.agent
        && segment(ctx).is_some_and(|segment| segment.goes_to(&state.peer, state.peer_port))
}

/// The verdict on a packet, and whether it begins a flow that nobody has reported.
#[inline(always)]
fn judge(
    ctx: &SkBuffContext,
    cfg: &AgentCfg,
    sk: *mut c_void,
    packet: &Packet,
    state: &mut Option<&'static mut SockState>,
) -> (Verdict, bool) {
    let tcp = packet.remote.protocol == protocol::TCP;
    // A connection that carries nothing is over before it pays to remember anything. On this host, the other
    // end asks whose socket this is.
    if state.is_none() && (!tcp || packet.has_data || packet.on_loopback) {
        *state = sock_state(sk, true);
        match state {
            Some(state) => state.process = owner(cookie(ctx)),
            None => return (Verdict::Deny(Reason::StorageFull), false),
        }
    }
    // SAFETY: a full socket.
    let listening = tcp && unsafe { (*sk.cast::<bpf_sock>()).state } == TCP_LISTEN;
    let scope = if packet.on_loopback {
        scope_on_host(ctx.as_ptr(), cfg, &packet.local, &packet.remote)
    } else {
        Scope::Remote
    };
    let half_open = listening && packet.is_syn_ack() && cfg.may_come_in(packet.on_loopback);
    let reply =
        half_open || is_accepted(state.as_deref(), cfg, packet) || is_reply(sk, cfg, &packet.remote, scope);
    let verdict = acts::judge(cfg, &packet.remote, scope, reply);
    let Some(state) = state else { return (verdict, false) };
    state.agent = cfg.agent;
    if tcp && packet.is_syn() {
        state.role = ROLE_NONE;
    }
    // What connect and sendmsg let through they have reported. TCP connects always, so that it is news only
    // where the policy has changed since.
    let reported = is_reported(state, cfg, &packet.remote) || tcp && state.cached == CACHED_NONE;
    // A listener's storage is what its children begin with: it must not carry a verdict. An accepted socket
    // keeps its peer.
    if !listening && state.role != ROLE_ACCEPTED {
        remember(state, cfg, &packet.remote, verdict);
    }
    // A reply is the other side's flow.
    (verdict, !reported && !matches!(verdict, Verdict::Allow(RuleId::REPLY)))
}

/// Counts what is let through, for the socket and for the agent.
#[inline(always)]
fn account(cfg: &AgentCfg, state: Option<&mut SockState>, bytes: u32) {
    if let Some(state) = state {
        state.tx_bytes = state.tx_bytes.wrapping_add(u64::from(bytes));
        state.tx_packets = state.tx_packets.wrapping_add(1);
    }
    count_allowed(cfg, bytes);
}

/// Whether the packet goes back to the peer whose connection this socket accepted.
#[inline(always)]
fn is_accepted(state: Option<&SockState>, cfg: &AgentCfg, packet: &Packet) -> bool {
    packet.remote.protocol == protocol::TCP
        && !packet.is_syn()
        && cfg.may_come_in(packet.on_loopback)
        && state.is_some_and(|state| {
            state.role == ROLE_ACCEPTED
                && state.peer_port == packet.remote.port
                && state.peer == packet.remote.addr.words
        })
}
