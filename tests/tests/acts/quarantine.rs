//! `agentnet quarantine` and `agentnet release`.

use std::{fs, net::SocketAddr};

use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        daemon::{Daemon, Served},
        expect::{EPERM, Expected, Said},
        found::{Found, Resident},
        net::{ALLOWED_PORT, Family},
        policy::Policy,
    },
};
use anyhow::{Result, ensure};
use rstest::rstest;

use super::{acts, attach, ensure_arrived, ensure_closed, ensure_open, in_time, last_act, told, until_told};

/// Nothing, to itself neither.
fn nothing(family: Family) -> Expected {
    Expected::new().cases(&["tcp-connect", "tcp-send", "udp-sendto"], family.allowed_endpoint(), EPERM).cases(
        &["own-listener", "own-udp"],
        SocketAddr::from((family.loopback(), 9000)),
        EPERM,
    )
}

fn as_before(family: Family) -> Expected {
    Expected::new().cases(&["tcp-echo", "udp-echo"], family.allowed_endpoint(), Said::Ok).case(
        "tcp-connect",
        family.denied_endpoint(),
        EPERM,
    )
}

/// A talker to the allowed host whose maker's cgroup is gone: no listing of the agent's sockets finds its connection.
fn hidden(lab: &Lab, found: &Found<'_>, family: Family) -> Result<Resident> {
    let below = Found::below(lab, &found.path)?;
    let talker = below.start(&["talk", &family.allowed_endpoint().to_string()])?;
    fs::write(found.path.join("cgroup.procs"), talker.pid().to_string())?;
    below.remove()?;
    Ok(talker)
}

fn until_refused(daemon: &Daemon, agent: &str) -> Result<()> {
    eventually(DEADLINE, "the refusal is counted", || {
        let status = daemon.status_of(agent).map_err(|error| error.to_string())?;
        if status["engine"]["denied"].as_u64() > Some(0) { Ok(()) } else { Err(status.to_string()) }
    })
}

