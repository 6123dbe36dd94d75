//! Below IP: frames made by hand, and packets that come from a device instead of a socket.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd as _,
};

use super::{
    Args, Families, Operation, Outcome, Step as _, Trace,
    packet::{self, ETH_P_IP, ETH_P_IPV6},
    raw,
};
use crate::{
    lab::{net, netlink::Netlink},
    sys,
};

/// What this file offers.
pub const OPERATIONS: &[Operation] = &[
    Operation::new("tun-forward", Trace::Marker, "a packet from a TUN device, routed by the kernel", tun)
        .privileged(),
    Operation::new("link-vlan", Trace::Elsewhere, "a frame with a VLAN tag", |args| {
        let tagged = [&[0, 5], ether_type(args).to_be_bytes().as_slice(), &raw::udp_packet(args)].concat();
        frame(args, net::SERVER_MAC, ETH_P_8021Q, &tagged)
    })
    .privileged(),
    Operation::new("link-stacked-vlan", Trace::Elsewhere, "a frame with two VLAN tags", |args| {
        let inner = [&[0, 5], ether_type(args).to_be_bytes().as_slice(), &raw::udp_packet(args)].concat();
        let outer = [&[0, 6], ETH_P_8021Q.to_be_bytes().as_slice(), &inner].concat();
        frame(args, net::SERVER_MAC, ETH_P_8021AD, &outer)
    })
    .privileged(),
    Operation::new("link-ether-type", Trace::Elsewhere, "a frame of a protocol for experiments", |args| {
        frame(args, net::SERVER_MAC, ETH_P_EXPERIMENT, &padded(args))
    })
    .privileged(),
    Operation::new("link-length", Trace::Elsewhere, "a frame with a length in place of a type", |args| {
        let data = padded(args);
        frame(args, net::SERVER_MAC, u16::try_from(data.len()).unwrap_or(64), &data)
    })
    .privileged(),
    Operation::new("link-wrong-type", Trace::Elsewhere, "a packet under the other family's type", |args| {
        let other = if args.to.is_ipv4() { ETH_P_IPV6 } else { ETH_P_IP };
        frame(args, net::SERVER_MAC, other, &raw::udp_packet(args))
    })
    .privileged(),
    Operation::new("link-arp", Trace::Elsewhere, "ARP with something behind it", |args| {
        frame(args, BROADCAST, ETH_P_ARP, &[arp(args).as_slice(), args.secret()].concat())
    })
    .only(Families::V4)
    .privileged(),
    Operation::new("link-arp-address", Trace::Elsewhere, "ARP from an address made of data", |args| {
        let mut arp = arp(args);
        arp[8..14].copy_from_slice(args.secret().first_chunk::<6>().unwrap_or(&[0; 6]));
        // Of nobody's IP address: the servers must not believe it for the agent's.
        if let IpAddr::V4(nobody) = net::Family::V4.elsewhere() {
            arp[14..18].copy_from_slice(&nobody.octets());
        }
        frame(args, BROADCAST, ETH_P_ARP, &[arp.as_slice(), args.secret()].concat())
    })
    .only(Families::V4)
    .privileged(),
    Operation::new(
        "link-solicit",
        Trace::Elsewhere,
        "a neighbour solicitation with options of data",
        |args| {
            let group: Ipv6Addr = [0xff02, 0, 0, 0, 0, 1, 0xff00, 3].into();
            frame(args, net::SERVER_MAC, ETH_P_IPV6, &discovery(args, 135, group.into(), args.to.ip()))
        },
    )
    .only(Families::V6)
    .privileged(),
    Operation::new(
        "link-advertise",
        Trace::Elsewhere,
        "a neighbour advertisement with options of data",
        |args| frame(args, net::SERVER_MAC, ETH_P_IPV6, &discovery(args, 136, args.to.ip(), args.to.ip())),
    )
    .only(Families::V6)
    .privileged(),
    Operation::new("link-report", Trace::Elsewhere, "a report of groups with sources of data", report)
        .only(Families::V6)
        .privileged(),
];

const ETH_P_ARP: u16 = 0x0806;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;
/// For local experiments (IEEE 802, 9.2.4).
const ETH_P_EXPERIMENT: u16 = 0x88b5;
const BROADCAST: [u8; 6] = [0xff; 6];
const ICMPV6: u8 = 58;

fn ether_type(args: &Args) -> u16 {
    if args.to.is_ipv4() { ETH_P_IP } else { ETH_P_IPV6 }
}

