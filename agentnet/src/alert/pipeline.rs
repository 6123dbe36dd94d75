//! From kernel records to alerts and flows.

use std::sync::Arc;

use agentnet_common::{
    abi::{AgentCounters, COMM_BYTES},
    addr::Endpoint,
    event::Outcome,
    user::{Cause, DecodeError, Record, VerdictRecord},
    verdict::{Reason, RuleId},
};
use jiff::{SignedDuration, Timestamp};

use super::{
    class::{self, Class, Enforcement, Remedy},
    clock::Clock,
    explain::{Explain, Explained, RuleRef, reserved_rule},
    fold::{self, Fold, Repeats},
    id::IdSource,
    loss::{self, Loss, Losses},
    model::{
        Action, Alert, EnforcementEvidence, Evidence, Flow, FlowAction, FlowKind, Kind, Output, PolicyRef,
        Severity, VerdictEvidence,
    },
    sentence::{Facts, sentence},
    sequence::{Ring, Sequences},
    summary::{Summary, Tally},
    text::{MAX_COMM, MAX_SENTENCE, clean},
    verdict::{community, destination, evidence, process},
};
use crate::agent::process::{Executables, Freshness, ProcessTable};

/// Refusals, and as many allowed flows, that are told apart in one window of [`fold::WINDOW`]. What is more
/// is folded by its reason or rule alone: an agent that tries a thousand addresses must not wash older
/// alerts out of the log.
pub const DISTINCT_PER_WINDOW: u32 = 100;

/// Turns the records of one agent into alerts and flows. Takes time from its caller.
pub struct Pipeline {
    agent: String,
    host: String,
    policy: Arc<dyn Explain>,
    clock: Clock,
    executables: Box<dyn Executables>,
    ids: IdSource,
    fold: Fold<Key, Told>,
    distinct_flows: Distinct,
    distinct_refusals: Distinct,
    sequences: Sequences,
    losses: Losses,
    tally: Tally,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("agent", &self.agent).finish_non_exhaustive()
    }
}

/// A verdict and who brought it about.
#[derive(Clone)]
struct Told {
    record: VerdictRecord,
    executable: Option<Arc<str>>,
    various: bool,
}

/// What makes two verdicts the same to people.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Exact {
        outcome: Outcome,
        cause: Why,
        endpoint: Endpoint,
        detail: u32,
        comm: [u8; COMM_BYTES],
        executable: Option<Arc<str>>,
    },
    Various {
        outcome: Outcome,
        cause: Why,
    },
}

/// A [`Cause`] as part of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Why {
    Rule(RuleId),
    Reason(Reason),
}

