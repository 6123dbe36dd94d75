//! What names open, and what resolvers are asked, at the host's end of a container's interface: there a packet passes
//! only if it comes from the socket whose payload the cgroup's own gates have judged. A frame of the agent's own
//! making has no such socket, however well it is addressed.

use core::ffi::c_void;

use agentnet_common::{
    abi::{ASKS_DNS, AgentCfg, ROLE_SAID, ROLE_TLS, SPEAKS_TLS, SockState},
    addr::protocol,
    verdict::{Reason, RuleId, Verdict, is_dns},
};
use aya_ebpf::{bindings::bpf_sock, programs::SkBuffContext};

use super::{AF_INET, AF_INET6, skb::socket, skb_query::awaited};
use crate::{
    acts::is_granted,
    agent::sock_state,
    packet::{Packet, load},
    pins::still_named,
};

/// `verdict` on a packet by where it goes, `named` being the name that opens the address or 0; held to what the
/// cgroup's gates have judged.
#[inline(always)]
pub fn hold(ctx: &SkBuffContext, cfg: &AgentCfg, packet: &Packet, verdict: Verdict, named: u64) -> Verdict {
    let sk = socket(ctx);
    let state = sk.and_then(|sk| sock_state(sk, false));
    let verdict = by_name(cfg, packet, state.as_deref(), verdict, named);
    match verdict {
        Verdict::Allow(rule) if is_dns(rule, &packet.remote) && packet.carries() => {
            let is_query = sk.is_some_and(|sk| is_judged_query(ctx, packet, sk, state.as_deref()));
            if is_query { verdict } else { Verdict::Deny(Reason::DnsUnjudged) }
        }
        _ => verdict,
    }
}

/// The verdict on a packet of TCP, by the name that has opened its connection, which is open as long as the name is
/// allowed, or else by the one that opens its address.
#[inline(always)]
fn by_name(
    cfg: &AgentCfg,
    packet: &Packet,
    state: Option<&SockState>,
    verdict: Verdict,
    named: u64,
) -> Verdict {
    let silent = matches!(verdict, Verdict::Deny(Reason::NoRule | Reason::PortOrProtocol));
    if packet.remote.protocol != protocol::TCP || !silent && named == 0 {
        return verdict;
    }
    // Of a socket that has gone elsewhere since nothing is known.
    let own = state.filter(|state| state.is_peer(&packet.remote));
    let held =
        own.is_some_and(|state| matches!(state.role, ROLE_TLS | ROLE_SAID) && state.held_by == cfg.agent);
    let name = own.filter(|state| held || state.agent == cfg.agent).map_or(0, |state| state.name);
    let Some((rule, speaks)) =
        still_named(cfg, name, &packet.remote).or_else(|| still_named(cfg, named, &packet.remote))
    else {
        return verdict;
    };
    if speaks & SPEAKS_TLS == 0 || held || !packet.carries() {
        return Verdict::Allow(rule);
    }
    if is_granted(cfg, &packet.remote) {
        return Verdict::Allow(RuleId::GRANT);
    }
    Verdict::Deny(Reason::TlsUnjudged)
}

/// Whether the packet is of a socket whose queries are judged: it is one that is waited for, or of a connection to this
/// resolver. Or of a socket of IP that no agent has made, as those of a container runtime are that asks for the container
/// from within it: raw frames have none of that kind.
#[inline(always)]
fn is_judged_query(ctx: &SkBuffContext, packet: &Packet, sk: *mut c_void, state: Option<&SockState>) -> bool {
    // SAFETY: a full socket.
    let (family, protocol) = unsafe { ((*sk.cast::<bpf_sock>()).family, (*sk.cast::<bpf_sock>()).protocol) };
    // A tunnel keeps the socket of what is in it.
    if protocol != u32::from(packet.remote.protocol) {
        return false;
    }
    let Some(state) = state else { return matches!(family, AF_INET | AF_INET6) };
    if state.marks & ASKS_DNS == 0 {
        return false;
    }
    if packet.remote.protocol == protocol::TCP {
        return state.is_peer(&packet.remote);
    }
    let Ok(id) = load::<u16>(ctx, packet.payload) else { return false };
    awaited(sk, &packet.remote, u16::from_be(id)).is_some()
}
