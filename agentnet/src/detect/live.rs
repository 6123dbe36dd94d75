//! Live traffic: the kernel's samples in, verdicts with what is to be done out.
//!
//! Whoever reads the rings makes a [`Sample`] of each record of payload and calls [`Live::sample`]; of the end of a flow,
//! [`Live::ended`]. Each [`Verdict`] says what to do first in the kernel ([`Verdict::action`], [`Verdict::targets`]), and
//! what to tell ([`Verdict::finding`], by way of [`crate::alert::detection::alert`]). What was refused by the policy never
//! left: it is no sample, and counts as nothing that was told.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use agentnet_common::verdict::DNS_PORT;

use super::{
    action::{Action, Actions},
    app::App,
    bank::{Bank, Config, Outcome},
    dissect::Dissector,
    event::{
        Agent, Body, Chunk, Counters, Datagram, Direction, Event, Flow, Icmp, IcmpMessage, Lineage, Time,
    },
    finding::{Finding, QUIET, Repeats},
    kept::{self, KeptError},
    ledger::Keys,
    places::Places,
    said::{Held, Names},
    secrets::HostSecrets,
};
use crate::alert::model::{Kind, Process};

/// Flows at a time; of more, those that were silent longest are dissected anew.
pub const FLOWS: usize = 16_384;

/// Seconds that a block holds at least: for so long a finding may go untold, though not undone.
pub const BLOCK_SECONDS: u32 = QUIET;

/// Whose traffic it is, and which.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// When.
    pub time: Time,
    /// Whose it is.
    pub agent: Agent<'a>,
    /// Who made or connected the socket, where that is known.
    pub process: Option<&'a Process>,
    /// What its process tree did shortly before.
    pub lineage: Lineage,
    /// The flow; its number is the socket cookie.
    pub flow: Flow,
}

impl<'a> Source<'a> {
    /// An event of it, as alerts are made of.
    pub const fn event(&self, body: Body<'a>) -> Event<'a> {
        let Self { time, agent, process, lineage, flow } = *self;
        Event { time, agent, process, lineage, flow, body }
    }
}

/// Payload that the kernel let through.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Whose it is.
    pub source: Source<'a>,
    /// Which way it went.
    pub direction: Direction,
    /// TCP: where the bytes begin in what the connection carries this way. Else: how many datagrams went this way before.
    pub offset: u64,
    /// Payload bytes of the packet from here on.
    pub payload: u32,
    /// Those that were sampled.
    pub bytes: &'a [u8],
    /// The rule that names in it are held to, if there is one.
    pub held: Option<Held<'a>>,
}

/// What to do about something that was found.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What to do: first in the kernel, then told.
    pub action: Action,
    /// What kind of thing was found.
    pub kind: Kind,
    /// What to close to the agent, for at least [`BLOCK_SECONDS`]. Empty if nothing is to be closed.
    pub targets: Vec<Target>,
    /// What to tell; `None` if the same was told lately, and is only to be kept closed.
    pub finding: Option<Finding>,
}

/// What is closed to an agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A name in lower case and every name below it: its queries, and the addresses it has opened.
    Name(String),
    /// An address, on every port.
    Address(IpAddr),
    /// A flow by its socket cookie, to be destroyed.
    Flow(u64),
}

/// All detectors with all state, for agents that run. What it takes is bounded: 64 kB for each agent, 9 MB for streams,
/// and [`FLOWS`] flows.
#[derive(Debug)]
pub struct Live {
    bank: Bank,
    flows: Places<Key, State>,
    names: Names<Key>,
}

/// One socket may talk to many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    agent: u64,
    flow: u64,
    protocol: u8,
    remote: SocketAddr,
}

#[derive(Debug, Default)]
struct State {
    dissector: Dissector,
    /// Place of the next byte of the stream, out and in.
    next: [u64; 2],
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

impl Live {
    /// With nothing known. `keys` are best [`Keys::random`].
    pub fn new(config: Config, keys: Keys) -> Self {
        Self {
            bank: Bank::new(config, keys, Repeats::Counted),
            flows: Places::new(FLOWS),
            names: Names::new(),
        }
    }

    /// Looks for other secrets of this host from now on.
    pub fn look_for(&mut self, secrets: Option<Arc<HostSecrets>>) {
        self.bank.look_for(secrets);
    }

    /// Judges payload. `actions` is what the agent's policy says of findings.
    pub fn sample(&mut self, sample: &Sample<'_>, actions: &Actions) -> Vec<Verdict> {
        let Self { bank, flows, names } = self;
        let (mut verdicts, mut said) = (Vec::new(), Vec::new());
        let mut judge = |body: Body<'_>| judge(bank, &sample.source, body, actions, &mut verdicts);
        let Sample { source, direction, bytes, .. } = *sample;
        let Flow { protocol, local, remote, .. } = source.flow;
        let (state, _, _) = flows.get_or_insert_with(Key::of(&source), State::default);
        match protocol {
            TCP => {
                if let Some(chunk) = state.chunk(sample) {
                    said = names.judge(Key::of(&source), sample, chunk.bytes, chunk.gap);
                    state.dissector.chunk(remote.port(), chunk, &mut judge);
                }
            }
            UDP => {
                said = names.judge(Key::of(&source), sample, bytes, 0);
                let datagram = Datagram { direction, len: sample.payload, bytes };
                state.dissector.datagram(local.port(), remote.port(), datagram, &mut judge);
            }
            ICMP | ICMPV6 => {
                state.dissector.app = Some(if protocol == ICMP { App::Icmp } else { App::Icmpv6 });
                judge(Body::Icmp(Icmp {
                    direction,
                    message: echo(sample),
                    len: sample.payload,
                    payload: bytes,
                }));
            }
            _ => judge(Body::Datagram(Datagram { direction, len: sample.payload, bytes })),
        }
        verdicts.extend(said);
        verdicts
    }

