//! Alerts and flows of what the pipeline has decided to tell.

use agentnet_common::{
    addr::Endpoint,
    user::Cause,
    verdict::{Reason, RuleId},
};
use jiff::Timestamp;

use super::{
    super::{
        class::{self, Class, Remedy},
        explain::{Explained, RuleRef, reserved_rule},
        loss::Loss,
        model::{
            Action, Alert, Evidence, Flow, FlowAction, FlowKind, Kind, Output, PolicyRef, Severity,
            VerdictEvidence,
        },
        sentence::{Facts, sentence},
        verdict::{community, destination, evidence, process},
    },
    Pipeline,
    domain::named,
    key::Told,
};

/// What decided.
pub(super) enum Decided {
    Nothing,
    Reserved(&'static str),
    ByHand(String),
    Rule(RuleRef),
}

impl Pipeline {
    pub(super) fn tell(&mut self, told: &Told, count: u64, now: Timestamp) -> Output {
        match told.record.cause {
            Cause::Rule(rule) => self.flow(told, rule, count, now),
            Cause::Reason(reason) => self.alert(told, reason, count, now),
        }
    }

    fn flow(&mut self, told: &Told, rule: RuleId, count: u64, now: Timestamp) -> Output {
        let Told { record, executable, domain, various } = told;
        let evidence = VerdictEvidence { various: *various, ..evidence(record, None) };
        Output::Flow(Box::new(Flow {
            time: self.clock.wall(record.event.header.time),
            id: self.ids.next(now),
            host: self.host.clone(),
            agent: self.agent.clone(),
            kind: FlowKind::Flow,
            action: FlowAction::Allowed,
            process: process(record, executable.as_deref()),
            destination: named(destination(record), domain.as_deref()),
            policy: self.policy_ref(self.decided(rule, &record.event.endpoint)),
            evidence: Evidence::Verdict(evidence),
            community_id: community(record),
            count,
        }))
    }

    fn alert(&mut self, told: &Told, reason: Reason, count: u64, now: Timestamp) -> Output {
        let Told { record, executable, domain, various } = told;
        let event = &record.event;
        let destination = named(destination(record), domain.as_deref());
        let mut evidence = evidence(record, Some(reason));
        let class = Class::of(reason)
            .about(destination.as_ref().map(|destination| destination.ip), evidence.socket.as_ref());
        let class = match &evidence.unix {
            Some(socket) if class.remedy == Remedy::Door => socket.class(class),
            _ => class,
        };
        let blocked_name = match (reason, &evidence.query) {
            (Reason::NameNotAllowed, Some(query)) => self.policy.refused_name(&query.name),
            _ => None,
        };
        let blocked_host = self.blocked_by_name(reason, domain.as_deref());
        let class = match (&blocked_name, &blocked_host) {
            (Some(_), _) => Class::BLOCKED_NAME,
            (None, Some(_)) => Class::BLOCKED_HOST,
            (None, None) => class,
        };
        // The policy is asked only where a rule of it decides.
        let explained = match (class.remedy, &evidence.query) {
            (Remedy::Rule, Some(query)) => self.policy.explain_name(&query.name),
            (Remedy::Rule, None) if destination.is_some() => self.policy.explain(&event.endpoint, reason),
            _ => None,
        };
        let by_hand =
            blocked_name.or(blocked_host).or_else(|| self.policy.refused_by_hand(&event.endpoint, reason));
        let process = process(record, executable.as_deref());
        evidence.special = explained.as_ref().and_then(|explained| explained.special.clone());
        evidence.various = *various;
        let rule = RuleId(event.rule);
        let opened_by = rule.is_policy_rule().then(|| self.policy.rule(rule)).flatten();
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
            query: evidence.query.as_ref(),
            server_name: evidence.server_name.as_deref(),
            opened_by: opened_by.as_ref(),
            unix: evidence.unix.as_deref(),
            explained: explained.as_ref(),
            by_hand: by_hand.as_deref(),
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

    pub(super) fn loss(&mut self, loss: Loss, now: Timestamp) -> Output {
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
    pub(super) fn own(&mut self, kind: Kind, reason: String, evidence: Evidence, now: Timestamp) -> Alert {
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

    /// What has let `endpoint` through.
    pub(super) fn decided(&self, rule: RuleId, endpoint: &Endpoint) -> Decided {
        let by_hand = (rule == RuleId::GRANT).then(|| self.policy.allowed_by_hand(endpoint)).flatten();
        match (by_hand, reserved_rule(rule)) {
            (Some(text), _) => Decided::ByHand(text),
            (None, Some(text)) => Decided::Reserved(text),
            (None, None) => self.policy.rule(rule).map_or(Decided::Nothing, Decided::Rule),
        }
    }

    pub(super) fn policy_ref(&self, decided: Decided) -> PolicyRef {
        let name = self.policy.name().to_owned();
        match decided {
            Decided::Nothing => PolicyRef { name, rule: None, file: None, line: None },
            Decided::Reserved(text) => {
                PolicyRef { name, rule: Some(text.to_owned()), file: None, line: None }
            }
            Decided::ByHand(text) => PolicyRef { name, rule: Some(text), file: None, line: None },
            Decided::Rule(RuleRef { text, file, line }) => {
                PolicyRef { name, rule: Some(text), file: Some(file), line: Some(line) }
            }
        }
    }
}
