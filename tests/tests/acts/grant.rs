//! `agentnet allow`.

use std::net::SocketAddr;

use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        daemon::{DENIED_NAME, METADATA_NAME, Served},
        expect::{EPERM, Expected, Said},
        found::Found,
        net::{ALLOWED_PORT, DENIED_PORT, Family},
        policy::Policy,
        server::{Servers, Transport},
    },
};
use anyhow::{Result, ensure};
use rstest::rstest;

use super::{
    acts, attach, ensure_arrived, ensure_closed, ensure_open, in_time, last_act, told, until_over, until_told,
};

/// The grant's twins: another protocol, another port, another agent's; and what the policy allows anyway.
fn nothing_else(family: Family) -> Expected {
    Expected::new()
        .cases(&["udp-sendto", "udp-connected"], family.denied_endpoint(), EPERM)
        .case("tcp-connect", SocketAddr::from((family.denied(), DENIED_PORT)), EPERM)
        .case("tcp-connect", SocketAddr::from((family.metadata(), ALLOWED_PORT)), EPERM)
        .cases(&["tcp-send", "udp-sendto"], family.allowed_endpoint(), Said::Ok)
}

#[rstest]
fn what_is_allowed_is_that_and_no_more(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let (found, other) = (Found::new(&lab)?, Found::new(&lab)?);
    attach(&daemon, &found)?;
    attach(&daemon, &other)?;
    let to = family.denied_endpoint().to_string();
    found.expect(&nothing_else(family).case("tcp-connect", family.denied_endpoint(), EPERM))?;
    let reason = ["--reason", "restore"];
    daemon.tell(&[&["allow", "--agent", &found.name, &to, "--for", "10m"][..], &reason].concat())?;
    found.expect(&nothing_else(family).cases(
        &["tcp-echo", "tcp-send"],
        family.denied_endpoint(),
        Said::Ok,
    ))?;
    other.expect(&nothing_else(family).case("tcp-connect", family.denied_endpoint(), EPERM))?;
    ensure!(lab.servers.tally(family.denied_endpoint(), Transport::Udp).bytes == 0);

    let [act] = &acts(&daemon, &found.name)?[..] else { anyhow::bail!("{:?}", acts(&daemon, &found.name)?) };
    ensure!(act["act"] == "allow" && act["port"] == ALLOWED_PORT && act["reason"] == "restore", "{act}");
    ensure!(!act["until"].is_null() && act["by"]["uid"] == 0, "{act}");
    ensure!(told(&daemon, &found.name, "allowed")?.len() == 1);
    let flow = eventually(DEADLINE, "the flow is told", || {
        let log = daemon.log_of(&found.name).map_err(|error| error.to_string())?;
        let granted = |line: &&serde_json::Value| {
            line["kind"] == "flow" && line["policy"]["rule"].to_string().contains("is allowed by root")
        };
        log.iter().find(granted).cloned().ok_or_else(|| format!("{log:?}"))
    })?;
    ensure!(flow["policy"]["rule"].to_string().contains("(restore)"), "{flow}");

    // Over UDP it is another grant; both are taken back, and what is open then is closed.
    let udp = ["allow", "--agent", &found.name, &to, "--protocol", "udp"];
    daemon.tell(&[&udp[..], &["--for", "10m"]].concat())?;
    let mut talker = found.start(&["talk", &to, "--udp", &to])?;
    ensure_open(&mut talker, 0, "BEFORE-0")?;
    ensure_open(&mut talker, 1, "BEFORE-1")?;
    ensure_arrived(&lab, &["BEFORE-0", "BEFORE-1"], &[])?;
    daemon.tell(&["allow", "--agent", &found.name, &to, "--revoke"])?;
    daemon.tell(&[&udp[..], &["--revoke"]].concat())?;
    ensure_closed(&mut talker, 0, "AFTER-0")?;
    ensure_closed(&mut talker, 1, "AFTER-1")?;
    found.expect(&nothing_else(family).case("tcp-connect", family.denied_endpoint(), EPERM))?;
    ensure_arrived(&lab, &[], &["AFTER-0", "AFTER-1"])?;
    ensure!(told(&daemon, &found.name, "revoked")?.len() == 2);
    for agent in [&found, &other] {
        daemon.tell(&["detach", &agent.name])?;
    }
    daemon.ensure_no_agents()
}

