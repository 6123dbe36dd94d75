//! From kernel records to alerts and flows.

use std::{net::IpAddr, net::SocketAddr, sync::Arc};

use agentnet_common::{
    abi::{AgentCounters, COMM_BYTES},
    addr::{Addr, Endpoint, protocol},
    event::{Hook, Outcome},
    user::{Cause, DecodeError, Record, VerdictRecord},
    verdict::{Reason, RuleId},
};
use jiff::{SignedDuration, Timestamp};

use super::{
    class::{self, Class, Enforcement},
    clock::Clock,
    community::community_id,
    explain::{Explain, Explained, RuleRef, reserved_rule},
    fold::{self, Fold, Repeats},
    id::IdSource,
    loss::{self, Losses},
    model::{
        Action, Alert, Destination, Direction, EnforcementEvidence, Evidence, Flow, FlowAction, FlowKind, Kind,
        Output, PolicyRef, Process, VerdictEvidence,
    },
    names::{Socket, SocketOption, protocol_name},
    sentence::{Facts, sentence},
    sequence::{Ring, Sequences},
    summary::{Summary, Tally},
    text::{MAX_COMM, MAX_SENTENCE, clean},
};
use crate::agent::process::{Executables, ProcessTable};

/// Refusals that are told apart in one window of [`fold::WINDOW`]. What is more is folded by its reason
/// alone: an agent that tries a thousand addresses must not wash older alerts out of the log.
pub const DISTINCT_PER_WINDOW: u32 = 100;

/// Turns the records of one agent into alerts and flows. Takes time from its caller.
pub struct Pipeline {
    agent: String,
    host: String,
    policy: Arc<dyn Explain>,
    clock: Clock,
    executables: Box<dyn Executables>,
    ids: IdSource,
    fold: Fold<Key, Refusal>,
    distinct: Distinct,
    sequences: Sequences,
    losses: Losses,
    tally: Tally,
}

/// A refusal and who did it.
#[derive(Clone)]
struct Refusal {
    record: VerdictRecord,
    reason: Reason,
    executable: Option<Arc<str>>,
    various: bool,
}

/// What makes two refusals the same to people.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Exact {
        reason: Reason,
        outcome: Outcome,
        endpoint: Endpoint,
        detail: u32,
        comm: [u8; COMM_BYTES],
        executable: Option<Arc<str>>,
    },
    Various { reason: Reason, outcome: Outcome },
}

impl Pipeline {
    /// For the records of an agent from its first on. `agent` and `host` are names.
    pub fn new(agent: &str, host: &str, policy: Arc<dyn Explain>, clock: Clock) -> Self {
        Self {
            agent: agent.to_owned(),
            host: host.to_owned(),
            policy,
            clock,
            executables: Box::new(ProcessTable::default()),
            ids: IdSource::default(),
            fold: Fold::new(fold::WINDOW, fold::CAPACITY),
            distinct: Distinct::default(),
            sequences: Sequences::default(),
            losses: Losses::default(),
            tally: Tally::default(),
        }
    }

    /// For an agent that another engine has watched until now: what `counters` say was lost then has been
    /// reported, and numbering goes on where it is.
    #[must_use]
    pub fn resumed(mut self, counters: &AgentCounters) -> Self {
        self.losses.baseline(counters);
        self.sequences = Sequences::resumed();
        self
    }

    /// Finds executables elsewhere than in `/proc`, and numbers identifiers for `source`.
    #[must_use]
    pub fn with_sources(mut self, executables: Box<dyn Executables>, source: u32) -> Self {
        self.executables = executables;
        self.ids = IdSource::new(source);
        self
    }

    /// Replaces the offset between the clocks; to be done now and then, see [`Clock`].
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// Replaces the policy after a reload.
    pub fn set_policy(&mut self, policy: Arc<dyn Explain>) {
        self.policy = policy;
    }

