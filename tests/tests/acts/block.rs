//! `agentnet block` and `agentnet unblock`.

use std::net::SocketAddr;

use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        client::is_answered,
        daemon::Served,
        expect::{EPERM, Expected, Said},
        found::Found,
        net::{ALLOWED_PORT, Family},
        policy::Policy,
        server::Transport,
    },
};
use anyhow::{Result, ensure};
use rstest::rstest;

use super::{
    acts, attach, ensure_arrived, ensure_closed, ensure_open, in_time, last_act, open, told, until_over,
    until_told,
};

/// What is blocked, by its address or by a network that holds it and the allowed host, in either family.
fn target(family: Family, by_network: bool) -> String {
    match (family, by_network) {
        (_, false) => family.denied().to_string(),
        (Family::V4, true) => "198.18.0.2/31".to_owned(),
        (Family::V6, true) => "2001:db8:18::2/127".to_owned(),
    }
}

fn twin(family: Family) -> SocketAddr {
    (family.metadata(), ALLOWED_PORT).into()
}

/// Calls to the blocked host fail and nothing arrives there; its twin notices nothing.
fn closed(family: Family) -> Expected {
    Expected::new()
        .cases(&["tcp-connect", "tcp-send", "udp-sendto", "udp-connected"], family.denied_endpoint(), EPERM)
        .cases(&["tcp-send", "udp-sendto"], twin(family), Said::Ok)
}

fn opened(family: Family) -> Expected {
    Expected::new().cases(&["tcp-echo", "udp-echo"], family.denied_endpoint(), Said::Ok)
}

