//! `[[agents]]` of policies: what is governed without being asked for, and `attach --pid`.

use std::{fs, path::Path};

use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        daemon::{Daemon, Served},
        expect::{EPERM, Expected, Said},
        found::Found,
        net::{ALLOWED_PORT, Family},
        policy::Policy,
        residue::links_above,
        server::Transport,
    },
};
use anyhow::{Context as _, Result, ensure};
use rstest::rstest;
use serde_json::Value;

fn table(family: Family) -> Expected {
    Expected::new().cases(&["tcp-connect", "udp-sendto"], family.denied_endpoint(), EPERM).cases(
        &["tcp-send", "udp-sendto"],
        family.allowed_endpoint(),
        Said::Ok,
    )
}

/// A policy with a selector, which begins at the top of the hierarchy.
fn selecting(policy: &Policy, selector: &str) -> String {
    format!("{}\n[[agents]]\ncgroup = {selector:?}\n", policy.text())
}

/// The opposite of the standard policy: allows what that denies, and nothing else.
fn opposite() -> Policy {
    Policy::closed().allow(&Family::V4.denied().to_string(), &[ALLOWED_PORT], &["tcp", "udp"])
}

/// The agent that governs `cgroup`.
fn governing(daemon: &Daemon, cgroup: &Path) -> Result<Option<Value>> {
    let place = cgroup.to_str().context("path")?;
    Ok(daemon.status()?.into_iter().find(|row| row["cgroup"] == place))
}

fn governed(daemon: &Daemon, cgroup: &Path) -> Result<Value> {
    let row = eventually(DEADLINE, "the cgroup is governed", || match governing(daemon, cgroup) {
        Ok(Some(row)) if row["state"] == "enforced" => Ok(row),
        other => Err(format!("{other:?}\n{}", daemon.said())),
    })?;
    Ok(row)
}

fn name_of(row: &Value) -> Result<&str> {
    row["agent"].as_str().context("no name")
}

fn states(daemon: &Daemon, agent: &str) -> Result<Vec<String>> {
    let log = daemon.log_of(agent)?;
    Ok(log.iter().filter_map(|line| Some(line["evidence"]["state"].as_str()?.to_owned())).collect())
}

#[rstest]
fn a_cgroup_that_is_made_later_is_governed_and_ends(
    #[values(Family::V4, Family::V6)] family: Family,
) -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let parent = Found::new(&lab)?;
    daemon.write_policy("lab", &selecting(&Policy::standard(), &format!("/{}/*", parent.name)))?;
    daemon.tell(&["reload"])?;
    ensure!(governing(&daemon, &parent.path)?.is_none(), "the parent was not selected");
    let later = Found::below(&lab, &parent.path)?;
    let (allowed, denied) = (family.allowed_endpoint().to_string(), family.denied_endpoint().to_string());
    let mut talker = later.start(&["talk", &allowed])?;
    let row = governed(&daemon, &later.path)?;
    ensure!(name_of(&row)? == later.name, "{row}");
    ensure!(row["engine"]["selector"].as_str().is_some_and(|text| text.contains(&parent.name)), "{row}");
    later.expect(&table(family))?;
    ensure!(talker.say(0, "LET-THROUGH")?.errno == 0, "what is allowed was closed");
    lab.ensure_nothing_reached(family.denied())?;
    lab.fence()?;
    ensure!(
        lab.sniffer.carrying(b"LET-THROUGH") > 0,
        "allowed bytes did not arrive at {allowed}, not {denied}"
    );

    drop(talker);
    later.remove()?;
    daemon.ensure_no_agents()?;
    ensure!(states(&daemon, &later.name)?.contains(&"ended".to_owned()));

    // Another at the same place is another agent, governed anew.
    fs::create_dir(&later.path)?;
    governed(&daemon, &later.path)?;
    later.expect(&table(family))?;
    later.remove()?;
    daemon.ensure_no_agents()
}