    /// Takes a record.
    pub fn on_record(&mut self, record: &Record, now: Timestamp) -> Vec<Output> {
        match record {
            Record::Verdict(verdict) => {
                self.sequences.observe(&verdict.event.header, Ring::of(verdict.outcome));
                match verdict.cause {
                    Cause::Rule(rule) => vec![self.flow(verdict, rule, now)],
                    Cause::Reason(reason) => self.refusal(verdict, reason, now),
                }
            }
            // A kind that a newer record type brings: it was not understood, so it counts as lost.
            other => self.on_decode_error(&DecodeError::Kind(other.header().kind), now),
        }
    }

    /// Takes note of a record that could not be read.
    pub fn on_decode_error(&mut self, error: &DecodeError, now: Timestamp) -> Vec<Output> {
        self.losses.add(loss::Cause::Decode, 1, error.to_string());
        self.lost(now, false)
    }

    /// Takes note of `lines` that could not be written to the log.
    pub fn on_unwritten(&mut self, lines: u64, error: &str, now: Timestamp) -> Vec<Output> {
        self.losses.add(loss::Cause::Log, lines, clean(error, MAX_SENTENCE));
        self.lost(now, false)
    }

    /// Takes the agent's counters, summed over all CPUs and read after the rings were drained.
    pub fn on_counters(&mut self, counters: &AgentCounters, now: Timestamp) -> Vec<Output> {
        self.losses.counters(counters);
        self.losses.missing(self.sequences.missing());
        self.tally.counters(counters);
        self.lost(now, false)
    }

    /// Takes note of a change in the state of enforcement.
    pub fn on_enforcement(&mut self, change: &Enforcement, now: Timestamp) -> Vec<Output> {
        let reason = change.sentence(&self.agent, self.policy.name());
        let evidence = Evidence::Enforcement(EnforcementEvidence {
            state: change.label().into(),
            error: change.error().map(|error| clean(&error, MAX_SENTENCE)),
        });
        let alert = self.own(Kind::Enforcement, reason, evidence, now);
        vec![Output::Alert(Box::new(Alert { severity: change.severity(), ..alert }))]
    }

