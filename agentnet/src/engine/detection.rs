//! Detectors at work: samples of the kernel in, alerts out, and what the policy wants done about them.
//!
//! First the kernel, then the alert: what an alert says was done holds by then. In audit mode nothing is done, and
//! alerts say so. What cannot be closed by itself ends in quarantine: who makes more findings than there is room for
//! must not get away by that.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use agentnet_common::{
    abi::{MODE_AUDIT, Process},
    addr::{Addr, Endpoint},
    event::{Header, Way},
    user::Record,
    verdict::{DNS_PORT, RuleId},
};
use jiff::Timestamp;

use super::{agent::Agent, kept, make_directory, state::Engine};
use crate::{
    act::{Act, What},
    agent::{AgentName, registry::EngineKind},
    alert::{detection::Done, model::Kind, who},
    detect::{
        action::Action,
        bank::Config,
        event::{self, Counters, Direction, Flow, Lineage, Time},
        ledger::Keys,
        live::{BLOCK_SECONDS, Live, Sample, Source, Target, Verdict},
        said::Held,
        secrets::source,
    },
    policy::net::Net,
};

/// How long something is blocked. Whoever goes on when it ends is found again, and blocked again.
const BLOCKED: Duration = Duration::from_secs(6 * BLOCK_SECONDS as u64);

/// Extension of the file in which an agent's ledger is kept.
pub(super) const LEDGER: &str = "ledger";

/// All detectors of an engine.
#[derive(Debug)]
pub(super) struct Detection {
    live: Live,
    /// What people have taken back: it is not done again to that agent.
    spared: BTreeMap<AgentName, Vec<What>>,
    /// Agents of which something was seen since their ledgers were kept.
    seen: BTreeSet<u32>,
    /// Secrets of this host that are not looked for, and why.
    unread: Vec<String>,
}

impl Default for Detection {
    fn default() -> Self {
        Self {
            // Resolvers are the kernel's to judge, name by name; secrets of this host are read later.
            live: Live::new(Config::default(), Keys::random()),
            spared: BTreeMap::new(),
            seen: BTreeSet::new(),
            unread: Vec::new(),
        }
    }
}

impl Detection {
    /// Somebody has taken back what was done because of a finding.
    pub(super) fn spare(&mut self, act: &Act) {
        if let Some(agent) = &act.agent {
            self.spared.entry(agent.clone()).or_default().push(act.what.clone());
        }
    }

    /// Secrets of this host that are not looked for, and why.
    pub(super) fn unread(&self) -> &[String] {
        &self.unread
    }

    fn is_spared(&self, agent: &AgentName, what: &What) -> bool {
        self.spared.get(agent).is_some_and(|spared| spared.contains(what))
    }

    /// Forgets an agent that has ended.
    pub(super) fn forget(&mut self, id: u32, name: &AgentName) {
        self.live.forget(id.into());
        self.spared.remove(name);
        self.seen.remove(&id);
    }
}

/// Where and when something was seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) time: u64,
    /// Who made or connected the socket.
    pub(super) process: &'a Process,
    /// The flow.
    pub(super) flow: Flow,
}

impl<'a> Seen<'a> {
    fn new(header: &Header, process: &'a Process, endpoint: &Endpoint, local: (Addr, u16)) -> Self {
        let flow = Flow {
            id: header.flow,
            protocol: endpoint.protocol,
            local: SocketAddr::new(local.0.into(), local.1),
            remote: SocketAddr::new(endpoint.addr.into(), endpoint.port),
        };
        Self { time: header.time, process, flow }
    }
}

impl Engine {
    /// Reads the secrets of this host anew; those that are not looked for, and why. What was looked for before is not
    /// looked for any more.
    pub(super) fn read_secrets(&mut self) -> &[String] {
        let held = source::read(&self.settings.secrets, |name| std::env::var_os(name));
        for note in &held.notes {
            tracing::warn!(note, "secrets of this host");
        }
        for wrong in &held.wrong {
            tracing::error!(wrong, "secrets of this host");
        }
        if let Some(secrets) = &held.secrets {
            tracing::info!(secrets = secrets.len(), "no agent may send the secrets of this host");
        }
        self.detection.live.look_for(held.secrets.map(Arc::new));
        self.detection.unread = held.wrong;
        &self.detection.unread
    }