/// What is there before it is selected is late, and that is told; what a parent covers is not.
#[test]
fn late_is_told_and_below_a_parent_nothing_is() -> Result<()> {
    let Served { lab, mut daemon } = Served::new()?;
    let (parent, inhabited) = (Found::new(&lab)?, Found::new(&lab)?);
    let endpoint = Family::V4.denied_endpoint().to_string();
    let mut early = inhabited.start(&["talk", &endpoint])?;
    ensure!(early.say(0, "BEFORE")?.errno == 0);
    let both = format!(
        "{}\n[[agents]]\ncgroup = \"/{}/*\"\n",
        selecting(&Policy::standard(), &format!("/{}", parent.name)),
        parent.name
    );
    daemon.write_policy("lab", &format!("{both}\n[[agents]]\ncgroup = \"/{}\"\n", inhabited.name))?;
    daemon.tell(&["reload"])?;
    let late = daemon.status_of(&inhabited.name)?;
    ensure!(late["engine"]["late"] == true, "{late}");
    let shown = daemon.tell(&["status"])?;
    ensure!(shown.stdout.contains("it is late"), "{shown:?}");
    ensure!(states(&daemon, &inhabited.name)?.contains(&"late".to_owned()));
    let said = early.say(0, "AFTERWARDS")?;
    ensure!(said.errno != 0 || said.broken, "a connection that is not allowed lives on: {said:?}");
    inhabited.expect(&table(Family::V4))?;

    // The parent was empty: the very first packet of the first process below it is refused.
    let first = Found::below(&lab, &parent.path)?;
    first.expect(&table(Family::V4))?;
    let covering = daemon.status_of(&parent.name)?;
    ensure!(covering["engine"]["late"] == false, "{covering}");
    ensure!(!states(&daemon, &parent.name)?.contains(&"late".to_owned()));
    ensure!(governing(&daemon, &first.path)?.is_none(), "governed twice");
    lab.fence()?;
    ensure!(lab.sniffer.carrying(b"AFTERWARDS") == 0 && lab.sniffer.carrying(b"BEFORE") > 0);

    // One that is started anew takes both over, and attaches neither again.
    let links = links_above(&inhabited.path)?;
    daemon.kill()?;
    daemon.start()?;
    let again = daemon.status()?;
    ensure!(again.len() == 2, "{again:?}");
    ensure!(links_above(&inhabited.path)?.len() == links.len(), "attached twice");
    ensure!(daemon.status_of(&inhabited.name)?["engine"]["late"] == true);
    inhabited.expect(&table(Family::V4))?;
    drop(early);
    for found in [first, inhabited, parent] {
        found.remove()?;
    }
    daemon.ensure_no_agents()
}

/// Two cgroups, two policies; another policy takes over; a selector that goes lets go; a policy that is invalid
/// does not.
#[test]
fn selectors_change_with_their_policies() -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let (one, two, by_hand) = (Found::new(&lab)?, Found::new(&lab)?, Found::new(&lab)?);
    daemon.tell(&["attach", "--agent", &by_hand.name, "--cgroup", by_hand.arg(), "--policy", "offline"])?;
    let place = |found: &Found<'_>| format!("/{}", found.name);
    daemon.write_policy("one", &selecting(&Policy::standard(), &place(&one)))?;
    daemon.write_policy("two", &selecting(&opposite(), &place(&two)))?;
    daemon.tell(&["reload"])?;
    let (allowed, denied) = (Family::V4.allowed_endpoint(), Family::V4.denied_endpoint());
    let standard = || Expected::new().case("tcp-connect", denied, EPERM).case("tcp-send", allowed, Said::Ok);
    let reverse = || Expected::new().case("tcp-connect", allowed, EPERM).case("tcp-send", denied, Said::Ok);
    one.expect(&standard())?;
    lab.ensure_nothing_reached(Family::V4.denied())?;
    two.expect(&reverse())?;
    lab.ensure_bytes(denied, Transport::Tcp)?;

    // Invalid: what was selected stays as it was.
    fs::write(daemon.directory("policies").join("two.toml"), "version = 1\nname = \"two\"\nmoed = 1\n")?;
    let reloaded = daemon.ask(&["reload"])?;
    ensure!(!reloaded.status.success() && reloaded.stderr.contains("moed"), "{reloaded:?}");
    two.expect(&reverse())?;
    eventually(DEADLINE, "that it stays as it was is told", || {
        let states = states(&daemon, &two.name).map_err(|error| error.to_string())?;
        if states.contains(&"kept".to_owned()) { Ok(()) } else { Err(format!("{states:?}")) }
    })?;

    // From one policy to the other without a moment in between. The daemon may read the directory at any moment:
    // with both selecting it the first has it, with none it would be let go.
    let widened =
        format!("{}\n[[agents]]\ncgroup = {:?}\n", selecting(&Policy::standard(), &place(&one)), place(&two));
    daemon.write_policy("one", &widened)?;
    daemon.write_policy("two", &opposite().text())?;
    daemon.tell(&["reload"])?;
    two.expect(&standard())?;
    ensure!(!states(&daemon, &two.name)?.contains(&"detached".to_owned()), "it was let go in between");

    // The selector of the first goes.
    daemon.write_policy("one", &selecting(&Policy::standard(), &place(&two)))?;
    daemon.tell(&["reload"])?;
    ensure!(governing(&daemon, &one.path)?.is_none() && links_above(&one.path)?.is_empty());
    one.expect(&Expected::new().case("tcp-send", denied, Said::Ok))?;
    two.expect(&standard())?;
    let hand = daemon.status_of(&by_hand.name)?;
    ensure!(hand["state"] == "enforced" && hand["engine"]["selector"].is_null(), "{hand}");

    // What is let go by hand stays free until policies are read again.
    let detached = daemon.tell(&["detach", &two.name])?;
    ensure!(format!("{detached:?}").contains("selects it"), "{detached:?}");
    ensure!(governing(&daemon, &two.path)?.is_none());
    daemon.tell(&["reload"])?;
    ensure!(governing(&daemon, &two.path)?.is_some());
    daemon.write_policy("one", &Policy::standard().text())?;
    daemon.tell(&["reload"])?;
    daemon.tell(&["detach", &by_hand.name])?;
    daemon.ensure_no_agents()
}

