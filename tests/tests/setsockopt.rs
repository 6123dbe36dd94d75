//! cgroup/setsockopt.

use agentnet_tests::lab::{
    Lab,
    agent::{Agent, NOBODY},
    expect::{EPERM, Expected, Said},
    net::Family,
    policy::Policy,
    residue::Residue,
    server::Transport,
};
use anyhow::Result;
use rstest::rstest;

/// Options that need no privilege of the kernel and are refused all the same.
fn unprivileged(family: Family) -> Vec<&'static str> {
    match family {
        Family::V4 => vec![
            "opt-zerocopy",
            "opt-tcp-ulp",
            "opt-record-route",
            "opt-freebind",
            "opt-reuseport-program",
            "tcp-zerocopy",
            "udp-zerocopy",
        ],
        Family::V6 => {
            vec![
                "opt-zerocopy",
                "opt-tcp-ulp",
                "opt-freebind",
                "opt-reuseport-program",
                "opt-routing-header",
                "opt-routing-header-allowed",
                "tcp-zerocopy",
            ]
        }
    }
}

/// Options that need privilege besides.
fn privileged(family: Family) -> Vec<&'static str> {
    let mut options = vec!["opt-mark", "opt-tcp-repair", "opt-transparent", "opt-header-included"];
    match family {
        Family::V4 => options.extend(["opt-source-route"]),
        Family::V6 => options.extend(["opt-hop-by-hop", "opt-destination"]),
    }
    options
}

#[rstest]
fn options_that_lead_past_the_hooks_are_refused(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(None, Some(NOBODY))] user: Option<u32>,
) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?.user(user);
    let allowed = family.allowed_endpoint();
    let table = Expected::new()
        .cases(&unprivileged(family), allowed, EPERM)
        .cases(&privileged(family), allowed, EPERM)
        .cases(&["opt-ordinary", "tcp-send", "udp-sendto"], allowed, Said::Ok);
    agent.expect(&table)?;
    lab.ensure_nothing_reached(family.denied())?;
    lab.ensure_bytes(allowed, Transport::Tcp)?;
    Residue::named(&agent.name).ensure_gone()
}

/// With all privilege, it is the program that refuses, not the kernel's own check.
#[rstest]
fn privilege_sets_no_refused_option(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let running = agent.hold()?;
    let residue = Residue::of(&agent.name, &running)?;
    let allowed = family.allowed_endpoint();
    let table = Expected::new()
        .cases(&unprivileged(family), allowed, EPERM)
        .cases(&privileged(family), allowed, EPERM)
        .cases(&["packet-bypass"], family.denied_endpoint(), Said::Refused)
        .cases(&["opt-ordinary", "opt-bind-to-device"], allowed, Said::Ok);
    running.expect(&table)?;
    running.finish()?;
    lab.ensure_bytes(allowed, Transport::Udp)?;
    residue.ensure_gone()
}