    /// Gives what has become due; to be called about once a second.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Output> {
        let ended = self.fold.expired(now);
        let mut outputs = self.repeats(ended, now);
        outputs.extend(self.lost(now, false));
        outputs
    }

    /// Gives all that is left, and what there was altogether.
    pub fn finish(mut self, now: Timestamp) -> (Vec<Output>, Summary) {
        let ended = self.fold.drain();
        let mut outputs = self.repeats(ended, now);
        self.losses.missing(self.sequences.missing());
        outputs.extend(self.lost(now, true));
        let policy = Arc::clone(&self.policy);
        let summary = self.tally.finish(&self.agent, policy.as_ref(), &self.losses);
        (outputs, summary)
    }

    fn flow(&mut self, verdict: &VerdictRecord, rule: RuleId, now: Timestamp) -> Output {
        let event = &verdict.event;
        let rule = match reserved_rule(rule) {
            Some(text) => Decided::Reserved(text),
            None => self.policy.rule(rule).map_or(Decided::Nothing, Decided::Rule),
        };
        let policy = self.policy_ref(rule);
        let executable = self.executable(verdict);
        let destination = destination(verdict);
        let count = 1 + u64::from(event.folded);
        self.tally.allowed(event.endpoint, destination.as_ref(), &policy, count);
        Output::Flow(Box::new(Flow {
            time: self.clock.wall(event.header.time),
            id: self.ids.next(now),
            host: self.host.clone(),
            agent: self.agent.clone(),
            kind: FlowKind::Flow,
            action: FlowAction::Allowed,
            process: process(verdict, executable.as_deref()),
            destination,
            policy,
            evidence: Evidence::Verdict(evidence(verdict, None)),
            community_id: community(verdict),
            count,
        }))
    }

    fn refusal(&mut self, verdict: &VerdictRecord, reason: Reason, now: Timestamp) -> Vec<Output> {
        let event = &verdict.event;
        let executable = self.executable(verdict);
        let count = 1 + u64::from(event.folded);
        let mut refusal = Refusal { record: verdict.clone(), reason, executable, various: false };
        let comm = clean(&event.process.comm_text(), MAX_COMM);
        self.tally.refused(verdict, reason, destination(verdict).as_ref(), &comm, count);
        let mut key = Key::Exact {
            reason,
            outcome: verdict.outcome,
            endpoint: event.endpoint,
            detail: event.detail,
            comm: event.process.comm,
            executable: refusal.executable.clone(),
        };
        if !self.fold.contains(&key) && !self.distinct.admit(now) {
            key = Key::Various { reason, outcome: verdict.outcome };
            refusal.various = true;
        }
        let added = self.fold.add(key, refusal, count, now);
        let mut outputs = self.repeats(added.ended, now);
        if let Some(first) = added.first {
            outputs.push(self.alert(&first, count, now));
        }
        outputs
    }

    fn repeats(&mut self, ended: Vec<Repeats<Refusal>>, now: Timestamp) -> Vec<Output> {
        ended.into_iter().map(|repeats| self.alert(&repeats.last, repeats.count, now)).collect()
    }

    fn alert(&mut self, refusal: &Refusal, count: u64, now: Timestamp) -> Output {
        let Refusal { record, reason, executable, various } = refusal;
        let event = &record.event;
        let destination = destination(record);
        let class = Class::of(*reason).at(destination.as_ref().map(|destination| destination.ip));
        let explained =
            destination.as_ref().and_then(|_| self.policy.explain(&event.endpoint, *reason));
        let process = process(record, executable.as_deref());
        let mut evidence = evidence(record, Some(*reason));
        evidence.special = explained.as_ref().and_then(|explained| explained.special.clone());
        evidence.various = *various;
        let text = sentence(&Facts {
            agent: &self.agent,
            policy: self.policy.name(),
            hook: record.hook,
            outcome: record.outcome,
            class: &class,
            process: process.as_ref(),
            destination: destination.as_ref(),
            bytes: event.bytes,
            socket: evidence.socket.as_ref(),
            option: evidence.option.as_ref(),
            explained: explained.as_ref(),
            count,
            various: *various,
        });
        let rule = explained.and_then(|Explained { rule, .. }| rule).map_or(Decided::Nothing, Decided::Rule);
        Output::Alert(Box::new(Alert {
            time: self.clock.wall(event.header.time),
            id: self.ids.next(now),
            host: self.host.clone(),
            agent: self.agent.clone(),
            kind: class.kind,
            severity: class.severity,
            action: class::action(record.outcome, *reason),
            reason: text,
            process,
            destination,
            policy: self.policy_ref(rule),
            evidence: Evidence::Verdict(evidence),
            technique: class::technique(class.technique),
            community_id: community(record),
            count,
        }))
    }

    /// Reports losses that are due; all of them with `all`.
    fn lost(&mut self, now: Timestamp, all: bool) -> Vec<Output> {
        let due = self.losses.due(&self.agent, now, all);
        due.into_iter()
            .map(|loss| {
                let count = loss.evidence.lost;
                let alert =
                    self.own(Kind::VisibilityLost, loss.sentence, Evidence::Loss(loss.evidence), now);
                Output::Alert(Box::new(Alert {
                    severity: loss.cause.severity(),
                    technique: class::technique(loss.cause.technique()),
                    count,
                    ..alert
                }))
            })
            .collect()
    }

    /// An alert about agentnet itself.
    fn own(&mut self, kind: Kind, reason: String, evidence: Evidence, now: Timestamp) -> Alert {
        Alert {
            time: now,
            id: self.ids.next(now),
            host: self.host.clone(),
            agent: self.agent.clone(),
            kind,
            severity: super::model::Severity::Info,
            action: Action::Alerted,
            reason,
            process: None,
            destination: None,
            policy: self.policy_ref(Decided::Nothing),
            evidence,
            technique: None,
            community_id: None,
            count: 1,
        }
    }

    fn policy_ref(&self, decided: Decided) -> PolicyRef {
        let name = self.policy.name().to_owned();
        match decided {
            Decided::Nothing => PolicyRef { name, rule: None, file: None, line: None },
            Decided::Reserved(text) => {
                PolicyRef { name, rule: Some(text.to_owned()), file: None, line: None }
            }
            Decided::Rule(RuleRef { text, file, line }) => {
                PolicyRef { name, rule: Some(text), file: Some(file), line: Some(line) }
            }
        }
    }

    fn executable(&mut self, verdict: &VerdictRecord) -> Option<Arc<str>> {
        let process = &verdict.event.process;
        (process.pid != 0)
            .then(|| self.executables.executable(process.pid, &process.comm_text(), verdict.event.header.time))
            .flatten()
    }
}

