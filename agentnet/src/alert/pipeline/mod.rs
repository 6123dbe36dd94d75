//! From kernel records to alerts and flows.

use std::sync::Arc;

use agentnet_common::{
    abi::{AgentCounters, Process},
    event::{Outcome, VerdictEvent},
    user::{Cause, DecodeError, Record, VerdictRecord},
};
use jiff::Timestamp;

use super::{
    by_hand::Change,
    class::Enforcement,
    clock::Clock,
    detection::{self, Done},
    door::UnixSocket,
    explain::Explain,
    fold::{self, Fold, Repeats},
    id::IdSource,
    loss::{self, Losses},
    model::{self, ActEvidence, Alert, EnforcementEvidence, Evidence, Kind, Output},
    query,
    resolved::{Nameless, Names},
    sequence::{Ring, Sequences},
    series::SeriesTold,
    summary::{Summary, Tally},
    text::{MAX_COMM, MAX_SENTENCE, clean},
    verdict::{destination, who},
};
use crate::{
    agent::process::{Executables, Freshness, ProcessTable},
    detect::{
        action::Action,
        event::{self, Body, Event, Flow, Lineage, Time},
        finding::Finding,
    },
};

mod domain;
mod ended;
mod key;
mod tell;

use domain::named;
pub use key::DISTINCT_PER_WINDOW;
use key::{Distinct, Key, Told, Why};

