//! What was recorded, shown to the detectors: captures and lists become the events that the kernel's records
//! become live.

use std::net::SocketAddr;

use agentnet_common::addr::protocol;

use crate::{
    alert::{
        detection::{self, Told},
        id::IdSource,
        model::Alert,
    },
    detect::{
        action::{Action, Actions},
        bank::{Bank, Config, Outcome},
        dns::framing::Framer,
        event::{
            Agent, Body, Chunk, Datagram, Direction, Dns, Event, Flow as FlowOf, Icmp, IcmpMessage, Lineage,
            Message, Time, Transport as DnsTransport,
        },
        finding::Repeats,
        ledger::Keys,
    },
};

pub mod app;
mod flows;
pub mod lines;
pub mod packet;
pub mod pcap;
pub mod scan;
mod stream;
pub mod summary;

use app::App;
use flows::{Clients, Flow, Flows, Streams};
use packet::{Packet, Transport};
use pcap::Frame;
pub use summary::Summary;

/// Bytes of an encrypted stream that are looked at, each way.
const HEAD: u64 = 4096;
/// Segments and datagrams of a flow in which its protocol is looked for.
const TRIES: u8 = 8;

/// Shows a capture to the detectors.
#[derive(Debug)]
pub struct Replay {
    flows: Flows,
    /// Bytes of streams that wait for what comes before them.
    waiting: usize,
    judge: Judge,
}

/// What judges events and counts what came of them.
#[derive(Debug)]
struct Judge {
    bank: Bank,
    clients: Clients,
    actions: Actions,
    ids: IdSource,
    source: String,
    policy: String,
    alerts: Vec<Alert>,
    summary: Summary,
    /// Flows that ended, if somebody wants them.
    ended: Option<Vec<FlowSeen>>,
}

/// A flow that ended.
#[derive(Clone, Debug)]
pub struct FlowSeen {
    /// Who began it.
    pub client: SocketAddr,
    /// The other end.
    pub server: SocketAddr,
    /// IANA number of the protocol.
    pub protocol: u8,
    /// What it spoke, if that can be told.
    pub app: Option<App>,
}

impl Replay {
    /// A replay of the capture `source` under the policy named `policy`.
    pub fn new(source: String, policy: String, actions: Actions, config: Config) -> Self {
        let bank = Bank::new(config, Keys::random(), Repeats::Counted);
        Self {
            flows: Flows::new(),
            waiting: 0,
            judge: Judge {
                bank,
                clients: Clients::default(),
                actions,
                ids: IdSource::default(),
                source,
                policy,
                alerts: Vec::new(),
                summary: Summary::default(),
                ended: None,
            },
        }
    }

    /// Judges a packet; what there is to tell.
    pub fn frame(&mut self, frame: &Frame<'_>) -> impl Iterator<Item = Alert> + '_ {
        let Self { flows, waiting, judge } = self;
        judge.summary.frame(frame);
        match packet::packet(frame) {
            Some(packet) => see(flows, waiting, judge, &packet, frame.time),
            None => judge.summary.not_ip += 1,
        }
        judge.alerts.drain(..)
    }

    /// Ends every flow; what there is still to tell.
    pub fn end(&mut self) -> impl Iterator<Item = Alert> + '_ {
        let Self { flows, waiting, judge } = self;
        for mut flow in flows.drain() {
            judge.end(&mut flow, waiting);
        }
        judge.alerts.drain(..)
    }

    /// Keeps a record of every flow from now on: memory grows with their number.
    pub fn keep_flows(&mut self) {
        self.judge.ended.get_or_insert_default();
    }

    /// The flows that ended since [`Self::keep_flows`].
    pub fn flows(&self) -> &[FlowSeen] {
        self.judge.ended.as_deref().unwrap_or_default()
    }

    /// What was seen so far.
    pub const fn summary(&self) -> &Summary {
        &self.judge.summary
    }
}

fn see(flows: &mut Flows, waiting: &mut usize, judge: &mut Judge, packet: &Packet<'_>, time: Time) {
    let (flow, gone, is_new) = flows.flow(packet, time);
    let direction = flow.direction(packet);
    flow.last = flow.last.max(time);
    let bytes = u64::from(packet.len);
    match direction {
        Direction::Egress => {
            (flow.counters.bytes_out, flow.counters.packets_out) =
                (flow.counters.bytes_out + bytes, flow.counters.packets_out + 1)
        }
        Direction::Ingress => {
            (flow.counters.bytes_in, flow.counters.packets_in) =
                (flow.counters.bytes_in + bytes, flow.counters.packets_in + 1)
        }
    }
    if is_new {
        judge.judge(flow, time, Body::Start);
    }
    match packet.transport {
        Transport::Udp { len, payload } => judge.datagram(flow, direction, time, len, payload),
        Transport::Tcp { sequence, syn, payload, .. } => {
            let mut state = flow.state.take().unwrap_or_default();
            let stream = match direction {
                Direction::Egress => &mut state.out,
                Direction::Ingress => &mut state.back,
            };
            if syn {
                stream.begin(sequence);
            }
            let Streams { out, back, framers } = &mut *state;
            let stream = match direction {
                Direction::Egress => out,
                Direction::Ingress => back,
            };
            stream.add(sequence, payload, waiting, &mut |offset, gap, bytes| {
                let chunk = Chunk { direction, offset, gap, bytes };
                judge.chunk(flow, framers, time, chunk);
            });
            flow.state = Some(state);
        }
        Transport::Icmp { kind, rest, len, payload } => {
            flow.app = Some(if packet.protocol == protocol::ICMP { App::Icmp } else { App::Icmpv6 });
            let message = icmp(packet.protocol, kind, rest);
            judge.judge(flow, time, Body::Icmp(Icmp { direction, message, len, payload }));
        }
        Transport::Other => {}
    }
    if let Some(mut gone) = gone {
        judge.end(&mut gone, waiting);
    }
}