#[rstest]
fn nothing_leaves_until_it_is_released(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let Served { lab, mut daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let (found, twin) = (Found::new(&lab)?, Found::new(&lab)?);
    attach(&daemon, &found)?;
    attach(&daemon, &twin)?;
    let to = family.allowed_endpoint().to_string();
    let mut talker = found.start(&["talk", &to, "--udp", &to])?;
    let mut other = twin.start(&["talk", &to])?;
    let mut hidden = hidden(&lab, &found, family)?;
    ensure_open(&mut talker, 0, "BEFORE-0")?;
    ensure_open(&mut talker, 1, "BEFORE-1")?;
    ensure_open(&mut other, 0, "BEFORE-2")?;
    ensure_open(&mut hidden, 0, "BEFORE-3")?;
    ensure_arrived(&lab, &["BEFORE-0", "BEFORE-1", "BEFORE-2", "BEFORE-3"], &[])?;

    daemon.tell(&["quarantine", &found.name, "--reason", "read a secret"])?;
    ensure_closed(&mut talker, 0, "AFTER-0")?;
    ensure_closed(&mut talker, 1, "AFTER-1")?;
    ensure_open(&mut other, 0, "AFTER-2")?;
    // It is taken, and kept back.
    hidden.say(0, "AFTER-3")?;
    found.expect(&nothing(family))?;
    twin.expect(&as_before(family))?;
    until_refused(&daemon, &found.name)?;
    let status = daemon.status_of(&found.name)?;
    ensure!(status["state"] == "quarantined" && acts(&daemon, &found.name)?.len() == 1, "{status}");
    let shown = daemon.tell(&["status"])?.stdout;
    ensure!(shown.contains("quarantined") && shown.contains("(read a secret)"), "{shown}");
    let line = until_told(&daemon, &found.name, "quarantined")?;
    ensure!(line["severity"] == "medium" && line["reason"].to_string().contains("read a secret"), "{line}");
    let log = daemon.log_of(&found.name)?;
    let refused = log.iter().find(|line| line["action"] == "quarantined");
    ensure!(refused.is_some_and(|line| line["reason"].to_string().contains("by root (uid 0")), "{log:?}");

    // Neither a policy nor a daemon that is read anew ends it.
    daemon.write_policy("lab", &Policy::standard().allow_hosts(&[7100], &["tcp"]).text())?;
    daemon.tell(&["reload"])?;
    found.expect(&nothing(family))?;
    daemon.kill()?;
    let alone = daemon.status_of(&found.name)?;
    ensure!(alone["state"] == "quarantined" && acts(&daemon, &found.name)?.len() == 1, "{alone}");
    found.expect(&nothing(family))?;
    daemon.start()?;
    found.expect(&nothing(family))?;
    ensure!(daemon.status_of(&found.name)?["state"] == "quarantined");

    daemon.tell(&["release", &found.name])?;
    found.expect(&as_before(family))?;
    ensure!(daemon.status_of(&found.name)?["state"] == "enforced");
    ensure!(told(&daemon, &found.name, "released")?.len() == 1);
    let pending = lab.pending(family.allowed())?;
    ensure!(pending.len() <= 1, "more than the twin's connection is left: {pending:?}");
    ensure_arrived(&lab, &["AFTER-2"], &["AFTER-0", "AFTER-1", "AFTER-3"])?;
    let again = daemon.ask(&["release", &found.name])?;
    ensure!(again.status.code() == Some(1) && again.stderr.contains("not in quarantine"), "{again:?}");
    for agent in [&found, &twin] {
        daemon.tell(&["detach", &agent.name])?;
    }
    daemon.ensure_no_agents()
}

/// It ends at its time, and an agent that is let go does not send what was kept back.
#[rstest]
#[case::ends(true)]
#[case::detached(false)]
fn what_was_kept_back_does_not_leave(#[case] ends: bool) -> Result<()> {
    let family = Family::V4;
    let Served { lab, daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found)?;
    let mut hidden = hidden(&lab, &found, family)?;
    ensure_open(&mut hidden, 0, "BEFORE")?;
    let mut keep_back = || {
        hidden.say(0, "KEPT-BACK")?;
        until_refused(&daemon, &found.name)
    };
    let quarantine = ["quarantine", &found.name];
    if ends {
        let order = |length: &str| {
            daemon.tell(&[&quarantine[..], &["--for", length]].concat())?;
            last_act(&daemon, &found.name)
        };
        in_time(order, keep_back)?;
        until_told(&daemon, &found.name, "ended")?;
        found.expect(&as_before(family))?;
        ensure!(daemon.status_of(&found.name)?["state"] == "enforced");
    } else {
        daemon.tell(&quarantine)?;
        keep_back()?;
    }
    daemon.tell(&["detach", &found.name])?;
    let pending = lab.pending(family.allowed())?;
    ensure!(pending.is_empty(), "sockets with refused data are left: {pending:?}");
    found.expect(&Expected::new().case("tcp-send", family.denied_endpoint(), Said::Ok))?;
    ensure_arrived(&lab, &["BEFORE"], &["KEPT-BACK"])?;
    daemon.ensure_no_agents()
}

/// An agent whose policy refuses nothing sends nothing either, and is audited again afterwards.
#[test]
fn an_audited_agent_is_quarantined_as_well() -> Result<()> {
    let family = Family::V4;
    let Served { lab, mut daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::closed().audit().text())?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found)?;
    daemon.tell(&["quarantine", &found.name])?;
    found.expect(&nothing(family))?;
    lab.fence()?;
    ensure!(lab.sniffer.to(family.allowed(), ALLOWED_PORT).is_empty(), "something left");
    daemon.kill()?;
    daemon.start()?;
    found.expect(&nothing(family))?;
    daemon.tell(&["release", &found.name])?;
    found.expect(&Expected::new().case("tcp-echo", family.allowed_endpoint(), Said::Ok))?;
    ensure!(daemon.status_of(&found.name)?["state"] == "audited");
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// What is below is in quarantine with it, whatever it is allowed by itself.
#[test]
fn an_agent_below_is_in_quarantine_too() -> Result<()> {
    let family = Family::V4;
    let Served { lab, daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let outer = Found::new(&lab)?;
    let inner = Found::below(&lab, &outer.path)?;
    attach(&daemon, &outer)?;
    attach(&daemon, &inner)?;
    let mut talker = inner.start(&["talk", &family.allowed_endpoint().to_string()])?;
    ensure_open(&mut talker, 0, "BEFORE")?;
    daemon.tell(&["quarantine", &outer.name])?;
    ensure_closed(&mut talker, 0, "AFTER")?;
    inner.expect(&nothing(family))?;
    ensure_arrived(&lab, &["BEFORE"], &["AFTER"])?;
    daemon.tell(&["release", &outer.name])?;
    inner.expect(&as_before(family))?;
    for agent in [&inner, &outer] {
        daemon.tell(&["detach", &agent.name])?;
    }
    daemon.ensure_no_agents()
}

/// A unit that starts itself again does not come out of quarantine by that.
#[test]
fn what_a_policy_selects_stays_in_quarantine_when_it_begins_again() -> Result<()> {
    let family = Family::V4;
    let Served { lab, mut daemon } = Served::new()?;
    let parent = Found::new(&lab)?;
    let text = format!("{}\n[[agents]]\ncgroup = \"/{}/*\"\n", Policy::standard().text(), parent.name);
    daemon.write_policy("lab", &text)?;
    daemon.tell(&["reload"])?;
    let unit = Found::below(&lab, &parent.path)?;
    let state = |daemon: &Daemon, wanted: &str| {
        eventually(DEADLINE, "it is governed", || match daemon.status_of(&unit.name) {
            Ok(status) if status["state"] == wanted => Ok(()),
            other => Err(format!("{other:?}")),
        })
    };
    state(&daemon, "enforced")?;
    daemon.tell(&["quarantine", &unit.name])?;
    daemon.tell(&["allow", "--agent", &unit.name, &family.denied_endpoint().to_string(), "--for", "10m"])?;
    unit.remove()?;
    daemon.ensure_no_agents()?;
    let waiting = daemon.tell(&["status"])?.stdout;
    ensure!(waiting.contains(&format!("for agent {}", unit.name)), "{waiting}");
    daemon.kill()?;
    daemon.start()?;
    fs::create_dir(&unit.path)?;
    state(&daemon, "quarantined")?;
    unit.expect(&nothing(family))?;
    ensure!(acts(&daemon, &unit.name)?.len() == 1, "a grant outlived its agent");
    ensure!(told(&daemon, &unit.name, "kept")?.len() == 1);
    daemon.tell(&["release", &unit.name])?;
    unit.expect(&as_before(family))?;
    unit.remove()?;
    daemon.ensure_no_agents()
}
