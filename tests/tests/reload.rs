//! Policies that change while agents run.

use std::fs;

use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        daemon::{Daemon, Served},
        expect::{EPERM, Expected, Said},
        found::Found,
        net::{ALLOWED_PORT, Family},
        policy::Policy,
    },
    probe::talk::Traffic,
};
use anyhow::{Result, ensure};
use rstest::rstest;
use rustix::process::{Signal, kill_process};

/// How a reload is asked for.
#[derive(Clone, Copy, Debug)]
enum By {
    Command,
    Signal,
    Writing,
}

fn attach(daemon: &Daemon, found: &Found<'_>, policy: &str) -> Result<()> {
    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", policy]).map(drop)
}

fn reload(daemon: &Daemon, by: By, found: &Found<'_>) -> Result<()> {
    let changes = |daemon: &Daemon| -> Result<usize> {
        let log = daemon.log_of(&found.name)?;
        Ok(log.iter().filter(|line| line["evidence"]["state"] == "changed").count())
    };
    let before = changes(daemon)?;
    match by {
        // A change of the file is noticed at some time too, so that there may be nothing left to do.
        By::Command => daemon.tell(&["reload"]).map(drop)?,
        By::Signal => kill_process(daemon.pid()?, Signal::HUP)?,
        By::Writing => {}
    }
    eventually(DEADLINE, "the policy is read anew", || match changes(daemon) {
        Ok(now) if now > before || matches!(by, By::Command) => Ok(()),
        other => Err(format!("{other:?}, {}", daemon.said())),
    })
}

fn both(ports: &[u16]) -> Policy {
    let policy = Policy::standard();
    Family::ALL
        .into_iter()
        .fold(policy, |policy, family| policy.allow(&family.denied().to_string(), ports, &["tcp", "udp"]))
}

/// What is not allowed any more ends at once; what is allowed does not notice.
#[rstest]
fn connections_that_became_forbidden_end(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(By::Command, By::Signal, By::Writing)] by: By,
) -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    daemon.write_policy("lab", &both(&[ALLOWED_PORT]).text())?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found, "lab")?;
    let (kept, lost) = (family.allowed_endpoint(), family.denied_endpoint());
    let mut talker = found.start(&["talk", &kept.to_string(), &lost.to_string()])?;
    ensure!(talker.say(0, "BEFORE")?.errno == 0 && talker.say(1, "BEFORE")?.errno == 0);

    daemon.write_policy("lab", &Policy::standard().text())?;
    reload(&daemon, by, &found)?;
    ensure!(talker.say(0, "AFTER-ALLOWED")?.errno == 0, "an allowed connection noticed");
    let said = eventually(DEADLINE, "the connection is closed", || match talker.say(1, "AFTER-DENIED") {
        Ok(said) if said.errno != 0 || said.broken => Ok(said),
        other => Err(format!("{other:?}")),
    })?;
    ensure!(said.errno != 0 || said.broken, "{said:?}");
    found.expect(&Expected::new().case("tcp-connect", lost, EPERM).case("tcp-send", kept, Said::Ok))?;
    lab.fence()?;
    ensure!(lab.sniffer.carrying(b"AFTER-DENIED") == 0, "bytes left after the reload");
    ensure!(lab.sniffer.carrying(b"AFTER-ALLOWED") > 0 && lab.sniffer.carrying(b"BEFORE") > 0);
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// Policies change under traffic: what both allow never fails, what neither does never leaves.
#[test]
fn reloads_under_traffic_are_not_noticed() -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found, "lab")?;
    let family = Family::V4;
    let (allowed, denied) = (family.allowed_endpoint().to_string(), family.denied_endpoint().to_string());
    let traffic =
        found.start(&["traffic", "--allowed", &allowed, "--denied", &denied, "--marker", "FORBIDDEN"])?;
    for round in 0..20_u16 {
        daemon.write_policy("lab", &both(&[ALLOWED_PORT + 100 + round]).text())?;
        daemon.tell(&["reload"])?;
    }
    let counted: Traffic = traffic.finish()?;
    ensure!(counted.allowed > 100 && counted.denied > 100, "too little traffic to tell: {counted:?}");
    ensure!(counted.failures.is_empty() && counted.let_through == 0, "{counted:?}");
    lab.ensure_nothing_reached(family.denied())?;
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// An invalid policy changes nothing and is told; agents of other policies get theirs.
#[test]
fn an_invalid_policy_changes_nothing() -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let text = Policy::standard().text();
    daemon.write_policy("one", &text)?;
    daemon.write_policy("two", &text)?;
    let (one, two) = (Found::new(&lab)?, Found::new(&lab)?);
    attach(&daemon, &one, "one")?;
    attach(&daemon, &two, "two")?;
    fs::write(daemon.directory("policies").join("one.toml"), "version = 1\nname = \"one\"\nmoed = 1\n")?;
    fs::write(daemon.directory("policies").join("two.toml"), Policy::closed().text())?;
    let reloaded = daemon.ask(&["reload"])?;
    ensure!(reloaded.status.code() == Some(1), "{reloaded:?}");
    ensure!(reloaded.stderr.contains("one.toml:3:") && reloaded.stderr.contains("moed"), "{reloaded:?}");
    let to = Family::V4.allowed_endpoint();
    one.expect(&Expected::new().case("tcp-send", to, Said::Ok))?;
    two.expect(&Expected::new().case("tcp-connect", to, EPERM))?;
    let status = daemon.status_of(&one.name)?;
    ensure!(
        status["state"] == "enforced" && status["engine"]["notes"].to_string().contains("moed"),
        "{status}"
    );
    let log = daemon.log_of(&one.name)?;
    ensure!(log.iter().any(|line| line["evidence"]["state"] == "kept"), "{log:?}");
    for agent in [&one, &two] {
        daemon.tell(&["detach", &agent.name])?;
    }
    daemon.ensure_no_agents()
}

