//! cgroup/setsockopt, for sockets of every family: options that would let packets pass the hooks by, or
//! change under them.

use agentnet_common::{
    addr::{Addr, Endpoint},
    event::Hook,
    verdict::{Reason, RuleId, Verdict},
};
use aya_ebpf::{macros::cgroup_sockopt, programs::SockoptContext};

use super::code;
use crate::{
    agent::{config, current_process},
    emit::{Facts, conclude},
};

const SOL_IP: i32 = 0;
const SOL_SOCKET: i32 = 1;
const SOL_TCP: i32 = 6;
const SOL_IPV6: i32 = 41;
const SOL_PACKET: i32 = 263;
const SOL_XDP: i32 = 283;

/// Policy routing past the routes the host set up.
const SO_MARK: i32 = 36;
/// Sends pages that the process can change after they were judged.
const SO_ZEROCOPY: i32 = 60;
/// `IP_HDRINCL`: the process writes the IP header.
const IP_HDRINCL: i32 = 3;
/// Source routing, RFC 791.
const IP_OPTIONS: i32 = 4;
/// Programs that pick the receiver among sockets that share a port: the lookup that tells own listeners from
/// foreign ones picks by hash alone.
const SO_ATTACH_REUSEPORT_CBPF: i32 = 51;
const SO_ATTACH_REUSEPORT_EBPF: i32 = 52;
/// Foreign source addresses: what answers to them leaves for an address nobody judged, be it a listener or
/// the kernel's own ICMP errors, which quote the datagram.
const IP_FREEBIND: i32 = 15;
const IPV6_FREEBIND: i32 = 78;
const IP_TRANSPARENT: i32 = 19;
const IPV6_TRANSPARENT: i32 = 75;
/// Makes an established connection without a SYN.
const TCP_REPAIR: i32 = 19;
/// Puts another protocol (tls, smc, espintcp) under the socket.
const TCP_ULP: i32 = 31;

#[cgroup_sockopt(setsockopt)]
pub fn an_setsockopt(ctx: SockoptContext) -> i32 {
    code(try_setsockopt(&ctx))
}

#[inline(always)]
fn try_setsockopt(ctx: &SockoptContext) -> bool {
    // SAFETY: the context is the kernel's.
    let (level, option) = unsafe {
        // Zero: "the caller's own buffer, unchanged". Otherwise an option of more than a page fails with
        // EFAULT (`__cgroup_bpf_run_filter_setsockopt`, kernel/bpf/cgroup.c).
        (*ctx.sockopt).optlen = 0;
        ((*ctx.sockopt).level, (*ctx.sockopt).optname)
    };
    let Some(cfg) = config() else { return false };
    let verdict = judge(level, option);
    if matches!(verdict, Verdict::Allow(_)) {
        return true;
    }
    let none = Endpoint::new(Addr::UNSPECIFIED, 0, 0);
    let facts = Facts {
        hook: Hook::Setsockopt,
        remote: none,
        local: none,
        process: current_process(),
        flow: 0,
        bytes: 0,
        detail: (level as u32) << 16 | (option as u32 & 0xffff),
        sent: 0,
    };
    conclude(cfg, &facts, verdict, false)
}

#[inline(always)]
fn judge(level: i32, option: i32) -> Verdict {
    let refused = match level {
        // Packet and XDP sockets have no hook of their own; without these options tcx sees what they send.
        SOL_PACKET | SOL_XDP => true,
        SOL_SOCKET => {
            matches!(option, SO_MARK | SO_ZEROCOPY | SO_ATTACH_REUSEPORT_CBPF | SO_ATTACH_REUSEPORT_EBPF)
        }
        SOL_IP => {
            matches!(option, IP_HDRINCL | IP_OPTIONS | IP_TRANSPARENT | IP_FREEBIND)
                || joins_group(option, 35)
        }
        // Hop-by-hop (54), destination (55, 59) and routing (57) headers, their RFC 2292 forms (2, 3, 5) and
        // IPV6_HDRINCL (36).
        SOL_IPV6 => {
            matches!(option, 2 | 3 | 5 | 36 | 54 | 55 | 57 | 59 | IPV6_TRANSPARENT | IPV6_FREEBIND)
                || joins_group(option, 20)
        }
        SOL_TCP => matches!(option, TCP_REPAIR | TCP_ULP),
        _ => false,
    };
    if refused { Verdict::Deny(Reason::SocketOption) } else { Verdict::Allow(RuleId::NOTHING_SENT) }
}

/// Joining a multicast or anycast group: the kernel itself announces the group to the network, from a socket
/// of its own, so that the group's address carries what the agent wants to tell.
#[inline(always)]
const fn joins_group(option: i32, join: i32) -> bool {
    // IP_ADD_MEMBERSHIP (35) or IPV6_JOIN_GROUP (20); IPV6_JOIN_ANYCAST (27), IP_ADD_SOURCE_MEMBERSHIP (39),
    // MCAST_JOIN_GROUP (42), MCAST_JOIN_SOURCE_GROUP (46).
    option == join || matches!(option, 39 | 42 | 46) || (join == 20 && option == 27)
}
