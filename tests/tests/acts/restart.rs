//! What was done by hand, over the death of the daemon.

use std::fs;

use agentnet_tests::lab::{
    daemon::Served,
    expect::{EPERM, Expected, Said},
    found::Found,
    net::Family,
};
use anyhow::{Result, ensure};
use rstest::rstest;
use serde_json::json;

use super::{acts, attach, open};

/// All of it holds without a daemon and under the next one, who knows who, why and until when.
#[rstest]
fn everything_holds_and_is_known(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let Served { lab, mut daemon } = Served::new()?;
    daemon.write_policy("lab", &open().text())?;
    let (one, other) = (Found::new(&lab)?, Found::new(&lab)?);
    attach(&daemon, &one)?;
    attach(&daemon, &other)?;
    let port = (family.denied(), 80);
    let (net, to) = (family.metadata().to_string(), std::net::SocketAddr::from(port).to_string());
    daemon.tell(&["block", &family.denied().to_string(), "--agent", &other.name, "--reason", "one"])?;
    daemon.tell(&["block", &net, "--for", "1h", "--reason", "two"])?;
    daemon.tell(&["allow", "--agent", &one.name, &to, "--for", "1h", "--reason", "three"])?;
    let table = |agent: &Found<'_>| {
        let metadata = (family.metadata(), family.allowed_endpoint().port());
        let (grant, block) = if agent.name == one.name { (Said::Ok, Said::Ok) } else { (EPERM, EPERM) };
        Expected::new()
            .case("tcp-connect", std::net::SocketAddr::from(metadata), EPERM)
            .case("tcp-connect", std::net::SocketAddr::from(port), grant)
            .case("tcp-send", family.denied_endpoint(), block)
            .case("tcp-send", family.allowed_endpoint(), Said::Ok)
    };
    let hold = || [&one, &other].into_iter().try_for_each(|agent| agent.expect(&table(agent)));
    hold()?;
    let before = [acts(&daemon, &one.name)?, acts(&daemon, &other.name)?];
    ensure!(before.iter().all(|acts| acts.len() == 2), "{before:?}");
    daemon.kill()?;
    hold()?;
    let alone = [acts(&daemon, &one.name)?, acts(&daemon, &other.name)?];
    ensure!(alone == before, "without a daemon: {alone:?}");
    daemon.start()?;
    hold()?;
    let after = [acts(&daemon, &one.name)?, acts(&daemon, &other.name)?];
    ensure!(after == before, "afterwards: {after:?}");
    // It can be taken back as before.
    daemon.tell(&["unblock", &net])?;
    daemon.tell(&["allow", "--agent", &one.name, &to, "--revoke"])?;
    one.expect(&Expected::new().case("tcp-connect", std::net::SocketAddr::from(port), EPERM))?;
    for agent in [&one, &other] {
        daemon.tell(&["detach", &agent.name])?;
    }
    daemon.ensure_no_agents()
}

/// When nobody knows any more what was done, what it closed stays closed, and what it opened does not stay open.
#[rstest]
#[case::lost(None)]
#[case::broken(Some("{"))]
fn what_is_not_known_any_more_stays_closed(#[case] text: Option<&str>) -> Result<()> {
    let family = Family::V4;
    let Served { lab, mut daemon } = Served::new()?;
    daemon.write_policy("lab", &open().text())?;
    let (one, other) = (Found::new(&lab)?, Found::new(&lab)?);
    attach(&daemon, &one)?;
    attach(&daemon, &other)?;
    let place = std::net::SocketAddr::from((family.denied(), 80));
    daemon.tell(&["block", &family.metadata().to_string(), "--agent", &one.name])?;
    daemon.tell(&["allow", "--agent", &one.name, &place.to_string(), "--for", "1h"])?;
    daemon.tell(&["quarantine", &other.name])?;
    daemon.kill()?;
    let file = daemon.directory("state").join("acts.json");
    ensure!(fs::metadata(&file)?.len() > 0);
    match text {
        Some(text) => fs::write(&file, text)?,
        None => fs::remove_file(&file)?,
    }
    daemon.start()?;
    let metadata = std::net::SocketAddr::from((family.metadata(), family.allowed_endpoint().port()));
    one.expect(
        &Expected::new().case("tcp-connect", metadata, EPERM).case("tcp-connect", place, EPERM).case(
            "tcp-send",
            family.allowed_endpoint(),
            Said::Ok,
        ),
    )?;
    other.expect(&Expected::new().case("tcp-connect", family.allowed_endpoint(), EPERM))?;
    let (own, others) = (acts(&daemon, &one.name)?, acts(&daemon, &other.name)?);
    ensure!(own.len() == 1 && own[0]["act"] == "block" && own[0]["by"] == json!(null), "{own:?}");
    ensure!(others.len() == 1 && others[0]["act"] == "quarantine", "{others:?}");
    if text.is_some() {
        let shown = daemon.tell(&["status"])?.stdout;
        ensure!(shown.contains("cannot be read"), "{shown}");
    }
    daemon.tell(&["unblock", &family.metadata().to_string(), "--agent", &one.name])?;
    daemon.tell(&["release", &other.name])?;
    for agent in [&one, &other] {
        agent.expect(&Expected::new().case("tcp-send", metadata, Said::Ok))?;
        daemon.tell(&["detach", &agent.name])?;
    }
    daemon.ensure_no_agents()
}

/// The number of an agent that has ended is another's later, to which nothing was done.
#[test]
fn the_next_agent_of_a_number_begins_without_acts() -> Result<()> {
    let family = Family::V4;
    let Served { lab, daemon } = Served::new()?;
    daemon.write_policy("lab", &open().text())?;
    for _ in 0..2 {
        let found = Found::new(&lab)?;
        attach(&daemon, &found)?;
        let place = std::net::SocketAddr::from((family.denied(), 80));
        found.expect(&Expected::new().case("tcp-send", family.denied_endpoint(), Said::Ok).case(
            "tcp-connect",
            place,
            EPERM,
        ))?;
        daemon.tell(&["block", "198.18.0.0/24", "--agent", &found.name])?;
        daemon.tell(&["quarantine", &found.name])?;
        let local = std::net::SocketAddr::from((family.metadata(), 80)).to_string();
        daemon.tell(&["allow", "--agent", &found.name, &local, "--for", "1h"])?;
        daemon.tell(&["detach", &found.name])?;
        daemon.ensure_no_agents()?;
    }
    let status = daemon.tell(&["status"])?;
    ensure!(status.stdout.contains("No agent is governed"), "{status:?}");
    Ok(())
}
