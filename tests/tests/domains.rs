//! Addresses that names have opened are told with their names.

use std::net::SocketAddr;

use agentnet_common::verdict::DNS_PORT;
use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        daemon::{Daemon, Served},
        found::Found,
        net::{ALLOWED_PORT, DENIED_PORT, Family},
        policy::Policy,
        resolver::{A, AAAA, Resolver, query},
    },
    probe::script::{Came, Step},
};
use anyhow::{Result, ensure};
use rstest::rstest;
use serde_json::Value;

const NAME: &str = "api.example.com";
const OTHER: &str = "cdn.example.org";
const THIRD: &str = "www.example.org";

fn connect(to: impl Into<SocketAddr>) -> Step {
    Step::Connect { to: to.into(), text: "hello".to_owned() }
}

/// The first line of the log that is about this end of the agent's, and has this action.
fn line(daemon: &Daemon, found: &Found<'_>, action: &str, to: SocketAddr) -> Result<Value> {
    let is_it = |line: &Value| {
        line["action"] == action
            && line["destination"]["ip"] == to.ip().to_string()
            && line["destination"]["port"] == to.port()
    };
    eventually(DEADLINE, "it is told", || {
        let log = daemon.log_of(&found.name).map_err(|error| error.to_string())?;
        log.iter().find(|line| is_it(line)).cloned().ok_or(format!("{action} {to}: {log:#?}"))
    })
}

/// What is let through, what it came to and what is refused; of an address with two names, that of the rule; and none of an
/// address that no name has opened.
#[rstest]
fn flows_and_alerts_have_names(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let at = SocketAddr::from((family.allowed(), DNS_PORT));
    let shared = family.named(2);
    let zone = [(NAME, vec![family.named(1)]), (OTHER, vec![shared]), (THIRD, vec![shared])];
    let _resolver = Resolver::of_zone(&lab.server, &[at], &zone)?;
    let policy = Policy::standard()
        .allow_hosts(&[DNS_PORT], &["udp"])
        .allow_name(NAME, &[ALLOWED_PORT])
        .allow_name(OTHER, &[ALLOWED_PORT])
        .allow_name(THIRD, &[DENIED_PORT]);
    daemon.write_policy("lab", &policy.text())?;
    let found = Found::new(&lab)?;
    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", "lab"])?;
    let kind = if family == Family::V4 { A } else { AAAA };
    let ask = |name| Step::Ask { to: at, message: query(9, name, kind) };
    let (named, elsewhere) =
        (SocketAddr::from((family.named(1), ALLOWED_PORT)), (family.named(1), DENIED_PORT));
    let came = found.script(&[
        ask(NAME),
        ask(OTHER),
        ask(THIRD),
        connect(named),
        connect(elsewhere),
        connect((shared, ALLOWED_PORT)),
        connect((shared, DENIED_PORT)),
        connect(family.allowed_endpoint()),
    ])?;
    let ok: Vec<bool> = came.iter().map(Came::is_ok).collect();
    ensure!(ok == [true, true, true, true, false, true, true, true], "{came:?}");
    for (action, to, name) in [
        ("allowed", named, Some(NAME)),
        ("ended", named, Some(NAME)),
        ("blocked", elsewhere.into(), Some(NAME)),
        ("allowed", (shared, ALLOWED_PORT).into(), Some(OTHER)),
        ("ended", (shared, ALLOWED_PORT).into(), Some(OTHER)),
        ("allowed", (shared, DENIED_PORT).into(), Some(THIRD)),
        ("ended", (shared, DENIED_PORT).into(), Some(THIRD)),
        ("allowed", family.allowed_endpoint(), None),
    ] {
        let line = line(&daemon, &found, action, to)?;
        ensure!(line["destination"]["domain"].as_str() == name, "{action} {to} {name:?}: {line:#}");
    }
    let flows = daemon.tell(&["flows", "--agent", &found.name])?.stdout;
    ensure!(flows.lines().any(|line| line.contains(&format!("{named} {NAME}"))), "{flows}");
    let alerts = daemon.tell(&["alerts", "--agent", &found.name, "--json"])?.stdout;
    ensure!(alerts.contains(&format!("({NAME}) port {DENIED_PORT}")), "{alerts}");
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}
