//! cgroup_skb/ingress: who may connect into the agent, `[local] listen`.

use core::ffi::c_void;

use agentnet_common::{
    abi::{AgentCfg, SockState, TOLD_ALLOWED, UDP_PEERS},
    addr::protocol,
    event::Way,
    verdict::{Reason, RuleId, Scope, Verdict},
};
use aya_ebpf::{EbpfContext as _, helpers::bpf_ktime_get_ns, macros::cgroup_skb, programs::SkBuffContext};

use super::{
    code,
    skb::{begin, let_in, socket},
    skb_report::{report, told},
    sock_addr::is_reported,
};
use crate::{
    acts,
    agent::{config, sock_state, udp_peers},
    local::scope_on_host,
    packet::{Direction, Packet, parse},
    tables::decide_remote,
};

/// How long a UDP peer that was let in may be answered after its last datagram, nanoseconds. As long as
/// connection tracking keeps an answered UDP flow (`nf_conntrack_udp_timeout_stream`).
const REPLY_TIME: u64 = 120_000_000_000;

#[cgroup_skb(ingress)]
pub fn an_skb_ingress(ctx: SkBuffContext) -> i32 {
    code(try_ingress(&ctx))
}

#[inline(always)]
fn try_ingress(ctx: &SkBuffContext) -> bool {
    let Some(cfg) = config() else { return false };
    // Only what opens a connection is a question; the rest belongs to one that was answered.
    let sk = socket(ctx);
    let (packet, unreadable) = parse(ctx, Direction::Ingress);
    let mut state = sk.and_then(|sk| sock_state(sk, false));
    // Whatever it answers, and belongs to.
    let blocked = unreadable.is_none() && acts::is_blocked(cfg, &packet.remote.addr);
    let later = sk.is_some() && unreadable.is_none() && !blocked && packet.is_later_segment();
    if later {
        // A connection on which only the other side has talked until now.
        if let (Some(sk), None, true) = (sk, &state, packet.has_data) {
            state = sock_state(sk, true);
            if let Some(state) = &mut state {
                state.agent = cfg.agent;
                begin(ctx, state);
            }
        }
    } else {
        let verdict = match (sk, unreadable) {
            (None, _) => Verdict::Deny(Reason::NoSocket),
            // What cannot be read cannot be a reply to something that was allowed.
            (_, Some(reason)) => Verdict::Deny(reason),
            _ if blocked => Verdict::Deny(Reason::Blocked),
            (Some(sk), None) => judge(ctx, cfg, sk, state.as_deref(), &packet),
        };
        let told = told(ctx, verdict);
        if told & TOLD_ALLOWED == 0 {
            return report(ctx, Way::In, told);
        }
    }
    let_in(ctx, cfg, state, &packet)
}

#[inline(always)]
fn judge(
    ctx: &SkBuffContext,
    cfg: &AgentCfg,
    sk: *mut c_void,
    state: Option<&SockState>,
    packet: &Packet,
) -> Verdict {
    let reply = Verdict::Allow(RuleId::REPLY);
    match packet.remote.protocol {
        protocol::TCP if !packet.is_syn() => return reply,
        protocol::TCP => {}
        // The answer to what the agent was allowed to send.
        _ if state.is_some_and(|state| is_answer(state, cfg, packet)) => return reply,
        _ => {}
    }
    if cfg.may_come_in(packet.on_loopback) {
        if packet.remote.protocol == protocol::UDP {
            admit(sk, packet);
        }
        return reply;
    }
    if packet.on_loopback
        && scope_on_host(ctx.as_ptr(), cfg, &packet.local, &packet.remote) == Scope::OwnListener
    {
        // The agent talking to itself.
        return reply;
    }
    if packet.remote.protocol != protocol::TCP
        && matches!(decide_remote(cfg, &packet.remote, 0).0, Verdict::Allow(_))
    {
        return reply;
    }
    Verdict::Deny(if packet.remote.protocol == protocol::TCP {
        Reason::ListenDenied
    } else {
        Reason::Unsolicited
    })
}

/// Whether the packet answers what the agent was allowed to send. What was granted may have ended since.
#[inline(always)]
fn is_answer(state: &SockState, cfg: &AgentCfg, packet: &Packet) -> bool {
    is_reported(state, cfg, &packet.remote) && state.rule != RuleId::GRANT.0
}

/// Lets the agent answer a UDP peer: in the place it has already, else in the one that ends first.
#[inline(always)]
fn admit(sk: *mut c_void, packet: &Packet) {
    // Without room the peer is let in and gets no answer.
    let Some(known) = udp_peers(sk, true) else { return };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let mut place = 0;
    let mut oldest = u64::MAX;
    for (index, peer) in known.peers.iter().enumerate() {
        if peer.port == packet.remote.port && peer.addr == packet.remote.addr.words {
            place = index;
            break;
        }
        if peer.expiry < oldest {
            oldest = peer.expiry;
            place = index;
        }
    }
    if let Some(peer) = known.peers.get_mut(place & (UDP_PEERS - 1)) {
        // Nobody may be answered at this place until all of it is written.
        let expiry = &raw mut peer.expiry;
        // SAFETY: a field of the storage, aligned.
        unsafe { expiry.write_volatile(0) };
        peer.addr = packet.remote.addr.words;
        peer.port = packet.remote.port;
        peer.on_this_host = u16::from(packet.on_loopback);
        // SAFETY: as above.
        unsafe { expiry.write_volatile(now + REPLY_TIME) };
    }
}
