//! Who may ask the daemon for what: by user and group, and nobody who is governed.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::Command,
};

use agentnet::{
    control::{
        client::Following,
        frame,
        protocol::{Follow, Reply, Request},
    },
    store::Stream,
};
use agentnet_tests::lab::{
    agent::{Agent, NOBODY},
    child::{Finished, agentnet_binary, finish, probe_binary},
    daemon::{READERS, RUNNERS, Served},
    expect::{EPERM, Expected, Said},
    found::Found,
    net::{ALLOWED_PORT, Family},
    policy::Policy,
};
use anyhow::{Context as _, Result, ensure};
use rstest::rstest;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What only root may ask for, of an agent in `found`.
fn steering<'a>(found: &'a Found<'_>) -> [Vec<&'a str>; 3] {
    [
        vec!["attach", "--agent", "mine", "--cgroup", found.arg(), "--policy", "lab"],
        vec!["detach", &found.name],
        vec!["reload"],
    ]
}

fn attached<'hosts>(served: &'hosts Served) -> Result<Found<'hosts>> {
    let Served { lab, daemon } = served;
    // With Unix sockets, or its kernel programs would be all that stands between an agent and the daemon.
    daemon.write_policy("lab", &Policy::standard().unix("any").text())?;
    let found = Found::new(lab)?;
    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", "lab"])?;
    Ok(found)
}

fn ensure_refused(finished: &Finished) -> Result<()> {
    let told = finished.stderr.contains("only root") || finished.stderr.contains("read_group");
    ensure!(!finished.status.success() && told, "not refused: {finished:?}");
    Ok(())
}

fn still_governed(found: &Found<'_>) -> Result<()> {
    found.expect(&Expected::new().case("tcp-connect", Family::V4.denied_endpoint(), EPERM).case(
        "tcp-send",
        Family::V4.allowed_endpoint(),
        Said::Ok,
    ))
}

#[rstest]
#[case::reader(&[READERS], true)]
#[case::runner(&[RUNNERS], false)]
#[case::stranger(&[], false)]
fn users_may_read_by_their_groups_and_steer_never(#[case] groups: &[u32], #[case] reads: bool) -> Result<()> {
    let served = Served::new()?;
    let found = attached(&served)?;
    let daemon = &served.daemon;
    let ask = |args: &[&str]| -> Result<Finished> { finish(daemon.command_for(NOBODY, groups, args)?, None) };
    for args in steering(&found) {
        ensure_refused(&ask(&args)?)?;
    }
    let status = ask(&["status", "--json"])?;
    ensure!(status.status.success() == reads, "{status:?}");
    ensure!(status.stdout.contains("allowed_packets") == reads, "counters of another's agent: {status:?}");
    still_governed(&found)?;
    // The twin: root may do all of that.
    ensure!(daemon.status_of(&found.name)?["engine"]["allowed_packets"].as_u64() > Some(0));
    daemon.tell(&["reload"])?;
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// Users see their own agents, and each other's not.
#[test]
fn an_agents_user_may_ask_about_it() -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let policy = agent.policy_file();
    let status_as = |user: u32, groups: &[u32]| -> Result<String> {
        Ok(finish(daemon.command_for(user, groups, &["status", "--json"])?, None)?.stdout)
    };
    let args = ["run", "--policy", policy.to_str().context("path")?, "--agent", &agent.name, "--"];
    let mut command = daemon.command_for(NOBODY, &[RUNNERS], &args)?;
    let probe = probe_binary()?;
    command.arg(probe).arg("hold").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::null()).spawn()?;
    let mut ready = [0; 8];
    child.stdout.as_mut().context("pipe")?.read_exact(&mut ready)?;
    ensure!(status_as(NOBODY, &[])?.contains("allowed_packets"), "the user was told nothing");
    let other = status_as(NOBODY - 1, &[RUNNERS])?;
    ensure!(!other.contains("allowed_packets"), "another user was told: {other}");
    drop(child.stdin.take());
    ensure!(agentnet_tests::lab::child::wait(&mut child)?.success());
    daemon.ensure_no_agents()
}