impl From<Cause> for Why {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Rule(rule) => Self::Rule(rule),
            Cause::Reason(reason) => Self::Reason(reason),
        }
    }
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
            distinct_flows: Distinct::default(),
            distinct_refusals: Distinct::default(),
            sequences: Sequences::default(),
            losses: Losses::default(),
            tally: Tally::default(),
        }
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

    /// Replaces the policy after a reload; repeats of before are told in the terms of before.
    pub fn set_policy(&mut self, policy: Arc<dyn Explain>, now: Timestamp) -> Vec<Output> {
        let ended = self.fold.drain();
        let outputs = self.repeats(ended, now);
        self.policy = policy;
        self.tally.forget_rules();
        outputs
    }

    /// Takes a record.
    pub fn on_record(&mut self, record: &Record, now: Timestamp) -> Vec<Output> {
        match record {
            Record::Verdict(verdict) => {
                self.sequences.observe(&verdict.event.header, Ring::of(verdict.outcome));
                self.verdict(verdict, now)
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

    /// Takes note of trouble with the log, of which the log says how often it may be told: `lines` could
    /// not be written, or none were lost and it only cannot be rotated.
    pub fn on_unwritten(&mut self, lines: u64, error: &str, now: Timestamp) -> Vec<Output> {
        let error = clean(error, MAX_SENTENCE);
        let loss = self.losses.log_trouble(&self.agent, lines, error, now);
        vec![self.loss(loss, now)]
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

    fn verdict(&mut self, record: &VerdictRecord, now: Timestamp) -> Vec<Output> {
        let event = &record.event;
        // Each record tells of one; what the kernel did not tell it has counted as suppressed.
        let count = 1;
        let executable = self.executable(record);
        let distinct = match record.cause {
            Cause::Rule(rule) => {
                if !self.tally.allowed_again(event.endpoint, rule, count)
                    && let Some(destination) = destination(record)
                {
                    let policy = self.policy_ref(self.decided(rule));
                    self.tally.allowed(event.endpoint, rule, destination, policy, count);
                }
                &mut self.distinct_flows
            }
            Cause::Reason(reason) => {
                let comm = clean(&event.process.comm_text(), MAX_COMM);
                self.tally.refused(record, reason, &comm, count);
                &mut self.distinct_refusals
            }
        };
        let ended = self.fold.expired(now);
        let (outcome, cause) = (record.outcome, Why::from(record.cause));
        let exact = Key::Exact {
            outcome,
            cause,
            endpoint: event.endpoint,
            detail: event.detail,
            comm: event.process.comm,
            executable: executable.clone(),
        };
        let various = !self.fold.contains(&exact) && !distinct.admit(now);
        let key = if various { Key::Various { outcome, cause } } else { exact };
        let added = self.fold.add(key, Told { record: record.clone(), executable, various }, count, now);
        let mut outputs = self.repeats(ended, now);
        outputs.extend(self.repeats(added.ended, now));
        if let Some(first) = added.first {
            outputs.push(self.tell(&first, count, now));
        }
        outputs
    }

    fn repeats(&mut self, ended: Vec<Repeats<Told>>, now: Timestamp) -> Vec<Output> {
        ended.into_iter().map(|repeats| self.tell(&repeats.last, repeats.count, now)).collect()
    }

    fn tell(&mut self, told: &Told, count: u64, now: Timestamp) -> Output {
        match told.record.cause {
            Cause::Rule(rule) => self.flow(told, rule, count, now),
            Cause::Reason(reason) => self.alert(told, reason, count, now),
        }
    }

    fn flow(&mut self, told: &Told, rule: RuleId, count: u64, now: Timestamp) -> Output {
        let Told { record, executable, various } = told;
        let evidence = VerdictEvidence { various: *various, ..evidence(record, None) };
        Output::Flow(Box::new(Flow {
            time: self.clock.wall(record.event.header.time),
            id: self.ids.next(now),
            host: self.host.clone(),
            agent: self.agent.clone(),
            kind: FlowKind::Flow,
            action: FlowAction::Allowed,
            process: process(record, executable.as_deref()),
            destination: destination(record),
            policy: self.policy_ref(self.decided(rule)),
            evidence: Evidence::Verdict(evidence),
            community_id: community(record),
            count,
        }))
    }

    fn alert(&mut self, told: &Told, reason: Reason, count: u64, now: Timestamp) -> Output {
        let Told { record, executable, various } = told;
        let event = &record.event;
        let destination = destination(record);
        let mut evidence = evidence(record, Some(reason));
        let class = Class::of(reason)
            .about(destination.as_ref().map(|destination| destination.ip), evidence.socket.as_ref());
        // The policy is asked only where a rule of it decides.
        let explained = (class.remedy == Remedy::Rule && destination.is_some())
            .then(|| self.policy.explain(&event.endpoint, reason))
            .flatten();
        let process = process(record, executable.as_deref());
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
            action: class::action(record.outcome, reason),
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
        due.into_iter().map(|loss| self.loss(loss, now)).collect()
    }

    fn loss(&mut self, loss: Loss, now: Timestamp) -> Output {
        let count = loss.evidence.lost.max(1);
        let alert = self.own(Kind::VisibilityLost, loss.sentence, Evidence::Loss(loss.evidence), now);
        Output::Alert(Box::new(Alert {
            severity: loss.cause.severity(),
            technique: class::technique(loss.cause.technique()),
            count,
            ..alert
        }))
    }

    /// An alert about agentnet itself.
    fn own(&mut self, kind: Kind, reason: String, evidence: Evidence, now: Timestamp) -> Alert {
        Alert {
            time: now,
            id: self.ids.next(now),
            host: self.host.clone(),
            agent: self.agent.clone(),
            kind,
            severity: Severity::Info,
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

    fn decided(&self, rule: RuleId) -> Decided {
        match reserved_rule(rule) {
            Some(text) => Decided::Reserved(text),
            None => self.policy.rule(rule).map_or(Decided::Nothing, Decided::Rule),
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

    fn executable(&mut self, record: &VerdictRecord) -> Option<Arc<str>> {
        let process = &record.event.process;
        if process.pid == 0 {
            return None;
        }
        // Refusals are few, the kernel sees to that; allowed flows may come as fast as the agent connects.
        let freshness = match record.cause {
            Cause::Rule(_) => Freshness::Recent,
            Cause::Reason(_) => Freshness::Now,
        };
        self.executables.executable(process.pid, &process.comm_text(), record.event.header.time, freshness)
    }
}

/// What decided.
enum Decided {
    Nothing,
    Reserved(&'static str),
    Rule(RuleRef),
}

/// Counts what is told apart in a window.
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
