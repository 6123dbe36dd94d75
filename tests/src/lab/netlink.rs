//! The few netlink requests that the lab needs, made in the namespace of the calling thread.

use std::{
    net::IpAddr,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use anyhow::{Context as _, Result, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    link::{
        InfoBridge, InfoData, InfoKind, InfoMacVlan, InfoVeth, LinkAttribute, LinkFlags, LinkInfo,
        LinkMessage, MacVlanMode,
    },
    neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// A route netlink socket of one namespace.
pub struct Netlink(Socket);

impl Netlink {
    /// Opens one in the namespace of the calling thread.
    ///
    /// # Errors
    /// Of the socket calls.
    pub fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Sends a request and waits for its acknowledgement.
    fn request(&self, flags: u16, message: RouteNetlinkMessage) -> Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut buffer = vec![0; request.buffer_len()];
        request.serialize(&mut buffer);
        self.0.send(&buffer, 0)?;
        let (answer, _) = self.0.recv_from_full()?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)?;
        match answer.payload {
            NetlinkPayload::Error(error) => match error.code {
                None => Ok(()),
                Some(_) => Err(error.to_io().into()),
            },
            other => bail!("netlink answered {other:?}"),
        }
    }

    /// Makes a pair of interfaces, the second in another namespace.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn add_veth(
        &self,
        near: (&str, [u8; 6]),
        far: (&str, [u8; 6]),
        namespace: BorrowedFd<'_>,
    ) -> Result<()> {
        let mut peer = named(far);
        peer.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
        let mut link = named(near);
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.request(NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(link))
            .context("make a veth pair")
    }

    /// Makes a bridge that passes on every frame as it is: without a look at group membership, for which it would
    /// drop what is malformed.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn add_bridge(&self, name: &str) -> Result<()> {
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Bridge),
                LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)])),
            ]),
        ];
        self.request(NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(link)).context("make a bridge")
    }

    /// Makes an interface a port of a bridge.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn enslave(&self, name: &str, bridge: &str) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index(name)?;
        link.attributes = vec![LinkAttribute::Controller(index(bridge)?)];
        self.request(0, RouteNetlinkMessage::NewLink(link))
            .with_context(|| format!("make {name} a port of {bridge}"))
    }

    /// Moves an interface to another namespace.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn move_to(&self, name: &str, namespace: BorrowedFd<'_>) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index(name)?;
        link.attributes = vec![LinkAttribute::NetNsFd(namespace.as_raw_fd())];
        self.request(0, RouteNetlinkMessage::NewLink(link)).with_context(|| format!("move {name}"))
    }

    /// Makes a macvlan on an interface, of its own link-layer address, in this namespace or in another.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn add_macvlan(&self, name: &str, on: &str, namespace: Option<BorrowedFd<'_>>) -> Result<()> {
        const BRIDGE_MODE: u32 = 4;
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Link(index(on)?),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::MacVlan),
                LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::from(BRIDGE_MODE))])),
            ]),
        ];
        link.attributes.extend(namespace.map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())));
        self.request(NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(link)).context("make a macvlan")
    }

    /// Brings an interface up.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn up(&self, name: &str) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index(name)?;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.request(0, RouteNetlinkMessage::NewLink(link)).with_context(|| format!("bring {name} up"))
    }

    /// Gives an interface an address, usable at once (no duplicate address detection).
    ///
    /// # Errors
    /// As the kernel says.
    pub fn add_address(&self, name: &str, ip: IpAddr, prefix: u8) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(ip);
        message.header.prefix_len = prefix;
        message.header.index = index(name)?;
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
        if let (IpAddr::V4(_), 24) = (ip, prefix) {
            message.attributes.push(AddressAttribute::Broadcast(super::net::BROADCAST));
        }
        self.request(NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewAddress(message))
            .with_context(|| format!("give {name} the address {ip}/{prefix}"))
    }

    /// Says where an address is found, so that nothing has to ask first: a packet that waits for the answer could
    /// pass the sniffer after a fence.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn add_neighbour(&self, name: &str, ip: IpAddr, mac: [u8; 6]) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(ip);
        message.header.ifindex = index(name)?;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(ip.into()),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        self.request(NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewNeighbour(message))
            .with_context(|| format!("tell {name} where {ip} is"))
    }

    /// Sends what has no other route to `gateway`.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn add_default_route(&self, gateway: IpAddr) -> Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(gateway);
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![RouteAttribute::Gateway(gateway.into())];
        self.request(NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewRoute(message))
            .with_context(|| format!("route by {gateway}"))
    }
}

fn named((name, mac): (&str, [u8; 6])) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Address(mac.to_vec())];
    link
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn index(name: &str) -> Result<u32> {
    super::net::interface(name).with_context(|| format!("no interface {name}"))
}