/// A process under a policy, root though it be, gets nothing but another policy on top.
#[test]
fn a_governed_root_may_only_go_deeper() -> Result<()> {
    let served = Served::new()?;
    let found = attached(&served)?;
    let (lab, daemon) = (&served.lab, &served.daemon);
    let inside = |args: &[&str]| -> Result<Finished> {
        let mut command = Command::new(agentnet_binary()?);
        command.args(args).env_remove("SUDO_UID");
        found.join(&mut command)?;
        finish(command, None)
    };
    for args in steering(&found) {
        let refused = inside(&args)?;
        ensure!(
            !refused.status.success() && refused.stderr.contains("under a policy"),
            "{args:?}: {refused:?}"
        );
    }
    let status = inside(&["status", "--json"])?;
    ensure!(!status.stdout.contains("allowed_packets"), "a governed process was told: {status:?}");
    still_governed(&found)?;

    let policy = Policy::closed().allow(&Family::V4.denied().to_string(), &[ALLOWED_PORT], &["tcp"]).allow(
        &Family::V4.allowed().to_string(),
        &[ALLOWED_PORT],
        &["tcp"],
    );
    let agent = Agent::new(lab, &policy)?;
    let table = Expected::new()
        .case("tcp-connect", Family::V4.denied_endpoint(), EPERM)
        .case("udp-sendto", Family::V4.allowed_endpoint(), EPERM)
        .case("tcp-send", Family::V4.allowed_endpoint(), Said::Ok);
    let file = agent.suite(table.requests())?;
    let (policy, probe) = (agent.policy_file(), probe_binary()?);
    let text = |path: &std::path::Path| path.to_str().map(str::to_owned).context("path");
    let nested = inside(&[
        "run",
        "--policy",
        &text(&policy)?,
        "--agent",
        &agent.name,
        "--",
        &text(&probe)?,
        "suite",
        &text(&file)?,
    ])?;
    table.check(&nested.reports()?).with_context(|| format!("{nested:?}"))?;
    lab.ensure_nothing_reached(Family::V4.denied())?;
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// A path that calls itself a name is a file that the daemon would open for somebody who may not.
#[test]
fn the_daemon_opens_no_file_for_a_user() -> Result<()> {
    use agentnet::agent::target::Spec;
    use agentnet::control::protocol::{Attach, PolicySource};
    let Served { lab, daemon } = Served::new()?;
    let found = Found::new(&lab)?;
    let secret = daemon.directory("state").join("secret.toml");
    std::fs::write(&secret, "TOP-SECRET")?;
    for name in [secret.to_str().context("path")?, "../../../var/lib/agentnet/secret", "/etc/shadow"] {
        let stream = UnixStream::connect(daemon.socket())?;
        let policy =
            PolicySource { name: Some(name.to_owned()), file: "p".to_owned(), text: "broken =".to_owned() };
        let attach = Attach {
            agent: "a".parse()?,
            target: Spec::Cgroup(found.path.clone()),
            policy: Some(policy),
            audit: false,
            keep_established: false,
            whole_cgroup: false,
        };
        frame::write(&stream, &Request::Attach(attach))?;
        let Some(Reply::Error(failure)) = frame::read(&stream)? else { anyhow::bail!("attached by {name}") };
        ensure!(!failure.message.contains("SECRET") && !failure.message.contains("root:"), "{failure:?}");
    }
    daemon.ensure_no_agents()
}

/// Clients that say nonsense, too much, too little or nothing are in nobody's way.
#[test]
fn hostile_clients_do_no_harm() -> Result<()> {
    let served = Served::new()?;
    let found = attached(&served)?;
    let daemon = &served.daemon;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    // What does not say how long it is, announces more than fits, is no JSON, or stops in the middle.
    let first_words: [&[u8]; 6] =
        [b"", b"\x05", b"\xff\xff\xff\xff", b"\x02\0\0\0{}", b"\x04\0\0\0null", b"\x00\x00\x40\x00[[[["];
    let mut held = Vec::new();
    for number in 0..1500_usize {
        let mut stream = UnixStream::connect(daemon.socket())?;
        if number < 500 {
            // It may have been answered and closed already.
            let _ = stream.write_all(first_words[number % first_words.len()]);
        }
        held.push(stream);
        if number % 250 == 0 {
            ensure!(daemon.status_of(&found.name)?["state"] == "enforced");
        }
    }
    still_governed(&found)?;
    ensure!(daemon.status_of(&found.name)?["state"] == "enforced");
    drop(held);
    daemon.tell(&["detach", &found.name])?;
    ensure!(!daemon.said().contains("panicked"), "{}", daemon.said());
    daemon.ensure_no_agents()
}

/// Alerts are told as they happen, to whoever may know.
#[test]
fn alerts_are_followed() -> Result<()> {
    let served = Served::new()?;
    let found = attached(&served)?;
    let daemon = &served.daemon;
    let follow = |what, agent: Option<&str>| -> Result<Following> {
        let agent = agent.map(str::parse).transpose()?;
        let request = Request::Follow(Follow { what, agent, min_severity: None });
        let following = Following::begin(&daemon.socket(), &request)?;
        // A follower that has not been taken in yet misses the first lines.
        let taken_in = following.next()?;
        ensure!(matches!(taken_in, Some(Reply::Done(_))), "{taken_in:?}");
        Ok(following)
    };
    let (alerts, flows) = (follow(Stream::Alerts, Some(&found.name))?, follow(Stream::Flows, None)?);
    let later = follow(Stream::Alerts, Some("later"))?;
    still_governed(&found)?;
    let next = |following: &Following, wanted: &str| -> Result<serde_json::Value> {
        match following.next()?.context("it ended")? {
            Reply::Output(output) => {
                let line = serde_json::to_value(output)?;
                ensure!(line["kind"] == wanted, "{line}");
                Ok(line)
            }
            other => anyhow::bail!("{other:?}"),
        }
    };
    ensure!(next(&alerts, "egress_denied")?["agent"] == found.name);
    ensure!(next(&flows, "flow")?["agent"] == found.name);
    daemon.tell(&["detach", &found.name])?;
    // An agent may be followed before it is there.
    daemon.tell(&["attach", "--agent", "later", "--cgroup", found.arg(), "--policy", "lab"])?;
    ensure!(next(&later, "enforcement")?["agent"] == "later");
    daemon.tell(&["detach", "later"])?;
    daemon.ensure_no_agents()
}
