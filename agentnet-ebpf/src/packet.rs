//! The header walk, once for both families and both directions.

use core::mem::MaybeUninit;

use agentnet_common::{
    addr::{Addr, Endpoint, protocol},
    verdict::Reason,
};
use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes, programs::SkBuffContext};

use crate::{opaque, tables::reason};

/// SYN in the flags byte of a TCP header (RFC 9293, 3.1).
const SYN: u8 = 0x02;
/// ACK.
const ACK: u8 = 0x10;
/// URG.
const URG: u8 = 0x20;

/// `lo` has this interface index in every network namespace (`LOOPBACK_IFINDEX`, include/net/net_namespace.h).
const LOOPBACK_IFINDEX: u32 = 1;

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// Out of the agent.
    Egress,
    /// Into the agent.
    Ingress,
}

/// What the hooks need to know of a packet.
#[repr(C)]
pub struct Packet {
    /// The far end.
    pub remote: Endpoint,
    /// The near end.
    pub local: Endpoint,
    /// Flags of a TCP header, else 0.
    pub tcp_flags: u8,
    /// Sequence number of a TCP segment, else 0.
    pub sequence: u32,
    /// Where the payload begins.
    pub payload: u32,
    /// Carries something besides headers. Told of TCP only, whose segments often do not.
    pub has_data: bool,
    /// Leaves or came by `lo`: the far end is this host, whatever its address.
    pub on_loopback: bool,
}

impl Packet {
    /// Nothing is known of it. All fields have a value: what a failure leaves undefined, LLVM may spill and the
    /// verifier refuses to see read.
    const UNREADABLE: Self = Self {
        remote: Endpoint::new(Addr::UNSPECIFIED, 0, 0),
        local: Endpoint::new(Addr::UNSPECIFIED, 0, 0),
        tcp_flags: 0,
        sequence: 0,
        payload: 0,
        has_data: false,
        on_loopback: false,
    };

    /// Opens a TCP connection.
    #[inline(always)]
    pub const fn is_syn(&self) -> bool {
        self.tcp_flags & (SYN | ACK) == SYN
    }

    /// Says that a byte is urgent, its own or one that comes: a receiver takes that byte out of the stream, unless it was
    /// asked not to (`tcp_check_urg`, net/ipv4/tcp_input.c), and so reads something else than was judged.
    #[inline(always)]
    pub const fn is_urgent(&self) -> bool {
        self.tcp_flags & URG != 0
    }

    /// Brings the far end something that has to be judged where payload is.
    #[inline(always)]
    pub const fn carries(&self) -> bool {
        self.has_data || self.is_urgent()
    }

    /// Goes on with a connection of TCP: what opens one, in either direction, does not.
    #[inline(always)]
    pub const fn is_later_segment(&self) -> bool {
        self.remote.protocol == protocol::TCP && self.tcp_flags & SYN == 0
    }

    /// Answers the opening of a TCP connection.
    #[inline(always)]
    pub const fn is_syn_ack(&self) -> bool {
        self.tcp_flags & (SYN | ACK) == SYN | ACK
    }
}

/// Reads `T`, which is made of integers, at a byte offset, whether the packet is linear there or not.
#[inline(always)]
pub fn load<T: Copy>(ctx: &SkBuffContext, offset: u32) -> Result<T, Reason> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the buffer has the size given; the helper fills all of it or fails.
    let result = unsafe {
        bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, value.as_mut_ptr().cast(), size_of::<T>() as u32)
    };
    // SAFETY: as above.
    if result == 0 { Ok(unsafe { value.assume_init() }) } else { Err(Reason::Malformed) }
}

/// How the words of a header are read. One way each: two ways for a read double the paths that the verifier walks.
trait Headers: Copy {
    /// `N` words from byte `offset` on.
    ///
    /// # Errors
    /// [`Reason::Malformed`] where the packet is shorter.
    fn words<const N: usize>(self, offset: u32) -> Result<[u32; N], Reason>;
}

