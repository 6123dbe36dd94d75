//! The lab: two hosts and a wire between them, servers, a sniffer, agents.

pub mod account;
pub mod agent;
pub mod battery;
pub mod bpf;
pub mod cgroup;
pub mod child;
pub mod client;
pub mod container;
pub mod daemon;
pub mod door;
pub mod expect;
pub mod follower;
pub mod found;
pub mod hello;
pub mod hosts;
pub mod lacking;
pub mod mounts;
pub mod net;
pub mod netlink;
pub mod netns;
pub mod policy;
pub mod pty;
pub mod residue;
pub mod resolver;
pub mod running;
pub mod script;
pub mod server;
pub mod sniffer;
pub mod stored;
pub mod unit;
pub mod watched;
pub mod web;
pub mod wire;

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    ops::Deref,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Result, ensure};

use self::{
    hosts::Hosts,
    net::Family,
    server::{Servers, Transport},
    sniffer::Sniffer,
};
use crate::eventually::{DEADLINE, eventually};

static NEXT: AtomicU32 = AtomicU32::new(1);

/// The two hosts, what listens on one of them, and the witness on the wire.
pub struct Lab {
    hosts: Hosts,
    /// What the servers got.
    pub servers: Servers,
    /// All that came over the wire.
    pub sniffer: Sniffer,
}

impl Deref for Lab {
    type Target = Hosts;

    fn deref(&self) -> &Hosts {
        &self.hosts
    }
}

impl Lab {
    /// Builds a lab.
    ///
    /// # Errors
    /// Without root, or if the kernel has no veth interfaces.
    pub fn new() -> Result<Self> {
        Self::on(Hosts::new()?)
    }

    /// Builds a lab on hosts that are there.
    ///
    /// # Errors
    /// If the servers or the sniffer cannot be started.
    pub fn on(hosts: Hosts) -> Result<Self> {
        let sniffer = Sniffer::start(&hosts.server)?;
        let servers = Servers::start(&hosts.server, &endpoints())?;
        Ok(Self { hosts, servers, sniffer })
    }

    /// Returns when all that was sent before has passed the sniffer, and the sniffer has missed nothing.
    ///
    /// # Errors
    /// If the fence does not arrive, or packets were lost.
    pub fn fence(&self) -> Result<()> {
        let token = format!("fence-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let to = SocketAddr::from((Family::V4.allowed(), net::FENCE_PORT));
        self.agent.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.send_to(token.as_bytes(), to)?;
            Ok(())
        })?;
        eventually(DEADLINE, "the fence passes the sniffer", || {
            match self.sniffer.carrying(token.as_bytes()) {
                0 => Err("nothing".to_owned()),
                _ => Ok(()),
            }
        })?;
        self.sniffer.ensure_complete()
    }

    /// Fails if anything but the link's housekeeping has come from the agent's side to `ip`, after a fence.
    ///
    /// # Errors
    /// With the packets.
    pub fn ensure_nothing_reached(&self, ip: IpAddr) -> Result<()> {
        self.fence()?;
        let packets = self.sniffer.to(ip, 0);
        ensure!(packets.is_empty(), "{} packets reached {ip}: {packets:?}", packets.len());
        Ok(())
    }

    /// Fails unless the servers got bytes at an endpoint: the allowed twin of what is refused.
    ///
    /// # Errors
    /// If they did not.
    pub fn ensure_bytes(&self, endpoint: SocketAddr, transport: Transport) -> Result<()> {
        let tally = self.servers.tally(endpoint, transport);
        ensure!(tally.bytes > 0, "nothing arrived at {endpoint} over {transport:?}, which is allowed");
        Ok(())
    }

    /// TCP sockets on the agent's host that still try to reach `ip`: what they hold would leave once
    /// nothing stops it.
    ///
    /// # Errors
    /// If the kernel's table cannot be read.
    pub fn pending(&self, ip: IpAddr) -> Result<Vec<String>> {
        self.agent.run(|| {
            let mut found = Vec::new();
            for table in ["tcp", "tcp6"] {
                let text = fs::read_to_string(format!("/proc/thread-self/net/{table}"))?;
                found.extend(text.lines().skip(1).filter(|line| remote_is(line, ip)).map(str::to_owned));
            }
            Ok(found)
        })
    }
}

fn endpoints() -> Vec<SocketAddr> {
    let mut endpoints = Vec::new();
    for family in Family::ALL {
        let named = (1..=net::NAMED).map(|number| family.named(number));
        for ip in [family.allowed(), family.denied(), family.metadata()].into_iter().chain(named) {
            for port in [net::ALLOWED_PORT, net::DENIED_PORT, 80, net::TLS_PORT] {
                endpoints.push(SocketAddr::from((ip, port)));
            }
        }
    }
    endpoints
}

/// Whether a line of `/proc/net/tcp` has this remote address, in any state but `TIME_WAIT`.
fn remote_is(line: &str, ip: IpAddr) -> bool {
    const TIME_WAIT: &str = "06";
    let mut columns = line.split_whitespace().skip(2);
    let (Some(remote), Some(state)) = (columns.next(), columns.next()) else { return false };
    let Some((address, _port)) = remote.split_once(':') else { return false };
    // Words in host byte order, each printed as one number.
    let words: Vec<u8> = match ip {
        IpAddr::V4(ip) if address.len() == 8 => ip.octets().to_vec(),
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let expected: String = words
        .chunks_exact(4)
        .map(|word| format!("{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]])))
        .collect();
    state != TIME_WAIT && address == expected
}

#[cfg(test)]
mod tests {
    use super::remote_is;

    #[test]
    fn the_remote_address_of_a_socket_is_read() {
        let line = "   0: 010012C6:A1F0 030012C6:1B58 02 00000001:00000000 01:00000064 00000000 0 0 1 2 0";
        assert!(remote_is(line, "198.18.0.3".parse().unwrap()));
        assert!(!remote_is(line, "198.18.0.1".parse().unwrap()));
        let line = line.replace("030012C6", "B80D0120000018000000000003000000");
        assert!(remote_is(&line, "2001:db8:18::3".parse().unwrap()));
        assert!(!remote_is(&line.replace(" 02 ", " 06 "), "2001:db8:18::3".parse().unwrap()));
    }
}
