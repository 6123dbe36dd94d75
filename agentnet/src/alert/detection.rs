//! Findings of detectors as alerts.

use std::net::IpAddr;

use jiff::Timestamp;

use super::{
    community::community_id,
    id::IdSource,
    model::{self, Alert, Destination, Evidence, PolicyRef, Process, Severity},
    sentence,
    text::{MAX_COMM, MAX_PATH, clean},
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
    /// What was done.
    pub action: Action,
    /// It was recorded: nothing was done, and the action is what would have been.
    pub replayed: bool,
}

/// The alert of a finding.
pub fn alert(finding: Finding, event: &Event<'_>, told: &Told<'_>, ids: &mut IdSource) -> Alert {
    let time = timestamp(event.time);
    let (local, remote) = (event.flow.local, event.flow.remote);
    let has_ports = matches!(event.flow.protocol, 6 | 17 | 132);
    let domain = Some(finding.subject.as_str()).filter(|subject| {
        subject.parse::<IpAddr>().is_err() && subject.contains('.') && !subject.contains(' ')
    });
    let done = match (told.action, told.replayed) {
        (Action::Quarantine, false) => "the agent is in quarantine",
        (Action::Block, false) => "the destination is blocked",
        (Action::Alert | Action::Nothing, _) => "nothing was blocked",
        (Action::Quarantine, true) => "live, the agent would now be in quarantine",
        (Action::Block, true) => "live, the destination would now be blocked",
    };
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
        severity: severity(finding.strength, told.action),
        action: match told.action {
            Action::Nothing | Action::Alert => model::Action::Alerted,
            Action::Block => model::Action::Blocked,
            Action::Quarantine => model::Action::Quarantined,
        },
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
