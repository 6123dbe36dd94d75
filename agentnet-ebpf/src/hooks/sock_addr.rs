//! What connect and sendmsg share: the address a process names, in either family.

use core::ffi::c_void;

use agentnet_common::{
    abi::{AgentCfg, CACHED_ALLOW, CACHED_JUDGE, CACHED_NONE, ROLE_NONE, SockState, UdpPeers},
    addr::{Addr, Endpoint, protocol},
    event::Hook,
    verdict::{Reason, RuleId, Scope, Verdict, held_to_call},
};
use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::SockAddrContext,
};

use crate::{
    agent::{config, current_process, note_owner, sock_state, udp_peers},
    emit::{Facts, conclude},
    local::scope_of_address,
    opaque,
    tables::{decide, look_up},
};

/// The address in the call's own family.
#[derive(Clone, Copy)]
pub enum Family {
    V4,
    V6,
}

/// Decides a connect or an unconnected send. Returns whether it may go on.
#[inline(always)]
pub fn decide_call(ctx: &SockAddrContext, family: Family, hook: Hook) -> bool {
    let Some(cfg) = config() else { return false };
    // SAFETY: the context is the kernel's; each field is read on its own, as the verifier demands.
    let (remote, sk) = unsafe {
        let raw = ctx.sock_addr;
        let addr = match family {
            Family::V4 => Addr::from_v4_word((*raw).user_ip4),
            Family::V6 => Addr {
                words: [(*raw).user_ip6[0], (*raw).user_ip6[1], (*raw).user_ip6[2], (*raw).user_ip6[3]],
            },
        };
        let port = u16::from_be((*raw).user_port as u16);
        (Endpoint::new(normalise(addr), port, (*raw).protocol as u8), (*raw).__bindgen_anon_1.sk)
    };
    let process = current_process();
    // SAFETY: the context is the kernel's.
    let flow = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: the context is the kernel's.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) } as u32;
    let mut facts = Facts {
        hook,
        remote,
        local: Endpoint::new(Addr::UNSPECIFIED, 0, remote.protocol),
        process,
        flow,
        bytes: 0,
        detail: 0,
        sent: 0,
    };
    let tcp = remote.protocol == protocol::TCP;
    let mut state = if sk.is_null() { None } else { sock_state(sk.cast(), !tcp) };
    if tcp {
        note_owner(flow, &process);
    }
    let mut reported = false;
    if let Some(state) = &mut state {
        state.agent = cfg.agent;
        state.netns = netns;
        state.process = process;
        facts.sent = state.tx_bytes;
        reported = matches!(hook, Hook::Sendmsg) && is_reported(state, cfg, &remote);
    }
    let rules = look_up(cfg.slot, &remote.addr);
    // The cookie is as good as any.
    let unknown = flow as u32;
    let scope = opaque::scope(scope_of_address(ctx.as_ptr(), cfg, &remote, rules), unknown);
    let answers = opaque::flag(is_reply(sk.cast(), cfg, &remote, scope), unknown);
    let verdict = if !tcp && state.is_none() {
        Verdict::Deny(Reason::StorageFull)
    } else if remote.protocol == protocol::UDP && remote.port == 0 && matches!(hook, Hook::Connect) {
        // Asks for a route and a source address (RFC 6724 sorting in libc). The kernel would send to port 0 on
        // such a socket: that packet is judged on its own, so this verdict is not remembered.
        Verdict::Allow(RuleId::NOTHING_SENT)
    } else {
        held_to_call(decide(cfg, rules, &remote, scope, answers, netns).0, &remote)
    };
    let reported = opaque::flag(reported, unknown);
    if let Some(state) = state {
        if matches!(hook, Hook::Connect) {
            // A socket that accept() made can be disconnected and connected elsewhere.
            state.role = ROLE_NONE;
        }
        if !matches!(verdict, Verdict::Allow(RuleId::NOTHING_SENT)) {
            remember(state, cfg, &remote, verdict);
        }
    }
    let fresh = !reported && !matches!(verdict, Verdict::Allow(RuleId::NOTHING_SENT | RuleId::REPLY));
    conclude(cfg, &facts, verdict, fresh)
}

/// 0.0.0.0 and :: as destinations mean loopback (`ip_route_output_key_hash_rcu`, net/ipv4/route.c).
#[inline(always)]
fn normalise(addr: Addr) -> Addr {
    if addr.is_v4() && addr.words[3] == 0 {
        return Addr::LOOPBACK_V4;
    }
    if addr == Addr::UNSPECIFIED { Addr::LOOPBACK_V6 } else { addr }
}

/// Whether this very endpoint was reported as allowed under the policy in force.
#[inline(always)]
pub fn is_reported(state: &SockState, cfg: &AgentCfg, remote: &Endpoint) -> bool {
    state.cached != CACHED_NONE
        && state.generation == cfg.generation
        && state.is_peer(remote)
        && !cfg.is_quarantined()
}

/// Remembers a verdict.
///
/// It lasts for TCP alone, whose packets the kernel sends one at a time under the socket's lock. Datagrams of
/// one socket leave on several CPUs at once: what two of them remember could mix into an endpoint that
/// nobody judged, and what is on this host changes. They are judged each time and only reported once, and so is what
/// a grant allows, which ends by itself.
#[inline(always)]
pub fn remember(state: &mut SockState, cfg: &AgentCfg, remote: &Endpoint, verdict: Verdict) {
    let Verdict::Allow(rule) = verdict else {
        state.cached = CACHED_NONE;
        return;
    };
    let lasts = remote.protocol == protocol::TCP && rule != RuleId::GRANT;
    state.cached = if lasts { CACHED_ALLOW } else { CACHED_JUDGE };
    state.generation = cfg.generation;
    state.peer = remote.addr.words;
    state.peer_port = remote.port;
    state.rule = rule.0;
}

/// Whether `remote` is a UDP peer that was let in and is still waited for.
#[inline(always)]
pub fn is_reply(sk: *mut c_void, cfg: &AgentCfg, remote: &Endpoint, scope: Scope) -> bool {
    let on_this_host = !matches!(scope, Scope::Remote);
    if remote.protocol != protocol::UDP || !cfg.may_come_in(on_this_host) {
        return false;
    }
    let Some(known) = udp_peers(sk, false) else { return false };
    an_awaits(known, remote, on_this_host.into()) != 0
}

/// Whether `remote` is among the peers and is still waited for: 1, else 0. A function of its own to the kernel as well,
/// see [`crate::tables::an_decide`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn an_awaits(known: *const UdpPeers, remote: *const Endpoint, on_this_host: u32) -> u64 {
    // SAFETY: null, or what the caller has.
    let (Some(known), Some(remote)) = (unsafe { (known.as_ref(), remote.as_ref()) }) else { return 0 };
    // SAFETY: no arguments.
    let now = unsafe { aya_ebpf::helpers::bpf_ktime_get_ns() };
    for peer in &known.peers {
        // Who came by `lo` is answered by `lo`: a forged source must not open the way to its owner.
        if peer.port == remote.port
            && u32::from(peer.on_this_host) == on_this_host
            && peer.expiry > now
            && peer.addr == remote.addr.words
        {
            return 1;
        }
    }
    0
}