/// Sends a frame by a packet socket.
fn frame(args: &Args, to: [u8; 6], kind: u16, payload: &[u8]) -> Outcome {
    let frame = [to.as_slice(), &net::AGENT_MAC, &kind.to_be_bytes(), payload].concat();
    packet::send_frame(args, &frame)
}

/// The marker, as long as a frame has to be.
fn padded(args: &Args) -> Vec<u8> {
    let mut data = args.secret().to_vec();
    data.resize(data.len().max(64), 0);
    data
}

/// A request for the target's link-layer address.
fn arp(args: &Args) -> [u8; 28] {
    let mut arp = [0; 28];
    arp[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    arp[8..14].copy_from_slice(&net::AGENT_MAC);
    if let (IpAddr::V4(own), IpAddr::V4(to)) = (net::Family::V4.agent(), args.to.ip()) {
        arp[14..18].copy_from_slice(&own.octets());
        arp[24..28].copy_from_slice(&to.octets());
    }
    arp
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn ipv6(args: &Args, next: u8, hop_limit: u8, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let own = octets(net::Family::of(args.to.ip()).agent());
    [&[0x60, 0, 0, 0], length.as_slice(), &[next, hop_limit], &own, &octets(to), payload].concat()
}

/// A neighbour discovery message whose options hold the marker.
fn discovery(args: &Args, kind: u8, to: IpAddr, target: IpAddr) -> Vec<u8> {
    let mut option = vec![14, 0];
    option.extend_from_slice(args.secret());
    option.resize(option.len().next_multiple_of(8), 0);
    option[1] = u8::try_from(option.len() / 8).unwrap_or(u8::MAX);
    let message = [&[kind, 0, 0, 0, 0, 0, 0, 0], octets(target).as_slice(), &option].concat();
    ipv6(args, ICMPV6, 255, to, &message)
}

/// An MLDv2 report with one group, whose sources are the marker.
fn report(args: &Args) -> Outcome {
    let group: Ipv6Addr = [0xff02, 0, 0, 0, 0, 1, 0xff00, 3].into();
    let mut sources = args.secret().to_vec();
    sources.resize(sources.len().next_multiple_of(16), 0);
    let count = u8::try_from(sources.len() / 16).unwrap_or(u8::MAX);
    let message = [
        [ICMPV6, 0, 5, 2, 0, 0, 1, 0].as_slice(),
        &[143, 0, 0, 0, 0, 0, 0, 1],
        &[4, 0, 0, count],
        &group.octets(),
        &sources,
    ]
    .concat();
    let routers: Ipv6Addr = [0xff02, 0, 0, 0, 0, 0, 0, 0x16].into();
    frame(args, net::SERVER_MAC, ETH_P_IPV6, &ipv6(args, 0, 1, routers.into(), &message))
}

/// `TUNSETIFF` and its flags (include/uapi/linux/if_tun.h).
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const IFF_TUN: u16 = 1;
const IFF_NO_PI: u16 = 0x1000;

/// Writes a packet from a network behind a TUN device, which the kernel routes on.
fn tun(args: &Args) -> Outcome {
    const NAME: &str = "agenttun0";
    let mut device = File::options().read(true).write(true).open("/dev/net/tun").step("open")?;
    let mut request = [0_u8; 40];
    request[..NAME.len()].copy_from_slice(NAME.as_bytes());
    request[16..18].copy_from_slice(&(IFF_TUN | IFF_NO_PI).to_ne_bytes());
    // SAFETY: the request is a struct ifreq, as long as the kernel reads and writes.
    sys::check(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) }).step("ioctl")?;
    let (near, far, forwarding, prefix): (IpAddr, IpAddr, _, _) = if args.to.is_ipv4() {
        let net = |last| Ipv4Addr::new(192, 0, 2, last).into();
        (net(1), net(2), "/proc/sys/net/ipv4/ip_forward", 25)
    } else {
        let net = |last| Ipv6Addr::new(0xfd00, 0x7e57, 0, 0, 0, 0, 0, last).into();
        (net(1), net(2), "/proc/sys/net/ipv6/conf/all/forwarding", 64)
    };
    let set_up = || -> anyhow::Result<()> {
        fs::write(forwarding, "1")?;
        let netlink = Netlink::open()?;
        netlink.add_address(NAME, near, prefix)?;
        netlink.up(NAME)
    };
    set_up().map_err(io::Error::other).step("set up")?;
    let packet = raw::udp_packet_from(far, args);
    device.write_all(&packet).step("write")?;
    Ok(packet.len())
}
