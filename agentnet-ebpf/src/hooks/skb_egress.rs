//! cgroup_skb/egress: the last word, on every packet, by the agent of its socket.

use core::ffi::c_void;

use agentnet_common::{
    abi::{
        AgentCfg, CACHED_ALLOW, CACHED_NONE, HELLO_CLOSED, ROLE_ACCEPTED, ROLE_ASKS, ROLE_NONE, ROLE_SAID,
        ROLE_TLS, SPEAKS_TLS, SockState, TOLD_ALLOWED,
    },
    addr::protocol,
    event::Way,
    verdict::{Reason, RuleId, Scope, Verdict, is_dns},
};
use aya_ebpf::{EbpfContext as _, bindings::bpf_sock, macros::cgroup_skb, programs::SkBuffContext};

use super::{
    TCP_LISTEN, code,
    skb::{begin, let_out, socket},
    skb_report::{report, told},
    sock_addr::{is_reply, is_reported, remember},
};
use crate::{
    acts::is_granted,
    agent::{config, hello, sock_state},
    local::scope_on_host,
    opaque,
    packet::{Direction, Packet, parse},
    pins::still_named,
    tables::{decide, look_up},
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
    if let Some(state) = &mut state
        && goes_on(cfg, state, &packet)
    {
        let rule = RuleId(state.rule);
        return let_out(ctx, cfg, Some(state), &packet, rule);
    }
    let (verdict, fresh) = match (sk, unreadable) {
        (None, _) => (Verdict::Deny(Reason::NoSocket), false),
        (_, Some(reason)) => (Verdict::Deny(reason), false),
        (Some(sk), None) => judge(ctx, cfg, sk, &packet, &mut state),
    };
    let told = told(ctx, verdict);
    if told & TOLD_ALLOWED != 0 && !opaque::flag(fresh, ctx.len()) {
        let_out(ctx, cfg, state, &packet, RuleId(told as u16))
    } else {
        report(ctx, Way::Out, told)
    }
}

/// Whether the packet belongs to a TCP connection that is under way and was allowed, or accepted. What opens
/// one is never among them: on this host another listener may have taken the port.
#[inline(always)]
fn goes_on(cfg: &AgentCfg, state: &SockState, packet: &Packet) -> bool {
    let cached = state.cached == CACHED_ALLOW && state.generation == cfg.generation && !cfg.is_quarantined();
    // Who came stays welcome whatever changes, but not whom somebody blocks.
    let accepted = state.role == ROLE_ACCEPTED && !cfg.has_blocks() && cfg.may_come_in(packet.on_loopback);
    let known = cached || accepted;
    known && state.agent == cfg.agent && packet.is_later_segment() && state.is_peer(&packet.remote)
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
    let scope = opaque::scope(scope, ctx.len());
    let half_open = listening && packet.is_syn_ack() && cfg.may_come_in(packet.on_loopback);
    let answers =
        half_open || is_accepted(state.as_deref(), cfg, packet) || is_reply(sk, cfg, &packet.remote, scope);
    let answers = opaque::flag(answers, ctx.len());
    let rules = look_up(cfg.slot, &packet.remote.addr);
    let (mut verdict, mut named) = decide(cfg, rules, &packet.remote, scope, answers, 0);
    let syn = tcp && packet.is_syn();
    let goes_on = !syn && tcp && state.as_ref().is_some_and(|state| state.is_peer(&packet.remote));
    // A connection that a name has opened is open as long as the name is allowed, however old the answer; and by the
    // name, though it was allowed by hand as well: that ends. One that has to say a name is open by that one alone.
    let silent = matches!(
        verdict,
        Verdict::Deny(Reason::NoRule | Reason::PortOrProtocol) | Verdict::Allow(RuleId::GRANT)
    );
    let (mut held, mut by) = (false, named);
    if let Some(state) = state.as_deref()
        && goes_on
    {
        held = matches!(state.role, ROLE_TLS | ROLE_SAID) && state.held_by == cfg.agent;
        if silent || named != 0 && held {
            by = state.name;
        }
    }
    let mut gates = false;
    if tcp && (by != 0 || named != 0) {
        let found = still_named(cfg, by, &packet.remote);
        let otherwise = match found {
            Some((_, speaks)) if speaks & SPEAKS_TLS != 0 && !syn && !held => Some(Reason::TlsUnjudged),
            Some((rule, speaks)) => {
                gates = syn && speaks & SPEAKS_TLS != 0;
                verdict = Verdict::Allow(rule);
                named = by;
                None
            }
            None if named != 0 => Some(Reason::NoRule),
            None => None,
        };
        if let Some(reason) = otherwise {
            verdict = if is_granted(cfg, &packet.remote) {
                Verdict::Allow(RuleId::GRANT)
            } else {
                Verdict::Deny(reason)
            };
            named = 0;
        }
        // What a SYN carries was judged by nobody.
        if gates && packet.has_data {
            verdict = Verdict::Deny(Reason::TlsUnjudged);
        }
    }
    // A connection to a resolver: what it sends is judged before TCP takes it, see `sk_msg`.
    let asks = syn && matches!(verdict, Verdict::Allow(rule) if is_dns(rule, &packet.remote));
    if (asks || gates) && state.is_none() {
        *state = sock_state(sk, true);
        match state {
            Some(state) => begin(ctx, state),
            None => return (Verdict::Deny(Reason::StorageFull), false),
        }
    }
    let Some(state) = state else { return (verdict, false) };
    state.name = named;
    state.agent = cfg.agent;
    if syn {
        if gates {
            state.role = ROLE_TLS;
            state.held_by = cfg.agent;
            // Of an earlier connection of the socket.
            if let Some(hello) = hello(sk, false) {
                hello.stage = HELLO_CLOSED;
            }
        } else if state.role != ROLE_TLS || state.held_by == cfg.agent {
            state.role = if asks { ROLE_ASKS } else { ROLE_NONE };
        }
        state.marks = 0;
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
        && state.is_some_and(|state| state.role == ROLE_ACCEPTED && state.is_peer(&packet.remote))
}
