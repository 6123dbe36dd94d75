//! What the tests of alerts share: a policy double, executables without `/proc`, records.

mod by_hand;
mod docs;
mod findings;
mod losses;
mod named;
mod properties;
mod reasons;
mod render;
mod repeats;

use std::{net::IpAddr, sync::Arc};

use agentnet_common::{
    abi::{ABI_VERSION, COMM_BYTES, Process, SUN_PATH},
    addr::{Addr, Endpoint, protocol},
    door::DoorName,
    event::{Header, Hook, Kind, Outcome, VerdictEvent},
    user::{Cause, Record, VerdictRecord},
    verdict::{Reason, RuleId},
};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::{
    clock::Clock,
    explain::{Explain, Explained, RuleRef},
    model::{Alert, Output},
    pipeline::Pipeline,
    render::Renderer,
};
use crate::agent::process::{Executables, Freshness};

/// Stands for a compiled policy with one allow rule (0) and one deny rule, for 203.0.113.66.
pub(super) struct Demo;

impl Explain for Demo {
    fn name(&self) -> &str {
        "demo"
    }

    fn rule(&self, id: RuleId) -> Option<RuleRef> {
        (id == RuleId(0)).then(|| RuleRef {
            text: "10.0.0.0/8 tcp 443".to_owned(),
            file: "policies/demo.toml".to_owned(),
            line: 12,
        })
    }

    fn rule_of_name(&self, name: &str, _endpoint: &Endpoint) -> Option<RuleId> {
        (name == "allowed.example").then_some(RuleId(0))
    }

    fn refused_by_hand(&self, _endpoint: &Endpoint, _reason: Reason) -> Option<String> {
        None
    }

    fn refused_name(&self, name: &str) -> Option<String> {
        (name == "blocked.example").then(|| "a finding of dns_tunnel blocked blocked.example".to_owned())
    }

    fn allowed_by_hand(&self, _endpoint: &Endpoint) -> Option<String> {
        None
    }

    fn explain_name(&self, name: &str) -> Option<Explained> {
        let rule = (name == "denied.example").then(|| RuleRef {
            text: "deny denied.example tcp".to_owned(),
            file: "policies/demo.toml".to_owned(),
            line: 34,
        });
        let suggestion = rule.is_none().then(|| format!("[[egress.allow]]\ndomain = \"{name}\"\n"));
        Some(Explained { rule, near: None, special: None, suggestion })
    }

    fn explain(&self, endpoint: &Endpoint, reason: Reason) -> Option<Explained> {
        let ip = IpAddr::from(endpoint.addr);
        let rule = (ip == IpAddr::from([203, 0, 113, 66])).then(|| RuleRef {
            text: "deny 203.0.113.66/32 tcp".to_owned(),
            file: "policies/demo.toml".to_owned(),
            line: 30,
        });
        let special = (reason == Reason::SpecialNetwork).then(|| "link-local (169.254.0.0/16)".to_owned());
        let possible = rule.is_none() && matches!(reason, Reason::NoRule | Reason::PortOrProtocol);
        let suggestion = possible.then(|| {
            let length = if ip.is_ipv4() { 32 } else { 128 };
            format!("[[egress.allow]]\ncidr = \"{ip}/{length}\"\nports = [{}]\n", endpoint.port)
        });
        let near = (reason == Reason::PortOrProtocol).then(|| self.rule(RuleId(0))).flatten();
        Some(Explained { rule, near, special, suggestion })
    }
}

/// Every process runs `/usr/bin/` and its command name.
pub(super) struct ByName;

impl Executables for ByName {
    fn executable(&mut self, _: u32, comm: &str, _: u64, _: Freshness) -> Option<Arc<str>> {
        Some(Arc::from(super::text::clean(&format!("/usr/bin/{comm}"), 64)))
    }
}

pub(super) fn start() -> Timestamp {
    "2026-11-22T12:04:00Z".parse().unwrap()
}

pub(super) fn pipeline() -> Pipeline {
    Pipeline::new("demo", "host1", Arc::new(Demo), Clock::new(start())).with_sources(Box::new(ByName), 0)
}

/// A TCP connection of `curl` to port 443 that was refused for want of a rule, five seconds after
/// [`start`].
pub(super) fn event(ip: &str) -> VerdictEvent {
    let mut comm = [0; COMM_BYTES];
    comm[..4].copy_from_slice(b"curl");
    VerdictEvent {
        header: Header {
            abi: ABI_VERSION,
            kind: Kind::Verdict as u16,
            len: u32::try_from(size_of::<VerdictEvent>()).unwrap(),
            seq: 0,
            time: 5_000_000_001,
            agent: 1,
            cpu: 0,
            flow: 4242,
        },
        process: Process { pid: 4711, uid: 1000, comm },
        endpoint: Endpoint::new(Addr::from(ip.parse::<IpAddr>().unwrap()), 443, protocol::TCP),
        local: Addr::UNSPECIFIED,
        local_port: 0,
        rule: RuleId::NONE.0,
        reason: Reason::NoRule as u8,
        hook: Hook::Connect as u8,
        outcome: Outcome::Blocked as u8,
        pad: 0,
        bytes: 0,
        detail: 0,
        total: 1,
        sent: 0,
    }
}

/// Decodes `event` as the ring's reader does.
pub(super) fn record(event: VerdictEvent) -> Record {
    let outcome = Outcome::from_code(event.outcome).unwrap();
    let cause = match outcome {
        Outcome::Allowed => Cause::Rule(RuleId(event.rule)),
        Outcome::Blocked | Outcome::Audited => Cause::Reason(Reason::from_code(event.reason).unwrap()),
    };
    let hook = Hook::from_code(event.hook).unwrap();
    let door = (hook == Hook::ConnectUnix).then(|| door("/run/postgresql/.s.PGSQL.5432"));
    Record::Verdict(VerdictRecord { event, hook, outcome, cause, message: None, door, server_name: None })
}

/// A Unix socket of this name.
pub(super) fn door(name: &str) -> Box<DoorName> {
    let mut bytes = [0; SUN_PATH];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Box::new(DoorName { bytes, len: u32::try_from(name.len()).unwrap() })
}

fn now() -> Timestamp {
    later(5)
}

fn later(seconds: i64) -> Timestamp {
    start() + SignedDuration::from_secs(seconds)
}

fn renderer() -> Renderer {
    Renderer::new(false, TimeZone::UTC)
}

fn only_alert(outputs: Vec<Output>) -> Alert {
    match <[Output; 1]>::try_from(outputs) {
        Ok([Output::Alert(alert)]) => *alert,
        other => panic!("one alert expected, not {other:?}"),
    }
}

/// The sentence of an alert and its line.
fn told(alert: Alert) -> String {
    let reason = alert.reason.clone();
    format!("{reason}\n{}", renderer().line(&Output::Alert(Box::new(alert))))
}

fn counts(outputs: &[Output]) -> Vec<u64> {
    outputs
        .iter()
        .map(|output| match output {
            Output::Alert(alert) => alert.count,
            Output::Flow(flow) => flow.count,
        })
        .collect()
}
