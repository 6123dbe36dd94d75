//! Network interfaces: which there are, which come and go, and which end on the host belongs to a container's.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
    nsid::{NsidAttribute, NsidMessage},
};
use rustix::io::Errno;
use tokio::io::{Interest, unix::AsyncFd};

use self::route::Route;

mod route;

/// Why interfaces are not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterfaceError {
    /// The network namespace cannot be entered or opened.
    #[error("cannot enter the network namespace: {0}; it takes CAP_SYS_ADMIN")]
    Namespace(#[source] io::Error),
    /// The netlink socket cannot be made or used.
    #[error("cannot ask the kernel for its interfaces ({call}): {source}")]
    Netlink {
        /// The call that failed.
        call: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("the kernel refused to {what}: {source}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A message is larger than anything the kernel sends.
    #[error("a message of {0} bytes was cut off")]
    Truncated(usize),
    /// A message cannot be understood.
    #[error("a message of the kernel cannot be understood: {0}")]
    Malformed(String),
    /// The interfaces changed each time they were listed.
    #[error("the interfaces changed during each of {0} listings")]
    Interrupted(usize),
}

/// A network interface, as its namespace has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is, such as `veth` or `macvlan`; `None` for devices of their own kind, as hardware is.
    pub kind: Option<String>,
    /// Whether it is `lo`.
    pub is_loopback: bool,
    /// Whether its frames begin with an Ethernet header.
    pub is_ethernet: bool,
    /// The other end, or the interface that this one is on.
    lower: Option<u32>,
    /// The namespace that it leads to, by the number that this one knows it by; `None` if it is this one.
    leads_to: Option<i32>,
}

impl From<&LinkMessage> for Interface {
    fn from(message: &LinkMessage) -> Self {
        let header = &message.header;
        let mut interface = Self {
            index: header.index,
            name: format!("#{}", header.index),
            kind: None,
            is_loopback: header.flags.contains(LinkFlags::Loopback),
            is_ethernet: header.link_layer_type == LinkLayerType::Ether,
            lower: None,
            leads_to: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => interface.name.clone_from(name),
                // An interface that is its own lower one has none.
                LinkAttribute::Link(index) => interface.lower = Some(*index),
                LinkAttribute::LinkNetNsId(id) => interface.leads_to = Some(*id),
                LinkAttribute::LinkInfo(infos) => {
                    interface.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        interface
    }
}

impl Interface {
    fn is(&self, kind: &InfoKind) -> bool {
        self.kind.as_ref().is_some_and(|own| *own == kind.to_string())
    }

    /// Whether it is one end of a pair.
    pub(super) fn is_pair(&self) -> bool {
        self.is(&InfoKind::Veth) || self.is(&InfoKind::Netkit)
    }
}

/// All interfaces of the network namespace `netns`, or that of the calling thread.
///
/// # Errors
/// See [`InterfaceError`].
pub fn list(netns: Option<BorrowedFd<'_>>) -> Result<Vec<Interface>, InterfaceError> {
    list_with(&mut Route::open(netns, 0)?)
}

fn list_with(route: &mut Route) -> Result<Vec<Interface>, InterfaceError> {
    let request = || RouteNetlinkMessage::GetLink(LinkMessage::default());
    route.dump("list interfaces", NLM_F_REQUEST | NLM_F_DUMP, request, |message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(Interface::from(&link)),
        _ => None,
    })
}

/// Why what leaves by an interface of a container is not seen by anything on the host's side of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The interface in the container.
    pub interface: String,
    /// Its kind.
    pub kind: Option<String>,
    /// Why.
    pub why: Blind,
}

/// Why there is nothing to attach to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blind {
    /// It was moved in, and what leaves by it leaves the host.
    Device,
    /// It leads into another namespace without an end of its own there.
    Elsewhere,
    /// A process reads what is sent to it, and may be any process.
    Tun,
    /// Its end on the host does not speak Ethernet.
    NotEthernet,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { interface, kind, why } = self;
        let kind = kind.as_deref().unwrap_or("device");
        let why = match why {
            Blind::Device => "it was moved into the container, so what leaves by it leaves the host",
            Blind::Elsewhere => {
                "it leads into another network namespace and has no end of its own on the host"
            }
            Blind::Tun => {
                "the process that holds its file gets what is sent to it, and may be outside the agent"
            }
            Blind::NotEthernet => "its end on the host does not speak Ethernet",
        };
        write!(f, "{interface} ({kind}): {why}; only packets of the agent's own sockets are judged there")
    }
}

