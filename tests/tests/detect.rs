//! Detectors on live traffic: what the policy allows and carries data is found, told, and closed as the policy says.

use std::{fs, net::SocketAddr};

use agentnet_common::verdict::DNS_PORT;
use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        agent::Agent,
        child::agentnet,
        daemon::{Daemon, Served},
        found::{Found, Resident},
        net::{ALLOWED_PORT, Family},
        policy::Policy,
        resolver::{A, Resolver, query},
        script::script,
        server::Transport,
    },
    probe::script::{Came, Step},
};
use anyhow::{Context as _, Result, ensure};
use rstest::rstest;
use rustix::process::Signal;
use serde_json::Value;

/// A domain nobody visits, of which everything is allowed.
const TUNNEL: &str = "channel-seven.net";
/// A host of it that is there.
const TUNNEL_HOST: &str = "host.channel-seven.net";
/// Its names on the wire end in this.
const TUNNEL_WIRE: &[u8] = b"\x0dchannel-seven\x03net";
/// A name of every day, and a piece of it on the wire.
const TWIN: &str = "api.example.com";
const TWIN_WIRE: &[u8] = b"\x03api\x07example\x03com";

/// A policy with the names, and what is done about findings of a kind.
fn policy(resolver: SocketAddr, mode: &str, detect: &str) -> String {
    format!(
        "version = 1\nname = \"lab\"\nmode = {mode:?}\n[dns]\nresolvers = [\"{}\"]\nsearch = []\n\
         [[egress.allow]]\ndomain = \"*.{TUNNEL}\"\nports = [{ALLOWED_PORT}]\n[[egress.allow]]\ndomain = {TWIN:?}\nports = [{ALLOWED_PORT}]\n{detect}",
        resolver.ip()
    )
}

