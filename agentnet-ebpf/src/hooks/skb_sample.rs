//! Samples of payload. Packets that were let through are handed to these programs; they pass, whatever is sampled.

use agentnet_common::{
    abi::{ABI_VERSION, AgentCfg, SAMPLE_BUDGET, SAMPLE_TCP_BYTES, SAMPLED_IN, SAMPLED_OUT, SockState},
    addr::protocol,
    event::{Header, Kind, SAMPLE_BYTES, SAMPLE_STREAM, SampleHead, Way},
};
use aya_ebpf::{
    bindings::BPF_RB_FORCE_WAKEUP,
    helpers::{
        bpf_get_smp_processor_id, bpf_ktime_get_ns,
        generated::{
            bpf_loop, bpf_ringbuf_discard, bpf_ringbuf_reserve, bpf_ringbuf_submit, bpf_skb_load_bytes,
        },
    },
    macros::cgroup_skb,
    programs::SkBuffContext,
};

use super::{
    ALLOW,
    skb::{cookie, socket},
};
use crate::{
    agent::{config, sock_state},
    emit::{add, counters},
    maps::{BUDGETS, SAMPLES},
    opaque,
    packet::{Direction, Packet, parse},
    sample::is_stream,
};

/// Records that one packet may fill: the largest that the kernel hands down is 64 KiB.
const RECORDS: u32 = 17;

#[cgroup_skb(egress)]
pub fn an_sample_out(ctx: SkBuffContext) -> i32 {
    sample(&ctx, Way::Out);
    ALLOW
}

#[cgroup_skb(ingress)]
pub fn an_sample_in(ctx: SkBuffContext) -> i32 {
    sample(&ctx, Way::In);
    ALLOW
}

/// What is to be taken of a packet.
struct Part {
    /// First byte, from the beginning of the packet.
    start: u32,
    /// Bytes.
    len: u32,
    /// See [`SampleHead::offset`].
    offset: u64,
    /// See [`SampleHead::flags`].
    flags: u8,
}

#[inline(always)]
fn sample(ctx: &SkBuffContext, way: Way) {
    let Some(cfg) = config() else { return };
    let Some(state) = socket(ctx).and_then(|sk| sock_state(sk, false)) else { return };
    let direction = match way {
        Way::Out => Direction::Egress,
        Way::In => Direction::Ingress,
    };
    let (packet, None) = parse(ctx, direction) else { return };
    let payload = ctx.len().saturating_sub(packet.payload);
    let part = if packet.remote.protocol == protocol::TCP {
        segment(state, &packet, payload, way)
    } else {
        let count = match way {
            Way::Out => state.tx_packets,
            Way::In => state.rx_packets,
        };
        Some(Part { start: packet.payload, len: payload, offset: count.saturating_sub(1), flags: 0 })
    };
    let Some(part) = part else { return };
    let unknown = ctx.len();
    let part = Part {
        start: opaque::word(part.start, unknown),
        len: opaque::word(part.len, unknown),
        offset: part.offset,
        flags: opaque::word(part.flags.into(), unknown) as u8,
    };
    if part.len == 0 {
        return;
    }
    if !is_affordable(cfg, &part) {
        return;
    }
    let mut copy = Copy {
        skb: ctx.skb.skb.cast(),
        start: part.start,
        left: part.len,
        offset: part.offset,
        head: SampleHead {
            header: Header {
                abi: ABI_VERSION,
                kind: Kind::Sample as u16,
                len: 0,
                seq: 0,
                // SAFETY: no arguments.
                time: unsafe { bpf_ktime_get_ns() },
                agent: cfg.agent,
                // SAFETY: no arguments.
                cpu: unsafe { bpf_get_smp_processor_id() },
                flow: cookie(ctx),
            },
            process: state.process,
            endpoint: packet.remote,
            local: packet.local.addr,
            local_port: packet.local.port,
            way: way as u8,
            flags: part.flags,
            offset: 0,
            payload: 0,
            len: 0,
            rule: state.rule,
            pad: [0; 3],
        },
    };
    // SAFETY: the callback has the signature that the helper wants, and the context is of the type it takes.
    unsafe { bpf_loop(RECORDS, copy_one as *mut _, (&raw mut copy).cast(), 0) };
}

/// What is new in a segment of TCP, as far as it is wanted; repeats are not.
#[inline(always)]
fn segment(state: &mut SockState, packet: &Packet, payload: u32, way: Way) -> Option<Part> {
    let (index, bit) = match way {
        Way::Out => (0, SAMPLED_OUT),
        Way::In => (1, SAMPLED_IN),
    };
    if state.marks & bit == 0 {
        state.marks |= bit;
        state.base[index] = packet.sequence;
        state.next[index] = 0;
    }
    let next = state.next[index];
    // Sequence numbers wrap (RFC 9293, 3.4); what is half of the space ahead is behind.
    let ahead = packet.sequence.wrapping_sub(state.base[index]).wrapping_sub(next as u32);
    let (skip, offset) =
        if ahead as i32 >= 0 { (0, next + u64::from(ahead)) } else { (ahead.wrapping_neg(), next) };
    if skip >= payload {
        return None;
    }
    let fresh = payload - skip;
    state.next[index] = offset + u64::from(fresh);
    let stream = matches!(way, Way::Out) && is_stream(packet.remote.port);
    let wanted = if stream { fresh } else { fresh.min(SAMPLE_TCP_BYTES.saturating_sub(offset) as u32) };
    Some(Part {
        start: packet.payload + skip,
        len: wanted,
        offset,
        flags: if stream && offset >= SAMPLE_TCP_BYTES { SAMPLE_STREAM } else { 0 },
    })
}

