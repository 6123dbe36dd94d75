//! QUIC to names: refused at once unless a rule allows it, and then cut when it says another name.

use std::net::SocketAddr;

use agentnet_common::verdict::DNS_PORT;
use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        agent::Agent,
        net::{ALLOWED_PORT, Family},
        resolver::{A, Resolver, query},
        running::Running,
        script::script,
    },
    probe::script::{Came, Step},
};
use anyhow::{Result, ensure};
use rstest::rstest;
use serde_json::Value;

/// Both have the same address.
const ALLOWED: &str = "api.example.net";
/// The name in the client's Initial packet of RFC 9001, A.2.
const SAID: &str = "example.com";

fn initial() -> Vec<u8> {
    let digits: String =
        include_str!("../../agentnet/src/detect/quic/rfc9001_a2.hex").split_whitespace().collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.as_bytes().chunks(2).filter_map(byte).collect()
}

fn policy(resolver: SocketAddr, names: &[&str], keys: &str) -> String {
    let rules: String = names
        .iter()
        .map(|name| {
            format!(
                "[[egress.allow]]\ndomain = \"{name}\"\nports = [{ALLOWED_PORT}]\napp = \"tls\"\n{keys}\n"
            )
        })
        .collect();
    format!("version = 1\nname = \"lab\"\n[dns]\nresolvers = [\"{}\"]\nsearch = []\n{rules}", resolver.ip())
}

struct Scene {
    lab: Lab,
    _resolver: Resolver,
    at: SocketAddr,
    far: SocketAddr,
}

impl Scene {
    fn new(family: Family) -> Result<Self> {
        let lab = Lab::new()?;
        let at = SocketAddr::from((Family::V4.allowed(), DNS_PORT));
        let zone = [(ALLOWED, vec![family.named(1)]), (SAID, vec![family.named(1)])];
        let resolver = Resolver::of_zone(&lab.server, &[at], &zone)?;
        Ok(Self { lab, _resolver: resolver, at, far: (family.named(1), ALLOWED_PORT).into() })
    }

    fn send(&self, running: &Running<'_>, name: &str) -> Result<Vec<Came>> {
        let kind = if self.far.is_ipv4() { A } else { agentnet_tests::lab::resolver::AAAA };
        let ask = Step::Ask { to: self.at, message: query(7, name, kind) };
        script(&self.lab, Some(&running.cgroup), &[ask, Step::Tell { to: self.far, message: initial() }])
    }
}

fn mismatches(agent: &Agent<'_>) -> Result<Vec<Value>> {
    Ok(agent.log()?.into_iter().filter(|line| line["kind"] == "sni_mismatch").collect())
}

/// By default the client is told at the first datagram, and nothing leaves; where a rule allows QUIC the same datagram is
/// sent.
#[rstest]
fn it_is_refused_unless_a_rule_allows_it(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let scene = Scene::new(family)?;
    for (keys, errno) in [("", libc::EPERM), ("quic = \"deny\"", libc::EPERM), ("quic = \"allow\"", 0)] {
        let agent = Agent::with_text(&scene.lab, &policy(scene.at, &[ALLOWED, SAID], keys))?;
        let running = agent.hold()?;
        let came = scene.send(&running, ALLOWED)?;
        let [asked, told] = came.as_slice() else { anyhow::bail!("{came:?}") };
        ensure!(asked.is_ok() && told.errno == errno, "{keys}: {came:?}");
        ensure!(running.finish()?.status.success());
    }
    Ok(())
}

/// What says a name that no rule allows at that address is told and cut; what says an allowed one goes on.
#[rstest]
fn what_says_another_name_is_cut(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let scene = Scene::new(family)?;
    let text = policy(scene.at, &[ALLOWED], "quic = \"allow\"");
    let agent = Agent::with_text(&scene.lab, &text)?;
    let running = agent.hold()?;
    let came = scene.send(&running, ALLOWED)?;
    ensure!(came.iter().all(Came::is_ok), "{came:?}");
    let alert = eventually(DEADLINE, "an alert about the name", || {
        let seen = mismatches(&agent).map_err(|error| error.to_string())?;
        seen.first().cloned().ok_or_else(|| "none".to_owned())
    })?;
    ensure!(alert["action"] == "blocked" && alert["evidence"]["said"] == SAID, "{alert:#}");
    ensure!(alert["evidence"]["opened_by"].as_str().is_some_and(|rule| rule.contains(ALLOWED)), "{alert:#}");
    let came = scene.send(&running, ALLOWED)?;
    ensure!(came.last().is_some_and(|came| came.errno == libc::EPERM), "it goes on: {came:?}");
    ensure!(running.finish()?.status.success());

    let twin = Agent::with_text(&scene.lab, &policy(scene.at, &[ALLOWED, SAID], "quic = \"allow\""))?;
    let running = twin.hold()?;
    for _ in 0..2 {
        let came = scene.send(&running, ALLOWED)?;
        ensure!(came.iter().all(Came::is_ok), "{came:?}");
    }
    ensure!(running.finish()?.status.success());
    ensure!(mismatches(&twin)?.is_empty(), "an allowed name is told: {:#?}", mismatches(&twin)?);
    Ok(())
}