/// By helper, wherever the bytes are.
#[derive(Clone, Copy)]
struct Anywhere<'a>(&'a SkBuffContext);

impl Headers for Anywhere<'_> {
    #[inline(always)]
    fn words<const N: usize>(self, offset: u32) -> Result<[u32; N], Reason> {
        load(self.0, offset)
    }
}

/// In place, in the linear part. What the kernel's own IP layers have made or taken apart, as cgroup_skb sees it,
/// has its headers there (`pskb_may_pull` in ip_rcv, tcp_v4_rcv and their like).
#[derive(Clone, Copy)]
struct InPlace {
    data: usize,
    end: usize,
}

impl Headers for InPlace {
    #[inline(always)]
    fn words<const N: usize>(self, offset: u32) -> Result<[u32; N], Reason> {
        let start = self.data + offset as usize;
        if start + size_of::<[u32; N]>() > self.end {
            return Err(Reason::Malformed);
        }
        // SAFETY: within the linear part, as the verifier checks; any bytes are words. The kernel aligns headers of IP to
        // words (`NET_IP_ALIGN`) or runs where that does not matter; read byte by byte they cost three times as much.
        Ok(core::array::from_fn(|index| unsafe { (start as *const u32).add(index).read() }))
    }
}

/// Network header as far as it matters: protocol, source, destination, offset of the transport header.
struct Network {
    protocol: u8,
    source: Addr,
    destination: Addr,
    transport: u32,
}

/// An IPv4 header without options and fragments (RFC 791, 3.1), five words as on the wire.
///
/// In either direction: the kernel echoes the options of an incoming SYN in its answer.
#[inline(always)]
fn ipv4(header: [u32; 5], start: u32) -> Result<Network, Reason> {
    let header_bytes = (u32::from_be(header[0]) >> 24 & 0x0f) * 4;
    if header_bytes < 20 {
        return Err(Reason::Malformed);
    }
    if header_bytes != 20 {
        return Err(Reason::IpOptions);
    }
    // More fragments (0x2000) or an offset: the hooks run before fragmentation and after reassembly.
    if u32::from_be(header[1]) & 0x3fff != 0 {
        return Err(Reason::Fragment);
    }
    Ok(Network {
        protocol: (u32::from_be(header[2]) >> 16) as u8,
        source: Addr::from_v4_word(header[3]),
        destination: Addr::from_v4_word(header[4]),
        transport: start + 20,
    })
}

/// An IPv6 header (RFC 8200, 3) directly followed by the transport header, given its first half.
#[inline(always)]
fn ipv6(headers: impl Headers, header: [u32; 5], start: u32) -> Result<Network, Reason> {
    let rest: [u32; 5] = headers.words(start + size_of_val(&header) as u32)?;
    let protocol = (u32::from_be(header[1]) >> 8) as u8;
    // Hop-by-hop, routing, fragment, ESP, AH, destination options, mobility, HIP, shim6 (IANA "IPv6
    // Extension Header Types").
    if matches!(protocol, 0 | 43 | 44 | 50 | 51 | 60 | 135 | 139 | 140) {
        return Err(Reason::ExtensionHeader);
    }
    Ok(Network {
        protocol,
        source: Addr { words: [header[2], header[3], header[4], rest[0]] },
        destination: Addr { words: [rest[1], rest[2], rest[3], rest[4]] },
        transport: start + 40,
    })
}

/// Reads a packet that begins with its IP header, as cgroup_skb has them. With what cannot be read comes the
/// reason to drop it.
#[inline(always)]
pub fn parse(ctx: &SkBuffContext, direction: Direction) -> (Packet, Option<Reason>) {
    let mut packet = MaybeUninit::uninit();
    let code = an_parse(ctx.skb.skb, packet.as_mut_ptr(), direction as u32);
    // SAFETY: written whatever comes of it; a code is 0 or that of a reason.
    unsafe { (packet.assume_init(), (code != 0).then(|| reason(code))) }
}

