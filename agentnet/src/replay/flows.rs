//! The flows of a capture: whose they are, what they carried. Their number has a limit.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, SocketAddr},
};

use super::{
    packet::{Packet, Transport},
    stream::Stream,
};
use crate::detect::{
    dissect::Dissector,
    event::{Counters, Direction, Time},
    places::Places,
};

/// Most flows at a time.
pub(super) const FLOWS: usize = 16_384;

/// Two ends and a protocol, the smaller end first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    one: SocketAddr,
    two: SocketAddr,
    protocol: u8,
}

impl Key {
    fn of(packet: &Packet<'_>) -> Self {
        let (source, target) = (packet.source, packet.target);
        let (one, two) = if (source.ip(), source.port()) <= (target.ip(), target.port()) {
            (source, target)
        } else {
            (target, source)
        };
        Self { one, two, protocol: packet.protocol }
    }
}

/// A flow.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) id: u64,
    /// Who began it.
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
    pub(super) protocol: u8,
    pub(super) dissector: Dissector,
    pub(super) counters: Counters,
    pub(super) first: Time,
    pub(super) last: Time,
    pub(super) state: Option<Box<Streams>>,
}

/// Both directions of a TCP connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) out: Stream,
    pub(super) back: Stream,
}

impl Flow {
    fn new(id: u64, packet: &Packet<'_>, time: Time) -> Self {
        let from_server = match packet.transport {
            Transport::Tcp { syn, ack, .. } if syn => ack,
            Transport::Tcp { .. } | Transport::Udp { .. } => is_server(packet.source, packet.target),
            // An answer without a question is one all the same.
            Transport::Icmp { kind, .. } => {
                matches!((packet.source.ip(), kind), (IpAddr::V4(_), 0) | (IpAddr::V6(_), 129))
            }
            Transport::Other => false,
        };
        let (client, server) =
            if from_server { (packet.target, packet.source) } else { (packet.source, packet.target) };
        Self {
            id,
            client,
            server,
            protocol: packet.protocol,
            dissector: Dissector::default(),
            counters: Counters::default(),
            first: time,
            last: time,
            state: None,
        }
    }

    /// Which way a packet of it goes.
    pub(super) fn direction(&self, packet: &Packet<'_>) -> Direction {
        if packet.source == self.client { Direction::Egress } else { Direction::Ingress }
    }
}

/// All flows.
#[derive(Debug)]
pub(super) struct Flows {
    flows: Places<Key, Flow>,
    next: u64,
}

impl Flows {
    pub(super) fn new() -> Self {
        Self { flows: Places::new(FLOWS), next: 1 }
    }

    /// The flow of a packet, with what had to give way to it; `true` if it is new.
    pub(super) fn flow(&mut self, packet: &Packet<'_>, time: Time) -> (&mut Flow, Option<Flow>, bool) {
        let next = &mut self.next;
        self.flows.get_or_insert_with(Key::of(packet), || {
            let id = *next;
            *next += 1;
            Flow::new(id, packet, time)
        })
    }

    /// Every flow, and none is left.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Flow> {
        self.flows.drain()
    }
}

/// Whether a datagram, or a segment of a connection whose beginning was not captured, comes from the server:
/// it is the end with the port of a service.
fn is_server(source: SocketAddr, target: SocketAddr) -> bool {
    const SERVICES: u16 = 1024;
    source.port() < target.port()
        && source.port() < SERVICES
        && source.port() > 0
        && target.port() >= SERVICES
}

/// Numbers of clients by their addresses.
#[derive(Debug, Default)]
pub(super) struct Clients {
    numbers: HashMap<IpAddr, (u64, String)>,
    hasher: RandomState,
}

/// Most addresses remembered.
const CLIENTS: usize = 100_000;

impl Clients {
    /// A client's number and name.
    pub(super) fn get(&mut self, ip: IpAddr) -> (u64, &str) {
        if self.numbers.len() >= CLIENTS && !self.numbers.contains_key(&ip) {
            self.numbers.clear();
        }
        let hasher = &self.hasher;
        let (number, name) = self.numbers.entry(ip).or_insert_with(|| (hasher.hash_one(ip), ip.to_string()));
        (*number, name)
    }
}