/// What an ICMP message is (RFC 792, RFC 4443).
fn icmp(number: u8, kind: u8, rest: [u8; 4]) -> IcmpMessage {
    let [i0, i1, s0, s1] = rest;
    let (id, sequence) = (u16::from_be_bytes([i0, i1]), u16::from_be_bytes([s0, s1]));
    match (number == protocol::ICMP, kind) {
        (true, 8) | (false, 128) => IcmpMessage::EchoRequest { id, sequence },
        (true, 0) | (false, 129) => IcmpMessage::EchoReply { id, sequence },
        // Unreachable, quench, redirect, router discovery, time exceeded, parameter problem.
        (true, 3..=5 | 9..=12) | (false, 1..=4 | 130..=153) => IcmpMessage::Control(kind),
        _ => IcmpMessage::Other(kind),
    }
}

impl Judge {
    /// Bytes of a stream, in order.
    fn chunk(&mut self, flow: &mut Flow, framers: &mut [Framer; 2], time: Time, chunk: Chunk<'_>) {
        // A capture may begin within a connection: records of TLS say what they are at each beginning.
        if flow.app.is_none() && flow.tries < TRIES {
            flow.tries += 1;
            flow.app = app::of_stream(chunk.bytes, flow.server.port());
        }
        if flow.app == Some(App::Dns) || flow.server.port() == 53 {
            let framer = match chunk.direction {
                Direction::Egress => &mut framers[0],
                Direction::Ingress => &mut framers[1],
            };
            framer.push(chunk.bytes, chunk.gap, |message| {
                self.dns(flow, chunk.direction, time, DnsTransport::Tcp, message);
            });
            return;
        }
        let encrypted = flow.app.is_some_and(App::is_encrypted);
        if !encrypted || chunk.offset < HEAD {
            self.judge(flow, time, Body::Chunk(chunk));
        }
    }

    fn datagram(&mut self, flow: &mut Flow, direction: Direction, time: Time, len: u32, payload: &[u8]) {
        if flow.app.is_none() && flow.tries < TRIES {
            flow.tries += 1;
            let (one, two) = (flow.server.port(), flow.client.port());
            flow.app = app::of_datagram(payload, one.min(two), one.max(two));
        }
        match flow.app {
            _ if flow.server.port() == 53 => self.dns(flow, direction, time, DnsTransport::Udp, payload),
            Some(App::Dns | App::Mdns) => self.dns(flow, direction, time, DnsTransport::Udp, payload),
            _ => self.judge(flow, time, Body::Datagram(Datagram { direction, len, bytes: payload })),
        }
    }

    fn dns(
        &mut self,
        flow: &Flow,
        direction: Direction,
        time: Time,
        transport: DnsTransport,
        message: &[u8],
    ) {
        let message = Message::Wire(message);
        self.judge(flow, time, Body::Dns(Dns { direction, transport, message }));
    }

    /// The flow ends: what waits in its streams is all there will be.
    fn end(&mut self, flow: &mut Flow, waiting: &mut usize) {
        let time = flow.last;
        if let Some(mut state) = flow.state.take() {
            let Streams { out, back, framers } = &mut *state;
            for (stream, direction) in [(out, Direction::Egress), (back, Direction::Ingress)] {
                stream.end(waiting, &mut |offset, gap, bytes| {
                    self.chunk(flow, framers, time, Chunk { direction, offset, gap, bytes });
                });
            }
        }
        flow.counters.duration = flow.last.since(flow.first);
        self.judge(flow, time, Body::End(flow.counters));
        flow.app = flow.app.or_else(|| app::of_port(flow.protocol, flow.server.port()));
        self.summary.flow(flow.app, flow.protocol, &flow.counters);
        if let Some(ended) = &mut self.ended {
            let Flow { client, server, protocol, app, .. } = *flow;
            ended.push(FlowSeen { client, server, protocol, app });
        }
    }

    fn judge(&mut self, flow: &Flow, time: Time, body: Body<'_>) {
        let (id, name) = self.clients.get(flow.client.ip());
        let event = Event {
            time,
            agent: Agent { id, name },
            process: None,
            lineage: Lineage::default(),
            flow: FlowOf { id: flow.id, protocol: flow.protocol, local: flow.client, remote: flow.server },
            body,
        };
        let Outcome { findings, strongest } = self.bank.on_event(&event);
        if strongest.is_none() {
            return;
        }
        for finding in findings {
            let action = self.actions.of(&finding);
            if action == Action::Nothing {
                continue;
            }
            self.summary.finding(event.agent.name, &finding, action, time);
            let told = Told { host: &self.source, policy: &self.policy, action, replayed: true };
            self.alerts.push(detection::alert(finding, &event, &told, &mut self.ids));
        }
    }
}
