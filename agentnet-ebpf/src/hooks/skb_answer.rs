//! Answers to DNS queries. They are read before the process gets them: addresses are open as soon as it knows them.

use core::{
    ffi::{c_long, c_void},
    ptr::null,
};

use agentnet_common::{
    abi::{AgentCfg, DIALOG_BYTES, Pins, QUERY_BYTES, Scratch},
    addr::{Addr, protocol},
    event::{Hook, Way},
    verdict::{Reason, Verdict},
};
use aya_ebpf::{
    helpers::generated::{bpf_loop, bpf_probe_read_kernel, bpf_skb_load_bytes},
    macros::cgroup_skb,
    programs::SkBuffContext,
};

use super::{
    code,
    skb::{facts, socket},
    skb_query::awaited,
};
use crate::{
    agent::{config, dialog, sock_state},
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

/// Answers over UDP.
#[cgroup_skb(ingress)]
pub fn an_dns_answer(ctx: SkBuffContext) -> i32 {
    code(try_answer(&ctx, |sk, cfg, packet, scratch| {
        let all = ctx.len().wrapping_sub(packet.payload);
        let place = Place { skb: ctx.skb.skb.cast(), frame: null(), start: packet.payload };
        learn(&place, cfg, sk, packet, scratch, all)
    }))
}

/// Answers over TCP.
#[cgroup_skb(ingress)]
pub fn an_dns_stream(ctx: SkBuffContext) -> i32 {
    code(try_answer(&ctx, |sk, cfg, packet, scratch| learn_stream(&ctx, cfg, sk, packet, scratch)))
}

#[inline(always)]
fn try_answer(
    ctx: &SkBuffContext,
    learn: impl FnOnce(*mut c_void, &AgentCfg, &Packet, &mut Scratch) -> Result<(), Reason>,
) -> bool {
    let Some(cfg) = config() else { return false };
    let Some(sk) = socket(ctx) else { return false };
    let Some(state) = sock_state(sk, false) else { return false };
    let (packet, None) = parse(ctx, Direction::Ingress) else { return false };
    if is_early(sk, &packet) {
        return false;
    }
    let passes = with_scratch(|scratch| {
        let Err(reason) = learn(sk, cfg, &packet, scratch) else { return true };
        let facts = facts(ctx, Hook::Ingress, &packet, Some(state));
        conclude_query(cfg, &facts, Verdict::Deny(reason), &scratch.message)
    });
    if passes != Some(true) {
        return false;
    }
    state.rx_bytes = state.rx_bytes.wrapping_add(u64::from(ctx.len()));
    state.rx_packets = state.rx_packets.wrapping_add(1);
    sample::hand_over(ctx, Way::In);
    true
}

/// Where a message is: in a packet, or in what was kept of a connection.
struct Place {
    skb: *mut c_void,
    /// What was kept; null for a message in the packet.
    frame: *const u8,
    /// Its first byte.
    start: u32,
}

impl Place {
    /// Copies `len` bytes, from 1 to the room for a message.
    #[inline(always)]
    fn copy(&self, scratch: &mut Scratch, len: u32) -> bool {
        let to = (&raw mut scratch.message).cast();
        // SAFETY: the array has room for `len` bytes; of what was kept, so many are behind every start.
        unsafe {
            if self.frame.is_null() {
                bpf_skb_load_bytes(self.skb, self.start, to, len) == 0
            } else {
                let from = self.frame.add(self.start as usize & (DIALOG_BYTES / 2 - 1));
                bpf_probe_read_kernel(to, len, from.cast()) == 0
            }
        }
    }
}

/// Opens the addresses of an answer of `all` bytes to a query that is waited for.
#[inline(always)]
fn learn(
    place: &Place,
    cfg: &AgentCfg,
    sk: *mut c_void,
    packet: &Packet,
    scratch: &mut Scratch,
    all: u32,
) -> Result<(), Reason> {
    if all < dns::HEADER as u32 || all > u16::MAX.into() {
        return Err(Reason::DnsMalformed);
    }
    // Header and question; the records are read one by one, wherever they are.
    let head = if all > QUERY_BYTES as u32 { QUERY_BYTES as u32 } else { all };
    let head = (core::hint::black_box(head).wrapping_sub(1) & (QUERY_BYTES as u32 - 1)) + 1;
    if !place.copy(scratch, head) {
        return Err(Reason::DnsMalformed);
    }
    let Some(query) = awaited(sk, &packet.remote, dns::id(scratch)) else {
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
        query.name = 0;
        return Ok(());
    }
    let mut walk = Walk {
        skb: place.skb,
        frame: place.frame,
        at: place.start + question.end as u32,
        end: place.start + all,
        records: records.into(),
        agent: cfg.agent,
        name: query.name,
        netns: query.netns,
        _pad: 0,
        addresses: 0,
        in_name: 1,
        opens: 0,
        failed: 0,
        empty: dns::zeros(scratch),
    };
    // Once to see that it is whole, and once more to open what it says.
    for opens in 0..2 {
        walk.at = place.start + question.end as u32;
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
    // A broken answer is dropped, and the right one may still come; a second one opens nothing.
    query.name = 0;
    Ok(())
}

/// Whether a segment of TCP comes before another one: it is dropped, and comes again behind that.
#[inline(always)]
fn is_early(sk: *mut c_void, packet: &Packet) -> bool {
    packet.remote.protocol == protocol::TCP
        && dialog(sk, false).is_some_and(|dialog| {
            // Sequence numbers wrap (RFC 9293, 3.4).
            packet.sequence.wrapping_sub(dialog.in_).wrapping_sub(dialog.read) as i32 > 0
        })
}

/// Messages that one segment may bring to their ends.
const MESSAGES: u32 = 4;

/// Reads what a segment brings, in order: messages are kept until they are whole.
#[inline(always)]
fn learn_stream(
    ctx: &SkBuffContext,
    cfg: &AgentCfg,
    sk: *mut c_void,
    packet: &Packet,
    scratch: &mut Scratch,
) -> Result<(), Reason> {
    let Some(dialog) = dialog(sk, false) else { return Err(Reason::Unsolicited) };
    let payload = ctx.len().wrapping_sub(packet.payload);
    // What it repeats.
    let skip = dialog.in_.wrapping_add(dialog.read).wrapping_sub(packet.sequence);
    if skip >= payload {
        return Ok(());
    }
    let fresh = payload - skip;
    let have = core::hint::black_box(dialog.have) & (DIALOG_BYTES as u32 - 1);
    if fresh > DIALOG_BYTES as u32 / 2 || have >= DIALOG_BYTES as u32 / 2 {
        return Err(Reason::DnsRoom);
    }
    let have = have & (DIALOG_BYTES as u32 / 2 - 1);
    let fresh = (core::hint::black_box(fresh).wrapping_sub(1) & (DIALOG_BYTES as u32 / 2 - 1)) + 1;
    // SAFETY: half of the room is behind every place in the other half.
    let loaded = unsafe {
        let to = (&raw mut dialog.frame).cast::<u8>().add(have as usize);
        bpf_skb_load_bytes(ctx.skb.skb.cast(), packet.payload + skip, to.cast(), fresh)
    };
    if loaded != 0 {
        return Err(Reason::DnsMalformed);
    }
    let end = have + fresh;
    let mut start = 0;
    for _ in 0..MESSAGES {
        let at = core::hint::black_box(start) & (DIALOG_BYTES as u32 / 2 - 1);
        if end - start < 2 {
            break;
        }
        let frame = (&raw const dialog.frame).cast::<u8>();
        // SAFETY: within the room.
        let len = unsafe {
            u32::from(frame.add(at as usize).read_volatile()) << 8
                | u32::from(frame.add(at as usize + 1).read_volatile())
        };
        if end - start < 2 + len {
            break;
        }
        learn(&Place { skb: ctx.skb.skb.cast(), frame, start: at + 2 }, cfg, sk, packet, scratch, len)?;
        start += 2 + len;
    }
    let rest = end - start;
    if start != 0 && rest != 0 {
        // The beginning of another message: to where messages begin. What is read is ahead of what is written.
        let from = core::hint::black_box(start) & (DIALOG_BYTES as u32 / 2 - 1);
        let len = (core::hint::black_box(rest).wrapping_sub(1) & (DIALOG_BYTES as u32 / 2 - 1)) + 1;
        let frame = (&raw mut dialog.frame).cast::<u8>();
        // SAFETY: half of the room is behind every place in the other half.
        let moved = unsafe { bpf_probe_read_kernel(frame.cast(), len, frame.add(from as usize).cast()) };
        if moved != 0 {
            return Err(Reason::DnsRoom);
        }
    }
    dialog.have = rest;
    dialog.read = dialog.read.wrapping_add(fresh);
    Ok(())
}

/// The message ends within a record, or says what cannot be.
const BROKEN: u32 = 1;
/// An address could not be opened.
const NO_ROOM: u32 = 2;

/// Where the reading of records is.
#[repr(C)]
struct Walk {
    /// As [`Place`] has them.
    skb: *mut c_void,
    frame: *const u8,
    /// Where the next record, or label, is.
    at: u32,
    /// Where the message ends.
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
    /// The network namespace of who asked.
    netns: u32,
    _pad: u32,
    /// See [`pin`].
    empty: *const Pins,
}

impl Walk {
    #[inline(always)]
    fn load<const N: usize>(&mut self, at: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: an array of the size given; of what was kept, N bytes are behind every place below its last quarter.
        let loaded = unsafe {
            let to = bytes.as_mut_ptr().cast();
            if self.frame.is_null() {
                bpf_skb_load_bytes(self.skb, at, to, N as u32)
            } else {
                let from = self.frame.add(at as usize & (DIALOG_BYTES - 1));
                bpf_probe_read_kernel(to, N as u32, from.cast())
            }
        };
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
        (TYPE_A, CLASS_IN, 4) => Addr::from_v4_word(u32::from_ne_bytes(walk.load::<4>(data).ok_or(BROKEN)?)),
        (TYPE_AAAA, CLASS_IN, 16) => Addr::from_octets(walk.load::<16>(data).ok_or(BROKEN)?),
        (TYPE_A | TYPE_AAAA, CLASS_IN, _) => return Err(BROKEN),
        _ => return Ok(()),
    };
    if walk.opens == 0 || walk.addresses >= MOST_ADDRESSES {
        return Ok(());
    }
    walk.addresses += 1;
    if pin(walk.agent, &addr, walk.name, ttl, walk.netns, walk.empty) { Ok(()) } else { Err(NO_ROOM) }
}