/// A process that shares its cgroup with others is not taken for all of them.
#[test]
fn sharers_of_a_cgroup_are_told() -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let found = Found::new(&lab)?;
    let allowed = Family::V4.allowed_endpoint().to_string();
    let (meant, other) = (found.start(&["talk", &allowed])?, found.start(&["talk", &allowed])?);
    let (pid, sharer) = (meant.pid().to_string(), other.pid().to_string());
    let attach = ["attach", "--agent", &found.name, "--pid", &pid, "--policy", "lab"];
    let refused = daemon.ask(&attach)?;
    ensure!(refused.status.code() == Some(1) && refused.stderr.contains(&sharer), "{refused:?}");
    ensure!(refused.stderr.contains("--whole-cgroup"), "it does not say what to do: {refused:?}");
    ensure!(links_above(&found.path)?.is_empty(), "it was governed all the same");
    found.expect(&Expected::new().case("tcp-send", Family::V4.denied_endpoint(), Said::Ok))?;

    let done = daemon.tell(&[&attach[..], &["--whole-cgroup"]].concat())?;
    ensure!(format!("{done:?}").contains(&sharer), "who is governed as well is not said: {done:?}");
    found.expect(&table(Family::V4))?;
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// What a process has open when it is attached is judged like what it opens then.
#[rstest]
fn open_connections_of_a_process_are_judged(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(false, true)] keep: bool,
) -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let found = Found::new(&lab)?;
    let (allowed, denied) = (family.allowed_endpoint().to_string(), family.denied_endpoint().to_string());
    let mut talker = found.start(&["talk", &allowed, &denied])?;
    ensure!(talker.say(0, "EARLY")?.errno == 0 && talker.say(1, "EARLY")?.errno == 0);
    let pid = talker.pid().to_string();
    let mut attach = vec!["attach", "--agent", &found.name, "--pid", &pid, "--policy", "lab"];
    if keep {
        attach.push("--keep-established");
    }
    daemon.tell(&attach)?;
    ensure!(talker.say(0, "GOES-ON")?.errno == 0, "an allowed connection was lost");
    let said = talker.say(1, "FORBIDDEN")?;
    ensure!(keep || said.errno != 0 || said.broken, "a forbidden connection lives on: {said:?}");
    let spared = daemon.log_of(&found.name)?;
    let spared = spared.iter().find(|line| line["evidence"]["state"] == "spared");
    ensure!(spared.is_some() == keep, "{spared:?}");
    if let Some(spared) = spared {
        let to = family.denied().to_string();
        ensure!(spared["kind"] == "enforcement" && spared["reason"].to_string().contains(&to), "{spared}");
    }
    lab.fence()?;
    ensure!(lab.sniffer.carrying(b"GOES-ON") > 0, "allowed bytes did not arrive");
    let left = lab.sniffer.carrying(b"FORBIDDEN") > 0;
    ensure!(left == keep, "a forbidden connection: to be kept {keep}, bytes left {left}");
    // What is spared is that connection, and no other.
    found.expect(&table(family))?;
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}
