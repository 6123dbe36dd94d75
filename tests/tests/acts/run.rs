//! Acts on agents of `agentnet run`, with and without a daemon beside.

use agentnet_tests::lab::{
    agent::Agent,
    daemon::Served,
    expect::{EPERM, Expected, Said},
    found::Found,
    net::Family,
    policy::Policy,
};
use anyhow::{Result, ensure};
use rstest::rstest;

use super::{attach, open};

/// An engine of `run` does what the daemon does, by the same request.
#[rstest]
fn an_engine_of_run_acts_as_the_daemon_does(#[values(true, false)] daemon_governs: bool) -> Result<()> {
    let family = Family::V4;
    let Served { lab, mut daemon } = Served::new()?;
    if !daemon_governs {
        daemon.kill()?;
    }
    let agent = Agent::new(&lab, &Policy::standard())?;
    let running = agent.hold()?;
    let to = family.denied_endpoint().to_string();
    let table = |allowed: Said, denied: Said| {
        Expected::new().case("tcp-connect", family.allowed_endpoint(), allowed).case(
            "tcp-connect",
            family.denied_endpoint(),
            denied,
        )
    };
    running.expect(&table(Said::Ok, EPERM))?;
    daemon.tell(&["allow", "--agent", &agent.name, &to, "--for", "10m"])?;
    running.expect(&table(Said::Ok, Said::Ok))?;
    let status = daemon.status_of(&agent.name)?;
    ensure!(status["engine"]["acts"][0]["act"] == "allow", "{status}");
    daemon.tell(&["block", &family.allowed().to_string(), "--agent", &agent.name])?;
    running.expect(&table(EPERM, Said::Ok))?;
    daemon.tell(&["quarantine", &agent.name])?;
    running.expect(&table(EPERM, EPERM))?;
    daemon.tell(&["release", &agent.name])?;
    daemon.tell(&["unblock", &family.allowed().to_string(), "--agent", &agent.name])?;
    daemon.tell(&["allow", "--agent", &agent.name, &to, "--revoke"])?;
    running.expect(&table(Said::Ok, EPERM))?;
    running.finish()?;
    let log = agent.log()?;
    let did: Vec<_> = log.iter().filter_map(|line| line["evidence"]["did"].as_str()).collect();
    ensure!(did == ["allowed", "blocked", "quarantined", "released", "unblocked", "revoked"], "{did:?}");
    daemon.ensure_no_agents()
}

/// A block for every agent goes to every engine.
#[test]
fn a_block_for_every_agent_reaches_every_engine() -> Result<()> {
    let family = Family::V4;
    let Served { lab, mut daemon } = Served::new()?;
    daemon.kill()?;
    let agent = Agent::new(&lab, &open())?;
    let running = agent.hold()?;
    daemon.start()?;
    daemon.write_policy("lab", &open().text())?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found)?;
    let net = family.denied().to_string();
    let table = |said| Expected::new().case("tcp-send", family.denied_endpoint(), said);
    let done = daemon.tell(&["block", &net, "--json"])?;
    ensure!(done.stdout.lines().count() == 2, "{done:?}");
    running.expect(&table(EPERM))?;
    found.expect(&table(EPERM))?;
    daemon.tell(&["unblock", &net])?;
    running.expect(&table(Said::Ok))?;
    found.expect(&table(Said::Ok))?;
    running.finish()?;
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}
