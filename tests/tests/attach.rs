//! `agentnet attach` and `agentnet detach`: cgroups that are there already, with what lives in them.

use std::fs;

use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        cgroup,
        daemon::Served,
        expect::{EPERM, Expected, Said},
        found::Found,
        net::{ALLOWED_PORT, Family},
        policy::Policy,
        residue::links_above,
        server::Transport,
    },
    probe::talk::Traffic,
};
use anyhow::{Context as _, Result, ensure};
use rstest::rstest;

/// A policy file of a user's.
fn written(policy: &Policy) -> Result<(tempfile::TempDir, String)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("policy.toml");
    fs::write(&path, policy.text())?;
    let text = path.to_str().context("path")?.to_owned();
    Ok((dir, text))
}

fn table(family: Family) -> Expected {
    Expected::new().cases(&["tcp-connect", "udp-sendto"], family.denied_endpoint(), EPERM).cases(
        &["tcp-send", "udp-sendto"],
        family.allowed_endpoint(),
        Said::Ok,
    )
}

#[rstest]
fn a_cgroup_with_a_running_process_is_governed_and_let_go(
    #[values(Family::V4, Family::V6)] family: Family,
) -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let (_dir, policy) = written(&Policy::standard())?;
    let found = Found::new(&lab)?;
    let (allowed, denied) = (family.allowed_endpoint(), family.denied_endpoint());
    let (first, second) = (allowed.to_string(), denied.to_string());
    let mut talker = found.start(&["talk", &first, &second])?;
    ensure!(talker.say(0, "early")?.errno == 0 && talker.say(1, "early")?.errno == 0);

    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", &policy])?;
    // What was connected to before: the allowed lives on, the denied is closed.
    ensure!(talker.say(0, "LATE-ALLOWED")?.errno == 0, "an allowed connection was lost");
    let said = talker.say(1, "LATE-DENIED")?;
    ensure!(said.errno != 0 || said.broken, "a connection that the policy does not allow lives on: {said:?}");
    found.expect(&table(family))?;
    let status = daemon.status_of(&found.name)?;
    ensure!(status["state"] == "enforced" && status["engine"]["attached"] == true, "{status}");
    lab.fence()?;
    ensure!(lab.sniffer.carrying(b"LATE-DENIED") == 0, "denied bytes left");
    ensure!(lab.sniffer.carrying(b"LATE-ALLOWED") > 0, "allowed bytes did not");

    daemon.tell(&["detach", &found.name])?;
    ensure!(links_above(&found.path)?.is_empty(), "links are left");
    found.expect(&Expected::new().case("tcp-send", denied, Said::Ok))?;
    ensure!(found.path.exists(), "the cgroup went with the policy");
    daemon.ensure_no_agents()
}

/// What is allowed is not refused for a moment either, while a policy begins.
#[test]
fn what_is_allowed_does_not_notice() -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let (_dir, policy) = written(&Policy::standard())?;
    let found = Found::new(&lab)?;
    let (allowed, denied) =
        (Family::V4.allowed_endpoint().to_string(), Family::V4.denied_endpoint().to_string());
    let traffic =
        found.start(&["traffic", "--allowed", &allowed, "--denied", &denied, "--marker", "FORBIDDEN"])?;
    for _ in 0..8 {
        daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", &policy])?;
        daemon.tell(&["detach", &found.name])?;
    }
    let counted: Traffic = traffic.finish()?;
    ensure!(counted.allowed > 100 && counted.denied > counted.let_through, "too little to tell: {counted:?}");
    ensure!(counted.failures.is_empty(), "allowed traffic was refused: {counted:?}");
    daemon.ensure_no_agents()
}

/// What is refused is held back in queues; it does not leave when nobody refuses it any more.
#[rstest]
fn nothing_that_was_refused_leaves_after_detach(
    #[values(Family::V4, Family::V6)] family: Family,
) -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let (_dir, policy) = written(&Policy::standard())?;
    let found = Found::new(&lab)?;
    let (allowed, denied) = (family.allowed_endpoint().to_string(), family.denied_endpoint().to_string());
    // A connection whose maker's cgroup is gone is not found when its policy begins, and so not closed.
    let below = Found::below(&lab, &found.path)?;
    let mut talker = below.start(&["talk", &allowed, &denied])?;
    fs::write(found.path.join("cgroup.procs"), talker.pid().to_string())?;
    below.remove()?;
    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", &policy])?;
    // The call says nothing: the data is queued, and each of its packets refused.
    ensure!(talker.say(1, "HELD-BACK")?.errno == 0, "the connection was closed");
    ensure!(talker.say(0, "LET-THROUGH")?.errno == 0);
    eventually(DEADLINE, "the refusal is counted", || {
        let status = daemon.status_of(&found.name).map_err(|error| error.to_string())?;
        if status["engine"]["denied"].as_u64() > Some(0) { Ok(()) } else { Err(status.to_string()) }
    })?;
    daemon.tell(&["detach", &found.name])?;
    let pending = lab.pending(family.denied())?;
    ensure!(pending.is_empty(), "sockets with refused data are left: {pending:?}");
    lab.fence()?;
    ensure!(lab.sniffer.carrying(b"HELD-BACK") == 0, "what was refused left after detach");
    ensure!(lab.sniffer.carrying(b"LET-THROUGH") > 0, "the twin did not arrive");
    ensure!(talker.say(0, "AFTERWARDS")?.errno == 0, "the allowed connection was lost");
    daemon.ensure_no_agents()
}

