//! What is on this host: own listeners are told from foreign ones by the socket that would receive.

use core::ffi::c_void;

use agentnet_common::{
    abi::{AgentCfg, Ruleset},
    addr::{Addr, Endpoint, protocol},
    verdict::Scope,
};
use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple},
    helpers::generated::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release},
};

use crate::agent::sock_state;

/// `bpf_sock_tuple.ipv4` (include/uapi/linux/bpf.h).
#[repr(C)]
struct Tuple4 {
    saddr: u32,
    daddr: u32,
    sport: u16,
    dport: u16,
}

/// `bpf_sock_tuple.ipv6`.
#[repr(C)]
struct Tuple6 {
    saddr: [u32; 4],
    daddr: [u32; 4],
    sport: u16,
    dport: u16,
}

#[inline(always)]
fn lookup<T>(ctx: *mut c_void, tcp: bool, tuple: &mut T) -> *mut bpf_sock {
    let (tuple, size) = (core::ptr::from_mut(tuple).cast::<bpf_sock_tuple>(), size_of::<T>() as u32);
    let netns = BPF_F_CURRENT_NETNS as i64 as u64;
    // SAFETY: the tuple has the size given, which tells the kernel its family.
    unsafe {
        if tcp {
            bpf_sk_lookup_tcp(ctx, tuple, size, netns, 0)
        } else {
            bpf_sk_lookup_udp(ctx, tuple, size, netns, 0)
        }
    }
}

/// The agent whose socket on this host receives what goes from `from` to `to`; 0 if there is none.
///
/// The lookup is the one that delivers the packet, so of several listeners that share a port the one
/// that would get it is asked.
#[inline(always)]
fn receiver(ctx: *mut c_void, from: &Endpoint, to: &Endpoint) -> u32 {
    let tcp = to.protocol == protocol::TCP;
    if !tcp && to.protocol != protocol::UDP {
        return 0;
    }
    let (sport, dport) = (from.port.to_be(), to.port.to_be());
    let sk = if to.addr.is_v4() {
        let (saddr, daddr) = (from.addr.words[3], to.addr.words[3]);
        lookup(ctx, tcp, &mut Tuple4 { saddr, daddr, sport, dport })
    } else {
        lookup(ctx, tcp, &mut Tuple6 { saddr: from.addr.words, daddr: to.addr.words, sport, dport })
    };
    if sk.is_null() {
        return 0;
    }
    let agent = sock_state(sk.cast(), false).map_or(0, |state| state.agent);
    // SAFETY: the lookup took the reference that is given back here.
    unsafe { bpf_sk_release(sk.cast()) };
    agent
}

/// Where the receiver of what goes from `from` to `to` on this host stands.
#[inline(always)]
pub fn scope_on_host(ctx: *mut c_void, cfg: &AgentCfg, from: &Endpoint, to: &Endpoint) -> Scope {
    if receiver(ctx, from, to) == cfg.agent { Scope::OwnListener } else { Scope::ForeignListener }
}

/// Where `to` is, before there is a packet: by its address, for which the policy has `rules`.
#[inline(always)]
pub fn scope_of_address(ctx: *mut c_void, cfg: &AgentCfg, to: &Endpoint, rules: Option<&Ruleset>) -> Scope {
    let local = to.addr.is_loopback() || rules.is_some_and(Ruleset::is_local);
    if !local {
        return Scope::Remote;
    }
    scope_on_host(ctx, cfg, &Endpoint::new(Addr::UNSPECIFIED, 0, to.protocol), to)
}
