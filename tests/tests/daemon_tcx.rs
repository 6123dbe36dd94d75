//! Attached containers behind a daemon: the second line is there, stays without a daemon, and is told where it is not.

use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        container::{configure, ensure_all_ok, policy},
        daemon::{Daemon, Served},
        found::Found,
        net::{BRIDGE, CONTAINER_PORT, Family, WIRE_PORT},
        netlink::Netlink,
        netns::Namespace,
        policy::Policy,
    },
    probe::Request,
};
use anyhow::{Result, ensure};
use rstest::rstest;
use serde_json::{Value, json};

/// What no hook of a cgroup sees.
const FRAMES: [&str; 2] = ["packet-send", "tun-forward"];

fn attach(daemon: &Daemon, found: &Found<'_>) -> Result<()> {
    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", "lab"]).map(drop)
}

/// Sends frames to both endpoints, from within the agent, and says how many of the forbidden ones arrived. The
/// allowed ones must. Markers are told apart by `when`.
fn forbidden_frames(lab: &Lab, found: &Found<'_>, ops: &[&str], family: Family, when: &str) -> Result<usize> {
    let marked = |to| {
        let of = move |op: &&str| {
            let mut request = Request::new(op, to);
            request.args.marker.push_str(when);
            request
        };
        ops.iter().map(of).collect::<Vec<_>>()
    };
    let (forbidden, allowed) = (marked(family.denied_endpoint()), marked(family.allowed_endpoint()));
    found.attempt(&forbidden)?;
    ensure_all_ok(&found.attempt(&allowed)?)?;
    lab.fence()?;
    for request in &allowed {
        let arrived = lab.sniffer.carrying(request.args.secret());
        ensure!(arrived > 0, "{when}: {} to an allowed address did not arrive", request.op);
    }
    Ok(forbidden.iter().map(|request| lab.sniffer.carrying(request.args.secret())).sum())
}

fn guarded(status: &Value) -> &Value {
    &status["engine"]["interfaces"]["containers"]
}

/// From attachment to detachment, over the daemon's death.
#[rstest]
fn frames_of_a_container_are_judged(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let (Served { lab, mut daemon }, _host) = Served::with_container()?;
    daemon.write_policy("lab", &policy().text())?;
    let found = Found::new(&lab)?;
    // A container has a process, by which its network namespace is known.
    let _resident = found.start(&["talk", &family.allowed_endpoint().to_string()])?;
    ensure!(
        forbidden_frames(&lab, &found, &FRAMES, family, "-before")? >= FRAMES.len(),
        "the frames prove nothing"
    );

    attach(&daemon, &found)?;
    let status = daemon.status_of(&found.name)?;
    ensure!(status["state"] == "enforced" && *guarded(&status) == json!([CONTAINER_PORT]), "{status}");
    ensure!(status["engine"]["interfaces"]["open"] == json!([]), "{status}");
    ensure!(forbidden_frames(&lab, &found, &FRAMES, family, "-attached")? == 0, "a frame left");
    daemon.kill()?;
    ensure!(forbidden_frames(&lab, &found, &FRAMES, family, "-alone")? == 0, "a frame left without a daemon");
    let pinned = daemon.pinned_interfaces()?;
    daemon.start()?;
    ensure!(
        forbidden_frames(&lab, &found, &FRAMES, family, "-adopted")? == 0,
        "a frame left after a restart"
    );
    let status = daemon.status_of(&found.name)?;
    ensure!(status["state"] == "enforced" && *guarded(&status) == json!([CONTAINER_PORT]), "{status}");
    ensure!(pinned.len() == 2 && daemon.pinned_interfaces()? == pinned, "{pinned:?}");

    // Another policy is one at the interfaces as well.
    daemon.write_policy(
        "lab",
        &policy()
            .allow(&family.denied().to_string(), &[family.denied_endpoint().port()], &["tcp", "udp"])
            .text(),
    )?;
    daemon.tell(&["reload"])?;
    ensure!(forbidden_frames(&lab, &found, &FRAMES, family, "-opened")? > 0, "the new policy opens nothing");
    daemon.write_policy("lab", &policy().text())?;
    daemon.tell(&["reload"])?;
    ensure!(
        forbidden_frames(&lab, &found, &FRAMES, family, "-closed")? == 0,
        "the policy of before is not in force again"
    );

    daemon.tell(&["detach", &found.name])?;
    ensure!(daemon.pinned_interfaces()?.is_empty(), "{:?}", daemon.pinned_interfaces()?);
    ensure!(
        forbidden_frames(&lab, &found, &FRAMES, family, "-after")? >= FRAMES.len(),
        "something judges still"
    );
    daemon.ensure_no_agents()
}

