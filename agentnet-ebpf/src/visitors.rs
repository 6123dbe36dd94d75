//! Who came to a container and may be answered. A socket remembers its own peers; here there is none to ask.

use agentnet_common::{
    abi::{AgentCfg, VISITOR_SOLICITED, Visitor},
    addr::{Addr, protocol},
};
use aya_ebpf::helpers::bpf_ktime_get_ns;

use crate::{maps::VISITORS, packet::Packet};

const SECOND: u64 = 1_000_000_000;
/// How long a TCP connection may be silent, nanoseconds: as long as connection tracking keeps it
/// (`nf_conntrack_tcp_timeout_established`).
const TCP_TIME: u64 = 432_000 * SECOND;
/// How long a datagram or echo request may be answered, nanoseconds: as cgroup_skb/ingress has it.
const DATAGRAM_TIME: u64 = 120 * SECOND;
/// How long a neighbour may be answered, nanoseconds: it asks again every second (`retrans_time_ms`).
const NEIGHBOUR_TIME: u64 = 5 * SECOND;

#[inline(always)]
fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
const fn visitor(cfg: &AgentCfg, packet: &Packet) -> Visitor {
    Visitor {
        addr: packet.remote.addr.words,
        agent: cfg.agent,
        port: packet.remote.port,
        local_port: packet.local.port,
        protocol: packet.remote.protocol as u32,
    }
}

#[inline(always)]
const fn neighbour(cfg: &AgentCfg, addr: Addr) -> Visitor {
    Visitor {
        addr: addr.words,
        agent: cfg.agent,
        port: 0,
        local_port: VISITOR_SOLICITED,
        protocol: protocol::ICMPV6 as u32,
    }
}

#[inline(always)]
fn is_expected(visitor: &Visitor) -> bool {
    // SAFETY: one aligned word, read once; an entry that is reused meanwhile has a time of its own.
    unsafe { VISITORS.get(visitor) }.is_some_and(|expiry| *expiry > now())
}

#[inline(always)]
fn expect(visitor: &Visitor, time: u64) {
    // Without room there is no answer.
    let _ = VISITORS.insert(visitor, now() + time, 0);
}

/// Lets the agent answer whoever sent `packet`.
#[inline(always)]
pub fn admit(cfg: &AgentCfg, packet: &Packet) {
    let time = if packet.remote.protocol == protocol::TCP { TCP_TIME } else { DATAGRAM_TIME };
    expect(&visitor(cfg, packet), time);
}

/// Notes that a connection is in use; opens nothing.
#[inline(always)]
pub fn renew(cfg: &AgentCfg, packet: &Packet) {
    if let Some(expiry) = VISITORS.get_ptr_mut(visitor(cfg, packet)) {
        let now = now();
        // SAFETY: the map value outlives the run; one aligned word. One that has ended stays so.
        unsafe {
            if *expiry > now && *expiry - now < TCP_TIME / 2 {
                *expiry = now + TCP_TIME;
            }
        }
    }
}

/// Whether `packet` goes back to somebody who came; nobody is opened a connection to.
#[inline(always)]
pub fn is_answer(cfg: &AgentCfg, packet: &Packet) -> bool {
    !packet.is_syn() && is_expected(&visitor(cfg, packet))
}

/// Notes that the neighbour at `addr` asked for the agent's link-layer address.
#[inline(always)]
pub fn note_asker(cfg: &AgentCfg, addr: Addr) {
    expect(&neighbour(cfg, addr), NEIGHBOUR_TIME);
}

/// Whether the neighbour at `addr` has asked for the agent's link-layer address.
#[inline(always)]
pub fn has_asked(cfg: &AgentCfg, addr: Addr) -> bool {
    is_expected(&neighbour(cfg, addr))
}
