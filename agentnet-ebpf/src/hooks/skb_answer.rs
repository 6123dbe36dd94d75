//! Answers to DNS queries. They are read before the process gets them: addresses are open as soon as it knows them.

use core::ffi::{c_long, c_void};

use agentnet_common::{
    abi::{AgentCfg, QUERY_BYTES, Scratch},
    addr::{Addr, protocol},
    event::{Hook, Way},
    verdict::{Reason, RuleId, Verdict},
};
use aya_ebpf::{
    helpers::generated::{bpf_loop, bpf_skb_load_bytes},
    macros::cgroup_skb,
    programs::SkBuffContext,
};

use super::{
    code,
    skb::{facts, socket},
    skb_query::take,
};
use crate::{
    agent::{config, sock_state},
    dns,
    emit::conclude_query,
    packet::{Direction, Packet, parse},
    pins::pin,
    sample,
    scratch::with_scratch,
};

/// Steps that the records of an answer may take: one for each label of an owner's name and one for each record.
const STEPS: u32 = 512;
/// Addresses that one answer opens.
const MOST_ADDRESSES: u32 = 64;

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;

#[cgroup_skb(ingress)]
pub fn an_dns_answer(ctx: SkBuffContext) -> i32 {
    code(try_answer(&ctx))
}

#[inline(always)]
fn try_answer(ctx: &SkBuffContext) -> bool {
    let Some(cfg) = config() else { return false };
    let Some(sk) = socket(ctx) else { return false };
    let Some(state) = sock_state(sk, false) else { return false };
    let (packet, None) = parse(ctx, Direction::Ingress) else { return false };
    let facts = facts(ctx, Hook::Ingress, &packet, Some(state));
    let passes = with_scratch(|scratch| {
        let verdict = match learn(ctx, cfg, sk, &packet, scratch) {
            Ok(()) => Verdict::Allow(RuleId::RESOLVER),
            Err(reason) => Verdict::Deny(reason),
        };
        conclude_query(cfg, &facts, verdict, &scratch.message)
    });
    if passes != Some(true) {
        return false;
    }
    state.rx_bytes = state.rx_bytes.wrapping_add(u64::from(ctx.len()));
    state.rx_packets = state.rx_packets.wrapping_add(1);
    sample::hand_over(ctx, Way::In);
    true
}

/// Opens the addresses of an answer to a query that is waited for.
#[inline(always)]
fn learn(
    ctx: &SkBuffContext,
    cfg: &AgentCfg,
    sk: *mut c_void,
    packet: &Packet,
    scratch: &mut Scratch,
) -> Result<(), Reason> {
    if packet.remote.protocol != protocol::UDP {
        return Err(Reason::Unsolicited);
    }
    let all = ctx.len().wrapping_sub(packet.payload);
    if all < dns::HEADER as u32 || all > u16::MAX.into() {
        return Err(Reason::DnsMalformed);
    }
    // Header and question; the records are read one by one, wherever they are.
    let head = if all > QUERY_BYTES as u32 { QUERY_BYTES as u32 } else { all };
    let head = (core::hint::black_box(head).wrapping_sub(1) & (QUERY_BYTES as u32 - 1)) + 1;
    // SAFETY: the array has room for `head` bytes.
    let loaded = unsafe {
        bpf_skb_load_bytes(ctx.skb.skb.cast(), packet.payload, (&raw mut scratch.message).cast(), head)
    };
    if loaded != 0 {
        return Err(Reason::DnsMalformed);
    }
    let Some(query) = take(sk, &packet.remote.addr, dns::id(scratch)) else {
        return Err(Reason::Unsolicited);
    };
    let question = dns::question(scratch, head)?;
    // QR set, a plain query answered (RFC 1035, 4.1.1).
    if dns::flags(scratch) & 0xf800 != 0x8000 || scratch.hash != query.name || question.kind != query.kind {
        return Err(Reason::Unsolicited);
    }
    let (failed, cut) = (dns::flags(scratch) & 0x000f != 0, dns::flags(scratch) & 0x0200 != 0);
    let records = dns::count(scratch, 1);
    // A name that does not exist, or an answer that did not fit and is asked for again by TCP.
    if failed || cut || records == 0 || query.search != 0 {
        return Ok(());
    }
    let mut walk = Walk {
        skb: ctx.skb.skb.cast(),
        at: packet.payload + question.end as u32,
        end: ctx.len(),
        records: records.into(),
        agent: cfg.agent,
        name: query.name,
        addresses: 0,
        in_name: 1,
        opens: 0,
        failed: 0,
    };
    // Once to see that it is whole, and once more to open what it says.
    for opens in 0..2 {
        walk.at = packet.payload + question.end as u32;
        walk.records = records.into();
        walk.in_name = 1;
        walk.opens = opens;
        // SAFETY: the callback has the signature that the helper wants, and the context is of the type it takes.
        unsafe { bpf_loop(STEPS, step as *mut _, (&raw mut walk).cast(), 0) };
        if walk.failed != 0 {
            return Err(if walk.failed == NO_ROOM { Reason::DnsRoom } else { Reason::DnsMalformed });
        }
        if walk.records != 0 {
            return Err(Reason::DnsMalformed);
        }
    }
    Ok(())
}

