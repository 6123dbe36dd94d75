//! What is meant by a text: addresses to block, a place to allow.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::policy::{
    name::{Pattern, PatternError},
    net::Net,
};

/// A text that does not name addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// It is something else.
    #[error("`{0}` is neither an address nor a network; write 203.0.113.7, 203.0.113.0/24 or 2001:db8::/32")]
    Neither(String),
    /// It may be one or the other.
    #[error(
        "`{text}` has bits set behind its prefix; write {net} for the network or {address} for the address"
    )]
    HostBits {
        /// The text.
        text: String,
        /// The network.
        net: IpNet,
        /// The address.
        address: IpAddr,
    },
}

/// The addresses that `text` means: an address, or a network in the notation of CIDR.
///
/// # Errors
/// See [`NetError`].
pub fn net(text: &str) -> Result<Net, NetError> {
    let neither = || NetError::Neither(text.to_owned());
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(Net::host(ip));
    }
    let net: IpNet = text.parse().map_err(|_| neither())?;
    if net.trunc() != net {
        return Err(NetError::HostBits { text: text.to_owned(), net: net.trunc(), address: net.addr() });
    }
    Ok(net.into())
}

/// What may be blocked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// Addresses.
    Net(Net),
    /// A name and all below it.
    Name(String),
}

/// What `text` means where something blocked is meant: addresses as [`net`] reads them, or else a name.
///
/// # Errors
/// See [`NetError`].
pub fn blocked(text: &str) -> Result<Blocked, NetError> {
    match net(text) {
        Ok(net) => Ok(Blocked::Net(net)),
        Err(NetError::Neither(text)) => match Pattern::parse(&text) {
            Ok(pattern) if !pattern.is_below() => Ok(Blocked::Name(pattern.base().to_owned())),
            _ => Err(NetError::Neither(text)),
        },
        Err(error) => Err(error),
    }
}

/// A place that may be allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
}

/// A host by its address or name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A name, in lower case.
    Name(String),
}

/// A text that names no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// There is no port.
    #[error("`{0}` has no port; write 203.0.113.7:443, [2001:db8::7]:443 or api.example.com:443")]
    NoPort(String),
    /// The port is none.
    #[error("`{0}` is no port; write a number from 1 to 65535")]
    Port(String),
    /// A whole network.
    #[error("`{0}` is a network; allow one address or name at a time, or write a rule")]
    Network(String),
    /// The name is none.
    #[error("`{name}` is neither an address nor a name: {error}")]
    Name {
        /// The text.
        name: String,
        /// Why.
        #[source]
        error: PatternError,
    },
}

impl std::str::FromStr for Target {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            let port = some(socket.port()).ok_or_else(|| PlaceError::Port("0".to_owned()))?;
            return Ok(Self { host: Host::Address(socket.ip().to_canonical()), port });
        }
        if text.parse::<IpAddr>().is_ok() || text.starts_with('[') {
            return Err(PlaceError::NoPort(text.to_owned()));
        }
        if text.contains('/') {
            return Err(PlaceError::Network(text.to_owned()));
        }
        let (name, port) = text.rsplit_once(':').ok_or_else(|| PlaceError::NoPort(text.to_owned()))?;
        let port = port.parse().ok().and_then(some).ok_or_else(|| PlaceError::Port(port.to_owned()))?;
        let wrong = |error| PlaceError::Name { name: name.to_owned(), error };
        let pattern = Pattern::parse(name).map_err(wrong)?;
        if pattern.is_below() {
            return Err(wrong(PatternError::Wildcard));
        }
        Ok(Self { host: Host::Name(pattern.base().to_owned()), port })
    }
}

impl Target {
    /// The host as text.
    pub fn text(&self) -> String {
        match &self.host {
            Host::Address(ip) => ip.to_string(),
            Host::Name(name) => name.clone(),
        }
    }
}

const fn some(port: u16) -> Option<u16> {
    if port == 0 { None } else { Some(port) }
}
