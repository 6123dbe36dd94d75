//! What is sampled of payload that was let through: when, and how much.

use agentnet_common::{
    abi::{SAMPLE_DATAGRAMS, SAMPLE_EVERY, SAMPLE_TCP_BYTES, SockState, TAIL_SAMPLE},
    addr::protocol,
    event::Way,
    verdict::DNS_PORT,
};
use aya_ebpf::programs::SkBuffContext;

use crate::{
    maps::{TAILS_IN, TAILS_OUT},
    packet::Packet,
};

/// Ports whose streams are sampled whole, as far as the budget reaches: DNS, and HTTP in the clear.
#[inline(always)]
pub const fn is_stream(port: u16) -> bool {
    matches!(port, DNS_PORT | 80 | 8080)
}

/// Whether a packet of a socket of which `state` is known is to be sampled. What stays on this host is not: it leaves
/// nothing.
#[inline(always)]
pub fn is_wanted(state: &SockState, packet: &Packet, way: Way) -> bool {
    if packet.on_loopback {
        return false;
    }
    if packet.remote.protocol == protocol::TCP {
        let next = match way {
            Way::Out => state.next[0],
            Way::In => state.next[1],
        };
        return packet.has_data
            && (next < SAMPLE_TCP_BYTES || matches!(way, Way::Out) && is_stream(packet.remote.port));
    }
    // This packet is counted already.
    let count = match way {
        Way::Out => state.tx_packets,
        Way::In => state.rx_packets,
    };
    count <= SAMPLE_DATAGRAMS || count % SAMPLE_EVERY == 0
}

/// Hands a packet that was let through to the program that samples it. Returns only if that program is not there.
#[inline(always)]
pub fn hand_over(ctx: &SkBuffContext, way: Way) {
    // SAFETY: nothing is to be dropped, and nothing comes after this but the verdict that the program gives too.
    unsafe {
        match way {
            Way::Out => TAILS_OUT.tail_call(ctx, TAIL_SAMPLE),
            Way::In => TAILS_IN.tail_call(ctx, TAIL_SAMPLE),
        }
    }
}
