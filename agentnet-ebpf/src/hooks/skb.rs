//! What both packet hooks share: the socket, and reports of packets.

use core::ffi::c_void;

use agentnet_common::{
    abi::{ASKS_DNS, AgentCfg, OWN_PRIORITY, ROLE_TLS, SockState, TAIL_DNS, TAIL_DNS_STREAM, TAIL_TLS},
    addr::protocol,
    event::{Hook, Way},
    verdict::{DNS_PORT, RuleId, is_dns},
};
use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_ktime_get_ns,
        generated::{bpf_get_socket_cookie, bpf_sk_fullsock},
    },
    programs::SkBuffContext,
};

use crate::{
    agent::owner,
    emit::{Facts, count_allowed},
    maps::{TAILS_IN, TAILS_OUT},
    packet::Packet,
    sample,
    tables::look_up,
};

/// The packet's socket, not null; a listener stands for its half-open children.
#[inline(always)]
pub fn socket(ctx: &SkBuffContext) -> Option<*mut c_void> {
    // SAFETY: the context is the kernel's.
    let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    // SAFETY: not null.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    if sk.is_null() { None } else { Some(sk.cast()) }
}

/// The cookie of the packet's socket, 0 without one.
#[inline(always)]
pub fn cookie(ctx: &SkBuffContext) -> u64 {
    // SAFETY: the context is the kernel's.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// What a report says of a packet.
#[inline(always)]
pub fn facts(ctx: &SkBuffContext, hook: Hook, packet: &Packet, state: Option<&SockState>) -> Facts {
    let flow = cookie(ctx);
    Facts {
        hook,
        remote: packet.remote,
        local: packet.local,
        process: state.map_or_else(|| owner(flow), |state| state.process),
        flow,
        bytes: ctx.len(),
        detail: 0,
        sent: state.map_or(0, |state| state.tx_bytes),
    }
}

/// What is remembered with a TCP socket begins.
#[inline(always)]
pub fn begin(ctx: &SkBuffContext, state: &mut SockState) {
    state.process = owner(cookie(ctx));
    // SAFETY: no arguments.
    state.began = unsafe { bpf_ktime_get_ns() };
}

/// Lets out a packet that `rule` allows: as a DNS query if it has to be one, by way of the program that judges those;
/// by way of the one that knows what was judged, if the connection has yet to say a name in TLS; and by way of the one that
/// samples, if it is to be sampled.
#[inline(always)]
pub fn let_out(
    ctx: &SkBuffContext,
    cfg: &AgentCfg,
    state: Option<&mut SockState>,
    packet: &Packet,
    rule: RuleId,
) -> bool {
    if is_dns(rule, &packet.remote) && packet.carries() {
        // SAFETY: nothing is to be dropped. Returns only if the program is not there: then nobody can tell.
        unsafe { TAILS_OUT.tail_call(ctx, TAIL_DNS) };
        return false;
    }
    if let Some(state) = &state
        && state.role == ROLE_TLS
        && packet.carries()
    {
        // SAFETY: as above.
        unsafe { TAILS_OUT.tail_call(ctx, TAIL_TLS) };
        return false;
    }
    let_out_judged(ctx, cfg, state, packet)
}

/// The same of one whose payload needs no more judging.
#[inline(always)]
pub fn let_out_judged(
    ctx: &SkBuffContext,
    cfg: &AgentCfg,
    state: Option<&mut SockState>,
    packet: &Packet,
) -> bool {
    if packet.on_loopback {
        // SAFETY: the context is the kernel's.
        unsafe { (*ctx.skb.skb).priority = OWN_PRIORITY };
    }
    count_allowed(cfg, ctx.len());
    if let Some(state) = state {
        state.tx_bytes = state.tx_bytes.wrapping_add(u64::from(ctx.len()));
        state.tx_packets = state.tx_packets.wrapping_add(1);
        if sample::is_wanted(state, packet, Way::Out) {
            sample::hand_over(ctx, Way::Out);
        }
    }
    true
}

/// Lets in a packet: as an answer to a DNS query if its socket asks the resolver that it comes from.
#[inline(always)]
pub fn let_in(ctx: &SkBuffContext, cfg: &AgentCfg, state: Option<&mut SockState>, packet: &Packet) -> bool {
    if !packet.has_data {
        return true;
    }
    if state.as_ref().is_some_and(|state| state.marks & ASKS_DNS != 0)
        && !is_own(ctx, packet)
        && is_from_resolver(cfg, packet)
    {
        // SAFETY: nothing is to be dropped. Returns only if the program is not there: then nothing is learned.
        unsafe {
            if packet.remote.protocol == protocol::TCP {
                TAILS_IN.tail_call(ctx, TAIL_DNS_STREAM);
            } else {
                TAILS_IN.tail_call(ctx, TAIL_DNS);
            }
        }
        return false;
    }
    if let Some(state) = state {
        state.rx_bytes = state.rx_bytes.wrapping_add(u64::from(ctx.len()));
        state.rx_packets = state.rx_packets.wrapping_add(1);
        if sample::is_wanted(state, packet, Way::In) {
            sample::hand_over(ctx, Way::In);
        }
    }
    true
}

/// Whether a packet comes from an agent on this host: anybody can take a port of a resolver's address on `lo`, and answer
/// what the resolver was asked.
#[inline(always)]
fn is_own(ctx: &SkBuffContext, packet: &Packet) -> bool {
    // SAFETY: the context is the kernel's.
    packet.on_loopback && unsafe { (*ctx.skb.skb).priority } == OWN_PRIORITY
}

/// Whether a packet comes from where queries go.
#[inline(always)]
fn is_from_resolver(cfg: &AgentCfg, packet: &Packet) -> bool {
    packet.remote.port == DNS_PORT
        || look_up(cfg.slot, &packet.remote.addr).is_some_and(|rules| rules.is_resolver())
}
