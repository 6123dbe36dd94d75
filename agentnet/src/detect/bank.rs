//! All detectors and all state: [`Bank::on_event`].

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::{
    about::Abouts,
    dns::View,
    domains::BaseKind,
    event::{Agent, Body, Direction, Dns, Event, Icmp, IcmpMessage},
    finding::{Finding, Findings, Repeat, Repeats, Strength},
    ledger::{Keys, Ledger},
    registry::REGISTRY,
    scene::{DnsScene, Scene, UNKNOWN},
    secrets::HostSecrets,
    stream::{self, Streams},
    workload::Workload,
};

/// What the operator set.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Resolvers that may be asked; any if empty.
    pub resolvers: Vec<IpAddr>,
    /// Secrets of this host that must not leave it.
    pub secrets: Option<Arc<HostSecrets>>,
}

impl Config {
    /// Whether an address is none of the resolvers, where there are some.
    pub fn is_foreign_resolver(&self, address: IpAddr) -> bool {
        !self.resolvers.is_empty() && !self.resolvers.contains(&address)
    }
}

/// What came of an event.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What is to be said.
    pub findings: Vec<Finding>,
    /// The strongest finding, said or not.
    pub strongest: Option<Strength>,
    /// What was said lately and not again, worth an alert or more.
    pub again: Vec<Repeat>,
}

/// All detectors and all state.
#[derive(Debug)]
pub struct Bank {
    config: Config,
    keys: Keys,
    repeats: Repeats,
    /// Most workloads kept; who was not heard of for longest gives way.
    max: usize,
    workloads: HashMap<u64, (u64, Workload)>,
    streams: Streams,
    /// What names were found to be.
    names: Abouts,
    /// Events so far.
    number: u64,
}

/// Workloads that a capture may have: 64 kB each.
pub const WORKLOADS: usize = 1024;

impl Bank {
    /// With no state.
    pub fn new(config: Config, keys: Keys, repeats: Repeats) -> Self {
        Self {
            config,
            keys,
            repeats,
            max: WORKLOADS,
            workloads: HashMap::new(),
            streams: Streams::default(),
            names: Abouts::default(),
            number: 0,
        }
    }

    /// Takes over a ledger of before.
    pub fn restore(&mut self, agent: u64, ledger: Ledger) {
        self.workloads.insert(agent, (self.number, Workload::with_ledger(ledger)));
    }

    /// Looks for other secrets of this host from now on.
    pub fn look_for(&mut self, secrets: Option<Arc<HostSecrets>>) {
        self.config.secrets = secrets;
    }

    /// What a workload told whom, to be kept.
    pub fn ledger(&self, agent: u64) -> Option<&Ledger> {
        self.workloads.get(&agent).map(|(_, workload)| &workload.ledger)
    }

    /// Whether an address is none of the policy's resolvers, where it names some.
    pub fn is_foreign_resolver(&self, address: IpAddr) -> bool {
        self.config.is_foreign_resolver(address)
    }

    /// Forgets a workload.
    pub fn forget(&mut self, agent: u64) {
        self.workloads.remove(&agent);
    }

    /// Shows an event to every detector.
    pub fn on_event(&mut self, event: &Event<'_>) -> Outcome {
        self.number += 1;
        self.make_room(event.agent);
        let keys = self.keys;
        let (last, workload) =
            self.workloads.entry(event.agent.id).or_insert_with(|| (0, Workload::new(keys)));
        *last = self.number;
        let Workload { ledger, told, fusion, dga, icmp } = workload;
        let mut findings = Findings {
            said: Vec::new(),
            strongest: None,
            again: Vec::new(),
            told,
            fusion,
            keys,
            repeats: self.repeats,
            now: event.time,
            suspicious: event.lineage.is_suspicious(),
            of: None,
        };
        let mut scene = Scene { event, config: &self.config, ledger, dga, icmp, findings: &mut findings };
        match &event.body {
            Body::Dns(dns) => on_dns(&mut scene, &mut self.names, dns),
            Body::Chunk(chunk) => self.streams.chunk(&mut scene, chunk),
            Body::Datagram(datagram) if datagram.direction == Direction::Egress => {
                stream::send(&mut scene, datagram.bytes, &[], &mut Vec::new(), "a datagram");
            }
            Body::Icmp(icmp) => on_icmp(&mut scene, icmp),
            Body::Request(request) => {
                stream::request(&mut scene, request.method, request.target, request.host, Vec::new());
            }
            Body::Payload(payload) => stream::unaddressed(&mut scene, payload),
            Body::End(_) => self.streams.end(event.flow.id),
            Body::Start | Body::Datagram(_) => {}
        }
        Outcome { findings: findings.said, strongest: findings.strongest, again: findings.again }
    }

    /// Keeps the number of workloads in bounds.
    fn make_room(&mut self, agent: Agent<'_>) {
        if self.workloads.len() < self.max || self.workloads.contains_key(&agent.id) {
            return;
        }
        let oldest = self.workloads.iter().min_by_key(|(_, (last, _))| *last);
        if let Some(id) = oldest.map(|(&id, _)| id) {
            self.workloads.remove(&id);
        }
    }
}

fn on_icmp(scene: &mut Scene<'_, '_>, icmp: &Icmp<'_>) {
    for row in REGISTRY {
        for detector in row.detectors {
            scene.findings.of = Some((row.kind, *detector));
            detector.on_icmp(scene, icmp);
        }
    }
    if icmp.direction == Direction::Egress && !matches!(icmp.message, IcmpMessage::Control(_)) {
        stream::send(scene, icmp.payload, &[], &mut Vec::new(), "an ICMP message");
    }
}

/// Port of multicast DNS (RFC 6762).
const MDNS: u16 = 5353;

fn on_dns(scene: &mut Scene<'_, '_>, about: &mut Abouts, message: &Dns<'_>) {
    let flow = scene.event.flow;
    // Multicast does not leave the link.
    if flow.remote.ip().is_multicast() || (flow.local.port() == MDNS && flow.remote.port() == MDNS) {
        return;
    }
    let view = View::of(message);
    let text = view.name.lower();
    let about = about.of(text, scene.findings.keys);
    let base = about.base(text);
    let dns = DnsScene {
        view: &view,
        base,
        key: match base.kind {
            BaseKind::Unknown | BaseKind::Single => UNKNOWN,
            _ => base.name,
        },
        sub: base.sub_of(view.name.sent()),
        popular: about.popular,
        infrastructure: about.infrastructure.has(view.rtype),
        classes: about.classes,
        listed: about.listed(text),
        information: about.information,
        said: about.said,
        told_before: std::cell::Cell::new(0),
    };
    for row in REGISTRY {
        for detector in row.detectors {
            scene.findings.of = Some((row.kind, *detector));
            detector.on_dns(scene, &dns);
        }
    }
}