    /// Shows a record to the detectors, does what the policy wants done, and tells of it.
    pub(super) fn detect(&mut self, record: &Record) {
        let id = record.header().agent;
        let Self { agents, detection, clock, .. } = self;
        let Some(agent) = agents.get(&id) else { return };
        // Who asks for a name counts: a program that shows what it finds, or one that connects.
        let asks = match record {
            Record::Sample(sample) if sample.head.endpoint.port == DNS_PORT => {
                who(&sample.head.process, None)
            }
            _ => None,
        };
        let source = |seen: &Seen<'_>| Source {
            time: Time(u64::try_from(clock.wall(seen.time).as_nanosecond()).unwrap_or_default()),
            agent: event::Agent { id: id.into(), name: agent.name.as_str() },
            process: asks.as_ref(),
            lineage: Lineage::default(),
            flow: seen.flow,
        };
        let actions = &agent.policy.compiled.detect;
        let (seen, verdicts) = match record {
            // What an agent tells itself goes nowhere.
            Record::Sample(sample) if sample.head.rule != RuleId::OWN_LISTENER.0 => {
                let head = &sample.head;
                let seen =
                    Seen::new(&head.header, &head.process, &head.endpoint, (head.local, head.local_port));
                let direction = match sample.way {
                    Way::Out => Direction::Egress,
                    Way::In => Direction::Ingress,
                };
                let (number, port) = (head.endpoint.protocol, head.endpoint.port);
                let policy = &agent.policy;
                let to = policy.held_to(RuleId(head.rule), number, port);
                let rule = to.and_then(|_| policy.compiled.rule(RuleId(head.rule)));
                // Written out only in what is found: most samples say what they may.
                let rule: &dyn std::fmt::Display = rule.map_or(&"", |rule| rule);
                let allows = |name: &str| policy.allows_name(name, number, port);
                let sample = Sample {
                    held: to.map(|to| Held { rule, allows: &allows, to }),
                    source: source(&seen),
                    direction,
                    offset: head.offset,
                    payload: head.payload,
                    bytes: &sample.bytes,
                };
                (seen, detection.live.sample(&sample, actions))
            }
            Record::FlowEnd(end) => {
                let seen = Seen::new(&end.header, &end.process, &end.endpoint, (end.local, end.local_port));
                let counters = Counters {
                    bytes_out: end.tx_bytes,
                    bytes_in: end.rx_bytes,
                    packets_out: end.tx_packets,
                    packets_in: end.rx_packets,
                    duration: end.header.time.saturating_sub(end.began),
                };
                let verdicts = detection.live.ended(&source(&seen), counters, actions);
                (seen, verdicts)
            }
            _ => return,
        };
        detection.seen.insert(id);
        for verdict in verdicts {
            self.found(id, verdict, &seen);
        }
    }

    fn found(&mut self, id: u32, verdict: Verdict, seen: &Seen<'_>) {
        let Verdict { action, kind, targets, finding } = verdict;
        let reason = finding.as_ref().map_or_else(String::new, |finding| finding.reason.clone());
        let done = self.answer(id, action, &targets, (kind, &reason));
        let Some(finding) = finding else { return };
        let Self { agents, followers, .. } = self;
        if let Some(agent) = agents.get_mut(&id) {
            agent.found(finding, seen, (action, &done), Timestamp::now(), followers);
        }
    }

    /// Does what is to be done about a finding.
    fn answer(&mut self, id: u32, action: Action, targets: &[Target], why: (Kind, &str)) -> Done {
        let Some(agent) = self.agents.get(&id) else { return Done::AsAsked };
        if action < Action::Block {
            return Done::AsAsked;
        }
        if agent.policy_mode() == MODE_AUDIT {
            return Done::Audited;
        }
        let name = agent.name.clone();
        let closed: Vec<_> = match action {
            Action::Quarantine => vec![(What::Quarantine, None)],
            // A flow to a blocked address is destroyed with the block.
            _ => targets.iter().filter_map(closes).map(|what| (what, Some(BLOCKED))).collect(),
        };
        if closed.iter().all(|(what, _)| self.detection.is_spared(&name, what)) {
            return Done::Spared;
        }
        for (what, length) in closed {
            if let Err(failed) = self.close_found(id, what.clone(), length, why) {
                tracing::error!(agent = %name, failed, "a finding is not answered as the policy says");
                if what == What::Quarantine {
                    return Done::Failed(failed);
                }
                return match self.close_found(id, What::Quarantine, None, why) {
                    Ok(()) => Done::Quarantined(failed),
                    Err(also) => Done::Failed(format!("{failed}; {also}")),
                };
            }
        }
        Done::AsAsked
    }

    /// Keeps the ledgers of agents of which something was seen, for a daemon that is started later.
    pub(super) fn keep_ledgers(&mut self) {
        let seen = std::mem::take(&mut self.detection.seen);
        if self.kind != EngineKind::Daemon {
            return;
        }
        for id in seen {
            if let Err(error) = self.keep_ledger(id) {
                self.detection.seen.insert(id);
                tracing::error!(agent = id, %error, "what the agent told whom cannot be kept for a restart");
            }
        }
    }

    fn keep_ledger(&self, id: u32) -> io::Result<()> {
        let Some(agent) = self.agents.get(&id) else { return Ok(()) };
        let Some(kept) = self.detection.live.keep(id.into()).map_err(io::Error::other)? else {
            return Ok(());
        };
        make_directory(&self.settings.state.join("agents"), 0o700)?;
        kept::replace(&self.state_file(&agent.name, LEDGER), &kept)
    }

    /// Takes over what a daemon before this one has kept of what an agent told whom. If that cannot be read, it is told,
    /// and the agent begins anew.
    pub(super) fn restore_ledger(&mut self, id: u32) {
        let Some(agent) = self.agents.get(&id) else { return };
        let restored = match fs::read(self.state_file(&agent.name, LEDGER)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => Err(error.to_string()),
            Ok(kept) => self.detection.live.restore(id.into(), &kept).map_err(|error| error.to_string()),
        };
        if let Err(why) = restored {
            self.stand(
                id,
                format!("what it told whom before the daemon began cannot be read, and counts as new: {why}"),
            );
        }
    }
}

/// What closes a target.
fn closes(target: &Target) -> Option<What> {
    match target {
        Target::Name(name) => Some(What::BlockName { name: name.clone() }),
        Target::Address(address) => Some(What::Block { net: Net::host(*address) }),
        Target::Flow(_) => None,
    }
}

impl Agent {
    /// Tells of a finding, about which `action` was wanted and this was done.
    fn found(
        &mut self,
        finding: crate::detect::finding::Finding,
        seen: &Seen<'_>,
        (action, done): (Action, &Done),
        now: Timestamp,
        followers: &mut super::follow::Followers,
    ) {
        let outputs =
            self.pipeline.on_finding(finding, seen.time, seen.process, seen.flow, (action, done), now);
        self.publish(outputs, now, followers);
    }
}