/// A cgroup below is governed as well, one beside is not, and one that is made later is from its first packet on.
#[test]
fn below_is_governed_and_beside_is_not() -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let (_dir, policy) = written(&Policy::standard())?;
    let parent = Found::new(&lab)?;
    let (below, beside) = (Found::below(&lab, &parent.path)?, Found::new(&lab)?);
    daemon.tell(&["attach", "--agent", &parent.name, "--cgroup", parent.arg(), "--policy", &policy])?;
    let later = Found::below(&lab, &below.path)?;
    for governed in [&parent, &below, &later] {
        governed.expect(&table(Family::V4))?;
    }
    lab.ensure_nothing_reached(Family::V4.denied())?;
    beside.expect(&Expected::new().case("tcp-send", Family::V4.denied_endpoint(), Said::Ok))?;
    lab.ensure_bytes(Family::V4.denied_endpoint(), Transport::Tcp)?;

    // An agent inside an agent: what both allow.
    let (_dir, inner) =
        written(&Policy::closed().allow(&Family::V4.denied().to_string(), &[ALLOWED_PORT], &["tcp"]).allow(
            &Family::V4.allowed().to_string(),
            &[ALLOWED_PORT],
            &["tcp"],
        ))?;
    daemon.tell(&["attach", "--agent", &below.name, "--cgroup", below.arg(), "--policy", &inner])?;
    below.expect(
        &Expected::new()
            .case("tcp-connect", Family::V4.denied_endpoint(), EPERM)
            .case("udp-sendto", Family::V4.allowed_endpoint(), EPERM)
            .case("tcp-send", Family::V4.allowed_endpoint(), Said::Ok),
    )?;
    for agent in [&below, &parent] {
        daemon.tell(&["detach", &agent.name])?;
    }
    daemon.ensure_no_agents()
}

/// What cannot be governed, or not twice, is said and changes nothing.
#[test]
fn what_cannot_be_attached_is_told() -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let (_dir, policy) = written(&Policy::standard())?;
    let found = Found::new(&lab)?;
    let mount = cgroup::mount_point()?;
    let top = mount.to_str().context("path")?;
    let absent = format!("{}/no-such-cgroup", found.arg());
    let climbing = format!("{}/../..", found.arg());
    for (place, words) in
        [(top, "whole host"), (&absent, "no cgroup"), (&climbing, "leads upwards"), ("/etc", "no cgroup")]
    {
        let refused =
            daemon.ask(&["attach", "--agent", &found.name, "--cgroup", place, "--policy", &policy])?;
        ensure!(refused.status.code() == Some(1) && refused.stderr.contains(words), "{place}: {refused:?}");
    }
    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", &policy])?;
    let links = links_above(&found.path)?.len();
    for name in [&found.name, "another"] {
        let refused = daemon.ask(&["attach", "--agent", name, "--cgroup", found.arg()])?;
        ensure!(refused.status.code() == Some(1) && !refused.stderr.is_empty(), "{refused:?}");
    }
    ensure!(links_above(&found.path)?.len() == links);
    found.expect(&table(Family::V4))?;
    let unknown = daemon.ask(&["detach", "nobody"])?;
    ensure!(unknown.status.code() == Some(1) && unknown.stderr.contains("nobody"), "{unknown:?}");
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// An attached agent ends with its cgroup, and its name is free again.
#[test]
fn an_agent_ends_with_its_cgroup() -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let (_dir, policy) = written(&Policy::standard())?;
    let found = Found::new(&lab)?;
    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", &policy])?;
    found.remove()?;
    daemon.ensure_no_agents()?;
    let again = Found::new(&lab)?;
    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", again.arg(), "--policy", &policy])?;
    again.expect(&table(Family::V4))?;
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}
