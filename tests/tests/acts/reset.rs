//! `agentnet reset`.

use std::fs;

use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        agent::Agent,
        cgroup,
        daemon::Served,
        expect::{EPERM, Expected, Said},
        found::Found,
        net::Family,
        policy::Policy,
        residue::links_above,
    },
};
use anyhow::{Context as _, Result, ensure};
use rstest::rstest;
use rustix::process::{Pid, Signal, kill_process};

use super::{attach, ensure_arrived, ensure_open};

fn free(family: Family) -> Expected {
    Expected::new().cases(&["tcp-send", "udp-sendto"], family.denied_endpoint(), Said::Ok)
}

/// A host that is locked out by a daemon that is dead: freed, and what was kept back does not leave.
#[rstest]
fn a_locked_out_host_is_freed(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(true, false)] registered: bool,
) -> Result<()> {
    let Served { lab, mut daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let (found, other) = (Found::new(&lab)?, Found::new(&lab)?);
    // A connection whose maker's cgroup is gone is not found, so that its data is queued and refused packet by packet.
    let below = Found::below(&lab, &found.path)?;
    let mut hidden = below.start(&["talk", &family.denied_endpoint().to_string()])?;
    fs::write(found.path.join("cgroup.procs"), hidden.pid().to_string())?;
    below.remove()?;
    attach(&daemon, &found)?;
    attach(&daemon, &other)?;
    daemon.tell(&["block", "203.0.113.0/24"])?;
    let mut talker = found.start(&["talk", &family.allowed_endpoint().to_string()])?;
    ensure_open(&mut talker, 0, "BEFORE")?;
    hidden.say(0, "KEPT-BACK")?;
    ensure_arrived(&lab, &["BEFORE"], &["KEPT-BACK"])?;
    daemon.kill()?;
    found.expect(&Expected::new().case("tcp-connect", family.denied_endpoint(), EPERM))?;
    if !registered {
        fs::remove_dir_all(daemon.directory("run").join("agents"))?;
    }

    let done = daemon.tell(&["reset"])?;
    for agent in [&found, &other] {
        ensure!(done.stdout.contains(&format!("agent {} is not governed any more", agent.name)), "{done:?}");
        ensure!(links_above(&agent.path)?.is_empty(), "links are left");
        agent.expect(&free(family))?;
    }
    ensure!(done.stdout.contains("destroyed first"), "{done:?}");
    ensure!(done.stderr.contains("what was done by hand is forgotten"), "{done:?}");
    ensure_open(&mut talker, 0, "AFTER")?;
    let pending = lab.pending(family.denied())?;
    ensure!(pending.is_empty(), "sockets with refused data are left: {pending:?}");
    ensure_arrived(&lab, &["AFTER"], &["KEPT-BACK"])?;
    ensure!(daemon.pinned_interfaces()?.is_empty());
    daemon.ensure_no_agents()?;
    let status = daemon.tell(&["status"])?;
    ensure!(status.stdout.contains("No agent is governed"), "{status:?}");
    // Whoever is started next begins with nothing.
    daemon.start()?;
    ensure!(daemon.status()?.is_empty(), "{:?}", daemon.status()?);
    attach(&daemon, &found)?;
    found.expect(&Expected::new().case("tcp-connect", family.denied_endpoint(), EPERM))?;
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// What a living engine looks after is not for it to take away, unless that is insisted on.
#[test]
fn a_living_engine_is_not_reset() -> Result<()> {
    let family = Family::V4;
    let Served { lab, mut daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found)?;
    let refused = daemon.ask(&["reset"])?;
    ensure!(refused.status.code() == Some(1) && refused.stderr.contains("agentnet detach"), "{refused:?}");
    found.expect(&Expected::new().case("tcp-connect", family.denied_endpoint(), EPERM))?;
    ensure!(daemon.status_of(&found.name)?["state"] == "enforced");

    let forced = daemon.tell(&["reset", "--force", "--json"])?;
    let line: serde_json::Value = serde_json::from_str(forced.stdout.trim())?;
    ensure!(line["agent"] == found.name && line["free"] == true, "{forced:?}");
    ensure!(forced.stderr.contains("the daemon still runs"), "{forced:?}");
    found.expect(&free(family))?;
    // Its daemon does not call that enforced.
    ensure!(daemon.status_of(&found.name)?["state"] == "not_enforced", "{:?}", daemon.status());
    daemon.kill()?;
    daemon.tell(&["reset"])?;
    daemon.ensure_no_agents()
}

/// An agent of `run` whose engine is dead, beside one whose engine lives.
#[test]
fn commands_without_an_engine_are_freed_and_others_left_alone() -> Result<()> {
    let family = Family::V4;
    let Served { lab, mut daemon } = Served::new()?;
    daemon.kill()?;
    let (dead, alive) = (Agent::new(&lab, &Policy::standard())?, Agent::new(&lab, &Policy::standard())?);
    let (orphan, running) = (dead.hold()?, alive.hold()?);
    let own = i32::try_from(orphan.child.id())?;
    let engine = orphan.supervisors()?.into_iter().find(|pid| *pid != own).context("no engine")?;
    kill_process(Pid::from_raw(engine).context("pid")?, Signal::KILL)?;
    eventually(DEADLINE, "the engine is dead", || match daemon.status_of(&dead.name) {
        Ok(status) if status["state"] == "ownerless" => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    orphan.expect(&Expected::new().case("tcp-connect", family.denied_endpoint(), EPERM))?;
    let done = daemon.tell(&["reset"])?;
    ensure!(done.stdout.contains(&format!("agent {} is not governed", dead.name)), "{done:?}");
    ensure!(done.stdout.contains(&format!("agent {} was left alone", alive.name)), "{done:?}");
    ensure!(done.stdout.contains("its processes go on"), "{done:?}");
    orphan.expect(&free(family))?;
    running.expect(&Expected::new().case("tcp-connect", family.denied_endpoint(), EPERM))?;
    running.finish()?;
    drop(orphan);
    daemon.ensure_no_agents().or_else(|_| {
        // The cgroup of the freed one is nobody's any more, and empties with its command.
        let home = cgroup::mount_point()?.join("agentnet").join(&dead.name);
        eventually(DEADLINE, "the cgroup empties", || {
            fs::remove_dir(&home).map_err(|error| error.to_string())
        })
    })
}
