//! What the agent of the demo does, in its order.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use agentnet_common::verdict::DNS_PORT;

use crate::{
    lab::net::{ALLOWED_PORT, DENIED_PORT, Family},
    probe::Request,
};

/// A service of the host on loopback, a database say, that is none of the agent's business.
pub const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5432);

/// One thing the agent does.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// In words.
    pub what: &'static str,
    /// The probe's operation.
    pub op: &'static str,
    /// Where to.
    pub to: SocketAddr,
    /// Whether the policy allows it.
    pub allowed: bool,
    /// Whether no other step has this target, so that every packet to it counts.
    pub owns_target: bool,
}

impl Step {
    fn allowed(what: &'static str, op: &'static str, to: impl Into<SocketAddr>) -> Self {
        Self { what, op, to: to.into(), allowed: true, owns_target: false }
    }

    /// Without a port to tell its packets by: only those with the marker count.
    fn portless(self) -> Self {
        Self { owns_target: false, ..self }
    }

    /// With a target that no other step has.
    fn alone(self) -> Self {
        Self { owns_target: true, ..self }
    }

    fn forbidden(what: &'static str, op: &'static str, to: impl Into<SocketAddr>) -> Self {
        Self { what, op, to: to.into(), allowed: false, owns_target: true }
    }

    /// The same for the probe.
    pub fn request(&self) -> Request {
        Request::new(self.op, self.to)
    }
}

/// The story.
pub fn steps() -> Vec<Step> {
    let (v4, v6) = (Family::V4, Family::V6);
    vec![
        Step::allowed("asks its server over TCP", "tcp-echo", v4.allowed_endpoint()),
        Step::allowed("asks its server over TCP, IPv6", "tcp-echo", v6.allowed_endpoint()),
        Step::allowed("asks its server over UDP", "udp-echo", v4.allowed_endpoint()),
        Step::allowed("asks its server over UDP, IPv6", "udp-echo", v6.allowed_endpoint()),
        Step::allowed("asks for a name that it may use", "dns-query", (v4.allowed(), DNS_PORT)).alone(),
        Step::allowed("talks to a service of its own", "own-listener", (v4.loopback(), 0)),
        Step::forbidden("its server, another port", "tcp-send", (v4.allowed(), DENIED_PORT)),
        Step::forbidden("another host over TCP", "tcp-send", v4.denied_endpoint()),
        Step::forbidden("another host over TCP, IPv6", "tcp-send", v6.denied_endpoint()),
        Step::forbidden("a host that is denied though its network is allowed", "tcp-send", (v4.denied(), 80)),
        Step::forbidden("secrets in a UDP datagram", "udp-sendto", (v4.denied(), DENIED_PORT)),
        Step::forbidden("secrets in a UDP datagram, IPv6", "udp-sendto", (v6.denied(), DENIED_PORT)),
        Step::forbidden("secrets in a DNS name, to its resolver", "dns-leak", (v6.allowed(), DNS_PORT)),
        Step::forbidden("the cloud's metadata service", "tcp-send", (v4.metadata(), 80)),
        Step::forbidden("the host's database on loopback", "tcp-send", SERVICE),
        Step::forbidden("an allowed connection, turned elsewhere", "tcp-reconnect", (v6.denied(), 80)),
        Step::forbidden("secrets in a ping", "ping", (v4.denied(), 0)).portless(),
        Step::forbidden("a raw socket", "raw-udp", (v4.denied(), 4000)),
        Step::forbidden("a packet socket, below IP", "packet-send", (v4.denied(), 4001)),
        Step::forbidden("io_uring instead of system calls", "uring-connect", (v6.metadata(), ALLOWED_PORT)),
        Step::forbidden("multipath TCP", "mptcp-send", (v4.metadata(), ALLOWED_PORT)),
    ]
}