/// The message ends within a record, or says what cannot be.
const BROKEN: u32 = 1;
/// An address could not be opened.
const NO_ROOM: u32 = 2;

/// Where the reading of records is.
#[repr(C)]
struct Walk {
    skb: *mut c_void,
    /// Offset in the packet.
    at: u32,
    /// Its length.
    end: u32,
    /// Records still to come.
    records: u32,
    agent: u32,
    name: u64,
    /// Addresses that were opened.
    addresses: u32,
    /// 1 at a label of an owner's name, 0 behind it.
    in_name: u32,
    /// Whether addresses are opened.
    opens: u32,
    /// `BROKEN` or `NO_ROOM`.
    failed: u32,
}

impl Walk {
    #[inline(always)]
    fn load<const N: usize>(&mut self, at: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: an array of the size given.
        let loaded = unsafe { bpf_skb_load_bytes(self.skb, at, bytes.as_mut_ptr().cast(), N as u32) };
        (loaded == 0).then_some(bytes)
    }
}

/// Reads one label or one record; 1 when there is nothing left to do.
extern "C" fn step(_: u32, walk: *mut c_void) -> c_long {
    // SAFETY: `bpf_loop` hands through what it was given.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    if walk.records == 0 {
        return 1;
    }
    match one(walk) {
        Ok(()) => 0,
        Err(failed) => {
            walk.failed = failed;
            1
        }
    }
}

#[inline(always)]
fn one(walk: &mut Walk) -> Result<(), u32> {
    let at = walk.at;
    if at >= walk.end {
        return Err(BROKEN);
    }
    if walk.in_name != 0 {
        let [length] = walk.load::<1>(at).ok_or(BROKEN)?;
        // The root, a pointer to where the rest was (RFC 1035, 4.1.4), or a label.
        let (size, goes_on) = match length {
            0 => (1, 0),
            1..=63 => (1 + u32::from(length), 1),
            0xc0.. => (2, 0),
            _ => return Err(BROKEN),
        };
        walk.at = at + size;
        walk.in_name = goes_on;
        return Ok(());
    }
    let head = walk.load::<10>(at).ok_or(BROKEN)?;
    let kind = u16::from_be_bytes([head[0], head[1]]);
    let class = u16::from_be_bytes([head[2], head[3]]);
    let ttl = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    let size = u32::from(u16::from_be_bytes([head[8], head[9]]));
    let data = at + 10;
    if data + size > walk.end {
        return Err(BROKEN);
    }
    walk.at = data + size;
    walk.records -= 1;
    walk.in_name = 1;
    let addr = match (kind, class, size) {
        (TYPE_A, CLASS_IN, 4) => {
            Addr::from_v4_word(u32::from_ne_bytes(walk.load::<4>(data).ok_or(BROKEN)?))
        }
        (TYPE_AAAA, CLASS_IN, 16) => Addr::from_octets(walk.load::<16>(data).ok_or(BROKEN)?),
        (TYPE_A | TYPE_AAAA, CLASS_IN, _) => return Err(BROKEN),
        _ => return Ok(()),
    };
    if walk.opens == 0 || walk.addresses >= MOST_ADDRESSES {
        return Ok(());
    }
    walk.addresses += 1;
    if pin(walk.agent, &addr, walk.name, ttl) { Ok(()) } else { Err(NO_ROOM) }
}
