//! `tcx`: ways on which a packet for the allowed host leaves for the denied one, set up by an agent that has the
//! network of its container to itself.

use agentnet_tests::{
    lab::{
        container::{Guard, Site, configure, ensure_all_ok, policy},
        net::{ALLOWED_PORT, Family},
        wire::Packet,
    },
    probe::Request,
};
use anyhow::{Context as _, Result, ensure};
use rstest::rstest;

/// A way to have a packet for the allowed host leave for the denied one: what sets it up, and what is then sent.
struct Detour {
    name: &'static str,
    family: Family,
    set_up: &'static [&'static str],
}

const DETOURS: &[Detour] = &[
    // Behind the cgroup's hooks, in front of the wire.
    Detour {
        name: "nft-rewrite-on-the-way-out",
        family: Family::V4,
        set_up: &["nft table netdev t { chain c { type filter hook egress device agent0 priority 0; \
                   ip daddr 198.18.0.2 udp dport 7000 ip daddr set 198.18.0.3; }; }"],
    },
    Detour {
        name: "nft-copy",
        family: Family::V4,
        set_up: &["nft table netdev t { chain c { type filter hook egress device agent0 priority 0; \
                   ip daddr 198.18.0.2 udp dport 7000 dup to agent0; \
                   ip daddr 198.18.0.2 udp dport 7000 ip daddr set 198.18.0.3; }; }"],
    },
    Detour {
        name: "nft-dnat",
        family: Family::V6,
        set_up: &["nft table ip6 t { chain c { type nat hook output priority -100; \
                   ip6 daddr 2001:db8:18::2 udp dport 7000 dnat to [2001:db8:18::3]; }; }"],
    },
    Detour {
        name: "vxlan",
        family: Family::V4,
        set_up: &[
            "ip link add vx0 type vxlan id 7 remote 198.18.0.3 dstport 4789 dev agent0",
            "ip link set vx0 up",
            "ip rule add to 198.18.0.2 ipproto udp dport 7000 table 77",
            "ip route add 198.18.0.2/32 dev vx0 table 77",
            "ip neigh add 198.18.0.2 lladdr 02:00:00:00:00:09 dev vx0",
        ],
    },
    Detour {
        name: "ipip",
        family: Family::V4,
        set_up: &[
            "ip link add ip0 type ipip local 198.18.0.1 remote 198.18.0.3",
            "ip link set ip0 up",
            "ip rule add to 198.18.0.2 ipproto udp dport 7000 table 77",
            "ip route add 198.18.0.2/32 dev ip0 table 77",
        ],
    },
    Detour {
        name: "gre",
        family: Family::V4,
        set_up: &[
            "ip link add gr0 type gre local 198.18.0.1 remote 198.18.0.3",
            "ip link set gr0 up",
            "ip rule add to 198.18.0.2 ipproto udp dport 7000 table 77",
            "ip route add 198.18.0.2/32 dev gr0 table 77",
        ],
    },
    Detour {
        name: "sit",
        family: Family::V6,
        set_up: &[
            "ip link add si0 type sit local 198.18.0.1 remote 198.18.0.3",
            "ip link set si0 up",
            "ip route add 2001:db8:18::2/128 dev si0",
        ],
    },
    Detour {
        name: "srv6-encapsulation",
        family: Family::V6,
        set_up: &["ip -6 route add 2001:db8:18::2/128 encap seg6 mode encap segs 2001:db8:18::3 dev agent0"],
    },
    Detour {
        name: "srv6-inline",
        family: Family::V6,
        set_up: &["ip -6 route add 2001:db8:18::2/128 encap seg6 mode inline segs 2001:db8:18::3 dev agent0"],
    },
    // An own link-layer address and an own route: to the denied host itself.
    Detour {
        name: "macvlan",
        family: Family::V4,
        set_up: &[
            "ip link add mv0 link agent0 type macvlan mode bridge",
            "ip address add 198.18.0.9/32 dev mv0",
            "ip link set mv0 up",
            "ip rule add to 198.18.0.3 table 77",
            "ip route add 198.18.0.3/32 dev mv0 src 198.18.0.9 table 77",
        ],
    },
    Detour {
        name: "ipvlan",
        family: Family::V4,
        set_up: &[
            "ip link add iv0 link agent0 type ipvlan mode l2",
            "ip address add 198.18.0.9/32 dev iv0",
            "ip link set iv0 up",
            "ip route add 198.18.0.3/32 dev iv0 src 198.18.0.9",
        ],
    },
];

fn detour(name: &str) -> Result<&'static Detour> {
    DETOURS.iter().find(|detour| detour.name == name).context("no such detour")
}

#[rstest]
fn no_detour_leads_out(
    #[values(
        "nft-rewrite-on-the-way-out",
        "nft-copy",
        "nft-dnat",
        "vxlan",
        "ipip",
        "gre",
        "sit",
        "srv6-encapsulation",
        "srv6-inline",
        "macvlan",
        "ipvlan"
    )]
    name: &str,
) -> Result<()> {
    let detour = detour(name)?;
    let site = Site::new()?;
    let mut guard = Guard::new(&site.lab.name, &site.host, &site.lab.agent, &policy())?;
    for line in detour.set_up {
        // One word for nft, which reads its rules as one.
        let words: Vec<&str> = match line.split_once(' ') {
            Some(("nft", rules)) => vec!["nft", rules],
            _ => line.split(' ').collect(),
        };
        if !configure(name, &site.lab.agent, &words)? {
            return Ok(());
        }
    }
    let own_link = name.ends_with("vlan");
    let target = if own_link { detour.family.denied_endpoint() } else { detour.family.allowed_endpoint() };
    let denied = detour.family.denied();
    let reached = |request: &Request| -> Result<bool> {
        site.lab.fence()?;
        // Tunnels hide the destination of the packet, which the marker gives away; what is not changed may pass.
        let plain = |packet: &Packet| {
            packet.is_plain()
                && packet.header.is_some_and(|header| {
                    header.destination != denied && header.protocol == 17 && header.port == ALLOWED_PORT
                })
        };
        let seen = site.lab.sniffer.packets(|packet| packet.holds(request.args.secret()) && !plain(packet));
        Ok(!seen.is_empty())
    };
    let request = Request::new("udp-sendto", target);
    ensure_all_ok(&guard.attempt(&guard.cgroup, std::slice::from_ref(&request))?)?;
    ensure!(reached(&request)?, "{name} leads nowhere even where nothing guards");

    guard.container()?;
    let mut again = request.clone();
    again.args.marker.push_str("-guarded");
    guard.attempt(&guard.cgroup, std::slice::from_ref(&again))?;
    ensure!(!reached(&again)?, "{name} leads out");
    // TCP, which no rule above is about; routes of IPv6 lead astray everything.
    let twin = if detour.set_up.iter().any(|line| line.contains("route add 2001")) {
        Family::V4
    } else {
        detour.family
    };
    let twin = Request::new("tcp-send", twin.allowed_endpoint());
    ensure_all_ok(&guard.attempt(&guard.cgroup, std::slice::from_ref(&twin))?)?;
    ensure!(site.arrived(&twin)? > 0, "the allowed twin did not arrive");
    guard.release()
}
