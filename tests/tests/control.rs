//! The lab itself: without agentnet every operation gets through, and the sniffer sees it. Only then does it
//! mean something that none does with it.

use agentnet_tests::{
    lab::{
        Lab,
        agent::{Agent, NOBODY},
        net::Family,
        policy::Policy,
        residue::Residue,
        server::{Tally, Transport},
    },
    probe::{self, Args, Needs, Operation, Report, Request, Trace},
    skip,
};
use anyhow::{Context as _, Result, ensure};
use rstest::rstest;

fn request(operation: &Operation, family: Family) -> Request {
    let args = Args {
        to: family.denied_endpoint(),
        via: family.allowed_endpoint(),
        marker: format!("<{}/{family:?}>", operation.name),
        victim: None,
    };
    Request { op: operation.name.to_owned(), args }
}

/// Whether the kernel lacks what the operation is about. Nothing else is skipped.
fn lacking(report: &Report) -> bool {
    let missing = [libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT, libc::ESOCKTNOSUPPORT];
    report.step == "socket" && missing.contains(&report.errno)
}

fn traced(lab: &Lab, operation: &Operation, request: &Request) -> bool {
    let marker = request.args.secret();
    let target = lab.sniffer.to(request.args.to.ip(), 0);
    match operation.trace {
        Trace::Marker => target.iter().any(|packet| packet.holds(marker)),
        Trace::Packet => !target.is_empty(),
        Trace::Elsewhere => lab.sniffer.carrying(marker) > 0,
        Trace::Nothing => !target.iter().any(|packet| packet.holds(marker)),
    }
}

/// Operations whose outcome depends on a second party or on the build of the kernel.
fn may_fail(operation: &Operation) -> bool {
    ["steal-ancestor-socket", "trace-ancestor", "net-namespace-send", "opt-tcp-ulp"].contains(&operation.name)
}

#[rstest]
#[case(Family::V4)]
#[case(Family::V6)]
fn every_operation_gets_through_without_agentnet(#[case] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let victim = lab.outsider(None)?;
    let operations: Vec<_> =
        probe::operations().filter(|operation| operation.knows(family.denied_endpoint())).collect();
    let mut requests: Vec<_> = operations.iter().map(|operation| request(operation, family)).collect();
    for request in &mut requests {
        request.args.victim = Some(victim.pid());
    }
    let reports = agent.attempt_ungoverned(&requests)?;
    lab.fence()?;
    let mut wrong = Vec::new();
    for ((operation, request), report) in operations.iter().zip(&requests).zip(&reports) {
        if lacking(report) {
            skip!(operation.name, "{family:?}: {} by this kernel", report.error);
        } else if !(report.ok || may_fail(operation)) || !traced(&lab, operation, request) {
            wrong.push(format!("{report:?}, on the wire: {}", traced(&lab, operation, request)));
        }
    }
    ensure!(wrong.is_empty(), "did not get through:\n{}", wrong.join("\n"));
    Residue::named(&agent.name).ensure_gone()
}
