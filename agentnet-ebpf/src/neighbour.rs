//! ARP, neighbour discovery and group membership, read from a frame; what passes is
//! `agentnet_common::neighbour`'s to say.

use agentnet_common::{
    abi::{AgentCfg, Ruleset},
    addr::{Addr, protocol},
    neighbour::{
        ARP_BYTES, Discovery, MLD_RECORDS, NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION,
        ROUTER_SOLICITATION, Reach, Report, is_arp, is_plain_record,
    },
    verdict::Reason,
};
use aya_ebpf::programs::SkBuffContext;

use crate::{acts, packet::load, tables::look_up, visitors};

/// Bytes of an Ethernet header (IEEE 802.3, 3.1), without tags.
pub const ETHERNET: u32 = 14;
/// Bytes of an IPv6 header.
const IPV6: u32 = 40;
/// Where the ICMPv6 message begins.
const MESSAGE: u32 = ETHERNET + IPV6;

/// Whether this is ARP as a link needs it, from whom it says.
#[inline(always)]
pub fn is_needed_arp(ctx: &SkBuffContext) -> bool {
    if ctx.len() != ETHERNET + ARP_BYTES {
        return false;
    }
    let (Ok(head), Ok(source), Ok(sender)) =
        (load::<[u32; 2]>(ctx, ETHERNET), load::<[u16; 3]>(ctx, 6), load::<[u16; 3]>(ctx, ETHERNET + 8))
    else {
        return false;
    };
    is_arp(head) && source[0] == sender[0] && source[1] == sender[1] && source[2] == sender[2]
}

/// Whether this is IPv6 that a link needs: it goes no further, or to whom the agent may talk, or to who asked.
#[inline(always)]
pub fn is_needed_ipv6(ctx: &SkBuffContext, cfg: &AgentCfg) -> bool {
    let Ok(header) = load::<[u32; 10]>(ctx, ETHERNET) else { return false };
    let (payload, next) = (u32::from_be(header[1]) >> 16, (u32::from_be(header[1]) >> 8) as u8);
    let hop_limit = u32::from_be(header[1]) as u8;
    let destination = Addr { words: [header[6], header[7], header[8], header[9]] };
    // Nothing before, nothing behind.
    if u32::from_be(header[0]) >> 28 != 6 || ctx.len() != MESSAGE + payload {
        return false;
    }
    match next {
        protocol::ICMPV6 => is_needed_discovery(ctx, cfg, hop_limit, destination, payload).unwrap_or(false),
        0 => is_report(ctx, hop_limit, destination, payload).unwrap_or(false),
        _ => false,
    }
}

#[inline(always)]
fn is_needed_discovery(
    ctx: &SkBuffContext,
    cfg: &AgentCfg,
    hop_limit: u8,
    destination: Addr,
    len: u32,
) -> Result<bool, Reason> {
    let head: [u32; 2] = load(ctx, MESSAGE)?;
    let kind = (u32::from_be(head[0]) >> 24) as u8;
    let (target, options) = match kind {
        ROUTER_SOLICITATION => (Addr::UNSPECIFIED, 8),
        NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => (Addr { words: load(ctx, MESSAGE + 8)? }, 24),
        _ => return Ok(false),
    };
    let option = if len > options { u16::from_be(load(ctx, MESSAGE + options)?) } else { 0 };
    let discovery = Discovery {
        kind,
        code: (u32::from_be(head[0]) >> 16) as u8,
        hop_limit,
        len,
        flags: u32::from_be(head[1]),
        destination,
        target,
        option,
    };
    Ok(match discovery.reach() {
        None => false,
        Some(Reach::Link) => true,
        Some(Reach::Probe) => {
            let has_rule = |rules: &Ruleset| rules.is_local() || rules.len > 0;
            !acts::is_blocked(cfg, &destination)
                && (look_up(cfg.slot, &destination).is_some_and(has_rule)
                    || acts::is_reachable(cfg, destination))
        }
        Some(Reach::Answer) => visitors::has_asked(cfg, destination),
    })
}

#[inline(always)]
fn is_report(ctx: &SkBuffContext, hop_limit: u8, destination: Addr, len: u32) -> Result<bool, Reason> {
    let report = Report {
        hop_limit,
        destination,
        len,
        hop_by_hop: load(ctx, MESSAGE)?,
        header: load(ctx, MESSAGE + 8)?,
    };
    let Some(records) = report.records() else { return Ok(false) };
    for index in 0..MLD_RECORDS {
        if index >= records {
            break;
        }
        if !is_plain_record(&load(ctx, MESSAGE + 16 + 20 * index)?) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The address of a neighbour that asks for the agent's link-layer address, if this is such a question.
#[inline(always)]
pub fn asker(ctx: &SkBuffContext) -> Option<Addr> {
    let header: [u32; 10] = load(ctx, ETHERNET).ok()?;
    if u32::from_be(header[1]) & 0xffff != u32::from(protocol::ICMPV6) << 8 | 255 {
        return None;
    }
    let head: u32 = load(ctx, MESSAGE).ok()?;
    if u32::from_be(head) >> 24 != u32::from(NEIGHBOUR_SOLICITATION) {
        return None;
    }
    Some(Addr { words: [header[2], header[3], header[4], header[5]] })
}