/// The host's ends of a container's interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostSide {
    /// Name in the container and index of the end on the host.
    pub ends: Vec<(String, u32)>,
    /// Interfaces without one.
    pub gaps: Vec<Gap>,
    /// The cookie of the container's network namespace.
    pub cookie: u64,
}

/// For every interface in the network namespace `netns`, its end among `outside`, the interfaces of the calling
/// thread's.
///
/// # Errors
/// See [`InterfaceError`].
pub fn host_side(netns: BorrowedFd<'_>, outside: &[Interface]) -> Result<HostSide, InterfaceError> {
    let mut route = Route::open(Some(netns), 0)?;
    let inside = list_with(&mut route)?;
    // Asked for after the listing, which gives numbers to namespaces that have none yet.
    let here = namespace_id(&mut route)?;
    Ok(HostSide { cookie: route.cookie()?, ..sides(&inside, here, outside) })
}

fn sides(inside: &[Interface], here: Option<i32>, outside: &[Interface]) -> HostSide {
    let mut side = HostSide::default();
    for interface in inside {
        let gap = |why| Gap { interface: interface.name.clone(), kind: interface.kind.clone(), why };
        if interface.is_loopback {
            continue;
        }
        let leads_here = interface.leads_to.is_some() && interface.leads_to == here;
        let end = interface.lower.filter(|_| interface.is_pair() && leads_here);
        match (end, interface.leads_to) {
            (Some(index), _) => match outside.iter().find(|end| end.index == index) {
                Some(end) if end.is_ethernet => side.ends.push((interface.name.clone(), index)),
                Some(_) => side.gaps.push(gap(Blind::NotEthernet)),
                None => side.gaps.push(gap(Blind::Elsewhere)),
            },
            (None, Some(_)) => side.gaps.push(gap(Blind::Elsewhere)),
            (None, None) if interface.kind.is_none() => side.gaps.push(gap(Blind::Device)),
            (None, None) if interface.is(&InfoKind::Tun) => side.gaps.push(gap(Blind::Tun)),
            // On other interfaces of the container, or between two of them: what leaves, leaves by those.
            (None, None) => {}
        }
    }
    side
}

/// The number by which the namespace of `route` knows that of the calling thread, if it knows it.
fn namespace_id(route: &mut Route) -> Result<Option<i32>, InterfaceError> {
    let own = File::open("/proc/thread-self/ns/net").map_err(InterfaceError::Namespace)?;
    let request = || {
        let mut message = NsidMessage::default();
        message.attributes = vec![NsidAttribute::Fd(own.as_raw_fd().cast_unsigned())];
        RouteNetlinkMessage::GetNsId(message)
    };
    let ids = route.dump("name a network namespace", NLM_F_REQUEST | NLM_F_ACK, request, |message| {
        let RouteNetlinkMessage::NewNsId(message) = message else { return None };
        message.attributes.iter().find_map(|attribute| match attribute {
            NsidAttribute::Id(id) if *id >= 0 => Some(*id),
            _ => None,
        })
    })?;
    Ok(ids.first().copied())
}

/// What happens to the interfaces of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// One came, or changed.
    Added(Interface),
    /// One went.
    Removed {
        /// Its index.
        index: u32,
    },
    /// More happened than the socket could hold: look at all of them.
    Missed,
}

/// Multicast group of interfaces (`RTMGRP_LINK`, include/uapi/linux/rtnetlink.h).
const LINK_GROUP: u32 = 1;

/// Follows the interfaces of one namespace.
pub struct Follow {
    route: AsyncFd<Route>,
    events: VecDeque<Event>,
}