/// What decided.
enum Decided {
    Nothing,
    Reserved(&'static str),
    Rule(RuleRef),
}

/// Counts the refusals that are told apart in a window.
#[derive(Default)]
struct Distinct {
    opened: Option<Timestamp>,
    count: u32,
}

impl Distinct {
    /// Whether one more may be told apart.
    fn admit(&mut self, now: Timestamp) -> bool {
        let open = self.opened.is_some_and(|opened| {
            let age: SignedDuration = now.duration_since(opened);
            !age.is_negative() && age < fold::WINDOW
        });
        if !open {
            *self = Self { opened: Some(now), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= DISTINCT_PER_WINDOW
    }
}

fn process(verdict: &VerdictRecord, executable: Option<&str>) -> Option<Process> {
    let process = &verdict.event.process;
    (process.pid != 0).then(|| Process {
        pid: process.pid,
        comm: clean(&process.comm_text(), MAX_COMM),
        exe: executable.map(str::to_owned),
        uid: process.uid,
    })
}

/// The far end; `None` where the hook knows of none.
fn destination(verdict: &VerdictRecord) -> Option<Destination> {
    let endpoint = verdict.event.endpoint;
    let unknown = endpoint.addr == Addr::UNSPECIFIED && endpoint.port == 0;
    (!unknown).then(|| Destination {
        ip: endpoint.addr.into(),
        port: (endpoint.port != 0 && has_ports(endpoint.protocol)).then_some(endpoint.port),
        protocol: protocol_name(endpoint.protocol),
        domain: None,
    })
}

/// Whether the port of an endpoint means something.
const fn has_ports(number: u8) -> bool {
    !matches!(number, protocol::ICMP | protocol::ICMPV6)
}

fn local(verdict: &VerdictRecord) -> Option<SocketAddr> {
    let event = &verdict.event;
    let ip = IpAddr::from(event.local);
    (!ip.is_unspecified()).then(|| SocketAddr::new(ip, event.local_port))
}

fn community(verdict: &VerdictRecord) -> Option<String> {
    let endpoint = verdict.event.endpoint;
    let far = SocketAddr::new(destination(verdict)?.ip, endpoint.port);
    community_id(endpoint.protocol, local(verdict)?, far)
}

fn evidence(verdict: &VerdictRecord, reason: Option<Reason>) -> VerdictEvidence {
    let event = &verdict.event;
    VerdictEvidence {
        hook: verdict.hook.label().into(),
        reason: reason.map(|reason| reason.label().into()),
        direction: match verdict.hook {
            Hook::Ingress => Direction::Ingress,
            Hook::Connect | Hook::Sendmsg | Hook::SockCreate | Hook::Setsockopt | Hook::Egress => Direction::Egress,
        },
        bytes: event.bytes,
        // These hooks run before the first byte for the destination; a packet may follow others.
        bytes_before_block: match verdict.hook {
            Hook::Connect | Hook::Sendmsg | Hook::SockCreate if verdict.outcome == Outcome::Blocked => Some(0),
            _ => None,
        },
        local: local(verdict),
        special: None,
        socket: match (verdict.hook, reason) {
            (Hook::SockCreate, _) if event.detail != 0 => Some(Socket::from_detail(event.detail)),
            _ => None,
        },
        option: (verdict.hook == Hook::Setsockopt).then(|| SocketOption::from_detail(event.detail)),
        socket_cookie: (event.header.flow != 0).then_some(event.header.flow),
        various: false,
    }
}