#[rstest]
fn what_is_open_is_closed_and_what_comes_is_refused(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(false, true)] by_network: bool,
) -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    daemon.write_policy("lab", &open().text())?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found)?;
    let (lost, kept) = (family.denied_endpoint().to_string(), twin(family).to_string());
    let mut talker = found.start(&["talk", &lost, &kept, "--udp", &lost, "--udp", &kept])?;
    for index in 0..4 {
        ensure_open(&mut talker, index, &format!("BEFORE-{index}"))?;
    }
    ensure_arrived(&lab, &["BEFORE-0", "BEFORE-1", "BEFORE-2", "BEFORE-3"], &[])?;

    let net = target(family, by_network);
    let bytes = lab.servers.tally(family.denied_endpoint(), Transport::Tcp).bytes;
    let done = daemon.tell(&["block", &net, "--agent", &found.name, "--reason", "beacons to it"])?;
    ensure!(done.stdout.contains("is blocked") && done.stdout.contains("2 connections"), "{done:?}");
    ensure_closed(&mut talker, 0, "AFTER-0")?;
    ensure_open(&mut talker, 1, "AFTER-1")?;
    ensure_closed(&mut talker, 2, "AFTER-2")?;
    ensure_open(&mut talker, 3, "AFTER-3")?;
    found.expect(&closed(family))?;
    let marker = |op: &str| format!("<{op}>{}", family.denied_endpoint());
    ensure_arrived(
        &lab,
        &["AFTER-1", "AFTER-3"],
        &["AFTER-0", "AFTER-2", &marker("tcp-send"), &marker("udp-sendto"), &marker("udp-connected")],
    )?;
    let now = lab.servers.tally(family.denied_endpoint(), Transport::Tcp).bytes;
    ensure!(now == bytes, "{} bytes arrived after the block", now - bytes);

    // Who, why: in `status` for people and programs, in the stream, and with the refusal.
    let [act] = &acts(&daemon, &found.name)?[..] else { anyhow::bail!("{:?}", acts(&daemon, &found.name)?) };
    ensure!(act["act"] == "block" && act["by"]["uid"] == 0 && act["by"]["user"] == "root", "{act}");
    ensure!(act["by"]["pid"].as_i64() > Some(1) && act["reason"] == "beacons to it", "{act}");
    ensure!(act["until"].is_null() && act["agent"] == found.name, "{act}");
    let shown = daemon.tell(&["status"])?.stdout;
    ensure!(
        shown.contains("is blocked by root (uid 0, pid ") && shown.contains("(beacons to it)"),
        "{shown}"
    );
    let line = &until_told(&daemon, &found.name, "blocked")?;
    ensure!(line["reason"].to_string().contains("beacons to it") && line["evidence"]["of"] == *act, "{line}");
    let refused = eventually(DEADLINE, "the refusal is told", || {
        let log = daemon.log_of(&found.name).map_err(|error| error.to_string())?;
        let of = |line: &&serde_json::Value| line["evidence"]["reason"] == "blocked";
        log.iter().find(of).cloned().ok_or_else(|| format!("{log:?}"))
    })?;
    let sentence = refused["reason"].to_string();
    ensure!(sentence.contains("by root (uid 0") && sentence.contains("(beacons to it)"), "{sentence}");

    let undone =
        daemon.tell(&["unblock", &net, "--agent", &found.name, "--reason", "was a mirror", "--json"])?;
    let undone: serde_json::Value = serde_json::from_str(undone.stdout.trim())?;
    ensure!(undone["act"]["id"] == act["id"] && undone["agents"][0] == found.name, "{undone}");
    found.expect(&opened(family))?;
    ensure!(acts(&daemon, &found.name)?.is_empty());
    let line = &until_told(&daemon, &found.name, "unblocked")?;
    ensure!(line["evidence"]["by"]["uid"] == 0 && line["evidence"]["why"] == "was a mirror", "{line}");
    ensure!(lab.servers.tally(family.denied_endpoint(), Transport::Tcp).bytes > bytes, "nothing arrived");
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// For every agent: those that are there, those that begin later, and those below others.
#[rstest]
fn a_block_for_every_agent_is_one_also_for_those_that_begin_later(
    #[values(Family::V4, Family::V6)] family: Family,
) -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    daemon.write_policy("lab", &open().text())?;
    let (first, later) = (Found::new(&lab)?, Found::new(&lab)?);
    let inner = Found::below(&lab, &first.path)?;
    attach(&daemon, &first)?;
    attach(&daemon, &inner)?;
    let net = target(family, false);
    daemon.tell(&["block", &net])?;
    attach(&daemon, &later)?;
    for found in [&first, &inner, &later] {
        found.expect(&closed(family))?;
        let acts = acts(&daemon, &found.name)?;
        ensure!(acts.len() == 1 && acts[0]["agent"].is_null(), "{acts:?}");
    }
    ensure!(
        told(&daemon, &first.name, "blocked")?.len() == 1 && told(&daemon, &later.name, "kept")?.len() == 1
    );
    lab.ensure_nothing_reached(family.denied())?;

    // What one agent has of its own is not taken back with it, nor the other way round.
    daemon.tell(&["block", &net, "--agent", &first.name])?;
    daemon.tell(&["unblock", &net])?;
    first.expect(&closed(family))?;
    later.expect(&opened(family))?;
    let wrong = daemon.ask(&["unblock", &net, "--agent", &later.name])?;
    ensure!(wrong.status.code() == Some(1) && wrong.stderr.contains("not blocked"), "{wrong:?}");
    daemon.tell(&["unblock", &net, "--agent", &first.name])?;
    inner.expect(&opened(family))?;
    for found in [&inner, &first, &later] {
        daemon.tell(&["detach", &found.name])?;
    }
    daemon.ensure_no_agents()
}

/// A block that ends does so whether the daemon lives or not, and leaves closed what a wider one closes.
#[rstest]
fn a_block_ends_by_itself(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(true, false)] alive: bool,
) -> Result<()> {
    let Served { lab, mut daemon } = Served::new()?;
    daemon.write_policy("lab", &open().text())?;
    let (found, wide) = (Found::new(&lab)?, Found::new(&lab)?);
    attach(&daemon, &found)?;
    attach(&daemon, &wide)?;
    daemon.tell(&["block", &target(family, true), "--agent", &wide.name])?;
    let order = |length: &str| {
        for agent in [&wide, &found] {
            daemon.tell(&["block", &target(family, false), "--agent", &agent.name, "--for", length])?;
        }
        last_act(&daemon, &found.name)
    };
    let both = || [&wide, &found].into_iter().try_for_each(|agent| agent.expect(&closed(family)));
    let (act, ()) = in_time(order, both)?;
    ensure!(!act["until"].is_null(), "{act}");
    if !alive {
        daemon.kill()?;
    }
    until_over(&act)?;
    found.expect(&opened(family))?;
    wide.expect(&closed(family))?;
    if !alive {
        daemon.start()?;
    }
    for agent in [&found, &wide] {
        until_told(&daemon, &agent.name, "ended")?;
    }
    ensure!(acts(&daemon, &found.name)?.is_empty() && acts(&daemon, &wide.name)?.len() == 1);
    found.expect(&opened(family))?;
    wide.expect(&closed(family))?;
    for agent in [&found, &wide] {
        daemon.tell(&["detach", &agent.name])?;
    }
    daemon.ensure_no_agents()
}

