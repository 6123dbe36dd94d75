//! A daemon of which a part has died ends, says which, and leaves every policy in force.

use std::fs;

use agentnet_tests::{
    lab::{
        daemon::Served,
        expect::{EPERM, Expected, Said},
        found::Found,
        net::Family,
        policy::Policy,
        residue::links_above,
    },
    probe::talk::Traffic,
};
use anyhow::{Result, ensure};

#[test]
fn a_daemon_that_nobody_can_ask_ends_and_leaves_policies_in_force() -> Result<()> {
    let Served { lab, mut daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let found = Found::new(&lab)?;
    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", "lab"])?;
    let (allowed, denied) = (Family::V4.allowed_endpoint(), Family::V4.denied_endpoint());
    let (to, never) = (allowed.to_string(), denied.to_string());
    let traffic = found.start(&["traffic", "--allowed", &to, "--denied", &never, "--marker", "FORBIDDEN"])?;
    let links = links_above(&found.path)?.len();

    // As whatever tidies up in /run might.
    fs::remove_file(daemon.socket())?;
    let status = daemon.ended()?;
    let said = daemon.said();
    ensure!(status.code() == Some(1), "{status:?}: {said}");
    let named = "the task of the control socket has ended";
    ensure!(said.contains("the control socket was removed"), "{said}");
    ensure!(said.contains(named) && said.contains("every agent stays under its policy"), "{said}");
    ensure!(!said.contains("panicked"), "{said}");
    ensure!(links_above(&found.path)?.len() == links, "links went with the daemon");
    let alone = daemon.status_of(&found.name)?;
    ensure!(alone["state"] == "ownerless", "{alone}");
    let table = || Expected::new().case("tcp-connect", denied, EPERM).case("tcp-send", allowed, Said::Ok);
    found.expect(&table())?;

    daemon.start()?;
    let again = daemon.status_of(&found.name)?;
    ensure!(again["state"] == "enforced", "{again}");
    found.expect(&table())?;
    let counted: Traffic = traffic.finish()?;
    ensure!(counted.allowed > 0 && counted.denied > 0, "no traffic: {counted:?}");
    ensure!(counted.failures.is_empty() && counted.let_through == 0, "{counted:?}");
    lab.ensure_nothing_reached(denied.ip())?;
    ensure!(lab.sniffer.carrying(b"FORBIDDEN") == 0);
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}
