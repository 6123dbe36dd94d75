//! Findings of detectors as alerts.

use std::net::IpAddr;

use jiff::Timestamp;

use super::{
    community::community_id,
    id::IdSource,
    model::{self, Alert, Destination, Evidence, PolicyRef, Process, Severity},
    sentence,
    text::{MAX_COMM, MAX_PATH, MAX_SENTENCE, clean},
};
use crate::detect::{
    action::Action,
    event::{Event, Time},
    evidence::Thousandths,
    finding::{Finding, Strength},
    registry::row,
};

/// How urgent a finding is, by what it is worth and what was done.
pub const fn severity(strength: Strength, action: Action) -> Severity {
    match (strength, action) {
        (Strength::Hint, _) => Severity::Info,
        (_, Action::Quarantine) => Severity::Critical,
        (Strength::Alert, _) => Severity::Medium,
        (Strength::Block, _) => Severity::High,
    }
}

/// What is known beside the finding and its event.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// Name of the host, or of the capture.
    pub host: &'a str,
    /// Name of the policy.
    pub policy: &'a str,
    /// What the policy wants done.
    pub action: Action,
    /// What came of that.
    pub done: &'a Done,
    /// Who had started the process.
    pub ancestors: &'a [model::Ancestor],
}

/// What came of what the policy wants done about a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was done.
    AsAsked,
    /// It was recorded: nothing was done.
    Replayed,
    /// The policy only audits: nothing was done.
    Audited,
    /// Somebody has taken the same back: nothing was done.
    Spared,
    /// It could not be done, and the agent is in quarantine instead; why.
    Quarantined(String),
    /// It could not be done, nor anything else; why.
    Failed(String),
}

impl Done {
    /// The clause of the alert.
    fn clause(&self, action: Action) -> String {
        let wanted = match action {
            Action::Nothing | Action::Alert => return "nothing was blocked".to_owned(),
            Action::Block => "the destination",
            Action::Quarantine => "the agent",
        };
        let state = if action == Action::Block { "blocked" } else { "in quarantine" };
        match self {
            Self::AsAsked => format!("{wanted} is {state}"),
            Self::Replayed => format!("live, {wanted} would now be {state}"),
            Self::Audited => format!("the policy only audits, else {wanted} would now be {state}"),
            Self::Spared => format!("{wanted} is not {state}, because somebody has taken that back before"),
            Self::Quarantined(why) => {
                format!(
                    "{wanted} cannot be blocked ({}), so the agent is in quarantine",
                    clean(why, MAX_SENTENCE)
                )
            }
            Self::Failed(why) => format!("{wanted} cannot be {state}: {}", clean(why, MAX_SENTENCE)),
        }
    }

    /// What was done, as alerts have it.
    const fn action(&self, action: Action) -> model::Action {
        match (self, action) {
            (_, Action::Nothing | Action::Alert) | (Self::Audited | Self::Spared | Self::Failed(_), _) => {
                model::Action::Alerted
            }
            (Self::AsAsked | Self::Replayed, Action::Block) => model::Action::Blocked,
            (Self::Quarantined(_), _) | (_, Action::Quarantine) => model::Action::Quarantined,
        }
    }
}

/// The alert of a finding.
pub fn alert(finding: Finding, event: &Event<'_>, told: &Told<'_>, ids: &mut IdSource) -> Alert {
    let time = timestamp(event.time);
    let (local, remote) = (event.flow.local, event.flow.remote);
    let has_ports = matches!(event.flow.protocol, 6 | 17 | 132);
    let domain = Some(finding.subject.as_str()).filter(|subject| {
        subject.parse::<IpAddr>().is_err() && subject.contains('.') && !subject.contains(' ')
    });
    let done = told.done.clause(told.action);
    let times = if finding.count > 1 { format!(" ({} times)", finding.count) } else { String::new() };
    let process = event.process.map(|process| Process {
        comm: clean(&process.comm, MAX_COMM),
        exe: process.exe.as_deref().map(|exe| clean(exe, MAX_PATH)),
        ..process.clone()
    });
    let who = match &process {
        Some(process) => sentence::process(process),
        None => format!("agent {}", event.agent.name),
    };
    Alert {
        id: ids.next(time),
        time,
        host: told.host.to_owned(),
        agent: event.agent.name.to_owned(),
        kind: finding.kind,
        severity: match told.done {
            Done::Quarantined(_) | Done::Failed(_) => Severity::Critical,
            _ => severity(finding.strength, told.action),
        },
        action: told.done.action(told.action),
        reason: format!("{who}{times} {}; {done}; {}.", clean(&finding.reason, 1024), finding.advice),
        process,
        destination: Some(Destination {
            ip: remote.ip(),
            port: has_ports.then_some(remote.port()),
            protocol: super::names::protocol_name(event.flow.protocol),
            domain: domain.map(|domain| clean(domain, 255)),
        }),
        policy: PolicyRef { name: told.policy.to_owned(), rule: None, file: None, line: None },
        evidence: Evidence::Detection(Box::new(model::DetectionEvidence {
            score: Thousandths::of(finding.score),
            fused_score: Thousandths::of(finding.fused),
            ancestors: told.ancestors.to_vec(),
            measured: finding.evidence,
        })),
        technique: row(finding.kind)
            .and_then(|row| row.techniques.first())
            .map(|&technique| technique.into()),
        community_id: community_id(event.flow.protocol, local, remote),
        count: finding.count,
    }
}

fn timestamp(time: Time) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(time.0)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Done::AsAsked, Action::Alert, model::Action::Alerted, "nothing was blocked")]
    #[case(Done::AsAsked, Action::Block, model::Action::Blocked, "the destination is blocked")]
    #[case(Done::AsAsked, Action::Quarantine, model::Action::Quarantined, "the agent is in quarantine")]
    #[case(
        Done::Replayed,
        Action::Block,
        model::Action::Blocked,
        "live, the destination would now be blocked"
    )]
    #[case(Done::Audited, Action::Alert, model::Action::Alerted, "nothing was blocked")]
    #[case(
        Done::Audited,
        Action::Quarantine,
        model::Action::Alerted,
        "the policy only audits, else the agent would now be in quarantine"
    )]
    #[case(
        Done::Spared,
        Action::Block,
        model::Action::Alerted,
        "the destination is not blocked, because somebody has taken that back before"
    )]
    #[case(
        Done::Quarantined("full".to_owned()),
        Action::Block,
        model::Action::Quarantined,
        "the destination cannot be blocked (full), so the agent is in quarantine"
    )]
    #[case(
        Done::Failed("gone".to_owned()),
        Action::Quarantine,
        model::Action::Alerted,
        "the agent cannot be in quarantine: gone"
    )]
    fn what_was_done_is_told(
        #[case] done: Done,
        #[case] wanted: Action,
        #[case] action: model::Action,
        #[case] clause: &str,
    ) {
        assert_eq!((done.action(wanted), done.clause(wanted).as_str()), (action, clause));
    }
}