/// What a policy extends is read anew with it, and alerts name the rule there.
#[test]
fn a_policy_changes_with_what_it_extends() -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    daemon.write_policy("base", &Policy::standard().text())?;
    daemon.write_policy("child", "version = 1\nname = \"child\"\nextends = \"base\"\n")?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found, "child")?;
    let (family, to) = (Family::V4, Family::V4.allowed_endpoint());
    found.expect(&Expected::new().case("tcp-send", to, Said::Ok))?;
    daemon.write_policy("base", &Policy::standard().deny(&family.allowed().to_string()).text())?;
    reload(&daemon, By::Writing, &found)?;
    let other = Family::V6.allowed_endpoint();
    found.expect(&Expected::new().case("tcp-connect", to, EPERM).case("tcp-send", other, Said::Ok))?;
    let file = daemon.directory("policies").join("base.toml");
    // Where the daemon has it.
    let seen = "/etc/agentnet/policies/base.toml";
    eventually(DEADLINE, "the alert names the rule of the base", || {
        let log = daemon.log_of(&found.name).map_err(|error| error.to_string())?;
        let named = |line: &serde_json::Value| line["policy"]["file"] == seen;
        let blocked = log.iter().filter(|line| line["action"] == "blocked");
        if blocked.clone().any(named) { Ok(()) } else { Err(format!("{:?}", blocked.collect::<Vec<_>>())) }
    })?;
    fs::write(&file, "version = 1\nname = \"base\"\nmoed = 1\n")?;
    let reloaded = daemon.ask(&["reload"])?;
    ensure!(reloaded.status.code() == Some(1) && reloaded.stderr.contains("base.toml:3:"), "{reloaded:?}");
    found.expect(&Expected::new().case("tcp-connect", to, EPERM).case("tcp-send", other, Said::Ok))?;
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}
