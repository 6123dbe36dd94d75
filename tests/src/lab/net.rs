//! Addresses and names of the lab. Every lab has namespaces of its own, so all labs use the same.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// The agent's side of the wire.
pub const AGENT_INTERFACE: &str = "agent0";
/// The servers' side of the wire.
pub const SERVER_INTERFACE: &str = "server0";
/// The bridge of a host between the two.
pub const BRIDGE: &str = "bridge0";
/// Its port to the container: the host's end of [`AGENT_INTERFACE`].
pub const CONTAINER_PORT: &str = "box0";
/// Its port to the servers.
pub const WIRE_PORT: &str = "wire0";
/// A TUN device on the agent's host.
pub const TUN_INTERFACE: &str = "agenttun0";
/// Link-layer address of the agent's side.
pub const AGENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Link-layer address of the servers' side.
pub const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Where everybody on the wire listens.
pub const BROADCAST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 255);

/// A port that the tests' policies allow on the allowed host.
pub const ALLOWED_PORT: u16 = 7000;
/// A port that they do not, and on which the servers listen as well.
pub const DENIED_PORT: u16 = 7001;
/// Where a name opens an address for TLS alone.
pub const TLS_PORT: u16 = 443;
/// Where the lab's own fences arrive; nothing answers there.
pub const FENCE_PORT: u16 = 9;

/// Servers that are reached by name, numbered from 1.
pub const NAMED: u16 = 4;

/// Both families, for tests that share one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4: 198.18.0.0/24, a network for benchmarks (RFC 2544).
    V4,
    /// IPv6: 2001:db8:18::/64, a network for documentation (RFC 3849).
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn host(self, number: u16) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(198, 18, 0, number.to_be_bytes()[1]).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, number).into(),
        }
    }

    /// The agent.
    pub fn agent(self) -> IpAddr {
        self.host(1)
    }

    /// The server that policies allow.
    pub fn allowed(self) -> IpAddr {
        self.host(2)
    }

    /// The server that they do not mention.
    pub fn denied(self) -> IpAddr {
        self.host(3)
    }

    /// An address on the wire that nobody has.
    pub fn elsewhere(self) -> IpAddr {
        self.host(77)
    }

    /// Where clouds keep the credentials of their machines; a server of the lab answers there.
    pub fn metadata(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(169, 254, 169, 254).into(),
            Self::V6 => Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254).into(),
        }
    }

    /// A server in the internet, as far as a policy knows: reached by name. There are [`NAMED`] of them.
    pub fn named(self, number: u16) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(93, 184, 215, number.to_be_bytes()[1]).into(),
            Self::V6 => Ipv6Addr::new(0x2606, 0x2800, 0x21f, 0, 0, 0, 0, number).into(),
        }
    }

    /// `localhost`.
    pub fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// `0.0.0.0` or `::`.
    pub fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// The allowed endpoint.
    pub fn allowed_endpoint(self) -> SocketAddr {
        (self.allowed(), ALLOWED_PORT).into()
    }

    /// The denied host, on the port that is allowed elsewhere.
    pub fn denied_endpoint(self) -> SocketAddr {
        (self.denied(), ALLOWED_PORT).into()
    }
}

/// Index of the agent's interface in the namespace of the caller.
///
/// # Errors
/// If it does not exist there.
pub fn agent_interface() -> io::Result<u32> {
    interface(AGENT_INTERFACE)
}

/// Index of an interface in the namespace of the caller.
///
/// # Errors
/// If it does not exist there.
pub fn interface(name: &str) -> io::Result<u32> {
    let name = format!("{name}\0");
    // SAFETY: the name ends in NUL and lives until the call returns.
    match unsafe { libc::if_nametoindex(name.as_ptr().cast()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}
