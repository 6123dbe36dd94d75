//! Two hosts and a wire between them.

use std::{
    fs,
    net::IpAddr,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};

use super::{
    net::{self, Family},
    netlink::Netlink,
    netns::Namespace,
    running::Outsider,
};

use crate::sys;

static NEXT: AtomicU32 = AtomicU32::new(1);

/// The agent's host and the servers' host.
pub struct Hosts {
    /// Unique among all pairs on this machine; agents are named after it.
    pub name: String,
    /// Where agents run.
    pub agent: Namespace,
    /// Where the servers are.
    pub server: Namespace,
}

impl Hosts {
    /// Makes and connects them.
    ///
    /// # Errors
    /// Without root, or if the kernel has no veth interfaces.
    pub fn new() -> Result<Self> {
        let (agent, server) = (Namespace::new()?, Namespace::new()?);
        for namespace in [&agent, &server] {
            namespace.run(prepare)?;
        }
        agent.run(|| {
            let netlink = Netlink::open()?;
            let (near, far) =
                ((net::AGENT_INTERFACE, net::AGENT_MAC), (net::SERVER_INTERFACE, net::SERVER_MAC));
            netlink.add_veth(near, far, server.fd())
        })?;
        Self::between(agent, server)
    }

    /// The same with a host between the two: the agent is in a container, whose interface and the wire are ports of
    /// the host's bridge. Returns the host.
    ///
    /// # Errors
    /// Without root, or if the kernel has no veth interfaces or bridges.
    pub fn bridged() -> Result<(Self, Namespace)> {
        let (agent, host, server) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
        for namespace in [&agent, &host, &server] {
            namespace.run(prepare)?;
        }
        host.run(|| {
            // Where the bridge asks netfilter, it drops what is malformed: here it is to be a wire.
            for name in ["iptables", "ip6tables", "arptables"] {
                let _ = sysctl(&format!("net/bridge/bridge-nf-call-{name}"), "0");
            }
            let netlink = Netlink::open()?;
            netlink.up("lo")?;
            netlink.add_bridge(net::BRIDGE)?;
            for (port, near, far, namespace) in [
                (net::CONTAINER_PORT, 3, (net::AGENT_INTERFACE, net::AGENT_MAC), &agent),
                (net::WIRE_PORT, 4, (net::SERVER_INTERFACE, net::SERVER_MAC), &server),
            ] {
                netlink.add_veth((port, [2, 0, 0, 0, 0, near]), far, namespace.fd())?;
                netlink.enslave(port, net::BRIDGE)?;
                netlink.up(port)?;
            }
            netlink.up(net::BRIDGE)
        })?;
        Ok((Self::between(agent, server)?, host))
    }

    /// Gives both ends of the wire their addresses.
    fn between(agent: Namespace, server: Namespace) -> Result<Self> {
        server.run(|| {
            // Fast open without the exchange of a cookie before.
            sysctl("net/ipv4/tcp_fastopen", "1539")?;
            let netlink = Netlink::open()?;
            netlink.up("lo")?;
            netlink.up(net::SERVER_INTERFACE)?;
            for family in Family::ALL {
                for ip in [family.allowed(), family.denied()] {
                    netlink.add_address(net::SERVER_INTERFACE, ip, wire_prefix(ip))?;
                }
                for ip in (1..=net::NAMED).map(|number| family.named(number)) {
                    netlink.add_address(net::SERVER_INTERFACE, ip, host_prefix(ip))?;
                }
                netlink.add_address(
                    net::SERVER_INTERFACE,
                    family.metadata(),
                    host_prefix(family.metadata()),
                )?;
            }
            Ok(())
        })?;
        agent.run(|| {
            sysctl("net/ipv4/tcp_fastopen", "5")?;
            sysctl("net/ipv4/ping_group_range", "0 2147483647")?;
            let netlink = Netlink::open()?;
            netlink.up("lo")?;
            netlink.up(net::AGENT_INTERFACE)?;
            for family in Family::ALL {
                netlink.add_address(net::AGENT_INTERFACE, family.agent(), wire_prefix(family.agent()))?;
                netlink.add_default_route(family.allowed())?;
                for ip in [family.allowed(), family.denied()] {
                    netlink.add_neighbour(net::AGENT_INTERFACE, ip, net::SERVER_MAC)?;
                }
            }
            Ok(())
        })?;
        server.run(|| {
            let netlink = Netlink::open()?;
            let tell =
                |family: Family| netlink.add_neighbour(net::SERVER_INTERFACE, family.agent(), net::AGENT_MAC);
            Family::ALL.into_iter().try_for_each(tell)
        })?;
        let name = format!("lab-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Ok(Self { name, agent, server })
    }

    /// Gives the agent's host a TUN device, as a VPN leaves it behind: root may take it without privilege, and what
    /// is written to it is routed on.
    ///
    /// # Errors
    /// If the kernel has no TUN devices.
    pub fn add_tun(&self) -> Result<()> {
        self.agent.run(|| {
            let device = sys::tun_open()?;
            sys::tun_attach(&device, net::TUN_INTERFACE)?;
            sys::tun_keep(&device, 0)?;
            Netlink::open()?.up(net::TUN_INTERFACE)?;
            sysctl("net/ipv4/ip_forward", "1")?;
            sysctl("net/ipv6/conf/all/forwarding", "1")
        })
    }

    /// A process on the agent's host that is no agent, as `user` or as root.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn outsider(&self, user: Option<u32>) -> Result<Outsider> {
        Outsider::start(self, user)
    }
}

fn wire_prefix(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 24 } else { 64 }
}

fn host_prefix(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// Makes a fresh namespace quiet and its addresses usable at once.
fn prepare() -> Result<()> {
    for (name, value) in [("accept_dad", "0"), ("accept_ra", "0"), ("router_solicitations", "0")] {
        sysctl(&format!("net/ipv6/conf/default/{name}"), value)?;
    }
    for name in ["all", "default"] {
        sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "0")?;
    }
    Ok(())
}

/// Sets a kernel parameter of the calling thread's network namespace.
///
/// # Errors
/// If there is no such parameter, or it cannot be set.
pub fn sysctl(name: &str, value: &str) -> Result<()> {
    fs::write(format!("/proc/sys/{name}"), value).with_context(|| format!("set {name} to {value}"))
}
