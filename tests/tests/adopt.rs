//! A daemon that ends, by its own will or not, and one that takes over.

use std::fs;

use agentnet_tests::lab::{
    Lab,
    agent::Agent,
    daemon::{Daemon, Served},
    expect::{EPERM, Expected, Said},
    found::Found,
    net::Family,
    policy::Policy,
    residue::links_above,
};
use agentnet_tests::probe::talk::Traffic;
use anyhow::{Context as _, Result, ensure};
use rstest::rstest;
use rustix::process::Signal;

/// Restarts under traffic.
const RESTARTS: usize = 4;

fn table(family: Family) -> Expected {
    Expected::new().cases(&["tcp-connect", "udp-sendto"], family.denied_endpoint(), EPERM).cases(
        &["tcp-send", "udp-sendto"],
        family.allowed_endpoint(),
        Said::Ok,
    )
}

fn attach(daemon: &Daemon, found: &Found<'_>, policy: &str) -> Result<()> {
    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", policy]).map(drop)
}

/// Not one forbidden packet, not one allowed connection refused, while daemons die and take over.
#[rstest]
fn restarts_under_traffic_are_not_noticed(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(Signal::KILL, Signal::TERM)] signal: Signal,
) -> Result<()> {
    let Served { lab, mut daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let found = Found::new(&lab)?;
    // Another agent, so that slots and numbers are not one and the same.
    let other = Found::new(&lab)?;
    attach(&daemon, &other, "offline")?;
    attach(&daemon, &found, "lab")?;
    let (allowed, denied) = (family.allowed_endpoint().to_string(), family.denied_endpoint().to_string());
    let traffic =
        found.start(&["traffic", "--allowed", &allowed, "--denied", &denied, "--marker", "FORBIDDEN"])?;
    let links = links_above(&found.path)?;
    for _ in 0..RESTARTS {
        daemon.end(signal)?;
        ensure!(links_above(&found.path)?.len() == links.len(), "links went with the daemon");
        daemon.start()?;
        let status = daemon.status_of(&found.name)?;
        ensure!(
            status["state"] == "enforced" && status["engine"]["notes"] == serde_json::json!([]),
            "{status}"
        );
    }
    let counted: Traffic = traffic.finish()?;
    ensure!(counted.allowed > 100 && counted.denied > 100, "too little traffic to tell: {counted:?}");
    ensure!(counted.failures.is_empty(), "allowed traffic was refused: {counted:?}");
    ensure!(counted.let_through == 0, "denied calls succeeded: {counted:?}");
    lab.ensure_nothing_reached(family.denied())?;
    ensure!(lab.sniffer.carrying(b"FORBIDDEN") == 0);

    let now = links_above(&found.path)?;
    let ids =
        |links: &[agentnet_tests::lab::bpf::CgroupLink]| links.iter().map(|link| link.id).collect::<Vec<_>>();
    ensure!(ids(&now) == ids(&links), "links were replaced instead of moved");
    let moved = now.iter().zip(&links).all(|(now, before)| now.program != before.program);
    ensure!(moved, "a link runs its old program still: {now:?}");
    for agent in [&found, &other] {
        daemon.tell(&["detach", &agent.name])?;
    }
    daemon.ensure_no_agents()
}

/// A command started by `agentnet run` outlives the daemon, and is taken down by the next when it ends.
#[test]
fn a_command_outlives_its_daemon() -> Result<()> {
    let Served { lab, mut daemon } = Served::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let running = agent.hold()?;
    daemon.kill()?;
    running.expect(&table(Family::V4))?;
    daemon.start()?;
    running.expect(&table(Family::V4))?;
    let status = daemon.status_of(&agent.name)?;
    ensure!(status["state"] == "enforced" && status["engine"]["denied"] != 0, "{status}");
    running.finish()?;
    lab.ensure_nothing_reached(Family::V4.denied())?;
    daemon.ensure_no_agents()
}

/// What was refused while no daemon was there is told by the next one, once.
#[test]
fn what_happened_meanwhile_is_told() -> Result<()> {
    let Served { lab, mut daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found, "lab")?;
    daemon.kill()?;
    found.expect(&Expected::new().case("udp-sendto", Family::V4.denied_endpoint(), EPERM))?;
    daemon.start()?;
    let log = daemon.log_of(&found.name)?;
    let denied: Vec<_> = log.iter().filter(|line| line["kind"] == "egress_denied").collect();
    ensure!(denied.len() == 1, "{log:?}");
    ensure!(!log.iter().any(|line| line["kind"] == "visibility_lost"), "{log:?}");
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// A cgroup that went while nobody looked: its agent is cleared, the number is free.
#[test]
fn what_ended_meanwhile_is_cleared() -> Result<()> {
    let Served { lab, mut daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let (gone, stays) = (Found::new(&lab)?, Found::new(&lab)?);
    attach(&daemon, &gone, "lab")?;
    attach(&daemon, &stays, "lab")?;
    daemon.kill()?;
    gone.remove()?;
    daemon.start()?;
    let status = daemon.status()?;
    ensure!(status.len() == 1 && status[0]["agent"] == stays.name, "{status:?}");
    stays.expect(&table(Family::V4))?;
    // While there is no daemon, nobody gives an attached cgroup back.
    daemon.kill()?;
    let alone = daemon.status_of(&stays.name)?;
    ensure!(alone["state"] == "ownerless", "{alone}");
    stays.expect(&table(Family::V4))?;
    daemon.start()?;
    daemon.tell(&["detach", &stays.name])?;
    daemon.ensure_no_agents()
}

/// A policy that has become invalid leaves the old one in force, and everybody is told.
#[rstest]
#[case::broken(Some("version = 1\nname = \"lab\"\nmoed = 1\n"))]
#[case::gone(None)]
fn an_invalid_policy_leaves_the_old_one_in_force(#[case] text: Option<&str>) -> Result<()> {
    let Served { lab, mut daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found, "lab")?;
    daemon.kill()?;
    match text {
        Some(text) => daemon.write_policy("lab", text)?,
        None => fs::remove_file(daemon.directory("policies").join("lab.toml"))?,
    }
    daemon.start()?;
    holds_by_the_old_policy(&lab, &daemon, &found)?;
    // Corrected, it is back to normal without a restart.
    daemon.write_policy("lab", &Policy::closed().text())?;
    daemon.tell(&["reload"])?;
    found.expect(&Expected::new().case("tcp-connect", Family::V4.allowed_endpoint(), EPERM))?;
    let status = daemon.status_of(&found.name)?;
    ensure!(status["state"] == "enforced", "{status}");
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

fn holds_by_the_old_policy(lab: &Lab, daemon: &Daemon, found: &Found<'_>) -> Result<()> {
    let status = daemon.status_of(&found.name)?;
    ensure!(status["state"] == "enforced", "{status}");
    let notes = status["engine"]["notes"].as_array().context("no notes")?;
    ensure!(notes.iter().any(|note| note.to_string().contains("policy")), "{status}");
    let log = daemon.log_of(&found.name)?;
    let told = log.iter().any(|line| line["kind"] == "enforcement" && line["evidence"]["state"] == "kept");
    ensure!(told, "{log:?}");
    found.expect(&table(Family::V4))?;
    lab.ensure_nothing_reached(Family::V4.denied())
}
