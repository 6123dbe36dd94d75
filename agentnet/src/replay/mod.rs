//! What was recorded, shown to the detectors: captures and lists become the events that the kernel's records
//! become live.

use std::net::SocketAddr;

use agentnet_common::addr::protocol;

use crate::{
    alert::{
        detection::{self, Done, Told},
        id::IdSource,
        model::Alert,
    },
    detect::{
        action::{Action, Actions},
        app::{self, App},
        bank::{Bank, Config, Outcome},
        event::{
            Agent, Body, Chunk, Datagram, Direction, Event, Flow as FlowOf, Icmp, IcmpMessage, Lineage, Time,
        },
        finding::Repeats,
        ledger::Keys,
    },
};

mod flows;
pub mod lines;
pub mod packet;
pub mod pcap;
pub mod scan;
mod stream;
pub mod summary;

use flows::{Clients, Flow, Flows, Streams};
use packet::{Packet, Transport};
use pcap::Frame;
pub use summary::Summary;

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
    let counters = &mut flow.counters;
    let (sum, packets) = match direction {
        Direction::Egress => (&mut counters.bytes_out, &mut counters.packets_out),
        Direction::Ingress => (&mut counters.bytes_in, &mut counters.packets_in),
    };
    (*sum, *packets) = (*sum + bytes, *packets + 1);
    if is_new {
        judge.judge(flow, time, Body::Start);
    }
    match packet.transport {
        Transport::Udp { len, payload } => {
            judge.datagram(flow, time, Datagram { direction, len, bytes: payload });
        }
        Transport::Tcp { sequence, syn, payload, .. } => {
            let mut state = flow.state.take().unwrap_or_default();
            let stream = match direction {
                Direction::Egress => &mut state.out,
                Direction::Ingress => &mut state.back,
            };
            if syn {
                stream.begin(sequence);
            }
            let Streams { out, back } = &mut *state;
            let stream = match direction {
                Direction::Egress => out,
                Direction::Ingress => back,
            };
            stream.add(sequence, payload, waiting, &mut |offset, gap, bytes| {
                let chunk = Chunk { direction, offset, gap, bytes };
                judge.chunk(flow, time, chunk);
            });
            flow.state = Some(state);
        }
        Transport::Icmp { kind, rest, len, payload } => {
            flow.dissector.app =
                Some(if packet.protocol == protocol::ICMP { App::Icmp } else { App::Icmpv6 });
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
    fn chunk(&mut self, flow: &mut Flow, time: Time, chunk: Chunk<'_>) {
        let mut dissector = std::mem::take(&mut flow.dissector);
        dissector.chunk(flow.server.port(), chunk, &mut |body| self.judge(flow, time, body));
        flow.dissector = dissector;
    }

    fn datagram(&mut self, flow: &mut Flow, time: Time, datagram: Datagram<'_>) {
        let mut dissector = std::mem::take(&mut flow.dissector);
        let (client, server) = (flow.client.port(), flow.server.port());
        dissector.datagram(client, server, datagram, &mut |body| self.judge(flow, time, body));
        flow.dissector = dissector;
    }

    /// The flow ends: what waits in its streams is all there will be.
    fn end(&mut self, flow: &mut Flow, waiting: &mut usize) {
        let time = flow.last;
        if let Some(mut state) = flow.state.take() {
            let Streams { out, back } = &mut *state;
            for (stream, direction) in [(out, Direction::Egress), (back, Direction::Ingress)] {
                stream.end(waiting, &mut |offset, gap, bytes| {
                    self.chunk(flow, time, Chunk { direction, offset, gap, bytes });
                });
            }
        }
        flow.counters.duration = flow.last.since(flow.first);
        self.judge(flow, time, Body::End(flow.counters));
        let app = flow.dissector.app.or_else(|| app::of_port(flow.protocol, flow.server.port()));
        self.summary.flow(app, flow.protocol, &flow.counters);
        if let Some(ended) = &mut self.ended {
            let Flow { client, server, protocol, .. } = *flow;
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
        let Outcome { findings, strongest, .. } = self.bank.on_event(&event);
        if strongest.is_none() {
            return;
        }
        for finding in findings {
            let action = self.actions.of(&finding);
            if action == Action::Nothing {
                continue;
            }
            self.summary.finding(event.agent.name, &finding, action, time);
            let told = Told {
                host: &self.source,
                policy: &self.policy,
                action,
                done: &Done::Replayed,
                ancestors: &[],
            };
            self.alerts.push(detection::alert(finding, &event, &told, &mut self.ids));
        }
    }
}
