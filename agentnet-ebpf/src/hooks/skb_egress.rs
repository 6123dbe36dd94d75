//! cgroup_skb/egress: the last word, on every packet, by the agent of its socket.

use core::ffi::c_void;

use agentnet_common::{
    abi::{AgentCfg, CACHED_ALLOW, CACHED_NONE, ROLE_ACCEPTED, ROLE_NONE, SockState},
    addr::protocol,
    event::{Hook, Way},
    verdict::{Reason, RuleId, Scope, Verdict, decide},
};
use aya_ebpf::{EbpfContext as _, bindings::bpf_sock, macros::cgroup_skb, programs::SkBuffContext};

use super::{
    TCP_LISTEN, code,
    skb::{begin, facts, socket},
    sock_addr::{is_reply, is_reported, remember},
};
use crate::{
    agent::{config, sock_state},
    emit::{conclude, count_allowed, remember_refused},
    local::scope_on_host,
    packet::{Direction, Packet, parse},
    sample,
    tables::Maps,
};

#[cgroup_skb(egress)]
pub fn an_skb_egress(ctx: SkBuffContext) -> i32 {
    code(try_egress(&ctx))
}

#[inline(always)]
fn try_egress(ctx: &SkBuffContext) -> bool {
    let Some(cfg) = config() else { return false };
    let sk = socket(ctx);
    let mut state = sk.and_then(|sk| sock_state(sk, false));
    let (packet, unreadable) = parse(ctx, Direction::Egress);
    let goes_on = state.as_ref().is_some_and(|state| goes_on(cfg, state, &packet));
    if !goes_on && !is_let_out(ctx, cfg, sk, &packet, unreadable, &mut state) {
        return false;
    }
    count_allowed(cfg, ctx.len());
    if let Some(state) = state {
        state.tx_bytes = state.tx_bytes.wrapping_add(u64::from(ctx.len()));
        state.tx_packets = state.tx_packets.wrapping_add(1);
        if sample::is_wanted(state, &packet, Way::Out) {
            sample::hand_over(ctx, Way::Out);
        }
    }
    true
}

/// Judges a packet in full and reports what is news. Returns whether it may leave.
#[inline(always)]
fn is_let_out(
    ctx: &SkBuffContext,
    cfg: &AgentCfg,
    sk: Option<*mut c_void>,
    packet: &Packet,
    unreadable: Option<Reason>,
    state: &mut Option<&'static mut SockState>,
) -> bool {
    let (verdict, fresh) = match (sk, unreadable) {
        (None, _) => (Verdict::Deny(Reason::NoSocket), false),
        (_, Some(reason)) => (Verdict::Deny(reason), false),
        (Some(sk), None) => judge(ctx, cfg, sk, packet, state),
    };
    if !fresh && matches!(verdict, Verdict::Allow(_)) {
        return true;
    }
    let facts = facts(ctx, Hook::Egress, packet, state.as_deref());
    // Whatever protocol an unreadable packet has: destroying asks TCP sockets only.
    if let (Verdict::Deny(_), Some(sk)) = (verdict, sk)
        && (unreadable.is_some() || facts.remote.protocol == protocol::TCP)
    {
        remember_refused(cfg, facts.flow);
        if let Some(state) = sock_state(sk, true) {
            state.refused = 1;
        }
    }
    conclude(cfg, &facts, verdict, fresh)
}

/// Whether the packet belongs to a TCP connection that is under way and was allowed, or accepted. What opens
/// one is never among them: on this host another listener may have taken the port.
#[inline(always)]
fn goes_on(cfg: &AgentCfg, state: &SockState, packet: &Packet) -> bool {
    let cached = state.cached == CACHED_ALLOW && state.generation == cfg.generation && !cfg.is_quarantined();
    let known = cached || state.role == ROLE_ACCEPTED && cfg.may_come_in(packet.on_loopback);
    known
        && state.agent == cfg.agent
        && packet.is_later_segment()
        && state.peer_port == packet.remote.port
        && state.peer == packet.remote.addr.words
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
            Some(state) => begin(ctx, state),
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
    let verdict = if half_open
        || is_accepted(state.as_deref(), cfg, packet)
        || is_reply(sk, cfg, &packet.remote, scope)
    {
        Verdict::Allow(RuleId::REPLY)
    } else {
        decide(&Maps, cfg, &packet.remote, scope)
    };
    let Some(state) = state else { return (verdict, false) };
    state.agent = cfg.agent;
    if tcp && packet.is_syn() {
        state.role = ROLE_NONE;
        state.sampled = 0;
        state.next = [0; 2];
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