/// An interface that the container gets later, and one that has no end on the host.
#[test]
fn interfaces_that_come_later_are_guarded_or_told() -> Result<()> {
    const SECOND: &str = "agent1";
    const SECOND_PORT: &str = "box1";
    let family = Family::V4;
    let (Served { lab, daemon }, host) = Served::with_container()?;
    daemon.write_policy("lab", &policy().text())?;
    let found = Found::new(&lab)?;
    let _resident = found.start(&["talk", &family.allowed_endpoint().to_string()])?;
    attach(&daemon, &found)?;
    host.run(|| {
        let netlink = Netlink::open()?;
        netlink.add_veth((SECOND_PORT, [2, 0, 0, 0, 0, 8]), (SECOND, [2, 0, 0, 0, 0, 9]), lab.agent.fd())?;
        netlink.enslave(SECOND_PORT, BRIDGE)?;
        netlink.up(SECOND_PORT)
    })?;
    let both = json!([CONTAINER_PORT, SECOND_PORT]);
    eventually(DEADLINE, "the second interface is guarded", || match daemon.status_of(&found.name) {
        Ok(status) if *guarded(&status) == both && status["state"] == "enforced" => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    // By that way out alone.
    for words in [
        &["ip", "link", "set", SECOND, "up"][..],
        &["ip", "address", "add", "198.18.0.9/32", "dev", SECOND],
        &["ip", "route", "add", "198.18.0.3/32", "dev", SECOND, "src", "198.18.0.9"],
        &["ip", "route", "add", "198.18.0.2/32", "dev", SECOND, "src", "198.18.0.9"],
    ] {
        if !configure("interfaces_that_come_later", &lab.agent, words)? {
            return Ok(());
        }
    }
    ensure!(
        forbidden_frames(&lab, &found, &["tun-forward"], family, "-second")? == 0,
        "it left by the second"
    );

    host.run(|| Netlink::open()?.add_macvlan("moved0", WIRE_PORT, Some(lab.agent.fd())))
        .or_else(|_| host.run(|| Netlink::open()?.add_macvlan("moved0", BRIDGE, Some(lab.agent.fd()))))?;
    eventually(DEADLINE, "the gap is told", || {
        let log = daemon.log_of(&found.name).map_err(|error| error.to_string())?;
        let told = log.iter().any(|line| {
            line["evidence"]["state"] == "exposed" && line["reason"].to_string().contains("moved0")
        });
        if told { Ok(()) } else { Err(format!("{log:?}")) }
    })?;
    let status = daemon.status_of(&found.name)?;
    ensure!(status["state"] == "enforced", "a gap is no failure: {status}");
    ensure!(status["engine"]["interfaces"]["open"].to_string().contains("moved0"), "{status}");
    daemon.tell(&["detach", &found.name])?;
    ensure!(daemon.pinned_interfaces()?.is_empty(), "{:?}", daemon.pinned_interfaces()?);
    daemon.ensure_no_agents()
}

/// A process that appears in a container after the cgroup above it was attached.
#[test]
fn a_container_that_comes_later_is_guarded() -> Result<()> {
    let family = Family::V4;
    let (Served { lab, daemon }, _host) = Served::with_container()?;
    daemon.write_policy("lab", &policy().text())?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found)?;
    ensure!(*guarded(&daemon.status_of(&found.name)?) == json!([]), "there is no process yet");
    let below = Found::below(&lab, &found.path)?;
    let _resident = below.start(&["talk", &family.allowed_endpoint().to_string()])?;
    eventually(DEADLINE, "the container is guarded", || match daemon.status_of(&found.name) {
        Ok(status) if *guarded(&status) == json!([CONTAINER_PORT]) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    ensure!(forbidden_frames(&lab, &below, &FRAMES, family, "-later")? == 0, "a frame left");
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// A link that is taken away is a failure of enforcement, told once and mended.
#[test]
fn a_link_that_is_lost_is_told() -> Result<()> {
    let (Served { lab, daemon }, host) = Served::with_container()?;
    daemon.write_policy("lab", &policy().text())?;
    let found = Found::new(&lab)?;
    let _resident = found.start(&["talk", &Family::V4.allowed_endpoint().to_string()])?;
    attach(&daemon, &found)?;
    remove(&host, &daemon)?;
    eventually(DEADLINE, "the lost link is told", || {
        let log = daemon.log_of(&found.name).map_err(|error| error.to_string())?;
        let told = log.iter().any(|line| line["evidence"]["state"] == "inactive");
        if told { Ok(()) } else { Err(format!("{log:?}")) }
    })?;
    eventually(DEADLINE, "it is attached again", || match daemon.status_of(&found.name) {
        Ok(status) if status["state"] == "enforced" => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    ensure!(forbidden_frames(&lab, &found, &FRAMES, Family::V4, "-mended")? == 0, "a frame left");
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

fn remove(host: &Namespace, daemon: &Daemon) -> Result<()> {
    let pinned = daemon.pinned_interfaces()?;
    let mut remove = std::process::Command::new("rm");
    remove.args(&pinned);
    host.attach(&mut remove);
    ensure!(!pinned.is_empty() && remove.status()?.success(), "{pinned:?}");
    Ok(())
}

/// An agent that lives where the daemon does, whose packet sockets no hook of a cgroup sees.
#[test]
fn packet_sockets_of_an_attached_agent_on_the_host_are_refused() -> Result<()> {
    let family = Family::V4;
    let Served { lab, mut daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let found = Found::new(&lab)?;
    let _resident = found.start(&["talk", &family.allowed_endpoint().to_string()])?;
    let send = |when: &str| -> Result<usize> {
        let mut frame = Request::new("packet-send", family.denied_endpoint());
        frame.args.marker.push_str(when);
        let mut twin = Request::new("udp-sendto", family.allowed_endpoint());
        twin.args.marker.push_str(when);
        found.attempt(std::slice::from_ref(&frame))?;
        ensure_all_ok(&found.attempt(std::slice::from_ref(&twin))?)?;
        lab.fence()?;
        ensure!(lab.sniffer.carrying(twin.args.secret()) > 0, "{when}: the allowed twin did not arrive");
        Ok(lab.sniffer.carrying(frame.args.secret()))
    };
    ensure!(send("-before")? > 0, "the frame proves nothing");
    attach(&daemon, &found)?;
    let status = daemon.status_of(&found.name)?;
    let host = status["engine"]["interfaces"]["host"].as_array().map_or(0, Vec::len);
    ensure!(status["state"] == "enforced" && host >= 2, "{status}");
    ensure!(send("-attached")? == 0, "a frame left");
    daemon.kill()?;
    ensure!(send("-alone")? == 0, "a frame left without a daemon");
    daemon.start()?;
    ensure!(send("-adopted")? == 0, "a frame left after a restart");
    let status = daemon.status_of(&found.name)?;
    ensure!(status["state"] == "enforced", "{status}");
    daemon.tell(&["detach", &found.name])?;
    ensure!(daemon.pinned_interfaces()?.is_empty(), "{:?}", daemon.pinned_interfaces()?);
    ensure!(send("-after")? > 0, "something judges still");
    daemon.ensure_no_agents()
}