/// Takes the bytes from the agent's budget, or counts that they are missing.
#[inline(always)]
fn is_affordable(cfg: &AgentCfg, part: &Part) -> bool {
    const SECOND: u64 = 1_000_000_000;
    let Some(budget) = BUDGETS.get_ptr_mut(cfg.agent) else { return false };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: a map value that outlives the run.
    let most = match unsafe { (&raw const (*budget).most).read() } {
        0 => SAMPLE_BUDGET,
        most => most,
    };
    let most = if part.flags & SAMPLE_STREAM != 0 { most } else { most.wrapping_mul(2) };
    // SAFETY: a map value that outlives the run. CPUs that begin a second at once give the agent a little more.
    let used = unsafe {
        if now.saturating_sub((&raw const (*budget).since).read_volatile()) >= SECOND {
            (&raw mut (*budget).since).write_volatile(now);
            (&raw mut (*budget).bytes).write_volatile(0);
        }
        add(&raw mut (*budget).bytes, part.len.into())
    };
    if used < most {
        return true;
    }
    if let Some(counters) = counters(cfg.agent) {
        // SAFETY: as above.
        unsafe { add(&raw mut (*counters).unsampled, part.len.into()) };
    }
    false
}

/// What is being copied to the ring.
#[repr(C)]
struct Copy {
    skb: *mut core::ffi::c_void,
    start: u32,
    left: u32,
    offset: u64,
    head: SampleHead,
}

/// Writes a record; 1 when there is nothing left.
extern "C" fn copy_one(_: u32, copy: *mut core::ffi::c_void) -> core::ffi::c_long {
    // SAFETY: `bpf_loop` hands through what it was given.
    let copy = unsafe { &mut *copy.cast::<Copy>() };
    let left = copy.left;
    let taken = if left > SAMPLE_BYTES[1] as u32 {
        write::<{ SAMPLE_BYTES[2] }, { SAMPLE_BYTES[2] + size_of::<SampleHead>() }>(copy, left)
    } else if left > SAMPLE_BYTES[0] as u32 {
        write::<{ SAMPLE_BYTES[1] }, { SAMPLE_BYTES[1] + size_of::<SampleHead>() }>(copy, left)
    } else {
        write::<{ SAMPLE_BYTES[0] }, { SAMPLE_BYTES[0] + size_of::<SampleHead>() }>(copy, left)
    };
    copy.start += taken;
    copy.offset += u64::from(taken);
    copy.left = left.saturating_sub(taken);
    (taken == 0 || copy.left == 0).into()
}

/// Writes a record of `BYTES` bytes of payload, `ALL` with its head. Returns how many it took; 0 if none.
#[inline(always)]
fn write<const BYTES: usize, const ALL: usize>(copy: &mut Copy, left: u32) -> u32 {
    let Some(counters) = counters(copy.head.header.agent) else { return 0 };
    // SAFETY: the map value outlives the run.
    let seq = unsafe { add(&raw mut (*counters).samples, 1) };
    // SAFETY: the size is constant.
    let record = unsafe { bpf_ringbuf_reserve((&raw const SAMPLES).cast_mut().cast(), ALL as u64, 0) };
    if record.is_null() {
        // SAFETY: as above.
        unsafe { add(&raw mut (*counters).samples_lost, 1) };
        return 0;
    }
    copy.head.header.len = ALL as u32;
    copy.head.header.seq = seq;
    copy.head.offset = copy.offset;
    copy.head.payload = left;
    // SAFETY: room for the head and BYTES bytes was reserved.
    let len = unsafe {
        record.cast::<SampleHead>().write(copy.head);
        // By way of the record: of what comes from there the verifier does not ask how it came about, which it would
        // follow through every turn of the loop.
        let left = (&raw const (*record.cast::<SampleHead>()).payload).read_volatile();
        // From 1 to BYTES, in a form that the verifier follows.
        let len = ((left.min(BYTES as u32).wrapping_sub(1)) & (BYTES as u32 - 1)) + 1;
        (&raw mut (*record.cast::<SampleHead>()).len).write(len);
        let bytes = record.cast::<u8>().add(size_of::<SampleHead>());
        if bpf_skb_load_bytes(copy.skb, copy.start, bytes.cast(), len) != 0 {
            bpf_ringbuf_discard(record, 0);
            return 0;
        }
        // Records that wake nobody may lie before it, and the kernel wakes for the first that was not read alone.
        bpf_ringbuf_submit(record, BPF_RB_FORCE_WAKEUP.into());
        len
    };
    len
}
