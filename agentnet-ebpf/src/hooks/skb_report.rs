//! Reports on packets: of refusals, and of flows that begin. The packet hooks hand over what they have decided, so that
//! they themselves stay small; without this program a packet is dropped and nobody told.

use agentnet_common::{
    abi::{TAIL_REPORT, TOLD_ALLOWED, TOLD_DENIED},
    addr::protocol,
    event::{Hook, Way},
    verdict::{RuleId, Verdict},
};
use aya_ebpf::{macros::cgroup_skb, programs::SkBuffContext};

use super::{
    code,
    skb::{facts, let_in, let_out, socket},
};
use crate::{
    agent::{config, sock_state},
    emit::{conclude, conclude_denied, remember_refused},
    maps::{TAILS_IN, TAILS_OUT},
    opaque,
    packet::{Direction, parse},
};

/// A verdict as the program that reports is told of it, in a form of which the verifier knows nothing: it would follow
/// every reason and rule through the rest of a program.
#[inline(always)]
pub fn told(ctx: &SkBuffContext, verdict: Verdict) -> u32 {
    let told = match verdict {
        Verdict::Allow(rule) => TOLD_ALLOWED | u32::from(rule.0),
        Verdict::Deny(reason) => TOLD_DENIED | reason as u32,
    };
    opaque::word(told, ctx.len())
}

/// Hands a packet and its verdict to the program that reports. Returns only if that is not there: the packet is
/// dropped then.
#[inline(always)]
pub fn report(ctx: &SkBuffContext, way: Way, told: u32) -> bool {
    // SAFETY: the control block is this run's alone; nothing is to be dropped.
    unsafe {
        (*ctx.skb.skb).cb[0] = told;
        match way {
            Way::Out => TAILS_OUT.tail_call(ctx, TAIL_REPORT),
            Way::In => TAILS_IN.tail_call(ctx, TAIL_REPORT),
        }
    }
    false
}

#[cgroup_skb(egress)]
pub fn an_report_out(ctx: SkBuffContext) -> i32 {
    code(try_report(&ctx, Way::Out))
}

#[cgroup_skb(ingress)]
pub fn an_report_in(ctx: SkBuffContext) -> i32 {
    code(try_report(&ctx, Way::In))
}

#[inline(always)]
fn try_report(ctx: &SkBuffContext, way: Way) -> bool {
    let Some(cfg) = config() else { return false };
    // SAFETY: the context is the kernel's.
    let told = unsafe { (*ctx.skb.skb).cb[0] };
    let (direction, hook) = match way {
        Way::Out => (Direction::Egress, Hook::Egress),
        Way::In => (Direction::Ingress, Hook::Ingress),
    };
    let (packet, unreadable) = parse(ctx, direction);
    let sk = socket(ctx);
    let state = sk.and_then(|sk| sock_state(sk, false));
    let facts = facts(ctx, hook, &packet, state.as_deref());
    let rule = RuleId(told as u16);
    // What comes in begins no flow of the agent's.
    if let Way::Out = way
        && told & TOLD_ALLOWED != 0
    {
        return conclude(cfg, &facts, Verdict::Allow(rule), true) && let_out(ctx, cfg, state, &packet, rule);
    }
    // Whatever protocol an unreadable packet has: destroying asks TCP sockets only.
    if let (Way::Out, Some(sk)) = (way, sk)
        && (unreadable.is_some() || packet.remote.protocol == protocol::TCP)
    {
        remember_refused(cfg, facts.flow);
        if let Some(state) = sock_state(sk, true) {
            state.refused = 1;
        }
    }
    // Only an audit lets it pass.
    if !conclude_denied(cfg, &facts, told as u8) {
        return false;
    }
    match way {
        Way::Out => let_out(ctx, cfg, state, &packet, RuleId::NONE),
        Way::In => let_in(ctx, cfg, state, &packet),
    }
}
