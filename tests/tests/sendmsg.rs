//! cgroup/sendmsg4 and sendmsg6.

use std::net::SocketAddr;

use agentnet_tests::lab::{
    Lab,
    agent::{Agent, NOBODY},
    expect::{EPERM, Expected, Said},
    net::{DENIED_PORT, Family},
    policy::Policy,
    residue::Residue,
    server::Transport,
};
use anyhow::Result;
use rstest::rstest;

/// What sends without being connected.
const SENDS: &[&str] = &[
    "udp-sendto",
    "udp-v4-mapped",
    "udp-sendto-connected",
    "udp-sendmsg",
    "udp-sendmmsg",
    "udp-gso",
    "udp-large",
    "udp-reuseport",
    "fork-send",
    "orphan-send",
    "thread-send",
    "exec-send",
    "inherited-send",
    "passed-send",
];

fn table(family: Family) -> Expected {
    let mut expected = Expected::new()
        .cases(SENDS, family.denied_endpoint(), EPERM)
        .cases(SENDS, SocketAddr::from((family.allowed(), DENIED_PORT)), EPERM)
        .cases(SENDS, family.allowed_endpoint(), Said::Ok)
        .case("udp-multicast", family.denied_endpoint(), EPERM);
    if family == Family::V4 {
        expected = expected.case("udp-broadcast", family.denied_endpoint(), EPERM);
    }
    expected
}

#[rstest]
fn a_refused_datagram_is_told_so_at_once(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(None, Some(NOBODY))] user: Option<u32>,
) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?.user(user);
    agent.expect(&table(family))?;
    lab.ensure_nothing_reached(family.denied())?;
    lab.ensure_bytes(family.allowed_endpoint(), Transport::Udp)?;
    Residue::named(&agent.name).ensure_gone()
}

#[rstest]
fn the_kernel_programs_refuse_without_the_launchers_help(
    #[values(Family::V4, Family::V6)] family: Family,
) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let running = agent.hold()?;
    let residue = Residue::of(&agent.name, &running)?;
    running.expect(&table(family).cases(
        &["uring-sendmsg", "uring-socket"],
        family.denied_endpoint(),
        EPERM,
    ))?;
    running.finish()?;
    lab.ensure_nothing_reached(family.denied())?;
    lab.ensure_bytes(family.allowed_endpoint(), Transport::Udp)?;
    residue.ensure_gone()
}