/// Turns the records of one agent into alerts and flows. Takes time from its caller.
pub struct Pipeline {
    agent: String,
    host: String,
    policy: Arc<dyn Explain>,
    clock: Clock,
    executables: Box<dyn Executables>,
    names: Box<dyn Names>,
    ids: IdSource,
    fold: Fold<Key, Told>,
    ends: Fold<ended::Key, ended::Ended>,
    distinct_flows: Distinct,
    distinct_refusals: Distinct,
    distinct_ends: Distinct,
    sequences: Sequences,
    series: SeriesTold,
    losses: Losses,
    tally: Tally,
    findings: Distinct,
    /// Findings that are too many to be told one by one: the last of each kind, with how many there were.
    more_findings: Vec<Alert>,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("agent", &self.agent).finish_non_exhaustive()
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
            names: Box::new(Nameless),
            ids: IdSource::default(),
            fold: Fold::new(fold::WINDOW, fold::CAPACITY),
            ends: Fold::new(fold::WINDOW, fold::CAPACITY),
            distinct_flows: Distinct::default(),
            distinct_refusals: Distinct::default(),
            distinct_ends: Distinct::default(),
            sequences: Sequences::default(),
            series: SeriesTold::default(),
            losses: Losses::default(),
            tally: Tally::default(),
            findings: Distinct::default(),
            more_findings: Vec::new(),
        }
    }

    /// For an agent that another engine has watched until now: what `counters` say was lost then has been
    /// reported, and numbering goes on where it is.
    #[must_use]
    pub fn resumed(mut self, counters: &AgentCounters) -> Self {
        self.losses.baseline(counters);
        self.sequences = Sequences::resumed();
        self.series = SeriesTold::resumed();
        self
    }

    /// Gives addresses their names.
    pub fn set_names(&mut self, names: Box<dyn Names>) {
        self.names = names;
    }

    /// From now on other programs number the records, from whatever number.
    pub fn renumber(&mut self) {
        self.losses.missing(self.sequences.missing());
        self.sequences = Sequences::resumed();
        self.series = SeriesTold::resumed();
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
        let mut outputs = self.repeats(ended, now);
        let ended = self.ends.drain();
        outputs.extend(self.ended_repeats(ended, now));
        self.policy = policy;
        self.tally.forget_rules();
        outputs
    }

    /// Takes a record.
    pub fn on_record(&mut self, record: &Record, now: Timestamp) -> Vec<Output> {
        match record {
            Record::Verdict(verdict) => {
                self.sequences.observe(&verdict.event.header, Ring::of(verdict.outcome));
                // Each refusal has a record; what the kernel did not tell of it has counted as suppressed.
                let count = match verdict.outcome {
                    Outcome::Allowed => self.series.news(&verdict.event),
                    Outcome::Blocked | Outcome::Audited => 1,
                };
                if count == 0 { Vec::new() } else { self.verdict(verdict, count, now) }
            }
            Record::FlowEnd(end) => {
                self.sequences.observe(&end.header, Ring::Samples);
                self.ended(end, now)
            }
            // What it means is not the pipeline's to say.
            Record::Sample(sample) => {
                self.sequences.observe(&sample.head.header, Ring::Samples);
                Vec::new()
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

    /// Takes all series of allowed flows that the kernel follows, read after the rings were drained.
    pub fn on_series(&mut self, series: &[VerdictEvent], now: Timestamp) -> Vec<Output> {
        let mut outputs = Vec::new();
        for (event, count) in self.series.look(series) {
            match VerdictRecord::check(*event) {
                Ok(record) => outputs.extend(self.verdict(&record, count, now)),
                // Read while it was written.
                Err(error) => tracing::debug!(%error, "a series that cannot be read"),
            }
        }
        outputs
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

    /// Takes note of something that was done by hand, or has ended.
    pub fn on_act(&mut self, change: &Change<'_>, now: Timestamp) -> Vec<Output> {
        let reason = change.sentence(&self.agent, self.policy.name());
        let evidence = Evidence::Act(Box::new(ActEvidence {
            did: change.label().into(),
            act: change.act.clone(),
            by: change.by.cloned(),
            why: change.why.map(|why| clean(why, MAX_SENTENCE)),
        }));
        let alert = self.own(Kind::Act, reason, evidence, now);
        vec![Output::Alert(Box::new(Alert { severity: change.severity(), ..alert }))]
    }

    /// Takes note of what a detector found in a flow, about which `action` was wanted and this was `done`. `time` is
    /// of `CLOCK_MONOTONIC`, nanoseconds.
    pub fn on_finding(
        &mut self,
        finding: Finding,
        time: u64,
        process: &Process,
        flow: Flow,
        (action, done): (Action, &Done),
        now: Timestamp,
    ) -> Vec<Output> {
        let executable = (process.pid != 0)
            .then(|| self.executables.executable(process.pid, &process.comm_text(), time, Freshness::Now))
            .flatten();
        let ancestors = self.executables.ancestors(process.pid, time);
        let process = who(process, executable.as_deref());
        let wall = self.clock.wall(time);
        let event = Event {
            time: Time(u64::try_from(wall.as_nanosecond()).unwrap_or_default()),
            agent: event::Agent { id: 0, name: &self.agent },
            process: process.as_ref(),
            lineage: Lineage::default(),
            flow,
            body: Body::Start,
        };
        let told = detection::Told {
            host: &self.host,
            policy: self.policy.name(),
            action,
            done,
            ancestors: &ancestors,
        };
        let mut alert = detection::alert(finding, &event, &told, &mut self.ids);
        if let Some(destination) = &mut alert.destination
            && destination.domain.is_none()
        {
            destination.domain = self.name_of(destination.ip).map(|name| name.to_string());
        }
        // What was done is told each time, and its number is bounded by what can be done.
        if alert.action != model::Action::Alerted || self.findings.admit(now) {
            return vec![Output::Alert(Box::new(alert))];
        }
        match self.more_findings.iter_mut().find(|more| more.kind == alert.kind) {
            Some(more) => {
                let count = more.count.saturating_add(alert.count);
                *more = Alert { count, ..alert };
            }
            None => self.more_findings.push(alert),
        }
        Vec::new()
    }

    /// Findings that were not told one by one, at the end of their window; all of them with `all`.
    fn rest_of_findings(&mut self, now: Timestamp, all: bool) -> impl Iterator<Item = Output> + use<> {
        let due = all || self.findings.is_over(now);
        let more = if due { std::mem::take(&mut self.more_findings) } else { Vec::new() };
        more.into_iter().map(|alert| {
            let reason = match alert.count {
                0 | 1 => alert.reason,
                count => {
                    format!("The last of {count} findings that are not told one by one: {}", alert.reason)
                }
            };
            Output::Alert(Box::new(Alert { reason, ..alert }))
        })
    }

    /// Gives what has become due; to be called about once a second.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Output> {
        let ended = self.fold.expired(now);
        let mut outputs = self.repeats(ended, now);
        let ended = self.ends.expired(now);
        outputs.extend(self.ended_repeats(ended, now));
        outputs.extend(self.rest_of_findings(now, false));
        outputs.extend(self.lost(now, false));
        outputs
    }

    /// Gives all that is left, and what there was altogether.
    pub fn finish(mut self, now: Timestamp) -> (Vec<Output>, Summary) {
        let ended = self.fold.drain();
        let mut outputs = self.repeats(ended, now);
        let ended = self.ends.drain();
        outputs.extend(self.ended_repeats(ended, now));
        outputs.extend(self.rest_of_findings(now, true));
        self.losses.missing(self.sequences.missing());
        outputs.extend(self.lost(now, true));
        let policy = Arc::clone(&self.policy);
        let summary = self.tally.finish(&self.agent, policy.as_ref(), &self.losses);
        (outputs, summary)
    }

    fn verdict(&mut self, record: &VerdictRecord, count: u64, now: Timestamp) -> Vec<Output> {
        let event = &record.event;
        let executable = self.executable(record);
        let query = record.message.as_deref().and_then(|message| query::read(message));
        let domain = self.domain(record);
        let distinct = match record.cause {
            Cause::Rule(rule) => {
                if !self.tally.allowed_again(event.endpoint, rule, count)
                    && let Some(destination) = named(destination(record), domain.as_deref())
                {
                    let policy = self.policy_ref(self.decided(rule, &event.endpoint));
                    self.tally.allowed(event.endpoint, rule, destination, policy, count);
                }
                &mut self.distinct_flows
            }
            Cause::Reason(reason) => {
                let comm = clean(&event.process.comm_text(), MAX_COMM);
                self.tally.refused(record, reason, query.as_ref(), &comm, count);
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
            query,
            server_name: record.server_name.clone(),
            unix: UnixSocket::of(record),
            comm: event.process.comm,
            executable: executable.clone(),
        };
        let various = !self.fold.contains(&exact) && !distinct.admit(now);
        let key = if various { Key::Various { outcome, cause } } else { exact };
        let added =
            self.fold.add(key, Told { record: record.clone(), executable, domain, various }, count, now);
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

    /// Reports losses that are due; all of them with `all`.
    fn lost(&mut self, now: Timestamp, all: bool) -> Vec<Output> {
        let due = self.losses.due(&self.agent, now, all);
        due.into_iter().map(|loss| self.loss(loss, now)).collect()
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
