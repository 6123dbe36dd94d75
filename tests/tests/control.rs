//! The lab itself: without agentnet every operation gets through, and the far end sees it. Only then does it
//! mean something that none does with it.

use agentnet_tests::lab::{
    Lab,
    agent::{Agent, NOBODY},
    battery::Battery,
    net::{ALLOWED_PORT, Family},
    policy::Policy,
    residue::Residue,
    server::Transport,
};
use anyhow::{Result, ensure};
use rstest::rstest;

#[rstest]
fn every_operation_gets_through_without_agentnet(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(None, Some(NOBODY))] user: Option<u32>,
) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?.user(user);
    let victim = lab.outsider(user)?;
    let battery = Battery::new(family, user.is_none(), victim.pid());
    let reports = agent.attempt_ungoverned(battery.requests())?;
    lab.fence()?;
    let failures = battery.failures(&lab, &reports);
    ensure!(failures.is_empty(), "did not get through:\n{}", failures.join("\n"));
    ensure!(!battery.leaks(&lab).is_empty(), "the battery sees no leak where everything leaks");
    for transport in [Transport::Tcp, Transport::Udp] {
        let tally = lab.servers.tally((family.denied(), ALLOWED_PORT).into(), transport);
        ensure!(tally.bytes > 0, "the server counted nothing: {tally:?}");
    }
    Residue::named(&agent.name).ensure_gone()
}
