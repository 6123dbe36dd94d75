//! tcx on the host's interfaces: the second line, and the only one for packets that have no socket of the agent's.
//!
//! On the host's side of a container's interface, whatever enters is the container's: what came from a TUN
//! device, a stack of the agent's own, a macvlan, a rewrite or copy by netfilter, a route, a tunnel or a packet
//! socket is judged by where it goes. On the interfaces of the host itself, frames of agents' packet sockets
//! are refused; what their other sockets send was judged by cgroup_skb.

use agentnet_common::{
    abi::{AgentCfg, HOSTCG_DEPTH, MODE_AUDIT, Uplink},
    addr::{Addr, Endpoint, protocol},
    event::Hook,
    neighbour::is_link_local,
    verdict::{Reason, RuleId, Verdict},
};
use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_socket_cookie, bpf_skb_ancestor_cgroup_id},
    macros::classifier,
    programs::{SkBuffContext, TcContext},
};

use super::{AF_INET, AF_INET6, tcx_gate::hold};
use crate::{
    acts,
    agent::NOBODY,
    emit::{Facts, conclude, remember_refused},
    maps::{AGENTS, HOSTCG, IFACE},
    neighbour::{ETHERNET, asker, is_needed_arp, is_needed_ipv6},
    packet::{Direction, Packet, parse_at},
    tables::decide_remote,
    visitors,
};

/// Ask the next program, and pass if there is none (include/uapi/linux/bpf.h).
const TCX_NEXT: i32 = -1;
/// Drop.
const TCX_DROP: i32 = 2;

// include/uapi/linux/if_ether.h
const ETH_P_IP: u16 = 0x0800;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;

const fn action(allow: bool) -> i32 {
    if allow { TCX_NEXT } else { TCX_DROP }
}

/// Ingress of the host's side: what the container sends.
#[classifier]
pub fn an_tcx_from(ctx: TcContext) -> i32 {
    action(try_from(&SkBuffContext::new(ctx.skb.skb)))
}

/// Egress of the host's side: what is sent to the container.
#[classifier]
pub fn an_tcx_to(ctx: TcContext) -> i32 {
    action(try_to(&SkBuffContext::new(ctx.skb.skb)))
}

/// Egress of any interface of the host: frames that no other hook sees.
#[classifier]
pub fn an_tcx_frame(ctx: TcContext) -> i32 {
    action(try_frame(&SkBuffContext::new(ctx.skb.skb)))
}

/// The configuration of an agent that a map names; `None` until it was written: nothing passes then.
#[inline(always)]
fn config(agent: Option<&u32>) -> Option<&'static AgentCfg> {
    AGENTS.get(*agent?).filter(|cfg| cfg.is_configured())
}

/// Whose container is behind this interface, and the network namespace that it is.
#[inline(always)]
fn config_of_interface(ctx: &SkBuffContext) -> Option<(&'static AgentCfg, u32)> {
    // SAFETY: the context is the kernel's; the entry is replaced as a whole.
    let uplink: &Uplink = unsafe { IFACE.get((*ctx.skb.skb).ifindex) }?;
    Some((config(Some(&uplink.agent))?, uplink.netns))
}

/// The EtherType; 0 for a frame with a VLAN tag, which the kernel keeps beside the packet.
#[inline(always)]
fn ether_type(ctx: &SkBuffContext) -> u16 {
    // SAFETY: the context is the kernel's.
    let (protocol, tagged) = unsafe { ((*ctx.skb.skb).protocol, (*ctx.skb.skb).vlan_present) };
    if tagged != 0 { 0 } else { u16::from_be(protocol as u16) }
}

/// Reads a packet whose EtherType says `expected`: a receiver beyond a bridge might go by either.
#[inline(always)]
fn read(ctx: &SkBuffContext, expected: u16, direction: Direction) -> Result<Packet, Reason> {
    let packet = parse_at(ctx, ETHERNET, direction)?;
    if packet.remote.addr.is_v4() == (expected == ETH_P_IP) { Ok(packet) } else { Err(Reason::Malformed) }
}

/// What a report says of a frame that is no packet.
const UNKNOWN: Endpoint = Endpoint::new(Addr::UNSPECIFIED, 0, 0);

#[inline(always)]
fn try_from(ctx: &SkBuffContext) -> bool {
    let Some((cfg, netns)) = config_of_interface(ctx) else { return false };
    let (verdict, remote, local) = judge_from(ctx, cfg, netns);
    if matches!(verdict, Verdict::Allow(_)) {
        return true;
    }
    report(ctx, cfg, Hook::TcxFrom, verdict, remote, local)
}

#[inline(always)]
fn judge_from(ctx: &SkBuffContext, cfg: &AgentCfg, netns: u32) -> (Verdict, Endpoint, Endpoint) {
    let needed = Verdict::Allow(RuleId::NOTHING_SENT);
    if cfg.is_quarantined() {
        return (Verdict::Deny(Reason::Quarantined), UNKNOWN, UNKNOWN);
    }
    let kind = ether_type(ctx);
    match kind {
        ETH_P_IP => {}
        ETH_P_IPV6 if is_needed_ipv6(ctx, cfg) => return (needed, UNKNOWN, UNKNOWN),
        ETH_P_IPV6 => {}
        ETH_P_ARP if is_needed_arp(ctx) => return (needed, UNKNOWN, UNKNOWN),
        ETH_P_ARP => return (Verdict::Deny(Reason::Malformed), UNKNOWN, UNKNOWN),
        _ => return (Verdict::Deny(Reason::Family), UNKNOWN, UNKNOWN),
    }
    let packet = match read(ctx, kind, Direction::Egress) {
        Ok(packet) => packet,
        Err(reason) => return (Verdict::Deny(reason), UNKNOWN, UNKNOWN),
    };
    (judge_packet(ctx, cfg, netns, &packet), packet.remote, packet.local)
}