    /// Takes note of the end of a flow.
    pub fn ended(&mut self, source: &Source<'_>, counters: Counters, actions: &Actions) -> Vec<Verdict> {
        let key = Key::of(source);
        self.flows.remove(&key);
        self.names.remove(&key);
        let mut verdicts = Vec::new();
        judge(&mut self.bank, source, Body::End(counters), actions, &mut verdicts);
        verdicts
    }

    /// What a flow speaks, as far as that can be told.
    pub fn app(&mut self, source: &Source<'_>) -> Option<App> {
        let (state, _, is_new) = self.flows.get_or_insert_with(Key::of(source), State::default);
        if is_new { None } else { state.dissector.app }
    }

    /// Forgets an agent, as its number may be given to another one.
    pub fn forget(&mut self, agent: u64) {
        self.bank.forget(agent);
        self.flows.remove_if(|key| key.agent == agent);
        self.names.remove_if(|key| key.agent == agent);
    }

    /// What is to be kept of an agent across a restart, at most [`kept::MAX_BYTES`]; `None` if it said nothing yet.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, agent: u64) -> Result<Option<Vec<u8>>, KeptError> {
        self.bank.ledger(agent).map(kept::encode).transpose()
    }

    /// Takes over what was kept of an agent, before its first sample.
    ///
    /// # Errors
    /// Why it is no ledger; the agent then begins with an empty one, which is to be told.
    pub fn restore(&mut self, agent: u64, kept: &[u8]) -> Result<(), KeptError> {
        self.bank.restore(agent, kept::decode(kept)?);
        Ok(())
    }
}

impl Key {
    fn of(source: &Source<'_>) -> Self {
        let Flow { id, protocol, remote, .. } = source.flow;
        Self { agent: source.agent.id, flow: id, protocol, remote }
    }
}

impl State {
    /// The bytes of a stream that are new, and how many are missing before them.
    fn chunk<'a>(&mut self, sample: &Sample<'a>) -> Option<Chunk<'a>> {
        let next = match sample.direction {
            Direction::Egress => &mut self.next[0],
            Direction::Ingress => &mut self.next[1],
        };
        let known = usize::try_from(next.saturating_sub(sample.offset)).unwrap_or(usize::MAX);
        let bytes = sample.bytes.get(known..).filter(|bytes| !bytes.is_empty())?;
        let offset = sample.offset.max(*next);
        let gap = offset - *next;
        *next = offset.saturating_add(bytes.len() as u64);
        Some(Chunk { direction: sample.direction, offset, gap, bytes })
    }
}

/// The message behind a payload of ICMP. The kernel lets echoes through and nothing else, and samples what is behind
/// their header: which request a reply belongs to is told by their numbers since the socket was made.
fn echo(sample: &Sample<'_>) -> IcmpMessage {
    let [low, high, ..] = sample.offset.to_le_bytes();
    let sequence = u16::from_le_bytes([low, high]);
    match sample.direction {
        Direction::Egress => IcmpMessage::EchoRequest { id: 0, sequence },
        Direction::Ingress => IcmpMessage::EchoReply { id: 0, sequence },
    }
}

fn judge(
    bank: &mut Bank,
    source: &Source<'_>,
    body: Body<'_>,
    actions: &Actions,
    verdicts: &mut Vec<Verdict>,
) {
    // Of a resolver that is not the policy's it is the resolver that is to be closed, not who was asked about; and
    // names are judged on the way to the port of DNS alone.
    let remote = source.flow.remote;
    let by_name =
        matches!(body, Body::Dns(_)) && remote.port() == DNS_PORT && !bank.is_foreign_resolver(remote.ip());
    let Source { time, agent, process, lineage, flow } = *source;
    let Outcome { findings, again, .. } = bank.on_event(&Event { time, agent, process, lineage, flow, body });
    for finding in findings {
        let action = actions.of(&finding);
        if action > Action::Nothing {
            let targets = targets(action, by_name, &finding.about, &flow);
            verdicts.push(Verdict { action, kind: finding.kind, targets, finding: Some(finding) });
        }
    }
    for repeat in again {
        let action = actions.decide(repeat.kind, repeat.strength);
        if action >= Action::Block {
            let targets = targets(action, by_name, &repeat.about, &flow);
            verdicts.push(Verdict { action, kind: repeat.kind, targets, finding: None });
        }
    }
}

/// What is to be closed. Of a name that was looked up, the name: the resolver serves others as well. Else what the bytes
/// really went to: the host in a request is its sender's choice.
fn targets(action: Action, by_name: bool, about: &[u8], flow: &Flow) -> Vec<Target> {
    if action < Action::Block {
        return Vec::new();
    }
    let elsewhere = || vec![Target::Address(flow.remote.ip()), Target::Flow(flow.id)];
    let Some(text) = std::str::from_utf8(about).ok().filter(|_| by_name) else { return elsewhere() };
    if let Ok(address) = text.parse() {
        return vec![Target::Address(address)];
    }
    let is_name = !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    // What stands for names of no domain, or of many, goes nowhere but to the resolver.
    if is_name { vec![Target::Name(text.to_owned())] } else { elsewhere() }
}

#[cfg(test)]
mod channels;
#[cfg(test)]
mod tests;
