//! The flows of a capture: whose they are, what they carried. Their number has a limit.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, SocketAddr},
};

use super::{
    app::App,
    packet::{Packet, Transport},
    stream::Stream,
};
use crate::detect::{
    dns::framing::Framer,
    event::{Counters, Direction, Time},
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
    pub(super) app: Option<App>,
    /// Times it was tried to tell what it speaks.
    pub(super) tries: u8,
    pub(super) counters: Counters,
    pub(super) first: Time,
    pub(super) last: Time,
    pub(super) state: Option<Box<Streams>>,
    touched: bool,
}

/// Both directions of a TCP connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) out: Stream,
    pub(super) back: Stream,
    pub(super) framers: [Framer; 2],
}

impl Flow {
    /// Which way a packet of it goes.
    pub(super) fn direction(&self, packet: &Packet<'_>) -> Direction {
        if packet.source == self.client { Direction::Egress } else { Direction::Ingress }
    }
}

/// All flows.
#[derive(Debug)]
pub(super) struct Flows {
    places: HashMap<Key, usize, RandomState>,
    flows: Vec<(Key, Flow)>,
    hand: usize,
    next: u64,
}

impl Flows {
    pub(super) fn new() -> Self {
        Self { places: HashMap::default(), flows: Vec::new(), hand: 0, next: 1 }
    }

    /// The flow of a packet, with what had to give way to it; `true` if it is new.
    pub(super) fn flow(&mut self, packet: &Packet<'_>, time: Time) -> (&mut Flow, Option<Flow>, bool) {
        let key = Key::of(packet);
        if let Some(&at) = self.places.get(&key) {
            let flow = &mut self.flows[at].1;
            flow.touched = true;
            return (flow, None, false);
        }
        let flow = self.new_flow(packet, time);
        let mut gone = None;
        let at = if self.flows.len() < FLOWS {
            self.flows.push((key, flow));
            self.flows.len() - 1
        } else {
            let at = self.victim();
            let (old, flow) = std::mem::replace(&mut self.flows[at], (key, flow));
            self.places.remove(&old);
            gone = Some(flow);
            at
        };
        self.places.insert(key, at);
        (&mut self.flows[at].1, gone, true)
    }

    /// Every flow, and none is left.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Flow> {
        self.places.clear();
        std::mem::take(&mut self.flows).into_iter().map(|(_, flow)| flow)
    }

    fn new_flow(&mut self, packet: &Packet<'_>, time: Time) -> Flow {
        let id = self.next;
        self.next += 1;
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
        Flow {
            id,
            client,
            server,
            protocol: packet.protocol,
            app: None,
            tries: 0,
            counters: Counters::default(),
            first: time,
            last: time,
            state: None,
            touched: true,
        }
    }

    /// The place of a flow that was not heard of since the hand last passed it.
    fn victim(&mut self) -> usize {
        loop {
            self.hand = (self.hand + 1) % self.flows.len().max(1);
            let flow = &mut self.flows[self.hand].1;
            if !std::mem::take(&mut flow.touched) {
                return self.hand;
            }
        }
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