impl Follow {
    /// Begins to follow those of `netns`, or of the calling thread's namespace. List them after this: what
    /// happens in between is then seen twice, and not never.
    ///
    /// # Errors
    /// See [`InterfaceError`].
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O.
    pub fn open(netns: Option<BorrowedFd<'_>>) -> Result<Self, InterfaceError> {
        let route = Route::open(netns, LINK_GROUP)?;
        // SAFETY: `route` owns its descriptor, which stays open until the `AsyncFd` that owns `route` is
        // dropped.
        let route = unsafe { AsyncFd::register_with_interest(route, Interest::READABLE) }
            .map_err(|error| InterfaceError::Netlink { call: "epoll_ctl", source: error.into() })?;
        Ok(Self { route, events: VecDeque::new() })
    }

    /// The next event. May be dropped while it waits.
    ///
    /// # Errors
    /// See [`InterfaceError`]; nothing is followed any more then.
    pub async fn next(&mut self) -> Result<Event, InterfaceError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let ready = self.route.readable_mut().await;
            let mut guard = ready.map_err(|source| InterfaceError::Netlink { call: "epoll_wait", source })?;
            match guard.get_inner_mut().news() {
                Ok(messages) => self.events.extend(messages.iter().filter_map(event)),
                Err(Errno::AGAIN) => guard.clear_ready(),
                // Lost, or not to be understood.
                Err(Errno::NOBUFS | Errno::BADMSG) => self.events.push_back(Event::Missed),
                Err(errno) => {
                    return Err(InterfaceError::Netlink { call: "recv", source: errno.into() });
                }
            }
        }
    }
}

fn event(message: &RouteNetlinkMessage) -> Option<Event> {
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(Event::Added(link.into())),
        RouteNetlinkMessage::DelLink(link) => Some(Event::Removed { index: link.header.index }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(
        index: u32,
        name: &str,
        kind: Option<&str>,
        lower: Option<u32>,
        leads_to: Option<i32>,
    ) -> Interface {
        Interface {
            index,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            is_loopback: name == "lo",
            is_ethernet: name != "l3",
            lower,
            leads_to,
        }
    }

    #[test]
    fn ends_and_gaps_are_told_apart() {
        let outside = [
            interface(5, "veth5", Some("veth"), Some(2), Some(9)),
            interface(6, "l3", Some("netkit"), Some(3), Some(9)),
            interface(7, "eth0", None, None, None),
        ];
        let inside = [
            interface(1, "lo", None, None, None),
            interface(2, "eth0", Some("veth"), Some(5), Some(0)),
            interface(3, "nk0", Some("netkit"), Some(6), Some(0)),
            interface(4, "mv0", Some("macvlan"), Some(7), Some(0)),
            interface(5, "to-sidecar", Some("veth"), Some(5), Some(1)),
            interface(6, "gone", Some("veth"), Some(99), Some(0)),
            interface(7, "tun0", Some("tun"), None, None),
            interface(8, "ens1", None, None, None),
            // These lead nowhere else.
            interface(9, "within", Some("veth"), Some(10), None),
            interface(11, "mv1", Some("macvlan"), Some(2), None),
            interface(12, "br0", Some("bridge"), None, None),
        ];
        let side = sides(&inside, Some(0), &outside);
        assert_eq!(side.ends, [("eth0".to_owned(), 5)]);
        let gaps: Vec<_> = side.gaps.iter().map(|gap| (gap.interface.as_str(), gap.why)).collect();
        let expected = [
            ("nk0", Blind::NotEthernet),
            ("mv0", Blind::Elsewhere),
            ("to-sidecar", Blind::Elsewhere),
            ("gone", Blind::Elsewhere),
            ("tun0", Blind::Tun),
            ("ens1", Blind::Device),
        ];
        assert_eq!(gaps, expected);
        // A container that does not know our namespace has no end in it.
        assert!(sides(&inside, None, &outside).ends.is_empty());
    }

    #[test]
    fn a_gap_is_a_sentence() {
        let gap = Gap { interface: "mv0".into(), kind: Some("macvlan".into()), why: Blind::Elsewhere };
        assert_eq!(
            gap.to_string(),
            "mv0 (macvlan): it leads into another network namespace and has no end of its own on the host; only \
             packets of the agent's own sockets are judged there"
        );
    }

    #[test]
    fn the_own_loopback_is_listed() {
        let found = list(None).expect("a listing");
        assert!(found.iter().any(|interface| interface.is_loopback), "{found:?}");
    }
}