/// A grant closes at its time: the connections that are open, and without a daemon.
#[rstest]
fn a_grant_ends_by_itself(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(true, false)] alive: bool,
) -> Result<()> {
    let Served { lab, mut daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found)?;
    let (granted, kept) = (family.denied_endpoint().to_string(), family.allowed_endpoint().to_string());
    let order = |length: &str| {
        for protocol in ["tcp", "udp"] {
            let args = ["allow", "--agent", &found.name, &granted, "--protocol", protocol, "--for", length];
            daemon.tell(&args)?;
        }
        last_act(&daemon, &found.name)
    };
    let talk = || {
        let mut talker = found.start(&["talk", &granted, &kept, "--udp", &granted, "--udp", &kept])?;
        for index in 0..4 {
            ensure_open(&mut talker, index, &format!("BEFORE-{index}"))?;
        }
        ensure_arrived(&lab, &["BEFORE-0", "BEFORE-1", "BEFORE-2", "BEFORE-3"], &[])?;
        Ok(talker)
    };
    let (last, mut talker) = in_time(order, talk)?;
    if !alive {
        daemon.kill()?;
    }
    until_over(&last)?;
    let bytes = lab.servers.tally(family.denied_endpoint(), Transport::Tcp).bytes;
    for index in 0..4 {
        // Without a daemon, TCP takes what the kernel then keeps back.
        talker.say(index, &format!("AFTER-{index}"))?;
    }
    let closed = nothing_else(family).cases(&["tcp-connect", "tcp-send"], family.denied_endpoint(), EPERM);
    found.expect(&closed)?;
    ensure_arrived(&lab, &["AFTER-1", "AFTER-3"], &["AFTER-0", "AFTER-2"])?;
    if !alive {
        daemon.start()?;
    }
    until_told(&daemon, &found.name, "ended")?;
    eventually(DEADLINE, "what the grant had let open is closed", || match lab.pending(family.denied()) {
        Ok(pending) if pending.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    ensure_open(&mut talker, 1, "LAST-1")?;
    found.expect(&closed)?;
    ensure_arrived(&lab, &["LAST-1"], &["AFTER-0", "AFTER-2"])?;
    let now = lab.servers.tally(family.denied_endpoint(), Transport::Tcp).bytes;
    ensure!(now == bytes, "{} bytes arrived after the grant's time", now - bytes);
    eventually(DEADLINE, "both have ended", || match acts(&daemon, &found.name) {
        Ok(acts) if acts.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// Names are looked up once; what is special has to be written.
#[rstest]
fn names_are_looked_up_and_open_nothing_special(
    #[values(Family::V4, Family::V6)] family: Family,
) -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found)?;
    let allow = |place: &str| daemon.ask(&["allow", "--agent", &found.name, place, "--for", "10m"]);
    let named = allow(&format!("{DENIED_NAME}:{ALLOWED_PORT}"))?;
    ensure!(named.status.success() && named.stdout.contains("looked up once"), "{named:?}");
    ensure!(named.stdout.contains(&Family::V4.denied().to_string()), "{named:?}");
    found.expect(&nothing_else(family).case("tcp-echo", family.denied_endpoint(), Said::Ok))?;

    let metadata = SocketAddr::from((family.metadata(), ALLOWED_PORT));
    for name in [METADATA_NAME, "localhost"] {
        let refused = allow(&format!("{name}:{ALLOWED_PORT}"))?;
        ensure!(
            refused.status.code() == Some(1) && refused.stderr.contains("write the address"),
            "{refused:?}"
        );
    }
    let unknown = allow("nowhere.invalid:443")?;
    ensure!(unknown.status.code() == Some(1) && unknown.stderr.contains("nowhere.invalid"), "{unknown:?}");
    found.expect(&Expected::new().case("tcp-connect", metadata, EPERM))?;
    ensure!(allow(&metadata.to_string())?.status.success());
    found.expect(&Expected::new().case("tcp-echo", metadata, Said::Ok))?;
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// A service of somebody else on the agent's own host.
#[rstest]
fn a_local_service_is_allowed_by_its_address(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let (place, twin) =
        (SocketAddr::from((family.loopback(), 9000)), SocketAddr::from((family.loopback(), 9001)));
    let outside = Servers::start(&lab.agent, &[place, twin])?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found)?;
    found.expect(&Expected::new().cases(&["tcp-connect", "udp-sendto"], place, EPERM))?;
    daemon.tell(&["allow", "--agent", &found.name, &place.to_string(), "--for", "10m"])?;
    found.expect(
        &Expected::new().case("tcp-echo", place, Said::Ok).case("udp-sendto", place, EPERM).cases(
            &["tcp-connect", "udp-sendto"],
            twin,
            EPERM,
        ),
    )?;
    ensure!(
        outside.tally(place, Transport::Tcp).bytes > 0
            && outside.tally(twin, Transport::Tcp).connections == 0
    );
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// What a deny rule denies stays denied: by the policy that is there, and by one that comes.
#[rstest]
fn a_deny_rule_is_not_overridden(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let denying = Policy::standard().deny(&family.denied().to_string()).text();
    daemon.write_policy("lab", &Policy::standard().text())?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found)?;
    let to = family.denied_endpoint().to_string();
    let allow = ["allow", "--agent", &found.name, &to, "--for", "10m"];
    daemon.tell(&allow)?;
    let mut talker = found.start(&["talk", &to, &family.allowed_endpoint().to_string()])?;
    ensure_open(&mut talker, 0, "BEFORE-0")?;
    ensure_arrived(&lab, &["BEFORE-0"], &[])?;

    // A policy that says nothing about it lets the grant stand.
    daemon.write_policy("lab", &Policy::standard().allow("203.0.113.0/24", &[443], &["tcp"]).text())?;
    daemon.tell(&["reload"])?;
    ensure_open(&mut talker, 0, "BETWEEN-0")?;
    ensure!(acts(&daemon, &found.name)?.len() == 1);

    daemon.write_policy("lab", &denying)?;
    daemon.tell(&["reload"])?;
    ensure_closed(&mut talker, 0, "AFTER-0")?;
    ensure_open(&mut talker, 1, "AFTER-1")?;
    found.expect(&Expected::new().cases(&["tcp-connect", "tcp-send"], family.denied_endpoint(), EPERM))?;
    ensure_arrived(&lab, &["BETWEEN-0", "AFTER-1"], &["AFTER-0"])?;
    let line = until_told(&daemon, &found.name, "withdrawn")?;
    ensure!(line["evidence"]["why"].to_string().contains("lab.toml:"), "{line}");
    ensure!(acts(&daemon, &found.name)?.is_empty());
    let refused = daemon.ask(&allow)?;
    ensure!(refused.status.code() == Some(1) && refused.stderr.contains("lab.toml:"), "{refused:?}");

    // Nor does a grant open what is blocked.
    daemon.write_policy("lab", &Policy::standard().text())?;
    daemon.tell(&["reload"])?;
    daemon.tell(&["block", &family.denied().to_string()])?;
    let refused = daemon.ask(&allow)?;
    ensure!(refused.status.code() == Some(1) && refused.stderr.contains("agentnet unblock"), "{refused:?}");
    found.expect(&Expected::new().cases(&["tcp-connect", "tcp-send"], family.denied_endpoint(), EPERM))?;
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// An agent in an agent: what is granted to the inner one, the outer one's policy decides about as well.
#[test]
fn a_grant_does_not_open_the_agent_around() -> Result<()> {
    let family = Family::V4;
    let Served { lab, daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let outer = Found::new(&lab)?;
    let inner = Found::below(&lab, &outer.path)?;
    attach(&daemon, &outer)?;
    attach(&daemon, &inner)?;
    let to = family.denied_endpoint().to_string();
    let allow = |agent: &Found<'_>| daemon.tell(&["allow", "--agent", &agent.name, &to, "--for", "10m"]);
    let done = allow(&inner)?;
    ensure!(done.stdout.contains(&format!("lives in agent {}", outer.name)), "{done:?}");
    inner.expect(&Expected::new().case("tcp-connect", family.denied_endpoint(), EPERM))?;
    lab.ensure_nothing_reached(family.denied())?;
    let done = allow(&outer)?;
    ensure!(!done.stdout.contains("lives in"), "{done:?}");
    inner.expect(&Expected::new().case("tcp-echo", family.denied_endpoint(), Said::Ok))?;
    for agent in [&inner, &outer] {
        daemon.tell(&["detach", &agent.name])?;
    }
    daemon.ensure_no_agents()
}

#[test]
fn what_cannot_be_allowed_is_told() -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found)?;
    let long = "x".repeat(301);
    for (args, code, words) in [
        (vec!["--agent", &found.name, "198.18.0.3:7000"], 2, "--for"),
        (vec!["--agent", &found.name, "198.18.0.3", "--for", "1m"], 2, "no port"),
        (vec!["--agent", &found.name, "198.18.0.0/24:7000", "--for", "1m"], 2, "network"),
        (vec!["--agent", &found.name, "0.0.0.0:7000", "--for", "1m"], 1, "127.0.0.1"),
        (vec!["--agent", &found.name, "198.18.0.3:7000", "--for", "30d"], 2, "7 days"),
        (vec!["--agent", &found.name, "198.18.0.3:7000", "--for", "1m", "--reason", &long], 2, "300"),
        (vec!["--agent", "nobody", "198.18.0.3:7000", "--for", "1m"], 1, "no agent `nobody`"),
        (vec!["--agent", &found.name, "198.18.0.3:7000", "--revoke"], 1, "was not allowed"),
    ] {
        let refused = daemon.ask(&[&["allow"][..], &args].concat())?;
        ensure!(
            refused.status.code() == Some(code) && refused.stderr.contains(words),
            "{args:?}: {refused:?}"
        );
    }
    ensure!(acts(&daemon, &found.name)?.is_empty());
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}