/// What a tunnel asks for: data in hexadecimal, never twice the same.
fn tunnelled(number: u64) -> String {
    let word = |seed: u64| (number + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{:016x}{:016x}{:08x}.{TUNNEL}", word(1), word(1 << 20), number)
}

fn ask(resolver: SocketAddr, name: &str) -> Step {
    Step::Ask { to: resolver, message: query(7, name, A) }
}

/// Runs steps as an agent.
type Run<'a> = &'a dyn Fn(&[Step]) -> Result<Vec<Came>>;
/// What an agent's log has.
type Log<'a> = &'a dyn Fn() -> Result<Vec<Value>>;

/// The alerts of a kind in a log that detectors have brought about.
fn alerts(log: Log<'_>, kind: &str) -> Result<Vec<Value>> {
    let is_finding = |line: &Value| line["kind"] == kind && line["evidence"]["detector"].is_string();
    Ok(log()?.into_iter().filter(is_finding).collect())
}

struct Scene {
    lab: Lab,
    resolver: Resolver,
    at: SocketAddr,
}

impl Scene {
    fn new(family: Family) -> Result<Self> {
        Self::of(Lab::new()?, family)
    }

    fn of(lab: Lab, family: Family) -> Result<Self> {
        let at = SocketAddr::from((family.allowed(), DNS_PORT));
        let zone = [(TWIN, vec![Family::V4.named(1)]), (TUNNEL_HOST, vec![Family::V4.named(2)])];
        let resolver = Resolver::of_zone(&lab.server, &[at], &zone)?;
        Ok(Self { lab, resolver, at })
    }

    /// The twin is asked for, and answered.
    fn ensure_twin(&self, run: Run<'_>) -> Result<()> {
        let before = self.resolver.asked_for(TWIN_WIRE);
        let came = run(&[ask(self.at, TWIN)])?;
        ensure!(came.iter().all(Came::is_ok), "{came:?}");
        ensure!(self.resolver.asked_for(TWIN_WIRE) == before + 1, "the twin did not arrive");
        Ok(())
    }

    /// Whether queries of the tunnel arrive at the resolver.
    fn arrives(&self, run: Run<'_>) -> Result<bool> {
        let before = self.resolver.asked_for(TUNNEL_WIRE);
        let steps: Vec<Step> = (0..4).map(|number| ask(self.at, &tunnelled(1_000_000 + number))).collect();
        let came = run(&steps)?;
        let all_refused = came.iter().all(|came| came.step == "sendto" && came.errno == libc::EPERM);
        let arrived = self.resolver.asked_for(TUNNEL_WIRE) - before;
        ensure!(all_refused == (arrived == 0), "{arrived} arrived, and the agent was told {came:?}");
        Ok(arrived > 0)
    }

    /// Sends queries of the tunnel until an alert about it says `action`; that alert.
    fn tunnel_until(&self, run: Run<'_>, log: Log<'_>, action: &str) -> Result<Value> {
        let mut number = 0;
        eventually(4 * DEADLINE, "an alert about the tunnel", || {
            let seen = alerts(log, "dns_tunnel").map_err(|error| error.to_string())?;
            if let Some(alert) = seen.iter().find(|alert| alert["action"] == action) {
                return Ok(alert.clone());
            }
            let steps: Vec<Step> =
                (number..number + 8).map(|number| ask(self.at, &tunnelled(number))).collect();
            number += 8;
            run(&steps).map_err(|error| error.to_string())?;
            Err(format!("{number} queries, {seen:?}"))
        })
    }
}

/// A tunnel through names that are allowed is told and blocked while the agent runs, by its name alone; a person takes
/// that back, and it stays so.
#[rstest]
fn a_tunnel_is_found_and_its_name_blocked(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let scene = Scene::new(family)?;
    let agent = Agent::with_text(&scene.lab, &policy(scene.at, "enforce", BLOCK_TUNNELS))?;
    let running = agent.hold()?;
    let (run, log) = (|steps: &[Step]| script(&scene.lab, Some(&running.cgroup), steps), || agent.log());
    scene.ensure_twin(&run)?;

    let alert = scene.tunnel_until(&run, &log, "blocked")?;
    ensure!(alert["destination"]["domain"] == TUNNEL, "{alert:#}");
    ensure!(alert["evidence"]["bytes_before_block"].as_u64().is_some_and(|bytes| bytes > 0), "{alert:#}");
    ensure!(alert["process"]["comm"] == "probe", "{alert:#}");
    ensure!(!scene.arrives(&run)?, "it goes on");
    scene.ensure_twin(&run)?;
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
    ensure!(scene.arrives(&run)?, "a person has taken it back");
    // What was taken back is not done again, though it is found again.
    ensure!(scene.arrives(&run)?, "it was blocked again");
    scene.ensure_twin(&run)?;
    ensure!(running.finish()?.status.success());
    Ok(())
}

/// In audit mode the same is told, and nothing is blocked.
#[test]
fn a_tunnel_is_only_told_in_audit_mode() -> Result<()> {
    let scene = Scene::new(Family::V4)?;
    let agent = Agent::with_text(&scene.lab, &policy(scene.at, "audit", BLOCK_TUNNELS))?;
    let running = agent.hold()?;
    let (run, log) = (|steps: &[Step]| script(&scene.lab, Some(&running.cgroup), steps), || agent.log());
    let alert = scene.tunnel_until(&run, &log, "alerted")?;
    ensure!(
        alert["reason"].as_str().is_some_and(|text| text.contains("the policy only audits")),
        "{alert:#}"
    );
    ensure!(scene.arrives(&run)?, "it is blocked though the policy audits");
    scene.ensure_twin(&run)?;
    ensure!(running.finish()?.status.success());
    Ok(())
}

const BLOCK_TUNNELS: &str = "[detect.dns_tunnel]\naction = \"block\"\n";

/// Puts a cgroup under a policy that blocks tunnels, as a daemon does it.
fn attach(daemon: &Daemon, scene: &Scene, found: &Found<'_>) -> Result<()> {
    daemon.write_policy("lab", &policy(scene.at, "enforce", BLOCK_TUNNELS))?;
    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", "lab"]).map(drop)
}

/// Whether a connection takes what is written.
fn is_open(talker: &mut Resident, index: usize) -> Result<bool> {
    let said = talker.say(index, "something")?;
    Ok(said.errno == 0 && !said.broken)
}

/// A name that was blocked stays so without a daemon and under the next one; what it had opened is closed.
#[test]
fn a_blocked_name_outlives_the_daemon() -> Result<()> {
    let Served { lab, mut daemon } = Served::new()?;
    let scene = Scene::of(lab, Family::V4)?;
    let found = Found::new(&scene.lab)?;
    attach(&daemon, &scene, &found)?;
    let run = |steps: &[Step]| found.script(steps);
    let came = run(&[ask(scene.at, TUNNEL_HOST), ask(scene.at, TWIN)])?;
    ensure!(came.iter().all(Came::is_ok), "{came:?}");
    let ends = [2, 1].map(|number| SocketAddr::from((Family::V4.named(number), ALLOWED_PORT)).to_string());
    let mut talker = found.start(&["talk", &ends[0], &ends[1]])?;
    for index in [0, 1] {
        ensure!(is_open(&mut talker, index)?, "connection {index} is not open");
    }

    scene.tunnel_until(&run, &|| daemon.log_of(&found.name), "blocked")?;
    ensure!(!is_open(&mut talker, 0)?, "a connection that the name has opened lives");
    ensure!(is_open(&mut talker, 1)?, "a connection of the twin was closed");
    // What is behind it is refused because of the block, and not for want of a rule.
    let behind = SocketAddr::from((Family::V4.named(2), ALLOWED_PORT));
    let came = run(&[Step::Connect { to: behind, text: "through".to_owned() }])?;
    ensure!(!came[0].is_ok(), "{came:?}");
    let told = eventually(DEADLINE, "the refusal is told", || {
        let log = daemon.log_of(&found.name).map_err(|error| error.to_string())?;
        let is_it = |line: &&Value| line["kind"] == "egress_denied" && line["evidence"]["hook"] == "connect";
        log.iter().find(is_it).cloned().ok_or(format!("{log:#?}"))
    })?;
    ensure!(told["destination"]["domain"] == TUNNEL_HOST, "{told:#}");
    let why = told["reason"].as_str().context("no reason")?;
    ensure!(why.contains(TUNNEL) && why.contains("dns_tunnel") && why.contains("agentnet unblock"), "{why}");
    ensure!(!why.contains("no rule") && !why.contains("[[egress.allow]]"), "{why}");
    daemon.kill()?;
    ensure!(!scene.arrives(&run)?, "without a daemon");
    scene.ensure_twin(&run)?;
    daemon.start()?;
    ensure!(!scene.arrives(&run)?, "under the next daemon");
    scene.ensure_twin(&run)?;
    // A policy that is read anew does not open it either.
    let fresh =
        policy(scene.at, "enforce", BLOCK_TUNNELS) + "[[egress.allow]]\ndomain = \"more.example.com\"\n";
    daemon.write_policy("lab", &fresh)?;
    daemon.tell(&["reload"])?;
    ensure!(!scene.arrives(&run)?, "after a reload");
    daemon.tell(&["unblock", TUNNEL, "--agent", &found.name])?;
    ensure!(scene.arrives(&run)?, "it was taken back");
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// What an agent told whom is kept for the next daemon; if it cannot be read, that is told, and it begins anew.
#[rstest]
#[case::intact(None)]
#[case::corrupt(Some("agentnet-ledger 1 00000000\n{}"))]
fn a_ledger_is_kept(#[case] text: Option<&str>) -> Result<()> {
    let Served { lab, mut daemon } = Served::new()?;
    let scene = Scene::of(lab, Family::V4)?;
    let found = Found::new(&scene.lab)?;
    attach(&daemon, &scene, &found)?;
    scene.ensure_twin(&|steps| found.script(steps))?;
    let file = daemon.directory("state").join("agents").join(format!("{}.ledger", found.name));
    ensure!(daemon.end(Signal::TERM)?.success());
    ensure!(fs::read(&file)?.starts_with(b"agentnet-ledger"), "no ledger");
    if let Some(text) = text {
        fs::write(&file, text)?;
    }
    daemon.start()?;
    let status = daemon.status_of(&found.name)?.to_string();
    ensure!(status.contains("counts as new") == text.is_some(), "{status}");
    scene.ensure_twin(&|steps| found.script(steps))?;
    daemon.tell(&["detach", &found.name])?;
    ensure!(!file.exists(), "it is kept for nobody");
    daemon.ensure_no_agents()
}

/// Who is found when there is no room for another block is put into quarantine: that always fits.
#[test]
fn who_leaves_no_room_for_a_block_is_quarantined() -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let scene = Scene::of(lab, Family::V4)?;
    let found = Found::new(&scene.lab)?;
    attach(&daemon, &scene, &found)?;
    let run = |steps: &[Step]| found.script(steps);
    let mut blocks = 0_u8;
    while daemon.ask(&["block", &format!("203.0.113.{blocks}"), "--agent", &found.name])?.status.success() {
        blocks += 1;
        ensure!(blocks < 200, "there is room for all of them");
    }
    scene.ensure_twin(&run)?;
    let alert = scene.tunnel_until(&run, &|| daemon.log_of(&found.name), "quarantined")?;
    ensure!(alert["severity"] == "critical", "{alert:#}");
    ensure!(!scene.arrives(&run)?, "it goes on");
    let status = daemon.status_of(&found.name)?;
    ensure!(status["engine"]["quarantined"] == true, "{status:#}");
    daemon.tell(&["release", &found.name])?;
    scene.ensure_twin(&run)?;
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
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
    let came = script(&lab, Some(&running.cgroup), &[say(to, plain), say(other, plain)])?;
    ensure!(came.iter().all(Came::is_ok), "{came:?}");
    ensure!(alerts(&|| agent.log(), "secret")?.is_empty(), "nothing was said yet");

    let leak = format!("GET /?aws_access_key_id={} HTTP/1.1\r\nHost: docs.example.com\r\n\r\n", token());
    script(&lab, Some(&running.cgroup), &[say(to, &leak)])?;
    let alert = eventually(DEADLINE, "an alert about the secret", || {
        let seen = alerts(&|| agent.log(), "secret").map_err(|error| error.to_string())?;
        seen.first().cloned().ok_or_else(|| "none".to_owned())
    })?;
    ensure!(alert["action"] == action, "{alert:#}");
    ensure!(alert["destination"]["ip"] == to.ip().to_string(), "{alert:#}");
    ensure!(!alert.to_string().contains(&token()), "the alert has the secret: {alert:#}");

    for (to, passes) in [(to, same_address), (other, other_address)] {
        let before = lab.servers.tally(to, Transport::Tcp);
        let came = script(&lab, Some(&running.cgroup), &[say(to, plain)])?;
        ensure!(came[0].is_ok() == passes, "{to}: {came:?}");
        let arrived = lab.servers.tally(to, Transport::Tcp).bytes - before.bytes;
        ensure!((arrived > 0) == passes, "{arrived} bytes arrived at {to}");
    }
    ensure!(running.finish()?.status.success());
    Ok(())
}
