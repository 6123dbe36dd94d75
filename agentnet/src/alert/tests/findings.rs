//! Findings of detectors that come faster than they are told.

use agentnet_common::abi::Process;

use super::{
    super::{detection::Done, fold::WINDOW, model::Output, pipeline::DISTINCT_PER_WINDOW},
    pipeline, start,
};
use crate::{
    alert::model::Kind,
    detect::{
        action::Action,
        event::Flow,
        evidence::{Evidence, Icmp},
        finding::{Finding, Strength},
    },
};

fn finding(subject: &str) -> Finding {
    Finding {
        kind: Kind::IcmpTunnel,
        detector: "icmp_tunnel",
        strength: Strength::Alert,
        score: 0.5,
        fused: 0.5,
        subject: subject.to_owned(),
        about: subject.as_bytes().into(),
        reason: format!("sent odd echoes to {subject}"),
        advice: "look at them",
        evidence: Evidence::Icmp(Icmp {
            signs: Vec::new(),
            messages: 1,
            payload_bytes: 2,
            window_seconds: 60,
        }),
        count: 1,
    }
}

const FLOW: Flow = Flow {
    id: 7,
    protocol: 1,
    local: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 0),
    remote: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7)), 0),
};

fn counts(outputs: &[Output]) -> Vec<u64> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Alert(alert) if alert.kind == Kind::IcmpTunnel => Some(alert.count),
            _ => None,
        })
        .collect()
}

#[test]
fn what_is_too_much_is_told_together_and_what_was_done_always() {
    const MORE: u64 = 50;
    let mut pipeline = pipeline();
    let mut told = Vec::new();
    for number in 0..u64::from(DISTINCT_PER_WINDOW) + MORE {
        let about = finding(&format!("peer-{number}.example"));
        told.extend(pipeline.on_finding(
            about,
            0,
            &Process::default(),
            FLOW,
            (Action::Alert, &Done::AsAsked),
            start(),
        ));
    }
    assert_eq!(counts(&told).len(), usize::try_from(DISTINCT_PER_WINDOW).unwrap());
    let done = pipeline.on_finding(
        finding("last.example"),
        0,
        &Process::default(),
        FLOW,
        (Action::Block, &Done::AsAsked),
        start(),
    );
    assert_eq!(counts(&done), [1]);
    assert!(counts(&pipeline.tick(start())).is_empty(), "the window is open");
    let rest = pipeline.tick(start() + WINDOW);
    assert_eq!(counts(&rest), [MORE]);
    let Some(Output::Alert(alert)) = rest.first() else { panic!("{rest:?}") };
    assert!(alert.reason.starts_with("The last of 50 findings"), "{}", alert.reason);
    assert!(counts(&pipeline.finish(start() + WINDOW).0).is_empty(), "told twice");
}