/// [`parse`]: 0, or the code of the reason. A function of its own to the kernel as well, see
/// [`crate::tables::an_decide`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn an_parse(skb: *mut __sk_buff, packet: *mut Packet, direction: u32) -> u64 {
    let ctx = SkBuffContext::new(skb);
    // SAFETY: null, or what the caller has.
    let Some(packet) = (unsafe { packet.as_mut() }) else { return Reason::Malformed as u64 };
    // SAFETY: the context is the kernel's.
    let headers = unsafe { InPlace { data: (*skb).data as usize, end: (*skb).data_end as usize } };
    let direction =
        if direction == Direction::Egress as u32 { Direction::Egress } else { Direction::Ingress };
    match walk(&ctx, headers, 0, direction) {
        Ok(read) => {
            *packet = read;
            0
        }
        Err(reason) => {
            *packet = Packet::UNREADABLE;
            reason as u64
        }
    }
}

/// Reads a packet whose IP header is `start` bytes in.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn parse_at(ctx: &SkBuffContext, start: u32, direction: Direction) -> Result<Packet, Reason> {
    walk(ctx, Anywhere(ctx), start, direction)
}

#[inline(always)]
fn walk(
    ctx: &SkBuffContext,
    headers: impl Headers,
    start: u32,
    direction: Direction,
) -> Result<Packet, Reason> {
    // As much as both families have.
    let header: [u32; 5] = headers.words(start)?;
    let network = match u32::from_be(header[0]) >> 28 {
        4 => ipv4(header, start)?,
        6 => ipv6(headers, header, start)?,
        _ => return Err(Reason::Malformed),
    };
    let mut has_data = true;
    let mut sequence = 0;
    // UDP and echo messages have headers of eight bytes.
    let mut payload = network.transport + 8;
    let (source_port, destination_port, tcp_flags) = match network.protocol {
        protocol::TCP => {
            // Source and destination port in the first word, data offset and flags in the fourth.
            let header: [u32; 4] = headers.words(network.transport)?;
            let (ports, fourth) = (u32::from_be(header[0]), u32::from_be(header[3]));
            sequence = u32::from_be(header[1]);
            // The data offset counts words.
            payload = network.transport + (fourth >> 28) * 4;
            has_data = ctx.len() > payload;
            ((ports >> 16) as u16, ports as u16, fourth >> 16)
        }
        protocol::UDP => {
            let [ports] = headers.words(network.transport)?;
            let ports = u32::from_be(ports);
            ((ports >> 16) as u16, ports as u16, 0)
        }
        protocol::ICMP | protocol::ICMPV6 => {
            // Echo and echo reply (RFC 792; RFC 4443, 4.1 and 4.2) are what a ping socket may send.
            let [first] = headers.words(network.transport)?;
            let kind = u32::from_be(first) >> 24;
            match (network.protocol, kind) {
                (protocol::ICMP, 0 | 8) | (protocol::ICMPV6, 128 | 129) => (0, 0, 0),
                _ => return Err(Reason::IcmpType),
            }
        }
        _ => return Err(Reason::UnknownProtocol),
    };
    let protocol = opaque::word(network.protocol.into(), ctx.len()) as u8;
    let source = Endpoint::new(opaque::family(network.source, ctx.len()), source_port, protocol);
    let destination =
        Endpoint::new(opaque::family(network.destination, ctx.len()), destination_port, protocol);
    let tcp_flags = opaque::word(tcp_flags, ctx.len()) as u8;
    let (local, remote) = match direction {
        Direction::Egress => (source, destination),
        Direction::Ingress => (destination, source),
    };
    Ok(Packet { remote, local, tcp_flags, sequence, payload, has_data, on_loopback: on_loopback(ctx) })
}

/// See [`Packet::on_loopback`].
#[inline(always)]
pub fn on_loopback(ctx: &SkBuffContext) -> bool {
    // SAFETY: the context is the kernel's.
    unsafe { (*ctx.skb.skb).ifindex == LOOPBACK_IFINDEX }
}
