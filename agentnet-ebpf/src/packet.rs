//! The header walk, once for both families and both directions.

use agentnet_common::{
    addr::{Addr, Endpoint, protocol},
    verdict::Reason,
};
use aya_ebpf::{helpers::generated::bpf_skb_load_bytes, programs::SkBuffContext};

/// SYN in the flags byte of a TCP header (RFC 9293, 3.1).
const SYN: u8 = 0x02;
/// ACK.
const ACK: u8 = 0x10;
/// As the headers of IP have it, widened to the words they are read in.
const TCP: u32 = protocol::TCP as u32;

/// `lo` has this interface index in every network namespace (`LOOPBACK_IFINDEX`, include/net/net_namespace.h).
const LOOPBACK_IFINDEX: u32 = 1;

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Out of the agent.
    Egress,
    /// Into the agent.
    Ingress,
}

/// What the hooks need to know of a packet.
pub struct Packet {
    /// The far end.
    pub remote: Endpoint,
    /// The near end.
    pub local: Endpoint,
    /// Flags of a TCP header, else 0.
    pub tcp_flags: u8,
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
        has_data: false,
        on_loopback: false,
    };

    /// Opens a TCP connection.
    #[inline(always)]
    pub const fn is_syn(&self) -> bool {
        self.tcp_flags & (SYN | ACK) == SYN
    }

    /// Answers the opening of a TCP connection.
    #[inline(always)]
    pub const fn is_syn_ack(&self) -> bool {
        self.tcp_flags & (SYN | ACK) == SYN | ACK
    }
}

/// Reads `T`, which is made of integers, at a byte offset.
///
/// By helper, whether the packet is linear there or not: each read that has two ways doubles the paths that the
/// verifier walks. What comes often is a [`Segment`].
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
fn ipv6(ctx: &SkBuffContext, header: [u32; 5], start: u32) -> Result<Network, Reason> {
    let rest: [u32; 5] = load(ctx, start + size_of_val(&header) as u32)?;
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
    match parse_at(ctx, 0, direction) {
        Ok(packet) => (packet, None),
        Err(reason) => (Packet::UNREADABLE, Some(reason)),
    }
}

/// Reads a packet whose IP header is `start` bytes in.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn parse_at(ctx: &SkBuffContext, start: u32, direction: Direction) -> Result<Packet, Reason> {
    // As much as both families have.
    let header: [u32; 5] = load(ctx, start)?;
    let network = match u32::from_be(header[0]) >> 28 {
        4 => ipv4(header, start)?,
        6 => ipv6(ctx, header, start)?,
        _ => return Err(Reason::Malformed),
    };
    let mut has_data = true;
    let (source_port, destination_port, tcp_flags) = match network.protocol {
        protocol::TCP => {
            // Source and destination port in the first word, data offset and flags in the fourth.
            let header: [u32; 4] = load(ctx, network.transport)?;
            let (ports, fourth) = (u32::from_be(header[0]), u32::from_be(header[3]));
            // The data offset counts words.
            has_data = ctx.len() > network.transport + (fourth >> 28) * 4;
            ((ports >> 16) as u16, ports as u16, (fourth >> 16) as u8)
        }
        protocol::UDP => {
            let ports = u32::from_be(load::<u32>(ctx, network.transport)?);
            ((ports >> 16) as u16, ports as u16, 0)
        }
        protocol::ICMP | protocol::ICMPV6 => {
            // Echo and echo reply (RFC 792; RFC 4443, 4.1 and 4.2) are what a ping socket may send.
            let kind = u32::from_be(load(ctx, network.transport)?) >> 24;
            match (network.protocol, kind) {
                (protocol::ICMP, 0 | 8) | (protocol::ICMPV6, 128 | 129) => (0, 0, 0),
                _ => return Err(Reason::IcmpType),
            }
        }
        _ => return Err(Reason::UnknownProtocol),
    };
    let source = Endpoint::new(network.source, source_port, network.protocol);
    let destination = Endpoint::new(network.destination, destination_port, network.protocol);
    let (local, remote) = match direction {
        Direction::Egress => (source, destination),
        Direction::Ingress => (destination, source),
    };
    Ok(Packet { remote, local, tcp_flags, has_data, on_loopback: on_loopback(ctx) })
}

/// See [`Packet::on_loopback`].
#[inline(always)]
pub fn on_loopback(ctx: &SkBuffContext) -> bool {
    // SAFETY: the context is the kernel's.
    unsafe { (*ctx.skb.skb).ifindex == LOOPBACK_IFINDEX }
}

/// The plainest segment of TCP, read at one go: linear, without options of IP, fragments and extension headers,
/// and not the first of a connection in either direction. What is none may still be a packet that [`parse`] takes.
pub struct Segment {
    destination: Addr,
    destination_port: u16,
}

impl Segment {
    /// Whether it goes to this address and port (host byte order).
    #[inline(always)]
    pub fn goes_to(&self, addr: &[u32; 4], port: u16) -> bool {
        self.destination_port == port && self.destination.words == *addr
    }
}

/// Reads a [`Segment`].
#[inline(always)]
pub fn segment(ctx: &SkBuffContext) -> Option<Segment> {
    // SAFETY: the context is the kernel's.
    let (data, end) = unsafe { ((*ctx.skb.skb).data as usize, (*ctx.skb.skb).data_end as usize) };
    if data + size_of::<[u32; 9]>() > end {
        return None;
    }
    // SAFETY: within the linear part: 20 bytes of IPv4 and 16 of TCP, or less than a header of IPv6.
    let word = |index: usize| u32::from_be(unsafe { (data as *const u32).add(index).read_unaligned() });
    let (destination, ports, flags) = match word(0) >> 28 {
        // Five words of header; neither more fragments nor an offset.
        4 if word(0) >> 24 == 0x45 && word(1) & 0x3fff == 0 && word(2) >> 16 & 0xff == TCP => {
            (Addr::from_v4_word(word(4).to_be()), word(5), word(8))
        }
        6 if word(1) >> 8 & 0xff == TCP && data + size_of::<[u32; 14]>() <= end => {
            let address = [word(6).to_be(), word(7).to_be(), word(8).to_be(), word(9).to_be()];
            (Addr { words: address }, word(10), word(13))
        }
        _ => return None,
    };
    ((flags >> 16) as u8 & SYN == 0).then_some(Segment { destination, destination_port: ports as u16 })
}