/// Whoever came in is not answered any more, and does not come in again.
#[rstest]
fn who_came_in_is_blocked_too(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    const PORT: u16 = 8000;
    let Served { lab, daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().listen("any").text())?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found)?;
    let at = SocketAddr::from((family.agent(), PORT));
    let text = at.to_string();
    let _server = found.start(&["serve", "--tcp", &text, "--udp", &text])?;
    let mut visitor = lab.server.run(|| Ok(std::net::TcpStream::connect(at)?))?;
    let peer = visitor.local_addr()?.ip().to_string();
    let mut echo = |text: &[u8]| -> std::io::Result<Vec<u8>> {
        use std::io::{Read as _, Write as _};
        visitor.set_read_timeout(Some(DEADLINE))?;
        visitor.write_all(text)?;
        let mut answer = vec![0; text.len()];
        visitor.read_exact(&mut answer).map(|()| answer)
    };
    ensure!(echo(b"CAME-IN")? == b"CAME-IN");
    let answered = |transport| is_answered(&lab.server, at, transport);
    ensure!(answered(Transport::Tcp)? && answered(Transport::Udp)?);
    daemon.tell(&["block", &peer, "--agent", &found.name])?;
    ensure!(echo(b"STILL-HERE").is_err(), "a visitor was answered");
    ensure!(!answered(Transport::Tcp)? && !answered(Transport::Udp)?, "another one was");
    daemon.tell(&["unblock", &peer, "--agent", &found.name])?;
    for transport in [Transport::Tcp, Transport::Udp] {
        ensure!(answered(transport)?, "{transport:?}: the block is not lifted");
    }
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// A policy that refuses nothing does not let a block through either; loopback can be blocked as well.
#[rstest]
fn a_block_holds_under_audit_and_on_loopback(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::closed().audit().text())?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found)?;
    let own = SocketAddr::from((family.loopback(), 9000));
    let both = |said| {
        let own_ops = ["own-listener", "own-udp"];
        Expected::new()
            .cases(&["tcp-send", "udp-sendto"], family.denied_endpoint(), said)
            .cases(&own_ops, own, said)
    };
    found.expect(&both(Said::Ok))?;
    let lost = family.denied_endpoint().to_string();
    let mut talker = found.start(&["talk", &lost, &twin(family).to_string()])?;
    for net in [target(family, false), family.loopback().to_string()] {
        daemon.tell(&["block", &net])?;
    }
    ensure_closed(&mut talker, 0, "AFTER-0")?;
    ensure_open(&mut talker, 1, "AFTER-1")?;
    found.expect(&both(EPERM))?;
    ensure_arrived(&lab, &["AFTER-1"], &["AFTER-0"])?;
    let status = daemon.status_of(&found.name)?;
    ensure!(status["state"] == "audited", "{status}");
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// What makes no sense changes nothing and says what would.
#[test]
fn what_cannot_be_blocked_is_told() -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    daemon.write_policy("lab", &open().text())?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found)?;
    daemon.tell(&["block", "198.18.0.0/24", "--agent", &found.name])?;
    for (args, code, words) in [
        (vec!["block", "198.18.0.3/24"], 2, "198.18.0.0/24"),
        (vec!["block", "example.com"], 2, "neither an address nor a network"),
        (vec!["block", "198.18.0.3", "--for", "soon"], 2, "10m"),
        (vec!["block", "198.18.0.3", "--agent", "nobody"], 1, "no agent `nobody`"),
        (vec!["unblock", "198.18.0.3", "--agent", &found.name], 1, "unblock 198.18.0.0/24"),
        (vec!["unblock", "198.18.0.0/24"], 1, "not blocked"),
    ] {
        let refused = daemon.ask(&args)?;
        ensure!(
            refused.status.code() == Some(code) && refused.stderr.contains(words),
            "{args:?}: {refused:?}"
        );
    }
    ensure!(acts(&daemon, &found.name)?.len() == 1);
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}
