//! `agentnet daemon`: one engine for many agents.

use agentnet::agent::target::Spec;
use agentnet::control::{
    client,
    protocol::{Attach, PolicySource, Request},
};
use agentnet_tests::lab::{
    agent::{Agent, NOBODY},
    child::finish,
    daemon::{RUNNERS, Served},
    expect::{EPERM, Expected, Said},
    found::Found,
    net::Family,
    policy::Policy,
};
use anyhow::{Context as _, Result, ensure};
use rstest::rstest;
use rustix::process::Signal;

fn table(family: Family) -> Expected {
    Expected::new().cases(&["tcp-connect", "udp-sendto"], family.denied_endpoint(), EPERM).cases(
        &["tcp-send", "udp-sendto"],
        family.allowed_endpoint(),
        Said::Ok,
    )
}

#[rstest]
fn a_command_is_governed_by_the_daemon(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let running = agent.hold()?;
    let status = daemon.status_of(&agent.name)?;
    ensure!(status["state"] == "enforced" && status["engine"]["attached"] == false, "{status}");
    ensure!(running.supervisors()?.len() == 1, "an engine was started beside the daemon");
    running.expect(&table(family))?;
    lab.ensure_nothing_reached(family.denied())?;
    let finished = running.finish()?;
    ensure!(finished.status.success() && finished.stderr.contains("refused"), "{finished:?}");
    daemon.ensure_no_agents()
}

/// Several agents on one set of maps, each under its own policy, and what one does is not told of another.
#[test]
fn agents_are_told_apart() -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let (open, closed) = (Agent::new(&lab, &Policy::standard())?, Agent::new(&lab, &Policy::closed())?);
    let (first, second) = (open.hold()?, closed.hold()?);
    let to = Family::V4.allowed_endpoint();
    second.expect(&Expected::new().case("tcp-connect", to, EPERM))?;
    first.expect(&Expected::new().case("tcp-send", to, Said::Ok))?;
    first.finish()?;
    second.expect(&Expected::new().case("tcp-connect", to, EPERM))?;
    second.finish()?;
    daemon.ensure_no_agents()?;
    let denied = |name: &str| -> Result<usize> {
        let log = daemon.log_of(name)?;
        ensure!(log.iter().all(|line| line["agent"] == name), "{name}: {log:?}");
        Ok(log.iter().filter(|line| line["kind"] == "egress_denied").count())
    };
    ensure!(denied(&open.name)? == 0 && denied(&closed.name)? > 0);
    Ok(())
}

/// The number of an agent that has ended is another's later: with counters at zero and no memory.
#[test]
fn numbers_are_used_again_from_zero() -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let to = Family::V4.denied_endpoint();
    for policy in [Policy::closed(), Policy::standard()] {
        let agent = Agent::new(&lab, &policy)?;
        let running = agent.hold()?;
        let before = daemon.status_of(&agent.name)?;
        ensure!(before["engine"]["denied"] == 0, "{before}");
        running.expect(&Expected::new().case("tcp-connect", to, EPERM))?;
        let after = daemon.status_of(&agent.name)?;
        ensure!(after["engine"]["denied"] != 0, "{after}");
        running.finish()?;
        daemon.ensure_no_agents()?;
    }
    Ok(())
}

#[test]
fn a_member_of_the_run_group_needs_no_sudo() -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let policy = agent.policy_file();
    let args = ["run", "--policy", policy.to_str().unwrap_or_default(), "--agent", &agent.name, "--"];
    let command = |groups: &[u32]| -> Result<_> {
        let mut command = daemon.command_for(NOBODY, groups, &args)?;
        // Neither sudo nor doas.
        command.args(["/bin/sh", "-c", "id -u; exit 5"]).env("PATH", "/nowhere");
        finish(command, None)
    };
    let member = command(&[RUNNERS])?;
    ensure!(member.status.code() == Some(5), "{member:?}");
    let stranger = command(&[])?;
    ensure!(stranger.status.code() == Some(125) && stranger.stderr.contains("run_group"), "{stranger:?}");
    ensure!(stranger.stdout.is_empty(), "a stranger's command ran: {stranger:?}");
    daemon.ensure_no_agents()
}

/// As many agents as a big host has, under a policy as long as they get.
#[test]
fn two_hundred_agents_take_little() -> Result<()> {
    const AGENTS: usize = 200;
    let Served { lab, mut daemon } = Served::new()?;
    let rules = (0..2000_u32).fold(Policy::standard(), |policy, number| {
        let [_, _, high, low] = number.to_be_bytes();
        policy.allow(&format!("100.64.{high}.{low}/32"), &[443], &["tcp"])
    });
    daemon.write_policy("long", &rules.text())?;
    let before = daemon.resident_bytes()?;
    let found = (0..AGENTS).map(|_| Found::new(&lab)).collect::<Result<Vec<_>>>()?;
    for found in &found {
        let policy = PolicySource { name: Some("long".to_owned()), file: String::new(), text: String::new() };
        let attach = Attach {
            agent: found.name.parse()?,
            target: Spec::Cgroup(found.path.clone()),
            policy: Some(policy),
            audit: false,
            keep_established: false,
            whole_cgroup: false,
        };
        client::ask(&daemon.socket(), &Request::Attach(attach))?;
    }
    let after = daemon.resident_bytes()?;
    daemon.kill()?;
    let start = std::time::Instant::now();
    daemon.start()?;
    println!("started in {:?}; resident: {before} B alone, {after} B later", start.elapsed());
    let status = daemon.status()?;
    let enforced = status.iter().filter(|row| row["state"] == "enforced").count();
    ensure!(enforced == AGENTS, "{enforced} of {AGENTS} are enforced");
    let again = daemon.resident_bytes()?;
    ensure!(again < 100 << 20 && after < 100 << 20, "{after} bytes, and {again} after a restart");
    let last = found.last().context("none")?;
    last.expect(&table(Family::V4))?;
    lab.ensure_nothing_reached(Family::V4.denied())?;
    drop(found);
    daemon.ensure_no_agents()
}

#[test]
fn there_is_one_daemon_and_it_ends_when_told() -> Result<()> {
    let Served { lab: _lab, mut daemon } = Served::new()?;
    let second = daemon.ask(&["daemon"])?;
    ensure!(second.status.code() == Some(1) && second.stderr.contains("runs already"), "{second:?}");
    let status = daemon.end(Signal::TERM)?;
    ensure!(status.success(), "{status:?}: {}", daemon.said());
    daemon.start()
}
