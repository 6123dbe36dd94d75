//! Who may act by hand: root, and nobody who is governed.

use std::process::Command;

use agentnet_tests::lab::{
    Lab,
    agent::NOBODY,
    child::{agentnet_binary, finish},
    daemon::{Daemon, READERS, RUNNERS, Served},
    expect::{EPERM, Expected, Said},
    found::Found,
    net::Family,
    policy::Policy,
};
use anyhow::{Result, ensure};
use rstest::rstest;
use serde_json::Value;

use super::{acts, attach};

/// Everything that acts, against the agent `name`.
fn orders(name: &str) -> Vec<Vec<&str>> {
    vec![
        vec!["allow", "--agent", name, "198.18.0.3:7000", "--for", "10m"],
        vec!["allow", "--agent", name, "198.18.0.3:80", "--revoke"],
        vec!["block", "198.18.0.2", "--agent", name],
        vec!["block", "198.18.0.2"],
        vec!["unblock", "203.0.113.7", "--agent", name],
        vec!["unblock", "203.0.113.7"],
        vec!["quarantine", name],
        vec!["release", name],
        vec!["reset"],
        vec!["reset", "--force"],
    ]
}

fn prepared<'hosts>(lab: &'hosts Lab, daemon: &Daemon) -> Result<(Found<'hosts>, Vec<Value>)> {
    // With Unix sockets, or its kernel programs would be all that stands between an agent and the daemon.
    daemon.write_policy("lab", &Policy::standard().unix("any").text())?;
    let found = Found::new(lab)?;
    attach(daemon, &found)?;
    // Something to be taken back.
    daemon.tell(&["block", "203.0.113.7", "--agent", &found.name])?;
    daemon.tell(&["block", "203.0.113.7"])?;
    daemon.tell(&["allow", "--agent", &found.name, "198.18.0.3:80", "--for", "10m"])?;
    let before = acts(daemon, &found.name)?;
    ensure!(before.len() == 3, "{before:?}");
    Ok((found, before))
}

fn ensure_unchanged(daemon: &Daemon, found: &Found<'_>, before: &[Value]) -> Result<()> {
    ensure!(acts(daemon, &found.name)? == before);
    found.expect(&Expected::new().case("tcp-connect", Family::V4.denied_endpoint(), EPERM).case(
        "tcp-send",
        Family::V4.allowed_endpoint(),
        Said::Ok,
    ))
}

#[rstest]
#[case::reader(&[READERS], true)]
#[case::runner(&[RUNNERS], false)]
#[case::stranger(&[], false)]
fn only_root_acts(#[case] groups: &[u32], #[case] reads: bool) -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let (found, before) = prepared(&lab, &daemon)?;
    for args in orders(&found.name) {
        let refused = finish(daemon.command_for(NOBODY, groups, &args)?, None)?;
        ensure!(!refused.status.success() && refused.stderr.contains("only root"), "{args:?}: {refused:?}");
    }
    let status = finish(daemon.command_for(NOBODY, groups, &["status", "--json"])?, None)?;
    ensure!(status.stdout.contains("203.0.113.7") == reads, "{status:?}");
    ensure_unchanged(&daemon, &found, &before)?;
    // The twin: root may.
    for args in orders(&found.name).into_iter().filter(|args| args[0] != "reset" && args[0] != "release") {
        daemon.tell(&args)?;
    }
    daemon.tell(&["release", &found.name])?;
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// Root though it be, and whichever agent it is in.
#[test]
fn a_governed_root_does_not_act() -> Result<()> {
    let Served { lab, mut daemon } = Served::new()?;
    let (found, before) = prepared(&lab, &daemon)?;
    let other = Found::new(&lab)?;
    attach(&daemon, &other)?;
    let below = Found::below(&lab, &other.path)?;
    let inside = |place: &Found<'_>, args: &[&str]| -> Result<()> {
        let mut command = Command::new(agentnet_binary()?);
        command.args(args).env_remove("SUDO_UID");
        place.join(&mut command)?;
        let refused = finish(command, None)?;
        let told = refused.stderr.contains("under a policy");
        ensure!(!refused.status.success() && told, "{args:?}: {refused:?}");
        Ok(())
    };
    for place in [&found, &other, &below] {
        orders(&found.name).iter().try_for_each(|args| inside(place, args))?;
    }
    // Also where there is nobody to be asked.
    daemon.kill()?;
    for place in [&found, &below] {
        inside(place, &["reset"])?;
        inside(place, &["reset", "--force"])?;
    }
    daemon.start()?;
    ensure_unchanged(&daemon, &found, &before)?;
    for agent in [&found, &other] {
        daemon.tell(&["detach", &agent.name])?;
    }
    daemon.ensure_no_agents()
}