#[inline(always)]
fn judge_packet(ctx: &SkBuffContext, cfg: &AgentCfg, netns: u32, packet: &Packet) -> Verdict {
    // On a wire there is no loopback. Where the host routes it all the same, it would be the host's.
    if packet.remote.addr.is_loopback() {
        return Verdict::Deny(Reason::ForeignListener);
    }
    // The host's own addresses are no other place either: a rule that opens them is as good here.
    let (verdict, named) = decide_remote(cfg, &packet.remote, netns);
    let verdict = hold(ctx, cfg, packet, verdict, named);
    match verdict {
        // Whoever came is not answered either.
        Verdict::Allow(_) | Verdict::Deny(Reason::Blocked) => verdict,
        Verdict::Deny(_) if cfg.may_come_in(false) && visitors::is_answer(cfg, packet) => {
            Verdict::Allow(RuleId::REPLY)
        }
        Verdict::Deny(_) => verdict,
    }
}

#[inline(always)]
fn try_to(ctx: &SkBuffContext) -> bool {
    let Some((cfg, netns)) = config_of_interface(ctx) else { return false };
    let kind = ether_type(ctx);
    if !matches!(kind, ETH_P_IP | ETH_P_IPV6) {
        return true;
    }
    if kind == ETH_P_IPV6
        && let Some(addr) = asker(ctx)
    {
        // To the link's own addresses an answer passes in any case.
        if !is_link_local(&addr) {
            visitors::note_asker(cfg, addr);
        }
        return true;
    }
    // What cannot be read asks for nothing: later fragments, ICMP errors. A socket's hooks look again.
    let Ok(packet) = read(ctx, kind, Direction::Ingress) else { return true };
    let reason = if acts::is_blocked(cfg, &packet.remote.addr) {
        return report(ctx, cfg, Hook::TcxTo, Verdict::Deny(Reason::Blocked), packet.remote, packet.local);
    } else if packet.remote.protocol == protocol::TCP {
        if !packet.is_syn() {
            if cfg.may_come_in(false) {
                visitors::renew(cfg, &packet);
            }
            return true;
        }
        Reason::ListenDenied
    } else {
        // The answer to what the agent may send.
        if matches!(decide_remote(cfg, &packet.remote, netns).0, Verdict::Allow(_)) {
            return true;
        }
        Reason::Unsolicited
    };
    if cfg.may_come_in(false) {
        visitors::admit(cfg, &packet);
        return true;
    }
    report(ctx, cfg, Hook::TcxTo, Verdict::Deny(reason), packet.remote, packet.local)
}

#[inline(always)]
fn try_frame(ctx: &SkBuffContext) -> bool {
    // SAFETY: the context is the kernel's.
    let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return true;
    }
    // SAFETY: not null.
    let family = unsafe { (*sk).family };
    if matches!(family, AF_INET | AF_INET6) {
        return true;
    }
    match owner(ctx) {
        Owner::Nobody => true,
        Owner::Unconfigured => false,
        Owner::Agent(cfg) => {
            report(ctx, cfg, Hook::TcxFrame, Verdict::Deny(Reason::RawSocket), UNKNOWN, UNKNOWN)
        }
    }
}

/// Whose socket a packet came from.
enum Owner {
    Nobody,
    /// An agent that is being set up or taken down.
    Unconfigured,
    Agent(&'static AgentCfg),
}

/// The agent in whose cgroup or below it the packet's socket was made; of several, the innermost that refuses.
#[inline(always)]
fn owner(ctx: &SkBuffContext) -> Owner {
    let mut found: Option<&'static AgentCfg> = None;
    for level in 1..=HOSTCG_DEPTH as i32 {
        // SAFETY: the context is the kernel's; 0 below the socket's own cgroup.
        let id = unsafe { bpf_skb_ancestor_cgroup_id(ctx.skb.skb, level) };
        if id == 0 {
            break;
        }
        // SAFETY: one aligned word.
        let Some(agent) = (unsafe { HOSTCG.get(id) }) else { continue };
        let Some(cfg) = config(Some(agent)) else { return Owner::Unconfigured };
        if cfg.mode != MODE_AUDIT || found.is_none_or(|outer| outer.mode == MODE_AUDIT) {
            found = Some(cfg);
        }
    }
    found.map_or(Owner::Nobody, Owner::Agent)
}

/// Acts on a refusal. Returns whether the packet passes all the same, because the policy only audits.
#[inline(always)]
fn report(
    ctx: &SkBuffContext,
    cfg: &AgentCfg,
    hook: Hook,
    verdict: Verdict,
    remote: Endpoint,
    local: Endpoint,
) -> bool {
    // SAFETY: the context is the kernel's. The socket stays with a packet that changes its namespace.
    let flow = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if matches!(hook, Hook::TcxFrom) && flow != 0 {
        remember_refused(cfg, flow);
    }
    let facts = Facts { hook, remote, local, process: NOBODY, flow, bytes: ctx.len(), detail: 0, sent: 0 };
    conclude(cfg, &facts, verdict, false)
}
